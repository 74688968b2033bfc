"""Requests: what each kind of request costs on each contender.

The application is called directly, with environs that were made before, so that no client's or
server's cost is in the figures. In every round each contender gets a short batch of each kind, in
random order: whatever else the machine does hits all of them alike. A batch counts with its lower
quartile, since other work on the machine only ever adds. The added time of a contender is that
of its batch less that of the application without sessions in the same round; of these
differences the median over the rounds is reported. Two contenders are compared by the median of the
rounds' ratios, which depends less on the machine's mood.
"""

from __future__ import annotations

import gc
import random
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, cycle, islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import redis
from flask import Flask

from .app import Environ, environ
from .contenders import BASELINE, contenders
from .server import Server
from .wire import counting_round_trips, reset_server_time, server_microseconds

BATCH = 24
"""Requests in one batch: a few milliseconds, so that a noisy moment spoils few of them."""
COUNTED = 200
"""Requests over which round trips and the server's time are averaged."""

_visitors = count()


@dataclass(frozen=True)
class Kind:
    """A kind of request.

    ``calls`` is how many store calls the project allows it; ``filled`` is the view that makes the
    session beforehand (empty: none, and no cookie); ``consumes`` tells that a request uses its
    session up, so that every one needs its own.
    """

    name: str
    path: str
    calls: int
    filled: str = ""
    consumes: bool = False
    forged: bool = False


UNTOUCHED = Kind("untouched", "/untouched", 0)
UNTOUCHED_COOKIE = Kind("untouched, with cookie", "/untouched", 0, filled="/fill_user")
ANONYMOUS = Kind("read, no cookie", "/read", 0)
FORGED = Kind("read, forged cookie", "/read", 0, filled="/fill_user", forged=True)
READ = Kind("read", "/read", 1, filled="/fill_user")
CHANGE = Kind("change", "/change", 2, filled="/fill_user")
LOGIN = Kind("login", "/login", 2, filled="/fill_stranger", consumes=True)
LOGOUT = Kind("logout", "/logout", 2, filled="/fill_user", consumes=True)
FIRST_WRITE = Kind("first write", "/fill_stranger", 1)
KINDS = (
    *(UNTOUCHED, UNTOUCHED_COOKIE, ANONYMOUS, FORGED, READ),
    *(CHANGE, LOGIN, LOGOUT, FIRST_WRITE),
)


@dataclass(frozen=True)
class Cost:
    """What one kind of request costs on one contender: round trips, and microseconds a request."""

    round_trips: float
    server: float
    rounds: list[float]
    """The added time in each round."""

    @property
    def added(self) -> float:
        """The added time: the median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Half of the rounds were between these: how far the added time can be trusted."""
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return low, high

    def relative_to(self, other: Cost) -> float:
        """How many times the added time of *other* this one's is."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


Key = tuple[str, str]
Queue = Iterator[Environ]


def measure(server: Server, rounds: int, databases: Sequence[str] = ()) -> dict[Key, Cost]:
    """Count, then time, every kind on every contender; by the names of contender and kind."""
    with tempfile.TemporaryDirectory(prefix="safesession-") as folder, server.client() as client:
        apps = contenders(server, Path(folder), databases)
        pairs = [(name, app, kind) for name, app in apps.items() for kind in KINDS]
        queues = {(name, kind.name): _queue(app, kind) for name, app, kind in pairs}
        counted = {key: _counted(apps[key[0]], queue, client) for key, queue in queues.items()}
        times = _timed(apps, queues, rounds)
        for app in apps.values():
            if "safesession" in app.extensions:
                app.extensions["safesession"].store.close()
    return {key: Cost(*counted[key], _added(key, times)) for key in queues}


def _queue(app: Flask, kind: Kind) -> Queue:
    """Requests without end; those that use up their session have one each."""
    if kind.consumes or not kind.filled:
        return (_request(app, kind) for _ in count())
    ready = [_request(app, kind) for _ in range(BATCH)]
    return (dict(made) for made in cycle(ready))


def _request(app: Flask, kind: Kind) -> Environ:
    number = next(_visitors)
    cookie = _filled(app, kind.filled, number) if kind.filled else None
    if cookie is not None and kind.forged:
        cookie = cookie[:-6] + "AAAAAA"
    return environ(kind.path, cookie, number)


def _filled(app: Flask, path: str, number: int) -> str:
    """The cookie of a session that the view at *path* has just made."""
    for name, value in _call(app, environ(path, None, number)):
        if name == "Set-Cookie":
            return value.partition(";")[0].partition("=")[2]
    return "x" * 88  # without sessions: as long as a signed ID


def _call(app: Flask, made: Environ) -> list[tuple[str, str]]:
    """Send a request; the response's headers. Raises ``RuntimeError`` if it is not a 200."""
    answer: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
        answer.update(status=status, headers=headers)

    app.wsgi_app(made, start_response)
    if answer["status"] != "200 OK":
        raise RuntimeError(f"{made['PATH_INFO']} answered {answer['status']}")
    headers: list[tuple[str, str]] = answer["headers"]
    return headers


def _counted(app: Flask, queue: Queue, client: redis.Redis) -> tuple[float, float]:
    """Round trips, and microseconds of the server's, a request."""
    batch = list(islice(queue, COUNTED))
    _call(app, next(queue))  # connects, and makes the server remember the scripts
    reset_server_time(client)
    with counting_round_trips() as tally:
        for made in batch:
            _call(app, made)
    return tally.round_trips / COUNTED, server_microseconds(client) / COUNTED


def _timed(apps: dict[str, Flask], queues: dict[Key, Queue], rounds: int) -> dict[Key, list[float]]:
    """The time of a request in each batch, a list over the rounds."""
    times: dict[Key, list[float]] = {key: [] for key in queues}
    for _ in range(rounds):
        for kind in KINDS:
            for name in random.sample(list(apps), len(apps)):
                batch = list(islice(queues[name, kind.name], BATCH))
                with _no_garbage_collection():
                    times[name, kind.name].append(_usual_time(apps[name], batch))
    return times


def _usual_time(app: Flask, batch: Iterable[Environ]) -> float:
    wsgi, taken = app.wsgi_app, []
    for made in batch:
        start = perf_counter_ns()
        wsgi(made, _ignore)
        taken.append(perf_counter_ns() - start)
    return statistics.quantiles(taken, n=4)[0] / 1000


def _ignore(*_: object) -> Any:
    return None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _added(key: Key, times: dict[Key, list[float]]) -> list[float]:
    plain = times[BASELINE, key[1]]
    return [mine - base for mine, base in zip(times[key], plain, strict=True)]
