"""``list``, ``show`` and ``end``. They print handles, never IDs."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from math import isfinite
from typing import Any

import click
from flask import current_app

from ...config.overrides import DOCUMENT
from ...model.codec import UndecodableError, decode
from ...model.policy import milliseconds
from ...model.text import printable, span
from ...model.tokens import is_handle
from ...stores.base import Live
from ...web.adoption import end_all
from ...web.info import SessionInfo
from .. import directory
from .group import (
    as_json_option,
    ask,
    columns,
    commands,
    note_of_memory,
    on_store,
    say,
    settings_of,
    yes_option,
)
from .paging import part_of, walk

# Sessions per store call.
_PAGE = 200
_NO_PLACE = "it is not the end of such a list: the last line of one has it"
# A handle may begin with a dash.
_DASHES = {"ignore_unknown_options": True}
# Bits of the longest number that is shown in digits; Python prints at least 640 digits.
_LONGEST_NUMBER = 2000


def _handle(context: Any, option: Any, value: str | None) -> str | None:
    """Returns the handle, if it has the form of one."""
    del context, option
    if value is not None and not is_handle(value):
        raise click.BadParameter(f"{printable(value)!r} is not a handle: `list` shows them")
    return value


def _name(context: Any, option: Any, value: str | None) -> str | None:
    """Returns the user. Empty text may be an unset variable of a script, so it is refused."""
    del context, option
    if value == "":
        raise click.BadParameter("it is empty: name a user")
    return value


def _duration(context: Any, option: Any, value: str | None) -> int | None:
    """Returns a duration in milliseconds."""
    del context, option
    try:
        return None if value is None else milliseconds(value)
    except ValueError as error:
        raise click.BadParameter(f"{printable(value)!r}: {error}") from error


@commands.command("list")
@click.option("--user", callback=_name, help="Only this user's, newest first.")
@click.option("--tier", help="Only of this tier (`anonymous`: without a user).")
@click.option("--idle-over", callback=_duration, help="Only those unused for at least 20m, 2h …")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@click.option("--after", help="Continue a list: its last line has the value.")
@as_json_option
@on_store
def list_sessions(
    state: Any,
    user: str | None,
    tier: str | None,
    idle_over: int | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List live sessions: handle, tier, times and client; those of users first."""
    settings, now = settings_of(state), _now(state)
    _check_tier(settings, tier)

    def is_idle(one: SessionInfo) -> bool:
        return _idle(one, now) * 1000 >= (idle_over or 0)

    try:
        if user is not None:
            found = [one for one in _of_user(state, user) if tier in (None, one.tier)]
            listed, following = part_of(list(filter(is_idle, found)), after, limit)
        else:
            size = min(_PAGE, limit + 1) if idle_over is None else _PAGE
            browse = partial(directory.browse, state.opened, settings, tier)
            listed, following = walk(browse, is_idle, after, limit, size)
    except ValueError as error:
        raise click.BadParameter(_NO_PLACE, param_hint="--after") from error
    result = {"sessions": [_described(one, now) for one in listed], "next": following}
    text = _table(listed, now) if listed else "No sessions."
    if following:
        text += f"\nThere are more: --after {shlex.quote(following)}"
    say(as_json, result, text, note_of_memory(state))


@commands.command(context_settings=_DASHES)
@click.argument("handle", callback=_handle)
@click.option("--data", "with_data", is_flag=True, help="Also show the data that the app stored.")
@as_json_option
@on_store
def show(state: Any, handle: str, with_data: bool, as_json: bool) -> None:
    """Show one session. This does not use it: its idle time continues."""
    settings, now = settings_of(state), _now(state)
    info = directory.find(state.opened, settings, handle)
    if info is None:
        raise click.ClickException("No live session has this handle.")
    result = _described(info, now)
    if with_data:
        result["data"] = _data(state, handle)
    lines = [f"{name}: {_shown(value)}" for name, value in result.items() if value is not None]
    say(as_json, result, "\n".join(lines), note_of_memory(state))


