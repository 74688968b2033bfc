"""``adopt``."""

from __future__ import annotations

from typing import Any

import click

from ...config.reading import PREFIX
from ...errors import StoreUnavailable
from ...model.policy import as_datetime
from ...web.adoption.places.base import Place
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
    places = [_counted(place, most) for place in state.adoption.places]
    found = state.opened.need_adopting().adoptions()
    result = {
        "places": places,
        "adopted": found.total,
        "last": _shown(found.last or None),
        "until": _shown(until),
    }
    lines = [_line(place, most) for place in places]
    last = f", the last one at {result['last']}" if found.last else ""
    lines.append(f"Adopted until now: {found.total} sessions{last}.")
    over = " That is over." if until is not None and until <= found.now else ""
    lines.append(f"Adoption ends: {result['until'] or 'when the setting is removed'}.{over}")
    say(as_json, result, "\n".join(lines), note=note_of_memory(state))
    if any("error" in place for place in places):
        click.get_current_context().exit(1)


def _counted(place: Place, most: int) -> dict[str, Any]:
    """Returns how many sessions are left in a place; one that is down hides no other figure."""
    try:
        return {"place": place.name, "left": place.count(most)}
    except StoreUnavailable as error:
        return {"place": place.name, "left": None, "error": str(error)}


def _line(place: dict[str, Any], most: int) -> str:
    name, count = place["place"], place["left"]
    if "error" in place:
        return str(place["error"])
    if count is None:
        return f"{name}: its sessions cannot be counted"
    return f"{name}: {'at least ' if count >= most else ''}{count} sessions are left"


def _shown(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return as_datetime(milliseconds).isoformat(timespec="milliseconds")
