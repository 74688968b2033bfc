"""The command: ``python -m benchmarks``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from .children import in_child
from .machine import describe
from .purge import purge
from .report import show
from .results import Results
from .rounds import rounds
from .scale import size, size_and_times
from .server import running
from .sql import speeds, waits, weights
from .stage import STORES
from .targets import targets
from .traffic import measure


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int
    sizes: tuple[int, ...]
    purged: int
    cap: int
    databases: tuple[str, ...] = ()


FULL = Extent(rounds=60, sizes=(1000, 100_000, 1_000_000), purged=1_000_000, cap=100_000)
QUICK = Extent(rounds=15, sizes=(1000, 20_000), purged=20_000, cap=5000)


def _requests(results: Results, server: str, extent: Extent) -> None:
    with running(server) as started:
        results.costs = measure(started, extent.rounds, extent.databases)


def _scale(results: Results, server: str, extent: Extent) -> None:
    for where in STORES:
        for sessions in extent.sizes:
            results.sizes.append(in_child(size, where, server, sessions, users=False))
            weighed, timed = in_child(size_and_times, where, server, sessions, extent.rounds)
            results.sizes.append(weighed)
            results.times += timed


def _purge(results: Results, server: str, extent: Extent) -> None:
    results.purges = [
        in_child(purge, where, server, extent.purged, users=users)
        for where in STORES
        for users in (False, True)
    ]


def _rounds(results: Results, server: str, extent: Extent) -> None:
    results.rounds = [in_child(rounds, where, server, extent.cap) for where in STORES]


def _sql(results: Results, server: str, extent: Extent) -> None:
    del server
    with TemporaryDirectory(prefix="safesession-") as folder:
        for url in (f"sqlite:///{folder}/sessions.sqlite3", *extent.databases):
            results.speeds += speeds(url, max(3, extent.rounds // 8))
            results.waits.append(waits(url))
            results.weights += weights(url, extent.sizes)


PARTS: dict[str, Callable[[Results, str, Extent], None]] = {
    "requests": _requests,
    "scale": _scale,
    "purge": _purge,
    "rounds": _rounds,
    "sql": _sql,
}


@click.command()
@click.option("--quick", is_flag=True, help="Small stores and few rounds: a look, not a result.")
@click.option("--rounds", type=click.IntRange(min=2), help="Rounds of the timed parts.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Only these parts.")
@click.option("--database", "databases", multiple=True, help="The URL of a SQL server.")
@click.option("--server", type=click.Choice(["auto", "redis", "valkey"]), default="auto")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path))
def main(
    quick: bool,
    rounds: int | None,
    only: tuple[str, ...],
    databases: tuple[str, ...],
    server: str,
    file: Path | None,
) -> None:
    """Measure SafeSession and its neighbours, and print one table."""
    extent = QUICK if quick else FULL
    extent = replace(extent, rounds=rounds or extent.rounds, databases=databases)
    with running(server) as started:
        results = Results(describe(started.name))
    try:
        for part in only or PARTS:
            click.echo(f"measuring: {part}", err=True)
            PARTS[part](results, server, extent)
    finally:
        show(results)  # what was measured until then, whatever stopped it
    if file is not None:
        figures = results.as_json() | {"targets": [asdict(target) for target in targets(results)]}
        file.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
