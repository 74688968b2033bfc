"""A master under Sentinel that is lost, stopped, replaced; Sentinels that are lost, or wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.base import Live
from flask_safesession.stores.redis import RedisStore
from flask_safesession.testing.kit import together

from ..support import fleets, servers
from ..support.concurrency import in_child
from ..support.faults_kit import within
from .test_cluster import (
    AT_ONCE,
    BOUND,
    RULES,
    SOON,
    TIMEOUT,
    add,
    failing_load,
    until_it_works,
    use,
)

pytestmark = pytest.mark.faults

# A third of the time, or less, goes to a Sentinel that does not answer: this is not two thirds.
SHARE = TIMEOUT / 2


@pytest.fixture
def open_store(prefix: str) -> Iterator[Callable[..., RedisStore]]:
    made: list[RedisStore] = []

    def make(given: Any, **options: Any) -> RedisStore:
        made.append(RedisStore(given, prefix=prefix, timeout=TIMEOUT, **options))
        return made[-1]

    yield make
    for store in made:
        store.close()


def ports(trio: fleets.Trio) -> set[str]:
    return {f"127.0.0.1:{sentinel.port}" for sentinel in trio.sentinels}


# -- another master -------------------------------------------------------------------------------


def test_fault_11_a_planned_failover_under_load_is_hardly_noticed(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    """Writes that the new master has not heard of are lost, so that only calls are looked at."""
    store = open_store(sentinel_trio.url)
    use(store)
    stop = threading.Event()
    failed: list[float] = []

    def load(number: int) -> int:
        done = 0
        while not stop.is_set():
            if number == 0:
                sentinel_trio.failover()
                stop.set()
            try:
                add(store)
                done += 1
            except StoreUnavailable:  # the old master is one no more, and the new one not yet
                failed.append(time.monotonic())
        return done

    assert all(together(4, load))
    assert not failed or max(failed) - min(failed) < 1
    use(store)


def test_fault_11_a_master_that_became_a_replica_is_left_after_one_refused_write(
    fresh_sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    """By hand, so that nobody cuts the connections to the old one."""
    trio = fresh_sentinel_trio
    store, crowd = open_store(trio.url), open_store(trio.url)
    key, _ = add(store)
    together(5, lambda _: crowd.load(key, RULES, slide=True))
    old, new = trio.master(), trio.replicas()[0]
    servers.poll("the replicas", lambda: old.is_copied(2))
    for sentinel in trio.sentinels:
        sentinel.ask("SENTINEL", "REMOVE", "main")
    new.ask("REPLICAOF", "NO", "ONE")
    old.ask("REPLICAOF", "127.0.0.1", new.port)
    for sentinel in trio.sentinels:
        sentinel.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", new.port, 2)
    for one in (store, crowd):
        with within(AT_ONCE):
            use(one)
    assert isinstance(crowd.load(key, RULES, slide=True), Live)
    clients = old.ask("CLIENT", "LIST", "TYPE", "normal")
    assert b"cmd=evalsha" not in clients


def test_fault_12_a_lost_master_is_a_503_at_once_until_there_is_another(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(sentinel_trio.url)
    key, _ = add(store)
    old = sentinel_trio.kill_master()
    named = threading.Thread(target=sentinel_trio.wait_for_another, args=[old])
    named.start()
    until_it_works(store, key, AT_ONCE)
    named.join(30)
    use(store)
    assert set(store.states().values()) == {"closed"}


def test_fault_12_a_stopped_master_costs_one_timeout_until_there_is_another(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(sentinel_trio.url)
    key, _ = add(store)
    old = sentinel_trio.master()
    with old.paused():
        worked = until_it_works(store, key)
        assert worked
        use(store)
        assert sentinel_trio.master() is not old
    sentinel_trio.wait()
    use(store)


# -- no master ------------------------------------------------------------------------------------


def test_fault_12_without_a_master_calls_end_in_time_and_say_who_was_asked(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store, fresh = open_store(sentinel_trio.url), open_store(sentinel_trio.url)
    key, _ = add(store)
    for server in sentinel_trio.servers:
        server.kill()
    for one in (store, fresh):
        with pytest.raises(StoreUnavailable) as caught, within(BOUND):
            one.load(key, RULES, slide=True)
    assert "no master for 'main'" in str(caught.value)
    assert sum(address in str(caught.value) for address in ports(sentinel_trio)) > 0
    for _ in range(5):
        failing_load(store, key)
    assert sorted(failing_load(store, key) for _ in range(50))[45] < SOON


def test_fault_12_a_service_that_no_sentinel_knows_is_told(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(sentinel_trio.url.replace("/main", "/mian"))
    with pytest.raises(StoreUnavailable) as caught, within(AT_ONCE):
        add(store)
    for address in ports(sentinel_trio):
        assert f"{address} names none" in str(caught.value)


# -- Sentinels ------------------------------------------------------------------------------------


def test_fault_12_without_sentinels_open_connections_go_on_and_new_ones_are_a_503(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(sentinel_trio.url)
    use(store)
    for sentinel in sentinel_trio.sentinels:
        sentinel.kill()
    use(store)
    store.close()
    with pytest.raises(StoreUnavailable) as caught, within(AT_ONCE):
        add(store)
    for address in ports(sentinel_trio):
        assert f"{address}: Error 111" in str(caught.value)
    sentinel_trio.heal()
    servers.poll("the store", lambda: succeeds(store))


def succeeds(store: RedisStore) -> bool:
    try:
        use(store)
    except StoreUnavailable:
        return False
    return True


def test_fault_12_a_stopped_sentinel_costs_its_share_once(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(sentinel_trio.url)
    with sentinel_trio.sentinels[0].paused():
        with within(SHARE):
            add(store)
        for _ in range(3):
            store.close()  # so that the next call connects
            with within(AT_ONCE):
                add(store)
    sentinel_trio.wait()


def test_fault_12_with_all_sentinels_stopped_a_new_connection_ends_in_time(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(sentinel_trio.url)
    for sentinel in sentinel_trio.sentinels:
        sentinel.pause()
    try:
        with pytest.raises(StoreUnavailable), within(BOUND):
            add(store)
    finally:
        sentinel_trio.heal()
    servers.poll("the store", lambda: succeeds(store))


def test_fault_12_a_sentinel_that_names_a_replica_is_not_believed(
    fresh_sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    """It was cut off while the others chose another master."""
    trio = fresh_sentinel_trio
    liar, replica = trio.sentinels[0], trio.replicas()[0]
    liar.ask("SENTINEL", "REMOVE", "main")
    liar.ask("SENTINEL", "MONITOR", "main", "127.0.0.1", replica.port, 2)
    store = open_store(trio.url)
    with within(AT_ONCE):
        use(store)
    assert calls(replica, "role") == 1
    store.close()
    use(store)
    assert calls(replica, "role") == 1  # that Sentinel is asked last now, which is not at all
    assert calls(replica, "evalsha") == 0


def calls(server: servers.Server, command: str) -> int:
    """How often it was asked to do *command*."""
    stats = server.ask("INFO", "commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_fault_12_a_sentinel_that_names_nobody_is_not_the_last_word(
    fresh_sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    fresh_sentinel_trio.sentinels[0].ask("SENTINEL", "REMOVE", "main")
    store = open_store(fresh_sentinel_trio.url)
    with within(AT_ONCE):
        use(store)


# -- processes ------------------------------------------------------------------------------------


def test_fault_12_a_forked_child_asks_for_the_master_by_itself(
    sentinel_trio: fleets.Trio, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(sentinel_trio.url)
    key, _ = add(store)
    use(store)

    def child() -> str:
        return type(store.load(key, RULES, slide=True)).__name__

    assert in_child(child) == "Live"
    use(store)
