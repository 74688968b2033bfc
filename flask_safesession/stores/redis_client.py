"""A redis-py client on which every call ends in time, whatever the client was that it is made from.

redis-py limits the wait for one piece of one reply; reconnecting, the handshake and the next piece
start anew, and its own retries come on top (59 seconds on a stopped server by default). Here a call
has one deadline, and each wait on the socket gets what is left of it.
"""

from __future__ import annotations

import inspect
import os
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from typing import Any, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.connection import BlockingConnectionPool, ConnectionPool
from redis.retry import Retry

from ..errors import ConfigError

Client: TypeAlias = redis.Redis

# Seconds for which an idle connection is taken to be alive. A command that can be repeated does no
# harm on a dead one: it is sent again on a fresh one.
_TRUSTED = 1.0

_call = threading.local()


class deadline:  # noqa: N801  # read as a word of the with statement
    """``with deadline(1.0):`` all that this thread does on a bounded client ends in that time.

    :param seconds: what a call may take.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        _call.until = time.monotonic() + self._seconds

    def __exit__(self, *exception: object) -> None:
        del _call.until


def remaining() -> float:
    """Seconds that this thread's call has left.

    :raises redis.TimeoutError: none.
    """
    left: float = getattr(_call, "until", time.monotonic() + 1) - time.monotonic()
    if left <= 0:
        raise redis.TimeoutError("no time left for this call")
    return left


def bounded(client: object, timeout: float) -> Client:
    """A client of our own to the server of *client*; *client* itself is not touched.

    :param timeout: seconds that one call may take.
    :raises ConfigError: it is not a client that can be used safely, with what to do instead.
    """
    if not isinstance(client, redis.Redis):
        kind = f"{type(client).__module__}.{type(client).__name__}"
        raise _refused(
            f"is a {kind}; give a redis.Redis client, a URL such as redis://localhost:6379/0,"
            " or a Store"
        )
    if client.connection is not None:
        raise _refused(
            "is a client with single_connection_client=True, on which threads would read each"
            " other's replies; make the client without it"
        )
    pool = client.connection_pool
    if type(pool) not in (ConnectionPool, BlockingConnectionPool):
        raise _refused(
            f"is a client on a {type(pool).__name__}, which is not supported yet; give a client"
            " of one standalone server"
        )
    return redis.Redis(connection_pool=_pool_like(pool, timeout))


def _refused(why: str) -> ConfigError:
    return ConfigError([f"SAFESESSION_STORE {why}"])


def _pool_like(pool: Any, timeout: float) -> Any:
    kwargs = {name: value for name, value in pool.connection_kwargs.items() if name in _KEPT}
    kwargs |= {name: v for name, v in pool.connection_kwargs.items() if name.startswith("ssl")}
    kwargs |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "retry_on_timeout": False}
    # RESP2: on RESP3, redis-py 8 takes whatever is left on a connection for a notification, and a
    # reply that nobody had waited for would be given to the next request.
    limits: dict[str, Any] = {"socket_timeout": timeout, "decode_responses": False, "protocol": 2}
    if "path" not in kwargs:
        limits["socket_connect_timeout"] = timeout
    kind = _timed(pool.connection_class)
    make: Any = BlockingConnectionPool  # redis-py has types for its other pool only
    if isinstance(pool, make):
        return make(pool.max_connections, timeout, connection_class=kind, **kwargs, **limits)
    return ConnectionPool(kind, pool.max_connections, **kwargs, **limits)


# What says where the server is and who we are. Everything else (decoding, retries, caches, hooks on
# the client's own pool) is that client's business.
_KEPT = frozenset(
    {
        "host",
        "port",
        "db",
        "path",
        "username",
        "password",
        "credential_provider",
        "client_name",
        "health_check_interval",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_type",
        "redis_connect_func",
        # fakeredis' connections find their server by these
        "server",
        "server_key",
        "version",
        "server_type",
        "connected",
        "lua_modules",
        "client_class",
    }
)


class Connections:
    """Sends commands over connections of a pool, and keeps the idle ones at hand.

    Taking a connection from redis-py's pool and giving it back costs as much as the command itself,
    so they are given back when the store is closed. There are never more than were in use at once.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool
        self._idle: deque[tuple[float, Any]] = deque()
        self._process = os.getpid()
        # A pool that makes its users wait has to see every connection that comes back.
        self._keeps = not isinstance(pool, BlockingConnectionPool)
        take = inspect.signature(pool.get_connection).parameters["command_name"]
        # redis-py before 5.3 wants a command's name here, later ones warn of it.
        self._take: tuple[str, ...] = ("EVALSHA",) if take.default is take.empty else ()

    def exchange(self, *command: Any, careful: bool = False) -> Any:
        """Send one command and return its reply, on a connection that is sound afterwards.

        Whatever interrupts the wait (a time-out, a greenlet's end, Ctrl-C), the connection is
        closed: the reply may still be under way, and must not be given to another request
        (CVE-2023-28858).

        :param careful: make sure first that the server has not closed the connection meanwhile;
            for commands that must not be sent twice.
        :raises redis.RedisError: the server's error, or that of the connection.
        """
        connection = self._get(careful=careful)
        try:
            connection.send_command(*command)
            reply = connection.read_response()
        except redis.ReadOnlyError:
            self._drop(connection)  # it is no master any more; look up who is
            raise
        except redis.ResponseError:
            self._put(connection)  # a whole reply: there is nothing left on the connection
            raise
        except BaseException:
            self._drop(connection)
            raise
        self._put(connection)
        return reply

    def close(self) -> None:
        """Close the idle connections. Others are made when they are needed."""
        while self._idle:
            with suppress(IndexError):  # another thread was faster
                _, connection = self._idle.pop()
                connection.disconnect()
                self.pool.release(connection)

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        self.pool.release(connection)
        self.close()  # the others may be as dead

    def _get(self, *, careful: bool) -> Any:
        if self._process != os.getpid():
            # A fork: those sockets are the parent's.
            self._idle, self._process = deque(), os.getpid()
        try:
            since, connection = self._idle.pop()
        except IndexError:
            return self.pool.get_connection(*self._take)
        if (careful or time.monotonic() - since > _TRUSTED) and _is_stale(connection):
            connection.disconnect()  # it connects anew when it is used
        return connection

    def _put(self, connection: Any) -> None:
        if self._keeps:
            self._idle.append((time.monotonic(), connection))
        else:
            self.pool.release(connection)


