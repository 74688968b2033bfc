"""Which apps and secret keys are on a store: two mistakes that leave no trace of their own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from flask_safesession import ConfigError, SafeSession, session
from flask_safesession.admin import neighbours
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock
from flask_safesession.web.unverified import INTERVAL, Unverified

from ..support import servers

MINUTE = 60_000
OLD, NEW, OTHER = (
    "the first key, long enough",
    "the second key, long enough",
    "the third key of all",
)


class SharedStore(MemoryStore):
    """A store that several processes see: here they are apps."""

    shared = True


class Fleet:
    """Starts apps on one store as processes of their own, and turns its clock."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = FakeClock()
        self.store = SharedStore(self.clock)
        self._caplog = caplog

    def start(self, key: Any = OLD, *fallbacks: Any, name: str = "shop", **settings: Any) -> Flask:
        app = Flask(name)
        app.config.update(SECRET_KEY=key, SECRET_KEY_FALLBACKS=list(fallbacks))
        SafeSession(app, **{"store": self.store, "check_interval": None, **settings})
        return app

    def come_round(self, app: Flask) -> None:
        """A run of the purge job, a minute later."""
        self.clock.advance(MINUTE)
        state = app.extensions["safesession"]
        state.job._neighbours._next = 0.0
        state.job.run()

    def warnings(self) -> list[str]:
        """What was logged since the last time."""
        told = [one.getMessage() for one in self._caplog.records if one.levelno == logging.WARNING]
        self._caplog.clear()
        return told

    def check(self, app: Flask) -> list[str]:
        kinds = neighbours.conflicts(app, self.store, app.extensions["safesession"].settings)
        return [kind for kind, _ in kinds]


@pytest.fixture
def fleet(caplog: pytest.LogCaptureFixture) -> Fleet:
    return Fleet(caplog)


# -- secret keys --------------------------------------------------------------------------------


def test_a_secret_key_per_worker_is_reported_by_both_workers(fleet: Fleet) -> None:
    one = fleet.start(OLD)
    assert fleet.warnings() == []
    fleet.start(NEW)
    [told] = fleet.warnings()
    assert "processes of app 'shop' sign cookies with different secret keys" in told
    assert "the same SECRET_KEY" in told
    fleet.come_round(one)
    assert fleet.warnings() == [told]


def test_it_is_reported_once_by_each_process(fleet: Fleet) -> None:
    one, two = fleet.start(OLD), fleet.start(NEW)
    for _ in range(3):
        fleet.come_round(one)
        fleet.come_round(two)
    assert len(fleet.warnings()) == 2


def test_two_apps_under_one_prefix_are_named(fleet: Fleet) -> None:
    fleet.start(OLD, name="shop")
    fleet.start(NEW, name="blog", key_prefix="site")
    [told] = fleet.warnings()
    assert told.startswith("apps 'blog' and 'shop' sign cookies with different secret keys")
    assert "SAFESESSION_KEY_PREFIX 'site'" in told


def test_a_key_that_is_changed_step_by_step_is_nothing_to_report(fleet: Fleet) -> None:
    old = fleet.start(OLD)
    new = fleet.start(NEW, OLD)
    fleet.come_round(old)
    fleet.come_round(new)
    latest = fleet.start(NEW)  # the change is over, and the old key is no longer accepted
    fleet.come_round(latest)
    assert fleet.warnings() == []
    assert fleet.check(latest) == []


def test_a_key_that_was_in_use_ten_minutes_ago_is_forgotten(fleet: Fleet) -> None:
    fleet.start(OLD)
    fleet.clock.advance(10 * MINUTE)
    fleet.start(NEW)
    assert len(fleet.warnings()) == 1
    fleet.clock.advance(10 * MINUTE + 1)
    assert fleet.check(fleet.start(OTHER)) == []
    assert fleet.warnings() == []


def test_a_fallback_that_was_taken_away_ten_minutes_ago_is_forgotten(fleet: Fleet) -> None:
    fleet.start(NEW, OLD)
    later = fleet.start(NEW)
    for _ in range(11):
        fleet.come_round(later)
    fleet.start(OLD)
    assert len(fleet.warnings()) == 1


def test_keys_are_compared_on_a_shared_store_only(fleet: Fleet) -> None:
    store = MemoryStore(fleet.clock)
    one = fleet.start(OLD, store=store)
    fleet.start(NEW, store=store)
    fleet.come_round(one)
    assert fleet.warnings() == []


@pytest.mark.parametrize("key", [None, "", 5, []], ids=repr)
def test_an_app_without_a_usable_key_starts_all_the_same(fleet: Fleet, key: Any) -> None:
    fleet.start(OLD)
    fleet.start(key)
    assert fleet.warnings() == []


