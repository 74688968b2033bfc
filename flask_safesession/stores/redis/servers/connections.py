"""Connections to one Redis server on which every call ends in time.

redis-py limits the wait for one piece of one reply; reconnecting, the handshake and the next piece
start anew, and its own retries come on top (59 seconds on a stopped server by default). Here a call
has one deadline, and each wait on the socket gets what is left of it (see :mod:`.timed`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

import redis

from ...remote.breaker import Breaker, CircuitOpenError, Notify

#: A command and its arguments.
Command: TypeAlias = tuple[Any, ...]

# Seconds for which an idle connection is taken to be alive. A command that can be repeated does no
# harm on a dead one: it is sent again on a fresh one.
_TRUSTED = 1.0
# Seconds after which an idle connection is given up: firewalls forget those that say nothing for
# some minutes, and then a call on one would wait in vain until its deadline.
_KEPT = 60.0

# Until when, and of how many seconds; of a thread or a greenlet, whichever way that came to be.
_limit: ContextVar[tuple[float, float] | None] = ContextVar("limit", default=None)
# Of a call's time, what has to be left when it is sent for its time-out to tell of the server.
_FAIR = 0.5


class deadline:  # noqa: N801  # read as a word of the with statement
    """``with deadline(1.0):`` all that is done on connections here ends in that time.

    One inside another can only shorten it.

    :param seconds: what a call may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        until, outer = time.monotonic() + self._seconds, _limit.get()
        until = until if outer is None else min(until, outer[0])
        self._token = _limit.set((until, self._seconds))

    def __exit__(self, *exception: object) -> None:
        _limit.reset(self._token)


def remaining() -> float:
    """Seconds that this call has left.

    :raises redis.TimeoutError: none.
    """
    limit = _limit.get()
    left = 1.0 if limit is None else limit[0] - time.monotonic()
    if left <= 0:
        raise redis.TimeoutError("no time left for this call")
    return left


def _is_late() -> bool:
    """Whether so much time is gone that a time-out would be no fault of the server."""
    limit = _limit.get()
    return limit is not None and limit[0] - time.monotonic() < limit[1] * _FAIR


def was_sent(error: redis.RedisError) -> bool:
    """Whether the server may have got the commands that ended in *error*."""
    return not isinstance(error, CircuitOpenError) and getattr(error, "was_sent", True)


