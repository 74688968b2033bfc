"""Connection classes of redis-py whose every wait is cut to what is left of the call."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from typing import Any

import redis
import redis.cluster
from redis.backoff import NoBackoff
from redis.retry import Retry

from .connections import remaining

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
# Older releases of redis-py tell the errors of clusters and replicas apart with this one only.
_PARSER = getattr(redis.cluster, "ClusterParser", None)
# A wait of no time at all would be none: the socket would not block.
_LEAST = 0.001
# Seconds for which a fork waits for connections that are being made.
_PATIENCE = 0.2
# One entry a connection that is being made: its socket is known to its thread alone.
_connecting: set[object] = set()


def ours(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a class of :func:`timed`: of *given*, who we are and where the server is."""
    kwargs = {name: value for name, value in given.items() if name in _KEPT}
    kwargs |= {name: value for name, value in given.items() if name.startswith("ssl_")}
    kwargs |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": [], "retry_on_timeout": False}
    # RESP2: on RESP3, redis-py 8 takes whatever is left on a connection for a notification, and a
    # reply that nobody had waited for would be given to the next request.
    kwargs |= {"decode_responses": False, "protocol": 2}
    return kwargs if _PARSER is None else {**kwargs, "parser_class": _PARSER}


@cache
def timed(base: Any) -> Any:
    """A connection class like *base*, whose every wait is cut to what is left of the call."""
    return type(f"Timed{base.__name__}", (_Timed, *_resolving(base)), {})


_Base: Any = object


class _Timed(_Base):  # type: ignore[misc]  # stands before a class of redis-py's, see timed()
    @property
    def socket_connect_timeout(self) -> float:
        return _left()  # asked anew for each address that is tried

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        """What the given client had is not ours."""

    @property
    def socket_timeout(self) -> float:
        return _left()

    @socket_timeout.setter
    def socket_timeout(self, value: float | None) -> None:
        """What the given client had is not ours."""

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

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self.connect()
        super().send_packed_command(command, check_health)


def _let_connect() -> None:
    """Before a fork: let new sockets get to where the child finds its copies, and closes them."""
    until = time.monotonic() + _PATIENCE
    while _connecting and time.monotonic() < until:
        time.sleep(_LEAST)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_let_connect, after_in_child=_connecting.clear)


def _left() -> float:
    """As :func:`remaining`, for places where an error would leave a socket open."""
    try:
        return max(_LEAST, remaining())
    except redis.TimeoutError:
        return _LEAST


class _Cut:
    """A socket whose every wait gets what is left of the call: a reply may come in pieces."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._waits = True

    def settimeout(self, limit: float | None) -> None:
        """Only whether it is to wait at all is the caller's to say."""
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
    """Looks the host up in time: the system's resolver has no limit that could be set."""

    def _connect(self) -> Any:
        name, failed = self.host, OSError("the name has no address")
        for address in _addresses(name):
            self.host = address
            try:
                return super()._connect()  # type: ignore[no-untyped-call]
            except OSError as error:
                failed = error
            finally:
                self.host = name
        raise failed


def _resolving(base: type[Any]) -> tuple[type[Any], ...]:
    """The base classes of one like *base*, with :class:`_Resolving` below."""
    if base is redis.Connection:
        return (_Resolving,)
    return (base, _Resolving) if issubclass(base, redis.Connection) else (base,)


# One look-up of a name at a time, in a thread of its own, which may hang: by process and name.
_lookups: dict[tuple[int, str], Future[list[str]]] = {}


def _addresses(name: str) -> list[str]:
    with suppress(ValueError):
        ip_address(name)
        return [name]
    key = (os.getpid(), name)
    mine: Future[list[str]] = Future()
    found = _lookups.setdefault(key, mine)
    if found is mine:
        threading.Thread(target=_look_up, args=(key, found), daemon=True).start()
    try:
        return found.result(remaining())
    except FutureTimeoutError:
        raise redis.TimeoutError(f"the name {name} was not resolved in time") from None


def _look_up(key: tuple[int, str], found: Future[list[str]]) -> None:
    try:
        answers = socket.getaddrinfo(key[1], None, type=socket.SOCK_STREAM)
        found.set_result(list(dict.fromkeys(str(answer[4][0]) for answer in answers)))
    except Exception as error:  # noqa: BLE001  # whoever waits for it raises it
        found.set_exception(error)
    finally:
        _lookups.pop(key, None)
