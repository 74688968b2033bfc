"""``tune``: changes settings of the whole fleet while it runs."""

from __future__ import annotations

import getpass
from functools import partial
from typing import Any

import click

from ...config.overrides import Tuned, shown
from ...model.text import printable
from .group import (
    as_json_option,
    ask,
    commands,
    note_of_memory,
    on_store,
    say,
    settings_of,
    yes_option,
)

# Restores each app's own value of a setting.
_OWN = "own"


@commands.command()
@click.option("--idle-timeout", help="A duration, such as 20m; `own` restores each app's own.")
@click.option("--lifetime", help="Likewise.")
@click.option("--longest-lifetime", help="Likewise.")
@click.option(
    "--tier",
    "tiers",
    type=(str, str),
    multiple=True,
    metavar="NAME LIMIT",
    help="Such as: admin idle_timeout=5m; admin own.",
)
@click.option("--max-sessions", help="The cap; or `own`.")
@click.option("--check-interval", help="A duration; or `own`.")
@click.option("--reset", is_flag=True, help="Restore all settings that are not named.")
@click.option("--by", help="Who makes the change; by default the account that runs this command.")
@click.option("--dry-run", is_flag=True, help="Change nothing, count the sessions that would end.")
@yes_option
@as_json_option
@on_store
def tune(
    state: Any,
    tiers: tuple[tuple[str, str], ...],
    reset: bool,
    by: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **asked: str | None,
) -> None:
    """Change settings of all processes on the store; without options, show the changes.

    Each process applies them within a check interval. Shorter limits also apply to sessions that
    exist, so the command asks if any would end.
    """
    settings_of(state)
    changes: dict[str, Any] = {name: _value(text) for name, text in asked.items() if text}
    if tiers:
        changes["tiers"] = _tiers(tiers)
    if changes or reset:
        by = by or _account()
        change = partial(state.overrides.tune, changes, by=by, reset=reset)
        if not dry_run and not yes and (would := change(dry_run=True)).would_end:
            ask(f"{_text_of(would)} Change the settings?", sure=False)
        tuned = change(dry_run=dry_run)
    else:
        state.opened.need_index()
        tuned = state.overrides.tuned
    say(as_json, _described(tuned), _text_of(tuned), note_of_memory(state))


def _value(text: str) -> str | None:
    return None if text == _OWN else text


def _tiers(given: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    tiers: dict[str, Any] = {}
    for name, text in given:
        limit, separator, value = text.partition("=")
        if text == _OWN:
            tiers[name] = None
        elif not separator:
            raise click.BadParameter(
                f"{printable(text)!r}: write idle_timeout=5m, lifetime=1h or own",
                param_hint="--tier",
            )
        else:
            tiers[name] = {**(tiers.get(name) or {}), limit: value}
    return tiers


def _account() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's account without a name
        return None


def _described(tuned: Tuned | None) -> dict[str, Any]:
    if tuned is None:
        return {"settings": {}, "by": None, "at": None, "revision": 0}
    fields: dict[str, Any] = {
        "settings": dict(tuned.settings),
        "by": tuned.by,
        "at": tuned.at.isoformat(timespec="milliseconds"),
        "revision": tuned.revision,
    }
    return fields if tuned.would_end is None else {**fields, "would_end": tuned.would_end}


def _text_of(tuned: Tuned | None) -> str:
    if tuned is None:
        return "Each app uses its own settings."
    settings = printable(shown(tuned.settings)) or "each app's own settings"
    if tuned.would_end is not None:
        noun = "session" if tuned.would_end == 1 else "sessions"
        return f"With {settings} {tuned.would_end} {noun} would end."
    who = f" by {printable(tuned.by)}" if tuned.by else ""
    return f"Revision {tuned.revision}{who}, {tuned.at:%Y-%m-%d %H:%M:%S} UTC: {settings}"
