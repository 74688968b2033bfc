"""Size and time at a thousand, a hundred thousand and a million sessions."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from time import perf_counter_ns

from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Live

from .population import draft, fill, key, mean_payload, settings
from .stage import Stage, stage

FEW = 1000
"""Sessions in the store that the others are compared with."""
WARM = 100
"""Sessions that are there before a store is weighed for the first time."""
BATCH = 50
CALLS = ("load", "create", "commit")


@dataclass(frozen=True)
class Size:
    """What one session takes in a store that holds *sessions* of its kind."""

    store: str
    sessions: int
    users: bool
    overhead: float
    """Bytes above the payload, index included."""


@dataclass(frozen=True)
class Times:
    """Microseconds a call in a store of users, and how many times that at ``FEW`` sessions."""

    store: str
    sessions: int
    call: str
    microseconds: float
    ratio: float


def size(where: str, server_kind: str, sessions: int, users: bool) -> Size:
    """Fill a store and weigh it. To be run in a process of its own."""
    with stage(where, server_kind) as filled:
        return _weighed(filled, where, sessions, users)


def size_and_times(
    where: str, server_kind: str, sessions: int, rounds: int
) -> tuple[Size, list[Times]]:
    """Fill a store with users, weigh it, and time calls on it and on a small one in turn."""
    with stage(where, server_kind) as small, stage(where, server_kind) as big:
        fill(small.store, range(FEW), settings(2 * FEW).rules, users=True)
        weighed = _weighed(big, where, sessions, users=True)
        return weighed, _times(small, big, where, sessions, rounds)


def _weighed(on: Stage, where: str, sessions: int, users: bool) -> Size:
    within = settings(2 * sessions).rules
    fill(on.store, range(-WARM, 0), within, users=users)  # connections, scripts, first pages
    before = on.footprint()
    fill(on.store, range(sessions), within, users=users)
    each = (on.footprint() - before) / sessions
    return Size(where, sessions, users, each - mean_payload(users=users))


def _times(small: Stage, big: Stage, where: str, sessions: int, rounds: int) -> list[Times]:
    """Batches on both stores by turns, so that a slow moment of the machine hits both."""
    drivers = [_Driver(small, FEW), _Driver(big, sessions)]
    taken: dict[str, list[list[float]]] = {call: [] for call in CALLS}
    for _ in range(rounds):
        for call in CALLS:
            taken[call].append([driver.time(call) for driver in drivers])
    return [_compared(where, sessions, call, taken[call]) for call in CALLS]


def _compared(where: str, sessions: int, call: str, taken: list[list[float]]) -> Times:
    ratio = statistics.median(big / small for small, big in taken)
    return Times(where, sessions, call, statistics.median(big for _, big in taken), ratio)


class _Driver:
    """Times batches of calls on one store, and leaves it as full as it was."""

    def __init__(self, on: Stage, sessions: int) -> None:
        self._store = on.store
        self._sessions = sessions
        self._rules = settings(2 * sessions).rules
        self._new = count(sessions)

    def time(self, call: str) -> float:
        """The median time of a batch of calls, in microseconds."""
        prepare: Callable[[], Callable[[], object]] = getattr(self, f"_{call}")
        calls = [prepare() for _ in range(BATCH)]
        median = _median_time(calls)
        if call == "create":
            self._remove_created()
        return median

    def _load(self) -> Callable[[], object]:
        here = key(random.randrange(self._sessions))
        return lambda: self._store.load(here, self._rules, slide=True)

    def _commit(self) -> Callable[[], object]:
        number = random.randrange(self._sessions)
        found = self._store.load(key(number), self._rules, slide=True)
        assert isinstance(found, Live)
        change = draft(number, users=True)
        return lambda: self._store.commit(key(number), change, found.record.stamps[0], touch=0)

    def _create(self) -> Callable[[], object]:
        number = next(self._new)
        there, new = key(number), draft(number, users=True)
        return lambda: self._store.create(there, new, self._rules)

    def _remove_created(self) -> None:
        beyond = next(self._new)
        for number in range(beyond - BATCH, beyond):
            self._store.end(key(number), new_stamp(), "logout", None)


def _median_time(calls: list[Callable[[], object]]) -> float:
    taken = []
    for call in calls:
        start = perf_counter_ns()
        call()
        taken.append(perf_counter_ns() - start)
    return statistics.median(taken) / 1000
