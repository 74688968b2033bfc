"""The connections of a process to one SQL server."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ....errors import StoreUnavailable
from ...remote.breaker import Breaker, Notify, watching
from ...remote.deadline import is_late, remaining
from .. import forks
from .lines import Line, Lost, Refused, TimedOut


class CircuitOpen(Lost):
    """The circuit breaker refuses the call."""


class Pool:
    """Idle connections, and a limit to their number. A connection is used by one thread at a time.

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

    @contextmanager
    def line(self) -> Iterator[Line]:
        """Returns a connection for a ``with`` block. It is closed after an exception."""
        if self._process != os.getpid():
            # Closing a copy of the parent's connection would end it for the parent.
            forks.leak(self._idle)
            self._begin()
        with watching(self._breaker, late=is_late()), self._place():
            line = self._take()
            try:
                yield line
            except BaseException as error:
                line.close()
                if isinstance(error, Lost):
                    self.close()  # the others were made before the server went away, too
                raise
            self._idle.append(line)

    def close(self) -> None:
        """Close all connections that are not in use."""
        while (line := self._pop()) is not None:
            line.close()

    def _begin(self) -> None:
        self._idle: deque[Line] = deque()
        self._places = threading.BoundedSemaphore(self._most)
        self._breaker = Breaker(self._server, self._notify, _has_failed, CircuitOpen)
        # Last: until then another thread of a child must not take the parent's connections.
        self._process = os.getpid()

    @contextmanager
    def _place(self) -> Iterator[None]:
        places = self._places
        if not places.acquire(timeout=remaining(TimedOut)):
            raise StoreUnavailable(
                f"all {self._most} connections are in use: raise max_connections in"
                " SAFESESSION_STORE"
            )
        try:
            yield
        finally:
            places.release()

    def _take(self) -> Line:
        return self._pop() or self._connect()

    def _pop(self) -> Line | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None


def _has_failed(error: BaseException, late: bool) -> bool | None:
    """Returns whether *error* is the server's failure; ``None``: it says nothing about it."""
    if isinstance(error, CircuitOpen):
        return None
    if isinstance(error, TimedOut):
        return None if late else True
    if isinstance(error, Lost):
        return True
    return False if isinstance(error, Refused) else None
