"""SQL stores: each operation beside a bare statement on a connection of the same class.

The servers are those of ``--database``: the figures are about their settings, too. Rates are of one
and of four processes, all of which run at the same time.
"""

from __future__ import annotations

import json
import random
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from flask_safesession.model.record import Draft, Record, dumps, record_from
from flask_safesession.model.tokens import new_id, new_stamp
from flask_safesession.stores.base import Live, Terms
from flask_safesession.stores.opening import open_store
from flask_safesession.stores.remote.deadline import deadline
from flask_safesession.stores.sql.sqlite.steps import patiently, set_durable
from flask_safesession.stores.sql.tables import _columns

from .population import IDLE, MINUTE, draft, key, mean_payload, settings

LOAD, COMMIT, CREATE, LOGIN = "load", "commit", "create", "login"
FLOORS = {LOAD: "SELECT", COMMIT: "UPDATE", CREATE: "INSERT", LOGIN: "DELETE and INSERT"}
OPERATIONS = tuple(FLOORS)
CALLS = 300
"""Calls of each kind in a round, for each process."""
WARM = 20
"""Calls before these that are not timed: a connection knows its statements and plans after some."""
ROUNDS = 7
PROCESSES = (1, 4)
DUE = 100_000
"""Sessions that a purge removes while others work."""
ROOMY = settings(10_000_000)
_LATE = 4 * 3600
"""Seconds that a call may take here: it is to be timed, not to be ended."""

LOGIN_CALLS = 4
"""Statements of a login's floor, with BEGIN and COMMIT."""

Call = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Speed:
    """How fast an operation is, and how many times its floor takes.

    :param microseconds: of one call in one of so many *processes*.
    """

    store: str
    operation: str
    processes: int
    microseconds: float
    ratio: float

    @property
    def rate(self) -> float:
        """Calls a second of all processes."""
        return self.processes / self.microseconds * 1e6


@dataclass(frozen=True)
class Weight:
    """A store with so many sessions.

    :param overhead: bytes above the payload of each session, indexes included.
    :param load: microseconds of a call, as *create*.
    """

    store: str
    sessions: int
    users: bool
    overhead: float
    load: float
    create: float


@dataclass(frozen=True)
class Waits:
    """The 99th percentile of others' loads and commits, in milliseconds."""

    store: str
    quiet: float
    purging: float
    seconds: float
    """What the purge took."""


class Bench:
    """A store, and a table for bare statements on the same connections."""

    def __init__(self, url: str, prefix: str) -> None:
        options = {"prefix": prefix, "timeout": 60.0, "wait_replicas": 0}
        opened: Any = open_store(url, "/", shards=1, **options)
        self.store: Any = opened.store
        self.prefix = prefix
        self.counted = Counter[str]()  # of each group, what was filled in
        self._statements: Any = self.store.tables.statements

    def bare(self, calls: Sequence[Call]) -> None:
        """Run these statements in one round trip."""
        connections = self.store._connections
        if hasattr(connections, "_pool"):
            with deadline(_LATE), connections._pool.line() as line:
                line.run(calls)
            return
        connection = connections.take()
        set_durable(connection, durable=len(calls) == LOGIN_CALLS)  # as the store does it
        for statement, parameters in calls:
            # At once for writing, and with patience, as the store does it.
            begun = "BEGIN IMMEDIATE" if statement == "BEGIN" else statement
            run = partial(_execute, statement=begun, parameters=parameters)
            patiently(run, connection, 60.0)
        connections._give(connection)

    def text(self, statement: str) -> str:
        """A statement in the dialect of the database, ``{p}`` for the prefix."""
        rendered: str = self._statements._dialect.render(statement, self.prefix)
        return rendered

    def make_table(self) -> None:
        columns = '"key" {text} NOT NULL PRIMARY KEY, record {blob} NOT NULL'
        self.bare([(self.text(f'CREATE TABLE IF NOT EXISTS "{{p}}_bare" ({columns})'), ())])


def _execute(connection: Any, statement: str, parameters: tuple[Any, ...]) -> None:
    connection.execute(statement, parameters).fetchall()


def timed(url: str, prefix: str, seed: int, start: float) -> dict[str, tuple[float, float]]:
    """Microseconds a call of each operation, and of its floor, in this process.

    :param start: by the monotonic clock: all processes begin then.
    """
    bench = Bench(url, prefix)
    names = [new_id().key for _ in range(WARM + CALLS)]
    drafts = [draft(number, users=False) for number in range(WARM + CALLS)]
    mine, floor = _ours(bench, names, drafts, seed), _floor(bench, names, drafts)
    time.sleep(max(0.0, start - time.monotonic()))
    found = {}
    for operation in (CREATE, LOAD, COMMIT, LOGIN):
        found[operation] = _time(mine[operation]), _time(floor[operation])
        if operation == CREATE:
            for name in names:  # the first use is recorded, by a write
                bench.store.load(name, ROOMY.rules, slide=True)
    bench.store.close()
    return found


