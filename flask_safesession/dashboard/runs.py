"""Keeps the last purge runs of this process."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..events import StoreFailed, StorePurged

#: How many runs are kept.
KEPT = 8
_PURGE = "purge"


class Run(NamedTuple):
    """One run over the store, or over one shard.

    :param at: when it ended.
    :param did: what it did; ``None``: the store did not answer.
    """

    at: datetime
    did: StorePurged | None


class Runs:
    """Keeps the last :data:`KEPT` runs of one app, from any thread."""

    def __init__(self) -> None:
        self._kept: deque[Run] = deque(maxlen=KEPT)  # its methods are atomic

    def listen(self, app: Any) -> None:
        """Keep the runs of *app* for as long as this object exists."""
        StorePurged.signal.connect(self._note, sender=app)
        StoreFailed.signal.connect(self._note_failure, sender=app)

    def newest_first(self) -> list[Run]:
        """Returns the last runs."""
        return list(reversed(self._kept.copy()))

    def _note(self, _app: Any, event: StorePurged) -> None:
        self._kept.append(Run(datetime.now(UTC), event))

    def _note_failure(self, _app: Any, event: StoreFailed) -> None:
        if event.operation == _PURGE:
            self._kept.append(Run(datetime.now(UTC), None))
