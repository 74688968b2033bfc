"""The project's targets, each with the figure that was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .contenders import (
    FLASK_SESSION_MEMORY,
    FLASK_SESSION_REDIS,
    FLOOR,
    OURS_MEMORY,
    OURS_REDIS,
    OURS_SQLITE,
)
from .population import who
from .results import Results
from .sqlite import COMMIT, CREATE, LOAD, LOGIN
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

TIMES_THE_FLOOR = {LOAD: 2, COMMIT: 3, CREATE: 3, LOGIN: 5}
"""On SQLite."""
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
    return [*_requests(results), *_sizes(results), *_removal(results), *_sqlite(results)]


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


def _sqlite(results: Results) -> Iterator[Target]:
    for call in results.sqlite:
        what = f"{call.operation} on SQLite, to {call.floor}"
        yield Target(what, call.ratio, TIMES_THE_FLOOR[call.operation], "x")
