"""Rows 21 and 24: sessions of a newer version, and sessions without time left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flask_safesession.events import SessionEnded, SessionLost, StoreFailed
from flask_safesession.model.record import loads

from ..support import servers
from ..support.faults_kit import (
    ANN,
    CHANGES,
    IDLE,
    MINUTE,
    OpenSite,
    age,
    assert_whole,
    entries,
    good,
    only_record,
    outage,
    read,
    reasons,
    records,
)

pytestmark = pytest.mark.faults


# -- 21: old and new versions on one store ------------------------------------------------------


NEW = b"and something new"


def newer(server: servers.Server, name: str) -> bytes:
    raw: bytes = (
        b"SS2" + server.ask("GET", name)[3:].replace(b"pear", b"PEAR") + b"and something new"
    )
    server.ask("SET", name, raw, "KEEPTTL")
    return raw


def test_fault_21_a_newer_versions_session_is_a_503_and_is_never_overwritten(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url, max_sessions_per_user=2)
    member, other = site.member(), site.member("bob")
    name = next(name for name, raw in records(steady).items() if b"ann" in raw)
    raw = newer(steady, name)
    for path in ("/read", *CHANGES):
        outage(member, path)
        assert "newer version" in site.take_events(StoreFailed)[0].error
    for _ in range(4):  # the user's cap counts it, too
        good(site.visitor(), "/login/ann")
    for _ in range(3):
        site.safe.purge()
    site.command("purge")
    assert steady.ask("GET", name) == raw
    assert name[-18:] in entries(steady)
    assert site.safe.count() == 3
    assert read(other) == {**ANN, "user_id": "bob"}
    steady.ask("SET", name, b"SS1" + raw[3:].removesuffix(NEW), "KEEPTTL")
    assert read(member) == {"user_id": "ann", "cart": ["PEAR"]}
    assert_whole(site, steady)


@pytest.mark.parametrize("path", CHANGES)
def test_fault_21_a_new_worker_that_is_faster_is_not_overwritten_by_an_old_one(
    steady: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(steady.url)
    member = site.member()
    name = only_record(steady)
    written: list[bytes] = []
    site.strike(lambda: written.append(newer(steady, name)))
    outage(member, path)
    assert [steady.ask("GET", name)] == written
    assert len(records(steady)) == 1


def test_fault_21_a_newer_versions_sessions_are_purged_when_they_are_due(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url)
    ended = [site.member(f"user {n}") for n in range(3)]
    names = list(records(steady))
    member = site.member()
    for name in names:
        newer(steady, name)
    with steady.client() as client:  # it is the newer version that had not used them for so long
        for bucket in client.scan_iter("*:t:*"):
            for entry in client.zrange(bucket, 0, -1):
                if entry[:18].decode() in str(names):
                    client.zincrby(bucket, -IDLE, entry)
    assert site.safe.purge().due == 3
    assert [read(client) for client in ended] == [{}] * 3
    assert read(member) == ANN
    assert_whole(site, steady)


# -- 24: no time left ---------------------------------------------------------------------------


def set_times(server: servers.Server, name: str, **times: int) -> None:
    """Write times into a record: its creation, last use, absolute deadline, idle allowance."""
    at = {"created": 24, "last": 35, "absolute": 46, "idle": 57}
    for field, value in times.items():
        text = f"{value:010x}" if field == "idle" else f"{value:011x}"
        server.ask("SETRANGE", name, at[field], text)


TIMES: dict[str, Callable[[Any], dict[str, int]]] = {
    "none at all": lambda r: {"absolute": 0, "idle": 0, "last": 0, "created": 0},
    "no idle time": lambda r: {"idle": 0},
    "ended when it began": lambda r: {"absolute": r.created},
    "ended before it began": lambda r: {"absolute": r.created - 1},
    "a millisecond ago": lambda r: {"last": r.last_active - r.idle - 1},
    "years ago": lambda r: {"last": 1, "created": 1, "absolute": 2},
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("path", ["/read", *CHANGES])
def test_fault_24_a_session_without_time_left_has_ended(
    steady: servers.Server, open_site: OpenSite, times: Callable[[Any], dict[str, int]], path: str
) -> None:
    site = open_site(steady.url)
    member = site.member()
    ((name, raw),) = records(steady).items()
    set_times(steady, name, **times(loads(raw)))
    good(member, path)
    assert len(site.take_events(SessionEnded)) == 1
    assert steady.ask("GET", name) is None
    assert "pear" not in str(read(member))
    assert_whole(site, steady)


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("path", CHANGES)
def test_fault_24_time_that_ran_out_during_the_request_ended_the_session(
    steady: servers.Server, open_site: OpenSite, times: Callable[[Any], dict[str, int]], path: str
) -> None:
    site = open_site(steady.url)
    member = site.member()
    ((name, raw),) = records(steady).items()
    site.strike(lambda: set_times(steady, name, **times(loads(raw))))
    good(member, path)
    assert reasons(site) in (["idle"], ["lifetime"])
    lost = site.take_events(SessionLost)
    assert len(lost) == (path in ("/add/fig", "/renew"))
    assert steady.ask("GET", name) is None
    assert read(member) == ({"user_id": "eve"} if path == "/login/eve" else {})
    assert_whole(site, steady)


@pytest.mark.parametrize("path", ["/read", *CHANGES])
def test_fault_24_a_deploy_with_shorter_limits_ends_what_is_over_them(
    steady: servers.Server, open_site: OpenSite, path: str
) -> None:
    before, after = open_site(steady.url), open_site(steady.url, lifetime="10m", idle_timeout="5m")
    member = before.member()
    age(steady, 10 * MINUTE)
    before.strike(lambda: good(after.visitor(like=member), "/read"))  # both are there for a while
    good(member, path)
    if path != "/read":
        assert [event.reason for event in after.take_events(SessionEnded)] == ["lifetime"]
    assert "pear" not in str(read(after.visitor(like=member)))
    assert_whole(after, steady)
