"""Row 5: the server is stopped. Connections stay, nothing is answered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_safesession.stores.remote.breaker import FAILURES, PROBE_INTERVAL
from flask_safesession.testing.kit import together

from ..support import servers
from ..support.faults_kit import (
    ANN,
    BOUND,
    CHANGES,
    TIMEOUT,
    OpenSite,
    Stopwatch,
    good,
    outage,
    read,
    within,
)

pytestmark = pytest.mark.faults


def test_fault_05_a_stopped_server_costs_one_timeout_at_the_load(
    kept: servers.Server, open_site: OpenSite
) -> None:
    paths = ["/read", *CHANGES]
    first, second = ([open_site(kept.url, store_timeout=TIMEOUT) for _ in paths] for _ in "12")
    members = [site.member() for site in first]
    newcomers = [site.visitor(like=members[n]) for n, site in enumerate(second)]
    with kept.paused():
        together(len(paths), lambda n: outage(members[n], paths[n], BOUND))
        # Their connections are still to be made.
        together(len(paths), lambda n: outage(newcomers[n], paths[n], BOUND))
    assert [read(member) for member in members] == [ANN] * len(paths)


def test_fault_05_a_server_that_stops_before_the_save_costs_one_timeout(
    kept: servers.Server, open_site: OpenSite
) -> None:
    paths = [*CHANGES, "/swap/fig"]  # the last is two calls: the logout is tried alone, too
    sites = [open_site(kept.url, store_timeout=TIMEOUT) for _ in paths]
    members = [site.member() for site in sites]
    stop = threading.Barrier(len(paths), kept.pause, timeout=20)
    for site in sites:
        site.strike(stop.wait)
    try:
        together(len(paths), lambda n: outage(members[n], paths[n], bound=20))
        assert all(site.slowest < BOUND for site in sites)
    finally:
        kept.resume()
    for member in members:
        # Whether it is done is not known: the command may have been on its way. Never half of it.
        assert read(member) in (ANN, {}, {**ANN, "cart": ["pear", "fig"]}, {"cart": ["fig"]})
        good(member, "/login/ann")
        assert read(member)["user_id"] == "ann"


def test_fault_05_views_that_use_no_session_are_as_fast_as_ever(
    kept: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(kept.url, store_timeout=TIMEOUT)
    members = [site.member() for _ in range(4)]
    site.take()
    with kept.paused():
        waiting = [
            threading.Thread(target=outage, args=(client, "/read", BOUND)) for client in members
        ]
        for thread in waiting:
            thread.start()
        servers.poll("them to be on their way", lambda: len(site.calls) == 4, every=0.001)
        with within(TIMEOUT / 2):
            for client in members * 5:
                good(client, "/untouched")
        assert all(thread.is_alive() for thread in waiting)
        for thread in waiting:
            thread.join(BOUND)
            assert not thread.is_alive()
    assert [read(member) for member in members] == [ANN] * 4


def test_fault_05_a_thousand_requests_wait_a_few_times_and_not_a_thousand(
    tmp_path: Path, open_site: OpenSite, record_property: Callable[[str, object], None]
) -> None:
    timeout = 0.4
    took = []
    with servers.running(min(servers.binaries()), tmp_path) as server:
        site = open_site(server.url, store_timeout=timeout)
        member = site.member()
        with server.paused():
            for _ in range(1000):
                watch = Stopwatch()
                assert member.get("/read").status_code == 503
                took.append(watch.read())
                assert sum(took) < 60
        back = servers.poll("it", lambda: member.get("/read").status_code == 200, every=0.01)
        assert back < 1
        assert read(member) == ANN
    took.sort()
    record_property("median, circuit open", f"{took[500] * 1000:.2f} ms")
    assert took[500] < 0.02  # 5 ms are the target; this machine may be busy
    assert took[989] < timeout * 1.5
    assert sum(t > timeout / 2 for t in took) <= FAILURES + 1 + sum(took) / PROBE_INTERVAL
