"""What only the store in MongoDB does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from flask_safesession.errors import ConfigError, StoreUnavailable
from flask_safesession.model.tokens import tier_tag
from flask_safesession.stores.base import Gone, Live
from flask_safesession.stores.mongodb import servers
from flask_safesession.stores.mongodb.store import MongoDBStore
from flask_safesession.stores.opening import Opened, check_store
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.stores.tables import Scope
from flask_safesession.testing import make_draft, make_rules, new_key
from flask_safesession.testing.kit import MINUTE, together
from flask_safesession.testing.tampering import clock_of

from ...support import mongodb

RULES = make_rules()


@pytest.fixture
def server(pool: Any) -> mongodb.Server:
    made: mongodb.Server = pool.mongodb()
    return made


@pytest.fixture
def store(server: mongodb.Server, prefix: str) -> Iterator[MongoDBStore]:
    made = mongodb.mongodb_store(server, prefix)
    yield made
    made.close()


def add(store: MongoDBStore, **draft: Any) -> str:
    key = new_key()
    assert isinstance(store.create(key, make_draft(**draft), RULES), Live)
    return key


def is_live(store: MongoDBStore, key: str) -> bool:
    return isinstance(store.load(key, RULES, slide=False), Live)


def test_a_standalone_server_is_refused_with_what_to_do(prefix: str) -> None:
    server = mongodb.start("--standalone")
    store = mongodb.mongodb_store(server, prefix)
    try:
        with pytest.raises(ConfigError, match=r"not a replica set.*--replSet.*rs\.initiate\(\)"):
            store.prepare()
    finally:
        store.close()
        server.stop()


def test_collections_of_a_newer_version_are_refused(
    server: mongodb.Server, store: MongoDBStore, prefix: str
) -> None:
    store.prepare()
    with server.database() as database:
        database[f"{prefix}_seats"].update_one({}, {"$set": {"version": servers.VERSION + 1}})
    other = mongodb.mongodb_store(server, prefix)
    with pytest.raises(ConfigError, match=r"newer Flask-SafeSession .* SAFESESSION_KEY_PREFIX"):
        other.prepare()
    other.close()


def test_a_prefix_that_mongodb_does_not_take_is_refused(server: mongodb.Server) -> None:
    for prefix in ("a$b", "system.a"):
        with pytest.raises(ConfigError, match="SAFESESSION_KEY_PREFIX"):
            MongoDBStore(server.url, prefix=prefix)


def test_after_a_close_the_store_connects_again(store: MongoDBStore) -> None:
    key = add(store)
    store.close()
    assert is_live(store, key)


def test_dropped_collections_are_made_again(
    server: mongodb.Server, store: MongoDBStore, prefix: str
) -> None:
    key = add(store)
    server.drop(prefix)
    with pytest.raises(StoreUnavailable, match="dropped"):
        store.load(key, RULES, slide=False)
    assert store.load(key, RULES, slide=False) == Gone("unknown")
    assert is_live(store, add(store))


def test_threads_that_create_at_once_wait_for_each_other(store: MongoDBStore) -> None:
    """Their transactions conflict, and are repeated."""
    store.prepare()
    together(8, lambda _: [add(store, user=1) for _ in range(3)])
    assert store.count(RULES).total == 24


def test_counts_that_differ_from_the_sessions_are_repaired(
    server: mongodb.Server, store: MongoDBStore, prefix: str
) -> None:
    add(store)
    with server.database() as database:
        database[f"{prefix}_seats"].update_one({}, {"$set": {"held": {"anonymous": 7}}})
    assert store.audit(RULES, 10).repaired == 1
    assert store.count(RULES).total == 1
    assert store.audit(RULES, 10).repaired == 0


def test_a_forked_child_makes_connections_of_its_own(store: MongoDBStore) -> None:
    key = add(store)
    child = os.fork()
    if not child:  # pragma: no cover  # what a child covers is not measured
        done = 1
        try:
            done = 0 if is_live(store, key) and is_live(store, add(store)) else 1
        finally:
            os._exit(done)
    assert is_live(store, add(store))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_live(store, key)
    assert store.count(RULES).total == 3


@pytest.mark.parametrize("hosts", ["127.0.0.1:1", "127.0.0.1:1,localhost:1"])
def test_an_error_says_what_happened_on_which_server_and_no_more(hosts: str) -> None:
    """PyMongo adds its settings, and its view of all servers."""
    store = MongoDBStore(f"mongodb://ann:hunter2@{hosts}", timeout=0.05)
    said = "(127.0.0.1|localhost):1: [^:]*Connection refused"
    for text in (*[f"({hosts}: )?{said}"] * FAILURES, f"{hosts} is not asked again yet: {said}"):
        with pytest.raises(StoreUnavailable, match=f"^{text}$"):
            store.load(new_key(), RULES, slide=False)
    store.close()


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("mongodb://", "nodename|Empty|host|Invalid"),
        ("mongodb://h:port", "Port"),
        ("mongodb://user:pa/ss@h", "%40"),
        ("mongodb+srv://one,two", "one host"),
        ("mongodb+srv://one:27017", "one host"),
        ("mongo://h", "did you mean mongodb://h"),
    ],
)
def test_a_url_that_is_wrong_is_refused_at_the_start(url: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=fix) as refused:
        check_store(url)
    assert "pa/ss" not in str(refused.value)


def test_urls_that_are_right_are_accepted() -> None:
    for url in ("mongodb://h", "mongodb://u:p@a:1,b:2/app?replicaSet=rs0", "mongodb+srv://u:p@h/a"):
        assert check_store(url) == url


def test_the_plugin_moves_the_clock(store: MongoDBStore) -> None:
    key = add(store)
    clock = clock_of(Opened.of(store), None)
    clock.advance(29 * MINUTE)
    assert is_live(store, key)
    clock.advance(MINUTE)
    assert store.load(key, RULES, slide=False) == Gone("idle", tier=tier_tag("default"))
    clock.restore()
    assert is_live(store, add(store))


def test_a_greenlet_keeps_its_transaction_while_another_one_has_its_own(
    store: MongoDBStore,
) -> None:
    """Greenlets share their thread, also where gevent patches after the store was imported."""
    key, tables = add(store, payload=b"mine"), store.tables

    def another() -> None:
        with tables.transaction(Scope((add(store),)), writes=False):
            assert tables.read(key) is not None

    with tables.transaction(Scope((key,)), writes=False):
        copy_context().run(another)
        found = tables.read(key)
        session = tables._seen.session
    assert found is not None
    assert found.payload == b"mine"
    assert session.has_ended
