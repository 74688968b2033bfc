"""Sessions in the memory of one process: for development, tests, and apps with a single worker.

The model is that of the Redis store: bytes by key, one sorted index of deadlines a tier, one of the
users' sessions. Everything happens under one lock, in steps that do not grow with the store.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable

from sortedcontainers import SortedList

from ..events import logger
from ..expiry import ANONYMOUS_TIER
from ..record import Draft, Record, dumps, glance, limited, loads, record_from
from ..tokens import KEY_LENGTH, NO_USER, tier_tag
from .base import (
    EVICTED,
    ROTATED,
    TOMBSTONE_TTL,
    UNKNOWN,
    AuditStep,
    Census,
    Conflict,
    Gone,
    Live,
    PurgeStep,
    Removed,
    Rules,
    Taken,
    Terms,
)
from .eviction import Bucket, Choice, count_due, entry_of, parts

#: Tombstones are kept in order of time; a flood of logouts pushes out the oldest.
MAX_TOMBSTONES = 10_000


def store_clock() -> int:
    """Milliseconds since 1970 on a clock that nobody can set back and that counts suspension."""
    return _EPOCH + _ticks() // 1_000_000


def _ticks() -> int:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.monotonic_ns()


_EPOCH = time.time_ns() // 1_000_000 - _ticks() // 1_000_000


class MemoryStore:
    """The store behind ``memory://``.

    :param clock: gives the time in milliseconds; tests inject one that they can turn.

    A forked child starts empty, with a warning: it cannot see what its parent does from then on.
    """

    shared = False

    def __init__(self, clock: Callable[[], int] = store_clock) -> None:
        self._clock = clock
        self._reset()
        _stores.add(self)

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        with self._lock:
            now = self._clock()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            limits = rules.policy.limits_by_tag(record.tier)
            fresh = limited(record, limits.idle, limits.lifetime)
            if fresh.deadline <= now:
                return self._expire(key, fresh)
            if slide and now - record.last_active >= limits.touch:
                fresh = fresh._replace(last_active=now)
            if fresh != record:
                self._put(key, fresh, record)
            return Live(fresh, now)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        with self._lock:
            now = self._clock()
            if key in self._records or key in self._tombstones:
                return Taken()
            fresh = record_from(draft, created=now, last_active=now, stamps=())
            return self._admit(key, fresh, rules, now, leaving=None)

    def commit(
        self, key: str, draft: Draft, expected: str, *, slide: bool
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.commit`."""
        with self._lock:
            now = self._clock()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if record.stamps[0] != expected:
                return Conflict(record)
            active = now if slide else record.last_active
            fresh = record_from(
                draft, created=record.created, last_active=active, stamps=record.stamps[:2]
            )
            self._put(key, fresh, record)
            return Live(fresh, now)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """See :meth:`.base.Store.rotate`."""
        with self._lock:
            now = self._clock()
            if new in self._records or new in self._tombstones:
                return Taken()
            if terms.expected is None:
                key = self._where_it_is(key, now)
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if terms.expected not in (None, record.stamps[0]):
                return Conflict(record)
            created = now if terms.restart else record.created
            active = now if terms.slide or terms.restart else record.last_active
            fresh = record_from(
                draft, created=created, last_active=active, stamps=record.stamps[:2]
            )
            live = self._admit(new, fresh, rules, now, leaving=key)
            moved = terms.reason == ROTATED and not terms.restart
            self._bury(key, terms.reason, now, new if moved else "")
            return live

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.end`. Nothing is repeated here, so *stamp* is not needed."""
        del stamp
        with self._lock:
            now = self._clock()
            if expected is None:
                key = self._where_it_is(key, now)
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if expected not in (None, record.stamps[0]):
                return Conflict(record)
            self._remove(key)
            self._bury(key, reason, now)
            return Live(record, now, key=key)

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.Store.purge`."""
        with self._lock:
            now = self._clock()
            self._forget_tombstones(now)
            removed = self._dismiss_due(now, limit)
            victims = self._excess(rules, limit - len(removed))
            removed += [self._dismiss(key, reason) for key, reason in victims.items()]
            more = len(removed) >= limit
            return PurgeStep(len(removed) - len(victims), len(victims), more, tuple(removed))

    def census(self, rules: Rules) -> Census:
        """See :meth:`.base.Store.census`."""
        with self._lock:
            now = self._clock()
            live: dict[str, int] = {ANONYMOUS_TIER: 0}
            due, oldest = 0, now
            for name, bucket in self._buckets.items():
                past = count_due(bucket, now)
                tier = name if name == ANONYMOUS_TIER else rules.policy.name_of(name)
                live[tier] = live.get(tier, 0) + len(bucket) - past
                due += past
                oldest = min(oldest, parts(bucket[0])[0]) if past else oldest
            return Census(live, due, now - oldest)

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """Rebuild the index if an exception in the middle of a step has left it wrong."""
        del rules, limit
        with self._lock:
            indexed = sum(map(len, self._buckets.values()))
            users = indexed - len(self._buckets[ANONYMOUS_TIER])
            difference = abs(indexed - len(self._records)) + abs(users - len(self._users))
            if not difference:
                return AuditStep(0, done=True)
            self._reindex()
            return AuditStep(difference, done=True)

    def close(self) -> None:
        """Nothing to release."""

    # -- under the lock -------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, bytes] = {}
        self._tombstones: OrderedDict[str, tuple[int, str, str]] = OrderedDict()
        self._reindex()

    def _reindex(self) -> None:
        self._buckets: dict[str, Bucket] = {ANONYMOUS_TIER: SortedList()}
        # One entry a session, tag + time of creation + key: a user's sessions are a range of it.
        self._users: SortedList[bytes] = SortedList()
        for key, raw in self._records.items():
            self._index(key, loads(raw))

    def _find(self, key: str, now: int) -> Record | Gone:
        raw = self._records.get(key)
        if raw is None:
            until, reason, _ = self._tombstones.get(key, (0, UNKNOWN, ""))
            return Gone(reason, buried=True) if until > now else Gone(UNKNOWN)
        record = loads(raw)
        return self._expire(key, record) if record.deadline <= now else record

    def _expire(self, key: str, record: Record) -> Gone:
        self._remove(key)
        return Gone(record.end_reason, tier=record.tier)

    def _put(self, key: str, fresh: Record, old: Record | None) -> None:
        self._records[key] = dumps(fresh)
        if old is None:
            self._index(key, fresh)
        elif old.deadline != fresh.deadline:
            bucket = self._buckets[_bucket(fresh)]
            bucket.discard(entry_of(old.deadline, key))
            bucket.add(entry_of(fresh.deadline, key))

    def _index(self, key: str, record: Record) -> None:
        bucket = self._buckets.setdefault(_bucket(record), SortedList())
        bucket.add(entry_of(record.deadline, key))
        if record.user != NO_USER:
            self._users.add(_user_entry(record, key))

    def _remove(self, key: str) -> Record:
        record = loads(self._records.pop(key))
        self._buckets[_bucket(record)].discard(entry_of(record.deadline, key))
        if record.user != NO_USER:
            self._users.discard(_user_entry(record, key))
        return record

    def _dismiss(self, key: str, reason: str | None = None) -> Removed:
        record = self._remove(key)
        return Removed(key, record.tier, reason or record.end_reason)

    def _dismiss_due(self, now: int, limit: int) -> list[Removed]:
        removed: list[Removed] = []
        for bucket in self._buckets.values():
            for _ in range(min(limit - len(removed), count_due(bucket, now))):
                entry = bucket.pop(0)
                key = entry[11:].decode("ascii")
                tier, user, created, absolute = glance(self._records.pop(key))
                if user:
                    self._users.discard(user + created + entry[11:])
                reason = "lifetime" if absolute == entry[:11] else "idle"
                removed.append(Removed(key, tier.decode("ascii"), reason))
        return removed

    def _bury(self, key: str, reason: str, now: int, successor: str = "") -> None:
        self._forget_tombstones(now)
        self._tombstones[key] = (now + TOMBSTONE_TTL, reason, successor)

    def _where_it_is(self, key: str, now: int) -> str:
        while True:
            until, _, successor = self._tombstones.get(key, (0, "", ""))
            if until <= now or not successor:
                return key
            key = successor

    def _forget_tombstones(self, now: int) -> None:
        while self._tombstones:
            until = next(iter(self._tombstones.values()))[0]
            if until > now and len(self._tombstones) < MAX_TOMBSTONES:
                return
            self._tombstones.popitem(last=False)

    def _admit(
        self, key: str, fresh: Record, rules: Rules, now: int, *, leaving: str | None
    ) -> Live:
        victims = self._victims(fresh.user, rules, now, leaving)
        removed = tuple(self._dismiss(victim, reason) for victim, reason in victims.items())
        if leaving is not None:
            self._remove(leaving)
        self._put(key, fresh, None)
        return Live(fresh, now, removed, len(self._records))

    def _victims(
        self, user: str, rules: Rules, now: int, leaving: str | None
    ) -> dict[str, str | None]:
        """Who has to go for one session more, each with a reason (``None``: it is due).

        Everything is chosen before anything is removed: a refusal leaves the store as it was.
        """
        cap = rules.cap
        choice = Choice(self._buckets, now, cap.evict)
        if leaving is not None:
            choice.leave(leaving, _bucket(loads(self._records[leaving])))
        choice.sweep()
        names = [ANONYMOUS_TIER]
        if user != NO_USER:
            self._choose_own(choice, user, cap.per_user)
            names += self._user_buckets(rules)
            choice.make_room(names[1:], len(self._users) - choice.users + 1 - cap.users, cap)
        choice.make_room(names, len(self._records) - choice.total + 1 - cap.total, cap)
        return choice.victims

    def _choose_own(self, choice: Choice, user: str, allowed: int) -> None:
        first = user.encode("ascii")
        own = [e[-KEY_LENGTH:].decode("ascii") for e in self._users.irange(first, first + b"~")]
        own = [key for key in own if not choice.has(key)]
        if len(own) < allowed:
            return
        records = {key: loads(self._records[key]) for key in own}
        due = [key for key in own if records[key].deadline <= choice.now]
        live = [key for key in own if key not in due]
        for key in due + live[: max(0, len(live) + 1 - allowed)]:
            choice.take(key, _bucket(records[key]), None if key in due else EVICTED)

    def _user_buckets(self, rules: Rules) -> list[str]:
        """The buckets of users in the order of eviction, tiers no longer configured first."""
        named = [tier_tag(tier) for tier in rules.policy.order]
        retired = [name for name in self._buckets if name not in (ANONYMOUS_TIER, *named)]
        return retired + [name for name in named if name in self._buckets]

    def _excess(self, rules: Rules, limit: int) -> dict[str, str | None]:
        """Live sessions over a cap that was lowered, *limit* at most."""
        choice = Choice(self._buckets, self._clock(), evict=rules.cap.evict)
        if rules.cap.evict:
            users = self._user_buckets(rules)
            choice.pick(users, min(limit, len(self._users) - rules.cap.users))
            over = len(self._records) - choice.total - rules.cap.total
            choice.pick([ANONYMOUS_TIER, *users], min(limit - choice.total, over))
        return choice.victims


def _bucket(record: Record) -> str:
    return ANONYMOUS_TIER if record.user == NO_USER else record.tier


def _user_entry(record: Record, key: str) -> bytes:
    return f"{record.user}{record.created:011x}{key}".encode("ascii")


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _start_empty() -> None:
    """In a forked child: the parent's lock may be held by a thread that is not here."""
    for store in _stores:
        if store._records:
            logger.warning(
                "a forked process starts with an empty memory:// store: its parent's %d sessions"
                " are not shared; use a Redis store when there are several processes",
                len(store._records),
            )
        store._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_empty)
