"""Counts this process's session events in each of the last minutes."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..events import SessionCreated, SessionEnded

#: How many minutes are kept.
SPAN = 60
#: The reasons that are counted apart, in the order of drawing.
REASONS: tuple[str, ...] = ("logout", "idle", "lifetime", "evicted", "revoked", "replayed")
#: The name for all other reasons: a custom store may have any number of them.
OTHER = "other"

_SECONDS = 60


class Minute(NamedTuple):
    """One minute.

    :param start: when it began, in seconds since 1970.
    :param created: sessions that were created.
    :param ended: sessions that ended, by reason: one of :data:`REASONS` or :data:`OTHER`.
    """

    start: int
    created: int
    ended: Mapping[str, int]

    @property
    def gone(self) -> int:
        """Sessions that ended, for any reason."""
        return sum(self.ended.values())


class Minutes:
    """Counts the events of one app in this process, for :data:`SPAN` minutes, from any thread.

    A forked child starts with none.
    """

    def __init__(self) -> None:
        self._rings: dict[int, _Ring] = {}

    def listen(self, app: Any) -> None:
        """Count the events of *app* for as long as this object exists."""
        SessionCreated.signal.connect(self._note_created, sender=app)
        SessionEnded.signal.connect(self._note_ended, sender=app)

    def last(self) -> list[Minute]:
        """Returns the last :data:`SPAN` minutes, oldest first, with the current one."""
        return self._ring().last(_now())

    def _note_created(self, _app: Any, event: SessionCreated) -> None:  # noqa: ARG002  # a receiver
        self._ring().add(_now(), "")

    def _note_ended(self, _app: Any, event: SessionEnded) -> None:
        self._ring().add(_now(), event.reason if event.reason in REASONS else OTHER)

    def _ring(self) -> _Ring:
        process = os.getpid()
        ring = self._rings.get(process)
        # The first of several threads wins. No lock, since a fork might copy it locked.
        return ring if ring is not None else self._rings.setdefault(process, _Ring())


class _Ring:
    """Counters for one process, one per minute; the newest minute reuses the oldest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: list[tuple[int, Counter[str]]] = [(-1, Counter())] * SPAN

    def add(self, minute: int, kind: str) -> None:
        with self._lock:
            number, counter = self._slots[minute % SPAN]
            if number != minute:
                counter = Counter()
                self._slots[minute % SPAN] = (minute, counter)
            counter[kind] += 1

    def last(self, minute: int) -> list[Minute]:
        with self._lock:
            found = {number: dict(counter) for number, counter in self._slots}
        return [_minute(n, found.get(n, {})) for n in range(minute - SPAN + 1, minute + 1)]


def _minute(number: int, counted: dict[str, int]) -> Minute:
    ended = {reason: counted[reason] for reason in (*REASONS, OTHER) if reason in counted}
    return Minute(number * _SECONDS, counted.get("", 0), ended)


def _now() -> int:
    """Returns the number of the current minute, for display: no session expires by this clock."""
    return int(time.time()) // _SECONDS
