"""Behind Sentinel and on a cluster, in short. At length: tests/faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.base import Gone, Live
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.redis.url import topology_of
from flask_safesession.testing import make_draft, make_rules, new_key

from ...support import fleets, servers
from ...support.concurrency import in_child
from ...support.kits import SERVERS

RULES = make_rules()
PING = ("PING",)


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleets.Cluster]:
    with fleets.cluster(SERVERS[0], tmp_path_factory.mktemp("cluster"), 3, 1) as made:
        yield made


@pytest.fixture
def cluster(shared_cluster: fleets.Cluster) -> fleets.Cluster:
    shared_cluster.heal()
    return shared_cluster


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleets.Trio]:
    with fleets.sentinels(SERVERS[-1], tmp_path_factory.mktemp("trio")) as made:
        yield made


@pytest.fixture
def open_store() -> Iterator[Callable[..., RedisStore]]:
    made: list[RedisStore] = []

    def make(given: Any, prefix: str) -> RedisStore:
        made.append(RedisStore(given, prefix=prefix, timeout=2))
        return made[-1]

    yield make
    for store in made:
        store.close()


def add(store: RedisStore) -> str:
    key = new_key()
    assert isinstance(store.create(key, make_draft(), RULES), Live)
    return key


def load(store: RedisStore, key: str) -> Live | Gone:
    return store.load(key, RULES, slide=True)


# -- Sentinel -------------------------------------------------------------------------------------


def test_sentinels_are_asked_for_the_master(
    trio: fleets.Trio, open_store: Callable[..., RedisStore], prefix: str
) -> None:
    store = open_store(trio.url, prefix)
    key = add(store)
    assert store.states() == {f"127.0.0.1:{trio.sentinels[0].port}/main": "closed"}
    store.close()
    assert isinstance(load(store, key), Live)
    assert trio.master().ask("KEYS", f"*{prefix}*")


# -- cluster --------------------------------------------------------------------------------------


def test_each_master_has_its_sessions(
    cluster: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    stores = [open_store(cluster.url, f"each{number}") for number in range(8)]
    keys = [add(store) for store in stores]
    for store, key in zip(stores, keys, strict=True):
        assert isinstance(load(store, key), Live)
    addresses = {f"127.0.0.1:{master.port}" for master in cluster.masters()}
    assert set(stores[0].states()) == addresses
    assert all(master.ask("DBSIZE") for master in cluster.masters())


def test_a_slot_that_moves_is_followed(
    cluster: fleets.Cluster, open_store: Callable[..., RedisStore], prefix: str
) -> None:
    store = open_store(cluster.url, prefix)
    keys = [add(store) for _ in range(4)]
    source = cluster.node_of(slot := f"{{{prefix}:0}}")
    number, target = cluster.slot_of(slot), other(cluster, source)
    cluster.begin_move(number, target)
    cluster.move_keys(number, *(f"{slot}:s:{key}" for key in keys[:2]))
    for key in keys:
        assert isinstance(load(store, key), Live)
    with pytest.raises(StoreUnavailable, match="TryAgain"):
        add(store)
    cluster.finish_move(number)
    keys.append(add(store))
    for key in keys:
        assert isinstance(load(store, key), Live)


def other(cluster: fleets.Cluster, master: servers.Server) -> servers.Server:
    return next(server for server in cluster.masters() if server is not master)


def works(store: RedisStore, key: str) -> bool:
    try:
        return isinstance(load(store, key), Live)
    except StoreUnavailable:
        return False


def test_a_forked_child_asks_by_itself(
    cluster: fleets.Cluster, open_store: Callable[..., RedisStore], prefix: str
) -> None:
    store, fresh = open_store(cluster.url, prefix), open_store(cluster.url, prefix)
    key = add(store)
    topology: Any = fresh._caller.topology
    with topology._turn._lock, topology._turn.starting:
        assert in_child(lambda: [works(store, key), works(fresh, key)]) == [True, True]
    assert works(fresh, key)


def test_without_any_node_the_seeds_are_what_is_known() -> None:
    ports = [servers.free_port(), servers.free_port()]
    topology = topology_of(f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", print)
    assert [at.server for at in topology.servers()] == [f"127.0.0.1:{port}" for port in ports]
    with pytest.raises(redis.ConnectionError, match="no map of the cluster") as caught:
        topology.route("{a}")(PING)
    for port in ports:
        assert f"127.0.0.1:{port}: Error 111" in str(caught.value)
