"""One running server, of any kind."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import psutil
import psycopg
import pymysql
import pytest

from ..servers import Pausable, end, forget, poll, spawn, watch

#: What the drivers raise when a server does not answer, or not this user.
REFUSED = (psycopg.OperationalError, pymysql.err.OperationalError)


@dataclass(eq=False)
class Database(Pausable):
    """One PostgreSQL, MariaDB or pgbouncer. ``restart`` keeps the object, its port and its folder.

    Without a process it is a server that somebody else runs: a test that stops it is skipped.
    """

    scheme: str
    port: int
    superuser: str
    password: str | None = field(repr=False)
    database: str
    host: str = "127.0.0.1"
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    command: list[str] = field(default_factory=list, repr=False)
    home: TemporaryDirectory[str] | None = field(default=None, repr=False)
    account: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            pytest.skip(f"the {self.scheme} server is not of this run: no test stops it")
        return self._process

    @property
    def folder(self) -> Path:
        assert self.home is not None
        return Path(self.home.name)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def url(
        self,
        database: str | None = None,
        user: str | None = None,
        password: str | None = None,
        *,
        socket: bool = False,
    ) -> str:
        """As the store takes it; by default the superuser's, over TCP."""
        if user is None:
            user, password = self.superuser, password or self.password
        person = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
        place = "" if socket else f"{self.host}:{self.port}"
        parameters = self._socket() if socket else self.parameters
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"{self.scheme}://{person}@{place}/{database or self.database}{query}"

    def _socket(self) -> dict[str, str]:
        if self.scheme == "postgresql":
            return {"host": str(self.folder), "port": str(self.port)}
        return {"unix_socket": str(self.folder / "socket")}

    def connect(self, *args: Any, **ways: Any) -> Any:
        """A connection of the driver, each statement its own transaction; *args* as for ``url``."""
        return connect(self.url(*args, **ways))

    def ask(self, statement: str, *values: object, database: str | None = None) -> list[Any]:
        """The rows of one statement of the superuser, on a connection of its own."""
        with contextlib.closing(self.connect(database)) as line, line.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def make_database(self, name: str) -> None:
        self.ask(f"CREATE DATABASE {name}")

    def tables(self, prefix: str) -> list[str]:
        """What a test has made under its prefix."""
        everything = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        rows = self.ask(everything if self.scheme == "postgresql" else "SHOW TABLES")
        return [name for (name,) in rows if name.startswith(f"{prefix}_")]

    def drop_tables(self, prefix: str) -> None:
        """Drop what a test has made under its prefix; a transaction left open is an error."""
        if names := self.tables(prefix):
            drop = f"DROP TABLE {', '.join(names)}"
            if self.scheme == "postgresql":  # it would wait for ever, MySQL's client would not
                drop = f"BEGIN; SET LOCAL lock_timeout = '5s'; {drop}; COMMIT"
            self.ask(drop)

    def wait(self) -> None:
        """Until it answers."""
        poll(f"the {self.scheme} server on port {self.port}", self._answers, every=0.005)

    def _answers(self) -> bool:
        if not self.running:
            raise ChildProcessError(f"the {self.scheme} server ended:\n{self.log[-2000:]}")
        with contextlib.suppress(*REFUSED):
            self.ask("SELECT 1")
            return True
        return False

    def pause(self) -> None:
        """SIGSTOP, each process of it: connections stay, nothing is answered."""
        for child in self._stopped():
            child.suspend()
            watch(child.pid)  # it would not notice that the first process is gone
            _await(child, psutil.STATUS_STOPPED)

    def _stopped(self) -> list[psutil.Process]:
        """Stop the first process, so that it starts no other one; return the others."""
        first = psutil.Process(self.process.pid)
        first.suspend()
        _await(first, psutil.STATUS_STOPPED)
        return first.children(recursive=True)

    def resume(self) -> None:
        first = psutil.Process(self.process.pid)
        for child in first.children(recursive=True):
            child.resume()
            forget(child.pid)
        first.resume()

    def kill(self) -> None:
        """SIGKILL each process of it, paused or not; ``restart`` brings it back."""
        if not self.running:
            forget(self.process.pid)
            return
        children = self._stopped()
        for child in children:
            child.kill()
        end(self.process)
        for child in children:
            _await(child)
            forget(child.pid)

    def stop(self) -> None:
        """Kill it and remove its folder; for a server that somebody else runs: nothing."""
        if self._process is None or self.home is None:
            return
        self.kill()
        release_memory(self.folder / "data" / "postmaster.pid")
        self.home.cleanup()

    def restart(self) -> None:
        """Start again, killed before if need be, with what was committed."""
        self.kill()
        self._launch()

    def start(self) -> Database:
        """Start it for the first time; what does not start leaves nothing."""
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def _launch(self) -> None:
        self._process = spawn(self.command, self.folder / "log", account=self.account)
        self.wait()


def _await(process: psutil.Process, *states: str) -> None:
    """Wait for *process* to be in one of *states*, or to have ended."""

    def there() -> bool:
        try:
            return process.status() in {*states, psutil.STATUS_ZOMBIE}
        except psutil.NoSuchProcess:
            return True

    poll(f"process {process.pid} {states}", there, every=0.001)


def release_memory(lock: Path) -> None:
    """Remove the System V segment of a killed PostgreSQL: nothing else would."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        subprocess.run(["ipcrm", "-m", lock.read_text().split("\n")[6].split()[1]], check=False)


def connect(url: str) -> Any:
    if url.startswith("postgresql:"):
        # Through a pooler, the next transaction may find no prepared statement.
        return psycopg.connect(url, autocommit=True, connect_timeout=30, prepare_threshold=None)
    parts = urlsplit(url)
    parameters: dict[str, Any] = dict(parse_qsl(parts.query))
    if "ssl_" not in parts.query:  # else it reads all the system's authorities each time: 20 ms
        parameters["ssl_disabled"] = True
    return pymysql.connect(
        host=parts.hostname or "localhost",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.lstrip("/"),
        autocommit=True,
        connect_timeout=30,
        read_timeout=30,
        **parameters,
    )


def given(url: str) -> Database:
    """The server behind *url*, which somebody else runs."""
    parts = urlsplit(url)
    return Database(
        parts.scheme,
        parts.port or (5432 if parts.scheme == "postgresql" else 3306),
        unquote(parts.username or ""),
        unquote(parts.password) if parts.password else None,
        parts.path.lstrip("/"),
        parts.hostname or "localhost",
        dict(parse_qsl(parts.query)),
    )
