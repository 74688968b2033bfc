"""The view of ``stats --watch``: how many sessions there are, as it changes."""

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

_Look = tuple["Stats | StoreUnavailable", float]
_BAR = 40
# Of the cap: from the first on the extension warns, too; users get no more than the second.
_FILLING, _NEARLY_FULL = 0.8, 0.95


def watch(state: Any, interval: float, count: int | None, as_json: bool) -> None:
    """Shows the figures until Ctrl-C: on a terminal with rich, otherwise as lines.

    :param interval: seconds between two looks.
    :param count: stop after so many looks; ``None``: never.
    :param as_json: print one JSON object for each look.
    """
    if note := note_of_memory(state):
        click.echo(note, err=True)
    last: list[Stats | StoreUnavailable] = []
    looks = _noted(_looks(state, interval, count), last)
    with suppress(KeyboardInterrupt):
        if not as_json and (console := terminal()) is not None:
            _show(looks, console)
        else:
            for look in looks:
                text = json_of(_described(look)) if as_json else printable_lines(_lines(*look))
                click.echo(text)
    if last and isinstance(last[0], StoreUnavailable):
        raise SystemExit(1)


def terminal() -> Any:
    """The console of rich where one view can be drawn over the last one, otherwise ``None``."""
    if find_spec("rich") is None:
        return None
    from rich.console import Console

    console = Console()
    return console if console.is_terminal and not console.is_dumb_terminal else None


def text_of(found: Stats) -> str:
    """The figures as lines of text."""
    return "\n".join(
        [
            f"{found.sessions} sessions of {found.cap} ({found.sessions / found.cap:.1%})",
            *(f"  {printable(tier)}: {count}" for tier, count in found.by_tier.items()),
            f"{found.due} due, the oldest for {found.overdue_seconds:.1f} s",
            *(f"server {printable(name)}: circuit {it}" for name, it in found.servers.items()),
        ]
    )


def _noted(looks: Iterator[_Look], last: list[Stats | StoreUnavailable]) -> Iterator[_Look]:
    for look in looks:
        last[:] = look[:1]
        yield look


def _looks(state: Any, interval: float, count: int | None) -> Iterator[_Look]:
    """What the store says, or why it does not, and how many sessions came a second."""
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


def _described(look: _Look) -> dict[str, Any]:
    found, growth = look
    if isinstance(found, StoreUnavailable):
        return {"error": str(found)}
    return {**found._asdict(), "growth_per_second": round(growth, 3)}


def _lines(found: Stats | StoreUnavailable, growth: float) -> str:
    """One look without rich."""
    if isinstance(found, StoreUnavailable):
        return printable(_failed(found))
    return f"{text_of(found)}\n{growth:+.1f} a second"


def _failed(error: StoreUnavailable) -> str:
    return f"The session store cannot be used: {error}"


def _show(looks: Iterator[_Look], console: Any) -> None:
    from rich.live import Live

    with Live(console=console, auto_refresh=False) as live:
        for look in looks:
            live.update(_screen(*look), refresh=True)


def _screen(found: Stats | StoreUnavailable, growth: float) -> Any:
    """One look with rich."""
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
