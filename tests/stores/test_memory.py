"""The memory store: its clock, its forks, its bounds, and what threads may do to it."""

from __future__ import annotations

import gc
import linecache
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from sortedcontainers import sortedlist

from flask_safesession import StoreFull, TooManySessions, events
from flask_safesession.model.policy import DEFAULT_TIER, Limits
from flask_safesession.model.record import Draft, Record, loads
from flask_safesession.model.tokens import NO_USER, user_tag
from flask_safesession.stores import (
    admission,
    audit,
    engine,
    memory,
    memory_tables,
    rules,
    tables,
    tombstones,
)
from flask_safesession.stores.base import (
    MAX_EVICTIONS,
    TOMBSTONE_TTL,
    AuditStep,
    Gone,
    Live,
    Rules,
    Terms,
)
from flask_safesession.stores.memory import MemoryStore, store_clock
from flask_safesession.stores.memory_tables import _split as parts
from flask_safesession.testing import FakeClock, make_draft, make_rules, new_key

from ..support.concurrency import PATIENCE, held, in_child

MINUTE = 60_000
HOUR = 60 * MINUTE


# -- help ---------------------------------------------------------------------------------------


def add(store: MemoryStore, rules: Rules, payload: bytes = b"data", user: object = None) -> str:
    key = new_key()
    assert isinstance(store.create(key, make_draft(payload, rules=rules, user=user), rules), Live)
    return key


def assert_sound(store: MemoryStore) -> None:
    """The index has what is in the records, no more and no less."""
    kept = store.tables
    records = {key: loads(raw) for key, raw in kept.records.items()}
    entries = [(tag, *parts(entry)[:2]) for tag, bucket in kept.groups.items() for entry in bucket]
    assert sorted(entries) == sorted(
        ("anonymous" if r.user == NO_USER else r.tier, r.deadline, key)
        for key, r in records.items()
    )
    # Between the place and the key stands a number that no record has.
    assert sorted(entry[:32] + entry[43:] for entry in kept.users) == sorted(
        f"{r.user}{r.tier}{place_of(r)}{key}".encode()
        for key, r in records.items()
        if r.user != NO_USER
    )
    assert sorted(kept._places.values()) == list(kept.users)
    for index in (kept.users, *kept.groups.values()):
        getattr(index, "_check")()  # noqa: B009  # SortedList's own, which has no types
    assert not is_torn(store)


def is_torn(store: MemoryStore) -> bool:
    """Whether a change was interrupted, so that the index may be wrong."""
    return store.tables._begun != store.tables._done


def kept(store: MemoryStore, kind: str) -> int:
    """How much is kept of sessions that are over."""
    return len(store.tables._endings[kind]._rows)


def place_of(record: Record) -> str:
    """What orders a user's sessions: first those whose cookie never came back."""
    used = record.last_active > record.created
    return f"{int(used)}{record.last_active if used else record.created:011x}"


# -- the clock ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [timedelta(days=2), timedelta(days=-2)], ids=["ahead", "back"])
def test_a_step_of_the_wall_clock_ends_nothing_early_and_keeps_nothing_late(
    step: timedelta,
) -> None:
    store, rules = MemoryStore(), make_rules(idle=HOUR)
    key = add(store, rules)
    with time_machine.travel(datetime.now(UTC) + step):
        answer = store.load(key, rules, slide=True)
        assert isinstance(answer, Live)
        assert answer.record.last_active - answer.record.created < MINUTE
        assert store.purge(rules, 100).removed == ()


def test_the_stores_clock_shows_the_time_of_day_at_which_the_process_started() -> None:
    assert abs(store_clock() - time.time() * 1000) < MINUTE


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no clock counts suspension here")
def test_the_time_that_a_machine_sleeps_is_idle_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = 0
    true_clock = time.clock_gettime_ns

    def clock(which: int) -> int:
        # After a suspension CLOCK_BOOTTIME has gone on and CLOCK_MONOTONIC has not.
        return true_clock(which) + (asleep if which == time.CLOCK_BOOTTIME else 0)

    monkeypatch.setattr(time, "clock_gettime_ns", clock)
    store, rules = MemoryStore(), make_rules(idle=HOUR)
    key = add(store, rules)
    asleep = 2 * HOUR * 1_000_000
    assert store.load(key, rules, slide=True) == Gone("idle", tier=make_draft().tier)


