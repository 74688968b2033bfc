"""Connections to Memcached servers: pymemcache's, on which every call ends in time."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from pymemcache.client.base import Client, _readline, _readvalue
from pymemcache.exceptions import (
    MemcacheError,
    MemcacheIllegalInputError,
    MemcacheUnexpectedCloseError,
)

from ..remote.breaker import Breaker, Notify, watching
from ..remote.deadline import is_late, remaining
from ..remote.idle import is_stale
from ..remote.names import addresses
from .items import Item
from .url import Address

# Seconds after which an idle connection is closed, before a firewall forgets it.
_KEPT = 60.0
# The words of one command that reads an item.
_WORDS = 5


class CircuitOpenError(ConnectionError):
    """The server was down a moment ago, and is not asked again yet."""


def failed(error: BaseException, late: bool) -> bool | None:
    """Returns whether an error is a failure of the server: see :data:`..remote.breaker.Failed`."""
    if isinstance(error, MemcacheError):
        return isinstance(error, MemcacheUnexpectedCloseError)
    is_counted = isinstance(error, OSError) and not (late and isinstance(error, TimeoutError))
    return True if is_counted else None


class _Cut:
    """A socket that limits each wait to what is left of the call: replies may come in pieces."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.close: Callable[[], None] = sock.close
        self.fileno: Callable[[], int] = sock.fileno

    def recv(self, size: int) -> bytes:
        self._sock.settimeout(remaining(TimeoutError))
        return self._sock.recv(size)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(remaining(TimeoutError))
        self._sock.sendall(data)


class _Client(Client):  # type: ignore[misc]  # pymemcache has no types
    """A client of pymemcache whose socket limits each wait."""

    sock: _Cut | None

    def items(self, command: bytes, count: int) -> list[Item | None]:
        """Returns the replies to *command*, read by their lengths: a value may hold any bytes."""
        sock = self._connect() if self.sock is None else self.sock
        sock.sendall(command)
        items, rest = list[Item | None](), b""
        for _ in range(count):
            rest, head = _readline(sock, rest)
            if head == b"EN":
                items.append(None)
                continue
            self._raise_errors(head, b"mg")
            _, size, token, seconds = head.split()  # VA size cTOKEN tSECONDS
            rest, value = _readvalue(sock, rest, int(size))
            items.append(Item(value, token[1:], int(seconds[1:])))
        return items

    def _connect(self) -> _Cut:
        host, port = self.server
        error = OSError(f"{host} has no address")
        for address in addresses(host, TimeoutError):
            try:
                made = socket.create_connection((address, port), remaining(TimeoutError))
            except OSError as refused:
                error = refused
            else:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.sock = _Cut(made)
                return self.sock
        raise error


class Line:
    """One connection. After any error it is closed, since the reply may still arrive."""

    def __init__(self, address: Address, breaker: Breaker) -> None:
        self._client: Any = _Client(address)
        self._breaker = breaker
        self._since = 0.0
        #: Closes it; the next command opens it again.
        self.close: Callable[[], None] = self._client.close

    def read(self, *names: bytes) -> list[Item | None]:
        """Returns the items under these names, with one round trip."""
        command = b"".join([b"mg %b v c t\r\n" % name for name in names])
        if len(command.split()) != _WORDS * len(names):
            raise MemcacheIllegalInputError("a key contains white space")
        with watching(self._breaker, late=is_late()):
            try:
                return list(self._client.items(command, len(names)))
            except BaseException:
                self.close()
                raise

    def write(self, name: bytes, value: bytes, seconds: int, old: Item | None) -> bool:
        """Store *value* if *old*, as it was read, is still there; ``None``: if there is no item.

        :param seconds: for which it is kept; negative: no longer.
        """
        with watching(self._breaker, late=is_late()):
            if old is None:
                return bool(self._client.add(name, value, seconds, noreply=False))
            return bool(self._client.cas(name, value, old.token, seconds, noreply=False))

    def touch(self, name: bytes, seconds: int) -> None:
        """Keep an item for so many seconds from now on."""
        with watching(self._breaker, late=is_late()):
            self._client.touch(name, seconds, noreply=False)

    def ask(self) -> dict[bytes, Any]:
        """Returns the server's statistics."""
        with watching(self._breaker, late=is_late()):
            return dict(self._client.stats())

    def rest(self) -> None:
        """Note that it is idle from now on."""
        self._since = time.monotonic()

    def refresh(self) -> None:
        """Close it if it was idle for long, or if the server has closed it."""
        sock = self._client.sock
        if sock and (time.monotonic() - self._since > _KEPT or is_stale(sock)):
            self.close()


class _Own(NamedTuple):
    """The connections of one process, which must not use those of its parent."""

    process: int
    breaker: Breaker
    idle: deque[Line]


class Server:
    """One server and its connections.

    :param notify: called when its circuit breaker opens and closes.
    """

    def __init__(self, address: Address, notify: Notify) -> None:
        host, port = address
        #: Host and port, for logs and figures.
        self.name: str = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._address = address
        self._notify = notify
        self._mine = self._begin()

    @property
    def breaker(self) -> Breaker:
        """The server's circuit breaker in this process."""
        return self._own().breaker

    def take(self) -> Line:
        """Returns a connection for one operation, which gives it back."""
        own = self._own()
        try:
            line = own.idle.pop()
        except IndexError:
            return Line(self._address, own.breaker)
        line.refresh()
        return line

    def give(self, line: Line) -> None:
        """Take a connection back."""
        line.rest()
        self._own().idle.append(line)

    def close(self) -> None:
        """Close the idle connections."""
        idle = self._own().idle
        while idle:
            with suppress(IndexError):  # another thread was faster
                idle.pop().close()

    def _own(self) -> _Own:
        if self._mine.process != os.getpid():
            parents, self._mine = self._mine, self._begin()
            for line in parents.idle:
                line.close()  # the copies of the child: those of the parent stay open
        return self._mine

    def _begin(self) -> _Own:
        return _Own(
            os.getpid(), Breaker(self.name, self._notify, failed, CircuitOpenError), deque()
        )
