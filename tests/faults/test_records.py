"""Rows 19 and 20: what stands in the place of a session, and is none."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from flask_safesession.events import StoreFailed

from ..support import servers
from ..support.faults_kit import (
    ANN,
    CHANGES,
    IDLE,
    OpenSite,
    age,
    assert_whole,
    cookie_of,
    entries,
    good,
    only_record,
    read,
    reasons,
    records,
    use_until_noted,
)
from ..support.security_kit import before_payload

pytestmark = pytest.mark.faults


# -- 19: a key of the wrong type ----------------------------------------------------------------

FOREIGN = {
    "list": ("RPUSH", "theirs"),
    "hash": ("HSET", "theirs", "1"),
    "set": ("SADD", "theirs"),
    "sorted set": ("ZADD", "1", "theirs"),
    "stream": ("XADD", "*", "theirs", "1"),
    "number": ("INCRBY", "7"),
    "bits": ("SETBIT", "100", "1"),
}


@pytest.mark.parametrize("command", FOREIGN.values(), ids=FOREIGN)
def test_fault_19_a_foreign_key_is_a_stranger_and_stays_as_it_is(
    steady: servers.Server, open_site: OpenSite, command: tuple[str, ...]
) -> None:
    site = open_site(steady.url)
    member, other = site.member(), site.member("bob")
    site.during = lambda: None
    name = next(name for name, raw in records(steady).items() if b"ann" in raw)
    verb, *args = command
    steady.ask("DEL", name)
    steady.ask(verb, name, *args)
    before = steady.ask("DUMP", name)
    site.take_events()
    for path in ("/read", "/renew", "/logout", "/empty", "/add/fig", "/login/ann"):
        client = site.visitor(like=member)
        good(client, path)
        assert steady.ask("DUMP", name) == before, path
        assert (cookie_of(client) != cookie_of(member)) == (path == "/login/ann")
        if path == "/add/fig":
            assert read(client) == {"cart": ["fig"]}
    assert reasons(site) == ["corrupt"], "once"
    assert read(client) == {"user_id": "ann", "cart": ["fig"]}
    assert read(other) == {**ANN, "user_id": "bob"}
    for _ in range(2):
        site.safe.purge()
    assert steady.ask("DUMP", name) == before
    assert site.safe.count() == 2
    assert name[-18:] not in entries(steady)
    assert site.take_events(StoreFailed) == []


def test_fault_19_a_foreign_key_that_is_due_by_the_index_stays_as_it_is(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url)
    site.member()
    name = only_record(steady)
    age(steady, IDLE)
    steady.ask("DEL", name)
    steady.ask("RPUSH", name, "theirs")
    assert site.safe.purge().due == 1
    assert entries(steady) == []
    assert steady.ask("LRANGE", name, 0, -1) == [b"theirs"]


@pytest.mark.parametrize("path", CHANGES)
def test_fault_19_a_foreign_key_that_comes_between_load_and_save_stays_as_it_is(
    steady: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(steady.url)
    member = site.member()
    name = only_record(steady)

    def replace() -> None:
        steady.ask("DEL", name)
        steady.ask("RPUSH", name, "theirs")

    site.strike(replace)
    good(member, path)
    assert steady.ask("LRANGE", name, 0, -1) == [b"theirs"]
    if path != "/login/eve":
        assert cookie_of(member) or path in ("/logout", "/empty")
        assert read(member) == {}
    else:
        assert read(member) == {"user_id": "eve"}


def test_fault_19_an_index_of_the_wrong_type_is_a_503_and_stays_as_it_is(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url)
    member = site.member()
    use_until_noted(steady, member)  # so that the next use needs no index
    kinds = {name.decode().partition("}:")[2][:2] for name in steady.ask("KEYS", "*")}
    assert {"t:", "u:", "ti"} <= kinds
    for name in [n for n in steady.ask("KEYS", "*") if b":s:" not in n]:
        steady.ask("RENAME", name, "aside")
        steady.ask("SET", name, "theirs")
        for path in ("/read", "/add/fig", "/login/ann"):
            client = site.visitor()
            response = client.get(path)
            assert response.status_code in (200, 503)
            assert ("Set-Cookie" in response.headers) == (cookie_of(client) is not None)
        assert read(member) == ANN
        assert steady.ask("GET", name) == b"theirs"
        steady.ask("RENAME", "aside", name)
    site.command("purge")
    assert_whole(site, steady)


# -- 20: corrupt, truncated, over-long, unknown -------------------------------------------------


def damages(raw: bytes) -> dict[str, bytes]:
    """What may have become of a record."""
    chance = random.Random(20)
    found = {f"cut at {at}": raw[:at] for at in (*range(100), len(raw) - 1)}
    for at in range(len(raw)):
        for _ in range(2):
            flipped = bytearray(raw)
            flipped[at] = chance.randrange(256)
            found[f"byte {at} is {flipped[at]}"] = bytes(flipped)
    head = before_payload(raw)
    payloads = [
        b"",
        b"\xc1",
        b"\x93",
        b"\xdf\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\x01",
        b"\x80\x80",
    ]
    payloads += [chance.randbytes(60) for _ in range(40)]
    found |= {f"payload {payload[:8]!r}": head + payload for payload in payloads}
    found["too long"] = raw + b"x"
    found["far too long"] = raw + b"\x00" * 3_000_000
    for magic in (b"SS0", b"SSx", b"ss1", b"S\xff1", b"\x00\x00\x00", b"SST"):
        found[f"magic {magic!r}"] = magic + raw[3:]
    return found


def test_fault_20_a_damaged_record_is_a_stranger_or_still_ones_own_and_never_an_error(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url)
    member, other = site.member(), site.member("bob", "grape")
    name, raw = next((name, raw) for name, raw in records(steady).items() if b"ann" in raw)
    strangers = 0
    site.app.testing = True  # an exception is one of the test's
    for damage, bytes_ in damages(raw).items():
        if bytes_[:3] in {b"SS%d" % n for n in range(2, 10)}:
            continue  # a newer version's: row 21
        steady.ask("SET", name, bytes_)
        site.take_events()
        found = read(member)
        assert "grape" not in str(found), damage
        if found == {}:
            strangers += 1
            told = reasons(site)
            assert told in (["corrupt"], ["idle"], ["lifetime"], ["revoked"], []), damage
        assert cookie_of(member), damage
    assert strangers > 150
    steady.ask("SET", name, raw)
    assert site.take_events(StoreFailed) == []
    assert read(other) == {"user_id": "bob", "cart": ["grape"]}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half a head": lambda raw: raw[:50],
    "no payload": before_payload,
    "half a note": lambda raw: raw[:103],
    "half a payload": lambda raw: raw[: len(before_payload(raw)) + 7],
    "something before it": lambda raw: b"?" + raw,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_fault_20_a_damaged_session_is_told_and_followed_by_a_new_one(
    steady: servers.Server, open_site: OpenSite, damage: Callable[[bytes], bytes]
) -> None:
    site = open_site(steady.url)
    member = site.member()
    before = cookie_of(member)
    use_until_noted(steady, member)
    ((name, raw),) = records(steady).items()
    steady.ask("SET", name, damage(raw))
    good(member, "/add/fig")
    assert cookie_of(member) == before, "another session stands in for it"
    assert reasons(site) == ["corrupt"]
    assert read(member) == {"cart": ["fig"]}
    assert steady.ask("GET", name) == damage(raw), "who knows what it is"
    age(steady, IDLE)
    site.command("purge")
    assert entries(steady) == []


def half_a_head(raw: bytes) -> bytes:
    return raw[:60]


def half_a_payload(raw: bytes) -> bytes:
    """Of somebody else's write, so that there would be something to merge."""
    return raw[:3] + b"?" * 21 + raw[24 : len(before_payload(raw)) + 2]


