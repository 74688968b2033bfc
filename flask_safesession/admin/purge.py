"""One purge run.

A run removes what is due in small steps, the store free between them, and then compares a slice of
the index with the records.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..config.settings import Settings
from ..events import SessionEnded, StorePurged, emit, logger
from ..stores.base import Auditing, Part, PurgeStep, Relimiting, Store

#: Slices of the index that one run of the job compares at most.
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


def purge_steps(store: Store | Part, settings: Settings) -> Iterator[PurgeStep]:
    """Remove what is due, step by step, until nothing is."""
    while True:
        step = store.purge(settings.rules, settings.purge_batch)
        yield step
        if not step.more:
            return
        if not getattr(store, "shared", True):  # a server is free between two calls as it is
            time.sleep(_PAUSE)


def relimit(store: Store | Part, settings: Settings) -> None:
    """Put sessions under limits that have become shorter, also those that nobody uses."""
    if isinstance(store, Relimiting):
        while not store.relimit(settings.rules, settings.purge_batch).done:
            time.sleep(_PAUSE)


def audit(store: Store | Part, settings: Settings, slices: int) -> int:
    """Compare up to *slices* slices of index and records; how many places were mended."""
    mended = 0
    if isinstance(store, Auditing):
        for _ in range(slices):
            step = store.audit(settings.rules, settings.purge_batch)
            mended += step.mended
            if step.done:
                break
            time.sleep(_PAUSE)
    return mended


def purge(app: Any, store: Store | Part, settings: Settings) -> PurgeReport:
    """One whole run.

    :param app: the sender of ``session_ended`` for each session that is removed, and of
        ``store_purged`` at the end.
    :raises StoreUnavailable: the store did not answer; what was removed until then stays removed.
    """
    start = time.monotonic()
    relimit(store, settings)
    due = trimmed = 0
    for step in purge_steps(store, settings):
        due, trimmed = due + step.due, trimmed + step.trimmed
        announce(app, step, settings)
    report = PurgeReport(due, trimmed, audit(store, settings, AUDIT_SLICES))
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


def announce(app: Any, step: PurgeStep, settings: Settings) -> None:
    """Send ``session_ended`` for what *step* removed, if anybody listens."""
    if not SessionEnded.signal.receivers and not logger.isEnabledFor(SessionEnded.level):
        return
    for gone in step.removed:
        emit(app, SessionEnded(gone.key, gone.reason, settings.rules.policy.name_of(gone.tier)))