def test_without_a_clock_that_counts_suspension_the_monotonic_one_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 5_000_000_000)
    first = store_clock()
    monkeypatch.setattr(time, "monotonic_ns", lambda: 6_500_000_000)
    assert store_clock() - first == 1500


# -- forks --------------------------------------------------------------------------------------


def test_a_forked_child_starts_empty_and_says_so() -> None:
    store, rules = MemoryStore(), make_rules()
    # A number that no other test's store has: those may still be alive, and say the same.
    key, *_ = [add(store, rules) for _ in range(37)]
    handler = _Messages()
    events.logger.addHandler(handler)

    def child() -> list[Any]:
        found = store.load(key, rules, slide=False)
        return [isinstance(found, Gone), store.count(rules).total, handler.texts]

    try:
        gone, count, warnings = in_child(child)
    finally:
        events.logger.removeHandler(handler)
    assert gone
    assert count == 0
    [warning] = [text for text in warnings if "37 sessions" in text]
    assert "use sqlite:// or a Redis store" in warning
    assert handler.texts == []
    assert isinstance(store.load(key, rules, slide=False), Live)


def test_a_child_that_was_forked_while_a_thread_held_the_lock_works() -> None:
    store, rules = MemoryStore(), make_rules()
    add(store, rules, user=1)

    def child() -> bool:
        key = add(store, rules, user=1)
        assert_sound(store)
        return isinstance(store.load(key, rules, slide=True), Live)

    with held(store.tables.lock):
        assert in_child(child)
    assert store.count(rules).total == 1


def test_a_store_that_was_empty_at_the_fork_says_nothing() -> None:
    store = MemoryStore()
    handler = _Messages()
    events.logger.addHandler(handler)
    try:
        count, texts = in_child(lambda: [store.count(make_rules()).total, handler.texts])
    finally:
        events.logger.removeHandler(handler)
    assert count == 0
    assert not any("parent's 0 sessions" in text for text in texts)


class _Messages(logging.Handler):
    """Keeps texts: caplog's records stay in the parent."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


# -- bounds -------------------------------------------------------------------------------------


def test_a_flood_of_anonymous_logouts_leaves_a_bounded_number_of_tombstones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tombstones, "MAX_TOMBSTONES", 100)
    store, rules = MemoryStore(FakeClock()), make_rules()
    keys = [add(store, rules) for _ in range(3)]
    store.end(keys[0], "stamp---", "logout", None)
    store.end(keys[1], "stamp---", "logout", None)
    for _ in range(99):
        store.end(add(store, rules), "stamp---", "logout", None)
    assert kept(store, "anonymous") == 100
    assert store.load(keys[0], rules, slide=True) == Gone("unknown")  # the oldest made room
    assert store.load(keys[1], rules, slide=True) == Gone("logout", has_tombstone=True)
    assert isinstance(store.load(keys[2], rules, slide=True), Live)


def test_a_flood_of_anonymous_logouts_pushes_out_no_tombstone_of_a_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither that of a logout nor that of a sign-in, though an anonymous session was before it."""
    monkeypatch.setattr(tombstones, "MAX_TOMBSTONES", 50)
    store, rules = MemoryStore(FakeClock()), make_rules()
    logout, sign_in, new = add(store, rules, user=1), add(store, rules), new_key()
    store.end(logout, "stamp---", "logout", None)
    draft = make_draft(rules=rules, user=2)
    store.rotate(sign_in, new, draft, rules, Terms(None, True, "rotated"))
    for _ in range(200):
        store.end(add(store, rules), "stamp---", "logout", None)
    assert store.load(logout, rules, slide=True) == Gone("logout", has_tombstone=True)
    moved = Gone("rotated", has_tombstone=True, successor=new, user=draft.user)
    assert store.load(sign_in, rules, slide=True) == moved


def test_the_tombstones_and_reasons_of_all_users_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tombstones, "MAX_TOMBSTONES", 50)
    store, rules = MemoryStore(FakeClock()), make_rules()
    for user in range(200):
        store.end(add(store, rules, user=user), "stamp---", "revoked", None)
    assert kept(store, "users") == kept(store, "reasons") == 50


