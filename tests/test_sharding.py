"""Sessions in several shards, and on their way to another number of them while they are in use."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from flask_safesession import ConfigError, StoreFull, StoreUnavailable, session
from flask_safesession.record import Draft
from flask_safesession.stores import resharding
from flask_safesession.stores.base import Conflict, Gone, Live, Taken, Terms
from flask_safesession.stores.layout import MAX_SHARDS, Layout, bucket_of
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.resharding import reshard
from flask_safesession.stores.shard import Shard
from flask_safesession.testing import make_draft, make_rules
from flask_safesession.tokens import new_id, new_stamp, user_tag

from . import servers
from .sharding_kit import RULES, Make, add, move, payload

# -- where sessions are ---------------------------------------------------------------------------


def test_a_layout_deals_every_bucket_to_a_shard() -> None:
    letters = {new_id().key[0] for _ in range(3000)}
    assert len(letters) == MAX_SHARDS
    assert sorted(map(bucket_of, letters)) == list(range(MAX_SHARDS))
    for count in (1, 4, 64):
        layout = Layout.of(count)
        assert {layout.home(letter) for letter in letters} == set(range(count))
        assert Layout.loads(layout.dumps().encode()) == layout
        assert all(layout.places(letter) == (layout.home(letter),) for letter in letters)


def test_strangers_are_spread_and_a_users_sessions_are_together(
    make_store: Make, any_server: servers.Server, prefix: str
) -> None:
    store = make_store(4)
    for _ in range(40):
        add(store)
        add(store, user="she")
    with any_server.client() as client:
        sizes: Any = [client.zcard(f"{{{prefix}:{n}}}:t:anonymous") for n in range(4)]
        homes: Any = [client.zcard(f"{{{prefix}:{n}}}:u:{user_tag('she')}") for n in range(4)]
    assert sum(sizes) == 40
    assert all(sizes)
    assert sorted(homes) == [0, 0, 0, 40]
    assert store.census(RULES).total == 80


def test_every_part_has_its_share_of_the_cap(make_store: Make) -> None:
    rules = make_rules(total=40, per_user=40)
    store = make_store(4)
    for _ in range(200):
        add(store, rules=rules)
        add(store, user="she", rules=rules)
    assert store.census(rules).total <= 40
    live = store.census(rules).live
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
    while sum(store.census(rules).live.values()) or store.census(rules).due:
        removed.append(store.purge(rules, 7).due)
    assert max(removed) <= 7
    with any_server.client() as client:
        assert not list(client.scan_iter(f"{{{prefix}:*}}:s:*"))


def test_each_part_has_a_lease_of_its_own(make_store: Make) -> None:
    first, second = make_store(4), make_store(4)
    assert [part.lease("purge", 60_000) for part in first.parts()] == [True] * 4
    assert [part.lease("purge", 60_000) for part in second.parts()] == [False] * 4


def test_an_audit_goes_round_all_shards(make_store: Make) -> None:
    store = make_store(4)
    add(store)
    rounds = 1
    while not store.audit(RULES, 1000).done:
        rounds += 1
    assert rounds >= 8  # the index of strangers, and all keys, of each of four


# -- rotation across shards ------------------------------------------------------------------------


def elsewhere(key: str, shards: int) -> str:
    """A new key in another shard."""
    layout = Layout.of(shards)
    while layout.home(found := new_id().key) == layout.home(key):
        pass
    return found


def test_a_rotation_into_another_shard_is_one_session_afterwards(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    new, changed = elsewhere(key, 4), make_draft(b"changed", user=1)
    answer = store.rotate(key, new, changed, RULES, Terms(draft.stamp, True, "rotated"))
    assert isinstance(answer, Live)
    assert payload(store, new) == b"changed"
    assert store.load(key, RULES, slide=False) == Gone("rotated", buried=True)
    assert store.census(RULES).total == 1


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
    assert store.census(RULES).total == 0
    assert store.end(key, new_stamp(), "logout", None) == Gone("logout", buried=True)


def test_the_loser_of_two_rotations_removes_its_own(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    first, second = elsewhere(key, 4), elsewhere(key, 4)
    terms = Terms(draft.stamp, True, "rotated")
    assert isinstance(store.rotate(key, first, make_draft(user=1), RULES, terms), Live)
    lost = store.rotate(key, second, make_draft(user=2), RULES, terms)
    assert lost == Gone("rotated", buried=True)
    assert payload(store, second) is None
    assert store.census(RULES).total == 1


def test_a_rotation_that_meets_another_write_gives_way(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    store.commit(key, make_draft(b"theirs"), draft.stamp, slide=True)
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
    new, end = elsewhere(key, 4), Shard.end

    def fail_once(*args: Any) -> Any:
        monkeypatch.setattr(Shard, "end", end)
        raise StoreUnavailable("not now")

    monkeypatch.setattr(Shard, "end", fail_once)
    with pytest.raises(StoreUnavailable):
        store.rotate(key, new, make_draft(user=1), RULES, Terms(draft.stamp, True, "rotated"))
    assert payload(store, key) == draft.payload
    assert payload(store, new) is None
    assert store.census(RULES).total == 1


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
    assert store.census(RULES).total == 8
    assert statuses[-1] == 503
    tried = set()

    def refuse(self: Shard, *args: Any, **kwargs: Any) -> Any:
        tried.add(self.number)
        raise StoreFull(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shard, "create", refuse)
        assert app.test_client().get("/").status_code == 503
    assert len(tried) == 3
    store.close()


# -- the number of shards --------------------------------------------------------------------------


@pytest.mark.parametrize(("stored", "asked"), [(4, 2), (4, 1), (1, 4)])
def test_a_process_with_another_number_refuses_and_names_the_mend(
    make_store: Make, stored: int, asked: int
) -> None:
    add(make_store(stored))
    with pytest.raises(ConfigError, match=rf"is {asked}, but .* in {stored}: run `flask safe"):
        make_store(asked).prepare()


def test_a_process_that_could_not_ask_at_its_start_is_refused_at_its_first_call(
    make_store: Make,
) -> None:
    keys = [add(make_store(4))[0] for _ in range(10)]
    for asked in (1, 2):
        store = make_store(asked, started=False)
        with pytest.raises(ConfigError, match="SAFESESSION_SHARDS"):
            [store.load(key, RULES, slide=False) for key in keys]


def test_an_app_with_another_number_does_not_start(
    make_store: Make, make_app: Callable[..., Flask], any_server: servers.Server, prefix: str
) -> None:
    add(make_store(4))
    with pytest.raises(ConfigError, match="SAFESESSION_SHARDS is 2, but the sessions are in 4"):
        make_app(store=any_server.url, key_prefix=prefix, shards=2)
    make_app(store=any_server.url, key_prefix=prefix, shards=4)


def test_the_first_process_of_a_new_store_says_how_many(make_store: Make) -> None:
    make_store(4).prepare()
    with pytest.raises(ConfigError):
        make_store(8).prepare()
    make_store(4).prepare()


# -- a change of the number ------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(1, 4, 2), (4, 1, 8), (2, 64, 2)])
def test_nothing_is_lost_and_everything_is_where_it_belongs(
    make_store: Make, any_server: servers.Server, prefix: str, numbers: tuple[int, ...]
) -> None:
    worker = make_store(numbers[0])
    made = [add(worker, user) for user in (None, None, None, 1, 2) for _ in range(12)]
    for after in numbers[1:]:
        move(make_store(after), after)
        assert [payload(worker, key) for key, _ in made] == [d.payload for _, d in made]
        fresh = make_store(after)
        fresh.prepare()
        assert [payload(fresh, key) for key, _ in made] == [d.payload for _, d in made]
        assert fresh.census(RULES).live == {"anonymous": 36, "default": 24}
        for _ in range(2):
            while not (step := fresh.audit(RULES, 1000)).done:
                assert step.mended == 0
        with any_server.client() as client:
            names = [name.decode() for name in client.scan_iter(f"{{{prefix}:*}}:[su]:*")]
        for name in names:
            shard, _, rest = name.removeprefix(f"{{{prefix}:").partition("}")
            assert bucket_of(rest[3:]) % after == int(shard)


def test_a_change_that_is_done_does_nothing(make_store: Make) -> None:
    store = make_store(2)
    store.prepare()
    assert move(store, 2) == []


def test_another_change_under_way_is_refused_with_what_to_do(make_store: Make) -> None:
    store = make_store(1)
    for _ in range(20):
        add(store)
    next(reshard(store._shards, 4, batch=5, settle=0))
    with pytest.raises(ConfigError, match="from 1 to 4 shards is under way: finish it first"):
        move(make_store(2), 2)
    move(make_store(4), 4)
    move(make_store(2), 2)
    assert store.census(RULES).total == 20


def test_large_sessions_go_in_small_loads(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resharding, "_LOAD", 3000)
    store = make_store(1)
    keys = [new_id().key for _ in range(12)]
    for key in keys:
        store.create(key, make_draft(key.encode() * 60), RULES)
    steps = move(store, 8, batch=1000)
    assert max(step.sessions for step in steps) <= 3
    assert [payload(store, key) for key in keys] == [key.encode() * 60 for key in keys]


@pytest.mark.parametrize("method", ["depart", "arrive", "forget"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_mover_that_dies_leaves_nothing_behind(
    make_store: Make, monkeypatch: pytest.MonkeyPatch, method: str, when: str
) -> None:
    """Visitors are served without waiting for it, and the next mover goes on."""
    worker, newcomer = make_store(2), make_store(4)
    made = [add(worker, user) for user in (None, 1) for _ in range(15)]
    original = getattr(Shard, method)

    def die(self: Shard, *args: Any) -> Any:
        if when == "after":
            original(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Shard, method, die)
    with pytest.raises(KeyboardInterrupt):
        move(make_store(4), 4)
    monkeypatch.setattr(Shard, method, original)
    ended = [key for key, _ in made[::3]]
    for key in ended:
        assert isinstance(worker.end(key, new_stamp(), "logout", None), Live)
    kept = [(key, draft.payload) for key, draft in made if key not in ended]
    assert [payload(newcomer, key) for key, _ in kept] == [data for _, data in kept]
    move(make_store(4), 4)
    assert [payload(worker, key) for key, _ in kept] == [data for _, data in kept]
    assert [payload(newcomer, key) for key in ended] == [None] * len(ended)
    assert newcomer.census(RULES).total == len(kept)


class Fleet:
    """A few processes that use sessions at random, and what they were told."""

    def __init__(self, workers: list[RedisStore], seed: int) -> None:
        self.workers = workers
        self.random = random.Random(seed)
        self.live: dict[str, Draft] = {}
        self.ended: list[str] = []
        self.users: dict[str, object] = {}
        self.acting = False

    def before(self, original: Any) -> Any:
        """*original*, a step of the mover, after something else has happened."""

        def call(shard: Shard, *args: Any) -> Any:
            if not self.acting:  # else it is a worker that helps
                self.acting = True
                for _ in range(4):
                    self.act()
                self.acting = False
            return original(shard, *args)

        return call

    def check(self, worker: RedisStore) -> None:
        assert {key: payload(worker, key) for key in self.live} == {
            key: draft.payload for key, draft in self.live.items()
        }
        assert not any(payload(worker, key) for key in self.ended)
        assert worker.census(RULES).total == len(self.live)

    def act(self) -> None:
        worker = self.random.choice(self.workers)
        actions = [self.create, self.read, self.read, self.write, self.write, self.end, self.rotate]
        self.random.choice(actions)(worker)

    def some(self) -> str | None:
        return self.random.choice(sorted(self.live)) if self.live else None

    def draft(self, user: object) -> Draft:
        return make_draft(new_stamp().encode(), user=user)

    def key_for(self, user: object) -> str:
        return new_id(user_tag(user)[0] if user is not None else "").key

    def create(self, worker: RedisStore) -> None:
        user = self.random.choice([None, None, 1, 2])
        key, draft = self.key_for(user), self.draft(user)
        assert isinstance(worker.create(key, draft, RULES), Live)
        self.live[key], self.users[key] = draft, user

    def read(self, worker: RedisStore) -> None:
        if key := self.some():
            assert payload(worker, key) == self.live[key].payload
        if self.ended:
            assert payload(worker, self.random.choice(self.ended)) is None

    def write(self, worker: RedisStore) -> None:
        if key := self.some():
            draft = self.draft(self.users[key])
            answer = worker.commit(key, draft, self.live[key].stamp, slide=True)
            assert isinstance(answer, Live), answer
            self.live[key] = draft
        if self.ended:
            key = self.random.choice(self.ended)
            assert isinstance(worker.commit(key, self.draft(None), "a stamp", slide=True), Gone)

    def end(self, worker: RedisStore) -> None:
        if key := self.some():
            assert isinstance(worker.end(key, new_stamp(), "logout", None), Live)
            del self.live[key]
            self.ended.append(key)

    def rotate(self, worker: RedisStore) -> None:
        if key := self.some():
            user = self.random.choice([self.users[key], 1, 2])
            new, draft = self.key_for(user), self.draft(user)
            terms = Terms(self.live[key].stamp, user != self.users[key], "rotated")
            answer = worker.rotate(key, new, draft, RULES, terms)
            if isinstance(answer, Taken):  # it was on its way: with another ID it goes
                new = self.key_for(user)
                answer = worker.rotate(key, new, draft, RULES, terms)
            assert isinstance(answer, Live), answer
            del self.live[key]
            self.live[new], self.users[new] = draft, user
            self.ended.append(key)


@pytest.mark.parametrize("numbers", [(1, 4), (4, 1), (2, 8), (8, 2)])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_fleet_of_old_and_new_processes_goes_on_between_any_two_steps(
    make_store: Make, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, int], seed: int
) -> None:
    before, after = numbers
    fleet = Fleet([make_store(before), make_store(before)], seed)
    for _ in range(60):
        fleet.create(fleet.workers[0])
    newcomer = make_store(after)

    for method in ("layout", "depart", "arrive", "forget"):
        monkeypatch.setattr(Shard, method, fleet.before(getattr(Shard, method)))
    for _ in reshard(newcomer._shards, after, batch=4, settle=0):
        if len(fleet.workers) == 2:
            fleet.workers.append(make_store(after))
    monkeypatch.undo()
    for worker in [*fleet.workers, make_store(after)]:
        fleet.check(worker)


def test_a_slow_mover_does_not_bring_back_what_has_ended(
    make_store: Make, monkeypatch: pytest.MonkeyPatch, any_server: servers.Server, prefix: str
) -> None:
    """It read the session, a visitor sent it on, it ended there; then the mover comes with it."""
    store, helper = make_store(1), make_store(1)
    made = [add(store)[0] for _ in range(20)]
    arrive = Shard.arrive

    def late(self: Shard, *args: Any) -> Any:
        monkeypatch.setattr(Shard, "arrive", arrive)
        for key in made:
            helper.end(key, new_stamp(), "logout", None)
        with any_server.client() as client:
            for name in client.scan_iter(f"{{{prefix}:*}}:s:*"):
                client.delete(name)  # tombstones, whose minute is over
        return arrive(self, *args)

    monkeypatch.setattr(Shard, "arrive", late)
    move(store, 4)
    assert [payload(helper, key) for key in made] == [None] * 20
    assert helper.census(RULES).total == 0


def test_taken_keys_are_noticed_in_every_shard(make_store: Make) -> None:
    store = make_store(4)
    key, draft = add(store)
    assert store.create(key, make_draft(), RULES) == Taken()
    assert payload(store, key) == draft.payload


def test_one_shard_that_has_sessions_can_be_made_one_shard(make_store: Make) -> None:
    store = make_store(1)
    key, _ = add(store)
    assert move(store, 1) == []
    assert payload(store, key) is not None
