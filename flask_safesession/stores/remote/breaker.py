"""A circuit breaker for one server: while it is down, calls fail at once instead of waiting.

After a row of failures the circuit opens. From then on one call at a time, twice a second, finds
out whether the server is back; all others fail at once (M. Nygard, "Release It!", 2007). No call is
made under the lock, so that no other one waits for a probe, and time is measured by the monotonic
clock: the wall clock may be set back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import redis
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError

from ...events import Event, StoreStateChanged

Notify: TypeAlias = Callable[[Event], None]
_T = TypeVar("_T")

#: Failures in a row that open the circuit.
FAILURES = 5
#: Seconds from one probe to the next.
PROBE_INTERVAL = 0.5

_CLOSED, _OPEN, _HALF_OPEN = "closed", "open", "half-open"
# Seconds after which a probe that nobody has heard of again is no longer waited for.
_PROBE_LOST = 30.0
#: Errors of a server that cannot be reached.
FAILED = (redis.ConnectionError, redis.TimeoutError)
#: A server that says these is there, and says them at once.
ANSWERED = (AuthenticationError, AuthorizationError, BusyLoadingError)


class CircuitOpenError(redis.ConnectionError):
    """The server was down a moment ago, and nobody has found it up again. Nothing was sent."""


class Breaker:
    """Lets calls through while they succeed. For one process: a forked child makes its own.

    :param server: what it is called in the event.
    :param notify: told when the circuit opens or closes; called without any lock held.
    """

    def __init__(self, server: str, notify: Notify) -> None:
        self._server = server
        self._notify = notify
        self._lock = threading.Lock()  # never held while anything is waited for
        self._state = _CLOSED
        self._failures = 0  # in a row
        self._probe_at = 0.0
        self._reason = ""
        self._reported = _CLOSED
        self._news: deque[Event] = deque()

    @property
    def state(self) -> str:
        """``"closed"`` (all is well), ``"open"`` or ``"half-open"`` (a probe is under way)."""
        return self._state

    @property
    def failing(self) -> bool:
        """Whether the last call failed, too few in a row to open the circuit included."""
        return self._failures > 0

    def call(self, function: Callable[..., _T], *args: Any, late: bool = False) -> _T:
        """``function(*args)``, unless the circuit is open.

        :param late: so little time is left that a time-out does not count, and that this call is
            not the one to find out whether the server is back.
        :raises CircuitOpenError: it is; nothing was sent.
        """
        if self._state != _CLOSED and self._starts_probe(late=late):
            return self._probe(function, args)
        try:
            result = function(*args)
        except redis.RedisError as error:
            if not (late and isinstance(error, redis.TimeoutError)):
                self._note(_CLOSED, failed=_is_failure(error), reason=str(error))
            raise
        if self._failures:
            self._note(_CLOSED, failed=False)
        return result

    def _starts_probe(self, *, late: bool) -> bool:
        """Whether the caller is the one who finds out now; ``False``: somebody has found it up.

        A turn is a time and no lock: whoever got it may never be heard of again.

        :raises CircuitOpenError: it is not time yet, or somebody is at it.
        """
        with self._lock:
            if self._state == _CLOSED:
                return False
            now = time.monotonic()
            if late or now < self._probe_at:
                raise CircuitOpenError(f"{self._server} is not asked again yet: {self._reason}")
            self._probe_at = now + _PROBE_LOST
            self._state = _HALF_OPEN
            return True

    def _probe(self, function: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        try:
            result = function(*args)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            self._note(_HALF_OPEN, failed=_is_failure(error), reason=reason)
            raise
        self._note(_HALF_OPEN, failed=False)
        return result

    def _note(self, began: str, *, failed: bool, reason: str = "") -> None:
        """Counts how a call ended, if the circuit is still in the state in which it *began*."""
        with self._lock:
            if self._state != began:
                return
            self._failures = self._failures + 1 if failed else 0
            if not failed:
                self._state = _CLOSED
            elif began == _HALF_OPEN or self._failures >= FAILURES:
                self._state = _OPEN
                self._probe_at, self._reason = time.monotonic() + PROBE_INTERVAL, reason
            if self._state not in (self._reported, _HALF_OPEN):
                self._reported = self._state
                self._news.append(StoreStateChanged(self._server, self._state))
        self._report()

    def _report(self) -> None:
        while True:
            try:
                event = self._news.popleft()
            except IndexError:
                return
            self._notify(event)


def _is_failure(error: BaseException) -> bool:
    """Whether the server has said nothing; it may be unwelcome what it has said."""
    return not isinstance(error, redis.RedisError) or (
        isinstance(error, FAILED) and not isinstance(error, ANSWERED)
    )