def test_a_key_that_is_set_after_the_extension_is_looked_at_by_the_job(fleet: Fleet) -> None:
    fleet.start(OLD)
    late = fleet.start(None)
    late.secret_key = NEW
    fleet.come_round(late)
    assert len(fleet.warnings()) == 1


def test_bytes_and_text_are_one_key(fleet: Fleet) -> None:
    fleet.start(OLD)
    fleet.start(OLD.encode())
    assert fleet.warnings() == []


def test_the_store_learns_nothing_of_a_key_but_a_few_bytes_of_a_slow_digest(fleet: Fleet) -> None:
    fleet.start("dev", "password")
    document = fleet.store.document("apps").document
    [kept] = json.loads(document)["keys"]
    assert len(kept) == 12
    assert b"dev" not in document
    assert neighbours._ROUNDS >= 100_000


def test_only_the_last_eight_keys_are_kept(fleet: Fleet) -> None:
    for number in range(12):
        fleet.start(f"key number {number}, long enough")
        fleet.clock.advance(1)
    assert len(json.loads(fleet.store.document("apps").document)["keys"]) == 8


def test_a_minute_has_to_pass_before_a_process_looks_again(fleet: Fleet) -> None:
    app = fleet.start(OLD)
    before = fleet.store.document("apps")
    fleet.clock.advance(5 * MINUTE)
    app.extensions["safesession"].job.run()
    assert fleet.store.document("apps").written == before.written
    fleet.come_round(app)
    assert fleet.store.document("apps").written > before.written


def test_a_request_asks_nothing_more_of_the_store(fleet: Fleet) -> None:
    app = fleet.start(OLD)
    app.add_url_rule("/", "home", lambda: str(session.get("a")))
    before = fleet.store.document("apps")
    fleet.clock.advance(5 * MINUTE)
    app.test_client().get("/")
    assert fleet.store.document("apps")[:2] == before[:2]


@pytest.mark.parametrize(
    "document", [b"\xff", b"[]", b'{"keys": 5}', b'{"version": 1, "keys": {"a": {}}}'], ids=repr
)
def test_a_document_that_cannot_be_read_is_written_anew(fleet: Fleet, document: bytes) -> None:
    assert fleet.store.keep("apps", document, b"")
    fleet.start(OLD)
    fleet.start(NEW)
    assert len(fleet.warnings()) == 1


def test_a_newer_versions_document_is_left_alone(fleet: Fleet) -> None:
    newer = b'{"version": 2, "keys": 5}'
    assert fleet.store.keep("apps", newer, b"")
    fleet.start(OLD)
    assert fleet.store.document("apps").document == newer


