"""The SQLite file: opens connections to it, and makes its tables."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ....errors import StoreUnavailable, UnfitStore
from ..dialect import Dialect
from ..schema import SCHEMA_VERSION, schema
from ..statements import Statements
from .steps import Connection, patiently, roll_back

DIALECT = Dialect(
    "SQLite",
    identity="INTEGER PRIMARY KEY",
    integer="INTEGER",
    text="TEXT",
    blob="BLOB",
    clock="CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)",
    lock="",
    skip="",
    # There is one writer at a time, so there are no quotas of parts.
    room="held < ? AND ? >= 0",
    then=("<insert>", "<count>"),
    inserted="changes() > 0",
)
# 4 KiB each: what may wait in the write-ahead log until a commit has to move it to the file. The
# purge does so before.
_CHECKPOINT_PAGES = 10_000


def wall_clock() -> int:
    """Returns milliseconds since 1970 by the machine's clock."""
    return time.time_ns() // 1_000_000


class File:
    """A file and its tables. The parameters are those of :class:`.connections.Connections`."""

    def __init__(
        self, path: Path, prefix: str, timeout: float, clock: Callable[[], int] | None
    ) -> None:
        # SQLite's own function reads the machine's clock, too. One in Python would swallow the
        # exceptions of signal handlers.
        dialect = DIALECT._replace(clock="test_clock()") if clock else DIALECT
        self.path: Path = path
        self.statements: Statements = Statements(dialect, prefix)
        self._schema = schema(DIALECT, prefix)
        self._timeout = timeout
        self._clock = clock
        self._identity = (0, 0)

    def was_replaced(self) -> bool:
        """Whether another file is at the path, or none, since a connection was opened."""
        return _identity(self.path) != self._identity

    def open(self) -> Connection:
        """Returns a new connection."""
        # Only a file that is not there: closing one that is would drop SQLite's locks on it.
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._identity = _identity(self.path)
        connection: Connection = sqlite3.connect(
            self.path,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            factory=Connection,
            cached_statements=len(self.statements) + 10,
        )
        try:
            patiently(self._set_up, connection, self._timeout)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: Connection) -> None:
        [mode] = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StoreUnavailable(
                f"{self.path} cannot have a write-ahead log (its journal is {mode!r}), as on a"
                " network file system: keep it on a local disk"
            )
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        if self._clock is not None:
            connection.create_function("test_clock", 0, self._clock)
        try:
            [version] = connection.execute(self.statements["version"]).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            self._make_tables(connection)
            return
        if version != SCHEMA_VERSION:
            tables = f"the tables in {str(self.path)!r}"
            raise UnfitStore.of_version(tables, version, SCHEMA_VERSION, "file")

    def _make_tables(self, connection: Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in self._schema:
                connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
