"""The project's targets, each with the figure that was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .contenders import (
    FLASK_SESSION_MEMORY,
    FLASK_SESSION_ON,
    FLASK_SESSION_REDIS,
    FLOOR,
    OURS_MEMORY,
    OURS_ON,
    OURS_REDIS,
    OURS_SQLITE,
)
from .population import who
from .results import Results
from .sql import COMMIT, CREATE, FLOORS, LOAD, LOGIN
from .stage import MEMORY
from .traffic import (
    ANONYMOUS,
    CHANGE,
    FIRST_WRITE,
    FORGED,
    KINDS,
    READ,
    UNTOUCHED,
    UNTOUCHED_COOKIE,
    Kind,
)

TIMES_THE_FLOOR: dict[str, dict[str, float]] = {
    "SQLite": {LOAD: 2, COMMIT: 3, CREATE: 3, LOGIN: 5},
    "PostgreSQL": {LOAD: 1.5, COMMIT: 1.3, CREATE: 1.9, LOGIN: 2.2},
    "MariaDB": {LOAD: 1.6, COMMIT: 1.5, CREATE: 1.9, LOGIN: 2.5},
}
PROCESSES = {LOAD: 1, COMMIT: 1, CREATE: 4, LOGIN: 4}
"""In so many at the same time."""
READS = {"PostgreSQL": 0.25, "MariaDB": 0.4}
"""Of a whole request, to Flask-Session's."""
WAITS = {"SQLite": 6, "PostgreSQL": 3, "MariaDB": 3}
BYTES_IN_SQL: dict[str, tuple[int, int]] = {
    "SQLite": (200, 280),
    "PostgreSQL": (450, 550),
    "MariaDB": (650, 700),
}
"""For anonymous sessions, and for users'."""
BYTES_IN_MEMORY = 450
BYTES_ON_REDIS = {False: 400, True: 550}
"""By whether the sessions have users."""


@dataclass(frozen=True)
class Target:
    """A figure and its limit; ``at_least`` where more is better."""

    what: str
    figure: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the figure keeps to the limit."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


def targets(results: Results) -> list[Target]:
    """Those for which something was measured."""
    return [*_requests(results), *_sizes(results), *_removal(results), *_sql(results)]


def _requests(results: Results) -> Iterator[Target]:
    costs = results.costs
    if not costs:
        return

    def ratio(kind: Kind, ours: str, theirs: str) -> float:
        return costs[ours, kind.name].relative_to(costs[theirs, kind.name])

    for kind, limit in ((READ, 1.2), (CHANGE, 1.2), (FIRST_WRITE, 1.5)):
        figure = ratio(kind, OURS_REDIS, FLOOR)
        yield Target(f"{kind.name} on Redis, added time, to the floor's", figure, limit, "x")
    for ours, theirs, limit in (
        (OURS_REDIS, FLASK_SESSION_REDIS, 0.7),
        (OURS_MEMORY, FLASK_SESSION_MEMORY, 0.6),
        (OURS_SQLITE, OURS_MEMORY, 1.6),
    ):
        yield Target(f"read, {ours}, to {theirs}", ratio(READ, ours, theirs), limit, "x")
    over = max(costs[OURS_REDIS, kind.name].round_trips - kind.calls for kind in KINDS)
    yield Target("round trips above those allowed, the worst request", over, 0)
    limits = {UNTOUCHED: 15, UNTOUCHED_COOKIE: 15, ANONYMOUS: 15, FORGED: 40}
    for ours in (OURS_REDIS, OURS_MEMORY):
        for kind, limit in limits.items():
            added = costs[ours, kind.name].added
            yield Target(f"{kind.name}, {ours}, added", added, limit, "µs")


def _sizes(results: Results) -> Iterator[Target]:
    largest = max((size.sessions for size in results.sizes), default=0)
    for size in results.sizes:
        if size.sessions == largest:
            limit = BYTES_IN_MEMORY if size.store == MEMORY else BYTES_ON_REDIS[size.users]
            what = f"bytes above payload, {size.store}, {largest:,} {who(users=size.users)}"
            yield Target(what, size.overhead, limit, "B")
    for times in results.times:
        if times.sessions == largest:
            what = f"{times.call} at {largest:,}, {times.store}, to a thousand"
            yield Target(what, times.ratio, 1.5, "x")


def _removal(results: Results) -> Iterator[Target]:
    for purge in results.purges:
        where = f"{purge.store}, {purge.sessions:,} {who(users=purge.users)}"
        yield Target(f"purge, {where}", purge.rate, 100_000, "/s", at_least=True)
        yield Target(f"purge with 1 % due, {where}", purge.one_percent * 100, 3, "%")
        yield Target(f"others' loads meanwhile, p99, {where}", purge.p99, 10, "ms")
    for rounds in results.rounds:
        what = f"memory after 10 rounds to that after 1, {rounds.store}, cap {rounds.cap:,}"
        yield Target(what, rounds.growth * 100, 10, "%")


def _sql(results: Results) -> Iterator[Target]:
    for speed in results.speeds:
        if speed.processes == PROCESSES[speed.operation]:
            what = f"{speed.operation} on {speed.store}, to {FLOORS[speed.operation]}"
            limit = TIMES_THE_FLOOR[speed.store][speed.operation]
            yield Target(what, speed.ratio, limit, "x")
    for wait in results.waits:
        what = f"others' p99 while 100,000 are purged on {wait.store}, to that without"
        yield Target(what, wait.purging / wait.quiet, WAITS[wait.store], "x")
    largest = max((weight.sessions for weight in results.weights), default=0)
    for weight in results.weights:
        if weight.sessions == largest:
            what = f"bytes above payload, {weight.store}, {largest:,} {who(users=weight.users)}"
            yield Target(what, weight.overhead, BYTES_IN_SQL[weight.store][weight.users], "B")
    for store, limit in READS.items():
        ours, theirs = f"{OURS_ON} {store}", f"{FLASK_SESSION_ON} {store}"
        if (ours, READ.name) in results.costs:
            costs = results.costs
            ratio = costs[ours, READ.name].relative_to(costs[theirs, READ.name])
            yield Target(f"read, {ours}, to {theirs}", ratio, limit, "x")
