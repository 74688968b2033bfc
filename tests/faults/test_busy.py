"""Rows 16 to 18: the server loads its data, runs somebody's script, has forgotten ours."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from flask_safesession.events import ReplicasMissing
from flask_safesession.stores.redis import scripts

from ..support import servers
from ..support.faults_kit import (
    ANN,
    BOUND,
    CHANGES,
    FIRSTS,
    TIMEOUT,
    OpenSite,
    assert_whole,
    good,
    outage,
    read,
    records,
    refused_scripts,
)

pytestmark = pytest.mark.faults


# -- 16: loading --------------------------------------------------------------------------------


@contextmanager
def loading(server: servers.Server) -> Iterator[None]:
    """Restart it; it loads its data until the end of the ``with`` block."""
    server.command += [
        "--key-load-delay",
        "5000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]
    server.restart()
    assert server.ask("INFO", "persistence")["loading"] == 1
    yield
    server.ask("CONFIG", "SET", "key-load-delay", 0)


def fill(server: servers.Server) -> None:
    """So much that loading takes longer than the test.

    A server that loads looks up after each kilobyte, of a snapshot only.
    """
    with server.client() as client:
        client.mset({f"other:{n}": os.urandom(1100) for n in range(2000)})
    server.ask("BGREWRITEAOF")
    servers.poll("a snapshot", lambda: _has_rewritten(server.ask("INFO", "persistence")))


def _has_rewritten(info: dict[str, Any]) -> bool:
    return bool(info["aof_rewrites"] == 1 and info["aof_rewrite_in_progress"] == 0)


def test_fault_16_a_server_that_loads_its_data_is_a_bounded_503(
    kept: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(kept.url)
    member = site.member()
    fill(kept)
    with loading(kept):
        for path in ("/read", *CHANGES):
            before = refused_scripts(kept)
            outage(member, path)
            assert 2 < refused_scripts(kept) - before <= 5, "asked again, a few times"
            assert "Loading" in site.errors()
        for path in FIRSTS:
            outage(site.visitor(), path)
        outage(open_site(kept.url).visitor(like=member), "/read")
        assert set(site.safe.servers().values()) == {"closed"}, "it does answer"
    servers.poll("the site", lambda: member.get("/read").status_code == 200)
    assert read(member) == ANN
    assert_whole(site, kept)


def test_fault_16_a_load_that_ends_in_a_moment_is_not_noticed(
    kept: servers.Server, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "_PAUSES", (0.02,) * 500)  # else the moment would be a short one
    site = open_site(kept.url)
    members = [site.member() for _ in range(2)]
    fill(kept)
    with loading(kept):
        asked = refused_scripts(kept)
        waiting = [
            threading.Thread(target=good, args=(members[0], "/add/fig")),
            threading.Thread(target=good, args=(site.visitor(), "/add/fig")),
        ]
        for thread in waiting:
            thread.start()
        servers.poll("them", lambda: refused_scripts(kept) - asked >= 2, every=0.001)
    for thread in waiting:
        thread.join(20)
    assert read(members[0])["cart"] == ["pear", "fig"]
    assert len(records(kept)) == 3


# -- 17: busy with a script of somebody else's --------------------------------------------------


@contextmanager
def busy(server: servers.Server) -> Iterator[list[str]]:
    """What ended somebody's endless script is in the list, at the end of the ``with`` block."""
    server.ask("CONFIG", "SET", "lua-time-limit", 50)
    ended: list[str] = []

    def run() -> None:
        with server.client() as client:
            try:
                client.eval("while true do end", 0)
            except redis.RedisError as error:
                ended.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    servers.poll("a busy server", lambda: _is_busy(server))
    yield ended
    assert _is_busy(server)
    assert not ended
    server.ask("SCRIPT", "KILL")
    thread.join(20)


def _is_busy(server: servers.Server) -> bool:
    try:
        server.ask("PING")
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def test_fault_17_somebodys_long_script_is_a_503_and_is_left_alone(
    own: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(own.url)
    members = {path: site.member() for path in ("/read", *CHANGES)}
    with busy(own) as ended:
        for path, member in members.items():
            outage(member, path)
            assert "SCRIPT KILL" in site.errors()
        for path in FIRSTS:
            outage(site.visitor(), path)
        outage(open_site(own.url).visitor(like=members["/read"]), "/read")
        assert site.app.extensions["safesession"].job.run() is None
        assert set(site.safe.servers().values()) == {"closed"}, "it does answer"
    assert ["kill" in text.lower() for text in ended] == [True]
    assert [read(member) for member in members.values()] == [ANN] * len(members)
    assert_whole(site, own)


# -- 18: SCRIPT FLUSH ---------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_18_forgotten_scripts_are_not_noticed(
    steady: servers.Server, open_site: OpenSite, shards: int
) -> None:
    site = open_site(steady.url, shards=shards, check_interval="1h")

    def forget() -> object:
        return steady.ask("SCRIPT", "FLUSH")

    for path in ("/read", *CHANGES):
        member = site.member()
        site.during = forget
        forget()
        good(member, path)
    for path in FIRSTS:
        forget()
        good(site.visitor(), path)
    site.during = bool
    for call in (site.safe.count, site.safe.purge, site.app.extensions["safesession"].job.run):
        forget()
        assert call() is not None
    assert site.errors() == ""
    assert_whole(site, steady)


def test_fault_18_a_logout_that_waits_for_replicas_is_still_in_time(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url, wait_replicas=1, store_timeout=TIMEOUT)
    member = site.member()
    site.strike(lambda: steady.ask("SCRIPT", "FLUSH"))
    site.slowest = 0
    good(member, "/logout")
    assert site.slowest < BOUND
    assert len(site.take_events(ReplicasMissing)) == 1
    assert read(member) == {}
