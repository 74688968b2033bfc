"""Rotations through shards, and what goes wrong on the way: races, faults, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
import redis

from flask_safesession import StoreUnavailable
from flask_safesession.events import SessionEnded, session_ended
from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores.base import Conflict, Live, Terms
from flask_safesession.stores.redis.servers import connections
from flask_safesession.stores.sharded import shard_of
from flask_safesession.testing import make_draft, make_rules

from ...support import servers
from ...support.sharding_kit import RULES, Make, add, payload

# -- rotations ------------------------------------------------------------------------------------


def test_a_logout_that_keeps_data_follows_rotations_through_shards(make_store: Make) -> None:
    store = make_store(4)
    first, second, third = (new_id(letter).key for letter in "ABC")
    draft = make_draft(b"1")
    store.create(first, draft, RULES)
    store.rotate(first, second, make_draft(b"2"), RULES, Terms(draft.stamp, False, "rotated"))
    answer = store.rotate(first, third, make_draft(b"3"), RULES, Terms(None, True, "logout"))
    assert isinstance(answer, Live), answer
    assert payload(store, second) is None
    assert payload(store, third) == b"3"


# -- caps, time, lost replies ----------------------------------------------------------------------


@pytest.mark.parametrize("per_user", [1, 2])
def test_newer_records_do_not_keep_a_user_from_signing_in(
    make_store: Make, any_server: servers.Server, prefix: str, per_user: int
) -> None:
    rules = make_rules(total=40, per_user=per_user)
    store = make_store(1)
    for _ in range(per_user):
        key, _ = add(store, "she", rules)
        with any_server.client() as client:
            client.setrange(f"{{{prefix}:0}}:s:{key}", 0, "SS2")
    add(store, "she", rules)


def test_who_was_evicted_for_a_login_that_gave_way_is_told_of(make_store: Make) -> None:
    rules = make_rules(per_user=1)
    store, tag = make_store(4), user_tag("she")
    stranger = next(c for c in "ABCDEFG" if shard_of(c, 4) != shard_of(tag, 4))
    hers, key = new_id(tag[0]).key, new_id(stranger).key
    store.create(hers, make_draft(user="she"), rules)
    draft = make_draft()
    store.create(key, draft, rules)
    store.commit(key, make_draft(), draft.stamp, touch=0)
    told: list[SessionEnded] = []

    def note(sender: Any, event: SessionEnded) -> None:
        told.append(event)

    with session_ended.connected_to(note):
        terms = Terms(draft.stamp, True, "rotated")
        answer = store.rotate(key, new_id(tag[0]).key, make_draft(user="she"), rules, terms)
    assert isinstance(answer, Conflict)
    assert told == [SessionEnded(hers, "evicted", "default")]


@pytest.mark.parametrize("operation", ["first load", "followed end", "count"])
def test_operations_of_several_calls_end_in_time(
    make_store: Make, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    store, keys = make_store(8, timeout=0.5), [new_id(letter).key for letter in "ABCDEFG"]
    store.create(keys[0], make_draft(), RULES)
    for old, new in pairwise(keys):
        store.rotate(old, new, make_draft(), RULES, Terms(None, False, "rotated"))
    fresh = make_store(8, started=False, timeout=0.5)
    exchange = connections.Connections.exchange

    def slow(self: Any, *commands: Any, careful: bool = False) -> Any:
        time.sleep(min(0.3, connections.remaining()))  # a slow server is what is played here
        connections.remaining()
        return exchange(self, *commands, careful=careful)

    monkeypatch.setattr(connections.Connections, "exchange", slow)
    calls: dict[str, Callable[[], object]] = {
        "first load": lambda: fresh.load(keys[-1], RULES, slide=True),
        "followed end": lambda: store.end(keys[0], new_stamp(), "logout", None),
        "count": lambda: store.count(RULES),
    }
    start = time.monotonic()
    with suppress(StoreUnavailable):
        calls[operation]()
    assert time.monotonic() - start < 0.75


@pytest.mark.parametrize("lost", ["before", "after"])
@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "terms",
    [
        Terms("stamp", True, "rotated"),
        Terms("stamp", False, "rotated"),
        Terms(None, True, "logout"),
    ],
    ids=["login", "other user", "logout and login"],
)
def test_a_rotation_into_another_shard_survives_a_fault_at_each_call(
    make_store: Make, monkeypatch: pytest.MonkeyPatch, terms: Terms, at: int, lost: str
) -> None:
    store = make_store(4)
    key, draft = add(store)
    letter = next(c for c in "ABCDEFG" if shard_of(c, 4) != shard_of(key, 4))
    new, exchange, calls = new_id(letter).key, connections.Connections.exchange, iter(range(99))

    def fail_once(self: Any, *commands: Any, careful: bool = False) -> Any:
        if next(calls) == at:
            if lost == "after":
                exchange(self, *commands, careful=careful)
            raise redis.ConnectionError("lost")
        return exchange(self, *commands, careful=careful)

    monkeypatch.setattr(connections.Connections, "exchange", fail_once)
    if terms.expected:
        terms = terms._replace(expected=draft.stamp)
    try:
        answer: Any = store.rotate(key, new, make_draft(b"new", user=1), RULES, terms)
    except StoreUnavailable:
        answer = None
    monkeypatch.undo()
    left = payload(store, key), payload(store, new)
    if answer is None:
        assert left in [(draft.payload, None), (None, None)]
        assert left[0] or terms.expected is None  # a logout holds, whatever became of the rest
    else:
        assert isinstance(answer, Live)
        assert left == (None, b"new")
