"""The views. Each makes a handful of store calls, however many sessions there are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import flask
from flask import redirect, request, url_for
from werkzeug.wrappers import Response

from ..admin.stats import Stats
from ..errors import StoreUnavailable
from ..extension import SafeSession
from ..stores.opening import CannotDo
from ..web.info import SessionInfo
from .chart import chart_of
from .csrf import is_token_of, new_token
from .minutes import Minutes
from .pages import render
from .runs import Runs

#: Where the app keeps what is :class:`Watched`.
WATCHED = "safesession.dashboard"
#: Sessions on one page of the table.
PAGE = 25

_NOTES = {
    "ended": "The session has ended.",
    "gone": "There is no such session: it has ended already.",
    "stale": (
        "Nothing was ended: this page was drawn for another session of yours, or for one that got"
        " a new ID meanwhile. Please try again."
    ),
}


class Watched(NamedTuple):
    """What this process has seen of one app's sessions."""

    minutes: Minutes
    runs: Runs


class Asked(NamedTuple):
    """What is to be listed. *after* is where the page begins, as the one before it said."""

    q: str = ""
    tier: str = ""
    after: str = ""


class Listed(NamedTuple):
    """A page of sessions. *total* is known where all of them are one user's."""

    sessions: list[SessionInfo]
    next: str = ""
    total: int | None = None


def overview(safe: SafeSession, status: int = 200, note: str = "") -> tuple[str, int]:
    """The figures, and a page of the table of sessions."""
    asked, listed = _asked(safe), None
    can_list = safe._state()[1].opened.index is not None
    with suppress(StoreUnavailable):
        if can_list:
            asked, listed = _listed(safe, asked)
    context = _figures(safe)
    if can_list and (context["stats"] is None or listed is None):
        status = 503
    return render(
        "overview.html",
        asked=asked,
        can_list=can_list,
        listed=listed,
        tiers=_tiers(safe),
        own=_own_handle(),
        token=_token(),
        note=note or _note(),
        **context,
    ), status


def figures(safe: SafeSession) -> str:
    """The figures alone, for the script that draws them anew."""
    return render("figures.html", **_figures(safe))


def end(safe: SafeSession) -> Response | tuple[str, int]:
    """End the session whose handle was sent."""
    if not _is_meant():
        return overview(safe, 403, _NOTES["stale"])
    ended = safe.end(request.form.get("handle", ""))
    back = {k: v for k, v in _asked(safe)._asdict().items() if v}
    return _back(**back, note="ended" if ended else "gone")


def confirm(safe: SafeSession, status: int = 200, note: str = "") -> tuple[str, int]:
    """Ask whether all sessions of a user are to end."""
    user = _user()
    return render(
        "confirm.html",
        user=user,
        sessions=safe.sessions_of(user) if user else [],
        own=_own_handle(),
        token=_token(),
        note=note,
    ), status


def end_user(safe: SafeSession) -> Response | tuple[str, int]:
    """End all sessions of the user who was sent, but for the own one where that is asked for."""
    if not _is_meant():
        return confirm(safe, 403, _NOTES["stale"])
    keep = _own_handle() if request.form.get("keep") else None
    user = _user()
    count = safe.end_user(user, keep=keep) if user else 0
    return _back(q=user, count=str(count))


#: Rule, endpoint, view and method of each page.
ROUTES: tuple[tuple[str, str, Callable[..., Any], str], ...] = (
    ("/", "overview", overview, "GET"),
    ("/figures", "figures", figures, "GET"),
    ("/end", "end", end, "POST"),
    ("/end-user", "confirm", confirm, "GET"),
    ("/end-user", "end_user", end_user, "POST"),
)


# -- what is listed ---------------------------------------------------------------------------


def _asked(safe: SafeSession) -> Asked:
    """What the address, or the form, asks for, to the letter: a user may be named ``" bob"``."""
    q, tier, after = (request.values.get(name, "") for name in Asked._fields)
    return Asked(q, tier if tier in _tiers(safe) else "", after)


def _user() -> str:
    """Whose sessions are to be ended, to the letter: a shorter name would be another user's."""
    return request.values.get("user", "")


def _listed(safe: SafeSession, asked: Asked) -> tuple[Asked, Listed]:
    """The page that was *asked* for; with what it shows, if that is not quite the same."""
    for q in dict.fromkeys((asked.q, asked.q.strip())):
        if q and (found := safe.sessions_of(q)):
            return asked._replace(q=q), _part(found, asked.after)
    if handle := asked.q.strip():
        one = safe.find(handle)
        return asked, Listed([one] if one else [])
    return asked._replace(q=""), _browsed(safe, asked)


def _browsed(safe: SafeSession, asked: Asked) -> Listed:
    if asked.after:
        # No page may have ended there. Some stores notice it first when the server refuses it.
        with suppress(ValueError, StoreUnavailable):
            page = safe.browse(tier=asked.tier or None, after=asked.after, limit=PAGE)
            return Listed(page.sessions, page.next or "")
    page = safe.browse(tier=asked.tier or None, limit=PAGE)
    return Listed(page.sessions, page.next or "")


def _part(found: list[SessionInfo], after: str) -> Listed:
    """A page of a user's sessions."""
    start = int(after[:9]) if after.isdecimal() else 0
    more = str(start + PAGE) if start + PAGE < len(found) else ""
    return Listed(found[start : start + PAGE], more, len(found))


def _tiers(safe: SafeSession) -> tuple[str, ...]:
    return safe._state()[1].settings.rules.policy.names


# -- figures ----------------------------------------------------------------------------------


def _figures(safe: SafeSession) -> dict[str, Any]:
    stats: Stats | None = None
    with suppress(StoreUnavailable, CannotDo):
        stats = safe.stats()
    app, state = safe._state()
    watched: Watched = app.extensions[WATCHED]
    return {
        "stats": stats,
        "can_count": state.opened.index is not None,
        "servers": safe.servers(),
        "shared": state.store.shared,
        "interval": state.settings.check_interval,
        "chart": chart_of(watched.minutes.last()),
        "runs": watched.runs.newest_first(),
    }


# -- forms ------------------------------------------------------------------------------------


def _own_handle() -> str | None:
    """The handle of the session that asks; ``None`` where there is none, or it is not known."""
    with suppress(StoreUnavailable, AttributeError):  # Flask's null session has no info
        handle: str | None = flask.session.info.handle  # type: ignore[attr-defined]
        return handle
    return None


def _token() -> str | None:
    """A token for the forms of this page; ``None``: without a session nothing can be ended."""
    handle = _own_handle()
    return new_token(handle) if handle is not None else None


def _is_meant() -> bool:
    return is_token_of(_own_handle(), request.form.get("token", ""))


def _back(**query: Any) -> Response:
    """To the table, which says what was done."""
    return redirect(url_for(".overview", _anchor="table", **query), 303)


def _note() -> str:
    """What the page before this one did: words of ours and a number, no text from the address."""
    count = request.args.get("count", "")
    if count.isdecimal():
        return f"Sessions ended: {int(count[:9]):,}."
    return _NOTES.get(request.args.get("note", ""), "")
