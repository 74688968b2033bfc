"""Rows 10 and 27: idle connections that are closed, and too few of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from flask_safesession.events import StoreFailed, StoreStateChanged
from flask_safesession.testing.kit import together

from ..support import proxy as proxies
from ..support import servers
from ..support.faults_kit import (
    AFTER,
    ANN,
    BOUND,
    CHANGES,
    FIRSTS,
    TIMEOUT,
    OpenSite,
    assert_whole,
    cookie_of,
    good,
    outage,
    read,
    records,
)

pytestmark = pytest.mark.faults


# -- 10: idle connections closed by the server --------------------------------------------------


@pytest.mark.parametrize("path", [*AFTER, *(f"first {path}" for path in FIRSTS)])
def test_fault_10_idle_connections_that_the_server_closed_are_not_noticed(
    steady: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(steady.url)
    client = site.visitor() if path.startswith("first") else site.member()
    others = [site.member() for _ in range(4)]
    together(4, lambda n: read(others[n]))  # several connections
    steady.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    good(client, path.removeprefix("first "))
    assert site.take_events(StoreFailed) == []
    first: dict[str, dict[str, Any]] = {
        "first /add/fig": {"cart": ["fig"]},
        "first /login/eve": {"user_id": "eve"},
    }
    assert read(client) == {**AFTER, **first}[path]
    assert_whole(site, steady)


def test_fault_10_the_servers_own_timeout_for_idle_connections_is_not_noticed(
    own: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(own.url)
    member = site.member()
    own.ask("CONFIG", "SET", "timeout", "1")
    with own.client(client_name="admin", single_connection_client=True) as admin:
        servers.poll("the server to close it", lambda: len(admin.client_list()) == 1)
    assert read(member) == ANN
    good(site.visitor(), "/add/fig")
    assert site.take_events(StoreFailed) == []


# -- 27: too few connections --------------------------------------------------------------------


def limited(url: str, connections: int) -> redis.Redis:
    return redis.Redis.from_url(url, max_connections=connections)


def test_fault_27_more_requests_than_connections_wait_for_their_turn(
    proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    with limited(proxy.url, 2) as client:
        site = open_site(client)
        before = proxy.connections
        members = [site.member(f"user {n}") for n in range(8)]
        proxy.delay = 0.02  # a call takes time, so that they meet
        found = together(8, lambda n: [read(members[n])["user_id"] for _ in range(5)])
        assert found == [[f"user {n}"] * 5 for n in range(8)]
        assert proxy.connections - before == 2


def test_fault_27_who_gets_no_connection_in_time_is_told_so(
    proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    site = open_site(f"{proxy.url}?max_connections=1", store_timeout=TIMEOUT)
    members = [site.member() for _ in range(12)]
    site.take()
    proxy.silent = True
    holding = threading.Thread(target=outage, args=(members[0], "/read", BOUND))
    holding.start()
    servers.poll("the holder", lambda: site.calls, every=0.001)
    together(11, lambda n: outage(members[n + 1], "/read", BOUND))
    holding.join(10)
    failed = [event.error for event in site.take_events(StoreFailed)]
    assert any("connections came free" in error for error in failed)
    proxy.fix()
    proxy.cut_all()
    servers.poll("the site", lambda: members[0].get("/read").status_code == 200, every=0.01)
    assert [read(member) for member in members] == [ANN] * 12


def test_fault_27_a_busy_pool_does_not_open_the_circuit_of_a_server_that_is_well(
    proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    site = open_site(f"{proxy.url}?max_connections=4", store_timeout=TIMEOUT)
    members = [site.member() for _ in range(24)]
    together(4, lambda n: read(members[n]))
    proxy.delay = TIMEOUT / 3  # all calls that are sent at once are answered in time
    found = together(24, lambda n: members[n].get("/read").status_code)
    assert {200, 503} == set(found)
    assert site.take_events(StoreStateChanged) == []


def test_fault_27_a_change_and_a_first_visit_that_get_no_connection_store_nothing(
    steady: servers.Server, proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    site = open_site(f"{proxy.url}?max_connections=1", store_timeout=TIMEOUT)
    holder, *members = (site.member() for _ in range(1 + len(CHANGES)))
    good(holder, "/add/fig")
    stored = records(steady)
    proxy.silent = True
    holding = threading.Thread(target=outage, args=(holder, "/read", BOUND))
    site.take()
    holding.start()
    servers.poll("the holder", lambda: site.calls, every=0.001)
    paths = list(CHANGES)
    together(len(paths), lambda n: outage(members[n], paths[n], bound=BOUND + TIMEOUT))
    outage(site.visitor(), "/add/fig", bound=BOUND + TIMEOUT)
    holding.join(10)
    proxy.fix()
    proxy.cut_all()
    servers.poll("the site", lambda: holder.get("/read").status_code == 200, every=0.01)
    assert [read(member) for member in members] == [ANN] * len(paths)
    assert records(steady).keys() == stored.keys()
    assert cookie_of(holder)
