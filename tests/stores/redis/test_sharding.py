"""Sessions in several shards, whose number is fixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_safesession import ConfigError, StoreFull, StoreUnavailable, session
from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores.base import Conflict, Gone, Live, Taken, Terms
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.redis.servers import connections
from flask_safesession.stores.sharded import MAX_SHARDS, shard_of
from flask_safesession.testing import make_draft, make_rules

from ...support import servers
from ...support.sharding_kit import RULES, Make, add, index_of, payload

# -- where sessions are ---------------------------------------------------------------------------


def test_every_bucket_is_dealt_to_a_shard() -> None:
    letters = {new_id().key[0] for _ in range(3000)}
    assert len(letters) == MAX_SHARDS
    for count in (1, 4, 64):
        dealt = Counter(shard_of(letter, count) for letter in letters)
        assert dealt == dict.fromkeys(range(count), MAX_SHARDS // count)


def test_strangers_are_spread_and_a_users_sessions_are_together(
    make_store: Make, any_server: servers.Server, prefix: str
) -> None:
    store = make_store(4)
    for _ in range(40):
        add(store)
        add(store, user="she")
    with any_server.client() as client:
        sizes: Any = [client.zcard(f"{{{prefix}:{n}}}:t:anonymous") for n in range(4)]
        homes: Any = [client.zcard(index_of(f"{{{prefix}:{n}}}", "she")) for n in range(4)]
    assert sum(sizes) == 40
    assert all(sizes)
    assert sorted(homes) == [0, 0, 0, 40]
    assert store.count(RULES).total == 80


def test_every_part_has_its_share_of_the_cap(make_store: Make) -> None:
    rules = make_rules(total=40, per_user=40)
    store = make_store(4)
    for _ in range(200):
        add(store, rules=rules)
        add(store, user="she", rules=rules)
    assert store.count(rules).total <= 40
    live = store.count(rules).live
    assert live["default"] == 9  # of ten in her shard one is left to strangers
    assert live["anonymous"] >= 27


def test_a_purge_walks_all_shards(
    make_store: Make, prefix: str, any_server: servers.Server
) -> None:
    rules = make_rules(idle=1, lifetime=1)
    store = make_store(8)
    for _ in range(30):
        add(store, rules=rules)
    removed = []
    while sum(store.count(rules).live.values()) or store.count(rules).due:
        removed.append(store.purge(rules, 7).due)
    assert max(removed) <= 7
    with any_server.client() as client:
        assert not list(client.scan_iter(f"{{{prefix}:*}}:s:*"))


def test_each_part_has_a_lease_of_its_own(make_store: Make) -> None:
    first, second = make_store(4), make_store(4)
    assert [part.lease("purge", 60_000) for part in first.shards] == [True] * 4
    assert [part.lease("purge", 60_000) for part in second.shards] == [False] * 4


def test_an_audit_goes_round_all_shards(make_store: Make) -> None:
    store = make_store(4)
    add(store)
    rounds = 1
    while not store.audit(RULES, 1000).done:
        rounds += 1
    assert rounds >= 8  # the index of strangers, and all keys, of each of four


def test_taken_keys_are_noticed_in_every_shard(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    assert store.create(key, make_draft(), RULES) == Taken()
    assert payload(store, key) == draft.payload


# -- rotation across shards ------------------------------------------------------------------------


def elsewhere(key: str, shards: int) -> str:
    """A new key in another shard."""
    while shard_of(found := new_id().key, shards) == shard_of(key, shards):
        pass
    return found


def went_to(key: str, user: object) -> Gone:
    """What is answered of a session that goes on under *key*."""
    return Gone("rotated", has_tombstone=True, successor=key, user=user_tag(user))


def test_a_rotation_into_another_shard_is_one_session_afterwards(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    new, changed = elsewhere(key, 4), make_draft(b"changed", user=1)
    answer = store.rotate(key, new, changed, RULES, Terms(draft.stamp, True, "rotated"))
    assert isinstance(answer, Live)
    assert payload(store, new) == b"changed"
    assert store.load(key, RULES, slide=False) == went_to(new, 1)
    assert store.count(RULES).total == 1


def test_a_rotation_into_another_shard_that_is_no_login_keeps_the_age(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    before = store.load(key, RULES, slide=False)
    assert isinstance(before, Live)
    new = elsewhere(key, 4)
    terms = Terms(draft.stamp, False, "rotated", slide=False)
    answer = store.rotate(key, new, make_draft(user=1), RULES, terms)
    assert isinstance(answer, Live)
    assert answer.record.created == before.record.created
    assert answer.record.last_active == before.record.last_active
    assert answer.record.absolute == before.record.absolute


def test_a_logout_with_the_old_key_ends_the_session_in_the_other_shard(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    new = elsewhere(key, 4)
    store.rotate(key, new, make_draft(user=1), RULES, Terms(draft.stamp, False, "rotated"))
    newer = elsewhere(new, 4)
    store.rotate(new, newer, make_draft(user=2), RULES, Terms(None, False, "rotated"))
    ended = store.end(key, new_stamp(), "logout", None)
    assert isinstance(ended, Live)
    assert ended.key == newer
    assert store.count(RULES).total == 0
    assert store.end(key, new_stamp(), "logout", None) == Gone("logout", has_tombstone=True)


def test_the_loser_of_two_rotations_removes_its_own(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    first, second = elsewhere(key, 4), elsewhere(key, 4)
    terms = Terms(draft.stamp, True, "rotated")
    assert isinstance(store.rotate(key, first, make_draft(user=1), RULES, terms), Live)
    lost = store.rotate(key, second, make_draft(user=2), RULES, terms)
    assert lost == went_to(first, 1)
    assert payload(store, second) is None
    assert store.count(RULES).total == 1


def test_a_rotation_that_meets_another_write_gives_way(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    store.commit(key, make_draft(b"theirs"), draft.stamp, touch=0)
    new = elsewhere(key, 4)
    lost = store.rotate(key, new, make_draft(user=1), RULES, Terms(draft.stamp, True, "rotated"))
    assert isinstance(lost, Conflict)
    assert payload(store, key) == b"theirs"
    assert payload(store, new) is None


def test_a_rotation_whose_end_fails_leaves_the_old_session(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(4)
    key, draft = add(store)
    new, end = elsewhere(key, 4), RedisStore.end

    def fail_once(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(RedisStore, "end", end)
        raise StoreUnavailable("not now")

    monkeypatch.setattr(RedisStore, "end", fail_once)
    with pytest.raises(StoreUnavailable):
        store.rotate(key, new, make_draft(user=1), RULES, Terms(draft.stamp, True, "rotated"))
    assert payload(store, key) == draft.payload
    assert payload(store, new) is None
    assert store.count(RULES).total == 1


# -- a stranger at full shards ---------------------------------------------------------------------


def test_a_stranger_who_is_refused_in_one_shard_tries_two_more(
    make_app: Callable[..., Flask], any_server: servers.Server, prefix: str
) -> None:
    app = make_app(
        store=any_server.url, key_prefix=prefix, shards=4, max_sessions=8, when_full="reject"
    )

    @app.get("/")
    def write() -> str:
        session["x"] = 1
        return ""

    statuses = [app.test_client().get("/").status_code for _ in range(60)]
    store = app.extensions["safesession"].store
    assert statuses[:3] == [200] * 3  # with one try, two of the first three may meet in one shard
    assert store.count(RULES).total == 8
    assert statuses[-1] == 503
    tried = set()

    def refuse(self: RedisStore, *args: Any, **kwargs: Any) -> Any:
        tried.add(self.slot)
        raise StoreFull(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RedisStore, "create", refuse)
        assert app.test_client().get("/").status_code == 503
    assert len(tried) == 3
    store.close()


# -- the number of shards --------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "asked"), [(4, 2), (4, 1), (1, 4)])
def test_a_process_with_another_number_refuses_to_start_and_names_both_and_the_fix(
    make_store: Make, stored: int, asked: int
) -> None:
    make_store(stored)
    with pytest.raises(ConfigError) as refused:
        make_store(asked)
    assert f"SAFESESSION_SHARDS is {asked}, but the sessions are in {stored}" in str(refused.value)
    assert f"set it back to {stored}, or start anew under another" in str(refused.value)


def test_a_store_whose_processes_agree_takes_any_number_of_them(make_store: Make) -> None:
    key, draft = add(make_store(4))
    assert payload(make_store(4), key) == draft.payload


@pytest.mark.parametrize(("stored", "asked"), [(4, 2), (4, 1), (1, 4)])
def test_a_process_that_could_not_look_at_its_start_is_refused_at_each_use(
    make_store: Make, stored: int, asked: int
) -> None:
    key, _ = add(make_store(stored))
    late = make_store(asked, started=False)
    uses: list[Callable[[], object]] = [
        lambda: late.load(key, RULES, slide=False),
        lambda: add(late),
        lambda: late.count(RULES),
        lambda: late.lease("purge", 1000),
    ]
    for use in uses:
        with pytest.raises(ConfigError, match="SAFESESSION_SHARDS"):
            use()
    assert make_store(stored).count(RULES).total == 1


def test_a_process_that_could_not_look_at_its_start_says_how_many_at_its_first_use(
    make_store: Make,
) -> None:
    add(make_store(1, started=False))
    with pytest.raises(ConfigError, match="are in 1"):
        make_store(4)


def test_the_number_is_looked_at_once(
    make_store: Make, any_server: servers.Server, prefix: str
) -> None:
    store = make_store(4)
    key, draft = add(store)
    with any_server.client() as client:
        client.set(f"{{{prefix}:0}}:shards", 8)
    assert payload(store, key) == draft.payload


def test_of_processes_that_start_at_once_the_first_says_how_many(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = connections.Connections.exchange

    def overtaken(self: Any, *commands: Any, careful: bool = False) -> Any:
        if commands[0][0] == "SET":
            monkeypatch.setattr(connections.Connections, "exchange", exchange)
            make_store(8)
        return exchange(self, *commands, careful=careful)

    monkeypatch.setattr(connections.Connections, "exchange", overtaken)
    with pytest.raises(ConfigError, match="is 4, but the sessions are in 8"):
        make_store(4)


def test_a_server_that_takes_no_writes_is_read_and_gets_the_number_when_it_does(
    make_store: Make, any_server: servers.Server, prefix: str
) -> None:
    store = make_store(4, started=False)
    with any_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            store.remote.prepare()
            assert store.load(new_id().key, RULES, slide=False) == Gone("unknown")
        finally:
            client.config_set("maxmemory", 0)
        add(store)
        assert client.get(f"{{{prefix}:0}}:shards") == b"4"


def test_an_app_with_another_number_does_not_start(
    make_store: Make, make_app: Callable[..., Flask], any_server: servers.Server, prefix: str
) -> None:
    add(make_store(4))
    with pytest.raises(ConfigError, match="SAFESESSION_SHARDS is 2, but the sessions are in 4"):
        make_app(store=any_server.url, key_prefix=prefix, shards=2)
    make_app(store=any_server.url, key_prefix=prefix, shards=4)
    make_app(store=any_server.url, key_prefix=f"{prefix}b", shards=2)
