"""A MongoDB server for the tests: the one that the environment names, or a SecantusDB.

SecantusDB speaks MongoDB's protocol over its storage engine, with transactions, as a replica set of
one. It runs as a process of its own, from a folder of its own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pymongo
import pytest
from pymongo.errors import PyMongoError

from flask_safesession.stores.mongodb.store import MongoDBStore
from flask_safesession.testing import FakeClock, StoreKit

from . import servers

#: Names the URL of a replica set, whose databases ``safesession_test*`` are the tests' own.
VARIABLE = "SAFESESSION_TEST_MONGODB"
_DATABASE = "safesession_test"
# Beside the interpreter: README's command does not activate its environment.
_PROGRAM = shutil.which("secantusd-py", path=str(Path(sys.executable).parent))


@dataclass(eq=False)
class Server(servers.Pausable):
    """One server; ``restart`` keeps the object, its port and its data.

    Without a process it is a server that somebody else runs: a test that stops it is skipped.
    """

    url: str
    port: int = 0
    command: list[str] = field(default_factory=list, repr=False)
    home: TemporaryDirectory[str] | None = field(default=None, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            pytest.skip("the MongoDB server is not of this run: no test stops it")
        return self._process

    @contextlib.contextmanager
    def database(self) -> Iterator[Any]:
        """The database in the URL, by a client of its own."""
        client: pymongo.MongoClient[Any] = pymongo.MongoClient(self.url)
        with client, pymongo.timeout(10):
            yield client.get_default_database(_DATABASE)

    def drop(self, prefix: str) -> None:
        """Drop what a test has made under its prefix."""
        with self.database() as database:
            for name in database.list_collection_names():
                if name.startswith(f"{prefix}_"):
                    database.drop_collection(name)

    def launch(self) -> None:
        assert self.home is not None
        self._process = servers.spawn(self.command, Path(self.home.name) / "log")
        servers.poll(f"MongoDB on port {self.port}", self._answers, seconds=60)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            assert self.home is not None
            raise ChildProcessError((Path(self.home.name) / "log").read_text()[-2000:])
        with contextlib.suppress(PyMongoError):
            client: pymongo.MongoClient[Any] = pymongo.MongoClient(self.url)
            with client, pymongo.timeout(1):
                client.admin.command("ping")
                return True
        return False

    def kill(self) -> None:
        servers.end(self.process)

    def restart(self) -> None:
        """Start again, killed before if need be, with what was committed."""
        self.kill()
        self.launch()

    def stop(self) -> None:
        if self._process is not None and self.home is not None:
            self.kill()
            self.home.cleanup()


def start(*options: str) -> Server:
    """Start a SecantusDB; *options* as on a command line."""
    if _PROGRAM is None:
        pytest.skip("no secantusd-py on this machine: install the dev extra")
    home, port = TemporaryDirectory(prefix="mongodb-"), servers.free_port()
    command = [_PROGRAM, "--port", str(port), "--storage-path", f"{home.name}/data", *options]
    server = Server(f"mongodb://127.0.0.1:{port}/{_DATABASE}", port, command, home)
    server.launch()
    return server


def take() -> Server:
    """The server that the environment names, or a new one."""
    url = os.environ.get(VARIABLE)
    return Server(url) if url else start()


def describe() -> str:
    """What the tests use, for the head of their report."""
    if VARIABLE in os.environ:
        return f"mongodb: {VARIABLE}"
    if _PROGRAM is None:
        return "mongodb: NONE (secantusdb is not installed)"
    return f"mongodb: SecantusDB {importlib.metadata.version('secantusdb')}"


def mongodb_store(server: Server, prefix: str, **options: Any) -> MongoDBStore:
    return MongoDBStore(server.url, prefix=prefix, **{"timeout": 30, **options})


def mongodb_kit(server: Server, prefix: str) -> StoreKit:
    clock = FakeClock()
    return StoreKit(mongodb_store(server, prefix, clock=clock), clock.advance)
