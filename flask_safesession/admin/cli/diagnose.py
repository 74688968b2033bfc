"""``diagnose``: shows what makes the sessions grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import click
from flask import current_app

from ...model.text import printable, span
from ..diagnosis import NAMES, Diagnosis, growth_text, place_of
from ..diagnosis import diagnose as take
from ..figures import ROWS, Key, Origin, sized
from ..sampling import PAYLOADS, SAMPLE
from .group import as_json_option, columns, commands, note_of_memory, on_store, say, settings_of

_ORIGINS = ("CREATED AT", "BY", "SESSIONS", "NEVER USED AGAIN", "MEDIAN AGE")
_KEYS = ("KEY", "OF ALL BYTES", "SESSIONS", "MEDIAN", "LARGEST", "ENTRIES")
_USERS = ("SESSIONS OF ONE USER", "THE NEWEST")


@commands.command()
@click.option(
    "--sample",
    type=click.IntRange(1, 100_000),
    default=SAMPLE,
    show_default=True,
    help="Sessions of each tier to look at.",
)
@click.option(
    "--payloads",
    type=click.IntRange(1, 100_000),
    default=PAYLOADS,
    show_default=True,
    help="Sessions whose data are read.",
)
@click.option(
    "--ignore",
    type=click.Choice(NAMES),
    metavar="NAME",
    multiple=True,
    help="Ignore the findings with this name. Can be repeated.",
)
@as_json_option
@on_store
def diagnose(
    state: Any, sample: int, payloads: int, ignore: tuple[str, ...], as_json: bool
) -> None:
    """Show what makes the sessions grow, from a sample, with cause and fix.

    Uses no session, and shows names of keys and sizes, but no value. Exits with 1 if there is a
    finding that is not ignored.
    """
    settings_of(state)
    found = take(current_app, state, sample, payloads)
    found = replace(found, findings=tuple(p for p in found.findings if p.name not in ignore))
    text = "\n\n".join(_sections(found, lambda endpoint: place_of(current_app, endpoint)))
    say(as_json, asdict(found), text, note=note_of_memory(state))
    if found.findings:
        raise click.exceptions.Exit(1)


def _sections(found: Diagnosis, place: Callable[[str], str]) -> Iterator[str]:
    yield "\n".join(_summary(found))
    if found.origins:
        yield _table(_ORIGINS, [_origin(one, found, place) for one in found.origins])
    if found.sizes:
        size = found.sizes
        yield (
            f"Size of a session: median {sized(size.median)}, 95 % up to"
            f" {sized(size.percentile_95)}, largest {sized(size.largest)} ({size.with_data:,} read,"
            f" {found.only_tokens:,} of them with only a CSRF token or a flash)."
        )
    if found.keys:
        yield _table(_KEYS, [_key(one) for one in found.keys])
    if found.users:
        yield _table(_USERS, [(f"{one.sessions:,}", one.handle) for one in found.users])
    yield "\n".join(_findings(found)) or "No findings."


def _summary(found: Diagnosis) -> Iterator[str]:
    share = found.sessions / found.cap
    yield (
        f"Looked at {found.looked_at:,} of {found.sessions:,} sessions; {found.cap:,} are allowed"
        f" ({share:.1%})."
    )
    yield f"Growth: {growth_text(found.growth)}."
    if found.sizes:
        about = "" if found.is_whole else "about "
        yield f"Size of all sessions: {about}{sized(found.sizes.total)}."
    if found.process_bytes is not None:
        yield f"Memory of this process, the command: {sized(found.process_bytes)}."


def _origin(
    one: Origin, found: Diagnosis, place: Callable[[str], str]
) -> tuple[str, str, str, str, str]:
    unused = f"{one.never_used / one.settled:.0%} of {one.settled:,}" if one.settled else "too new"
    return (
        place(one.endpoint) or "unknown",
        "anonymous" if one.anonymous else "users",
        f"{one.sessions:,}" if found.is_whole else f"about {one.sessions:,}",
        unused,
        span(one.median_age),
    )


def _key(one: Key) -> tuple[str, str, str, str, str, str]:
    entries = f"{one.lengths.shortest:,} to {one.lengths.longest:,}" if one.lengths else ""
    sizes = (sized(one.median), sized(one.largest))
    return (one.name, f"{one.share:.0%}", f"{one.sessions:,}", *sizes, entries)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    more = f"\n… and {len(rows) - ROWS:,} more: --json." if len(rows) > ROWS else ""
    return columns([head, *rows[:ROWS]]) + more


def _findings(found: Diagnosis) -> Iterator[str]:
    for one in found.findings:
        yield f"- {printable(one.seen)} [{one.name}]"
        yield f"    Cause: {printable(one.cause)}"
        yield f"    Fix: {printable(one.fix)}"