@commands.command(context_settings=_DASHES)
@click.argument("handle", callback=_handle, required=False)
@click.option("--user", callback=_name, help="All sessions of this user.")
@click.option("--keep", callback=_handle, help="With --user: except the session with this handle.")
@click.option("--all", "everybody", is_flag=True, help="All sessions; asks first.")
@yes_option
@as_json_option
@on_store
def end(
    state: Any,
    handle: str | None,
    user: str | None,
    keep: str | None,
    everybody: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """End one session, all sessions of a user, or all. Exits with 1 if there was none.

    Asks before it ends all sessions of a user, or all.
    """
    if (handle is not None) + (user is not None) + everybody != 1:
        raise click.UsageError("Give one of: a handle, --user, --all.")
    if keep and user is None:
        raise click.UsageError("--keep requires --user.")
    settings, app = settings_of(state), current_app._get_current_object()  # type: ignore[attr-defined]
    ended: int | None
    if everybody:
        ended = _end_all(state, sure=yes)
    elif user is not None:
        ended = _end_user(app, state, user, keep, sure=yes)
    else:
        ended = int(directory.end(app, state.store, settings, str(handle)))
    state.job.report()
    text = f"Ended {_counted(ended)}."
    say(as_json, {"ended": ended}, text, note_of_memory(state))
    if ended == 0:
        raise click.exceptions.Exit(1)


def _end_all(state: Any, *, sure: bool) -> int | None:
    """Returns how many sessions there were; ``None``: the store cannot count them."""
    index = state.opened.index
    count = index.count(state.settings.rules).total if index else None
    number = "" if count is None else f"{count} "
    ask(f"End all {number}sessions, of users and anonymous visitors?", sure=sure)
    end_all(state.store, state.settings)
    return count


def _end_user(app: Any, state: Any, text: str, keep: str | None, *, sure: bool) -> int:
    user = state.people.find(text)
    found = directory.sessions_of(state.opened, state.settings, user, keep)
    if count := sum(not one.current for one in found):
        name = printable(state.people.name(user))
        ask(f"End {_counted(count)} of user {name}?", sure=sure)
    return directory.end_user(app, state.opened, state.settings, user, keep)


def _counted(count: int | None) -> str:
    return f"{'all' if count is None else count} session{'' if count == 1 else 's'}"


def _of_user(state: Any, text: str) -> list[SessionInfo]:
    user = state.people.find(text)
    found = directory.sessions_of(state.opened, state.settings, user, None)
    return [one._replace(user=str(user)) for one in found]


def _check_tier(settings: Any, tier: str | None) -> None:
    names = settings.rules.policy.names
    if tier is not None and tier not in names:
        raise click.BadParameter(
            f"{printable(tier)!r} is not a tier; there are {', '.join(names)}",
            param_hint="--tier",
        )


def _now(state: Any) -> datetime:
    """Returns the store's time, or this machine's for a store without an index."""
    store = state.opened.index
    now = store.document(DOCUMENT).now / 1000 if store else time.time()
    return datetime.fromtimestamp(now, UTC)


def _idle(info: SessionInfo, now: datetime) -> float:
    return max(0.0, (now - info.last_active).total_seconds()) if info.last_active else 0.0


def _left(info: SessionInfo, now: datetime) -> float:
    return max(0.0, (info.expires_at - now).total_seconds()) if info.expires_at else 0.0


def _described(info: SessionInfo, now: datetime) -> dict[str, Any]:
    times = (info.created_at, info.last_active, info.expires_at)
    created, active, expires = (at and at.isoformat(timespec="milliseconds") for at in times)
    return {
        "handle": info.handle,
        "user": info.user,
        "tier": info.tier,
        "created_at": created,
        "last_active": active,
        "expires_at": expires,
        "idle_seconds": round(_idle(info, now), 1),
        "left_seconds": round(_left(info, now), 1),
        "client": info.client and info.client._asdict(),
        "last_client": info.last_client and info.last_client._asdict(),
        "endpoint": info.endpoint,
        "used_again": info.used_again,
        "own_lifetime_seconds": info.own_lifetime and info.own_lifetime.total_seconds(),
    }


def _table(listed: Iterable[SessionInfo], now: datetime) -> str:
    rows: list[tuple[str, ...]] = [("HANDLE", "TIER", "IDLE", "LEFT", "CREATED", "CLIENT")]
    for one in listed:
        created = f"{one.created_at:%Y-%m-%d %H:%M:%S}" if one.created_at else ""
        client = one.last_client and f"{one.last_client.address} {one.last_client.agent}"
        spans = (span(_idle(one, now)), span(_left(one, now)))
        row = (one.handle or "", one.tier, *spans, created, client or "")
        rows.append(row)
    return columns(rows)


def _data(state: Any, handle: str) -> Any:
    answer = state.store.load(handle, state.settings.rules, slide=False)
    if not isinstance(answer, Live):
        raise click.ClickException("The session has just ended.")
    try:
        return _as_json(decode(answer.record.payload))
    except UndecodableError as error:
        raise click.ClickException(f"The data cannot be read: {error}") from error


def _as_json(value: Any) -> Any:
    """Returns *value* for JSON, with the ``repr`` of types that JSON does not have."""
    if isinstance(value, dict):
        return _as_object(dict(dict.items(value)))
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        return hex(value)  # Python refuses to print it in digits
    known = isinstance(value, (str, int)) or value is None
    return value if known or (isinstance(value, float) and isfinite(value)) else _spelled(value)


def _as_object(data: dict[Any, Any]) -> Any:
    """Returns a dict as an object, or as a list of pairs if two keys would be the same text."""
    pairs = [(k if isinstance(k, str) else _spelled(k), _as_json(v)) for k, v in data.items()]
    shown = dict(pairs)
    return shown if len(shown) == len(pairs) else [list(pair) for pair in pairs]


def _spelled(value: Any) -> str:
    """Returns the ``repr`` of *value*."""
    try:
        return repr(value)
    except ValueError:  # it contains a number that Python refuses to print in digits
        return f"<{type(value).__name__} with a number that is too long>"


def _shown(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return printable(value or "")
    return printable(json.dumps(value, ensure_ascii=False))
