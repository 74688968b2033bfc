"""What goes wrong while the number of shards changes: processes miss it, servers forget it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import fakeredis
import pytest
import redis
from flask import Flask, flash, session

from flask_safesession import StoreUnavailable
from flask_safesession.events import SessionEnded, session_ended
from flask_safesession.stores import connections
from flask_safesession.stores.base import Conflict, Live, Terms
from flask_safesession.stores.layout import bucket_of
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.resharding import _announce, reshard
from flask_safesession.stores.shard import Shard
from flask_safesession.testing import make_draft, make_rules
from flask_safesession.tokens import new_id, new_stamp, user_tag

from . import servers
from .sharding_kit import RULES, Make, add, move, payload

MANY = 40


class Forgetful:
    """Lets servers lose what they have of a shard."""

    def __init__(self, server: servers.Server, prefix: str) -> None:
        self._server, self._prefix = server, prefix

    def __call__(self, what: str) -> None:
        with self._server.client() as client:
            for name in client.scan_iter(f"{{{self._prefix}:{what}"):
                client.delete(name)


@pytest.fixture
def lose(any_server: servers.Server, prefix: str) -> Forgetful:
    return Forgetful(any_server, prefix)


def die(self: Shard, *args: Any) -> Any:
    raise KeyboardInterrupt


def die_in(method: str, move_now: Callable[[], Any]) -> None:
    """Let the mover die where it comes to *method*."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shard, method, die)
        with pytest.raises(KeyboardInterrupt):
            move_now()


def fill(store: RedisStore) -> dict[str, bytes]:
    return {key: draft.payload for key, draft in (add(store) for _ in range(MANY))}


def read(store: RedisStore, sessions: dict[str, bytes]) -> dict[str, bytes | None]:
    return {key: payload(store, key) for key in sessions}


# -- processes that missed something ---------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(4, 2), (4, 1), (8, 2), (1, 4)])
def test_a_new_stranger_is_served_while_the_number_changes(
    make_store: Make,
    make_app: Callable[..., Flask],
    any_server: servers.Server,
    prefix: str,
    before: int,
    after: int,
) -> None:
    app = make_app(store=any_server.url, key_prefix=prefix, shards=before)
    app.add_url_rule("/", "write", lambda: str(session.setdefault("x", 1)))
    _announce(make_store(after)._shards, after)
    store = app.extensions["safesession"].store
    store.parts()  # it has heard of the change
    assert app.test_client().get("/").status_code == 200
    store.close()


def test_a_process_that_slept_through_a_change_finds_sessions_in_the_next(
    make_store: Make,
) -> None:
    worker = make_store(4)
    key = new_id("F").key  # bucket 5: shard 1 of four, 5 of eight, 1 of two
    worker.create(key, make_draft(b"mine"), RULES)
    move(make_store(8), 8)
    _announce(make_store(2)._shards, 2)
    assert payload(worker, key) == b"mine"


def test_a_process_that_started_while_the_store_was_down_finds_what_is_on_its_way(
    make_store: Make,
) -> None:
    sessions = fill(make_store(4))
    late = make_store(1, started=False)
    next(reshard(make_store(1)._shards, 1, batch=5, settle=0))
    assert read(late, sessions) == sessions


def test_a_logout_that_keeps_a_flash_is_not_outrun_by_a_new_id(
    make_store: Make, make_app: Callable[..., Flask], any_server: servers.Server, prefix: str
) -> None:
    app = make_app(store=any_server.url, key_prefix=prefix)
    name = next(f"u{n}" for n in range(100) if bucket_of(user_tag(f"u{n}")) % 4)
    browser, other = app.test_client(), app.test_client()

    @app.get("/in")
    def sign_in() -> str:
        session["user_id"] = name
        return ""

    @app.get("/regenerate")
    def regenerate() -> str:
        session.regenerate()  # type: ignore[attr-defined]
        return ""

    @app.get("/who")
    def who() -> str:
        return str(session.get("user_id"))

    @app.get("/out")
    def sign_out() -> str:
        session.get("user_id")
        with app.test_request_context():
            other.get("/regenerate")
        session.clear()
        flash("bye")
        return ""

    browser.get("/in")
    cookie = browser.get_cookie("session")
    assert cookie is not None
    other.set_cookie("session", cookie.value)
    store = app.extensions["safesession"].store
    _announce(make_store(4)._shards, 4)
    store.parts()
    assert browser.get("/out").status_code == 200
    assert other.get("/who").text == "None"
    store.close()


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


# -- servers that forgot ---------------------------------------------------------------------------


def test_a_store_that_lost_its_data_takes_new_processes(make_store: Make, lose: Forgetful) -> None:
    running = make_store(4)
    fill(running)
    lose("*}*")
    fill(running)
    running.parts()  # the purge job comes round
    make_store(4, started=False).prepare()


def test_a_process_with_one_shard_learns_of_four_on_an_empty_store(make_store: Make) -> None:
    one = make_store(1)
    make_store(4)
    for letter in "ABCD":
        one.create(new_id(letter).key, make_draft(), RULES)


