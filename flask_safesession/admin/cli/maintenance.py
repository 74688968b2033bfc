"""``purge``, ``stats``, ``check`` and ``schema``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import click
from flask import current_app

from ...config.settings import MAX_BATCH
from ...events import StorePurged, emit
from ...model.text import printable
from ...stores.sql.schema import SCHEMA_VERSION
from ..check import NAMES, findings
from ..purge import announce, audit, due_only, purge_steps
from ..stats import stats_of
from .group import as_json_option, commands, note_of_memory, on_store, say, settings_of
from .watch import text_of, watch

# Slices of a full audit: only a store of some hundred million sessions has more.
_FULL_ROUND = 1_000_000
# Seconds between two samples of ``--watch``.
_SHORTEST, _LONGEST = 0.1, 86_400
# A purge of at least this many sessions shows its progress.
_LONG = 1000


@commands.command()
@click.option("--batch", type=click.IntRange(1, MAX_BATCH), help="Sessions a step removes at most.")
@click.option("--dry-run", is_flag=True, help="Only count the sessions that are due.")
@as_json_option
@on_store
def purge(state: Any, batch: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove the sessions that are due, and fix the index."""
    settings = settings_of(state)
    store = state.opened.need_index()
    due = store.count(settings.rules).due
    if dry_run:
        say(as_json, {"due": due}, f"{due} sessions are due.", note=note_of_memory(state))
        return
    if batch is not None:
        settings = replace(settings, purge_batch=batch)
    # The first audit may continue one that the job has begun; the second covers all sessions.
    # Between them, sessions are removed that are due under shorter limits, or over the cap.
    removed = trimmed = repaired = 0
    start, app = time.monotonic(), current_app._get_current_object()  # type: ignore[attr-defined]
    for under in (due_only(settings), settings):
        with _progress(due, shown=due >= _LONG and not as_json) as advance:
            for step in purge_steps(store, under):
                announce(app, step, settings)
                removed, trimmed = removed + step.due, trimmed + step.trimmed
                advance(step.due)
        repaired += audit(store, settings, _FULL_ROUND)
        due = store.count(settings.rules).due
    result = {"due": removed, "trimmed": trimmed, "repaired": repaired}
    emit(app, StorePurged(**result, seconds=round(time.monotonic() - start, 6)))
    state.job.report()
    text = f"Removed {removed} due sessions and {trimmed} over the cap; fixed {repaired} entries."
    say(as_json, result, text, note=note_of_memory(state))


def _seconds(context: Any, option: Any, value: float | None) -> float | None:
    """Returns seconds to sleep. A range alone would accept ``nan``."""
    del context, option
    if value is not None and not _SHORTEST <= value <= _LONGEST:
        raise click.BadParameter(f"{value:g} is not between {_SHORTEST:g} and {_LONGEST:g} seconds")
    return value


@commands.command()
@click.option(
    "--watch",
    "interval",
    type=float,
    callback=_seconds,
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Repeat every 2 seconds, or every SECONDS, until Ctrl-C.",
)
@click.option("--count", type=click.IntRange(1), help="With --watch: stop after this many times.")
@as_json_option
@on_store
def stats(state: Any, interval: float | None, count: int | None, as_json: bool) -> None:
    """Show the number of sessions, by tier and against the cap, and the state of the servers."""
    if interval is not None:
        watch(state, interval, count, as_json)
        return
    if count is not None:
        raise click.UsageError("--count requires --watch: give both, or neither")
    found = stats_of(state.opened, settings_of(state))
    say(as_json, found._asdict(), text_of(found), note=note_of_memory(state))


@commands.command()
@click.option(
    "--ignore",
    type=click.Choice(NAMES),
    metavar="NAME",
    multiple=True,
    help="Ignore the finding with this name. Can be repeated.",
)
@as_json_option
@on_store
def check(state: Any, ignore: tuple[str, ...], as_json: bool) -> None:
    """Audit the deployment: keys, cookie flags, processes, the store's settings.

    Exits with 1 if there is a finding that is not ignored.
    """
    found = [one for one in findings(current_app, state) if one.name not in ignore]
    text = "\n".join(f"- {printable(one.text)} [{one.name}]" for one in found) or "No findings."
    result = {"findings": [one._asdict() for one in found]}
    say(as_json, result, text, note=note_of_memory(state))
    if found:
        raise click.exceptions.Exit(1)


@commands.command()
@click.option(
    "--from", "version", type=int, metavar="N", help="Print what changes tables of version N."
)
@as_json_option
@on_store
def schema(state: Any, version: int | None, as_json: bool) -> None:
    """Print the SQL that makes the tables of a store in a SQL database. Connects to no server."""
    store: Any = state.overrides.bare.store
    if not hasattr(store, "schema"):
        raise click.ClickException("SAFESESSION_STORE is not in a SQL database: it has no tables")
    if version not in (None, SCHEMA_VERSION):
        hint = f"there is no version {version} of the tables: the only one is {SCHEMA_VERSION}"
        raise click.BadParameter(hint, param_hint="--from")
    statements = store.schema() if version is None else []
    text = "".join(f"{statement};\n" for statement in statements).rstrip()
    done = f"-- Nothing to do: tables of version {version} are up to date."
    say(as_json, {"version": SCHEMA_VERSION, "statements": statements}, text or done)


def _ignore(done: int) -> None:
    """Shows no progress."""


@contextmanager
def _progress(length: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    if not shown:
        yield _ignore
        return
    with click.progressbar(length=length, label="Purging", file=sys.stderr) as bar:
        yield bar.update
