"""The table that a run prints: Markdown, so that it can be pasted into the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from .contenders import BASELINE
from .population import who
from .results import Results
from .sql import FLOORS
from .targets import targets
from .traffic import KINDS, Cost

WIDTH = 220
"""Wide enough for every column: a terminal wraps, a file does not."""


def show(results: Results) -> None:
    """Print what was measured, the targets last."""
    console = Console(width=WIDTH)
    console.print(", ".join(f"{name} {value}" for name, value in results.machine.items()))
    for table in _tables(results):
        console.print(table)


def _tables(results: Results) -> Iterator[Table]:
    if results.costs:
        yield _requests(results)
    if results.sizes:
        yield _sizes(results)
    if results.times:
        yield _times(results)
    if results.purges:
        yield _purges(results)
    if results.rounds:
        yield _rounds(results)
    if results.speeds:
        yield _speeds(results)
    if results.weights:
        yield _weights(results)
    if results.waits:
        yield _waits(results)
    yield _targets(results)


def _requests(results: Results) -> Table:
    names = [name for name, kind in results.costs if kind == KINDS[0].name and name != BASELINE]
    table = _table("A request: round trips / the server's µs / added µs", ["request", *names])
    for kind in KINDS:
        table.add_row(kind.name, *(_cell(results.costs[name, kind.name]) for name in names))
    return table


def _cell(cost: Cost) -> str:
    wire = f"{cost.round_trips:g} / {cost.server:.0f} / " if cost.round_trips else ""
    return f"{wire}{cost.added:.0f}"


def _sizes(results: Results) -> Table:
    rows = (
        (s.store, f"{s.sessions:,}", who(users=s.users), f"{s.overhead:.0f}") for s in results.sizes
    )
    return _table("Size", ["store", "sessions", "of", "bytes above payload"], rows)


def _times(results: Results) -> Table:
    rows = (
        (t.store, f"{t.sessions:,}", t.call, f"{t.microseconds:.0f}", f"{t.ratio:.2f}")
        for t in results.times
    )
    return _table("Time", ["store", "sessions", "call", "µs", "to that at 1,000"], rows)


def _purges(results: Results) -> Table:
    figures = "a second", "time with 1 % due", "others' p99, ms", "of calls"
    table = _table("Purge", ["store", "sessions", "of", *figures])
    for p in results.purges:
        waiting = f"{p.p99:.1f}", f"{p.calls:,}"
        row = p.store, f"{p.sessions:,}", who(users=p.users), f"{p.rate:,.0f}"
        table.add_row(*row, f"{p.one_percent:.2%}", *waiting)
    return table


def _rounds(results: Results) -> Table:
    table = _table("Filling and purging", ["store", "cap", "MiB after each round", "growth"])
    for rounds in results.rounds:
        mebibytes = " ".join(f"{taken / 2**20:.1f}" for taken in rounds.taken)
        table.add_row(rounds.store, f"{rounds.cap:,}", mebibytes, f"{rounds.growth:.1%}")
    return table


def _speeds(results: Results) -> Table:
    rows = (
        (
            *(s.store, s.operation, str(s.processes), f"{s.microseconds:.0f}", f"{s.rate:,.0f}"),
            *(FLOORS[s.operation], f"{s.ratio:.2f}"),
        )
        for s in results.speeds
    )
    columns = ["store", "operation", "processes", "µs", "a second", "floor", "to that"]
    return _table("SQL", columns, rows)


def _weights(results: Results) -> Table:
    rows = (
        (
            *(w.store, f"{w.sessions:,}", who(users=w.users), f"{w.overhead:.0f}"),
            *(f"{w.load:.0f}", f"{w.create:.0f}"),
        )
        for w in results.weights
    )
    columns = ["store", "sessions", "of", "bytes above payload", "load, µs", "create, µs"]
    return _table("SQL: many sessions", columns, rows)


def _waits(results: Results) -> Table:
    rows = (
        (w.store, f"{w.quiet:.1f}", f"{w.purging:.1f}", f"{w.seconds:.0f}") for w in results.waits
    )
    columns = ["store", "others' p99, ms", "while 100,000 are purged", "the purge, s"]
    return _table("SQL: purge", columns, rows)


def _targets(results: Results) -> Table:
    table = _table("Targets", ["target", "measured", "limit", ""])
    for target in targets(results):
        limit = f"{'≥' if target.at_least else '≤'} {target.limit:,g} {target.unit}"
        verdict = "reached" if target.reached else "NOT REACHED"
        table.add_row(target.what, f"{_short(target.figure)} {target.unit}", limit, verdict)
    return table


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"


def _table(title: str, columns: list[str], rows: Iterable[tuple[str, ...]] = ()) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=MARKDOWN)
    for row in rows:
        table.add_row(*row)
    return table
