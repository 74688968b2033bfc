"""The fleets do what the tests of faults take for granted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from ..support import fleets, servers

pytestmark = pytest.mark.faults

Record = Callable[[str, object], None]


def seconds_are_few(record: Record, what: str, seconds: float) -> None:
    record(what, seconds)
    assert 0 < seconds < 15


def write(server: servers.Server, *keys: str) -> None:
    """Also on every replica."""
    client: Any = server.client(socket_timeout=5)
    with contextlib.closing(client):
        for key in keys:
            client.set(key, "kept")
        replicas = client.info("replication")["connected_slaves"]
        assert client.wait(replicas, 3000) == replicas


def test_a_replica_follows_and_is_promoted(kind: str, tmp_path: Path) -> None:
    with fleets.replicas(kind, tmp_path, 1, proxied=True) as pair:
        old, (replica,) = pair.master, pair.replicas
        write(old, "a")
        pair.nodes.proxy(old).cut_all()
        pair.promote(replica)
        pair.follow()
        assert replica.ask("GET", "a") == b"kept"
        with pytest.raises(redis.ReadOnlyError):
            old.ask("SET", "a", "late")


def test_a_killed_master_has_a_successor(
    sentinel_trio: fleets.Trio, record_property: Record
) -> None:
    write(sentinel_trio.master(), "a")
    old = sentinel_trio.kill_master()
    seconds_are_few(record_property, "Sentinel, master killed", sentinel_trio.wait_for_another(old))
    new = sentinel_trio.master()
    assert new is not old
    assert new.ask("INFO", "replication")["role"] == "master"
    assert new.ask("GET", "a") == b"kept"


def test_a_shared_trio_is_whole_and_empty_again(sentinel_trio: fleets.Trio) -> None:
    write(sentinel_trio.master(), "a")
    sentinel_trio.kill_master()
    sentinel_trio.replicas()[0].pause()
    sentinel_trio.sentinels[0].kill()
    sentinel_trio.heal()
    sentinel_trio.flush()
    master, (one, other) = sentinel_trio.master(), sentinel_trio.replicas()
    assert [server.ask("DBSIZE") for server in (master, one, other)] == [0, 0, 0]
    assert master.ask("INFO", "replication")["connected_slaves"] == 2


def test_a_failover_on_request_loses_nothing(
    sentinel_trio: fleets.Trio, record_property: Record
) -> None:
    old = sentinel_trio.master()
    write(old, "a")
    seconds_are_few(record_property, "Sentinel, on request", sentinel_trio.failover())
    assert sentinel_trio.master() is not old
    with pytest.raises(redis.ReadOnlyError):
        old.ask("SET", "b", "late")
    assert sentinel_trio.master().ask("GET", "a") == b"kept"


def test_a_master_behind_a_cut_proxy_is_replaced(kind: str, tmp_path: Path) -> None:
    with fleets.sentinels(kind, tmp_path, proxied=True) as trio:
        old = trio.master()
        proxy = trio.nodes.proxy(old)
        proxy.refuse = True
        proxy.cut_all()
        trio.wait_for_another(old)
        assert old.ask("INFO", "replication")["role"] == "master"  # it has not heard
        trio.heal()
        assert old.ask("INFO", "replication")["role"] == "slave"


def test_a_slot_moves_key_by_key(cluster_six: fleets.Cluster) -> None:
    slot = cluster_six.slot_of("{a}")
    source = cluster_six.node_of("{a}1")
    target = next(server for server in cluster_six.masters() if server is not source)
    write(source, "{a}1", "{a}2")
    cluster_six.begin_move(slot, target)
    assert source.ask("GET", "{a}1") == b"kept"
    cluster_six.move_keys(slot, "{a}1")
    with pytest.raises(redis.exceptions.AskError):
        source.ask("GET", "{a}1")
    with pytest.raises(redis.exceptions.TryAgainError):
        source.ask("MGET", "{a}1", "{a}2")
    cluster_six.finish_move(slot)
    assert cluster_six.node_of(slot) is target
    assert target.ask("MGET", "{a}1", "{a}2") == [b"kept", b"kept"]
    with pytest.raises(redis.exceptions.MovedError):
        source.ask("GET", "{a}1")


def test_a_move_that_was_left_halfway_is_taken_back(cluster_six: fleets.Cluster) -> None:
    slot = cluster_six.slot_of("a")
    source = cluster_six.node_of(slot)
    target = next(server for server in cluster_six.masters() if server is not source)
    cluster_six.begin_move(slot, target)
    with pytest.raises(redis.exceptions.AskError):
        source.ask("GET", "a")
    cluster_six.heal()
    assert source.ask("GET", "a") is None


def test_a_lost_node_has_a_successor_and_costs_its_own_slots_only(
    cluster_six: fleets.Cluster, record_property: Record
) -> None:
    lost, *others = cluster_six.masters()
    key = next(key for key in map(str, range(100)) if cluster_six.node_of(key) is lost)
    write(lost, key)
    (replica,) = cluster_six.replicas_of(lost)
    cluster_six.kill(lost)
    for other in others:
        with pytest.raises(redis.exceptions.MovedError):
            other.ask("GET", key)
    seconds = cluster_six.wait_for_another(lost)
    seconds_are_few(record_property, "cluster, node killed", seconds)
    assert cluster_six.node_of(key) is replica
    assert replica.ask("GET", key) == b"kept"


def test_a_replica_takes_over_on_request(
    cluster_six: fleets.Cluster, record_property: Record
) -> None:
    master = cluster_six.masters()[0]
    (replica,) = cluster_six.replicas_of(master)
    seconds_are_few(record_property, "cluster, on request", cluster_six.failover(replica))
    assert replica in cluster_six.masters()
    assert cluster_six.replicas_of(replica) == [master]


def test_a_cluster_behind_proxies_names_the_proxies(kind: str, tmp_path: Path) -> None:
    with fleets.cluster(kind, tmp_path, proxied=True) as six:
        proxies = {proxy.port for proxy in six.nodes.proxies.values()}
        port = six.nodes.port(six.servers[0])
        client: Any = redis.RedisCluster(host="127.0.0.1", port=port)
        with contextlib.closing(client):
            primaries = client.get_primaries()
            assert {node.port for node in primaries} <= proxies
            client.set("a", 1)
        assert six.node_of("a").ask("GET", "a") == b"1"


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def ways(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> dict[str, Any]:
    if not request.param:
        return {"password": "pw:1/@"}
    if not servers.has_tls(kind):
        pytest.skip(f"{kind} here was built without TLS")
    return {"password": "pw:1/@", "tls": servers.Certificates.make(tmp_path)}


def test_a_trio_can_be_locked(kind: str, tmp_path: Path, ways: dict[str, Any]) -> None:
    with fleets.sentinels(kind, tmp_path, sentinel_password="other", **ways) as trio:
        trio.failover()
        assert trio.url.startswith("rediss+sentinel://:pw%3A1%2F%40@" if "tls" in ways else "redis")


def test_a_cluster_can_be_locked(kind: str, tmp_path: Path, ways: dict[str, Any]) -> None:
    with fleets.cluster(kind, tmp_path, **ways) as six:
        source, target, _ = six.masters()
        key = next(key for key in map(str, range(100)) if six.node_of(key) is source)
        write(source, key)
        six.begin_move(six.slot_of(key), target)
        six.finish_move(six.slot_of(key))
        assert target.ask("GET", key) == b"kept"


def test_two_sentinels_are_enough(fresh_sentinel_trio: fleets.Trio) -> None:
    fresh_sentinel_trio.sentinels[0].kill()
    old = fresh_sentinel_trio.kill_master()
    fresh_sentinel_trio.wait_for_another(old)


def test_a_fresh_cluster_moves_a_slot_back_and_forth(fresh_cluster_six: fleets.Cluster) -> None:
    one, other, _ = fresh_cluster_six.masters()
    slots = range(0, fleets.SLOTS, 1000)
    slot = next(slot for slot in slots if fresh_cluster_six.node_of(slot) is one)
    for target in (other, one):
        fresh_cluster_six.begin_move(slot, target)
        fresh_cluster_six.finish_move(slot)
        assert fresh_cluster_six.node_of(slot) is target
