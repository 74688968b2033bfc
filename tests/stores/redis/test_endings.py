"""What Redis keeps of sessions that are over: so much at most, and nobody's at another's cost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from copy import copy
from importlib import resources
from typing import Any

import pytest
import redis

from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores import base
from flask_safesession.stores.base import Gone, Live, Terms
from flask_safesession.stores.redis import RedisStore, lua
from flask_safesession.testing import age_redis, make_draft, make_rules

from ...support import servers
from ...support.sharding_kit import index_of

RULES = make_rules(total=1000, per_user=2)
OF_ALL, OF_USER = 20, 5
TABLES = ("tombstones:anonymous", "tombstones:users", "ended")


def constant(name: str) -> str:
    """The line of the scripts that says how many there may be."""
    return f"local {name} = {getattr(base, name)}\n"


@pytest.fixture
def client(server: servers.Server) -> Iterator[redis.Redis]:
    made = server.client()
    yield made
    made.close()


@pytest.fixture
def store(
    client: redis.Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RedisStore]:
    """A store whose limits are small."""
    for name, script in vars(lua).items():
        if isinstance(script, lua.Script):
            small = copy(script)
            for limit, number in (("MAX_TOMBSTONES", OF_ALL), ("MAX_TOMBSTONES_OF_USER", OF_USER)):
                small.text = small.text.replace(constant(limit), f"local {limit} = {number}\n")
            small.sha = hashlib.sha1(small.text.encode(), usedforsecurity=False).hexdigest()
            monkeypatch.setattr(lua, name, small)
    made = RedisStore(client, prefix=prefix, timeout=5)
    yield made
    made.close()


def sizes(client: redis.Redis, prefix: str, table: str) -> list[Any]:
    """How many there are in each part of a table."""
    name = f"{{{prefix}:0}}:{table}"
    return [client.zcard(name), client.hlen(f"{name}:keys"), client.zcard(f"{name}:users")]


def add(store: RedisStore, user: object = None) -> str:
    key = new_id("" if user is None else user_tag(user)[:1]).key
    assert isinstance(store.create(key, make_draft(rules=RULES, user=user), RULES), Live)
    return key


def log_out(store: RedisStore, user: object = None) -> str:
    key = add(store, user)
    assert isinstance(store.end(key, new_stamp(), "logout", None), Live)
    return key


def load(store: RedisStore, key: str) -> object:
    return store.load(key, RULES, slide=True)


def test_the_scripts_have_the_limits_of_all_stores() -> None:
    folder = resources.files(lua)
    text = "".join((folder / f"_{part}.lua").read_text() for part in ("common", "admission"))
    for name in ("MAX_TOMBSTONES", "MAX_TOMBSTONES_OF_USER", "MAX_EVICTIONS", "TOMBSTONE_TTL"):
        assert constant(name) in text
    assert constant("VISITOR_REASON_TTL") in text


def test_a_flood_of_anonymous_logouts_pushes_out_no_users_tombstone(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    visitor = add(store)
    ann = new_id(user_tag("ann")[:1]).key
    store.rotate(
        visitor, ann, make_draft(rules=RULES, user="ann"), RULES, Terms(None, True, "rotated")
    )
    first = log_out(store)
    for _ in range(OF_ALL + 3):
        log_out(store)
    assert sizes(client, prefix, "tombstones:anonymous") == [OF_ALL, OF_ALL, 0]
    assert load(store, first) == Gone("unknown")
    went = Gone("rotated", has_tombstone=True, successor=ann, user=user_tag("ann"))
    assert load(store, visitor) == went


def test_one_user_pushes_out_what_is_kept_of_that_user_only(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    ann, bobs = log_out(store, "ann"), [log_out(store, "bob") for _ in range(OF_USER + 2)]
    assert load(store, ann) == Gone("logout", has_tombstone=True)
    kept = [load(store, key) for key in bobs].count(Gone("logout", has_tombstone=True))
    assert kept == OF_USER
    for number in range(OF_ALL):
        log_out(store, number)
    assert sizes(client, prefix, "tombstones:users") == [OF_ALL] * 3
    assert load(store, ann) == Gone("unknown")


def test_a_user_who_signs_in_over_and_over_pushes_out_no_reason_of_others(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    evicted, *_ = [add(store, "ann") for _ in range(3)]
    for _ in range(OF_USER + 5):
        add(store, "mallory")
    assert sizes(client, prefix, "ended") == [OF_USER + 1] * 3
    assert load(store, evicted) == Gone("evicted", for_visitor=True)
    for number in range(OF_ALL):
        for _ in range(3):
            add(store, number)
        assert max(sizes(client, prefix, "ended")) <= OF_ALL


@pytest.mark.parametrize("way", ["purge", "end_user", "creations"])
def test_many_ends_at_once_leave_no_more(
    store: RedisStore, client: redis.Redis, prefix: str, way: str
) -> None:
    rules = make_rules(total=1000, per_user=50)
    for number in range(60):
        user = "ann" if way == "end_user" or number % 2 else number
        draft = make_draft(rules=rules, user=user)
        store.create(new_id(user_tag(user)[:1]).key, draft, rules)
    if way == "purge":
        age_redis(client, 30 * 60_000, prefix)
        store.purge(RULES, 1000)
    elif way == "end_user":
        assert len(store.end_user(user_tag("ann"), new_stamp(), "revoked", "")) == 50
    else:
        add(store, "ann")  # under a cap of two
    for table in TABLES:
        assert max(sizes(client, prefix, table)) <= OF_ALL
    users: Any = client.zrange(f"{{{prefix}:0}}:ended:users", 0, -1)
    assert sum(entry.startswith(user_tag("ann").encode()) for entry in users) == OF_USER


def test_what_is_over_its_time_is_forgotten_by_the_next_ends(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    for number in range(9):
        log_out(store, number)
        log_out(store)
    age_redis(client, 60_000, prefix)
    for _ in range(3):
        log_out(store, "ann")
        log_out(store)
    assert sizes(client, prefix, "tombstones:users") == [3, 3, 3]
    assert sizes(client, prefix, "tombstones:anonymous") == [3, 3, 0]


def test_an_audit_gives_up_a_table_whose_parts_differ(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    log_out(store, "ann")
    log_out(store)
    slot = f"{{{prefix}:0}}"
    client.hset(f"{slot}:tombstones:users:keys", "A" * 18, "nobody's")
    assert audit(store) == 1
    assert [sizes(client, prefix, table)[0] for table in TABLES] == [1, 0, 0]
    assert audit(store) == 0


# -- the index of a user's sessions -------------------------------------------------------------


def audit(store: RedisStore) -> int:
    repaired = 0
    while not (step := store.audit(RULES, 100)).done:
        repaired += step.repaired
    return repaired + step.repaired


def test_an_audit_puts_a_users_sessions_into_the_order_of_eviction(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    unused, used = add(store, "ann"), add(store, "ann")
    age_redis(client, 60_000, prefix)
    load(store, used)
    name = index_of(f"{{{prefix}:0}}", "ann")
    right: Any = client.zrange(name, 0, -1)
    assert right == [unused.encode(), used.encode()]
    assert audit(store) == 0
    client.zadd(name, {unused: 2**53, used: 1})
    assert audit(store) == 2
    assert client.zrange(name, 0, -1) == right
    assert audit(store) == 0


def test_what_was_put_aside_is_purged_also_when_the_list_of_it_was_lost(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    keys = {add(store, "ann"), add(store)}
    store.end_all(new_stamp())
    client.delete(f"{{{prefix}:0}}:ending")
    assert audit(store) == 2
    assert {gone.key for gone in store.purge(RULES, 10).removed} == keys
    assert audit(store) == 0
    assert not list(client.scan_iter(f"{{{prefix}:0}}:[esu]:*"))


def test_a_login_looks_at_a_bounded_number_of_its_users_sessions(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    rules = make_rules(per_user=400)
    for _ in range(400):
        store.create(new_id(user_tag("ann")[:1]).key, make_draft(rules=rules, user="ann"), rules)
    before = calls(client)
    draft = make_draft(rules=RULES, user="ann")
    answer = store.create(new_id(user_tag("ann")[:1]).key, draft, RULES)
    assert isinstance(answer, Live)
    assert len(answer.removed) == base.MAX_EVICTIONS
    assert calls(client) - before < 3 * base.MAX_EVICTIONS
    while store.count(RULES).total > RULES.cap.per_user:
        store.create(new_id(user_tag("ann")[:1]).key, draft._replace(stamp=new_stamp()), RULES)


def calls(client: redis.Redis) -> int:
    """How many records scripts have looked at."""
    stats: Any = client.info("commandstats")
    return int(stats["cmdstat_getrange"]["calls"])
