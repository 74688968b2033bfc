"""``stats --watch``: shows the stats as they change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from time import monotonic, sleep
from typing import Any

import click

from ...errors import StoreUnavailable
from ...model.text import printable, printable_lines
from ..stats import Stats, stats_of
from .group import json_of, note_of_memory, settings_of

_Sample = tuple["Stats | StoreUnavailable", float]
_BAR = 40
# Shares of the cap. From the first on, the extension warns; users hold at most the second.
_FILLING, _NEARLY_FULL = 0.8, 0.95


def watch(state: Any, interval: float, count: int | None, as_json: bool) -> None:
    """Show the stats until Ctrl-C: with rich on a terminal, otherwise as lines.

    :param interval: seconds between two samples.
    :param count: stop after this many samples; ``None``: never.
    :param as_json: print one JSON object for each sample.
    """
    if note := note_of_memory(state):
        click.echo(note, err=True)
    last: list[Stats | StoreUnavailable] = []
    samples = _noted(_samples(state, interval, count), last)
    with suppress(KeyboardInterrupt):
        if not as_json and (console := terminal()) is not None:
            _show(samples, console)
        else:
            for sample in samples:
                text = json_of(_described(sample)) if as_json else printable_lines(_lines(*sample))
                click.echo(text)
    if last and isinstance(last[0], StoreUnavailable):
        raise SystemExit(1)


def terminal() -> Any:
    """Returns rich's console if it can redraw a view in place, else ``None``."""
    if find_spec("rich") is None:
        return None
    from rich.console import Console

    console = Console()
    return console if console.is_terminal and not console.is_dumb_terminal else None


def text_of(found: Stats) -> str:
    """Returns the stats as lines of text."""
    return "\n".join(
        [
            f"{found.sessions} sessions of {found.cap} ({found.sessions / found.cap:.1%})",
            *(f"  {printable(tier)}: {count}" for tier, count in found.by_tier.items()),
            f"{found.due} due, the oldest for {found.overdue_seconds:.1f} s",
            *(f"server {printable(name)}: circuit {it}" for name, it in found.servers.items()),
        ]
    )


def _noted(samples: Iterator[_Sample], last: list[Stats | StoreUnavailable]) -> Iterator[_Sample]:
    for sample in samples:
        last[:] = sample[:1]
        yield sample


def _samples(state: Any, interval: float, count: int | None) -> Iterator[_Sample]:
    """Yields the stats, or the store's error, and the growth in sessions per second."""
    before: tuple[float, int] | None = None
    done = 0
    while True:
        try:
            found: Stats | StoreUnavailable = stats_of(state.opened, settings_of(state))
        except StoreUnavailable as error:
            found = error
        at, growth = monotonic(), 0.0
        if isinstance(found, Stats):
            if before is not None and at > before[0]:
                growth = (found.sessions - before[1]) / (at - before[0])
            before = at, found.sessions
        yield found, growth
        done += 1
        if done == count:
            return
        sleep(interval)


def _described(sample: _Sample) -> dict[str, Any]:
    found, growth = sample
    if isinstance(found, StoreUnavailable):
        return {"error": str(found)}
    return {**found._asdict(), "growth_per_second": round(growth, 3)}


def _lines(found: Stats | StoreUnavailable, growth: float) -> str:
    """Returns a sample as lines of text."""
    if isinstance(found, StoreUnavailable):
        return printable(_failed(found))
    return f"{text_of(found)}\n{growth:+.1f} a second"


def _failed(error: StoreUnavailable) -> str:
    return f"The session store cannot be used: {error}"


def _show(samples: Iterator[_Sample], console: Any) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for sample in samples:
            live.update(_screen(*sample), refresh=True)


def _screen(found: Stats | StoreUnavailable, growth: float) -> Any:
    """Returns a sample as a table of rich."""
    from rich.table import Table
    from rich.text import Text

    if isinstance(found, StoreUnavailable):
        return Text(printable(_failed(found)), style="bold red")
    share = found.sessions / found.cap
    filled = min(_BAR, round(share * _BAR))
    style = "red" if share >= _NEARLY_FULL else "yellow" if share >= _FILLING else "green"
    table = Table.grid(padding=(0, 2))
    table.add_row("sessions", Text(f"{found.sessions} of {found.cap} ({share:.1%})"))
    table.add_row("", Text("█" * filled + "░" * (_BAR - filled), style=style))
    table.add_row("change", Text(f"{growth:+.1f} a second"))
    for tier, count in found.by_tier.items():
        table.add_row(Text(printable(tier)), Text(str(count)))
    table.add_row("due", Text(f"{found.due}, the oldest for {found.overdue_seconds:.1f} s"))
    for name, circuit in found.servers.items():
        style = "" if circuit == "closed" else "bold red"
        table.add_row(Text(printable(name)), Text(circuit, style=style))
    return table
