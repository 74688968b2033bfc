"""Rows 22, 23 and 39: clocks that are wrong. The one that counts is the store's."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import time_machine

from flask_safesession import session
from flask_safesession.events import SessionEnded, StoreStateChanged
from flask_safesession.stores import memory
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.testing.kit import together

from ..support import proxy as proxies
from ..support import servers
from ..support.faults_kit import (
    ANN,
    IDLE,
    MINUTE,
    TIMEOUT,
    OpenSite,
    Site,
    age,
    assert_whole,
    good,
    outage,
    read,
    within,
)

pytestmark = pytest.mark.faults
HOUR = 3600
STEPS = [
    pytest.param(seconds, id=name)
    for name, seconds in {
        "an hour slow": -HOUR,
        "an hour fast": HOUR,
        "years slow": -20 * 365 * 24 * HOUR,
        "years fast": 20 * 365 * 24 * HOUR,
    }.items()
]


def wrong(seconds: float) -> Any:
    """The wall clock of this process, and of this one only."""
    return time_machine.travel(time.time() + seconds, tick=True)


def expires_at(site: Site) -> datetime:
    """As the site says it of whoever asks."""
    found = session.info.expires_at
    assert found
    return found


# -- 22: the worker's clock ---------------------------------------------------------------------


@pytest.mark.parametrize("seconds", STEPS)
def test_fault_22_a_worker_with_a_wrong_clock_ends_nothing_early_and_keeps_nothing_late(
    steady: servers.Server, open_site: OpenSite, seconds: float
) -> None:
    # Without jobs: a clock that jumps makes them run at once, and what they purge nobody counts.
    right = open_site(steady.url, touch_interval=0, check_interval=None)
    early, late = right.member(), right.member("bob")
    with wrong(seconds):
        site = open_site(steady.url, touch_interval=0, check_interval=None)
        early, late = site.visitor(like=early), site.visitor(like=late)
        newcomer = site.member("eve")
        for _ in range(4):  # two hours of use
            for client in (early, newcomer):
                found = read(client)
                assert found.get("cart") == ["pear"], (found, site.events)
                good(client, "/add/fig")
                good(client, "/renew")
                good(client, "/swap/pear")
            site.app.extensions["safesession"].job.run()
            age(steady, IDLE - MINUTE)
        assert read(late) == {}
        ended = [event.reason for event in site.take_events(SessionEnded)]
        assert set(ended) == {"logout", "idle"}
        assert ended.count("idle") == 1
        assert read(early) == read(newcomer) == {"cart": ["pear"]}
        age(steady, IDLE)
        assert read(early) == read(newcomer) == {}
    assert_whole(right, steady)


@pytest.mark.parametrize("seconds", STEPS)
def test_fault_22_a_clock_that_steps_during_a_request_changes_nothing(
    steady: servers.Server, open_site: OpenSite, seconds: float
) -> None:
    site = open_site(steady.url)
    for path in ("/add/fig", "/renew", "/login/ann"):
        member = site.member()
        with time_machine.travel(time.time(), tick=True) as clock:
            site.strike(partial(clock.shift, seconds))
            with within(5):
                good(member, path)
            assert read(member)["user_id"] == "ann"
        assert read(member)["user_id"] == "ann"
    assert_whole(site, steady)


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_fault_22_a_clock_that_steps_during_a_store_call_neither_shortens_nor_prolongs_it(
    steady: servers.Server, open_site: OpenSite, seconds: float
) -> None:
    with proxies.before(steady.port) as proxy:
        site = open_site(proxy.url)
        member = site.member()
        with time_machine.travel(time.time(), tick=True) as clock:
            proxy.delay, proxy.cut_replies = 0.2, 1  # the call is made twice
            reading = threading.Thread(target=good, args=(member, "/read"))
            reading.start()
            servers.poll("the call", lambda: proxy.under_way, every=0.001)
            clock.shift(seconds)
            with within(5):
                reading.join()
        assert proxy.cut_replies == 0


def test_fault_22_times_that_are_shown_are_the_servers(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url)
    site.app.add_url_rule("/expires", "expires", lambda: expires_at(site).isoformat())
    member = site.member()
    shown = datetime.fromisoformat(good(member, "/expires").text)
    with wrong(HOUR):
        assert abs(datetime.fromisoformat(good(member, "/expires").text) - shown).seconds < 60
    assert abs((shown - datetime.now(UTC)).total_seconds() - IDLE / 1000) < 60


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_fault_22_a_clock_that_steps_in_an_outage_neither_shortens_nor_prolongs_it(
    kept: servers.Server, open_site: OpenSite, seconds: float
) -> None:
    """The circuit's own clock, and that of the store's time-out, cannot be set."""
    site = open_site(kept.url, store_timeout=TIMEOUT)
    member = site.member()
    with time_machine.travel(time.time(), tick=True) as clock:
        with kept.paused():
            site.during = lambda: None
            together(FAILURES, lambda n: outage(site.visitor(like=member), "/read"))
            assert [e.state for e in site.take_events(StoreStateChanged)] == ["open"]
            clock.shift(seconds)
            outage(member, "/read")
        took = servers.poll("the site", lambda: member.get("/read").status_code == 200, every=0.01)
        assert took < 1.5
        assert read(member) == ANN


# -- 23: the wall clock under the memory store --------------------------------------------------


class Ticks:
    """The clock that counts since the machine was started, put on as much as a test likes."""

    def __init__(self) -> None:
        self.ahead = 0
        self._ticks = memory._ticks

    def __call__(self) -> int:
        return self._ticks() + self.ahead * 1_000_000


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    made = Ticks()
    monkeypatch.setattr(memory, "_ticks", made)
    return made


@pytest.mark.parametrize("seconds", STEPS)
def test_fault_23_no_step_of_the_wall_clock_ends_or_keeps_a_session(
    open_site: OpenSite, ticks: Ticks, seconds: float
) -> None:
    site = open_site("memory://", touch_interval=0)
    member, idle = site.member(), site.member("bob")
    with wrong(seconds):
        newcomer = site.member("eve")
        for _ in range(4):
            assert read(member) == ANN
            assert read(newcomer)["user_id"] == "eve"
            ticks.ahead += IDLE - MINUTE
        assert site.safe.purge().due == 1
        assert read(idle) == {}
    assert read(member) == ANN
    ticks.ahead += IDLE - MINUTE
    assert read(member) == ANN
    ticks.ahead += IDLE
    assert read(member) == {}


def test_fault_23_the_clock_goes_on_while_the_wall_clock_stands_still_or_goes_back(
    open_site: OpenSite,
) -> None:
    with time_machine.travel(time.time(), tick=False) as clock:
        before, started = memory.store_clock(), time.monotonic()
        clock.shift(-HOUR)
        servers.poll("time", lambda: memory.store_clock() > before, every=0.001)
        clock.shift(2 * HOUR)
        passed = memory.store_clock() - before
        assert passed <= (time.monotonic() - started) * 1000 + 2


def test_fault_23_the_job_purges_on_after_the_wall_clock_was_set_back(
    open_site: OpenSite, ticks: Ticks
) -> None:
    """A scheduler waits by the wall clock: hours, if that is set back."""
    site = open_site("memory://", check_interval="100ms")
    with time_machine.travel(time.time(), tick=True) as clock:
        site.member()
        clock.shift(-HOUR)
        ticks.ahead += IDLE
        visitor = site.visitor()

        def is_purged() -> bool:
            read(visitor)  # requests come, and wake it
            return bool(site.take_events(SessionEnded))

        servers.poll("the job", is_purged, seconds=10)
    assert site.safe.count() == 0


# -- 39: the store's clock is set back, or another server has not heard of everything -----------


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("seconds", [HOUR, 20 * 365 * 24 * HOUR])
def test_fault_39_an_end_of_all_ends_what_was_made_before_the_stores_clock_was_set_back(
    steady: servers.Server, open_site: OpenSite, seconds: int, shards: int
) -> None:
    site = open_site(steady.url, shards=shards)
    stranger = site.visitor()
    good(stranger, "/add/pear")
    before = [site.member(), site.member("bob"), stranger]
    age(steady, -seconds * 1000)  # their times are ahead of the clock now
    before.append(site.member("eve"))
    assert [read(client) != {} for client in before] == [True] * 4
    for _ in range(2):
        site.safe.end_all()
        assert [read(site.visitor(like=client)) for client in before] == [{}] * 4
        later = site.member("dan")
        assert read(later)["user_id"] == "dan"
        site.safe.purge()
        assert read(later)["user_id"] == "dan"
        before.append(later)
        before.pop(0)
    assert_whole(site, steady)


def test_fault_39_an_end_of_all_on_a_new_master_that_is_behind_ends_what_it_has(
    own: servers.Server, steady: servers.Server, open_site: OpenSite
) -> None:
    site, then = open_site(own.url), open_site(steady.url)
    site.safe.end_all()
    before = [site.member(name) for name in ("ann", "bob")]
    for name in own.ask("KEYS", "*"):  # as far as the replica has heard
        steady.ask("RESTORE", name, 0, own.ask("DUMP", name), "REPLACE")
    site.safe.end_all()
    before += [site.member(name) for name in ("eve", "dan")]
    clients = [then.visitor(like=client) for client in before]
    assert [read(client) != {} for client in clients] == [True, True, False, False]
    then.safe.end_all()
    assert [read(then.visitor(like=client)) for client in before] == [{}] * 4
    assert read(then.member("fay"))["user_id"] == "fay"
    assert_whole(then, steady)
