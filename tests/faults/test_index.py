"""Rows 30 and 31: index and records differ; purges that are killed, or meet."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from flask_safesession.stores.base import Live
from flask_safesession.testing import make_draft, new_key
from flask_safesession.testing.kit import together

from ..support import servers
from ..support.faults_kit import (
    ANN,
    IDLE,
    MINUTE,
    OpenSite,
    Site,
    age,
    assert_whole,
    entries,
    good,
    read,
    records,
)

pytestmark = pytest.mark.faults
Damage = Callable[[servers.Server], object]


def populate(site: Site, strangers: int) -> None:
    rules = site.app.extensions["safesession"].settings.rules
    for _ in range(strangers):
        assert isinstance(site.store.create(new_key(), make_draft(), rules), Live)


# -- 30: index and records differ ---------------------------------------------------------------


def keys(server: servers.Server, kind: str) -> list[bytes]:
    return sorted(server.ask("KEYS", f"{{safesession:*}}:{kind}*"))


def lose_records(server: servers.Server) -> None:
    for name in list(records(server))[::2]:
        server.ask("DEL", name)


def lose_entries(server: servers.Server) -> None:
    for bucket in keys(server, "t:"):
        for entry in server.ask("ZRANGE", bucket, 0, -1)[::2]:
            server.ask("ZREM", bucket, entry)


def lose_keys(kind: str) -> Damage:
    return lambda server: [server.ask("DEL", name) for name in keys(server, kind)]


def lose_the_index(server: servers.Server) -> None:
    for kind in ("t", "u:"):
        lose_keys(kind)(server)


def change_scores(server: servers.Server) -> None:
    for n, bucket in enumerate(keys(server, "t:")):
        for entry in server.ask("ZRANGE", bucket, 0, -1):
            server.ask("ZINCRBY", bucket, 100_000 if n % 2 else -100_000, entry)


def double_entries(server: servers.Server) -> None:
    """Each in another bucket, too, and under another user."""
    buckets = keys(server, "t:")
    for bucket, other in zip(buckets, buckets[1:] + buckets[:1], strict=True):
        slot = bucket.partition(b"}")[0]
        for entry in server.ask("ZRANGE", bucket, 0, -1)[:3]:
            if other.startswith(slot):
                server.ask("ZADD", other, 2**41, entry)
            server.ask("ZADD", bucket, 2**41, entry[:18] + b"0" * 16)


def add_to_users(server: servers.Server) -> None:
    for name in keys(server, "u:"):
        server.ask("ZADD", name, 1, new_key(), 2, new_key())


DAMAGES: dict[str, Damage] = {
    "records lost": lose_records,
    "entries lost": lose_entries,
    "users' entries lost": lose_keys("u:"),
    "tiers lost": lose_keys("tiers"),
    "index lost": lose_the_index,
    "all records lost": lose_keys("s:"),
    "other deadlines": change_scores,
    "entries twice": double_entries,
    "users' entries of nobody": add_to_users,
}


@pytest.mark.parametrize(
    "damage",
    [pytest.param(damage, id=name) for name, damage in DAMAGES.items()],
)
@pytest.mark.parametrize("shards", [1, 4])
def test_fault_30_the_next_purge_makes_index_and_records_agree(
    steady: servers.Server, open_site: OpenSite, shards: int, damage: Damage
) -> None:
    tiers = {"admin": {"idle_timeout": "1h", "lifetime": "2h"}}
    ways: dict[str, Any] = {"expiry": "tiered", "tiers": tiers, "tier_key": "user_id"}
    for how in ("safe.purge", "command"):
        steady.ask("FLUSHALL")
        site = open_site(steady.url, shards=shards, **ways)
        members = [site.member(name) for name in ("ann", "ann", "bob", "admin", "admin")]
        members += [site.visitor() for _ in range(5)]
        for member in members[5:]:
            good(member, "/add/pear")
        damage(steady)
        if how == "safe.purge":
            for _ in range(shards):  # a purge audits a slice; here a shard is less than that
                site.safe.purge()
        else:
            site.command("purge")
        left = [member for member in members if "cart" in read(member)]
        assert site.safe.count() == len(left) == len(records(steady))
        assert_whole(site, steady)
        for member in left:  # each is found by its user, too
            good(member, "/logout")
        for user in keys(steady, "u:"):
            assert steady.ask("ZCARD", user) == 0
        assert site.safe.count() == 0


# -- 31: purges that are killed, or meet --------------------------------------------------------

# Purges the store in the first argument session by session, and stands still after as many as the
# second one says: however late the signal comes, there is something left.
PURGE = """
import signal, sys
from itertools import count
from flask import Flask
from flask.cli import ScriptInfo
from flask_safesession import SafeSession
from flask_safesession.stores.redis import RedisStore

steps, purge = count(), RedisStore.purge

def step(self, rules, limit):
    if next(steps) == int(sys.argv[2]):
        signal.pause()
    return purge(self, rules, limit)

RedisStore.purge = step

app = Flask("purging")
app.secret_key = "a key for tests that is long enough"
SafeSession(app, store=sys.argv[1], check_interval=None)
app.cli.main(["safesession", "purge", "--batch", "1"], obj=ScriptInfo(create_app=lambda: app))
"""


def _has_under(server: servers.Server, number: int) -> bool:
    return len(entries(server)) < number


def test_fault_31_a_purge_that_is_killed_leaves_nothing_half_done_and_is_gone_on_with(
    steady: servers.Server, open_site: OpenSite
) -> None:
    site = open_site(steady.url)
    populate(site, 300)
    for _ in range(3):
        site.member()
    age(steady, IDLE)
    members = [site.member() for _ in range(3)]
    for left, steps in ((250, 100), (100, 200)):
        purge = servers.spawn([sys.executable, "-c", PURGE, steady.url, str(steps)])
        servers.poll("some to be gone", partial(_has_under, steady, left), every=0.001)
        servers.end(purge)  # SIGKILL
        stored = sorted(name[-18:] for name in records(steady))
        assert entries(steady) == stored
        assert len(stored) > 3, "it was killed too late"
    report = site.safe.purge()
    assert report.due > 0
    assert report.repaired == 0
    assert site.safe.purge().due == 0
    assert [read(member) for member in members] == [ANN] * 3
    assert site.safe.count() == 3
    assert_whole(site, steady)


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_31_ten_purges_at_once_remove_each_session_once_and_none_that_was_used(
    steady: servers.Server, open_site: OpenSite, shards: int
) -> None:
    ways: dict[str, Any] = {"touch_interval": 0, "shards": shards, "purge_batch": 7}
    sites = [open_site(steady.url, **ways) for _ in range(10)]
    used, unused = ([sites[0].member(f"user {n}") for n in range(8)] for _ in range(2))
    populate(sites[0], 300)
    over = threading.Event()

    def purge(number: int) -> tuple[int, int]:
        due = repaired = 0
        while not over.is_set() or sites[number].store.count(rules).due:
            report = sites[number].safe.purge()
            due, repaired = due + report.due, repaired + report.repaired
        return due, repaired

    def use(number: int) -> tuple[int, int]:
        for _ in range(2):
            age(steady, 16 * MINUTE)
            for member in used:
                assert read(member)["cart"] == ["pear"]
        over.set()
        return 0, 0

    rules = sites[0].app.extensions["safesession"].settings.rules
    found = together(11, lambda n: use(n) if n == 10 else purge(n))
    assert sum(due for due, _ in found) == 308
    assert sum(repaired for _, repaired in found) == 0
    assert [read(member) for member in unused] == [{}] * 8
    assert sites[0].safe.count() == 8
    assert_whole(sites[0], steady)
