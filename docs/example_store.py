"""The example of ``writing-a-store.md``: a small store, for reading.

It walks all its sessions in most calls. Stores for use keep an index: see ``stores/memory.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from flask_safesession import StoreFull
from flask_safesession.model.record import Draft, Record, limited, record_from, touched
from flask_safesession.model.tokens import NO_USER, tier_tag
from flask_safesession.stores.base import (
    EVICTED,
    MAX_EVICTIONS,
    TOMBSTONE_TTL,
    UNKNOWN,
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

Victims = dict[str, str]  # storage key to reason


class Tombstone(NamedTuple):
    """Why a session ended: *stamp* is that of the call; where it went, if it was rotated."""

    until: int
    reason: str
    stamp: str = ""
    successor: str = ""
    user: str = ""
    sign_in: bool = False


class ExampleStore:
    """Sessions in a dict."""

    shared = False

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        self._tombstones: dict[str, Tombstone] = {}

    # one-session
    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        with self._lock:
            now = self._clock()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            limits = rules.policy.limits_by_tag(record.tier)
            record = limited(record, limits.idle, limits.lifetime)
            if record.deadline <= now:
                return self._expire(key, record)
            record = touched(record, now, limits.touch if slide else None)
            self._records[key] = record
            return Live(record, now)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        with self._lock:
            now = self._clock()
            if key in self._records or key in self._tombstones:
                return self._again(key, draft, now) or Taken()
            record = record_from(draft, created=now, last_active=now, stamps=())
            return self._admit(key, record, rules, now)

    def commit(
        self, key: str, draft: Draft, expected: str, *, touch: int | None
    ) -> Live | Gone | Conflict:
        with self._lock:
            now = self._clock()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if draft.stamp in record.stamps:
                return Live(record, now)  # done before; perhaps written by others since
            if record.stamps[0] != expected or not _is_filed(record, draft):
                return Conflict(record)
            self._records[key] = touched(_successor(record, draft), now, touch)
            return Live(self._records[key], now)

    def refile(self, key: str, draft: Draft, expected: str) -> Live | Gone | Conflict:
        with self._lock:
            now = self._clock()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if _is_filed(record, draft):
                return Live(record, now)  # done before
            if record.stamps[0] != expected:
                return Conflict(record)
            self._records[key] = record = record._replace(
                tier=draft.tier,
                user=draft.user,
                idle=draft.idle,
                absolute=record.created + draft.lifetime,
            )
            return self._expire(key, record) if record.deadline <= now else Live(record, now)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        with self._lock:
            now = self._clock()
            if new in self._records or new in self._tombstones:
                return self._again(new, draft, now) or Taken()
            if terms.expected is None:
                key = self._where_it_is(key)
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
            onward = (new, draft.user, terms.restart) if terms.leads_on(draft.user) else ()
            self._tombstones[key] = Tombstone(now + TOMBSTONE_TTL, terms.reason, "", *onward)
            return live

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        with self._lock:
            now = self._clock()
            if expected is None:
                key = self._where_it_is(key)
            record = self._find(key, now, stamp)
            if isinstance(record, Gone):
                return record
            if expected not in (None, record.stamps[0]):
                return Conflict(record)
            del self._records[key]
            self._tombstones[key] = Tombstone(now + TOMBSTONE_TTL, reason, stamp)
            return Live(record, now, key=key)

    # all-sessions
    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        with self._lock:
            now = self._clock()
            self._tombstones = {k: t for k, t in self._tombstones.items() if t.until > now}
            due = self._remove(dict(list(self._due(now).items())[:limit]))
            over = self._over(rules, {}) if rules.cap.evict else {}
            trimmed = self._remove(dict(list(over.items())[: limit - len(due)]))
            more = len(due) + len(trimmed) >= limit
            return PurgeStep(len(due), len(trimmed), more, due + trimmed)

    def census(self, rules: Rules) -> Census:
        with self._lock:
            now = self._clock()
            live: dict[str, int] = {"anonymous": 0}
            for record in self._records.values():
                if record.deadline > now:
                    name = _tier(record, rules)
                    live[name] = live.get(name, 0) + 1
            due = [self._records[key].deadline for key in self._due(now)]
            return Census(live, len(due), now - min(due, default=now))

    def close(self) -> None:
        """Nothing to release."""

    # help
    def _find(self, key: str, now: int, stamp: str = "") -> Record | Gone:
        record = self._records.get(key)
        if record is None:
            found = self._tombstones.get(key)
            if found is None or found.until <= now:
                return Gone(UNKNOWN)
            repeated = stamp != "" and found.stamp == stamp
            return Gone(found.reason, True, "", repeated, False, found.successor, found.user)
        return self._expire(key, record) if record.deadline <= now else record

    def _again(self, key: str, draft: Draft, now: int) -> Live | None:
        """The session under *key*, if this very draft made it, and the reply was lost."""
        record = self._records.get(key)
        return Live(record, now) if record and draft.stamp in record.stamps else None

    def _where_it_is(self, key: str) -> str:
        """Rotations without a sign-in are followed, so that none outruns a logout."""
        while (found := self._tombstones.get(key)) and found.successor and not found.sign_in:
            key = found.successor
        return key

    def _expire(self, key: str, record: Record) -> Gone:
        del self._records[key]
        return Gone(record.end_reason, tier=record.tier)

    def _remove(self, victims: Victims) -> tuple[Removed, ...]:
        return tuple(Removed(k, self._records.pop(k).tier, why) for k, why in victims.items())

    def _due(self, now: int) -> Victims:
        due = [(r.deadline, k) for k, r in self._records.items() if r.deadline <= now]
        return {key: self._records[key].end_reason for _, key in sorted(due)}

    # admission
    def _admit(
        self, key: str, record: Record, rules: Rules, now: int, *, leaving: str | None = None
    ) -> Live:
        old = self._records.pop(leaving) if leaving else None
        try:
            victims = self._victims(record, rules, now)
        except StoreFull:  # a refusal leaves everything as it was
            if leaving and old:
                self._records[leaving] = old
            raise
        removed = self._remove(victims)
        self._records[key] = record
        return Live(record, now, removed, len(self._records))

    def _victims(self, fresh: Record, rules: Rules, now: int) -> Victims:
        """What is evicted: what is due, then the user's own, then others."""
        due = self._due(now)
        is_user = fresh.user != NO_USER
        own = self._own(fresh, rules, due) if is_user else {}
        over = self._over(rules, due | own, users=int(is_user), strangers=int(not is_user))
        if over and not rules.cap.evict:
            raise StoreFull(rules.cap.total)
        if not is_user and any(self._records[key].user != NO_USER for key in over):
            raise StoreFull(rules.cap.total)  # anonymous sessions never evict users'
        live = list((own | over).items())
        return due | dict(live[:MAX_EVICTIONS])  # the purge evicts what is left

    def _own(self, fresh: Record, rules: Rules, due: Victims) -> Victims:
        """Of the user's own, those over that user's cap.

        Those whose cookie never came back go first, then those that are unused for the longest.
        """
        # In the order in which they were made, which sort() keeps where the times are equal.
        own = [k for k, r in self._records.items() if r.user == fresh.user and k not in due]
        excess = max(0, len(own) + 1 - rules.cap.per_user)
        own.sort(key=lambda key: self._records[key].place)
        return dict.fromkeys(own[:excess], EVICTED)

    def _over(self, rules: Rules, gone: Victims, *, users: int = 0, strangers: int = 0) -> Victims:
        """Live sessions over the cap, in the order of eviction; *users* and *strangers* come in."""
        order = ["", *rules.policy.order]  # tiers that are no longer configured go first
        left = [k for k in self._records if k not in gone]

        def rank(key: str) -> tuple[int, int]:
            record = self._records[key]
            names = [name for name in order if name and tier_tag(name) == record.tier]
            return order.index(names[0]) if names else 0, record.deadline

        signed_in = sorted((k for k in left if self._records[k].user != NO_USER), key=rank)
        others = sorted((k for k in left if k not in signed_in), key=rank)
        over = signed_in[: max(0, len(signed_in) + users - rules.cap.users)]
        excess = len(left) + users + strangers - len(over) - rules.cap.total
        over += [k for k in others + signed_in if k not in over][: max(0, excess)]
        return dict.fromkeys(over, EVICTED)


def _is_filed(record: Record, draft: Draft) -> bool:
    return (record.tier, record.user) == (draft.tier, draft.user)


def _successor(record: Record, draft: Draft) -> Record:
    return record_from(
        draft,
        created=record.created,
        last_active=record.last_active,
        stamps=record.stamps[:2],
    )


def _tier(record: Record, rules: Rules) -> str:
    return "anonymous" if record.user == NO_USER else rules.policy.name_of(record.tier)
