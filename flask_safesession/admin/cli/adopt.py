"""``adopt``."""

from __future__ import annotations

from typing import Any

import click

from ...config.reading import PREFIX
from ...model.policy import as_datetime
from .group import as_json_option, commands, note_of_memory, on_store, say, settings_of


@commands.command()
@click.option(
    "--most",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Sessions that are counted in each older place at most.",
)
@as_json_option
@on_store
def adopt(state: Any, most: int, as_json: bool) -> None:
    """Show how many sessions are left in older places, and how many came over."""
    if state.adoption is None:
        raise click.ClickException(f"{PREFIX}ADOPT is not set: no sessions are adopted")
    until = settings_of(state).adopt_until
    left = [(place.name, place.count(most)) for place in state.adoption.places]
    found = state.opened.need_adopting().adoptions()
    result = {
        "places": [{"place": name, "left": count} for name, count in left],
        "adopted": found.total,
        "last": _shown(found.last or None),
        "until": _shown(until),
    }
    lines = [f"{name}: {_counted(count, most)}" for name, count in left]
    last = f", the last one at {result['last']}" if found.last else ""
    lines.append(f"Adopted until now: {found.total} sessions{last}.")
    over = " That is over." if until is not None and until <= found.now else ""
    lines.append(f"Adoption ends: {result['until'] or 'when the setting is removed'}.{over}")
    say(as_json, result, "\n".join(lines), note=note_of_memory(state))


def _counted(count: int | None, most: int) -> str:
    if count is None:
        return "its sessions cannot be counted"
    return f"{'at least ' if count >= most else ''}{count} sessions are left"


def _shown(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return as_datetime(milliseconds).isoformat(timespec="milliseconds")
