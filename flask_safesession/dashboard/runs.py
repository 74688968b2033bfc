"""The last purge runs of this process, as it heard of them by signals."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..events import StoreFailed, StorePurged

#: How many runs are remembered.
KEPT = 8
_PURGE = "purge"


class Run(NamedTuple):
    """One run over the store, or over one part of it.

    :param at: when it ended.
    :param did: what it did; ``None``: the store did not answer.
    """

    at: datetime
    did: StorePurged | None


class Runs:
    """Remembers the last :data:`KEPT` runs for one app. Any thread may purge."""

    def __init__(self) -> None:
        self._kept: deque[Run] = deque(maxlen=KEPT)  # its methods are atomic

    def listen(self, app: Any) -> None:
        """Remember the runs for *app*, for as long as this object is kept."""
        StorePurged.signal.connect(self._note, sender=app)
        StoreFailed.signal.connect(self._note_failure, sender=app)

    def newest_first(self) -> list[Run]:
        """The last runs."""
        return list(reversed(self._kept.copy()))

    def _note(self, _app: Any, event: StorePurged) -> None:
        self._kept.append(Run(datetime.now(UTC), event))

    def _note_failure(self, _app: Any, event: StoreFailed) -> None:
        if event.operation == _PURGE:
            self._kept.append(Run(datetime.now(UTC), None))
