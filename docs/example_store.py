"""The example of ``writing-a-store.md``: a small store, for reading.

It has no index of its sessions: it cannot list or count them, and keeps no caps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from flask_safesession.model.record import Draft, Record, limited, record_from, touched
from flask_safesession.stores.base import (
    REVOKED,
    TOMBSTONE_TTL,
    UNKNOWN,
    Conflict,
    Finding,
    Gone,
    Live,
    Rules,
    Taken,
    Terms,
)


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
        self._ended_by = ""

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
        del rules  # it keeps no caps
        with self._lock:
            now = self._clock()
            if key in self._records or key in self._tombstones:
                return self._again(key, draft, now) or Taken()
            record = record_from(draft, created=now, last_active=now, stamps=())
            self._records[key] = record
            return Live(record, now)

    def commit(
        self,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> Live | Gone | Conflict:
        del loaded  # it is read in the same step
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
        del rules
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
            del self._records[key]
            self._records[new] = fresh
            onward = terms.onward(new, draft.user) or ()
            until = now + TOMBSTONE_TTL
            self._tombstones[key] = Tombstone(until, terms.reason, draft.stamp, *onward)
            return Live(fresh, now)

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
    def end_all(self, stamp: str) -> None:
        with self._lock:
            until = self._clock() + TOMBSTONE_TTL
            if stamp != self._ended_by:  # otherwise the call is repeated
                self._ended_by = stamp
                self._tombstones |= dict.fromkeys(self._records, Tombstone(until, REVOKED, stamp))
                self._records.clear()

    def inspect(self) -> list[Finding]:
        return []

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


def _is_filed(record: Record, draft: Draft) -> bool:
    return (record.tier, record.user) == (draft.tier, draft.user)


def _successor(record: Record, draft: Draft) -> Record:
    return record_from(
        draft,
        created=record.created,
        last_active=record.last_active,
        stamps=record.stamps[:2],
    )
