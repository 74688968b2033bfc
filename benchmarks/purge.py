"""Purging: how fast, how much of it is walking past what is not due, and who has to wait."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from time import perf_counter

from flask_safesession.admin.purge import purge_steps
from flask_safesession.config.settings import Settings
from flask_safesession.stores.base import IndexedStore

from .population import IDLE, MINUTE, fill, settings
from .stage import Stage, stage
from .waiting import others_loading

SOON, LATER = 20 * MINUTE, 40 * MINUTE
ENOUGH = 20_000
"""Sessions that a purge needs so that others make some hundred calls meanwhile."""
LIVING = range(-5000, 0)
"""The numbers of sessions that are never due, and that others load while a purge runs."""


@dataclass(frozen=True)
class Purge:
    """What purging a store of *sessions* users, or strangers, took."""

    store: str
    sessions: int
    users: bool
    rate: float
    """Sessions a second when all are due."""
    one_percent: float
    """The time with 1 % due, relative to the time with all due."""
    p99: float
    """The 99th percentile of others' load calls while a purge ran, in milliseconds."""
    calls: int
    """How many calls of others that was."""


def purge(where: str, server_kind: str, sessions: int, users: bool) -> Purge:
    """Measure all of it on one store. To be run in a process of its own."""
    roomy = settings(2 * sessions + len(LIVING))
    with stage(where, server_kind) as on:
        fill(on.store, LIVING, roomy.rules, users=users, idle=IDLE)
        some, rest = _two_purges(on, sessions, roomy, users)
        waits = _waits_while_purging(on, sessions, roomy, users)
    every = some + rest
    p99 = statistics.quantiles(waits, n=100)[-1] * 1000
    return Purge(where, sessions, users, sessions / every, some / every, p99, len(waits))


def run(store: IndexedStore, roomy: Settings) -> int:
    """Purge as the job does, until nothing is due; returns how many were removed."""
    return sum(step.due for step in purge_steps(store, roomy))


def _two_purges(on: Stage, sessions: int, roomy: Settings, users: bool) -> tuple[float, float]:
    """Seconds to purge one session in a hundred out of all, then all the rest."""
    few = range(0, sessions, 100)
    rest = (number for number in range(sessions) if number % 100)
    fill(on.store, rest, roomy.rules, users=users, idle=LATER)
    fill(on.store, few, roomy.rules, users=users, idle=SOON)
    on.pass_time(SOON + MINUTE)
    some = _timed_purge(on.store, roomy, len(few))
    on.pass_time(LATER - SOON)
    return some, _timed_purge(on.store, roomy, sessions - len(few))


def _timed_purge(store: IndexedStore, roomy: Settings, expected: int) -> float:
    start = perf_counter()
    removed = run(store, roomy)
    taken = perf_counter() - start
    if removed != expected:
        raise RuntimeError(f"purged {removed} sessions where {expected} were due")
    return taken


def _waits_while_purging(on: Stage, sessions: int, roomy: Settings, users: bool) -> list[float]:
    again = range(sessions, sessions + max(sessions // 4, ENOUGH))
    fill(on.store, again, roomy.rules, users=users, idle=5 * MINUTE)
    on.pass_time(6 * MINUTE)
    with others_loading(on, LIVING, roomy.rules) as waits:
        run(on.store, roomy)
    return waits
