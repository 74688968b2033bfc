"""Connection classes of redis-py that cut each wait to what is left of the call."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import redis
import redis.cluster
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...remote.names import addresses
from .connections import remaining

# Arguments with the server's address and our credentials. The others (decoding, retries, caches,
# hooks on the client's own pool) do not apply to our connections.
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
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_type",
        "redis_connect_func",
        # for fakeredis
        "server",
        "server_key",
        "version",
        "server_type",
        "connected",
        "lua_modules",
        "client_class",
    }
)
# Older releases of redis-py distinguish the errors of clusters and replicas with this one only.
_PARSER = getattr(redis.cluster, "ClusterParser", None)
# The shortest wait: with a limit of zero the socket would not block at all.
_LEAST = 0.001
# Seconds for which a fork waits for connections that are being made.
_PATIENCE = 0.2
# One entry for each connection that is being made, whose socket only its own thread can reach.
_connecting: set[object] = set()


def ours(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments for a class of :func:`timed`: address and credentials out of *given*."""
    kwargs = {name: value for name, value in given.items() if name in _KEPT}
    kwargs |= {name: value for name, value in given.items() if name.startswith("ssl_")}
    kwargs |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "retry_on_timeout": False}
    # RESP2: on RESP3, redis-py 8 takes what is left on a connection for a notification, and the
    # next request would get a reply that an earlier one had not waited for.
    kwargs |= {"decode_responses": False, "protocol": 2}
    return kwargs if _PARSER is None else {**kwargs, "parser_class": _PARSER}


@cache
def timed(base: Any) -> Any:
    """Returns a class like *base* that cuts each wait to what is left of the call."""
    return type(f"Timed{base.__name__}", (_Timed, *_resolving(base)), {})


_Base: Any = object


class _Timed(_Base):  # type: ignore[misc]  # stands before a class of redis-py's, see timed()
    # redis-py reads them for each address that it tries. Those of the given client do not apply.
    socket_connect_timeout = socket_timeout = property(lambda _: _left(), lambda _, __: None)

    def connect(self) -> None:
        if getattr(self, "_sock", None) is None:
            remaining()
            super().connect()

    def _connect(self) -> Any:
        made = object()
        _connecting.add(made)
        try:
            sock = super()._connect()
        finally:
            _connecting.discard(made)
        return _Cut(sock) if isinstance(sock, socket.socket) else sock


def _let_connect() -> None:
    """Wait before a fork until new sockets are stored where the child can close its copies."""
    until = time.monotonic() + _PATIENCE
    while _connecting and time.monotonic() < until:
        time.sleep(_LEAST)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_let_connect, after_in_child=_connecting.clear)


def _left() -> float:
    """Returns :func:`remaining`, without its error, which would leave a socket open."""
    try:
        return max(_LEAST, remaining())
    except redis.TimeoutError:
        return _LEAST


class _Cut:
    """A socket that limits each wait to what is left of the call: replies may come in pieces."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waits = True

    def settimeout(self, limit: float | None) -> None:
        """Store only whether to wait at all: the deadline limits for how long."""
        self._waits = limit != 0

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
        self._sock.settimeout(remaining() if self._waits else 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


# -- names of hosts -----------------------------------------------------------------------------


class _Resolving(redis.Connection):
    """Resolves the host name in time: the system's resolver has no time limit."""

    def _connect(self) -> Any:
        name, failed = self.host, OSError("the name has no address")
        for address in addresses(name, redis.TimeoutError):
            self.host = address
            try:
                return super()._connect()  # type: ignore[no-untyped-call]
            except OSError as error:
                failed = error
            finally:
                self.host = name
        raise failed


def _resolving(base: type[Any]) -> tuple[type[Any], ...]:
    """Returns the base classes of a class like *base*, with :class:`_Resolving` below."""
    if base is redis.Connection:
        return (_Resolving,)
    return (base, _Resolving) if issubclass(base, redis.Connection) else (base,)
