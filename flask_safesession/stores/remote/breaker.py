"""A circuit breaker for one server: while it is down, calls fail at once instead of waiting.

Some failures in a row open the circuit. From then on one call at a time, twice a second, probes
whether the server is back; all others fail at once (M. Nygard, "Release It!", 2007). No call is
made under the lock, so that no call waits for a probe. Uses the monotonic clock, since the wall
clock may be set back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ...events import Event, StoreStateChanged, emit

Notify: TypeAlias = Callable[[Event], None]
#: Takes an exception and whether the call began late. Returns whether the server has failed;
#: ``None``: the exception says nothing about the server.
Failed: TypeAlias = Callable[[BaseException, bool], bool | None]

#: Failures in a row that open the circuit.
FAILURES = 5
#: Seconds from one probe to the next.
PROBE_INTERVAL = 0.5

_CLOSED, _OPEN, _HALF_OPEN = "closed", "open", "half-open"
# Seconds after which an unfinished probe no longer prevents another.
_PROBE_LOST = 30.0


class Breaker:
    """Allows calls while they succeed. Belongs to one process: a forked child makes its own.

    :param server: the server's name in the event.
    :param notify: called when the circuit opens or closes, without any lock held.
    :param failed: decides which of the driver's exceptions are failures.
    :param refusal: the exception that is raised while the circuit is open.
    """

    def __init__(
        self, server: str, notify: Notify, failed: Failed, refusal: type[Exception]
    ) -> None:
        self._server = server
        self._notify = notify
        self._failed = failed
        self._refusal = refusal
        self._lock = threading.Lock()  # never held while anything is waited for
        self._state = _CLOSED
        self._failures = 0  # in a row
        self._probe_at = 0.0
        self._reason = ""
        self._reported = _CLOSED
        self._news: deque[Event] = deque()

    @property
    def state(self) -> str:
        """``"closed"`` (calls are made), ``"open"`` or ``"half-open"`` (a probe is under way)."""
        return self._state

    @property
    def failing(self) -> bool:
        """Whether the last call failed, even if the circuit is still closed."""
        return self._failures > 0

    def begin(self, *, late: bool) -> str:
        """Returns the state in which a call begins: closed, or half-open for a probe.

        A probe reserves a time and holds no lock, since it may never end.
        """
        if self._state == _CLOSED:
            return _CLOSED
        with self._lock:
            if self._state == _CLOSED:
                return _CLOSED
            now = time.monotonic()
            if late or now < self._probe_at:
                raise self._refusal(f"{self._server} is not asked again yet: {self._reason}")
            self._probe_at = now + _PROBE_LOST
            self._state = _HALF_OPEN
            return _HALF_OPEN

    def end(self, began: str, error: BaseException | None, *, late: bool) -> None:
        """Record the result of a call, if the circuit is still in the state in which it *began*."""
        failed = error is not None and self._failed(error, late)
        if failed is None and began == _HALF_OPEN:
            failed = True  # an interrupted probe has not found the server up
        if failed is None or not (failed or self._failures):
            return
        with self._lock:
            if self._state != began:
                return
            self._failures = self._failures + 1 if failed else 0
            if not failed:
                self._state = _CLOSED
            elif began == _HALF_OPEN or self._failures >= FAILURES:
                self._state = _OPEN
                self._probe_at = time.monotonic() + PROBE_INTERVAL
                self._reason = str(error) or type(error).__name__
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


class watching:  # noqa: N801  # read as a word of the with statement
    """``with watching(breaker):`` one call, which is refused if the circuit is open.

    :param late: little time is left: a time-out need not count, and the call is not a probe.
    """

    __slots__ = ("_began", "_breaker", "_late")

    def __init__(self, breaker: Breaker, *, late: bool = False) -> None:
        self._breaker = breaker
        self._late = late

    def __enter__(self) -> None:
        self._began = self._breaker.begin(late=self._late)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._breaker.end(self._began, error, late=self._late)


class Listener:
    """Passes events of the servers on. Not the store itself: that would be a reference cycle."""

    def __init__(self) -> None:
        #: Receives each event; at first its signal is sent.
        self.listener: Callable[[Event], None] = partial(emit, None)

    def __call__(self, event: Event) -> None:
        """Pass *event* to the listener."""
        self.listener(event)