def _time(calls: Sequence[Callable[[], object]]) -> float:
    for call in calls[:WARM]:
        call()
    begun = time.perf_counter()
    for call in calls[WARM:]:
        call()
    return (time.perf_counter() - begun) / (len(calls) - WARM) * 1e6


def _ours(
    bench: Bench, names: list[str], drafts: list[Draft], seed: int
) -> dict[str, list[Callable[[], object]]]:
    """A commit follows a load, as in a request; a login is that of an anonymous visitor."""
    store, rules, loaded = bench.store, ROOMY.rules, dict[str, Record]()
    users = count(seed * (WARM + CALLS))

    def load(name: str) -> None:
        answer = store.load(name, rules, slide=True)
        assert isinstance(answer, Live)
        loaded[name] = answer.record

    def commit(name: str, before: Draft) -> None:
        fresh = before._replace(stamp=new_stamp())
        store.commit(name, fresh, before.stamp, touch=MINUTE, loaded=loaded[name])

    def login(name: str) -> None:
        fresh = draft(next(users), users=True)
        answer = store.rotate(name, new_id(fresh.user[:1]).key, fresh, rules, _TERMS)
        assert isinstance(answer, Live)

    both = list(zip(names, drafts, strict=True))
    return {
        CREATE: [partial(store.create, n, d, rules) for n, d in both],
        LOAD: [partial(load, n) for n in names],
        COMMIT: [partial(commit, n, d) for n, d in both],
        LOGIN: [partial(login, n) for n in names],
    }


_TERMS = Terms(None, restart=True, reason="rotated")


def _floor(
    bench: Bench, names: list[str], drafts: list[Draft]
) -> dict[str, list[Callable[[], object]]]:
    insert = bench.text('INSERT INTO "{p}_bare" ("key", record) VALUES (?, ?)')
    select = bench.text('SELECT record FROM "{p}_bare" WHERE "key" = ?')
    update = bench.text('UPDATE "{p}_bare" SET record = ? WHERE "key" = ?')
    delete = bench.text('DELETE FROM "{p}_bare" WHERE "key" = ?')
    raw, other = (
        dumps(record_from(drafts[number], created=1, last_active=1, stamps=())) for number in (0, 1)
    )
    floors: dict[str, Callable[[str], list[Call]]] = {
        CREATE: lambda name: [(insert, (name, raw))],
        LOAD: lambda name: [(select, (name,))],
        COMMIT: lambda name: [(update, (other, name))],
        LOGIN: lambda name: [
            ("BEGIN", ()),
            (delete, (name,)),
            (insert, (new_id().key, raw)),
            ("COMMIT", ()),
        ],
    }
    return {
        operation: [partial(bench.bare, calls(name)) for name in names]
        for operation, calls in floors.items()
    }


def speeds(url: str, rounds: int = ROUNDS) -> list[Speed]:
    """Time all operations with one and with four processes; a ratio is the rounds' median."""
    name, found = name_of(url), []
    for processes in PROCESSES:
        turns = [_turn(url, processes, number) for number in range(rounds)]
        for operation in OPERATIONS:
            pairs = [turn[operation] for turn in turns]
            mine = statistics.median(ours for ours, _ in pairs)
            ratio = statistics.median(ours / bare for ours, bare in pairs)
            found.append(Speed(name, operation, processes, mine, ratio))
    return found


def _turn(url: str, processes: int, number: int) -> dict[str, tuple[float, float]]:
    prefix = f"bench{secrets.token_hex(4)}"
    Bench(url, prefix).make_table()
    with _pool(processes) as pool:
        start = time.monotonic() + 2  # interpreters have started by then
        seeds = [number * 100 + process for process in range(processes)]
        works = [pool.submit(timed, url, prefix, seed, start) for seed in seeds]
        answers = [work.result() for work in works]
    drop(url, prefix)
    return {
        operation: (
            statistics.fmean(answer[operation][0] for answer in answers),
            statistics.fmean(answer[operation][1] for answer in answers),
        )
        for operation in OPERATIONS
    }


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool


def name_of(url: str) -> str:
    return {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}[
        url.partition("://")[0]
    ]


def drop(url: str, prefix: str) -> None:
    """Remove what was made under *prefix*."""
    if url.startswith("sqlite"):
        return
    bench = Bench(url, prefix)
    for table in ("bare", "sessions", "endings", "seats", "documents", "meta"):
        bench.bare([(bench.text(f'DROP TABLE IF EXISTS "{{p}}_{table}"'), ())])
    bench.store.close()


# -- many sessions --------------------------------------------------------------------------------


