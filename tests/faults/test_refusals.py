"""Rows 14 and 15: the server must not be written to, or has no memory left."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from flask_safesession.events import StoreStateChanged

from ..support import servers
from ..support.faults_kit import (
    ANN,
    CHANGES,
    FIRSTS,
    IDLE,
    OpenSite,
    age,
    assert_whole,
    cookie_of,
    good,
    outage,
    read,
    records,
    refused_scripts,
)

pytestmark = pytest.mark.faults


# -- 14: a server that must not be written to ---------------------------------------------------


REFUSE = [
    pytest.param(servers.no_replicas, "min-replicas-to-write", id="NOREPLICAS"),
    pytest.param(servers.no_snapshots, "its disk", id="MISCONF"),
]


@pytest.mark.parametrize(("refusing", "fix"), REFUSE)
def test_fault_14_where_writes_are_refused_changes_are_a_503_and_sessions_are_read(
    own: servers.Server, open_site: OpenSite, refusing: Any, fix: str
) -> None:
    site = open_site(own.url)
    member = site.member()
    with refusing(own):
        assert read(member) == ANN
        for path in CHANGES:
            outage(member, path)
            assert fix in site.errors()
            assert read(member) == ANN
        for path in FIRSTS:
            stranger = site.visitor()
            outage(stranger, path)
            assert cookie_of(stranger) is None
        assert set(site.safe.servers().values()) == {"closed"}, "it does answer"
    good(member, "/add/fig")
    assert len(records(own)) == 1
    assert_whole(site, own)


@pytest.mark.parametrize(("refusing", "fix"), REFUSE)
def test_fault_14_a_session_is_read_also_where_its_slide_is_refused(
    own: servers.Server, open_site: OpenSite, refusing: Any, fix: str
) -> None:
    site = open_site(own.url)  # a slide is due half a minute after the last one
    member = site.member()
    age(own, 60_000)
    with refusing(own):
        assert read(member) == ANN
    age(own, IDLE - 90_000)
    assert read(member) == ANN
    age(own, IDLE - 10_000)
    assert read(member) == ANN, "that one has slid"


def test_fault_14_a_replica_that_lost_its_master_is_a_bounded_503(
    own: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(own.url)
    member = site.member()
    own.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    own.ask("REPLICAOF", "127.0.0.1", servers.free_port())
    for path in ("/read", *CHANGES):
        before = refused_scripts(own)
        outage(member, path)
        assert 2 < refused_scripts(own) - before <= 5, "asked again, a few times"
        assert "MasterDown" in site.errors()
    outage(site.visitor(), "/add/fig")
    assert site.take_events(StoreStateChanged) == []
    own.ask("REPLICAOF", "NO", "ONE")
    assert read(member) == ANN
    assert_whole(site, own)


# -- 15: out of memory --------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_15_at_maxmemory_reads_slides_and_logouts_go_on_and_the_rest_fails_whole(
    own: servers.Server, open_site: OpenSite, shards: int
) -> None:
    site = open_site(own.url, shards=shards, touch_interval=0, max_sessions=12)
    paths = ["/read", *CHANGES, "/swap/fig"]
    members = {path: site.member(path.split("/")[1]) for path in paths}
    before = {path: read(member) for path, member in members.items()}
    stored = records(own)
    own.ask("CONFIG", "SET", "maxmemory", 1)
    for path in ("/add/fig", "/login/eve", "/renew"):
        outage(members[path], path)
        assert read(members[path]) == before[path]
    for path in FIRSTS * 3:  # the cap would be reached, too
        outage(site.visitor(), path)
    assert records(own).keys() == stored.keys()
    for path in ("/logout", "/empty"):
        assert "Max-Age=0" in good(members[path], path).headers["Set-Cookie"]
        assert read(members[path]) == {}
    outage(members["/swap/fig"], "/swap/fig")
    assert read(members["/swap/fig"]) == {}, "the cart cannot be kept, the logout holds"
    reader = members["/read"]
    for _ in range(3):  # a slide each time, though nothing can be written
        age_at_maxmemory(own, IDLE - 60_000)
        assert read(reader) == before["/read"]
    assert_whole(site, own)
    assert read(open_site(own.url, shards=shards).visitor(like=reader)) == before["/read"]
    own.ask("CONFIG", "SET", "maxmemory", 0)
    good(reader, "/add/fig")
    assert_whole(site, own)


def age_at_maxmemory(server: servers.Server, milliseconds: int) -> None:
    server.ask("CONFIG", "SET", "maxmemory", 0)
    age(server, milliseconds)
    server.ask("CONFIG", "SET", "maxmemory", 1)


def test_fault_15_the_purge_job_goes_on_at_maxmemory(
    own: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(own.url, check_interval="1h")
    for n in range(30):
        good(site.visitor(), f"/add/{n}")
    age(own, IDLE)
    member = site.member()
    due = len(records(own)) - 1  # the newcomer has removed a few
    own.ask("CONFIG", "SET", "maxmemory", 1)
    report = site.app.extensions["safesession"].job.run()
    assert (report.due, report.repaired) == (due, 0)
    assert site.safe.count() == 1
    assert read(member) == ANN


def test_fault_15_a_server_that_fills_up_has_nothing_half_done(
    own: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(own.url)
    used = own.ask("INFO", "memory")["used_memory"]
    own.ask("CONFIG", "SET", "maxmemory", used + 800_000)
    stored: list[FlaskClient] = []
    refused = 0
    while refused < 20:
        client = site.visitor()
        path = f"/add/{len(stored)}-{'x' * 30_000}"
        if client.get(path).status_code == 200:
            stored.append(client)
        else:
            assert cookie_of(client) is None
            refused += 1
        for some in stored[:2]:
            assert len(read(some)["cart"]) == 1
    assert len(stored) > 10
    assert len(records(own)) == len(stored)
    assert "maxmemory" in site.errors()
    for client in stored[: len(stored) // 2]:
        good(client, "/logout")
    good(site.visitor(), "/add/fig")  # there is room again
    assert_whole(site, own)
