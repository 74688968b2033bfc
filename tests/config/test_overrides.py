"""Settings that are changed while the fleet runs: two apps on one store are two processes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from flask import Flask

from flask_safesession import ConfigError, SafeSession, StoreUnavailable
from flask_safesession.admin import job as purge_job
from flask_safesession.config import dry_run as foresight
from flask_safesession.events import session_ended, settings_tuned
from flask_safesession.stores.base import AuditStep, Rules
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.redis import RedisStore
from flask_safesession.testing import StoreKit, age_redis, make_draft, make_rules, new_key
from flask_safesession.testing.kit import together

from ..support import servers
from ..support.counting import CountingStore, PlainStore

MINUTE = 60_000
TIERS: dict[str, Any] = {
    "guest": {"idle_timeout": "5m", "lifetime": "1h"},
    "admin": {"idle_timeout": "10m", "lifetime": "2h"},
}
# Seconds: longer than any test may wait for another process.


@dataclass
class Process:
    """An app, and the sessions that it makes."""

    app: Flask
    keys: list[str] = field(default_factory=list)

    @property
    def state(self) -> Any:
        return self.app.extensions["safesession"]

    @property
    def safe(self) -> SafeSession:
        safe: SafeSession = self.app.extensions["tested.safe"]
        return safe

    @property
    def limits(self) -> tuple[int, int]:
        """Idle timeout and lifetime in minutes."""
        default = self.state.settings.rules.policy.default
        return default.idle // MINUTE, default.lifetime // MINUTE

    def come_round(self) -> Any:
        """One run of the purge job."""
        return self.state.job.run()

    def fill(self, count: int, *, user: str | None = None, tier: str = "default") -> None:
        rules = self.state.settings.rules
        for number in range(count):
            who = user and f"{user}{number}"
            self.keys.append(new_key())
            draft = make_draft(rules=rules, user=who, tier=tier)
            self.state.store.create(self.keys[-1], draft, rules)

    def live(self) -> int:
        return int(self.state.store.count(self.state.settings.rules).total)

    def ends_of(self, work: Callable[[], object]) -> list[str]:
        """Reasons of the ends that *work* tells of."""
        heard: list[str] = []

        def hear(sender: object, event: Any) -> None:
            heard.append(event.reason)

        with session_ended.connected_to(hear, self.app):
            work()
        return heard


@dataclass
class Fleet:
    """Makes processes on one store, and lets time pass for it."""

    make_app: Callable[..., Flask]
    advance: Callable[[int], None]
    options: dict[str, Any]

    def start(self, **settings: Any) -> Process:
        return Process(self.make_app(**{**self.options, **settings}))


@pytest.fixture
def fleet(make_app: Callable[..., Flask], kit: StoreKit) -> Fleet:
    return Fleet(make_app, kit.advance, {"store": kit.store})


# -- who hears of it, and when -------------------------------------------------------------------


@pytest.mark.every_store
def test_the_others_go_by_it_from_their_next_run_on(fleet: Fleet) -> None:
    here, there = fleet.start(), fleet.start()
    told = here.safe.reconfigure(idle_timeout="10m", max_sessions=500, by="ada")
    assert (told.settings, told.by, told.revision) == (
        {"idle_timeout": "10m", "max_sessions": 500},
        "ada",
        1,
    )
    assert told.would_end is None
    assert here.limits == (10, 720)
    assert there.limits == (30, 720)
    assert there.safe.tuned() is None
    there.come_round()
    assert there.limits == (10, 720)
    assert there.state.settings.rules.cap.total == 500
    assert there.safe.tuned() == here.safe.tuned() == told


def test_one_that_starts_later_goes_by_it_at_once(fleet: Fleet) -> None:
    here = fleet.start()
    told = here.safe.reconfigure(lifetime="1h", by="ada")
    late = fleet.start()
    assert late.limits == (30, 60)
    assert late.safe.tuned() == told


def test_it_is_written_down_when_by_the_clock_of_the_store(fleet: Fleet) -> None:
    here = fleet.start()
    before = here.state.store.document("tuning").now
    told = here.safe.reconfigure(lifetime="1h")
    after = here.state.store.document("tuning").now
    assert before <= round(told.at.timestamp() * 1000) <= after
    assert told.at.utcoffset() == timedelta(0)


def test_a_request_goes_by_it_and_asks_no_more_of_the_store(fleet: Fleet) -> None:
    counting = CountingStore(MemoryStore())
    looks: list[str] = []
    real = counting.inner.document

    def document(name: str) -> Any:
        looks.append("look")
        return real(name)

    counting.inner.document = document
    app = fleet.make_app(store=counting)
    safe: SafeSession = app.extensions["tested.safe"]

    @app.get("/")
    def index() -> str:
        from flask_safesession import session

        session["seen"] = session.get("seen", 0) + 1
        expires, active = session.info.expires_at, session.info.last_active
        return str(expires - active) if expires and active else "new"

    client = app.test_client()
    client.get("/")
    safe.reconfigure(idle_timeout="7m")
    before, calls = len(looks), counting.take()
    assert client.get("/").text == "0:07:00"
    assert (len(looks), counting.take(), calls) == (before, ["load", "commit"], ["create"])


def test_a_child_of_a_fork_can_look_though_its_parent_was_at_it(fleet: Fleet) -> None:
    here, there = fleet.start(check_interval="1h"), fleet.start()
    there.safe.reconfigure(idle_timeout="10m")
    with here.state.overrides._lock:
        here.state.job._forked()
        assert not here.state.overrides._lock.locked()
        here.state.overrides.refresh()
    assert here.limits == (10, 720)


def test_each_process_tells_of_it_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    here, there = fleet.start(), fleet.start()
    heard: list[Any] = []

    def hear(sender: object, event: Any) -> None:
        heard.append((sender, event.revision, event.by, event.settings))

    with settings_tuned.connected_to(hear), caplog.at_level(logging.INFO, "flask_safesession"):
        here.safe.reconfigure(idle_timeout="10m", by="ada")
        for _ in range(3):
            here.come_round()
            there.come_round()
    told = (1, "ada", 'idle_timeout="10m"')
    assert heard == [(here.app, *told), (there.app, *told)]
    lines = [r.getMessage() for r in caplog.records if "settings-tuned" in r.getMessage()]
    assert lines == ['settings-tuned revision=1 by=ada settings=idle_timeout="10m"'] * 2


# -- what holds then -----------------------------------------------------------------------------

SHORTER: list[dict[str, Any]] = [
    {"idle_timeout": "3m"},
    {"lifetime": "4m", "idle_timeout": "4m"},
    {"tiers": {"guest": {"idle_timeout": "2m"}}},
    {"tiers": {"admin": {"lifetime": "3m", "idle_timeout": "3m"}}, "max_sessions": 20},
    {"max_sessions": 10},
    {"max_sessions": 4, "idle_timeout": "2m"},
    {"idle_timeout": "25m"},
]


@pytest.mark.parametrize("changes", SHORTER, ids=str)
def test_what_a_dry_run_counts_then_ends_also_if_nobody_uses_it(
    fleet: Fleet, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresight, "_PAGE", 3)
    options: dict[str, Any] = {"expiry": "tiered", "tiers": TIERS, "purge_batch": 7}
    here, there = fleet.start(**options), fleet.start(**options)
    for _ in range(2):
        for tier in ("default", "guest", "admin"):
            here.fill(4, user=f"{tier}{fleet.advance}", tier=tier)
        here.fill(5)
        fleet.advance(4 * MINUTE + 30_000)
    live = here.live()
    told = here.safe.reconfigure(**changes, dry_run=True, by="ada")
    assert told.would_end is not None
    assert (here.live(), here.safe.tuned()) == (live, None)
    here.safe.reconfigure(**changes)
    ends = there.ends_of(there.come_round)
    assert there.live() == live - told.would_end
    assert len([reason for reason in ends if reason]) >= told.would_end
    if told.would_end == 0:
        assert changes == {"idle_timeout": "25m"}


@pytest.mark.every_store
def test_all_of_many_unused_sessions_end_in_one_run(fleet: Fleet) -> None:
    here, there = fleet.start(purge_batch=10), fleet.start(purge_batch=10)
    here.fill(400)
    here.fill(50, user="ada")
    fleet.advance(11 * MINUTE)
    here.fill(5)
    here.safe.reconfigure(idle_timeout="10m")
    left = here.live()
    assert there.ends_of(there.come_round).count("idle") >= left - 5
    assert there.live() == 5


def test_purge_by_hand_ends_them_too(fleet: Fleet) -> None:
    here, there = fleet.start(), fleet.start()
    here.fill(3, user="ada")
    fleet.advance(11 * MINUTE)
    here.safe.reconfigure(lifetime="10m", idle_timeout="10m")
    assert there.ends_of(there.safe.purge) == ["lifetime"] * 3


@pytest.mark.every_store
def test_a_lifetime_that_is_shorter_by_itself_ends_them_too(fleet: Fleet) -> None:
    here, there = fleet.start(idle_timeout="9m"), fleet.start(idle_timeout="9m")
    here.come_round()
    here.fill(2)
    here.fill(2, user="ada")
    fleet.advance(8 * MINUTE)
    for key in here.keys:
        here.state.store.load(key, here.state.settings.rules, slide=True)
    here.safe.reconfigure(lifetime="12m")
    there.come_round()
    assert there.live() == 4
    fleet.advance(5 * MINUTE)
    assert there.ends_of(there.come_round) == ["lifetime"] * 4


def test_limits_that_are_shortened_a_second_time_hold_too(fleet: Fleet) -> None:
    here = fleet.start()
    here.safe.reconfigure(idle_timeout="10m")
    here.come_round()
    here.safe.reconfigure(reset=True)
    here.come_round()
    here.fill(3)
    fleet.advance(11 * MINUTE)
    here.come_round()
    assert here.live() == 3
    here.safe.reconfigure(idle_timeout="10m")
    here.come_round()
    assert here.live() == 0


def test_sessions_in_shards_end_too(
    any_server: servers.Server, make_app: Callable[..., Flask], prefix: str
) -> None:
    options: dict[str, Any] = {"store": any_server.url, "key_prefix": prefix, "shards": 4}
    client, here = any_server.client(), Process(make_app(**options))
    here.fill(40, user="ada")
    here.fill(40)
    age_redis(client, 11 * MINUTE, prefix)
    there = Process(make_app(**options))
    here.fill(30)
    live = here.live()
    changes: dict[str, Any] = {"idle_timeout": "10m", "max_sessions": 8}
    told = here.safe.reconfigure(**changes, dry_run=True)
    here.safe.reconfigure(**changes)
    there.come_round()
    assert there.live() == live - (told.would_end or 0) <= 8
    assert there.safe.tuned() == here.safe.tuned()
    for process in (here, there):
        process.state.store.close()
    client.close()


# -- one after the other -------------------------------------------------------------------------


def test_what_is_not_named_stays_as_it_was_given(fleet: Fleet) -> None:
    here, there = fleet.start(), fleet.start()
    here.safe.reconfigure(idle_timeout="10m", by="ada")
    told = there.safe.reconfigure(lifetime=timedelta(hours=1), by="bob")
    assert told.settings == {"idle_timeout": "10m", "lifetime": "1h"}
    assert (told.by, told.revision) == ("bob", 2)
    here.come_round()
    assert here.limits == there.limits == (10, 60)


def test_none_gives_one_setting_back_and_reset_all(fleet: Fleet) -> None:
    here, there = fleet.start(), fleet.start()
    here.safe.reconfigure(idle_timeout="10m", lifetime="1h", max_sessions=99)
    here.safe.reconfigure(lifetime=None)
    assert (here.limits, here.state.settings.rules.cap.total) == ((10, 720), 99)
    told = here.safe.reconfigure(reset=True, by="bob")
    there.come_round()
    assert here.limits == there.limits == (30, 720)
    assert here.state.settings == here.state.overrides.own.settings
    assert there.safe.tuned() == told
    assert (told.settings, told.by, told.revision) == ({}, "bob", 3)


def test_a_reset_keeps_what_is_named_with_it(fleet: Fleet) -> None:
    here = fleet.start()
    here.safe.reconfigure(idle_timeout="10m", lifetime="1h")
    assert here.safe.reconfigure(reset=True, lifetime="2h").settings == {"lifetime": "2h"}
    assert here.limits == (30, 120)


def test_of_the_tiers_only_those_that_change_are_named(fleet: Fleet) -> None:
    here = fleet.start(expiry="tiered", tiers=TIERS)
    here.safe.reconfigure(tiers={"admin": {"idle_timeout": "2m"}})
    here.safe.reconfigure(tiers={"guest": {"lifetime": "30m"}})
    policy = here.state.settings.rules.policy
    assert list(policy.tiers) == ["guest", "admin"]
    minutes = {name: (t.idle // MINUTE, t.lifetime // MINUTE) for name, t in policy.tiers.items()}
    assert minutes == {"guest": (5, 30), "admin": (2, 120)}
    assert here.safe.reconfigure(tiers={"admin": None}).settings == {
        "tiers": {"guest": {"lifetime": "30m"}}
    }
    assert here.safe.reconfigure(tiers=None).settings == {}
    assert here.state.settings.rules.policy.limits("admin").idle == 10 * MINUTE


@pytest.mark.every_store
def test_two_who_change_at_the_same_moment_are_both_heard(fleet: Fleet) -> None:
    processes = [fleet.start(), fleet.start(), fleet.start()]
    changes: list[dict[str, Any]] = [
        {"idle_timeout": "10m"},
        {"lifetime": "1h"},
        {"max_sessions": 7},
    ]
    together(3, lambda number: processes[number].safe.reconfigure(**changes[number]))
    for process in processes:
        process.come_round()
        told = process.safe.tuned()
        assert told is not None
        assert told.revision == 3
        assert told.settings == {"idle_timeout": "10m", "lifetime": "1h", "max_sessions": 7}


def test_a_store_that_lost_everything_gives_the_settings_back(fleet: Fleet) -> None:
    here = fleet.start()
    here.safe.reconfigure(idle_timeout="10m")
    here.state.store.tables._documents.clear()
    here.come_round()
    assert (here.limits, here.safe.tuned()) == ((30, 720), None)


# -- what cannot be used -------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"idle_timeout": "soon"}, "SAFESESSION_IDLE_TIMEOUT is 'soon': give a duration"),
    (
        {"idle_timeout": "20h"},
        "SAFESESSION_IDLE_TIMEOUT is '20h', longer than SAFESESSION_LIFETIME",
    ),
    ({"lifetime": timedelta(0)}, "SAFESESSION_LIFETIME is '0:00:00': give a duration"),
    ({"max_sessions": 0}, "SAFESESSION_MAX_SESSIONS is 0: give a whole number"),
    ({"max_sessions": 1}, "SAFESESSION_MAX_SESSIONS is 1: give 2 at least"),
    ({"max_sessions": True}, "SAFESESSION_MAX_SESSIONS is True"),
    ({"check_interval": object()}, "SAFESESSION_CHECK_INTERVAL is '<object"),
    ({"tiers": {"admin": {"idle_timeout": "1m"}}}, "tiers: 'admin' is not a tier of this app"),
    ({"tiers": ["admin"]}, "SAFESESSION_TIERS is"),
    ({}, "there is nothing to change: give one of idle_timeout, lifetime, longest_lifetime"),
    ({"idle_timeout": "1m", "by": "a\nb"}, "by is 'a\\nb': give a name"),
    ({"idle_timeout": "1m", "by": ""}, "by is '': give a name"),
    ({"idle_timeout": "1m", "by": "a" * 101}, "give a name of 100 characters at most"),
]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda given: str(given)[:30])
def test_what_is_wrong_is_said_and_changes_nothing(
    fleet: Fleet, changes: dict[str, Any], message: str, dry_run: bool
) -> None:
    here = fleet.start(check_interval="1h")
    before = here.state.settings
    with pytest.raises(ConfigError) as raised:
        here.safe.reconfigure(**changes, dry_run=dry_run)
    assert message in str(raised.value)
    assert str(raised.value).startswith("The settings cannot be changed:\n")
    assert here.state.settings is before
    assert here.state.store.document("tuning").document == b""


def test_a_tier_that_is_misspelt_is_told_with_those_there_are(fleet: Fleet) -> None:
    here = fleet.start(expiry="tiered", tiers=TIERS)
    with pytest.raises(
        ConfigError, match="'admn' is not a tier of this app \\(it has 'guest', 'admin'"
    ):
        here.safe.reconfigure(tiers={"admn": {"idle_timeout": "1m"}})
    with pytest.raises(ConfigError, match=r"SAFESESSION_TIERS\['admin'\]"):
        here.safe.reconfigure(tiers={"admin": {"idle_timout": "1m"}})
    with pytest.raises(ConfigError, match=r"SAFESESSION_TIERS\['admin'\] is 'short'"):
        here.safe.reconfigure(tiers={"admin": "short"})


def test_a_process_whose_own_settings_contradict_says_so_once_and_goes_on(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    here, other = fleet.start(), fleet.start(idle_timeout="30m")
    here.safe.reconfigure(lifetime="20m")
    for _ in range(3):
        other.come_round()
    assert (here.limits, other.limits) == ((20, 20), (30, 720))
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "does not use the settings" in record.getMessage()
    assert "SAFESESSION_IDLE_TIMEOUT is '30m', longer than SAFESESSION_LIFETIME ('20m')" in (
        record.getMessage()
    )
    here.safe.reconfigure(lifetime="40m")
    other.come_round()
    assert other.limits == (30, 40)


FOREIGN = {
    "newer": json.dumps({"version": 2, "revision": 1, "by": None, "settings": {}}),
    "no json": "x",
    "a list": "[]",
    "no revision": json.dumps({"version": 1, "by": None, "settings": {}}),
    "another setting": json.dumps(
        {"version": 1, "revision": 1, "by": None, "settings": {"store": "redis://elsewhere"}}
    ),
    "no settings": json.dumps({"version": 1, "revision": 1, "by": None, "settings": 3}),
}


@pytest.mark.parametrize("document", FOREIGN.values(), ids=FOREIGN)
def test_a_document_that_cannot_be_read_is_told_of_once_and_can_be_reset(
    fleet: Fleet, document: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = fleet.start()
    assert here.state.store.keep("tuning", document.encode(), b"")
    for _ in range(3):
        here.come_round()
    assert (here.limits, here.safe.tuned()) == ((30, 720), None)
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    with pytest.raises(ConfigError):
        here.safe.reconfigure(idle_timeout="10m")
    here.safe.reconfigure(idle_timeout="10m", reset=True)
    assert here.limits == (10, 720)


def test_a_store_that_keeps_no_settings_says_so(make_app: Callable[..., Flask]) -> None:
    process = Process(make_app(store=PlainStore()))
    with pytest.raises(ConfigError, match="PlainStore has no index of its sessions"):
        process.safe.reconfigure(idle_timeout="10m")
    assert process.safe.tuned() is None


def test_a_store_that_is_down_is_an_error_for_who_asks_and_none_for_the_job(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fleet.start()
    here.fill(1)
    fleet.advance(31 * MINUTE)

    def down(name: str) -> None:
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(here.state.store, "document", down)
    with pytest.raises(StoreUnavailable):
        here.safe.reconfigure(idle_timeout="10m")
    assert here.come_round() == (1, 0, 0)  # what it can do, it does


def test_those_who_never_stop_changing_are_given_up_on(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = fleet.start()
    monkeypatch.setattr(here.state.store, "keep", lambda *_: False)
    with pytest.raises(StoreUnavailable, match="other processes keep changing"):
        here.safe.reconfigure(idle_timeout="10m")


# -- the job -------------------------------------------------------------------------------------


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(purge_job, "_scheduler", None)
    yield
    if purge_job._scheduler is not None:
        purge_job._scheduler.shutdown(wait=True)


def job_of(process: Process) -> Any:
    of = process.state.job
    return of._scheduler.get_job(of._id)


@pytest.mark.usefixtures("scheduler")
def test_the_job_comes_round_as_often_as_it_is_told(fleet: Fleet) -> None:
    here, there = fleet.start(check_interval="1h"), fleet.start(check_interval="1h")
    for process in (here, there):
        process.app.test_client().get("/")
    here.safe.reconfigure(check_interval="20m")
    assert job_of(here).trigger.interval == timedelta(minutes=20)
    assert job_of(there).trigger.interval == timedelta(hours=1)
    there.come_round()
    assert job_of(there).trigger.interval == timedelta(minutes=20)
    here.safe.reconfigure(reset=True)
    assert job_of(here).trigger.interval == timedelta(hours=1)


@pytest.mark.usefixtures("scheduler")
def test_one_that_has_not_begun_begins_with_what_it_is_told(fleet: Fleet) -> None:
    here = fleet.start(check_interval="1h")
    here.safe.reconfigure(check_interval="20m")
    assert here.state.job._scheduler is None
    here.app.test_client().get("/")
    assert job_of(here).trigger.interval == timedelta(minutes=20)


@pytest.mark.usefixtures("scheduler")
def test_a_process_without_a_job_does_not_get_one(fleet: Fleet) -> None:
    here, cron = fleet.start(check_interval="1h"), fleet.start(check_interval=None)
    here.safe.reconfigure(check_interval="20m", idle_timeout="10m")
    cron.come_round()
    cron.app.test_client().get("/")
    assert cron.limits == (10, 720)
    assert cron.state.settings.check_interval is None
    assert cron.state.job._scheduler is None


# -- the store's part ----------------------------------------------------------------------------


def audited(store: Any, rules: Rules, limit: int = 1000) -> tuple[int, int]:
    """Audits while limits have become shorter; returns how many sessions changed, and the steps."""
    changed = 0
    for steps in count(1):
        step = store.audit(rules, limit)
        changed += step.limited
        if not step.behind:
            return changed, steps
    raise AssertionError


def test_a_round_goes_on_in_slices_and_is_not_made_twice(fleet: Fleet) -> None:
    long, short = fleet.start(), fleet.start(idle_timeout="10m")
    long.fill(200)
    long.fill(150, user="ada")
    store = long.state.store
    audited(store, long.state.settings.rules)
    assert audited(store, long.state.settings.rules) == (0, 1)
    changed, steps = audited(store, short.state.settings.rules, 10)
    assert changed == 350
    assert steps >= 10
    assert audited(store, short.state.settings.rules, 10) == (0, 1)


def test_a_slice_is_as_large_as_it_is_asked_to_be(fleet: Fleet) -> None:
    here = fleet.start()
    here.fill(25)
    rules = fleet.start(idle_timeout="10m").state.settings.rules
    assert here.state.store.audit(rules, 10) == AuditStep(0, False, limited=10, behind=True)


def test_an_entry_without_a_record_does_not_stop_a_round(fleet: Fleet) -> None:
    here = fleet.start()
    here.fill(5)
    del here.state.store.tables.records[here.keys[2]]
    rules = fleet.start(idle_timeout="10m").state.settings.rules
    assert here.state.store.audit(rules, 10) == AuditStep(1, True, limited=4)


def test_longer_limits_of_another_app_are_not_taken_for_those_of_a_round(fleet: Fleet) -> None:
    """Else the limits of the other app would never become shorter again."""
    long, short = fleet.start(), fleet.start(idle_timeout="10m")
    long.fill(20)
    store = long.state.store
    audited(store, long.state.settings.rules)
    store.audit(short.state.settings.rules, 5)
    audited(store, long.state.settings.rules)
    audited(store, short.state.settings.rules)
    records = [store.peek(key).record for key in long.keys]
    assert {record.idle for record in records} == {10 * MINUTE}


def test_an_entry_of_another_user_is_repaired_and_its_record_is_put_under_shorter_limits(
    any_server: servers.Server, prefix: str
) -> None:
    client: Any = any_server.client()
    store = RedisStore(client, prefix=prefix)
    long, short, key = make_rules(), make_rules(idle=MINUTE), new_key()
    store.create(key, make_draft(rules=long, user="ada"), long)
    [index] = client.keys(f"{{{prefix}:0}}:t:*")
    client.zadd(index, {f"{key}{'x' * 16}": 5e12})
    step = store.audit(short, 100)
    while not step.done:
        step = store.audit(short, 100)
    [(_, score)] = client.zrange(index, 0, -1, withscores=True)
    assert score < store.document("tuning").now + 2 * MINUTE
    store.close()
    client.close()


def test_the_keys_of_a_round_and_of_the_document_are_in_the_first_slot(
    any_server: servers.Server, prefix: str
) -> None:
    client = any_server.client()
    store = RedisStore(client, prefix=prefix)
    store.keep("tuning", b"mine", b"")
    assert client.get(f"{{{prefix}:0}}:doc:tuning")[11:] == b"mine"  # type: ignore[index]
    store.close()
    client.close()