def fill(bench: Bench, numbers: Sequence[int], *, users: bool, idle: int = IDLE) -> None:
    """Insert sessions of these numbers, five hundred in a round trip."""
    insert, count_them = bench._statements["insert"], bench._statements["count"]
    now = bench.store.document("none").now
    for at in range(0, len(numbers), _BATCH):
        calls: list[Call] = [("BEGIN", ())]
        for number in numbers[at : at + _BATCH]:
            made = draft(number, users=users, idle=idle)
            record = record_from(made, created=now, last_active=now, stamps=())
            calls.append((insert, (*_columns(record), dumps(record), key(number))))
        bench.counted[_columns(record)[1]] += len(calls) - 1
        tiers = {group: number for group, number in bench.counted.items() if group}
        counts = bench.counted.total(), json.dumps(tiers).encode(), 0
        bench.bare([*calls, (count_them, counts), ("COMMIT", ())])


_BATCH = 500


def weights(url: str, sizes: Sequence[int]) -> Iterator[Weight]:
    """Fill stores of these sizes, and weigh them."""
    for sessions in sizes:
        for users in (False, True):
            prefix = f"bench{secrets.token_hex(4)}"
            place = f"{url}.{prefix}" if url.startswith("sqlite") else url  # a file of its own
            bench = Bench(place, prefix)
            fill(bench, range(sessions), users=users)
            overhead = _bytes(bench, place) / sessions - mean_payload(users=users)
            calls, store = WARM + CALLS, bench.store
            some = [key(random.randrange(sessions)) for _ in range(calls)]
            load = _time([partial(store.load, k, ROOMY.rules, slide=False) for k in some])
            more = [draft(sessions + number, users=users) for number in range(calls)]
            names = [new_id(made.user[:1]).key for made in more]
            create = _time(
                [
                    partial(store.create, *both, ROOMY.rules)
                    for both in zip(names, more, strict=True)
                ]
            )
            bench.store.close()
            yield Weight(name_of(url), sessions, users, overhead, load, create)
            drop(url, prefix)


def _bytes(bench: Bench, url: str) -> float:
    if url.startswith("sqlite"):
        bench.store._connections.checkpoint()
        return Path(url.removeprefix("sqlite:///")).stat().st_size
    if url.startswith("postgresql"):
        return _ask(bench, f"SELECT pg_total_relation_size('\"{bench.prefix}_sessions\"')")
    bench.bare([(bench.text('ANALYZE TABLE "{p}_sessions"'), ())])
    return _ask(
        bench,
        "SELECT CAST(data_length + index_length AS SIGNED) FROM information_schema.tables"
        f" WHERE table_schema = DATABASE() AND table_name = '{bench.prefix}_sessions'",
    )


def _ask(bench: Bench, statement: str) -> float:
    with deadline(_LATE), bench.store._connections._pool.line() as line:
        return float(line.run([(statement, ())])[0].rows[0][0])


# -- a purge --------------------------------------------------------------------------------------


def waits(url: str, due: int = DUE) -> Waits:
    """Time loads and commits of others, without a purge and while *due* sessions are purged."""
    prefix = f"bench{secrets.token_hex(4)}"
    bench = Bench(url, prefix)
    living = range(-2000, 0)
    fill(bench, living, users=False)
    quiet = _waits(bench, living, until=lambda calls: calls >= _QUIET)
    fill(bench, range(due), users=False, idle=-MINUTE)
    with _pool(1) as pool:
        purging = pool.submit(purge_all, url, prefix)
        while bench.store.count(ROOMY.rules).due == due:
            time.sleep(0.001)
        busy = _waits(bench, living, until=lambda _: purging.done())
        seconds = purging.result()
    drop(url, prefix)
    bench.store.close()
    return Waits(name_of(url), _p99(quiet), _p99(busy), seconds)


_QUIET = 20_000


def purge_all(url: str, prefix: str) -> float:
    """Purge until nothing is due, as the job does. Returns the seconds that it took."""
    bench, begun = Bench(url, prefix), time.perf_counter()
    while bench.store.purge(ROOMY.rules, 500).more:
        pass
    return time.perf_counter() - begun


def _waits(bench: Bench, living: range, until: Callable[[int], bool]) -> list[float]:
    found, rules = list[float](), ROOMY.rules
    while not until(len(found)):
        name = key(random.choice(living))
        begun = time.perf_counter()
        answer = bench.store.load(name, rules, slide=True)
        middle = time.perf_counter()
        assert isinstance(answer, Live)
        fresh = draft(0, users=False)
        bench.store.commit(name, fresh, answer.record.stamps[0], touch=MINUTE, loaded=answer.record)
        found += [middle - begun, time.perf_counter() - middle]
    return found


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[-1] * 1000
