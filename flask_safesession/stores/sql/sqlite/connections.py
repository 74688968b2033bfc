"""Connections to a SQLite file, and its transactions."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ....errors import StoreUnavailable
from ... import forks
from ...base import Cap
from ...tables import Scope
from ..connections import FULL, Call, Place, has_quotas
from ..statements import Statements
from .file import File, wall_clock
from .reasons import explain, is_busy
from .steps import (
    FIRST_WAIT,
    Connection,
    begin_to_read,
    begin_to_write,
    patiently,
    roll_back,
    set_durable,
)

# Connections that are kept open while nobody uses them.
_KEPT = 16


class Connections:
    """See :class:`..connections.Connections`. A connection is used by one transaction at a time.

    No connection is open while the process forks. SQLite notes in memory what it has locked: a
    child that inherits such notes believes that it holds locks which are its parent's alone.

    :param timeout: seconds for which a call waits for other writers.
    :param clock: returns the time in milliseconds, in tests.
    """

    def __init__(
        self, path: Path, prefix: str, timeout: float, clock: Callable[[], int] | None = None
    ) -> None:
        self._timeout = timeout
        self._clock = clock or wall_clock
        self._file = File(path, prefix, timeout, clock)
        self.statements: Statements = self._file.statements
        self.generation: int | None = None
        self._full_until = 0.0
        self._start()
        forks.watch(self)

    def place(self, scope: Scope) -> Place:
        """See :meth:`..connections.Connections.place`: there is one writer at a time."""
        del scope
        return Place()

    def transaction(
        self, place: Place, ahead: Sequence[Call], *, writes: bool, durable: bool
    ) -> _Transaction:
        """See :meth:`..connections.Connections.transaction`.

        :raises StoreUnavailable: the file cannot be used, with what to do.
        """
        del place, ahead
        return _Transaction(self, writes=writes, durable=durable)

    def read(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """See :meth:`..connections.Connections.read`."""
        rows: list[Any] = self._local.connection.execute(statement, parameters).fetchall()
        return rows

    def fetch(self, calls: Sequence[Call]) -> None:
        """See :meth:`..connections.Connections.fetch`: nothing is far away."""

    def write(self, statement: str, parameters: tuple[Any, ...]) -> None:
        """See :meth:`..connections.Connections.write`."""
        self._local.connection.execute(statement, parameters)

    def seats(self) -> list[Any]:
        """See :meth:`..connections.Connections.seats`: one row counts all sessions."""
        return self.read(self.statements.for_keys("seats", 1), (Place().part,))

    def insert(self, part: int, calls: Sequence[Call]) -> bool:
        """See :meth:`..connections.Connections.insert`."""
        del part
        with _Transaction(self, writes=True, durable=False):
            changed: int = [self._local.connection.execute(*call).rowcount for call in calls][-1]
        if not changed:
            self._full_until = time.monotonic() + FULL
        return changed > 0

    def may_have_room(self, cap: Cap) -> bool:
        """See :meth:`..connections.Connections.may_have_room`."""
        return has_quotas(cap) and time.monotonic() >= self._full_until

    def note(self, generation: int, now: int) -> None:
        """See :meth:`..connections.Connections.note`: the time is the machine's."""
        del now
        self.generation = generation

    def share(self, cap: Cap) -> Cap:
        """See :meth:`...tables.Tables.share`: all sessions are counted."""
        return cap

    def need(self, keys: Collection[str]) -> None:
        """See :meth:`..connections.Connections.need`: there is one writer at a time."""

    def look_up(self, key: str) -> tuple[bytes, int, int] | None:
        """Returns the record under *key*, the current generation and the time, by one query.

        :raises StoreUnavailable: as :meth:`transaction`.
        """
        connection = self.take()
        try:
            found: tuple[bytes, int, int] | None
            found = connection.execute(self.statements["load"], (key,)).fetchone()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise self._unavailable(error) from error
        else:
            if found is not None:
                self.generation = found[1]
            return found
        finally:
            self._give(connection)
        with _Transaction(self, writes=False, durable=False):
            rows = self.read(self.statements["load"], (key,))
            return rows[0] if rows else None

    def guess(self) -> int:
        """Returns the time: that of the database is the machine's."""
        return self._clock()

    def change(self, call: Call) -> bool:
        """Run a statement that is a transaction of its own. Returns whether it changed a row.

        :raises StoreUnavailable: as :meth:`transaction`.
        """
        connection, changed = self.take(), 0

        def run(connection: Connection) -> None:
            nonlocal changed
            changed = connection.execute(*call).rowcount

        try:
            set_durable(connection, durable=False)
            patiently(run, connection, self._timeout)
        except sqlite3.Error as error:
            self._look_at = 0.0
            raise self._unavailable(error) from error
        finally:
            self._give(connection)
        return changed > 0

    def checkpoint(self) -> None:
        """Move the write-ahead log to the file. Does nothing while others are in the way."""
        connection = self.take()
        try:
            for mode in ("PASSIVE", "TRUNCATE"):  # the first one keeps nobody waiting
                connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise self._unavailable(error) from error
        finally:
            self._give(connection)

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            with suppress(IndexError):  # another thread was faster
                self.discard(self._idle.pop())

    def discard(self, connection: Connection) -> None:
        """Close a connection, which undoes what it has not committed."""
        self._opened.discard(connection)
        connection.close()

    def before_fork(self) -> None:
        """Close all connections, those of other threads as soon as their transactions are over."""
        self._opening.acquire()
        self._forking = True
        until = time.monotonic() + self._timeout
        self.close()
        while self._opened and self._is_free() and time.monotonic() < until:
            time.sleep(FIRST_WAIT)
            self.close()

    def after_fork_in_parent(self) -> None:
        """Let connections be opened again."""
        if self._forking:  # otherwise it was made meanwhile
            self._forking = False
            self._opening.release()

    def after_fork_in_child(self) -> None:
        """Begin without the connections of other threads that were not to be closed in time."""
        forks.leak(self._opened)
        self._start()

    def _is_free(self) -> bool:
        """Whether this thread is in no transaction."""
        return getattr(self._local, "connection", None) is None

    def _start(self) -> None:
        self._opening = threading.Lock()
        self._forking = False
        self._opened: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._look_at = 0.0
        self._idle: deque[Any] = deque()
        self._local = threading.local()
        self._process = os.getpid()

    # -- transactions ---------------------------------------------------------------------------

    def begin(self, connection: Connection, *, writes: bool, durable: bool) -> None:
        """Begin the transaction of this thread on *connection*."""
        try:
            if writes:
                set_durable(connection, durable=durable)
            patiently(begin_to_write if writes else begin_to_read, connection, self._timeout)
            self._local.connection = connection
        except BaseException as error:
            self.finish(connection, error)
            raise

    def finish(self, connection: Connection, error: BaseException | None) -> None:
        """Commit, or undo everything because of *error*."""
        try:
            if error is None:
                connection.execute("COMMIT")
        except sqlite3.Error as failure:
            error = failure
        finally:
            self._local.connection = None
            self._give(connection)
        if isinstance(error, sqlite3.Error):
            self._look_at = 0.0
            raise self._unavailable(error) from error

    def _unavailable(self, error: sqlite3.Error) -> StoreUnavailable:
        return StoreUnavailable(f"{self._file.path}: {explain(error)}")

    # -- connections ----------------------------------------------------------------------------

    def take(self) -> Connection:
        """Returns a connection that nobody uses.

        :raises StoreUnavailable: the file cannot be opened, with what to do.
        """
        if self._process != os.getpid():  # uWSGI runs no hooks at a fork
            self.close()
            self.after_fork_in_child()
        if time.monotonic() >= self._look_at:
            self._look_again()
        try:
            connection: Connection = self._idle.pop()
        except IndexError:
            return self._open()
        return connection

    def _look_again(self) -> None:
        """Once a second: a file that was moved away or replaced is used no longer."""
        self._look_at = time.monotonic() + 1
        if self._file.was_replaced():
            self.close()

    def _open(self) -> Connection:
        try:
            with self._opening:
                connection = self._file.open()
                self._opened.add(connection)
                return connection
        except OSError as error:
            raise StoreUnavailable(f"{self._file.path}: {error.strerror}") from error
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _give(self, connection: Connection) -> None:
        if connection.in_transaction:
            roll_back(connection)
        if connection.in_transaction or len(self._idle) >= _KEPT:
            self.discard(connection)
        else:
            connection.user = None
            self._idle.append(connection)


class _Transaction:
    """A ``with`` block. One that an exception leaves without its end is undone when it is freed."""

    __slots__ = ("_connection", "_connections", "_durable", "_token", "_writes")

    def __init__(self, connections: Connections, *, writes: bool, durable: bool) -> None:
        self._connections = connections
        self._writes = writes
        self._durable = durable
        self._token = object()
        self._connection: Connection | None = None

    def __enter__(self) -> None:
        self._connection = connection = self._connections.take()
        connection.user = self._token
        self._connections.begin(connection, writes=self._writes, durable=self._durable)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._connection is not None:
            self._connections.finish(self._connection, error)

    def __del__(self) -> None:
        # A signal handler or a greenlet's time-out may have raised before __exit__ has begun.
        if self._connection is not None and self._connection.user is self._token:
            self._connections.discard(self._connection)
