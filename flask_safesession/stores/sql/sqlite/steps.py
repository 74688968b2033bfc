"""The steps of a transaction on a connection to SQLite."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress

from .reasons import is_busy

# Seconds between two tries while another process writes. SQLite's own handler sleeps up to 100 ms.
FIRST_WAIT, _LONGEST_WAIT = 0.0001, 0.004


class Connection(sqlite3.Connection):
    """A connection, and what it is used for."""

    #: Whether its commits survive a power failure.
    durable: bool = True  # as SQLite begins
    #: The transaction that it is in.
    user: object = None


def set_durable(connection: Connection, *, durable: bool) -> None:
    """Let the next commits survive a power failure, or not: FULL syncs the log at each of them."""
    if connection.durable is not durable:
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.durable = durable


def begin_to_write(connection: sqlite3.Connection) -> None:
    """Begin a transaction that may write at once: a later lock could not be had without a retry."""
    connection.execute("BEGIN IMMEDIATE")


def begin_to_read(connection: sqlite3.Connection) -> None:
    """Begin a transaction that sees the file as it is now."""
    connection.execute("BEGIN")
    try:
        # Only the first query takes the snapshot, for which it may have to wait.
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo the transaction, as far as that is possible."""
    with suppress(sqlite3.Error):  # what stays open is closed
        connection.execute("ROLLBACK")


def patiently(work: Callable[[Connection], object], connection: Connection, seconds: float) -> None:
    """Do *work* on *connection*, again and again while another process is in the way."""
    until, wait = time.monotonic() + seconds, FIRST_WAIT
    while True:
        try:
            work(connection)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() >= until:
                raise
        else:
            return
        time.sleep(wait * random.uniform(0.5, 1))  # noqa: S311  # nosec B311  # no secret, a wait
        wait = min(2 * wait, _LONGEST_WAIT)