def test_a_source_that_fell_back_to_an_older_state_is_not_taken_for_empty(
    make_store: Make, lose: Forgetful, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_store(2)
    sessions, depart = fill(worker), Shard.depart

    def forget_first(self: Shard, *args: Any) -> Any:
        if self.number == 1:
            monkeypatch.setattr(Shard, "depart", depart)
            lose("1}:shards")
        return depart(self, *args)

    monkeypatch.setattr(Shard, "depart", forget_first)
    move(make_store(4), 4)
    assert read(make_store(4), sessions) == sessions


def test_a_target_that_lost_its_data_does_not_keep_the_mover(
    make_store: Make, lose: Forgetful, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_store(1)
    sessions, arrive = fill(worker), Shard.arrive

    def lose_first(self: Shard, *args: Any) -> Any:
        if self.number == 1:
            monkeypatch.setattr(Shard, "arrive", arrive)
            lose("1}*")
        return arrive(self, *args)

    monkeypatch.setattr(Shard, "arrive", lose_first)
    move(make_store(4), 4)
    assert read(worker, sessions) == sessions


def test_visitors_of_a_target_that_lost_its_data_are_served(
    make_store: Make, lose: Forgetful
) -> None:
    worker = make_store(1)
    sessions = fill(worker)
    die_in("arrive", lambda: move(make_store(4), 4))
    lose("1}*")
    assert read(worker, sessions) == sessions


def test_a_change_after_shard_0_lost_its_data_loses_nothing_of_the_others(
    make_store: Make, lose: Forgetful
) -> None:
    make_store(2)
    move(make_store(1), 1)
    move(make_store(2), 2)
    worker = make_store(2)
    sessions = {key: data for key, data in fill(worker).items() if bucket_of(key) % 2}
    lose("0}*")
    make_store(2).prepare()
    assert read(worker, sessions) == sessions
    move(make_store(4), 4)
    assert read(make_store(4), sessions) == sessions
    assert read(worker, sessions) == sessions


# -- marks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["arrive", "forget"])
def test_what_is_on_its_way_is_not_evicted(make_store: Make, method: str) -> None:
    """Otherwise the end would be told of sessions that live on elsewhere."""
    rules = make_rules(total=MANY, per_user=MANY)
    worker = make_store(1)
    for _ in range(MANY - 2):
        add(worker, rules=rules)
    die_in(method, lambda: move(make_store(4), 4))
    told = []
    for _ in range(MANY + 20):
        answer = worker.create(new_id("A").key, make_draft(rules=rules), rules)
        assert isinstance(answer, Live)
        told += [gone.key for gone in answer.removed]
    assert [key for key in told if payload(worker, key) is not None] == []


def test_one_who_was_stopped_for_two_changes_forgets_nothing_new(
    make_store: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, key = make_store(1), new_id("B").key
    worker.create(key, make_draft(b"mine"), RULES)
    die_in("arrive", lambda: move(make_store(2), 2))
    late: list[Any] = []
    forget = Shard.forget
    monkeypatch.setattr(Shard, "forget", lambda *args: late.append(args))
    payload(worker, key)
    monkeypatch.setattr(Shard, "forget", forget)
    move(make_store(2), 2)
    move(make_store(1), 1)
    die_in("arrive", lambda: move(make_store(2), 2))
    forget(*late[0])
    move(make_store(2), 2)
    assert payload(make_store(2), key) == b"mine"


def test_at_maxmemory_those_on_their_way_are_read_and_logged_out(
    make_store: Make, any_server: servers.Server
) -> None:
    worker = make_store(1)
    sessions = fill(worker)
    die_in("arrive", lambda: move(make_store(4), 4))
    with any_server.client() as client:
        client.config_set("maxmemory", 1)
        try:
            assert read(worker, sessions) == sessions
            for key in sessions:
                assert isinstance(worker.end(key, new_stamp(), "logout", None), Live)
        finally:
            client.config_set("maxmemory", 0)


def test_an_interrupted_end_of_a_change_is_made_good(
    make_store: Make, any_server: servers.Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(make_store(1))
    layout = Shard.layout

    def die_at_shard_1(self: Shard, wanted: str = "", expected: str = "") -> Any:
        if self.number == 1 and wanted == "3:4:4:4":
            raise KeyboardInterrupt
        return layout(self, wanted, expected)

    monkeypatch.setattr(Shard, "layout", die_at_shard_1)
    with pytest.raises(KeyboardInterrupt):
        move(make_store(4), 4)
    monkeypatch.setattr(Shard, "layout", layout)
    assert move(make_store(4), 4) == []
    with any_server.client() as client:
        assert not list(client.scan_iter(f"{{{prefix}:*}}:arrived:*"))
        assert {client.get(f"{{{prefix}:{n}}}:shards") for n in range(4)} == {b"3:4:4:4"}


def test_newer_records_are_not_left_behind(
    make_store: Make, any_server: servers.Server, prefix: str
) -> None:
    store, key = make_store(1), new_id("B").key
    store.create(key, make_draft(), RULES)
    with any_server.client() as client:
        client.setrange(f"{{{prefix}:0}}:s:{key}", 0, "SS2")
    with pytest.raises(StoreUnavailable, match="newer version"):
        move(make_store(4), 4)


def test_fakeredis_moves_sessions_too() -> None:
    store = RedisStore(fakeredis.FakeRedis(), timeout=5)
    store.prepare()
    sessions = fill(store)
    for number in (4, 8, 2):
        move(store, number)
        assert read(store, sessions) == sessions


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
    stranger = next(c for c in "ABCDEFG" if bucket_of(c) % 4 != bucket_of(tag) % 4)
    hers, key = new_id(tag[0]).key, new_id(stranger).key
    store.create(hers, make_draft(user="she"), rules)
    draft = make_draft()
    store.create(key, draft, rules)
    store.commit(key, make_draft(), draft.stamp, slide=True)
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
        "count": lambda: store.census(RULES),
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
    letter = next(c for c in "ABCDEFG" if bucket_of(c) % 4 != bucket_of(key) % 4)
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
