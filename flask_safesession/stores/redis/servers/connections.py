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
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any, TypeAlias

import redis
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError

from ...remote import deadline
from ...remote.breaker import Breaker, Notify, watching

#: A command and its arguments.
Command: TypeAlias = tuple[Any, ...]
#: Sends commands to one server: :meth:`Connections.exchange`, or what works like it.
Exchange: TypeAlias = Callable[..., list[Any]]

#: Errors of a server that cannot be reached.
FAILED = (redis.ConnectionError, redis.TimeoutError)
#: Errors that a server itself answers, so that it can be reached.
ANSWERED = (AuthenticationError, AuthorizationError, BusyLoadingError)

# Seconds for which an idle connection is trusted to be open. A command that may be repeated does no
# harm on a closed one: it is sent again on a fresh one.
_TRUSTED = 1.0
# Seconds after which an idle connection is closed: firewalls drop it after some minutes, and a call
# on it would wait until its deadline.
_KEPT = 60.0

#: Returns the seconds that this call has left; raises ``redis.TimeoutError`` if there are none.
remaining: Callable[[], float] = partial(deadline.remaining, redis.TimeoutError)


class CircuitOpenError(redis.ConnectionError):
    """The server was down a moment ago and has not answered since. Nothing was sent."""

    was_sent = False


def was_sent(error: redis.RedisError) -> bool:
    """Returns whether the server may have received the commands that ended in *error*."""
    return getattr(error, "was_sent", True)


def failed(error: BaseException, late: bool) -> bool | None:
    """Returns whether an error is a failure of the server: see :data:`.breaker.Failed`."""
    if not isinstance(error, redis.RedisError) or (late and isinstance(error, redis.TimeoutError)):
        return None
    return isinstance(error, FAILED) and not isinstance(error, ANSWERED)


class _Slots:
    """Allows a number of calls at once; the others wait for one to end, within their time.

    A call that ends gives its slot to one waiting call. If that one's wait is interrupted (by
    gevent, by ``SystemExit``), it hands the slot on; with a semaphore or a queue it would be lost.
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
    """One waiting call. ``given``: the slot is its own, even if its thread has not run yet."""

    def __init__(self) -> None:
        self.given = False
        self.bell = threading.Lock()
        self.bell.acquire()


class _Own:
    """The state of one process, which must not use sockets and locks of its parent."""

    def __init__(self, server: str, limit: int | None, notify: Notify) -> None:
        self.process = os.getpid()
        self.idle: deque[tuple[float, Any]] = deque()
        # By call, since a connection may already serve the next call when one is removed here.
        self.busy: dict[object, Any] = {}
        self.free = _Slots(limit) if limit else nullcontext()
        self.breaker = Breaker(server, notify, failed, CircuitOpenError)

    def close(self) -> None:
        """Close the idle connections."""
        while self.idle:
            with suppress(IndexError):  # another thread was faster
                self.idle.pop()[1].disconnect()

    def leave(self) -> None:
        """Close a forked child's copies of all sockets; the parent's own stay open."""
        self.close()
        for connection in self.busy.values():
            connection.disconnect()


class Connections:
    """Sends commands to one server, over connections that are kept while they are idle.

    There are never more than were in use at once. A forked child makes its own.

    :param make: returns a new connection of a class of :mod:`.timed`, not connected yet.
    :param server: host and port, or path, for logs and figures.
    :param limit: the most connections at once; ``None``: as many as there are calls.
    :param notify: called when the server's circuit breaker opens and closes.
    :param encrypted: whether connections use TLS.
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
        self._make_own = partial(_Own, server, limit, notify)
        self._own = self._make_own()

    @property
    def breaker(self) -> Breaker:
        """Returns the server's circuit breaker in this process."""
        return self._own.breaker

    def exchange(self, *commands: Command, careful: bool = False) -> list[Any]:
        """Send *commands* in one go and return their replies.

        :param careful: for commands that must not be sent twice: make sure first that the server
            has not closed the connection meanwhile.
        :raises redis.RedisError: the first error among the replies, or that of the connection.
        """
        own = self._own
        if own.process != os.getpid():
            own, parents = self._make_own(), own
            self._own = own
            parents.leave()
        # The wait for a slot is outside of the breaker: a long one is not the server's failure.
        with own.free, watching(own.breaker, late=deadline.is_late()):
            return self._exchange(own, commands, careful)

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
            # After any error (a time-out, a greenlet's end, Ctrl-C) the reply may still arrive,
            # and another request must not read it (CVE-2023-28858).
            connection.disconnect()
            own.close()  # the others may be closed by the server as well
            del own.busy[call]
            raise
        if isinstance(error, redis.ReadOnlyError):
            connection.disconnect()  # no longer the master: the next connection finds the new one
            own.close()
        else:
            _put_back(own.idle, connection)
        del own.busy[call]  # last, so that a child that is forked here still finds the connection
        if error is not None:
            raise error
        return replies

    def _get(self, own: _Own, call: object, *, careful: bool) -> Any:
        try:
            since, connection = own.idle.pop()
        except IndexError:
            connection = own.busy[call] = self._make()  # not connected yet
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
    """Returns the replies, and the first error among them."""
    connection.send_packed_command([b"".join(map(_packed, commands))], check_health=False)
    replies: list[Any] = []
    error: redis.ResponseError | None = None
    for _ in commands:
        try:
            replies.append(connection.read_response())
        except redis.ResponseError as answer:  # a whole reply: read on
            error = error or answer
    return replies, error


def _packed(command: Command) -> bytes:
    """Returns a command as it is sent; redis-py takes three times as long for that."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    return b"*%d\r\n%b" % (
        len(words),
        b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]),
    )


def _put_back(idle: deque[tuple[float, Any]], connection: Any) -> None:
    now = time.monotonic()
    idle.append((now, connection))
    try:
        if now - idle[0][0] > _KEPT:  # needed only while there were more calls at once
            idle.popleft()[1].disconnect()
    except IndexError:  # other threads have taken all of them
        return


def _is_stale(connection: Any) -> bool:
    """Returns the same as :func:`...remote.idle.is_stale`; redis-py may hold some of it already."""
    try:
        return bool(connection.can_read(timeout=0))
    except (redis.RedisError, OSError):
        return True
