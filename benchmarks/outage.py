"""What a slow, stopped or restarted server costs requests: ``python -m benchmarks.outage``.

The requests go through a whole app by WSGI; the server is a real one on the loopback interface, for
the first part behind a proxy that makes it a millisecond away in each direction.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from statistics import median, quantiles

import click
import redis
from flask import Flask, session
from flask.testing import FlaskClient
from redis.backoff import NoBackoff
from redis.retry import Retry
from rich.console import Console
from rich.table import Table

from flask_safesession import SafeSession

from .far_away import awake, far_away
from .machine import describe
from .server import Process, Server, controlled, running
from .targets import Target

TIMEOUT = 0.5
"""``STORE_TIMEOUT`` in seconds."""
DELAY = 0.001
REQUESTS = 1000
THREADS = 20
RESTARTS = 5


@dataclass(frozen=True)
class Visit:
    """A request's status, and the seconds that it took."""

    status: int
    seconds: float


def make_app(url: str) -> Flask:
    """Three views: one that does without the session, one that reads it, one that changes it."""
    app = Flask("outage")
    app.secret_key = "only for the benchmarks: 6f1d2c7a9b"
    SafeSession(app, store=url, store_timeout=TIMEOUT, check_interval=None)
    app.add_url_rule("/untouched", "untouched", lambda: "ok")
    app.add_url_rule("/read", "read", lambda: str(session.get("count")))

    @app.get("/change")
    def change() -> str:
        session["count"] = session.get("count", 0) + 1
        return "ok"

    return app


@contextmanager
def signed_in(url: str) -> Iterator[Callable[[], FlaskClient]]:
    """Gives clients that all have the same session, one for each thread."""
    app = make_app(url)
    first = app.test_client()
    assert first.get("/change").status_code == 200
    cookie = first.get_cookie("session")
    assert cookie is not None

    def client() -> FlaskClient:
        made = app.test_client()
        made.set_cookie("session", cookie.value)
        return made

    yield client
    app.extensions["safesession"].store.close()


def visit(client: FlaskClient, path: str) -> Visit:
    """One request."""
    start = time.perf_counter()
    status = client.get(path).status_code
    return Visit(status, time.perf_counter() - start)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def round_trips(server: Server) -> Iterator[Target]:
    """Time above a request without a session, in round trips of two milliseconds."""
    with far_away(server.port, DELAY) as url, signed_in(url) as client, awake():
        with redis.Redis.from_url(url) as bare:
            alone = median(_seconds(lambda: bare.get("nothing")) for _ in range(200))
        yield Target("a GET of redis-py alone, the same way", alone / (2 * DELAY), float("inf"))
        visitor = client()
        taken: dict[str, list[float]] = {"/untouched": [], "/read": [], "/change": []}
        for _ in range(200):
            for path, seconds in taken.items():
                seconds.append(visit(visitor, path).seconds)
        base = median(taken["/untouched"])
        for path, trips in (("/read", 1), ("/change", 2)):
            added = (median(taken[path]) - base) / (2 * DELAY)
            yield Target(f"{path[1:]}, {trips} round trip(s) of 2 ms, added", added, trips * 1.15)


def stopped(process: Process) -> Iterator[Target]:
    """A thousand requests while the server is stopped, from the first on; and those without."""
    with signed_in(process.server.url) as client:
        process.pause()
        crowd = in_threads(client, "/read")
        assert {seen.status for seen in crowd} == {503}
        yield Target("session used, p99, of the time-out", p99(crowd) / TIMEOUT, 1.5, "x")
        later = in_threads(client, "/read", threads=1)
        yield Target("session used, circuit open, p99", p99(later) * 1000, 5, "ms")
        untouched = in_threads(client, "/untouched", threads=1)
        assert {seen.status for seen in untouched} == {200}
        process.resume()
        until_served(client())
        before = in_threads(client, "/untouched", threads=1)
        ratio = median(v.seconds for v in untouched) / median(v.seconds for v in before)
        yield Target("session not used, median, to the same with the server up", ratio, 1.1, "x")


def in_threads(client: Callable[[], FlaskClient], path: str, threads: int = THREADS) -> list[Visit]:
    """A thousand requests in all."""

    def some(_: int) -> list[Visit]:
        visitor = client()
        return [visit(visitor, path) for _ in range(REQUESTS // threads)]

    with ThreadPoolExecutor(threads) as pool:
        return [seen for found in pool.map(some, range(threads)) for seen in found]


def p99(visits: list[Visit]) -> float:
    """Seconds within which 99 of 100 ended."""
    return quantiles((seen.seconds for seen in visits), n=100)[98]


def restarted(process: Process) -> Iterator[Target]:
    """From the server's first answer after a restart to the first request that is served."""
    slowest = 0.0
    with signed_in(process.server.url) as client:
        visitor = client()
        for _ in range(RESTARTS):
            process.kill()
            while visit(visitor, "/read").status != 503:
                pass
            in_threads(client, "/read")  # and the circuit is open
            up = threading.Event()
            watcher = threading.Thread(target=_until_it_answers, args=(process.server, up))
            watcher.start()
            process.start()
            up.wait()
            start = time.perf_counter()
            until_served(visitor)
            slowest = max(slowest, time.perf_counter() - start)
            watcher.join()
    yield Target(f"first request served after a restart, worst of {RESTARTS}", slowest, 1, "s")


def _until_it_answers(server: Server, up: threading.Event) -> None:
    while True:
        try:
            with redis.Redis(
                port=server.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)
            ) as client:
                client.ping()
                break
        except redis.RedisError:
            time.sleep(0.001)
    up.set()


def until_served(visitor: FlaskClient) -> None:
    """Ask until there is an answer."""
    while visit(visitor, "/read").status != 200:
        time.sleep(0.001)


@click.command()
@click.option("--server", "kind", type=click.Choice(["auto", "redis", "valkey"]), default="auto")
def main(kind: str) -> None:
    """Measure what an outage costs, and print one table."""
    logging.getLogger("flask_safesession").disabled = True  # a line a request, here thousands
    found: list[Target] = []
    with running(kind) as server:
        found += round_trips(server)
    with controlled(kind, appendonly="yes", appendfsync="always") as process:
        for part in (stopped, restarted):
            found += part(process)
    about = ", ".join(describe(server.name).values())
    table = Table("what", "figure", "limit", title=about)
    for target in found:
        mark = "" if target.reached else "  MISSED"
        figure = f"{target.figure:.3g} {target.unit}{mark}"
        limit = f"{target.limit:.3g}" if isfinite(target.limit) else ""
        table.add_row(target.what, figure, limit)
    Console().print(table)
    raise SystemExit(not all(target.reached for target in found))


if __name__ == "__main__":
    main()