def test_tombstones_are_gone_after_their_time() -> None:
    clock = FakeClock()
    store, rules = MemoryStore(clock), make_rules()
    for _ in range(50):
        store.end(add(store, rules), "stamp---", "logout", None)
    clock.advance(TOMBSTONE_TTL - 1)
    store.purge(rules, 10)
    assert kept(store, "anonymous") == 50
    clock.advance(1)
    store.purge(rules, 10)
    assert not kept(store, "anonymous")


def count_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def test_rounds_of_filling_and_purging_leave_nothing_behind() -> None:
    clock = FakeClock()
    store, rules = MemoryStore(clock), make_rules(total=1000, per_user=10)

    def fill_and_purge() -> int:
        for n in range(200):
            key = add(store, rules, b"x" * 100, user=n % 50 if n % 2 else None)
            store.load(key, rules, slide=True)
            if n % 10 == 0:
                store.end(key, "stamp---", "logout", None)
        clock.advance(rules.policy.default.lifetime)
        while store.purge(rules, 200).more:
            pass
        return count_objects()

    def rounds() -> list[int]:
        gc.freeze()  # what was there before is neither counted nor looked through
        counts = [fill_and_purge() for _ in range(10)]
        assert not store.tables.records
        assert not kept(store, "users")
        assert not store.tables.users
        assert not any(store.tables.groups.values())
        return counts

    counts = in_child(rounds)  # where no other thread makes or drops objects
    # Nine rounds made 1,800 sessions. A few objects come and go with other code's caches.
    assert abs(counts[-1] - counts[0]) < 100


def test_stored_sessions_are_no_work_for_the_garbage_collector() -> None:
    store, rules = MemoryStore(FakeClock()), make_rules(total=10_000)

    def fill() -> int:
        gc.freeze()
        before = count_objects()
        for n in range(3000):
            add(store, rules, user=n)
        return count_objects() - before

    assert in_child(fill) < 300


# -- threads ------------------------------------------------------------------------------------