def test_two_that_start_at_the_same_moment_are_both_written_down(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, others = fleet.store.keep, [NEW]

    def raced(name: str, document: bytes, expected: bytes) -> bool:
        if others:
            fleet.start(others.pop())
        return keep(name, document, expected)

    monkeypatch.setattr(fleet.store, "keep", raced)
    fleet.start(OLD)
    assert len(json.loads(fleet.store.document("apps").document)["keys"]) == 2
    assert len(fleet.warnings()) == 1


# -- user keys ----------------------------------------------------------------------------------


def test_two_apps_that_look_for_users_under_different_keys_are_refused(fleet: Fleet) -> None:
    fleet.start(name="shop")
    with pytest.raises(ConfigError) as refused:
        fleet.start(name="blog", user_key="uid")
    [told] = refused.value.problems
    assert told.startswith(
        "SAFESESSION_USER_KEY is 'uid', and '_user_id', 'user_id' in app 'shop' on the same store"
    )
    assert "each its own prefix" in told
    fleet.start(name="blog")


def test_also_in_memory_where_one_store_is_given_to_both(fleet: Fleet) -> None:
    store = MemoryStore(fleet.clock)
    fleet.start(name="shop", store=store)
    with pytest.raises(ConfigError, match="on the same store"):
        fleet.start(name="blog", user_key="uid", store=store)


def test_an_app_that_is_refused_leaves_nothing_behind(fleet: Fleet) -> None:
    fleet.start(name="shop")
    with pytest.raises(ConfigError):
        fleet.start(NEW, name="blog", user_key="uid")
    fleet.start(name="shop")
    assert fleet.warnings() == []


def test_a_user_key_can_be_changed_step_by_step_in_one_app(fleet: Fleet) -> None:
    old = fleet.start(user_key="user_id")
    fleet.start(user_key="uid")
    [told] = fleet.warnings()
    assert "other processes of this app use SAFESESSION_USER_KEY = 'user_id'" in told
    fleet.come_round(old)
    assert len(fleet.warnings()) == 1
    assert fleet.check(old) == []


def test_another_apps_user_key_is_forgotten_ten_minutes_after_its_end(fleet: Fleet) -> None:
    fleet.start(name="shop")
    fleet.clock.advance(10 * MINUTE + 1)
    fleet.start(name="blog", user_key="uid")


def test_an_app_that_runs_reports_what_it_would_have_been_refused_for(fleet: Fleet) -> None:
    """It started while the store was down, or by `flask run`."""
    app = fleet.start(name="shop")
    other = b'{"users": {"\'uid\'": {"blog": %d}}}' % fleet.clock.now
    assert fleet.store.keep("apps", other, fleet.store.document("apps").document)
    fleet.come_round(app)
    [told] = fleet.warnings()
    assert "in app 'blog' on the same store" in told
    assert fleet.check(app) == ["several-user-keys"]


# -- real servers -------------------------------------------------------------------------------


@pytest.fixture
def worker(any_server: servers.Server, prefix: str) -> Iterator[Callable[..., Flask]]:
    made: list[Flask] = []

    def make(key: str, name: str = "shop", **settings: Any) -> Flask:
        app = Flask(name)
        app.secret_key = key
        SafeSession(app, store=any_server.url, key_prefix=prefix, check_interval=None, **settings)
        app.add_url_rule("/in", "in", lambda: str(session.setdefault("user_id", 1)))
        app.add_url_rule("/", "home", lambda: str(session.get("user_id")))
        made.append(app)
        return app

    yield make
    for app in made:
        app.extensions["safesession"].store.close()


@pytest.mark.parametrize("name", ["shop", "blog"])
def test_fault_43_different_secret_keys_on_one_store_are_reported_at_start_and_end_no_session(
    worker: Callable[..., Flask], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    one = worker(OLD)
    client = one.test_client()
    client.get("/in")
    assert not caplog.records
    two = worker(NEW, name)
    [told] = [record.getMessage() for record in caplog.records]
    assert "different secret keys" in told
    visitor = two.test_client()
    cookie = client.get_cookie("session")
    assert cookie is not None
    visitor.set_cookie("session", cookie.value)
    assert visitor.get("/").text == "None"
    assert client.get("/").text == "1"
    for app in (one, two):
        said = app.test_cli_runner().invoke(args=["safesession", "check"])
        assert "different secret keys" in said.stdout


def test_fault_43_two_apps_with_different_user_keys_on_one_server_are_refused(
    worker: Callable[..., Flask],
) -> None:
    worker(OLD)
    with pytest.raises(ConfigError, match="in app 'shop' on the same store"):
        worker(OLD, "blog", user_key="uid")


# -- cookies that another key signed ------------------------------------------------------------

SIGNED = "s" * 44 + "." + "h" * 43
LONGER = "s" * 66 + "." + "h" * 43
NONE_OF_OURS = ["", "x", SIGNED[:-1], SIGNED + "x", "eyJhIjoxfQ.Zx1.abc", "s" * 87, "é" * 44]


def test_a_cookie_that_another_key_signed_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_safesession.web.transport.report_unverified", Unverified().report)
    apps = [Flask("shop"), Flask("shop")]
    for app, key in zip(apps, (OLD, NEW), strict=True):
        app.secret_key = key
        SafeSession(app, check_interval=None)
        app.add_url_rule("/", "home", lambda: str(session.setdefault("a", 1)))
    client, other = apps[0].test_client(), apps[1].test_client()
    client.get("/")
    assert not caplog.records
    cookie = client.get_cookie("session")
    assert cookie is not None
    other.set_cookie("session", cookie.value)
    other.get("/")
    # That both apps are in one process, with one cookie, is reported as well.
    [record] = [record for record in caplog.records if record.module == "unverified"]
    assert record.levelno == logging.WARNING
    assert "were not signed with this process's SECRET_KEY: 1 since" in record.getMessage()
    assert cookie.value not in record.getMessage()
    other.get("/")
    client.set_cookie("session", SIGNED, path="/other")
    client.get("/")
    assert sum(record.module == "unverified" for record in caplog.records) == 1


def test_such_cookies_are_counted_and_reported_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    counted = Unverified(lambda: now[0])
    for _ in range(5):
        counted.report([SIGNED])
    now[0] = INTERVAL - 1
    counted.report([LONGER, "x"])
    assert [record.cookies for record in caplog.records] == [1]  # type: ignore[attr-defined]
    now[0] = INTERVAL
    counted.report([SIGNED])
    assert [record.cookies for record in caplog.records] == [1, 6]  # type: ignore[attr-defined]
    assert counted.total == 7


@pytest.mark.parametrize("value", NONE_OF_OURS, ids=range(len(NONE_OF_OURS)))
def test_what_is_no_cookie_of_our_form_is_not_counted(
    caplog: pytest.LogCaptureFixture, value: str
) -> None:
    counted = Unverified()
    counted.report([value])
    assert (counted.total, caplog.records) == (0, [])
