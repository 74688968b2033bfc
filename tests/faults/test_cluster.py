"""Nodes of a cluster that are lost, stopped, replaced; slots that are moved while in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Gone, Live, Rules, Terms
from flask_safesession.stores.redis import RedisStore
from flask_safesession.testing import make_draft, make_rules, new_key
from flask_safesession.testing.kit import together

from ..support import fleets, servers
from ..support.concurrency import in_child
from ..support.faults_kit import Stopwatch, within

pytestmark = pytest.mark.faults

RULES = make_rules()
TIMEOUT = 0.6
BOUND = TIMEOUT * 1.5
# Where nobody is waited for in vain; the machine may be busy.
PATIENT = 5.0
AT_ONCE = 0.5
SOON = 0.05  # of a call that asks nobody: 5 ms are the target, but this machine may be busy


def prefix_on(six: fleets.Cluster, master: servers.Server) -> str:
    """A prefix whose first shard is on *master*."""
    prefixes = (f"t{number}" for number in range(10_000))
    return next(p for p in prefixes if six.node_of(slot(p)) is master)


def slot(prefix: str) -> str:
    return f"{{{prefix}:0}}"


@pytest.fixture
def open_store() -> Iterator[Callable[..., RedisStore]]:
    made: list[RedisStore] = []

    def make(given: Any, prefix: str, timeout: float = TIMEOUT) -> RedisStore:
        made.append(RedisStore(given, prefix=prefix, timeout=timeout))
        return made[-1]

    yield make
    for store in made:
        store.close()


def add(store: RedisStore, user: object = None, rules: Rules = RULES) -> tuple[str, str]:
    key, draft = new_key(), make_draft(user=user, rules=rules)
    assert isinstance(store.create(key, draft, rules), Live)
    return key, draft.stamp


def use(store: RedisStore) -> None:
    """All that is done to a session, without a fault."""
    key, stamp = add(store)
    assert isinstance(store.load(key, RULES, slide=True), Live)
    draft = make_draft()
    assert isinstance(store.commit(key, draft, stamp, touch=0), Live)
    new, terms = new_key(), Terms(draft.stamp, restart=True, reason="rotated")
    assert isinstance(store.rotate(key, new, make_draft(user=1), RULES, terms), Live)
    assert isinstance(store.end(new, new_stamp(), "logout", None), Live)
    assert store.load(new, RULES, slide=True) == Gone("logout", has_tombstone=True)


def until_it_works(store: RedisStore, key: str, bound: float = BOUND) -> float:
    """Ask again and again; no call may take longer than *bound*. When it first worked."""

    def works() -> bool:
        with within(bound):
            try:
                return isinstance(store.load(key, RULES, slide=True), Live)
            except StoreUnavailable:
                return False

    servers.poll("a load", works)
    return time.monotonic()


@contextmanager
def promotion_of(replica: servers.Server) -> Iterator[list[float]]:
    """When *replica* calls itself a master; there at the end of the block."""
    seen: list[float] = []

    def watch() -> None:
        servers.poll("a promotion", lambda: replica.ask("ROLE")[0] == b"master")
        seen.append(time.monotonic())

    watching = threading.Thread(target=watch)
    watching.start()
    yield seen
    watching.join(30)


# -- lost nodes -----------------------------------------------------------------------------------


def test_fault_33_a_lost_node_is_a_503_at_once_until_its_replica_takes_over(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    lost = cluster_six.masters()[1]
    [replica] = cluster_six.replicas_of(lost)
    store = open_store(cluster_six.url, prefix_on(cluster_six, lost))
    key, _ = add(store)
    with promotion_of(replica) as promoted:
        lost.kill()
        worked = until_it_works(store, key, AT_ONCE)
    assert worked - promoted[0] < 1  # on a machine that has nothing else to do, 0.15
    use(store)
    assert set(store.states().values()) == {"closed"}
    assert f"127.0.0.1:{replica.port}" in store.states()
    assert f"127.0.0.1:{lost.port}" not in store.states()


def test_fault_33_a_stopped_node_costs_one_timeout_until_its_replica_takes_over(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    lost = cluster_six.masters()[0]
    [replica] = cluster_six.replicas_of(lost)
    store = open_store(cluster_six.url, prefix_on(cluster_six, lost))
    key, _ = add(store)
    with promotion_of(replica) as promoted, lost.paused():
        worked = until_it_works(store, key)
        use(store)
    assert worked - promoted[0] < BOUND  # a call that was under way had to wait
    cluster_six.wait()


def test_fault_33_calls_for_other_slots_are_not_hurt_by_a_stopped_node(
    fresh_cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    """Not even those of processes that have not heard of any node yet."""
    six = fresh_cluster_six
    lost = six.servers[0]  # the first in the URL
    others = [master for master in six.masters() if master is not lost]
    let_take_over(six, lost, "no")
    prefixes = [prefix_on(six, master) for master in others]
    open_ones = [open_store(six.url, prefix) for prefix in prefixes]
    hurt = open_store(six.url, prefix_on(six, lost))
    for store in (hurt, *open_ones):
        use(store)
    with lost.paused():
        stop = threading.Event()

        def suffer() -> None:
            while not stop.is_set():
                with pytest.raises(StoreUnavailable), within(BOUND):
                    hurt.load(new_key(), RULES, slide=True)

        suffering = threading.Thread(target=suffer)
        suffering.start()
        try:
            for store in open_ones:
                for _ in range(20):
                    with within(AT_ONCE):
                        use(store)
            for prefix in prefixes:
                with within(BOUND):  # it is the stopped node that is asked first
                    use(open_store(six.url, prefix))
        finally:
            stop.set()
            suffering.join(10)
    let_take_over(six, lost, "yes")
    six.wait()
    use(hurt)


def let_take_over(six: fleets.Cluster, master: servers.Server, whether: str) -> None:
    contrary = {"yes": "no", "no": "yes"}[whether]
    for replica in six.replicas_of(master):
        replica.ask("CONFIG", "SET", "cluster-replica-no-failover", contrary)


def test_fault_33_with_all_nodes_stopped_calls_end_in_time_and_soon_at_once(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(cluster_six.url, "all")
    key, _ = add(store)
    fresh = open_store(cluster_six.url, "fresh")
    for server in cluster_six.servers:
        server.pause()
    try:
        for one in (store, fresh):
            for _ in range(8):
                with pytest.raises(StoreUnavailable), within(BOUND):
                    one.load(key, RULES, slide=True)
        took = sorted(failing_load(store, key) for _ in range(100))
        assert took[90] < SOON
    finally:
        for server in cluster_six.servers:
            server.resume()
    until_it_works(store, key)
    cluster_six.wait()
    use(store)
    use(fresh)


def failing_load(store: RedisStore, key: str) -> float:
    watch = Stopwatch()
    with pytest.raises(StoreUnavailable):
        store.load(key, RULES, slide=True)
    return watch.read()


def test_fault_33_a_planned_failover_under_load_is_not_noticed(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    master = cluster_six.masters()[2]
    [replica] = cluster_six.replicas_of(master)
    store = open_store(cluster_six.url, prefix_on(cluster_six, master), PATIENT)
    use(store)
    stop = threading.Event()

    def load(number: int) -> int:
        done = 0
        while not stop.is_set():
            if number == 0:
                cluster_six.failover(replica)
                stop.set()
            use(store)
            done += 1
        return done

    assert all(together(4, load))


def test_fault_33_sessions_are_never_read_from_a_replica(
    fresh_cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    six = fresh_cluster_six
    for server in six.servers:
        server.ask("CONFIG", "RESETSTAT")
    store = open_store(six.url, "by-url", PATIENT)
    for _ in range(10):
        use(store)
    masters = six.masters()
    for server in six.servers:
        stats = server.ask("INFO", "commandstats")
        assert ("cmdstat_evalsha" in stats) <= (server in masters)
        assert "cmdstat_readonly" not in stats


# -- slots that move ------------------------------------------------------------------------------


def test_fault_33_a_slot_that_moved_is_not_noticed(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    source, target, *_ = cluster_six.masters()
    prefix = prefix_on(cluster_six, source)
    store, idle = (
        open_store(cluster_six.url, prefix, PATIENT),
        open_store(cluster_six.url, prefix, PATIENT),
    )
    key, stamp = add(store)
    use(idle)
    number = cluster_six.slot_of(slot(prefix))
    cluster_six.begin_move(number, target)
    cluster_six.finish_move(number)
    source.ask("CONFIG", "RESETSTAT")
    for _ in range(5):
        with within(AT_ONCE):
            use(store)
    assert isinstance(store.commit(key, make_draft(), stamp, touch=0), Live)
    assert source.ask("INFO", "errorstats")["errorstat_MOVED"] == {"count": 1}  # asked once
    with within(AT_ONCE):
        add(idle)  # the very first call, and one that is sent once


# How many of what is stored is on the target when the calls are made.
HALVES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "nothing": lambda names: [],
    "every other key": lambda names: names[::2],
    "the index": lambda names: [name for name in names if b":s:" not in name],
    "the records": lambda names: [name for name in names if b":s:" in name],
    "everything": lambda names: names,
}


@pytest.mark.parametrize("half", HALVES)
def test_fault_33_while_a_slot_is_on_its_way_reads_work_and_nothing_is_half_done(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore], half: str
) -> None:
    source, target, *_ = cluster_six.masters()
    prefix = prefix_on(cluster_six, source)
    store, fresh = (
        open_store(cluster_six.url, prefix, PATIENT),
        open_store(cluster_six.url, prefix, PATIENT),
    )
    short = make_rules(idle=400)
    live = [add(store, user) for user in (None, 1, None, 2, 2, None)]
    dead = [add(store)[0] for _ in range(3)]
    for key in dead:
        store.end(key, new_stamp(), "logout", None)
    due = [
        add(store, rules=short)[0] for _ in range(3)
    ]  # last: a create removes those that are due
    servers.poll("the deadlines", lambda: store.count(RULES).due == len(due))
    number = cluster_six.slot_of(slot(prefix))
    cluster_six.begin_move(number, target)
    names = sorted(source.ask("CLUSTER", "GETKEYSINSLOT", number, 1000))
    if moving := HALVES[half](names):
        cluster_six.move_keys(number, *moving)
    for one in (store, fresh):
        reads_work(one, live, [*dead, *due, new_key()])
        for write in writes(one, *live[0]):
            with pytest.raises(StoreUnavailable, match="TryAgain"), within(PATIENT / 2):
                write()

    cluster_six.finish_move(number)
    assert audited(store) == audited(fresh) == 0
    assert store.purge(RULES, 100).due == len(due)
    assert store.count(RULES).total == len(live)
    for one in (store, fresh):
        reads_work(one, live, [*due, new_key()])
        for key in dead:
            assert one.load(key, RULES, slide=True) == Gone("logout", has_tombstone=True)
        use(one)


def reads_work(store: RedisStore, live: list[tuple[str, str]], gone: list[str]) -> None:
    """Each at once, also where more than reading would be needed: a slide, or shorter limits."""
    for key, _ in live:
        for rules in (RULES, make_rules(idle=60_000)):
            with within(AT_ONCE):
                assert isinstance(store.load(key, rules, slide=True), Live)
    for key in gone:  # how they ended may be on the other node
        assert store.load(key, RULES, slide=True) == Gone("unknown")


def audited(store: RedisStore) -> int:
    """What a whole round of the audit finds to fix."""
    repaired = 0
    while not (step := store.audit(RULES, 1000)).done:
        repaired += step.repaired
    return repaired + step.repaired


def writes(store: RedisStore, key: str, stamp: str) -> list[Callable[[], object]]:
    terms = Terms(stamp, restart=True, reason="rotated")
    return [
        lambda: store.create(new_key(), make_draft(), RULES),
        lambda: store.commit(key, make_draft(b"new"), stamp, touch=0),
        lambda: store.rotate(key, new_key(), make_draft(user=1), RULES, terms),
        lambda: store.end(key, new_stamp(), "logout", None),
        lambda: store.purge(RULES, 10),
        lambda: store.count(RULES),
        lambda: store.audit(RULES, 10),
        lambda: store.lease("purge", 1000),
    ]


def test_fault_33_a_slot_that_moves_under_load_loses_and_repeats_nothing(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    source, target, *_ = cluster_six.masters()
    prefix = prefix_on(cluster_six, source)
    store = open_store(cluster_six.url, prefix, PATIENT)
    number = cluster_six.slot_of(slot(prefix))
    rules = make_rules(total=100_000, per_user=100_000)
    for _ in range(200):
        add(store)
    stop = threading.Event()

    def load(worker: int) -> set[str]:
        """The keys whose creation was acknowledged."""
        made = set()
        while not stop.is_set():
            if worker == 0:
                for end in (target, source):
                    cluster_six.begin_move(number, end)
                    cluster_six.finish_move(number)
                stop.set()
            key = new_key()
            try:
                store.create(key, make_draft(user=worker, rules=rules), rules)
            except StoreUnavailable:
                continue
            made.add(key)
        return made

    made = set().union(*together(4, load))
    assert len(made) < 90_000, "else the cap evicts some"
    for key in made:
        assert isinstance(store.load(key, RULES, slide=False), Live)
    assert audited(store) == 0
    assert store.count(rules).total == 200 + len(made)


# -- what a create may do -------------------------------------------------------------------------


def test_fault_33_a_create_is_sent_once_unless_nobody_has_done_it(
    kind: str, tmp_path: Path, open_store: Callable[..., RedisStore]
) -> None:
    with fleets.cluster(kind, tmp_path, 2, 0, proxied=True) as two:
        source, target = two.masters()
        store = open_store(two.url, prefix_on(two, source), PATIENT)
        add(store)
        two.nodes.proxy(source).cut_replies = 1
        with pytest.raises(StoreUnavailable):
            add(store)
        assert store.count(RULES).total == 2  # its reply was lost, and it was not sent again
        number = two.slot_of(slot(prefix_on(two, source)))
        two.begin_move(number, target)
        two.finish_move(number)
        add(store)
        assert store.count(RULES).total == 3  # it was refused, and sent on


# -- processes ------------------------------------------------------------------------------------


def test_fault_33_a_forked_child_finds_the_nodes_by_itself(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    lost = cluster_six.masters()[0]
    store = open_store(cluster_six.url, prefix_on(cluster_six, lost))
    key, _ = add(store)

    def child() -> str:
        until_it_works(store, key)
        return type(store.load(key, RULES, slide=True)).__name__

    # Somebody in the parent is looking at the map, with its lock in hand, for ever.
    with store._caller.topology._turn._lock:  # type: ignore[attr-defined]
        lost.kill()
        assert in_child(child) == "Live"


def test_fault_33_fifty_threads_start_at_once(
    cluster_six: fleets.Cluster, open_store: Callable[..., RedisStore]
) -> None:
    store = open_store(cluster_six.url, "crowd", PATIENT)
    together(50, lambda _: add(store))
    assert store.count(RULES).total == 50
