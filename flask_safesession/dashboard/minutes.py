"""The figures of a fleet: what happened in each of the last minutes, and the last purge runs.

They are one small document of the store, with times by its clock. Each process adds its own events
under a name and a number, by which it finds out whether a write was done whose reply was lost.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..events import StorePurged
from ..stores.base import Document

#: How many minutes are shown.
SPAN = 60
#: How many purge runs are kept.
RUNS = 8
#: How many processes are remembered, each with the number of its last write.
WRITERS = 500
#: Sessions that were created, among the reasons of ends.
CREATED = "created"
#: The reasons that are counted apart, in the order of drawing.
REASONS: tuple[str, ...] = ("logout", "idle", "lifetime", "evicted", "revoked", "replayed")
#: The name for all other reasons: a custom store may have any number of them.
OTHER = "other"

_VERSION = 1
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


class Run(NamedTuple):
    """One purge run over the store, or over one shard.

    :param at: when it ended.
    :param did: what it did; ``None``: the store did not answer.
    """

    at: datetime
    did: StorePurged | None


class Batch(NamedTuple):
    """What a process adds.

    :param writer: the name of the process.
    :param number: of this attempt to write.
    :param counts: events by age in seconds and kind: :data:`CREATED` or a reason.
    :param runs: purge runs by age in seconds.
    """

    writer: str
    number: int
    counts: Mapping[tuple[float, str], int]
    runs: tuple[tuple[float, StorePurged | None], ...]


@dataclass
class Figures:
    """What a fleet has counted.

    :param now: the store's clock, in seconds since 1970.
    :param minutes: counts by the number of the minute and kind.
    :param runs: purge runs, oldest first, each with its time in seconds since 1970.
    :param writers: the number of the last write of each process, and its minute.
    """

    now: float
    minutes: dict[int, Counter[str]] = field(default_factory=dict)
    runs: list[tuple[float, StorePurged | None]] = field(default_factory=list)
    writers: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        """Add what a process has counted."""
        for (age, kind), count in batch.counts.items():
            minute = int(self.now - age) // _SECONDS
            self.minutes.setdefault(minute, Counter())[kind] += count
        self.runs += [(round(self.now - age, 3), did) for age, did in batch.runs]
        self.writers[batch.writer] = (batch.number, self._minute)
        self.trim()

    def trim(self) -> None:
        """Forget what is old, and what the store's clock has not reached, if it was set back.

        A minute ahead is kept, since the clock of a new primary may be a little slow.
        """
        first, last = self._minute - SPAN, self._minute + 1
        self.minutes = {n: counts for n, counts in self.minutes.items() if first < n <= last}
        # While a store is down, each process has a failed run: one a minute is enough.
        failed = {at // _SECONDS: (at, did) for at, did in self.runs if did is None}
        runs = [*(run for run in self.runs if run[1] is not None), *failed.values()]
        due = (run for run in runs if run[0] <= self.now + _SECONDS)
        self.runs = sorted(due, key=lambda run: run[0])[-RUNS:]
        known = sorted(self.writers.items(), key=lambda one: one[1][1])[-WRITERS:]
        self.writers = {
            name: (number, min(at, self._minute)) for name, (number, at) in known if at > first
        }

    def last(self) -> list[Minute]:
        """Returns the last :data:`SPAN` minutes, oldest first, with the current one."""
        first = self._minute - SPAN + 1
        return [
            _minute(number, self.minutes.get(number, {})) for number in range(first, first + SPAN)
        ]

    def newest_runs(self) -> list[Run]:
        """Returns the last purge runs, newest first."""
        return [Run(datetime.fromtimestamp(at, UTC), did) for at, did in reversed(self.runs)]

    def dumps(self) -> bytes:
        """Returns the figures as a document."""
        document = {
            "version": _VERSION,
            "minutes": self.minutes,
            "runs": [
                [at, *([did.due, did.trimmed, did.repaired, did.seconds] if did else ())]
                for at, did in self.runs
            ],
            "writers": self.writers,
        }
        return json.dumps(document, separators=(",", ":")).encode("ascii")

    @property
    def moment(self) -> datetime:
        """The store's clock."""
        return datetime.fromtimestamp(self.now, UTC)

    @property
    def _minute(self) -> int:
        return int(self.now) // _SECONDS


def loads(found: Document) -> Figures | None:
    """Returns the figures in a document: none of a corrupt one; ``None`` for a newer version's."""
    figures = Figures(found.now / 1000)
    try:
        document = json.loads(found.document or b"{}")
        if document.get("version", _VERSION) > _VERSION:
            return None
        minutes, runs = document.get("minutes", {}), document.get("runs", [])
        writers = document.get("writers", {})
        figures = Figures(
            found.now / 1000,
            {int(number): _counts(counts) for number, counts in minutes.items()},
            [(at + 0.0, StorePurged(*did) if did else None) for at, *did in runs],
            {name: (int(number), int(at)) for name, (number, at) in writers.items()},
        )
    except (ValueError, TypeError, AttributeError):
        return figures
    figures.trim()
    return figures


def _counts(counts: Any) -> Counter[str]:
    return Counter({kind: int(count) for kind, count in counts.items()})


def _minute(number: int, counted: Mapping[str, int]) -> Minute:
    ended = {reason: counted[reason] for reason in (*REASONS, OTHER) if counted.get(reason)}
    return Minute(number * _SECONDS, counted.get(CREATED, 0), ended)
