"""How long the dashboard takes with a million sessions: ``python -m benchmarks.dashboard``.

Pages go through a whole app by WSGI, signed in, on a store that holds so many sessions of users,
each of another one; one of them has a hundred. A call is one operation of the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median, quantiles

import click
from flask import Flask, session
from flask.testing import FlaskClient
from rich.console import Console
from rich.table import Table

from flask_safesession import SafeSession
from flask_safesession.dashboard import dashboard
from flask_safesession.instrumentation.hooks import Ended, observe
from flask_safesession.stores.base import Store

from .children import in_child
from .machine import describe
from .population import IDLE, fill, settings
from .stage import STORES, stage

LIMIT = 200
"""Milliseconds in which a page is to be answered."""
MANY = 100
ROUNDS = 100
PAGES = {
    "all sessions": "/watch/",
    "of a tier": "/watch/?tier=default",
    "the next page": "next",
    f"a user with {MANY} sessions": "/watch/?q=busy",
    "nobody of that name": "/watch/?q=nobody",
    "figures alone": "/watch/figures",
    "end all of a user?": "/watch/end-user?user=busy",
}


@dataclass(frozen=True)
class Taken:
    """One page: milliseconds, and operations of the store, at most.

    The first of all also reads the templates, once in a process.
    """

    store: str
    page: str
    first: float
    middle: float
    late: float
    worst: float
    calls: int

    @property
    def reached(self) -> bool:
        """Whether the target is kept, the first time too."""
        return max(self.first, self.late) < LIMIT


def make_app(store: Store, cap: int) -> Flask:
    """An app with the dashboard, and a view that signs in."""
    app = Flask("watched")
    app.secret_key = "only for the benchmarks: 6f1d2c7a9b"
    safe = SafeSession(
        app, store=store, max_sessions=cap, idle_timeout=IDLE / 1000, check_interval=None
    )
    app.register_blueprint(
        dashboard(safe, allowed=lambda: session.get("user_id") == "ada", url_prefix="/watch")
    )

    @app.get("/in/<user>")
    def sign_in(user: str) -> str:
        session["user_id"] = user
        return "ok"

    return app


def pages(where: str, server_kind: str, sessions: int) -> list[Taken]:
    """Fill a store and ask for each page. To be run in a process of its own."""
    cap = sessions * 2
    with stage(where, server_kind) as filled:
        fill(filled.store, range(sessions), settings(cap).rules, users=True)
        app = make_app(filled.store, cap)
        for user in ["busy"] * MANY:
            app.test_client().get(f"/in/{user}")
        ada = app.test_client()
        ada.get("/in/ada")
        calls = _counted(app)
        return [_ask(ada, where, name, calls) for name in PAGES]


def _ask(client: FlaskClient, where: str, name: str, calls: list[str]) -> Taken:
    path = PAGES[name]
    if path == "next":
        page = client.get("/watch/").text
        path = page.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    times, most = [], 0
    for _ in range(ROUNDS):
        calls.clear()
        start = time.perf_counter()
        response = client.get(path)
        times.append(1000 * (time.perf_counter() - start))
        assert response.status_code == 200, response.status
        most = max(most, len(calls))
    first, *rest = times
    return Taken(where, name, first, median(rest), quantiles(rest, n=100)[98], max(rest), most)


def _counted(app: Flask) -> list[str]:
    calls: list[str] = []

    def begin(operation: str) -> Ended:
        calls.append(operation)
        return lambda _: None

    observe(app.extensions["safesession"].overrides, begin, calls)
    return calls


def _rows(found: list[Taken]) -> Iterator[tuple[str, ...]]:
    for one in found:
        times = (f"{ms:.1f}" for ms in (one.first, one.middle, one.late, one.worst))
        mark = "" if one.reached else "MISSED"
        yield one.store, one.page, *times, str(one.calls), mark


@click.command()
@click.option("--sessions", type=click.IntRange(min=1), default=1_000_000, show_default=True)
@click.option("--server", type=click.Choice(["auto", "redis", "valkey"]), default="auto")
def main(sessions: int, server: str) -> None:
    """Ask for each page a hundred times, and print one table."""
    found = [taken for where in STORES for taken in in_child(pages, where, server, sessions)]
    table = Table("store", "page", "first", "median", "99 %", "worst", "store calls", "")
    table.title = f"milliseconds with {sessions:,} sessions, target {LIMIT}"
    table.caption = ", ".join(f"{name} {value}" for name, value in describe(server).items())
    for row in _rows(found):
        table.add_row(*row)
    Console(width=120).print(table)
    raise SystemExit(not all(one.reached for one in found))


if __name__ == "__main__":
    main()
