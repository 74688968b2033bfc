"""A time limit for a store call: all waits of the driver are cut to it."""

from __future__ import annotations

import time
from contextvars import ContextVar

# The end of the call and its seconds; one for each thread or greenlet.
_limit: ContextVar[tuple[float, float] | None] = ContextVar("limit", default=None)
# Seconds for a wait outside of any limit.
_UNLIMITED = 1.0
# The part of a call's time that must be left for a time-out to count as a failure of the server.
_FAIR = 0.5


class deadline:  # noqa: N801  # read as a word of the with statement
    """Limits the time of a ``with`` block. An inner limit can only shorten an outer one.

    :param seconds: the time that the block may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        until, outer = time.monotonic() + self._seconds, _limit.get()
        until = until if outer is None else min(until, outer[0])
        self._token = _limit.set((until, self._seconds))

    def __exit__(self, *exception: object) -> None:
        _limit.reset(self._token)


def remaining(error: type[Exception]) -> float:
    """Returns the remaining seconds of this call.

    :param error: the exception for a time-out; raised when no time is left.
    """
    limit = _limit.get()
    left = _UNLIMITED if limit is None else limit[0] - time.monotonic()
    if left <= 0:
        raise error("no time left for this call")
    return left


def is_late() -> bool:
    """Returns whether too little time is left for a time-out to be the server's fault."""
    limit = _limit.get()
    return limit is not None and limit[0] - time.monotonic() < limit[1] * _FAIR
