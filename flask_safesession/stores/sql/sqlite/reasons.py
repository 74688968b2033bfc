"""Why SQLite refuses something, and what to do about it."""

from __future__ import annotations

import sqlite3


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way for now."""
    return _code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _code_of(error: sqlite3.Error) -> int:
    """Returns SQLite's primary error code; 0: the error is not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def explain(error: sqlite3.Error) -> str:
    """Returns what *error* says, and what to do about it."""
    fix = {
        sqlite3.SQLITE_BUSY: (
            "another connection writes to it for longer than SAFESESSION_STORE_TIMEOUT: another"
            " program, or a transaction of this app that is not committed yet"
        ),
        sqlite3.SQLITE_FULL: "make room on the disk",
        sqlite3.SQLITE_IOERR: "look at the disk, and whether there is room on it",
        sqlite3.SQLITE_CORRUPT: "it is damaged: move it away, and the app starts with an empty one",
        sqlite3.SQLITE_NOTADB: "move it away, and the app starts with an empty one",
        sqlite3.SQLITE_READONLY: "let the app's user own the file and its folder",
        sqlite3.SQLITE_CANTOPEN: "look whether the folder is there and the app's user owns it",
    }.get(_code_of(error))
    return f"{error}: {fix}" if fix else str(error)
