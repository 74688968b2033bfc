"""Sessions in the memory of one process: for development, tests, and apps with a single worker.

The model is that of the Redis store: bytes by key, one sorted index of deadlines a tier, one of the
users' sessions. Everything happens under one lock, in steps that do not grow with the store.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable

from ..events import logger
from ..expiry import ANONYMOUS_TIER
from ..record import Draft, Record, glance, limited, loads, record_from
from ..tokens import NO_USER
from .base import (
    RENEWED,
    REPLAYED,
    REVOKED,
    ROTATED,
    TOLD,
    TOMBSTONE_TTL,
    UNKNOWN,
    AuditStep,
    Census,
    Conflict,
    Document,
    Gone,
    Listed,
    Live,
    Page,
    PurgeStep,
    RelimitStep,
    Removed,
    Rules,
    Taken,
    Terms,
    newest_first,
)
from .endings import Endings
from .eviction import for_one_more, over_the_cap
from .relimiting import Round
from .shelf import Shelf, count_due, parts


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
        self._documents: dict[str, tuple[bytes, int]] = {}
        self._reset()
        _stores.add(self)

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        with self._lock:
            now = self._clock()
            tombstone = self._endings.tombstone(key, now)
            if tombstone.reason == RENEWED:
                if now > tombstone.good:
                    return self._replayed(key, now)
                key = self._endings.where_it_is(key, now, (RENEWED,))
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            limits = rules.policy.limits_by_tag(record.tier)
            fresh = limited(record, limits.idle, limits.lifetime)
            if fresh.deadline <= now:
                return self._expire(key, fresh, now)
            if slide and now - record.last_active >= limits.touch:
                fresh = fresh._replace(last_active=now)
            if fresh != record:
                self._shelf.put(key, fresh, record)
            return Live(fresh, now, key=key)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        with self._lock:
            now = self._clock()
            if key in self._shelf.records or self._endings.tombstone(key, now).until:
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
            self._shelf.put(key, fresh, record)
            return Live(fresh, now)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """See :meth:`.base.Store.rotate`."""
        with self._lock:
            now = self._clock()
            if new in self._shelf.records or self._endings.tombstone(new, now).until:
                return Taken()
            if terms.expected is None:
                key = self._endings.where_it_is(key, now)
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
            if terms.reason == RENEWED:
                until = max(now + TOMBSTONE_TTL, fresh.absolute)
                self._endings.renew(key, new, now + terms.grace, until)
            else:
                moved = terms.reason == ROTATED and not terms.restart
                self._endings.bury(key, terms.reason, now, new if moved else "")
            return live

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.end`. Nothing is repeated here, so *stamp* is not needed."""
        del stamp
        with self._lock:
            now = self._clock()
            if expected is None:
                key = self._endings.where_it_is(key, now)
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if expected not in (None, record.stamps[0]):
                return Conflict(record)
            self._end(key, record, reason, now)
            return Live(record, now, key=key)

    def look(self, key: str) -> Listed | None:
        """See :meth:`.base.Owning.look`."""
        with self._lock:
            now = self._clock()
            key = self._endings.where_it_is(key, now)
            found = self._shelf.listed(key) if key in self._shelf.records else None
            return found if found and found.record.deadline > now else None

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`.base.Owning.sessions_of`."""
        with self._lock:
            return self._live_of(user)

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`.base.Owning.end_user`."""
        del stamp
        with self._lock:
            now = self._clock()
            kept = self._endings.where_it_is(keep, now)
            ended = [listed for listed in self._live_of(user) if listed.key != kept]
            for listed in ended:
                self._end(listed.key, listed.record, reason, now)
            return ended

    def end_all(self, stamp: str) -> None:
        """See :meth:`.base.Owning.end_all`. What was there is forgotten by the purge, in steps."""
        del stamp
        with self._lock:
            self._ending.append(self._shelf.take_all())

    def page(self, tier: str, after: str, limit: int) -> Page:
        """See :meth:`.base.Owning.page`."""
        with self._lock:
            found = self._shelf.page(tier, after, self._clock(), limit)
            sessions = tuple(self._shelf.listed(parts(entry)[1]) for entry in found)
            return Page(sessions, found[-1].decode("ascii") if len(found) == limit else "")

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.Store.purge`."""
        with self._lock:
            now = self._clock()
            self._endings.forget(now)
            removed = self._dismiss_ended(now, limit)
            for gone, user in self._shelf.take_due(now, limit - len(removed)):
                self._endings.tell(gone.key, user, gone.reason, now)
                removed.append(gone)
            victims = over_the_cap(self._shelf, rules, now, limit - len(removed))
            removed += [self._dismiss(key, now, reason) for key, reason in victims.items()]
            more = len(removed) >= limit
            return PurgeStep(len(removed) - len(victims), len(victims), more, tuple(removed))

    def census(self, rules: Rules) -> Census:
        """See :meth:`.base.Store.census`."""
        with self._lock:
            now = self._clock()
            live: dict[str, int] = {ANONYMOUS_TIER: 0}
            due, oldest = 0, now
            for name, bucket in self._shelf.buckets.items():
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
            difference = self._shelf.difference()
            if difference:
                self._shelf.reindex()
            return AuditStep(difference, done=True)

    def relimit(self, rules: Rules, limit: int) -> RelimitStep:
        """See :meth:`.base.Relimiting.relimit`."""
        with self._lock:
            policy = self._round.begin(rules.policy)
            changed = 0
            for entry in self._round.entries(self._shelf.buckets, limit):
                key = parts(entry)[1]
                if (raw := self._shelf.records.get(key)) is None:
                    continue  # an audit mends it
                record = loads(raw)
                limits = policy.limits_by_tag(record.tier)
                fresh = limited(record, limits.idle, limits.lifetime)
                if fresh != record:
                    self._shelf.put(key, fresh, record)
                    changed += 1
            return RelimitStep(changed, self._round.over)

    def document(self, name: str) -> Document:
        """See :meth:`.base.Steerable.document`."""
        with self._lock:
            return Document(*self._documents.get(name, (b"", 0)), self._clock())

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        """See :meth:`.base.Steerable.keep`."""
        with self._lock:
            if self._documents.get(name, (b"",))[0] == expected:
                self._documents[name] = (document, self._clock())
            return self._documents.get(name, (b"",))[0] == document

    def close(self) -> None:
        """Nothing to release."""

    # -- under the lock -------------------------------------------------------------------------

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._round = Round()
        self._shelf = Shelf()
        self._endings = Endings()
        # The records of sessions that were ended all at once.
        self._ending: list[dict[str, bytes]] = []

    def _find(self, key: str, now: int) -> Record | Gone:
        raw = self._shelf.records.get(key)
        if raw is None:
            return self._absent(key, now)
        record = loads(raw)
        return self._expire(key, record, now) if record.deadline <= now else record

    def _absent(self, key: str, now: int) -> Gone:
        tombstone = self._endings.tombstone(key, now)
        if tombstone.until:
            onward = tombstone.successor if tombstone.reason == RENEWED else ""
            return Gone(tombstone.reason, buried=True, successor=onward)
        ended = next((records for records in self._ending if key in records), None)
        if ended is not None:
            record = loads(ended.pop(key))
            self._endings.tell(key, record.user, REVOKED, now)
            return Gone(REVOKED, tier=record.tier, told=record.user != NO_USER)
        reason = self._endings.reason(key, now)
        return Gone(reason, told=reason != UNKNOWN)

    def _expire(self, key: str, record: Record, now: int) -> Gone:
        self._shelf.remove(key)
        self._endings.tell(key, record.user, record.end_reason, now)
        return Gone(record.end_reason, tier=record.tier, told=record.user != NO_USER)

    def _replayed(self, key: str, now: int) -> Gone:
        """A renewed ID came back after its time: somebody else has it, so the session is over."""
        where = self._endings.where_it_is(key, now)
        record = self._find(where, now)
        if isinstance(record, Gone):
            return record
        self._end(where, record, REPLAYED, now)
        # Of strangers' sessions nobody is told why they ended.
        reason = REPLAYED if record.user != NO_USER else "ended"
        self._endings.bury(key, reason, now)
        return Gone(reason, buried=True, tier=record.tier, key=where)

    def _end(self, key: str, record: Record, reason: str, now: int) -> None:
        self._shelf.remove(key)
        # Of strangers' sessions nobody is told why they ended.
        told = record.user != NO_USER or reason not in TOLD
        self._endings.bury(key, reason if told else "ended", now)
        self._endings.tell(key, record.user, reason, now)

    def _live_of(self, user: str) -> list[Listed]:
        found, now = [self._shelf.listed(key) for key in self._shelf.keys_of(user)], self._clock()
        return newest_first(listed for listed in found if listed.record.deadline > now)

    def _dismiss(self, key: str, now: int, reason: str | None = None) -> Removed:
        record = self._shelf.remove(key)
        why = reason or record.end_reason
        self._endings.tell(key, record.user, why, now)
        return Removed(key, record.tier, why)

    def _dismiss_ended(self, now: int, limit: int) -> list[Removed]:
        """Forget what was ended all at once."""
        removed: list[Removed] = []
        while self._ending and len(removed) < limit:
            records = self._ending[0]
            while records and len(removed) < limit:
                key, raw = records.popitem()
                tier, user, _, _ = glance(raw)
                self._endings.tell(key, user.decode("ascii"), REVOKED, now)
                removed.append(Removed(key, tier.decode("ascii"), REVOKED))
            if not records:
                del self._ending[0]
        return removed

    def _admit(
        self, key: str, fresh: Record, rules: Rules, now: int, *, leaving: str | None
    ) -> Live:
        victims = for_one_more(self._shelf, fresh, rules, now, leaving)
        removed = tuple(self._dismiss(victim, now, reason) for victim, reason in victims.items())
        if leaving is not None:
            self._shelf.remove(leaving)
        self._shelf.put(key, fresh, None)
        return Live(fresh, now, removed, len(self._shelf.records))


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _start_empty() -> None:
    """In a forked child: the parent's lock may be held by a thread that is not here."""
    for store in _stores:
        if store._shelf.records:
            logger.warning(
                "a forked process starts with an empty memory:// store: its parent's %d sessions"
                " are not shared; use a Redis store when there are several processes",
                len(store._shelf.records),
            )
        store._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_empty)
