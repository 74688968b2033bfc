"""One purge run.

A run removes due sessions in small steps, and leaves the store free between them. Then it audits
some sessions: it compares index and records, and applies limits that have become shorter. Last it
removes sessions that are due under these, and those over the cap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from ..config.settings import Settings
from ..events import SessionEnded, StorePurged, emit, logger
from ..stores.base import IndexedStore, PurgeStep

#: Slices that one run of the job audits at most, unless limits have become shorter.
AUDIT_SLICES = 10
#: Seconds between two steps, in which other threads get the lock and the interpreter.
_PAUSE = 0.0005


class PurgeReport(NamedTuple):
    """What a purge run did.

    :param due: sessions removed because they were due.
    :param trimmed: live sessions removed because the store was over its cap.
    :param repaired: differences between index and records that it fixed.
    """

    due: int = 0
    trimmed: int = 0
    repaired: int = 0

    @property
    def removed(self) -> int:
        """Sessions removed in all."""
        return self.due + self.trimmed


def total(reports: list[PurgeReport]) -> PurgeReport:
    """Returns the sum of several reports."""
    return PurgeReport(*map(sum, zip(*reports, strict=True)))


def purge_steps(store: IndexedStore, settings: Settings) -> Iterator[PurgeStep]:
    """Remove all due sessions, step by step. Yields each step."""
    while True:
        step = store.purge(settings.rules, settings.purge_batch)
        yield step
        if not step.more:
            return
        if not store.shared:  # a server is free between two calls anyway
            time.sleep(_PAUSE)


def due_only(settings: Settings) -> Settings:
    """Returns settings with which a purge removes due sessions, but none over the cap.

    The audit may find more due sessions, so evictions wait until it has run.
    """
    cap = settings.rules.cap._replace(evict=False)
    return replace(settings, rules=settings.rules._replace(cap=cap))


def audit(store: IndexedStore, settings: Settings, slices: int) -> int:
    """Audit up to *slices* slices, or all sessions if limits have become shorter.

    Returns the number of fixed index entries.
    """
    repaired = 0
    for number in count(1):
        step = store.audit(settings.rules, settings.purge_batch)
        repaired += step.repaired
        if step.done or (number >= slices and not step.behind):
            break
        time.sleep(_PAUSE)
    return repaired


def purge(app: Any, store: IndexedStore, settings: Settings) -> PurgeReport:
    """Do one whole run.

    :param app: the sender of ``session_ended`` for each removed session, and of ``store_purged``.
    :raises StoreUnavailable: the store did not answer; what was removed until then stays removed.
    """
    start = time.monotonic()
    before, _ = _remove(app, store, due_only(settings))
    repaired = audit(store, settings, AUDIT_SLICES)
    after, trimmed = _remove(app, store, settings)
    report = PurgeReport(before + after, trimmed, repaired)
    if any(report):
        logger.info(
            "purge removed %d sessions, %d of them over the cap, and fixed %d index entries",
            report.removed,
            trimmed,
            report.repaired,
            extra=report._asdict(),
        )
    emit(app, StorePurged(*report, round(time.monotonic() - start, 6)))
    return report


def _remove(app: Any, store: IndexedStore, settings: Settings) -> tuple[int, int]:
    """Remove due sessions, and those over the cap. Returns the number of each."""
    due = trimmed = 0
    for step in purge_steps(store, settings):
        due, trimmed = due + step.due, trimmed + step.trimmed
        announce(app, step, settings)
    return due, trimmed


def announce(app: Any, step: PurgeStep, settings: Settings) -> None:
    """Send ``session_ended`` for each session that *step* removed."""
    if not SessionEnded.signal.receivers and not logger.isEnabledFor(SessionEnded.level):
        return
    for gone in step.removed:
        emit(app, SessionEnded(gone.key, gone.reason, settings.rules.policy.name_of(gone.tier)))
