"""What happened to sessions in each of the last minutes, as this process heard it by signals."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..events import SessionCreated, SessionEnded

#: How many minutes are remembered.
SPAN = 60
#: The reasons of ends that are told apart, in the order in which they are drawn.
REASONS: tuple[str, ...] = ("logout", "idle", "lifetime", "evicted", "revoked", "replayed")
#: What all others are called: a store of somebody's own may have any number of them.
OTHER = "other"

_SECONDS = 60


class Minute(NamedTuple):
    """One minute.

    :param start: when it began, in seconds since 1970.
    :param created: sessions that began.
    :param ended: sessions that ended, by reason: one of :data:`REASONS` or :data:`OTHER`.
    """

    start: int
    created: int
    ended: Mapping[str, int]

    @property
    def gone(self) -> int:
        """Sessions that ended, for whatever reason."""
        return sum(self.ended.values())


class Minutes:
    """Counts the events of one app in this process. A forked child begins with none.

    It keeps :data:`SPAN` minutes, however long it listens, and can be told of events by any thread.
    """

    def __init__(self) -> None:
        self._rings: dict[int, _Ring] = {}

    def listen(self, app: Any) -> None:
        """Count what is sent for *app*, for as long as this object is kept."""
        SessionCreated.signal.connect(self._note_created, sender=app)
        SessionEnded.signal.connect(self._note_ended, sender=app)

    def last(self) -> list[Minute]:
        """The last :data:`SPAN` minutes, oldest first; the one that is under way is the last."""
        return self._ring().last(_now())

    def _note_created(self, _app: Any, event: SessionCreated) -> None:  # noqa: ARG002  # a receiver
        self._ring().add(_now(), "")

    def _note_ended(self, _app: Any, event: SessionEnded) -> None:
        self._ring().add(_now(), event.reason if event.reason in REASONS else OTHER)

    def _ring(self) -> _Ring:
        process = os.getpid()
        ring = self._rings.get(process)
        # The first of several threads wins, without a lock that a fork could leave behind held.
        return ring if ring is not None else self._rings.setdefault(process, _Ring())


class _Ring:
    """Counters for one process: one a minute, the oldest given to the newest minute."""

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
    """The number of the minute that is under way. For display: no session ends by this clock."""
    return int(time.time()) // _SECONDS
