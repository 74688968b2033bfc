"""The time of a database, between two answers that have it."""

from __future__ import annotations

import time
from collections.abc import Callable


class ServerTime:
    """The time of the last answer, and what has passed since then.

    :param elapsed: returns seconds, by a clock that runs as the database's does.
    """

    def __init__(self, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._last: tuple[int, float] | None = None

    def note(self, now: int) -> None:
        """Take *now*, in milliseconds, for the time of an answer that has just come."""
        self._last = now, self._elapsed()

    def guess(self) -> int | None:
        """Returns about the database's time, not after it; ``None``: it is not known yet."""
        if self._last is None:
            return None
        then, after = self._last
        return then + int((self._elapsed() - after) * 1000)
