"""A user's sessions over shards."""

from __future__ import annotations

from typing import Any

import pytest

from flask_safesession import StoreUnavailable
from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores.base import Gone, IndexedStore, Live, Terms
from flask_safesession.stores.sharded import shard_of
from flask_safesession.testing import make_draft, make_rules

from ...support.sharding_kit import RULES, Make, add, payload

ANN = user_tag("ann")


def test_lists_and_ends_are_as_with_one_shard(make_store: Make) -> None:
    store = make_store(4)
    keys = [add(store, "ann")[0] for _ in range(3)]
    strangers = [add(store)[0] for _ in range(20)]
    assert {one.key for one in store.sessions_of(ANN)} == set(keys)
    assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", keys[0])] != []
    assert [one.key for one in store.sessions_of(ANN)] == [keys[0]]
    assert walk(store, "anonymous") == sorted(strangers)
    store.end_all(new_stamp())
    assert store.count(RULES).total == 0
    assert [payload(store, key) for key in (*keys, *strangers)] == [None] * 23
    while store.purge(RULES, 10).more:
        pass
    assert store.purge(RULES, 10).removed == ()


def test_a_session_that_is_to_stay_stays_where_a_rotation_took_it(make_store: Make) -> None:
    store = make_store(4)
    letter = next(c for c in "ABCDEFG" if shard_of(c, 4) != shard_of(ANN, 4))
    old, new, draft = new_id(letter).key, new_id(ANN[0]).key, make_draft()
    store.create(old, draft, RULES)
    terms = Terms(draft.stamp, False, "rotated")
    assert isinstance(store.rotate(old, new, make_draft(user="ann"), RULES, terms), Live)
    other, _ = add(store, "ann")
    assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", old)] == [other]
    assert [one.key for one in store.sessions_of(ANN)] == [new]


def walk(store: IndexedStore, tier: str) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        page = store.page(tier, after, 3)
        found += [one.key for one in page.sessions]
        after = page.next
        if not after:
            return sorted(found)


def test_while_a_slot_is_moved_reads_go_on_and_write_nothing(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, key = make_store(1), new_id().key
    short = make_rules(idle=60_000, lifetime=60_000)
    draft = make_draft(b"data", user="ann")
    store.create(key, draft, RULES)
    run = store._run

    def moving(script: Any, names: Any, args: Any, reading: Any = None, **how: Any) -> Any:
        return run(script, names, reading or args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_run", moving)
        answer = store.load(key, short, slide=True)
        assert isinstance(answer, Live)
        assert (answer.record.payload, answer.record.is_used) == (b"data", False)
        assert answer.now >= answer.record.created
        store.end_all(new_stamp())
        assert store.load(key, RULES, slide=True) == Gone("revoked", for_visitor=True)
    revoked = store.load(key, RULES, slide=True)
    assert revoked == Gone("revoked", tier=draft.tier, for_visitor=True)


def test_an_end_of_all_goes_on_where_a_shard_does_not_answer(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(4)
    for _ in range(20):
        add(store)

    def fail(stamp: str) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(store.shards[0], "end_all", fail)
    held = store.shards[0].count(RULES).total
    with pytest.raises(StoreUnavailable):
        store.end_all(new_stamp())
    assert store.count(RULES).total == held < 20
