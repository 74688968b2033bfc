"""SQLite: operations of the store beside a bare statement on a connection of the same kind."""

from __future__ import annotations

import secrets
import sqlite3
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

from flask_safesession.model.record import Draft, Record, dumps_draft
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Live, Rules, Terms
from flask_safesession.stores.sql.sqlite.store import SqliteStore

from .population import draft, key, settings

CALLS = 500
"""Calls of each kind in a round; a login waits for the disk, so that there are fewer of them."""
LOGINS = CALLS // 5
LOAD, COMMIT, CREATE, LOGIN = "load", "commit", "create", "login"
FLOORS = {LOAD: "SELECT", COMMIT: "UPDATE", CREATE: "INSERT", LOGIN: "DELETE and INSERT"}

Work = Callable[[], object]


@dataclass(frozen=True)
class Call:
    """What an operation costs in microseconds, and how many times its floor that is."""

    operation: str
    microseconds: float
    ratio: float

    @property
    def floor(self) -> str:
        """The statement that it is compared with."""
        return FLOORS[self.operation]


def sqlite(rounds: int) -> list[Call]:
    """Time both in turn; a ratio is the median of the rounds' ratios."""
    with tempfile.TemporaryDirectory(prefix="safesession-") as name:
        folder, within = Path(name), settings(1_000_000).rules
        with _store(folder) as ours, _bare(folder) as bare:
            turns = [_round(ours, bare, within, number) for number in range(rounds)]
    return [_call(operation, turns) for operation in FLOORS]


def _call(operation: str, turns: list[dict[str, tuple[float, float]]]) -> Call:
    pairs = [turn[operation] for turn in turns]
    mine = statistics.median(ours for ours, _ in pairs)
    return Call(operation, mine, statistics.median(ours / bare for ours, bare in pairs))


@contextmanager
def _store(folder: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(folder / "store.sqlite3")
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _bare(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "bare.sqlite3", isolation_level=None)) as bare:
        for pragma in ("journal_mode=WAL", "wal_autocheckpoint=10000"):
            bare.execute(f"PRAGMA {pragma}").fetchall()
        bare.execute("CREATE TABLE sessions (key TEXT PRIMARY KEY, record BLOB NOT NULL)")
        yield bare


def _round(
    ours: SqliteStore, bare: sqlite3.Connection, within: Rules, number: int
) -> dict[str, tuple[float, float]]:
    """Microseconds a call of each kind, of the store and of its floor."""
    numbers = range(number * CALLS, (number + 1) * CALLS)
    keys, drafts = [key(n) for n in numbers], [draft(n, users=False) for n in numbers]
    mine, theirs = _ours(ours, within, keys, drafts), _floor(bare, keys, drafts)
    ours.purge(within, 1)  # moves the write-ahead log to the file, outside of what is timed
    bare.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    created = _timed(mine[CREATE]), _timed(theirs[CREATE])
    for at in keys:
        ours.load(at, within, slide=True)  # the first use is recorded, by a write
    return {CREATE: created} | {
        operation: (_timed(mine[operation]), _timed(theirs[operation]))
        for operation in (LOAD, COMMIT, LOGIN)
    }


def _timed(calls: list[Work]) -> float:
    start = perf_counter()
    for call in calls:
        call()
    return (perf_counter() - start) / len(calls) * 1e6


def _ours(
    store: SqliteStore, within: Rules, keys: list[str], drafts: list[Draft]
) -> dict[str, list[Work]]:
    """A commit follows a load, as in a request; a login is that of an anonymous visitor."""
    terms = Terms(None, restart=True, reason="rotated")
    loaded: dict[str, Record] = {}

    def load(at: str) -> None:
        answer = store.load(at, within, slide=True)
        assert isinstance(answer, Live)
        loaded[at] = answer.record

    def commit(at: str, before: Draft) -> None:
        fresh = before._replace(stamp=new_stamp())
        store.commit(at, fresh, before.stamp, touch=60_000, loaded=loaded[at])

    def login(at: str) -> None:
        fresh = draft(secrets.randbits(60), users=True)
        store.rotate(at, key(secrets.randbits(60)), fresh, within, terms)

    both = list(zip(keys, drafts, strict=True))
    return {
        CREATE: [partial(store.create, k, d, within) for k, d in both],
        LOAD: [partial(load, k) for k in keys],
        COMMIT: [partial(commit, k, d) for k, d in both],
        LOGIN: [partial(login, k) for k in keys[:LOGINS]],
    }


def _floor(bare: sqlite3.Connection, keys: list[str], drafts: list[Draft]) -> dict[str, list[Work]]:
    run, raw = bare.execute, dumps_draft(drafts[0])
    # SQLite writes no page where an update changes nothing.
    other = dumps_draft(drafts[0]._replace(stamp=new_stamp()))

    def login(at: str) -> None:
        run("BEGIN IMMEDIATE")
        run("DELETE FROM sessions WHERE key = ?", (at,))
        run("INSERT INTO sessions VALUES (?, ?)", (f"{at}+", raw))
        run("COMMIT")

    def logins() -> list[Work]:
        return [
            partial(run, "PRAGMA synchronous=FULL"),
            *(partial(login, k) for k in keys[:LOGINS]),
            partial(run, "PRAGMA synchronous=NORMAL"),
        ]

    def select(at: str) -> None:
        run("SELECT record FROM sessions WHERE key = ?", (at,)).fetchone()

    insert = "INSERT INTO sessions VALUES (?, ?)"
    update = "UPDATE sessions SET record = ? WHERE key = ?"
    return {
        CREATE: [partial(run, insert, (k, raw)) for k in keys],
        LOAD: [partial(select, k) for k in keys],
        COMMIT: [partial(run, update, (other, k)) for k in keys],
        LOGIN: logins(),
    }
