"""Memcached processes of the tests: on free ports of the loopback interface, stopped at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
from pymemcache.client.base import Client

from flask_safesession.stores.memcached.store import MemcachedStore
from flask_safesession.testing import StoreKit
from flask_safesession.testing.tampering import postpone

from . import servers

BINARY = shutil.which("memcached")
needs_memcached = pytest.mark.skipif(not BINARY, reason="memcached is not on this machine")


@dataclass(eq=False)
class Server(servers.Pausable):
    """One process; ``restart`` keeps the object and its port, and is empty."""

    port: int
    command: list[str] = field(repr=False)
    process: subprocess.Popen[bytes] = field(init=False, repr=False)

    @property
    def url(self) -> str:
        return url_of(self)

    def start(self) -> None:
        self.process = servers.spawn(self.command)
        servers.poll(f"memcached on port {self.port}", self._answers, every=0.005)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise ChildProcessError(f"memcached on port {self.port} ended")
        with contextlib.suppress(OSError):
            return int(self.stats()["pid"]) == self.process.pid
        return False

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        client = Client(("127.0.0.1", self.port), timeout=5, connect_timeout=5)
        try:
            yield client
        finally:
            client.close()

    def stats(self) -> dict[str, str]:
        with self.client() as client:
            found = client.stats()
        return {
            name.decode(): str(of.decode() if isinstance(of, bytes) else of)
            for name, of in found.items()
        }

    def flush(self) -> None:
        with self.client() as client:
            client.flush_all(noreply=False)

    def kill(self) -> None:
        servers.end(self.process)

    def restart(self) -> None:
        self.kill()
        self.start()


def url_of(*started: Server) -> str:
    return "memcached://" + ",".join(f"127.0.0.1:{server.port}" for server in started)


@contextlib.contextmanager
def running(*options: str) -> Iterator[Server]:
    """A server for as long as the ``with`` block lasts; *options* as on a command line."""
    assert BINARY is not None
    port = servers.free_port()
    command = [BINARY, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-c", "512", *options]
    server = Server(port, command + (["-u", "nobody"] if os.getuid() == 0 else []))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def seconds_left(client: Client, name: str) -> int:
    reply: bytes = client.raw_command(f"mg {name} t")
    return int(reply.split(b" t")[1])


def memcached_kit(server: Server, prefix: str) -> StoreKit:
    store = MemcachedStore(server.url, prefix=prefix, timeout=5)
    store.prepare()
    return StoreKit(store, partial(postpone, store), exact_clock=False)