HALVES = [half_a_head, half_a_payload]


@pytest.mark.parametrize("damage", HALVES)
def test_fault_20_a_login_goes_on_without_a_record_that_was_damaged_meanwhile(
    steady: servers.Server, open_site: OpenSite, damage: Callable[[bytes], bytes]
) -> None:
    site = open_site(steady.url)
    member = site.member()
    ((name, raw),) = records(steady).items()
    site.strike(lambda: steady.ask("SET", name, damage(raw)))
    good(member, "/login/eve")
    assert read(member) == {"user_id": "eve"}


@pytest.mark.parametrize("path", CHANGES)
def test_fault_20_a_record_that_is_damaged_between_load_and_save_is_not_written_back(
    steady: servers.Server, open_site: OpenSite, path: str
) -> None:
    site = open_site(steady.url)
    for damage in (half_a_head, half_a_payload):
        steady.ask("FLUSHALL")
        member = site.member()
        ((name, raw),) = records(steady).items()
        site.strike(partial(steady.ask, "SET", name, damage(raw)))
        good(member, path)
        assert "user_id" not in read(member) or path == "/login/eve"
        site.command("purge")
        assert site.command("purge")["repaired"] == 0
        # What cannot be read is left to its end; a login goes on without it.
        assert site.safe.count() == len(entries(steady)) <= 1 + (path == "/login/eve")
