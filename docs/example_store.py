"""The example of ``writing-a-store.md``: a store in a hundred lines, for reading.

It walks all its sessions in most calls. Stores for use keep an index: see ``stores/memory.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flask_safesession import StoreFull
from flask_safesession.record import Draft, Record, limited, record_from
from flask_safesession.stores.base import (
    EVICTED,
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
from flask_safesession.tokens import NO_USER, tier_tag

Victims = dict[str, str]  # storage key to reason


class ExampleStore:
    """Sessions in a dict."""

    shared = False

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        self._tombstones: dict[str, tuple[int, str, str]] = {}

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
            if slide and now - record.last_active >= limits.touch:
                record = record._replace(last_active=now)
            self._records[key] = record
            return Live(record, now)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        with self._lock:
            now = self._clock()
            if key in self._records or key in self._tombstones:
                return Taken()
            return self._admit(key, draft, rules, now)

    def commit(
        self, key: str, draft: Draft, expected: str, *, slide: bool
    ) -> Live | Gone | Conflict:
        with self._lock:
            now = self._clock()
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if record.stamps[0] != expected:
                return Conflict(record)
            active = now if slide else record.last_active
            self._records[key] = record_from(
                draft, created=record.created, last_active=active, stamps=record.stamps[:2]
            )
            return Live(self._records[key], now)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        with self._lock:
            now = self._clock()
            if new in self._records or new in self._tombstones:
                return Taken()
            if terms.expected is None:
                key = self._where_it_is(key)
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if terms.expected not in (None, record.stamps[0]):
                return Conflict(record)
            live = self._admit(new, draft, rules, now, leaving=key, terms=terms)
            # Where the session goes on; a login makes it another one.
            successor = "" if terms.restart else new
            self._tombstones[key] = (now + TOMBSTONE_TTL, terms.reason, successor)
            return live

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        del stamp  # no answer is lost here, so nothing is repeated
        with self._lock:
            now = self._clock()
            if expected is None:
                key = self._where_it_is(key)
            record = self._find(key, now)
            if isinstance(record, Gone):
                return record
            if expected not in (None, record.stamps[0]):
                return Conflict(record)
            del self._records[key]
            self._tombstones[key] = (now + TOMBSTONE_TTL, reason, "")
            return Live(record, now, key=key)

    # all-sessions
    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        with self._lock:
            now = self._clock()
            self._tombstones = {k: t for k, t in self._tombstones.items() if t[0] > now}
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
    def _find(self, key: str, now: int) -> Record | Gone:
        record = self._records.get(key)
        if record is None:
            until, reason, _ = self._tombstones.get(key, (0, UNKNOWN, ""))
            return Gone(reason, buried=True) if until > now else Gone(UNKNOWN)
        return self._expire(key, record) if record.deadline <= now else record

    def _where_it_is(self, key: str) -> str:
        """Rotations without a login are followed, so that none outruns a logout."""
        while successor := self._tombstones.get(key, (0, "", ""))[2]:
            key = successor
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
        self,
        key: str,
        draft: Draft,
        rules: Rules,
        now: int,
        *,
        leaving: str | None = None,
        terms: Terms | None = None,
    ) -> Live:
        old = self._records.pop(leaving) if leaving else None
        try:
            victims = self._victims(draft, rules, now)
        except StoreFull:  # a refusal leaves everything as it was
            if leaving and old:
                self._records[leaving] = old
            raise
        removed = self._remove(victims)
        record = record_from(draft, created=now, last_active=now, stamps=())
        if old and terms:
            created = now if terms.restart else old.created
            active = now if terms.restart or terms.slide else old.last_active
            record = record_from(draft, created=created, last_active=active, stamps=old.stamps[:2])
        self._records[key] = record
        return Live(record, now, removed, len(self._records))

    def _victims(self, draft: Draft, rules: Rules, now: int) -> Victims:
        """Who has to go: what is due, then the user's own oldest, then others."""
        victims = self._due(now)
        is_user = draft.user != NO_USER
        if is_user:
            own = [k for k, r in self._records.items() if r.user == draft.user and k not in victims]
            own.sort(key=lambda k: self._records[k].created)
            victims |= dict.fromkeys(own[: max(0, len(own) + 1 - rules.cap.per_user)], EVICTED)
        over = self._over(rules, victims, users=int(is_user), strangers=int(not is_user))
        if over and not rules.cap.evict:
            raise StoreFull(rules.cap.total)
        if not is_user and any(self._records[key].user != NO_USER for key in over):
            raise StoreFull(rules.cap.total)  # strangers never push out users
        return victims | over

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


def _tier(record: Record, rules: Rules) -> str:
    return "anonymous" if record.user == NO_USER else rules.policy.name_of(record.tier)