@pytest.fixture
def busy_threads() -> Iterator[None]:
    """Threads take turns as often as they can, so that a step that is not whole is seen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy_threads")
def test_no_commit_of_concurrent_ones_is_lost() -> None:
    store, rules = MemoryStore(FakeClock()), make_rules()
    key = add(store, rules, b"0")

    def count_up(number: int) -> None:
        done = 0
        while done < 100:
            found = store.load(key, rules, slide=False)
            assert isinstance(found, Live)
            draft = make_draft(b"%d" % (int(found.record.payload) + 1), rules=rules)
            answer = store.commit(key, draft, found.record.stamps[0], touch=0)
            done += isinstance(answer, Live)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count_up, range(8)))
    last = store.load(key, rules, slide=False)
    assert isinstance(last, Live)
    assert last.record.payload == b"800"


@pytest.mark.usefixtures("busy_threads")
def test_sixteen_threads_leave_index_and_records_equal() -> None:
    clock = FakeClock()
    store, rules = MemoryStore(clock), make_rules(total=60, per_user=5, idle=60)
    barrier = threading.Barrier(16)
    keys = [new_key()]  # everybody's: threads meet at the same sessions

    def hammer(number: int) -> int:
        dice, done = random.Random(number), 0
        barrier.wait(PATIENCE)
        for _ in range(300):
            done += _one_step(store, rules, dice, keys)
            clock.advance(1)
        return done

    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(hammer, range(16)))
    assert_sound(store)
    assert min(done) > 20  # every thread found sessions to work on
    counts = store.count(rules)
    assert counts.total + counts.due == len(store.tables.records) <= 60
    clock.advance(HOUR)
    while store.purge(rules, 7).more:
        pass
    assert not store.tables.records
    assert_sound(store)


def _one_step(store: MemoryStore, rules: Rules, dice: random.Random, keys: list[str]) -> int:
    """Something at random with one of *keys*; 1 if its session was there."""
    key, user = dice.choice(keys[-30:]), dice.choice([None, 1, 2, 3])
    act = dice.choice(["create", "create", "load", "commit", "rotate", "end", "purge", "count"])
    draft = make_draft(f"{key} {dice.random()}".encode(), rules=rules, user=user)
    answer: object = None
    if act == "create":
        keys.append(new_key())
        answer = store.create(keys[-1], draft, rules)
    elif act == "purge":
        store.purge(rules, 20)
    elif act == "count":
        store.count(rules)
    else:
        answer = found = store.load(key, rules, slide=dice.random() < 0.5)
        if isinstance(found, Live) and act != "load":
            answer = _change(store, rules, keys, key, found.record, act)
    return isinstance(answer, Live)


def _change(
    store: MemoryStore, rules: Rules, keys: list[str], key: str, record: Record, act: str
) -> object:
    stamp = record.stamps[0]
    draft = make_draft(record.payload, rules=rules)._replace(user=record.user)
    if act == "commit":
        return store.commit(key, draft, stamp, touch=0)
    if act == "rotate":
        keys.append(new_key())
        return store.rotate(key, keys[-1], draft, rules, Terms(stamp, True, "rotated"))
    return store.end(key, draft.stamp, "logout", stamp)


# -- a user with very many sessions -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["live", "due", "refused", "one tier's"])
def test_a_login_looks_at_a_bounded_number_of_the_users_own_sessions(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    tiers = {"admin": Limits(30 * MINUTE, 720 * MINUTE, 0)}
    rules = make_rules(total=10_000, per_user=1500, tiers=tiers)
    for _ in range(1500):
        add(store, rules, user=1)
    cap = rules.cap
    if kind == "due":
        clock.advance(HOUR)
    elif kind == "refused":
        cap = cap._replace(refuse=True)
    elif kind == "one tier's":
        cap = cap._replace(per_tier={"default": 1500})
    looked: list[int] = []

    def count(raw: bytes) -> Record:
        looked.append(1)
        return loads(raw)

    for module in (memory_tables, tables):
        monkeypatch.setattr(module, "loads", count)
    if kind == "refused":
        with pytest.raises(TooManySessions):
            add(store, rules._replace(cap=cap), user=1)
    else:
        add(store, rules._replace(cap=cap), user=1)
    assert 0 < len(looked) <= 2 * MAX_EVICTIONS + 10  # once to choose, once to remove


def test_where_nothing_live_is_to_be_evicted_a_users_own_are_no_room_for_more() -> None:
    """A user's own cap evicts that user's sessions also where a full store refuses."""
    store, before = MemoryStore(FakeClock()), make_rules(total=400, per_user=200)
    for _ in range(150):
        add(store, before, user=1)
    for _ in range(50):
        add(store, before, user=2)
    after = make_rules(total=60, per_user=2, evict=False)
    with pytest.raises(StoreFull):
        add(store, after, user=1)
    assert store.count(after).total == 200


# -- exceptions in the middle -------------------------------------------------------------------


class Interrupted(Exception):
    """What a signal handler raises, or a greenlet's time-out."""


# The steps of the store, and of its indexes.
OURS = (rules, memory, memory_tables, tables, engine, tombstones, admission, audit, sortedlist)
STEPS = {module.__file__ for module in OURS}


@contextmanager
def interrupted(step: int) -> Iterator[list[int]]:
    """Raise before the line that is executed as number *step*; yields how many were."""
    done = [0]

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in STEPS:
            return None
        # Python may lose a lock that is being taken or given back. That is not ours to test.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and "with t.transaction(" not in line and "with self.lock" not in line:
            done[0] += 1
            if done[0] > step:
                sys.settrace(None)
                raise Interrupted
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield done
    except Interrupted:
        done[0] = -1
    finally:
        sys.settrace(before)


