"""The group of commands, and what they share."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from ..errors import StoreUnavailable
from ..settings import Settings

commands: AppGroup = AppGroup("safesession", help="Look after the sessions of this app.")

#: The option that all commands have.
as_json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object."
)


def on_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hand the app's state to *command*; a store that is down is a message, not a traceback."""

    @wraps(command)
    def guarded(**options: Any) -> Any:
        try:
            return command(current_app.extensions["safesession"], **options)
        except StoreUnavailable as error:
            raise click.ClickException(f"The session store cannot be used: {error}") from error

    return guarded


def settings_of(state: Any) -> Settings:
    """The settings that the fleet goes by."""
    state.steering.look()
    settings: Settings = state.settings
    return settings


def say(as_json: bool, result: dict[str, Any], text: str, note: str = "") -> None:
    """Print *result* as JSON, or *text*; a *note* beside it."""
    if as_json:
        click.echo(json.dumps(result | ({"note": note} if note else {})))
        return
    click.echo(text)
    if note:
        click.echo(note, err=True)


def note_of_memory(state: Any) -> str:
    """What to say where another process cannot be seen."""
    if state.store.shared:
        return ""
    return "The store is in memory: this command cannot see the sessions of the running server."


def printable(value: object) -> str:
    """*value* for a terminal, which must not take what a visitor sent for a command."""
    text = str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
