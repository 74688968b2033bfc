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
from ..model.policy import ANONYMOUS_TIER
from ..model.record import GENERATIONS, Draft, Record, glance, limited, loads, record_from, touched
from ..model.tokens import NO_USER
from .base import (
    REVOKED,
    TOLD,
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
from .endings import Endings, Tombstone
from .eviction import Victims, for_one_more, over_the_cap
from .relimiting import Round
from .shelf import Shelf, count_due, parts, read


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

    _shelf: Shelf
    # The records of sessions that were ended all at once, the stamp of the call that did so last,
    # and how often that was.
    _ending: list[dict[str, bytes]]
    _ended_by: str
    _generation: int

    def __init__(self, clock: Callable[[], int] = store_clock) -> None:
        self._clock = clock
        self._documents: dict[str, tuple[bytes, int]] = {}
        self._reset()
        _stores.add(self)

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        with self._lock:
            now = self._now()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            limits = rules.policy.limits_by_tag(record.tier)
            fresh = limited(record, limits.idle, limits.lifetime)
            if fresh.deadline <= now:
                return self._expire(key, fresh, now)
            fresh = touched(fresh, now, limits.touch if slide else None)
            if fresh != record:
                self._shelf.put(key, fresh, record)
            return Live(fresh, now)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        with self._lock:
            now = self._now()
            if (there := self._already(key, draft, now)) is not None:
                return there
            fresh = record_from(
                draft, created=now, last_active=now, stamps=(), generation=self._generation
            )
            return self._admit(key, fresh, rules, now, leaving=None)

    def commit(
        self, key: str, draft: Draft, expected: str, *, touch: int | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.commit`."""
        with self._lock:
            now = self._now()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if draft.stamp in record.stamps:
                return Live(record, now)
            if record.stamps[0] != expected or not _is_filed(record, draft):
                return Conflict(record)
            fresh = touched(_successor(record, draft), now, touch)
            self._shelf.put(key, fresh, record)
            return Live(fresh, now)

    def refile(self, key: str, draft: Draft, expected: str) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.refile`. Every user's sessions are here: never ``None``."""
        with self._lock:
            now = self._now()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if _is_filed(record, draft):
                return Live(record, now)
            if record.stamps[0] != expected:
                return Conflict(record)
            fresh = record._replace(
                tier=draft.tier,
                user=draft.user,
                idle=draft.idle,
                absolute=record.created + draft.lifetime,
            )
            self._shelf.put(key, fresh, record)
            return self._expire(key, fresh, now) if fresh.deadline <= now else Live(fresh, now)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """See :meth:`.base.Store.rotate`."""
        with self._lock:
            now = self._now()
            if (there := self._already(new, draft, now)) is not None:
                return there
            if terms.expected is None:
                key = self._endings.where_it_is(key, now)
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if terms.expected not in (None, record.stamps[0]):
                return Conflict(record)
            fresh = _successor(record, draft)
            if terms.slide or terms.restart:
                fresh = fresh._replace(last_active=now)
            if terms.restart:
                fresh = fresh._replace(created=now, absolute=now + draft.lifetime)
            live = self._admit(new, fresh, rules, now, leaving=key)
            tombstone = Tombstone(terms.reason)
            if terms.leads_on(draft.user):
                tombstone = Tombstone(terms.reason, draft.stamp, new, draft.user, terms.restart)
            # That of a sign-in is the user's: a flood of anonymous ones does not push it out.
            self._endings.bury(key, draft.user or record.user, tombstone, now)
            return live

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.end`."""
        with self._lock:
            now = self._now()
            if expected is None:
                key = self._endings.where_it_is(key, now)
            record = self._find(key, now, stamp)
            if isinstance(record, Gone):
                return record
            if expected not in (None, record.stamps[0]):
                return Conflict(record)
            self._end(key, record, Tombstone(reason, stamp), now)
            return Live(record, now, key=key)

    def look(self, key: str) -> Listed | None:
        """See :meth:`.base.Owning.look`."""
        with self._lock:
            now = self._now()
            found = self._shelf.listed(iter([self._endings.where_it_is(key, now)]))
            return found[0] if found and found[0].record.deadline > now else None

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`.base.Owning.sessions_of`."""
        with self._lock:
            now = self._now()
            heads = self._shelf.heads(self._shelf.keys_of(user))
        # Others need not wait until thousands have been read.
        return _live(read(heads), now)

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`.base.Owning.end_user`."""
        with self._lock:
            now = self._now()
            kept = self._endings.where_it_is(keep, now)
            ours = self._shelf.listed(self._shelf.keys_of(user))
            ended = [listed for listed in _live(ours, now) if listed.key != kept]
            for listed in ended:
                self._end(listed.key, listed.record, Tombstone(reason, stamp), now)
            return ended

    def end_all(self, stamp: str) -> None:
        """See :meth:`.base.Owning.end_all`. What was there is removed by the purge, in steps.

        Records of an older generation are never in the index: they are put aside whole.
        """
        with self._lock:
            if stamp == self._ended_by:
                return
            aside, shelf = [*self._ending, self._shelf.records], Shelf()
            # Assigned at once, so that no exception comes between.
            self._ending, self._shelf, self._generation, self._ended_by = (
                aside,
                shelf,
                (self._generation + 1) % GENERATIONS,
                stamp,
            )

    def page(self, tier: str, after: str, limit: int) -> Page:
        """See :meth:`.base.Owning.page`."""
        with self._lock:
            found = self._shelf.page(tier, after, self._now(), limit)
            sessions = self._shelf.listed(parts(entry)[1] for entry in found)
            return Page(tuple(sessions), found[-1].decode("ascii") if len(found) == limit else "")

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.Store.purge`."""
        with self._lock:
            now = self._now()
            self._endings.forget(now)
            removed = self._dismiss_ended(now, limit)
            for gone, user in self._shelf.take_due(now, limit - len(removed)):
                self._endings.tell(gone.key, user, gone.reason, now)
                removed.append(gone)
            victims = over_the_cap(self._shelf, rules, now, limit - len(removed))
            trimmed = self._dismiss(victims, now)
            more = len(removed) + len(victims) >= limit
            return PurgeStep(len(removed), len(trimmed), more, (*removed, *trimmed))

    def census(self, rules: Rules) -> Census:
        """See :meth:`.base.Store.census`."""
        with self._lock:
            now = self._now()
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
        self._ending, self._ended_by, self._generation = [], "", 0

    def _now(self) -> int:
        """The time. If an exception has interrupted a change, the index is built anew first."""
        if self._shelf.is_torn:
            self._shelf.reindex()
        return self._clock()

    def _already(self, key: str, draft: Draft, now: int) -> Live | Taken | None:
        """What is under *key*, where a session is to be made: this very one, if it is repeated."""
        raw = self._shelf.records.get(key)
        if raw is None:
            return Taken() if self._endings.tombstone(key, now) else None
        record = loads(raw)
        return Live(record, now) if draft.stamp in record.stamps else Taken()

    def _find(self, key: str, now: int, stamp: str = "") -> Record | Gone:
        """The live session under *key*; *stamp* is that of a call that may be repeated."""
        raw = self._shelf.records.get(key)
        if raw is None:
            return self._absent(key, now, stamp)
        record = loads(raw)
        return self._expire(key, record, now) if record.deadline <= now else record

    def _absent(self, key: str, now: int, stamp: str) -> Gone:
        if tombstone := self._endings.tombstone(key, now):
            return Gone(
                tombstone.reason,
                buried=True,
                repeated=stamp != "" and tombstone.stamp == stamp,
                successor=tombstone.successor,
                user=tombstone.user,
            )
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

    def _end(self, key: str, record: Record, tombstone: Tombstone, now: int) -> None:
        self._shelf.remove(key)
        self._endings.tell(key, record.user, tombstone.reason, now)
        if record.user == NO_USER and tombstone.reason in TOLD:
            # The visitors of anonymous sessions are not shown why they ended.
            tombstone = tombstone._replace(reason="ended")
        self._endings.bury(key, record.user, tombstone, now)

    def _dismiss(self, victims: Victims, now: int) -> tuple[Removed, ...]:
        removed = []
        for key, reason in victims.items():
            if (record := self._shelf.remove(key)) is not None:
                why = reason or record.end_reason
                self._endings.tell(key, record.user, why, now)
                removed.append(Removed(key, record.tier, why))
        return tuple(removed)

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
        removed = self._dismiss(victims, now)
        self._shelf.put(key, fresh, None)
        if leaving is not None:
            # Not before: whatever interrupts this, the visitor still has a session.
            self._shelf.remove(leaving)
        return Live(fresh, now, removed, len(self._shelf.records))


def _live(found: list[Listed], now: int) -> list[Listed]:
    """Returns those that are not due, newest first."""
    return newest_first(listed for listed in found if listed.record.deadline > now)


def _is_filed(record: Record, draft: Draft) -> bool:
    """Whether *record* has the tier and user of *draft*."""
    return (record.tier, record.user) == (draft.tier, draft.user)


def _successor(record: Record, draft: Draft) -> Record:
    """Returns what *record* becomes by *draft*, as old and unused as it was."""
    return record_from(
        draft,
        created=record.created,
        last_active=record.last_active,
        stamps=record.stamps[:2],
        generation=record.generation,
    )


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
