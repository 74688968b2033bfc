"""The group of commands, and the functions that they share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from ...config.settings import Settings
from ...errors import StoreUnavailable
from ...model.text import printable, printable_lines
from ...stores.opening import CannotDo

commands: AppGroup = AppGroup("safesession", help="Manage the sessions of this app.")

#: The option that all commands have.
as_json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object."
)

#: The option of the commands that may end several sessions.
yes_option: Callable[[Any], Any] = click.option(
    "--yes", is_flag=True, help="Do not ask before several sessions end."
)


def ask(question: str, *, sure: bool) -> None:
    """Stop the command unless the operator agrees. Asks on stderr, so that JSON stays alone."""
    if not sure:
        click.confirm(question, abort=True, err=True)


def on_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """Pass the app's state to *command*. Errors of the store become messages, not tracebacks."""

    @wraps(command)
    def guarded(**options: Any) -> Any:
        try:
            return command(current_app.extensions["safesession"], **options)
        except StoreUnavailable as error:
            text = printable(f"The session store cannot be used: {error}")
            raise click.ClickException(text) from error
        except CannotDo as error:
            raise click.ClickException(printable(str(error))) from error
        except click.ClickException as error:
            vars(error)["message"] = printable_lines(error.message)  # Final, to mypy
            raise

    return guarded


def settings_of(state: Any) -> Settings:
    """Returns the settings that the fleet currently uses."""
    state.overrides.refresh()
    settings: Settings = state.settings
    return settings


def say(as_json: bool, result: dict[str, Any], text: str, note: str = "") -> None:
    """Print *result* as JSON, or *text*. A *note* goes to stderr, or into the JSON."""
    if as_json:
        click.echo(json_of(result | ({"note": note} if note else {})))
        return
    click.echo(printable_lines(text))
    if note:
        click.echo(note, err=True)


def json_of(result: dict[str, Any]) -> str:
    """Returns *result* as JSON in ASCII, without control characters (``dumps`` keeps DEL)."""
    return json.dumps(result).replace("\x7f", "\\u007f")


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as text, each row on one line."""
    cells = [list(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def note_of_memory(state: Any) -> str:
    """Returns a note for a store that this process does not share, else ``""``."""
    if state.store.shared:
        return ""
    return "The store is in memory: this command cannot see the sessions of the running server."