class Scene:
    """A store with some sessions, and a change for each of its operations."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.rules = make_rules(total=8, per_user=2, tiers={"staff": Limits(HOUR, HOUR, 0)})
        self.due = add(self.store, self.rules)
        self.clock.advance(20 * MINUTE)
        self.mine, self.other = (add(self.store, self.rules, user=1) for _ in range(2))
        self.visitor, self.new = add(self.store, self.rules), new_key()
        add(self.store, self.rules, user=2)
        self.clock.advance(10 * MINUTE)
        found = self.store.load(self.mine, self.rules, slide=True)
        assert isinstance(found, Live)
        self.stamp = found.record.stamps[0]
        self.clock.advance(1)

    def draft(self, user: object = 1, tier: str = DEFAULT_TIER) -> Draft:
        return make_draft(b"new", rules=self.rules, user=user, tier=tier)

    def is_live(self, key: str) -> bool:
        return isinstance(self.store.load(key, self.rules, slide=False), Live)

    def change(self, name: str) -> None:
        store, rules = self.store, self.rules
        sign_in = Terms(None, True, "rotated")
        changes: dict[str, Callable[[], object]] = {
            "load": lambda: store.load(self.mine, rules, slide=True),
            "load what is due": lambda: store.load(self.due, rules, slide=True),
            "create": lambda: store.create(self.new, self.draft(), rules),
            "commit": lambda: store.commit(self.mine, self.draft(), self.stamp, touch=0),
            "refile": lambda: store.refile(self.mine, self.draft(3, "staff"), self.stamp),
            "rotate": lambda: store.rotate(self.visitor, self.new, self.draft(), rules, sign_in),
            "end": lambda: store.end(self.mine, "stamp--", "revoked", None),
            "end_user": lambda: store.end_user(user_tag(1), "stamp--", "revoked", ""),
            "end_all": lambda: store.end_all("stamp--"),
            "purge": lambda: store.purge(rules, 10),
            "audit": lambda: store.audit(make_rules(idle=MINUTE), 10),
        }
        changes[name]()

    def use(self) -> None:
        """Everything that looks at the index."""
        add(self.store, self.rules)
        add(self.store, self.rules, user=2)
        self.store.sessions_of(user_tag(1))
        self.store.page(DEFAULT_TIER, "", 10)
        self.store.count(self.rules)
        self.store.purge(self.rules, 10)


CHANGES = (
    "load",
    "load what is due",
    "create",
    "commit",
    "refile",
    "rotate",
    "end",
    "end_user",
    "end_all",
    "purge",
    "audit",
)


def scenes_of(change: str, first: int = 0) -> Iterator[Scene]:
    """The store after *change* was interrupted at its *first* step, the next, and so on."""
    for step in range(first, 10_000):
        scene = Scene()
        with interrupted(step) as done:
            scene.change(change)
        if done[0] >= 0:
            assert done[0] > 3  # it had steps
            return
        yield scene


@pytest.mark.parametrize("change", CHANGES)
def test_fault_42_after_an_exception_in_the_middle_of_a_change_the_audit_finds_what_differs(
    change: str,
) -> None:
    repaired = 0
    for scene in scenes_of(change):
        repaired += scene.store.audit(scene.rules, 10).repaired
        assert_sound(scene.store)
        assert scene.store.audit(scene.rules, 10) == AuditStep(0, done=True)
    assert repaired or change == "end_all"  # which is done in one step


@pytest.mark.parametrize("change", CHANGES)
def test_fault_42_after_an_exception_in_the_middle_of_a_change_everything_works_before_an_audit(
    change: str,
) -> None:
    for scene in scenes_of(change):
        scene.use()
        assert_sound(scene.store)


def test_fault_42_an_interrupted_repair_is_repeated() -> None:
    first = [is_torn(scene.store) for scene in scenes_of("end")].index(True)
    for step in range(10_000):
        scene = next(scenes_of("end", first))
        with interrupted(step) as done:
            scene.store.purge(scene.rules, 10)
        scene.use()
        assert_sound(scene.store)
        if done[0] >= 0:
            return


def test_fault_42_an_interrupted_sign_in_leaves_the_visitor_a_session() -> None:
    for scene in scenes_of("rotate"):
        assert scene.is_live(scene.visitor) or scene.is_live(scene.new)


def test_fault_42_an_interrupted_end_of_all_is_whole_or_was_not_begun() -> None:
    ended = set()
    for scene in scenes_of("end_all"):
        living = [scene.is_live(key) for key in (scene.mine, scene.other, scene.visitor)]
        assert all(living) or not any(living)
        ended.add(living[0])
    assert True in ended
