"""Row 7: there is no server; after a row of failures, one probe at a time looks for it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flask_safesession.events import StoreFailed, StoreStateChanged
from flask_safesession.stores.remote.breaker import PROBE_INTERVAL
from flask_safesession.testing.kit import together

from ..support import proxy as proxies
from ..support import servers
from ..support.faults_kit import (
    ANN,
    BOUND,
    FIRSTS,
    TIMEOUT,
    OpenSite,
    Site,
    open_circuit,
    outage,
    read,
)

pytestmark = pytest.mark.faults


@pytest.fixture
def nowhere() -> Iterator[proxies.Proxy]:
    """A proxy before a port that nobody listens on: it counts who comes."""
    with proxies.before(servers.free_port()) as made:
        yield made


def test_fault_07_a_refused_connection_is_told_at_once(open_site: OpenSite) -> None:
    site = open_site(f"redis://127.0.0.1:{servers.free_port()}/0")
    for path in FIRSTS:
        outage(site.visitor(), path)
    (failed, _) = site.take_events(StoreFailed)
    assert "refused" in failed.error


def test_fault_07_after_a_row_of_failures_nobody_is_sent_but_one_probe_at_a_time(
    nowhere: proxies.Proxy, open_site: OpenSite
) -> None:
    site = open_site(nowhere.url)
    open_circuit(site)
    assert site.take_events(StoreStateChanged) == [
        StoreStateChanged(f"127.0.0.1:{nowhere.port}", "open")
    ]
    before, started = nowhere.connections, time.monotonic()
    visitors = [site.visitor() for _ in range(8)]
    while time.monotonic() < started + PROBE_INTERVAL * 2.5:
        together(8, lambda n: outage(visitors[n], "/add/fig"))
    probes = nowhere.connections - before
    assert 1 <= probes <= (time.monotonic() - started) / PROBE_INTERVAL + 1
    assert site.take_events(StoreStateChanged) == [], "said once"


def test_fault_07_while_a_probe_is_under_way_nobody_else_waits(
    kept: servers.Server, open_site: OpenSite
) -> None:
    with proxies.before(kept.port) as proxy:
        site = open_site(proxy.url, store_timeout="3s")
        member = site.member()
        proxy.refuse = True
        proxy.cut_all()
        open_circuit(site)
        proxy.refuse, proxy.silent = False, True
        probe = threading.Thread(target=_until_it_waits, args=(site, proxy))
        probe.start()
        servers.poll("a probe", lambda: proxy.connections >= 2, every=0.001)
        servers.poll("half-open", lambda: set(site.safe.servers().values()) == {"half-open"})
        for _ in range(20):
            outage(member, "/read", bound=1)
        proxy.fix()
        proxy.cut_all()
        probe.join(10)
        servers.poll("the site", lambda: member.get("/read").status_code == 200, every=0.01)
        assert read(member) == ANN


def _until_it_waits(site: Site, proxy: proxies.Proxy) -> None:
    visitor = site.visitor()
    while proxy.silent:
        visitor.get("/add/fig")


def test_fault_07_the_circuit_closes_when_a_server_is_there(
    kind: str, tmp_path: Any, open_site: OpenSite
) -> None:
    port = servers.free_port()
    site = open_site(f"redis://127.0.0.1:{port}/0")
    open_circuit(site)
    with servers.running(kind, tmp_path, port=port):
        visitor = site.visitor()
        servers.poll("the site", lambda: visitor.get("/add/fig").status_code == 200, every=0.01)
        assert site.safe.servers() == {f"127.0.0.1:{port}": "closed"}
        assert [event.state for event in site.take_events(StoreStateChanged)] == ["open", "closed"]
        assert read(visitor) == {"cart": ["fig"]}


def test_fault_07_an_unknown_host_is_a_bounded_503(open_site: OpenSite) -> None:
    site = open_site("redis://nobody.invalid:6379/0", store_timeout=TIMEOUT)
    for path in FIRSTS:
        outage(site.visitor(), path, bound=BOUND)


def test_fault_07_a_resolver_that_hangs_costs_one_timeout(
    monkeypatch: pytest.MonkeyPatch, open_site: OpenSite
) -> None:
    asked, answer = [], threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        answer.wait(30)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with contextlib.ExitStack() as stack:
        stack.callback(answer.set)
        site = open_site("redis://slow.invalid:6379/0", store_timeout=TIMEOUT)
        visitors = [site.visitor() for _ in range(4)]
        together(4, lambda n: outage(visitors[n], "/add/fig", bound=BOUND))
        assert len(asked) == 1, "one thread that hangs is enough"
