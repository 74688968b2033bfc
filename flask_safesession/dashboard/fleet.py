"""Counts the events of an app in this process, and adds them to the figures of the fleet."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ..events import SessionCreated, SessionEnded, StoreFailed, StorePurged
from ..stores.base import IndexedStore
from .minutes import CREATED, OTHER, REASONS, RUNS, Batch, Figures, loads

#: The name of the document in the store.
DOCUMENT = "minutes"

# Counters that a process keeps while the store is down: the oldest are dropped.
_MOST = 10_000
# Attempts to write the document, in case of conflicts. What is left is written the next time.
_TRIES = 20
_PURGE = "purge"


class Fleet:
    """Counts the events of one app in this process, from any thread. A forked child begins anew.

    Keeps no reference to the app.

    :param clock: returns seconds, by a monotonic clock whose seconds begin with those of the store.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or _clock_in_step()
        self._tallies: dict[int, _Tally] = {}

    def listen(self, app: Any) -> None:
        """Count the events of *app* for as long as this object exists. Makes no store call."""
        SessionCreated.signal.connect(self._note_created, sender=app)
        SessionEnded.signal.connect(self._note_ended, sender=app)
        StorePurged.signal.connect(self._note_run, sender=app)
        StoreFailed.signal.connect(self._note_failure, sender=app)

    def report(self, store: IndexedStore) -> Figures | None:
        """Add what this process has counted to the figures in the store, and return these.

        ``None``: a newer version of this package writes them.

        :raises StoreUnavailable: the store did not answer. If the write was done all the same, the
            next call finds it.
        """
        tally = self._tally()
        if not tally.reporting.acquire(blocking=False):  # another thread adds them
            return loads(store.document(DOCUMENT))
        try:
            return self._add(tally, store)
        finally:
            tally.reporting.release()

    def _add(self, tally: _Tally, store: IndexedStore) -> Figures | None:
        figures = None
        for _ in range(_TRIES):
            found = store.document(DOCUMENT)
            figures = loads(found)
            if figures is None:
                break
            if tally.name in figures.writers:
                tally.settle(figures.writers[tally.name][0])
            batch = tally.batch(self._clock())
            if batch is None:
                break
            figures.add(batch)
            if store.keep(DOCUMENT, figures.dumps(), found.document):
                tally.settle(batch.number)
                break
        return figures

    def _note_created(self, _app: Any, event: SessionCreated) -> None:  # noqa: ARG002  # a receiver
        self._tally().count(self._clock(), CREATED)

    def _note_ended(self, _app: Any, event: SessionEnded) -> None:
        self._tally().count(self._clock(), event.reason if event.reason in REASONS else OTHER)

    def _note_run(self, _app: Any, event: StorePurged) -> None:
        self._tally().runs.append((self._clock(), event))

    def _note_failure(self, _app: Any, event: StoreFailed) -> None:
        if event.operation == _PURGE:
            self._tally().runs.append((self._clock(), None))

    def _tally(self) -> _Tally:
        process = os.getpid()
        tally = self._tallies.get(process)
        # The first of several threads wins. No lock, since a fork might copy it locked.
        return tally if tally is not None else self._tallies.setdefault(process, _Tally())


def _clock_in_step() -> Callable[[], float]:
    """Returns a monotonic clock whose seconds begin with those of the wall clock."""
    ahead = time.time() % 1 - time.monotonic() % 1
    return lambda: time.monotonic() + ahead


class _Tally:
    """What one process has counted and the store does not have yet."""

    def __init__(self) -> None:
        self.name = secrets.token_hex(4)
        #: Held by the thread that writes to the store.
        self.reporting = threading.Lock()
        self.runs: deque[tuple[float, StorePurged | None]] = deque(maxlen=RUNS)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[int, str]] = Counter()
        self._number = 0
        # The counts and runs of the last attempt to write.
        self._sent: tuple[Counter[tuple[int, str]], list[Any]] | None = None

    def count(self, at: float, kind: str) -> None:
        """Count an event, by the second in which it happened."""
        with self._lock:
            self._counts[int(at), kind] += 1
            if len(self._counts) > _MOST:
                del self._counts[next(iter(self._counts))]

    def batch(self, now: float) -> Batch | None:
        """Returns what to write, under a new number; ``None``: there is nothing."""
        with self._lock:
            counts, runs = self._counts.copy(), list(self.runs.copy())
            if not counts and not runs:
                return None
            self._number += 1
            self._sent = counts, runs
        # In the middle of its second an event is in its minute, also if clocks differ a little.
        ages = {(now - second - 0.5, kind): count for (second, kind), count in counts.items()}
        return Batch(self.name, self._number, ages, tuple((now - at, did) for at, did in runs))

    def settle(self, number: int) -> None:
        """Forget what was sent under *number*, if that was the last attempt: the store has it."""
        with self._lock:
            if self._sent is None or number != self._number:
                return
            counts, runs = self._sent
            self._counts -= counts
            for run in runs:
                if run in self.runs:  # it may have been pushed out
                    self.runs.remove(run)
            self._sent = None
