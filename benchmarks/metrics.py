"""What metrics and traces add to a request: ``python -m benchmarks.metrics``.

The same app stands there plain, with metrics, and with traces. In each round each gets a short
batch of each kind of request, in random order; the figure is the median of the rounds' ratios to
the plain one. These requests do nothing but use their session: the least that there can be, so that
what is added weighs most.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Callable
from itertools import islice

import click
from flask import Flask
from rich.console import Console
from rich.table import Table

from flask_safesession import SafeSession

from .app import make_app
from .children import in_child
from .machine import describe
from .server import running
from .stage import MEMORY, STORES
from .targets import Target
from .traffic import (
    BATCH,
    CHANGE,
    FIRST_WRITE,
    READ,
    UNTOUCHED_COOKIE,
    Kind,
    _no_garbage_collection,
    _queue,
    _usual_time,
)

KINDS = (UNTOUCHED_COOKIE, READ, CHANGE, FIRST_WRITE)
PLAIN, METRICS, FILES, API, SDK = (
    "plain",
    "metrics",
    "metrics in files, as with several processes",
    "OpenTelemetry, nobody listens",
    "OpenTelemetry, all spans are made",
)
LIMIT = 5.0
"""What metrics may add, in per cent."""


def measure(store: str, rounds: int, *watched: str) -> dict[tuple[str, str], float]:
    """Per cent that is added, by what watches and the kind of request. In a fresh process."""
    if FILES not in watched:
        return _measure(store, rounds, watched)
    with tempfile.TemporaryDirectory(prefix="safesession-bench-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before the client library is imported
        return _measure(store, rounds, watched)


def _measure(store: str, rounds: int, watched: tuple[str, ...]) -> dict[tuple[str, str], float]:
    apps = {name: _app(store, name) for name in (PLAIN, *watched)}
    queues = {(name, kind): _queue(app, kind) for name, app in apps.items() for kind in KINDS}
    ratios: dict[tuple[str, Kind], list[float]] = {key: [] for key in queues}
    for _ in range(rounds):
        for kind in KINDS:
            times = {}
            for name in random.sample(list(apps), len(apps)):
                batch = list(islice(queues[name, kind], BATCH))
                with _no_garbage_collection():
                    times[name] = _usual_time(apps[name], batch)
            for name, taken in times.items():
                ratios[name, kind].append(taken / times[PLAIN])
    return {
        (name, kind.name): (statistics.median(ratios[name, kind]) - 1) * 100
        for name in watched
        for kind in KINDS
    }


def _app(store: str, watched: str) -> Flask:
    app = make_app()
    safe = SafeSession(app, store=store, max_sessions=100_000, check_interval=None)
    _WATCH[watched](safe)
    return app


def _with_metrics(safe: SafeSession) -> None:
    from flask_safesession.instrumentation import prometheus

    prometheus.instrument(safe)


def _with_spans(safe: SafeSession) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    from flask_safesession.instrumentation import opentelemetry

    opentelemetry.instrument(safe, TracerProvider())


def _with_api(safe: SafeSession) -> None:
    from flask_safesession.instrumentation import opentelemetry

    opentelemetry.instrument(safe)


_WATCH: dict[str, Callable[[SafeSession], object]] = {
    PLAIN: lambda safe: safe,
    METRICS: _with_metrics,
    FILES: _with_metrics,
    API: _with_api,
    SDK: _with_spans,
}


@click.command()
@click.option("--rounds", type=click.IntRange(min=2), default=150)
@click.option("--server", type=click.Choice(["auto", "redis", "valkey"]), default="auto")
def main(rounds: int, server: str) -> None:
    """Measure what metrics and traces add to a request, and print one table."""
    with running(server) as started:
        table = Table("store", "watched by", *(kind.name for kind in KINDS))
        table.title = "added, in per cent: " + ", ".join(describe(started.name).values())
        missed = False
        for where in STORES:
            url = "memory://" if where == MEMORY else started.url
            for watched in ((METRICS,), (FILES,), (API, SDK)):
                found = in_child(measure, url, rounds, *watched)
                for name in watched:
                    figures = [found[name, kind.name] for kind in KINDS]
                    targets = [Target(name, figure, LIMIT, "%") for figure in figures]
                    held = name in (METRICS, FILES)
                    missed |= held and not all(target.reached for target in targets)
                    table.add_row(where, name, *(_shown(one, held=held) for one in targets))
    Console(width=160).print(table)
    raise SystemExit(missed)


def _shown(target: Target, *, held: bool) -> str:
    mark = " MISSED" if held and not target.reached else ""
    return f"{target.figure:+.1f}{mark}"


if __name__ == "__main__":
    main()
