"""The connections of a process to one SQL server."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ....errors import StoreUnavailable
from ... import forks
from ...remote.breaker import Breaker, Notify
from ...remote.deadline import is_late, remaining
from .lines import Line, Lost, Refused, TimedOut

# Seconds after which a thread that waits looks again by itself.
_LONGEST_WAIT = 0.05


class CircuitOpen(Lost):
    """The circuit breaker refuses the call."""


class Pool:
    """Connections, up to a number. Each is used by one thread at a time, the last used first.

    :param connect: opens a connection.
    :param server: the server's name in events.
    :param most: the most connections at once.
    """

    def __init__(self, connect: Callable[[], Line], server: str, most: int, notify: Notify) -> None:
        self._connect = connect
        self._server = server
        self._most = most
        self._notify = notify
        self._begin()

    @property
    def state(self) -> str:
        """The state of the circuit breaker."""
        return self._breaker.state

    def line(self) -> _Use:
        """Returns a connection for a ``with`` block. It is closed after an exception."""
        if self._process != os.getpid():
            # Closing a copy of the parent's connection would end it for the parent.
            forks.leak(place for place in self._places if place is not None)
            self._begin()
        return _Use(self, self._breaker)

    def close(self) -> None:
        """Close all connections that are not in use."""
        for _ in range(len(self._places)):
            with suppress(IndexError):  # another thread was faster
                place = self._places.pop()
                self._places.appendleft(None)
                if place is not None:
                    place.close()

    def take(self) -> Line:
        """Returns an idle connection, or a new one.

        :raises StoreUnavailable: all are in use for longer than the call may take.
        """
        try:
            line = self._places.pop()
        except IndexError:
            line = self._wait()
        try:
            return line or self._connect()
        except BaseException:
            self.give(None)
            raise

    def give(self, line: Line | None) -> None:
        """Take a connection back; ``None``: it was closed, and another one may be opened."""
        if line is None:
            self._places.appendleft(None)
        else:
            line.idle_since = time.monotonic()
            self._places.append(line)
        if self._waiting:
            with self._freed:
                self._freed.notify()

    def _begin(self) -> None:
        # A connection, or room for one. Threads that come and go need no lock.
        self._places: deque[Line | None] = deque([None] * self._most)
        self._freed = threading.Condition()
        self._waiting = 0
        self._breaker = Breaker(self._server, self._notify, _has_failed, CircuitOpen)
        # Last: until then another thread of a child must not take the parent's connections.
        self._process = os.getpid()

    def _wait(self) -> Line | None:
        until = time.monotonic() + remaining(TimedOut)
        with self._freed:
            self._waiting += 1
            try:
                while (left := until - time.monotonic()) > 0:
                    with suppress(IndexError):
                        return self._places.pop()
                    self._freed.wait(min(left, _LONGEST_WAIT))
            finally:
                self._waiting -= 1
        raise StoreUnavailable(
            f"all {self._most} connections are in use: raise max_connections in SAFESESSION_STORE"
        )


class _Use:
    """A ``with`` block that uses a connection, if the circuit breaker allows it."""

    __slots__ = ("_began", "_breaker", "_late", "_line", "_pool")

    def __init__(self, pool: Pool, breaker: Breaker) -> None:
        self._pool = pool
        self._breaker = breaker
        self._late = is_late()

    def __enter__(self) -> Line:
        self._began = self._breaker.begin(late=self._late)
        try:
            self._line = self._pool.take()
        except BaseException as error:
            self._breaker.end(self._began, error, late=self._late)
            raise
        return self._line

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self._pool.give(self._line)
        else:
            self._line.close()
            self._pool.give(None)
            if isinstance(error, Lost):
                self._pool.close()  # the others were made before the server went away, too
        self._breaker.end(self._began, error, late=self._late)


def _has_failed(error: BaseException, late: bool) -> bool | None:
    """Returns whether *error* is the server's failure; ``None``: it says nothing about it."""
    if isinstance(error, CircuitOpen):
        return None
    if isinstance(error, TimedOut):
        return None if late else True
    if isinstance(error, Lost):
        return True
    return False if isinstance(error, Refused) else None
