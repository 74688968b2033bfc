"""What may be configured, and that every mistake is reported at once, with its fix."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pymongo
import pytest
import redis
import redis.asyncio
from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask

from flask_safesession import ConfigError, SafeSession
from flask_safesession.config.settings import SETTINGS, Settings, read_settings
from flask_safesession.model.identity import UserKey
from flask_safesession.model.policy import Limits
from flask_safesession.stores.base import Cap
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.urls import hide_password

from ..support.counting import PlainStore

MINUTE, HOUR = 60_000, 3_600_000
SECRET = "hunter2"
TELLER = {"teller": {"lifetime": "5m"}}


def problems(config: dict[Any, Any] | None = None, **overrides: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_settings(config or {}, overrides)
    return caught.value.problems


def problem(config: dict[Any, Any] | None = None, **overrides: Any) -> str:
    [only] = problems(config, **overrides)
    return only


def limits(**overrides: Any) -> Limits:
    return read_settings({}, overrides).rules.policy.default


def tier(name: str = "teller", **given: Any) -> Limits:
    settings = read_settings({}, {"expiry": "tiered", "tiers": {name: given}})
    return settings.rules.policy.tiers[name]


def by_value(*values: object) -> pytest.MarkDecorator:
    """Runs a test for each of the values, with an ID that is short and the same in every run."""
    ids = [f"{n}-{_id(value)}" for n, value in enumerate(values)]
    return pytest.mark.parametrize("value", values, ids=ids)


def _id(value: object) -> str:
    plain = isinstance(value, (str, int, float, list)) or value is None
    return ascii(value)[:20] if plain else type(value).__name__


# -- defaults and spellings ---------------------------------------------------------------------


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = read_settings({}, {})
    assert settings.store == "memory://"
    assert settings.rules.policy.kind == "sliding"
    assert settings.rules.policy.default == Limits(30 * MINUTE, 12 * HOUR, 30_000)
    assert settings.rules.policy.tiers == {}
    assert settings.rules.cap == Cap(10_000, 9_500, 100, evict=True)
    assert (settings.tier_key, settings.user_key) == ("_tier", UserKey(("_user_id", "user_id")))
    assert (settings.max_session_size, settings.purge_batch) == (64 * 1024, 200)
    assert (settings.check_interval, settings.store_timeout) == (MINUTE, 1.0)
    assert (settings.scheduler, settings.key_prefix) == (None, "safesession")


@by_value("redis://localhost", "valkey://h/1", "rediss://h:6380", "unix:///run/redis.sock")
def test_a_shared_store_has_room_for_more_and_larger_sessions(value: str) -> None:
    settings = read_settings({}, {"store": value})
    assert (settings.store, settings.rules.cap.total) == (value, 1_000_000)
    assert settings.max_session_size == 256 * 1024


def test_a_store_of_ones_own_counts_as_what_it_says_it_is() -> None:
    mine, shared = MemoryStore(), PlainStore()
    shared.shared = True
    assert read_settings({}, {"store": mine}).rules.cap.total == 10_000
    assert read_settings({}, {"store": shared}).rules.cap.total == 1_000_000
    assert read_settings({}, {"store": redis.Redis()}).rules.cap.total == 1_000_000


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        read_settings({}, {}).max_session_size = 1  # type: ignore[misc]


def test_keyword_arguments_win_over_the_config() -> None:
    config = {"SAFESESSION_IDLE_TIMEOUT": "10m", "SAFESESSION_LIFETIME": "1h"}
    policy = read_settings(config, {"idle_timeout": "20m"}).rules.policy
    assert policy.default[:2] == (20 * MINUTE, HOUR)


def test_arguments_of_init_app_win_over_those_of_the_constructor() -> None:
    app = Flask("tested")
    app.config["SAFESESSION_PURGE_BATCH"] = 1
    SafeSession(purge_batch=2, key_prefix="kept").init_app(app, purge_batch=3)
    settings = app.extensions["safesession"].settings
    assert (settings.purge_batch, settings.key_prefix) == (3, "kept")


def test_a_wrong_value_that_is_overridden_is_nobodys_problem() -> None:
    settings = read_settings({"SAFESESSION_PURGE_BATCH": "x"}, {"purge_batch": 5})
    assert settings.purge_batch == 5


@by_value(600, 600.0, "600", "600s", "10m", "10 m", timedelta(minutes=10))
def test_a_duration_may_be_spelt_in_many_ways(value: object) -> None:
    assert limits(idle_timeout=value).idle == 10 * MINUTE


def test_settings_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "IDLE_TIMEOUT": "600",
        "LIFETIME": "1h30m",
        "EXPIRY": "tiered",
        "TIERS": json.dumps({"admin": {"idle_timeout": "5m", "lifetime": 3600}}),
        "TIERS__teller__lifetime": "5m",
        "USER_KEY": '["uid", "user_id"]',
        "MAX_SESSIONS": "5000",
        "MAX_SESSION_SIZE": '"4096"',
        "CHECK_INTERVAL": "null",
        "STORE_TIMEOUT": "0.25",
        "STORE": "redis://localhost:6379/3",
        "WHEN_FULL": "reject",
        "TOUCH_INTERVAL": "0",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"FLASK_SAFESESSION_{name}", value)
    app = Flask("tested")
    app.config.from_prefixed_env()
    settings = read_settings(app.config, {})
    assert settings.rules.policy.default == Limits(10 * MINUTE, 90 * MINUTE, 0)
    assert settings.rules.policy.tiers == {
        "admin": Limits(5 * MINUTE, HOUR, 0),
        "teller": Limits(5 * MINUTE, 5 * MINUTE, 0),
    }
    assert settings.user_key == UserKey(("uid", "user_id"))
    assert settings.rules.cap == Cap(5000, 4750, 100, evict=False)
    assert (settings.max_session_size, settings.check_interval, settings.store_timeout) == (
        4096,
        None,
        0.25,
    )
    assert settings.store == "redis://localhost:6379/3"


# -- expiry -------------------------------------------------------------------------------------


def test_a_fixed_session_has_no_idle_timeout() -> None:
    assert limits(expiry="fixed", lifetime="5m")[:2] == (5 * MINUTE, 5 * MINUTE)
    assert limits(expiry="fixed", lifetime="5m", idle_timeout="1m")[:2] == (5 * MINUTE, 5 * MINUTE)


def test_a_default_idle_timeout_gives_way_to_a_shorter_lifetime() -> None:
    assert limits(lifetime="10m")[:2] == (10 * MINUTE, 10 * MINUTE)


def test_a_tier_with_a_lifetime_only_is_fixed() -> None:
    assert tier(lifetime="5m")[:2] == (5 * MINUTE, 5 * MINUTE)


def test_a_tier_with_an_idle_timeout_only_has_the_usual_lifetime() -> None:
    assert tier(idle_timeout="5m")[:2] == (5 * MINUTE, 12 * HOUR)


def test_tiers_keep_the_order_of_their_configuration() -> None:
    tiers = {name: {"lifetime": "5m"} for name in ("z", "anonymous", "a")}
    policy = read_settings({}, {"expiry": "tiered", "tiers": tiers}).rules.policy
    assert list(policy.tiers) == ["z", "anonymous", "a"]


@pytest.mark.parametrize(
    ("idle", "touch"), [("30m", 30_000), ("60s", 1000), ("10h", MINUTE), ("59ms", 0)]
)
def test_the_touch_interval_is_a_sixtieth_and_a_minute_at_most(idle: str, touch: int) -> None:
    assert limits(idle_timeout=idle).touch == touch


@by_value(0, 0.0, "0", "0s", "0ms", "0m", " 0 ", timedelta(0))
def test_a_touch_interval_of_nothing_slides_every_time(value: object) -> None:
    assert limits(touch_interval=value).touch == 0


def test_a_touch_interval_holds_for_every_tier() -> None:
    tiers = {"a": {"idle_timeout": "5m"}, "b": {"lifetime": "1h"}}
    overrides = {"expiry": "tiered", "tiers": tiers, "touch_interval": "2s"}
    policy = read_settings({}, overrides).rules.policy
    assert {given.touch for given in (policy.default, *policy.tiers.values())} == {2000}


# -- wrong values -------------------------------------------------------------------------------

NO_DURATION: tuple[Any, ...] = (
    *("", "soon", "1y", "-5m", "1e3", b"10m", True, Decimal(5), [5], {5}, {"m": 5}, object()),
    *(0, -1, "0", 1e-9, math.nan, math.inf, 1e308, 10**400, "9" * 400, "3651d", timedelta.max),
)


@pytest.mark.parametrize("name", ["IDLE_TIMEOUT", "LIFETIME", "CHECK_INTERVAL", "STORE_TIMEOUT"])
@by_value(*NO_DURATION)
def test_a_wrong_duration_is_named_with_its_value_and_mend(name: str, value: object) -> None:
    only = problem({f"SAFESESSION_{name}": value})
    assert only.startswith(f"SAFESESSION_{name} is {value!r}: give a duration")
    assert "write seconds" in only or "millisecond" in only or "ten years" in only


@pytest.mark.parametrize("name", ["IDLE_TIMEOUT", "LIFETIME", "STORE_TIMEOUT"])
def test_only_the_check_interval_may_be_none(name: str) -> None:
    assert read_settings({"SAFESESSION_CHECK_INTERVAL": None}, {}).check_interval is None
    assert problem({f"SAFESESSION_{name}": None}).startswith(f"SAFESESSION_{name} is None: give")


@by_value(*(value for value in NO_DURATION if value not in (0, "0")), False)
def test_a_wrong_touch_interval_is_named_once_however_many_tiers_there_are(value: object) -> None:
    tiers = {"a": {"lifetime": "1h"}, "b": {"lifetime": "2h"}}
    only = problem(expiry="tiered", tiers=tiers, touch_interval=value)
    assert only.startswith(f"SAFESESSION_TOUCH_INTERVAL is {value!r}: give a duration (")


@pytest.mark.parametrize(
    "name", ["MAX_SESSIONS", "MAX_SESSIONS_PER_USER", "MAX_SESSION_SIZE", "PURGE_BATCH"]
)
@by_value(
    *(0, -1, 1.5, 1e6, math.nan, "x", "", "1.5", b"5", True, [], {}, {5}, Decimal(5)),
    *("9" * 5000, 2**63),
)
def test_a_wrong_number_is_named_with_its_value_and_mend(name: str, value: object) -> None:
    only = problem({f"SAFESESSION_{name}": value})
    assert only.startswith(f"SAFESESSION_{name} is {value!r}: give a whole number above zero")


@by_value(1, "1")
def test_a_cap_of_one_leaves_no_room_for_a_login(value: object) -> None:
    start = f"SAFESESSION_MAX_SESSIONS is {value!r}: give 2 at least"
    assert problem(max_sessions=value).startswith(start)


def test_a_cap_of_two_is_one_user_and_one_stranger() -> None:
    assert read_settings({}, {"max_sessions": 2}).rules.cap[:2] == (2, 1)


@by_value("Sliding", "rolling", "", None, 1, True, b"fixed", [], {}, {"fixed"})
def test_a_wrong_expiry_is_named_with_the_right_ones(value: object) -> None:
    expected = f"SAFESESSION_EXPIRY is {value!r}: give 'sliding', 'fixed' or 'tiered'"
    assert problem(expiry=value) == expected


@by_value("block", "", None, 1, True, [], {}, {"evict"})
def test_a_wrong_when_full_is_named_with_the_right_ones(value: object) -> None:
    assert (
        problem(when_full=value) == f"SAFESESSION_WHEN_FULL is {value!r}: give 'evict' or 'reject'"
    )


@by_value("", None, 1, b"role", [], {}, {"role"})
def test_a_wrong_tier_key_is_named(value: object) -> None:
    assert problem(tier_key=value) == f"SAFESESSION_TIER_KEY is {value!r}: give a name"


@by_value("", None, 1, b"uid", [], (), {}, ["uid", ""], ["uid", 5], [["uid"]], object())
def test_a_wrong_user_key_is_named(value: object) -> None:
    assert problem(user_key=value).startswith(
        f"SAFESESSION_USER_KEY is {value!r}: give the session"
    )


@by_value({"_user_id", "user_id"}, frozenset({"uid", "user_id"}))
def test_user_keys_without_an_order_are_refused(value: object) -> None:
    """They are looked at in order: with a set it would be another one in every process."""
    assert problem(user_key=value).startswith("SAFESESSION_USER_KEY is ")


@by_value(
    "", None, 5, b"app", "a b", " a", "a{b", "a}b", "a\n", "a\x00", "\x7f", "\ud800", "a" * 101, []
)
def test_a_wrong_key_prefix_is_named(value: object) -> None:
    start = f"SAFESESSION_KEY_PREFIX is {value!r}: give a text without braces"
    assert problem(key_prefix=value).startswith(start)


@by_value("shop", "shop:eu-1", "é", "*?[", "a" * 100)
def test_a_key_prefix_may_be_any_plain_text(value: str) -> None:
    assert read_settings({}, {"key_prefix": value}).key_prefix == value


@by_value(False, 5, "background", object, [], {})
def test_a_wrong_scheduler_is_named(value: object) -> None:
    start = f"SAFESESSION_SCHEDULER is {value!r}: give an APScheduler"
    assert problem(scheduler=value).startswith(start)


def test_a_scheduler_may_be_wrapped_by_another_extension() -> None:
    scheduler = BackgroundScheduler()
    for given in (scheduler, SimpleNamespace(scheduler=scheduler)):
        assert read_settings({}, {"scheduler": given}).scheduler is scheduler


# -- tiers --------------------------------------------------------------------------------------


def tier_problem(tiers: object) -> str:
    return problem(expiry="tiered", tiers=tiers)


@by_value(None, [], "admin", {"admin"}, 5, [("admin", {"lifetime": 5})])
def test_wrong_tiers_are_named(value: object) -> None:
    assert tier_problem(value).startswith(f"SAFESESSION_TIERS is {value!r}: give a dict of names")


@by_value(
    None,
    {},
    5,
    "5m",
    ["lifetime"],
    {"idle": 5},
    {"lifetime": 5, "IDLE_TIMEOUT": 5},
    {5: 5},
    {None: 5},
)
def test_a_tier_without_limits_is_named(value: object) -> None:
    start = f"SAFESESSION_TIERS['admin'] is {value!r}: give {{\"idle_timeout\": …"
    assert tier_problem({"admin": value}).startswith(start)


@pytest.mark.parametrize("limit", ["idle_timeout", "lifetime"])
@by_value(None, *NO_DURATION)
def test_a_wrong_limit_of_a_tier_is_named(limit: str, value: object) -> None:
    only = tier_problem({"admin": {limit: value}})
    start = f"SAFESESSION_TIERS['admin'][{limit!r}] is {value!r}: give a duration ("
    assert only.startswith(start)


@by_value("", "a b", "é", "a\n", "a/b", "a" * 65, 5, None, b"a", ("a",), 1.5)
def test_a_wrong_name_of_a_tier_is_named(value: object) -> None:
    start = f"SAFESESSION_TIERS[{value!r}]: name tiers with letters"
    assert tier_problem({value: {"lifetime": 5}}).startswith(start)


def test_tiers_want_the_tiered_policy() -> None:
    for kind in ("sliding", "fixed"):
        only = problem(expiry=kind, tiers=TELLER)
        assert (
            only
            == f"SAFESESSION_TIERS is set, but SAFESESSION_EXPIRY is {kind!r}: set it to 'tiered'"
        )


def test_the_tiered_policy_wants_tiers() -> None:
    assert (
        problem(expiry="tiered") == "SAFESESSION_EXPIRY is 'tiered', but SAFESESSION_TIERS is empty"
    )


# -- contradictions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        pytest.param(
            "SAFESESSION_IDLE_TIMEOUT is '13h', longer than SAFESESSION_LIFETIME ('12h' by"
            " default)",
            {"idle_timeout": "13h"},
            id="default-lifetime",
        ),
        pytest.param(
            "SAFESESSION_IDLE_TIMEOUT is '6m', longer than SAFESESSION_LIFETIME (300)",
            {"idle_timeout": "6m", "lifetime": 300},
            id="both-given",
        ),
        pytest.param(
            "SAFESESSION_TIERS['a']['idle_timeout'] is '2h', longer than"
            " SAFESESSION_TIERS['a']['lifetime'] ('1h')",
            {"expiry": "tiered", "tiers": {"a": {"idle_timeout": "2h", "lifetime": "1h"}}},
            id="tier",
        ),
        pytest.param(
            "SAFESESSION_TIERS['a']['idle_timeout'] is '13h', longer than SAFESESSION_LIFETIME"
            " ('12h' by default)",
            {"expiry": "tiered", "tiers": {"a": {"idle_timeout": "13h"}}},
            id="tier-with-the-default-lifetime",
        ),
    ],
)
def test_an_idle_timeout_over_the_lifetime_is_a_contradiction(
    words: str, overrides: dict[str, Any]
) -> None:
    assert problem(**overrides) == f"{words}: shorten one or extend the other"


def test_equal_limits_are_none() -> None:
    assert limits(idle_timeout="1h", lifetime="1h")[:2] == (HOUR, HOUR)


@by_value("30m", "31m", 1800)
def test_a_touch_interval_not_under_the_idle_timeout_is_a_contradiction(value: object) -> None:
    only = problem(touch_interval=value)
    assert only.startswith(f"SAFESESSION_TOUCH_INTERVAL is {value!r}: it must be shorter than")
    assert "than SAFESESSION_IDLE_TIMEOUT ('30m' by default), otherwise" in only


def test_a_touch_interval_is_held_against_every_tier() -> None:
    tiers = {
        "slow": {"lifetime": "1h"},
        "quick": {"idle_timeout": "10s"},
        "brief": {"lifetime": 15},
    }
    only = problem(expiry="tiered", tiers=tiers, touch_interval="20s")
    assert only.startswith(
        "SAFESESSION_TOUCH_INTERVAL is '20s': it must be shorter than"
        " SAFESESSION_TIERS['quick']['idle_timeout'] ('10s')"
    )


@by_value("13h", 46_800, timedelta(hours=13))
def test_a_duration_is_repeated_as_it_was_written(value: object) -> None:
    assert problem(idle_timeout=value).startswith(f"SAFESESSION_IDLE_TIMEOUT is {value!r}, ")


def test_a_touch_interval_over_a_lifetime_that_is_the_idle_time_names_the_lifetime() -> None:
    only = problem(expiry="fixed", lifetime="5m", touch_interval="6m")
    assert "must be shorter than SAFESESSION_LIFETIME ('5m')" in only


def test_a_host_cookie_as_it_should_be_is_none() -> None:
    config = {"SESSION_COOKIE_NAME": "__Host-s", "SESSION_COOKIE_SECURE": True}
    read_settings({**config, "SESSION_COOKIE_PATH": "/", "APPLICATION_ROOT": "/app"}, {})


# -- the store ----------------------------------------------------------------------------------


@by_value(
    *(
        "",
        "unix",
        "memory:///x",
        "memory://a b",
        f"memory://{'x' * 101}",
        "memory://?per_process=no",
        "memory://?per_process=yes&x=1",
        "memory://a b?per_process=yes",
        "http://h",
        "ftp://h",
        "h",
        "two words.",
        "thing",
    ),
    *(None, 0, False, b"redis://h", [], {}, object),
)
def test_what_is_no_store_is_named(value: object) -> None:
    assert problem(store=value).startswith(f"SAFESESSION_STORE is {value!r}: give ")


MEANT = {
    "redis": "redis://localhost:6379/0",
    "valkeys": "valkeys://localhost:6379/0",
    "Redis": "redis://localhost:6379/0",
    "localhost": "redis://localhost:6379/0",
    "localhost:6379": "redis://localhost:6379/0",
    "redis:6379": "redis://redis:6379/0",
    "127.0.0.1:6380/2": "redis://127.0.0.1:6380/2",
    "[::1]:6379": "redis://[::1]:6379/0",
    "cache.example.org": "redis://cache.example.org:6379/0",
    "redis:/h": "redis://h",
    "redis:localhost": "redis://localhost",
    "redis//h:1": "redis://h:1",
    "REDIS://h": "redis://h",
    "redi://h": "redis://h",
    "redis-cluster://h": "redis+cluster://h",
    "/run/redis.sock": "unix:///run/redis.sock",
    "unix:/run/redis.sock": "unix:///run/redis.sock",
    "postgresq://h/d": "postgresql://h/d",
    "mysql": "mysql://user@localhost/database",
    "mongodb": "mongodb://localhost/?replicaSet=rs0",
    "sessions.db": "sqlite:///sessions.db",
    "data/s.sqlite3": "sqlite:///data/s.sqlite3",
    "/var/lib/s.db": "sqlite:////var/lib/s.db",
    "MySQL://h/d": "mysql://h/d",
    "memory": "memory://",
    "memory:": "memory://",
    "Memory:///": "memory://",
}


@pytest.mark.parametrize(
    ("given", "near"),
    {
        "file:///var/sessions": "the nearest store is 'sqlite://', one file on this machine",
        "cachelib": "the nearest store is 'sqlite://', one file on this machine",
        "dynamodb://table": "the nearest stores are postgresql:// and mysql://",
        "dynamo": "the nearest stores are postgresql:// and mysql://",
        "postgresql+psycopg2://h/d": "leave out the driver: write postgresql://",
        "sqlite+pysqlite:///x.db": "leave out the driver: write sqlite://",
        "pg://h/d": "write postgresql://",
        "sqlalchemy": "give Flask-SQLAlchemy's db itself, or a URL of postgresql://, mysql:// or"
        " sqlite://",
        "simplecache": "the nearest store is 'memory://'",
    }.items(),
)
def test_a_store_that_does_not_exist_is_answered_with_the_nearest_one(
    given: str, near: str
) -> None:
    assert problem(store=given) == f"SAFESESSION_STORE is {given!r}: {near}"


@pytest.mark.parametrize(("given", "meant"), MEANT.items(), ids=MEANT)
def test_what_is_nearly_a_url_is_answered_with_the_one_that_is_meant(
    given: str, meant: str
) -> None:
    assert problem(store=given) == f"SAFESESSION_STORE is {given!r}: did you mean {meant}?"
    assert read_settings({}, {"store": meant}).store == meant


@by_value(
    *("redis://h:abc/0", "redis://:pa/ss@h:6379", "redis://[::1", "redis://h:99999"),
    *("redis://h?socket_timeout=abc", "unix:///run/redis.sock?db=abc", "redis://h?db=x"),
)
def test_a_url_that_cannot_be_read_is_a_problem_like_the_others(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SafeSession(Flask("tested"), store=value)
    assert any("SAFESESSION_STORE" in text for text in caught.value.problems)


@by_value(MemoryStore, redis.Redis)
def test_a_class_is_no_store(value: object) -> None:
    """A call was forgotten; without this, every request would fail."""
    with pytest.raises(ConfigError, match="SAFESESSION_STORE"):
        SafeSession(Flask("tested"), store=value)


def test_pymongos_client_is_no_store() -> None:
    """Whatever it is asked for, it has."""
    client: Any = pymongo.MongoClient(connect=False)
    for given in (client, client["sessions"]):
        assert "give a URL, a Store, Flask-SQLAlchemy's db, " in problem(store=given)


def test_a_client_that_cannot_be_used_safely_is_refused() -> None:
    for client in (redis.asyncio.Redis(), SimpleNamespace(execute_command=None)):
        with pytest.raises(ConfigError, match="SAFESESSION_STORE is a "):
            SafeSession(Flask("tested"), store=client)


@by_value("postgress", "postgresq", "mysq", "mongodbb", "redi")
def test_of_a_url_with_a_password_only_the_scheme_is_guessed(value: str) -> None:
    said = problem(store=f"{value}://user:{SECRET}@h/d")
    assert re.fullmatch(r".*: did you mean (postgres|postgresql|mysql|mongodb|redis)://\?", said)
    assert SECRET not in said


SPLIT = ("@", "/", "?", "#", "%", "%4", "@/", "?@", "/?", "#/")


@pytest.mark.parametrize("split", SPLIT)
@by_value("postgresql", "mysql")
def test_no_part_of_a_password_that_is_not_encoded_is_told(value: str, split: str) -> None:
    """A driver would take some of it for the server, the database or a parameter, and say so."""
    url = f"{value}://user:{SECRET}{split}{SECRET}@127.0.0.1:1/d"
    said = problem(store=url)
    assert SECRET not in said
    assert said.endswith("as %40, %3A, %2F, %3F, %23 and %25")
    with pytest.raises(ConfigError) as caught:
        SafeSession(Flask("tested"), adopt=[f"flask-session+{url}"])
    assert SECRET not in str(caught.value)


def test_a_password_without_a_host_is_not_told() -> None:
    for scheme in ("postgresql", "mysql"):
        said = problem(store=f"{scheme}://user:{SECRET}/d")
        assert SECRET not in said
        assert "give the server as host or host:port" in said


LEAKY = (
    f"redi://:{SECRET}@h",
    f"redi://:{SECRET}",
    f"redi+sentinel://user:{SECRET}/sessions",
    f"redi://user:{SECRET}@h:6379/0",
    f"REDIS://:{SECRET}@h",
    f"redi://:a@{SECRET}@h",
    f"redi://:/{SECRET}@h",
    f"redi://:#{SECRET}@h",
    f"redi://:?{SECRET}@h",
    f"redi://:\t{SECRET}@h",
    f"redi://:{SECRET}@[::1",
    f"user:{SECRET}@h:6379",
    f":{SECRET}@h:6379",
    f"redis:/:{SECRET}@h",
    f"redi://h?password={SECRET}",
    f"redi://h/0?db=1&password={SECRET}&x=1",
    f"redi://h?ssl_password={SECRET}",
    f"redi://h?PASSWORD={SECRET}",
)


@by_value(*LEAKY)
def test_a_password_in_a_url_is_hidden(value: str) -> None:
    assert SECRET not in hide_password(value)
    assert SECRET not in "".join(problems(store=value))


@by_value(
    f"redis://:{SECRET}@h".encode(), {"url": f"redis://:{SECRET}@h"}, [f"redis://:{SECRET}@h"]
)
def test_a_password_in_what_is_no_url_is_hidden_too(value: object) -> None:
    assert SECRET not in problem(store=value)


@by_value(
    f"redis://:{SECRET}/x@h", f"redis://:{SECRET}@h:x", f"redis://:x@h?password={SECRET}&db=x"
)
def test_a_password_in_a_url_that_cannot_be_read_is_hidden(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SafeSession(Flask("tested"), store=value)
    assert SECRET not in str(caught.value)


def test_a_password_is_not_in_the_text_of_the_settings() -> None:
    """They are a local variable of every traceback that an error tracker collects."""
    assert SECRET not in repr(read_settings({}, {"store": f"redis://:{SECRET}@h"}))


def test_what_is_not_secret_stays_readable() -> None:
    assert hide_password(f"redis://app:{SECRET}@h:6379/2") == "redis://app:***@h:6379/2"
    for url in (
        "redis://h:6379/2?db=1",
        "redis+cluster://a:1,b:2",
        "redis://[::1]:6379",
        "redis://h",
        "postgresql://shop@h:5432/db",
    ):
        assert hide_password(url) == url


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("IDLE_TIMOUT", "IDLE_TIMEOUT"),
        ("IDLETIMEOUT", "IDLE_TIMEOUT"),
        ("LIFE_TIME", "LIFETIME"),
        ("TIER", "TIERS"),
        ("STORES", "STORE"),
        ("USER_KEYS", "USER_KEY"),
        ("MAX_SESSION", "MAX_SESSIONS"),
        ("MAX_SESSION_PER_USER", "MAX_SESSIONS_PER_USER"),
        ("PURGE_BATCHES", "PURGE_BATCH"),
        ("WHENFULL", "WHEN_FULL"),
    ],
)
def test_a_key_that_is_nearly_one_is_a_problem(wrong: str, right: str) -> None:
    start = f"SAFESESSION_{wrong} is not a setting: did you mean SAFESESSION_{right}?"
    assert problem({f"SAFESESSION_{wrong}": "x"}) == start


def test_an_argument_that_is_nearly_one_is_a_problem() -> None:
    only = problem(idle_timout="10m")
    assert "did you mean" in only
    assert "idle_timeout" in only.lower()


@by_value("COLOUR", "DEBUG", "TEST", "ENV", "REGION", "THEME", "FOO", "BACKEND", "SECRET")
def test_a_key_that_resembles_none_is_a_warning_in_the_log_only(
    value: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("tested")
    app.config[f"SAFESESSION_{value}"] = "x"
    SafeSession(app)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"SAFESESSION_{value} is not a setting of SafeSession"


@pytest.mark.parametrize(
    ("wrong", "flasks"),
    [
        ("SECRET_KEY", "SECRET_KEY"),
        ("SECRET_KEY_FALLBACKS", "SECRET_KEY_FALLBACKS"),
        ("SESSION_COOKIE_NAME", "SESSION_COOKIE_NAME"),
        ("COOKIE_SECURE", "SESSION_COOKIE_SECURE"),
        ("PERMANENT_SESSION_LIFETIME", "PERMANENT_SESSION_LIFETIME"),
    ],
)
def test_a_key_of_flasks_is_a_problem_that_names_it(wrong: str, flasks: str) -> None:
    words = f'is not a setting: {flasks} is Flask\'s, set app.config["{flasks}"]'
    assert problem({f"SAFESESSION_{wrong}": "x"}) == f"SAFESESSION_{wrong} {words}"
    argument: dict[str, Any] = {wrong.lower(): "x"}
    assert problem(**argument) == f"the argument {wrong.lower()} {words}"


@by_value("redis://localhost", "app", 5, Flask, {"idle_timeout": "5m"})
def test_what_is_no_flask_app_is_refused_with_what_is_expected(value: Any) -> None:
    for make in (SafeSession, SafeSession().init_app):
        with pytest.raises(TypeError, match="takes a Flask app, not an object of class") as raised:
            make(value)
        assert "SafeSession(app, store=...)" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "meaning"), [("check_interval", "job"), ("renew_interval", "renewals")]
)
@by_value(0, "0", False, timedelta(0))
def test_no_duration_is_none_and_not_nought(name: str, meaning: str, value: object) -> None:
    only = problem({}, **{name: value})
    assert only.startswith(
        f"SAFESESSION_{name.upper()} is {value!r}: give a duration, or None for no {meaning} ("
    )


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("STORE", "SCHEDULER")])
@by_value("x y", "1.5", "9" * 5000, b"x", object(), 1j, [[]])
def test_no_message_shows_what_python_says(name: str, value: object) -> None:
    with suppress(ConfigError):
        read_settings({f"SAFESESSION_{name}": value}, {})
        return
    for text in problems({f"SAFESESSION_{name}": value}):
        assert not re.search(r"literal|int\(|float|iterable|not supported|Exceeds", text), text


@by_value("colour", "foo", "backend")
def test_an_argument_that_resembles_none_is_a_problem(value: str) -> None:
    assert problem({}, **{value: 1}) == f"{value} is not an argument of SafeSession"


def test_keys_of_others_are_none_of_our_business(caplog: pytest.LogCaptureFixture) -> None:
    others: dict[Any, Any] = {
        "SESSION_TYPE": "redis",
        "SAFE": 1,
        "safesession_x": 1,
        5: 1,
        None: 1,
        b"SAFESESSION_": 1,
    }
    assert isinstance(read_settings(others, {}), Settings)
    assert not caplog.records


# -- all at once --------------------------------------------------------------------------------


def wrong_in_every_key() -> Iterator[tuple[str, Any]]:
    for name in SETTINGS:
        yield f"SAFESESSION_{name}", object()


def test_every_problem_is_reported_at_once() -> None:
    wrong = dict(wrong_in_every_key())
    found = problems({**wrong, "SESSION_COOKIE_NAME": "__Host-s", "SAFESESSION_TIER_KEYS": 1})
    for key in [*wrong, "SESSION_COOKIE_NAME", "SAFESESSION_TIER_KEYS"]:
        assert [text for text in found if text.startswith(key + " ")], key
    assert len(found) == len(set(found)) == len(wrong) + 2


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_value_is_answered_with_the_fix_of_its_setting(name: str) -> None:
    wrong = object()
    shown = "of class object" if name == "STORE_PASSWORD" else repr(wrong)
    expected = f"SAFESESSION_{name} is {shown}: {SETTINGS[name].fix}"
    assert problem({f"SAFESESSION_{name}": wrong}).startswith(expected)


def test_every_problem_stands_in_the_message_on_a_line_of_its_own() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({}, {"expiry": "x", "when_full": "y"})
    first, *lines = str(caught.value).splitlines()
    assert first == "SafeSession cannot start:"
    assert lines == [f"  - {text}" for text in caught.value.problems]
    assert len(lines) == 2


def test_what_fails_leaves_the_app_as_it_was() -> None:
    app = Flask("tested")
    before = app.session_interface
    settings: list[dict[str, Any]] = [{"expiry": "x"}, {"store": "redis://h:abc"}]
    for wrong in settings:
        with pytest.raises(ConfigError):
            SafeSession(app, **wrong)
        assert app.session_interface is before
        assert "safesession" not in app.extensions
        assert "safesession" not in app.cli.commands


def test_what_is_wrong_in_a_url_is_told_with_all_the_rest() -> None:
    with pytest.raises(ConfigError) as raised:
        read_settings({}, {"store": "redis://127.0.0.1/0?timeout=3", "lifetime": "x"})
    assert len(raised.value.problems) == 2
    assert any("timeout" in problem for problem in raised.value.problems)
