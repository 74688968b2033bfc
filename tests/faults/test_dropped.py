"""Row 32: keys that the server drops by itself, or is told to."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from flask_safesession.events import SessionLost, StoreFailed

from ..support import servers
from ..support.faults_kit import CHANGES, OpenSite, assert_whole, cookie_of, good, read, records

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("policy", ["volatile-lru", "volatile-ttl", "allkeys-random"])
def test_fault_32_whose_session_the_server_evicted_is_a_stranger_and_counts_heal(
    own: servers.Server, open_site: OpenSite, policy: str
) -> None:
    site = open_site(own.url)
    own.ask("CONFIG", "SET", "maxmemory-policy", policy)
    own.ask("CONFIG", "SET", "maxmemory", own.ask("INFO", "memory")["used_memory"] + 600_000)
    members: list[FlaskClient] = []
    while own.ask("INFO", "stats")["evicted_keys"] < 12:
        member = site.visitor()
        for path in (f"/add/{'x' * 20_000}", "/login/ann") if len(members) % 2 else ("/add/pear",):
            assert member.get(path).status_code in (200, 503)
        members.append(member)
        assert len(members) < 1000
    site.take_events()
    own.ask("CONFIG", "SET", "maxmemory", 0)
    site.command("purge")
    left = [member for member in members if read(member)]
    assert len(left) < len(members)
    assert site.safe.count() == len(left) == len(records(own))
    assert_whole(site, own)
    assert site.take_events(StoreFailed) == []
    strangers = [member for member in members if member not in left]
    for member in strangers[:3]:
        good(member, "/login/ann")
        assert read(member) == {"user_id": "ann"}
    assert any(
        f"maxmemory-policy is {policy}" in one["text"] for one in site.command("check")["findings"]
    )


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_32_after_a_flush_all_are_strangers_and_everything_goes_on(
    steady: servers.Server, open_site: OpenSite, shards: int
) -> None:
    site = open_site(steady.url, shards=shards, check_interval="1h")
    members = [site.member(f"user {n}") for n in range(8)]
    steady.ask("FLUSHDB")
    assert site.safe.count() == 0
    assert [read(member) for member in members] == [{}] * 8
    assert site.app.extensions["safesession"].job.run() is not None
    for member in members:
        good(member, "/login/ann")
    assert site.safe.count() == 8
    assert [read(member) for member in members] == [{"user_id": "ann"}] * 8
    assert_whole(site, steady)


@pytest.mark.parametrize("path", CHANGES)
def test_fault_32_a_flush_in_the_middle_of_a_request_brings_nothing_back(
    steady: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(steady.url)
    member = site.member()
    before = cookie_of(member)
    site.strike(lambda: steady.ask("FLUSHDB"))
    good(member, path)
    assert len(site.take_events(SessionLost)) == (path in ("/add/fig", "/renew"))
    stored = 1 if path == "/login/eve" else 0
    assert len(records(steady)) == site.safe.count() == stored
    if stored:
        assert cookie_of(member) != before
    assert read(member) == ({"user_id": "eve"} if stored else {})
    assert_whole(site, steady)
