"""A circuit breaker for one server: while it is down, calls fail at once instead of waiting.

After a row of failures the circuit opens. From then on one call at a time, twice a second, finds
out whether the server is back; all others fail at once. The states and the counting are pybreaker's
(M. Nygard, "Release It!", 2007). Two of its ways are kept from it: it runs calls under its lock, so
that all others would wait for a probe, and it measures by the wall clock, which may be set back.
Calls are run here; it is told how they ended.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

import redis
from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker, CircuitBreakerError
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError

from ..events import Event, StoreStateChanged

Notify: TypeAlias = Callable[[Event], None]
_T = TypeVar("_T")

#: Failures in a row that open the circuit.
FAILURES = 5
#: Seconds from one probe to the next.
PROBE_INTERVAL = 0.5

# Seconds after which a probe that nobody has heard of again is no longer waited for.
_PROBE_LOST = 30.0
_FAILED = (redis.ConnectionError, redis.TimeoutError)
# A server that says these is there, and says them at once.
_ANSWERED = (AuthenticationError, AuthorizationError, BusyLoadingError)


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
        self._circuit = CircuitBreaker(fail_max=FAILURES, name=server)
        self._lock = threading.Lock()  # never held while anything is waited for
        self._probe_at = 0.0
        self._reason = ""
        self._told = STATE_CLOSED
        self._news: deque[Event] = deque()

    @property
    def state(self) -> str:
        """``"closed"`` (all is well), ``"open"`` or ``"half-open"`` (a probe is under way)."""
        return str(self._circuit.current_state)

    @property
    def failing(self) -> bool:
        """Whether the last call failed, too few in a row to open the circuit included."""
        return bool(self._circuit.fail_counter)

    def call(self, function: Callable[..., _T], *args: Any, late: bool = False) -> _T:
        """``function(*args)``, unless the circuit is open.

        :param late: so little time is left that a time-out does not count, and that this call is
            not the one to find out whether the server is back.
        :raises CircuitOpenError: it is; nothing was sent.
        """
        circuit = self._circuit
        if circuit.current_state != STATE_CLOSED and self._starts_probe(late=late):
            return self._probe(function, args)
        try:
            result = function(*args)
        except redis.RedisError as error:
            if not (late and isinstance(error, redis.TimeoutError)):
                self._note(STATE_CLOSED, failed=_is_failure(error), reason=str(error))
            raise
        if circuit.fail_counter:
            self._note(STATE_CLOSED, failed=False)
        return result

    def _starts_probe(self, *, late: bool) -> bool:
        """Whether the caller is the one who finds out now; ``False``: somebody has found it up.

        A turn is a time and no lock: whoever got it may never be heard of again.

        :raises CircuitOpenError: it is not time yet, or somebody is at it.
        """
        with self._lock:
            if self._circuit.current_state == STATE_CLOSED:
                return False
            now = time.monotonic()
            if late or now < self._probe_at:
                raise CircuitOpenError(f"{self._server} is not asked again yet: {self._reason}")
            self._probe_at = now + _PROBE_LOST
            self._circuit.half_open()
            return True

    def _probe(self, function: Callable[..., _T], args: tuple[Any, ...]) -> _T:
        try:
            result = function(*args)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            self._note(STATE_HALF_OPEN, failed=_is_failure(error), reason=reason)
            raise
        self._note(STATE_HALF_OPEN, failed=False)
        return result

    def _note(self, began: str, *, failed: bool, reason: str = "") -> None:
        """Take down how a call ended, if the circuit is still in the state in which it *began*."""
        with self._lock:
            if self._circuit.current_state != began:
                return
            with suppress(redis.ConnectionError, CircuitBreakerError):  # it raises what it is told
                self._circuit.call(_fail if failed else _succeed)
            state = self.state
            if state == STATE_OPEN:
                self._probe_at, self._reason = time.monotonic() + PROBE_INTERVAL, reason
            if state != self._told:
                self._told = state
                self._news.append(StoreStateChanged(self._server, state))
        self._tell()

    def _tell(self) -> None:
        while True:
            try:
                event = self._news.popleft()
            except IndexError:
                return
            self._notify(event)


def _is_failure(error: BaseException) -> bool:
    """Whether the server has said nothing; it may be unwelcome what it has said."""
    return not isinstance(error, redis.RedisError) or (
        isinstance(error, _FAILED) and not isinstance(error, _ANSWERED)
    )


def _succeed() -> None:
    """What the circuit is told of a call that went well."""


def _fail() -> None:
    raise redis.ConnectionError