class _Slots:
    """So many calls at once; the others wait for one to end, within their time.

    A call that ends gives its slot to the next one by name. When that one's wait is cut short (by
    gevent, by ``SystemExit``) it hands the slot on; with a semaphore or a queue it would be lost.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = count
        self._waiting: deque[_Turn] = deque()
        self._lock = threading.Lock()  # never held while anything is waited for

    def __enter__(self) -> None:
        turn = _Turn()
        try:
            with self._lock:
                if self._free:
                    self._free -= 1
                    return
                self._waiting.append(turn)
            in_time = turn.bell.acquire(timeout=remaining())
        except BaseException:
            self._give_up(turn)
            raise
        if not in_time:
            self._give_up(turn)
            error = redis.TimeoutError(f"none of {self._count} connections came free in time")
            raise _unsent(error)

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._hand_on()

    def _give_up(self, turn: _Turn) -> None:
        with self._lock:
            if turn.given:
                self._hand_on()
            elif turn in self._waiting:
                self._waiting.remove(turn)

    def _hand_on(self) -> None:
        if self._waiting:
            turn = self._waiting.popleft()
            turn.given = True
            turn.bell.release()
        else:
            self._free += 1


class _Turn:
    """Of one that waits. ``given``: it has the slot, also if it does not know yet."""

    def __init__(self) -> None:
        self.given = False
        self.bell = threading.Lock()
        self.bell.acquire()


class _Own:
    """What a process has for itself; sockets and locks of its parent are nothing for it."""

    def __init__(self, server: str, limit: int | None, notify: Notify) -> None:
        self.process = os.getpid()
        self.idle: deque[tuple[float, Any]] = deque()
        # By call: two calls follow each other on one connection.
        self.busy: dict[object, Any] = {}
        self.free = _Slots(limit) if limit else None
        self.breaker = Breaker(server, notify)

    def close(self) -> None:
        """Close what is idle."""
        while True:
            try:
                _, connection = self.idle.pop()
            except IndexError:
                return
            connection.disconnect()

    def leave(self) -> None:
        """Close a forked child's copies of all sockets; the parent's own stay as they are."""
        self.close()
        for connection in self.busy.values():
            connection.disconnect()


class Connections:
    """Sends commands to one server, over connections that are kept at hand while they are idle.

    There are never more than were in use at once. A forked child makes its own.

    :param make: gives a new connection of redis-py, of a class of :mod:`.timed`, not connected yet.
    :param server: host and port, or path, for logs and figures.
    :param encrypted: by TLS.
    :param limit: the most connections at once; ``None``: as many as there are calls.
    :param notify: told when the server's circuit breaker opens and closes.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        server: str,
        limit: int | None,
        notify: Notify,
        *,
        encrypted: bool = False,
    ) -> None:
        self.server = server
        self.encrypted = encrypted
        self._make = make
        self._limit = limit
        self._notify = notify
        self._own = _Own(server, limit, notify)

    @property
    def breaker(self) -> Breaker:
        """The server's circuit breaker, of this process."""
        return self._own.breaker

    def exchange(self, *commands: Command, careful: bool = False) -> list[Any]:
        """Send *commands* in one go and return their replies; the connection is sound afterwards.

        :param careful: make sure first that the server has not closed the connection meanwhile;
            for commands that must not be sent twice.
        :raises redis.RedisError: the first error among the replies, or that of the connection.
        """
        own = self._own
        if own.process != os.getpid():
            own, parents = _Own(self.server, self._limit, self._notify), own
            self._own = own
            parents.leave()
        if own.free is None:
            return own.breaker.call(self._exchange, own, commands, careful, late=_is_late())
        with own.free:  # not in the breaker's sight: the server may be well
            return own.breaker.call(self._exchange, own, commands, careful, late=_is_late())

    def close(self) -> None:
        """Close the idle connections. Others are made when they are needed."""
        self._own.close()

    def _exchange(self, own: _Own, commands: tuple[Command, ...], careful: bool) -> list[Any]:
        call = object()
        connection = self._get(own, call, careful=careful)
        try:
            _connect(connection)
            replies, error = _talk(connection, commands)
        except BaseException:
            # Whatever it was (a time-out, a greenlet's end, Ctrl-C): the reply may still be under
            # way, and must not be given to another request (CVE-2023-28858).
            connection.disconnect()
            own.close()  # the others may be as dead
            del own.busy[call]
            raise
        if isinstance(error, redis.ReadOnlyError):
            connection.disconnect()  # it is no master any more: connect to who is
            own.close()
        else:
            _put_back(own.idle, connection)
        del own.busy[call]  # last: a child that is forked here finds it all the same
        if error is not None:
            raise error
        return replies

    def _get(self, own: _Own, call: object, *, careful: bool) -> Any:
        try:
            since, connection = own.idle.pop()
        except IndexError:
            connection = own.busy[call] = self._make()  # it connects when it is used
            return connection
        own.busy[call] = connection  # at once: a child may be forked during the next lines
        age = time.monotonic() - since
        if age > _KEPT or ((careful or age > _TRUSTED) and _is_stale(connection)):
            connection.disconnect()
        return connection


def _connect(connection: Any) -> None:
    try:
        connection.connect()
    except redis.RedisError as error:
        _unsent(error)
        raise


def _unsent(error: redis.RedisError) -> redis.RedisError:
    error.was_sent = False  # type: ignore[attr-defined]
    return error


def _talk(
    connection: Any, commands: tuple[Command, ...]
) -> tuple[list[Any], redis.ResponseError | None]:
    """The replies, and the first error among them."""
    if len(commands) == 1:
        connection.send_command(*commands[0])
    else:
        connection.send_packed_command(connection.pack_commands(commands))
    replies: list[Any] = []
    error: redis.ResponseError | None = None
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except redis.ResponseError as told:  # a whole reply: read on
            error = error or told
    return replies, error


def _put_back(idle: deque[tuple[float, Any]], connection: Any) -> None:
    now = time.monotonic()
    idle.append((now, connection))
    try:
        if now - idle[0][0] > _KEPT:  # it was needed when there was more to do
            idle.popleft()[1].disconnect()
    except IndexError:  # others took it, and this one, too
        return


def _is_stale(connection: Any) -> bool:
    """Whether the server has closed an idle connection, or has said what nobody asked for."""
    try:
        return bool(connection.can_read(timeout=0))
    except (redis.RedisError, OSError):
        return True
