"""One purge run.

A run removes what is due in small steps, the store free between them. Then it audits a slice of the
sessions: it compares index and records, and puts sessions under limits that have become shorter.
What is due under these, and what is over the cap, it removes last.
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
#: Seconds between two steps: waiting threads get the lock and the interpreter in between.
_PAUSE = 0.0005


class PurgeReport(NamedTuple):
    """What a purge run did.

    :param due: sessions removed because they were due.
    :param trimmed: live sessions removed because the store was over its cap.
    :param mended: places where index and records differed.
    """

    due: int = 0
    trimmed: int = 0
    mended: int = 0

    @property
    def removed(self) -> int:
        """Sessions removed in all."""
        return self.due + self.trimmed


def total(reports: list[PurgeReport]) -> PurgeReport:
    """Returns the sums of several runs."""
    return PurgeReport(*map(sum, zip(*reports, strict=True)))


def purge_steps(store: IndexedStore, settings: Settings) -> Iterator[PurgeStep]:
    """Remove what is due, step by step, until nothing is."""
    while True:
        step = store.purge(settings.rules, settings.purge_batch)
        yield step
        if not step.more:
            return
        if not store.shared:  # a server is free between two calls as it is
            time.sleep(_PAUSE)


def due_only(settings: Settings) -> Settings:
    """Returns settings under which a purge removes what is due, and nothing over the cap.

    Sessions are only evicted after an audit, which may find more that are due.
    """
    cap = settings.rules.cap._replace(evict=False)
    return replace(settings, rules=settings.rules._replace(cap=cap))


def audit(store: IndexedStore, settings: Settings, slices: int) -> int:
    """Audit up to *slices* slices, and if limits have become shorter all sessions.

    Returns how many places were mended.
    """
    mended = 0
    for number in count(1):
        step = store.audit(settings.rules, settings.purge_batch)
        mended += step.mended
        if step.done or (number >= slices and not step.behind):
            break
        time.sleep(_PAUSE)
    return mended


def purge(app: Any, store: IndexedStore, settings: Settings) -> PurgeReport:
    """Do one whole run.

    :param app: the sender of ``session_ended`` for each session that is removed, and of
        ``store_purged`` at the end.
    :raises StoreUnavailable: the store did not answer; what was removed until then stays removed.
    """
    start = time.monotonic()
    before, _ = _remove(app, store, due_only(settings))
    mended = audit(store, settings, AUDIT_SLICES)
    after, trimmed = _remove(app, store, settings)
    report = PurgeReport(before + after, trimmed, mended)
    if any(report):
        logger.info(
            "purge removed %d sessions, %d of them over the cap, and mended %d entries",
            report.removed,
            trimmed,
            report.mended,
            extra=report._asdict(),
        )
    emit(app, StorePurged(*report, round(time.monotonic() - start, 6)))
    return report


def _remove(app: Any, store: IndexedStore, settings: Settings) -> tuple[int, int]:
    """Remove what is due, and what is over the cap; returns how many of each."""
    due = trimmed = 0
    for step in purge_steps(store, settings):
        due, trimmed = due + step.due, trimmed + step.trimmed
        announce(app, step, settings)
    return due, trimmed


def announce(app: Any, step: PurgeStep, settings: Settings) -> None:
    """Send ``session_ended`` for what *step* removed, if there are receivers."""
    if not SessionEnded.signal.receivers and not logger.isEnabledFor(SessionEnded.level):
        return
    for gone in step.removed:
        emit(app, SessionEnded(gone.key, gone.reason, settings.rules.policy.name_of(gone.tier)))