def _is_stale(connection: Any) -> bool:
    """Whether the server has closed an idle connection, or has said what nobody asked for."""
    try:
        return bool(connection.can_read(timeout=0))
    except (redis.RedisError, OSError):
        return True


@cache
def _timed(base: type[Any]) -> type[Any]:
    """A connection class whose every wait is cut to what is left of the call."""

    class Timed(base):  # type: ignore[misc]  # whichever class the given client uses
        @property
        def socket_connect_timeout(self) -> float:
            return remaining()  # asked anew for each address that is tried

        @socket_connect_timeout.setter
        def socket_connect_timeout(self, value: float | None) -> None:
            """What the given client had is not ours."""

        def connect(self) -> None:
            if getattr(self, "_sock", None) is None:
                self.socket_timeout = remaining()
                super().connect()

        def _connect(self) -> Any:
            sock = super()._connect()
            return _Cut(sock) if isinstance(sock, socket.socket) else sock

        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            self.connect()
            _cut(self)
            super().send_packed_command(command, check_health)

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            _cut(self)
            return super().read_response(*args, **kwargs)

    return Timed


def _cut(connection: Any) -> None:
    if hasattr(sock := connection._sock, "settimeout"):
        sock.settimeout(remaining())


class _Cut:
    """A socket whose every wait gets what is left of the call: a reply may come in pieces."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._limit = sock.gettimeout()

    def settimeout(self, limit: float | None) -> None:
        self._limit = limit
        self._sock.settimeout(limit)

    def recv(self, *args: Any) -> bytes:
        self._apply()
        return self._sock.recv(*args)

    def recv_into(self, *args: Any) -> int:
        self._apply()
        return self._sock.recv_into(*args)

    def sendall(self, *args: Any) -> None:
        self._apply()
        self._sock.sendall(*args)

    def _apply(self) -> None:
        left = remaining()
        if self._limit is None or left < self._limit:
            self._sock.settimeout(left)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
