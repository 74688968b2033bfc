"""The views. Each makes a few store calls, however many sessions there are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import flask
from flask import redirect, request, url_for
from werkzeug.wrappers import Response

from ..admin.diagnosis import diagnose, growth_text, place_of
from ..admin.figures import ROWS
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

#: The key of an app's :class:`Watched` in ``app.extensions``.
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
    """One app's events in this process."""

    minutes: Minutes
    runs: Runs


class Asked(NamedTuple):
    """The sessions to list. *after*: the ``next`` of the page before."""

    q: str = ""
    tier: str = ""
    after: str = ""


class Listed(NamedTuple):
    """A page of sessions. *total*: the number of a user's sessions, ``None`` for other lists."""

    sessions: list[SessionInfo]
    next: str = ""
    total: int | None = None


def overview(safe: SafeSession, status: int = 200, note: str = "") -> tuple[str, int]:
    """Show the stats, and a page of the table of sessions."""
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
    """Show the stats alone, for the script that refreshes them."""
    return render("figures.html", **_figures(safe))


def diagnosis(safe: SafeSession) -> tuple[str, int]:
    """Show what makes the sessions grow."""
    app, state = safe._state()
    can_list, found = state.opened.index is not None, None
    with suppress(StoreUnavailable):
        found = diagnose(app, state) if can_list else None
    return render(
        "diagnosis.html",
        can_list=can_list,
        found=found,
        about="" if found is None or found.is_whole else "about ",
        growth=growth_text(found.growth if found else None),
        place=partial(place_of, app),
        rows=ROWS,
        shared=state.store.shared,
    ), 503 if can_list and found is None else 200


def end(safe: SafeSession) -> Response | tuple[str, int]:
    """End the session with the handle in the form."""
    if not _is_meant():
        return overview(safe, 403, _NOTES["stale"])
    ended = safe.end(request.form.get("handle", ""))
    back = {k: v for k, v in _asked(safe)._asdict().items() if v}
    return _back(**back, note="ended" if ended else "gone")


def confirm(safe: SafeSession, status: int = 200, note: str = "") -> tuple[str, int]:
    """Ask whether to end all sessions of a user."""
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
    """End all sessions of the user in the form, except the operator's own if asked to keep it."""
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
    ("/diagnosis", "diagnosis", diagnosis, "GET"),
    ("/end", "end", end, "POST"),
    ("/end-user", "confirm", confirm, "GET"),
    ("/end-user", "end_user", end_user, "POST"),
)


# -- what is listed ---------------------------------------------------------------------------


def _asked(safe: SafeSession) -> Asked:
    """Returns the query of address or form, not stripped: a user may be named ``" bob"``."""
    q, tier, after = (request.values.get(name, "") for name in Asked._fields)
    return Asked(q, tier if tier in _tiers(safe) else "", after)


def _user() -> str:
    """Returns the user to end, not stripped: a stripped name may be another user's."""
    return request.values.get("user", "")


def _listed(safe: SafeSession, asked: Asked) -> tuple[Asked, Listed]:
    """Returns the page for *asked*, and the query that it shows: the name may be stripped."""
    for q in dict.fromkeys((asked.q, asked.q.strip())):
        if q and (found := safe.sessions_of(q)):
            return asked._replace(q=q), _part(found, asked.after)
    if handle := asked.q.strip():
        one = safe.find(handle)
        return asked, Listed([one] if one else [])
    return asked._replace(q=""), _browsed(safe, asked)


def _browsed(safe: SafeSession, asked: Asked) -> Listed:
    if asked.after:
        # A forged *after* raises: some stores find out only when the server refuses it.
        with suppress(ValueError, StoreUnavailable):
            page = safe.browse(tier=asked.tier or None, after=asked.after, limit=PAGE)
            return Listed(page.sessions, page.next or "")
    page = safe.browse(tier=asked.tier or None, limit=PAGE)
    return Listed(page.sessions, page.next or "")


def _part(found: list[SessionInfo], after: str) -> Listed:
    """Returns a page of a user's sessions."""
    start = int(after[:9]) if after.isdecimal() else 0
    more = str(start + PAGE) if start + PAGE < len(found) else ""
    return Listed(found[start : start + PAGE], more, len(found))


def _tiers(safe: SafeSession) -> tuple[str, ...]:
    return safe._state()[1].settings.rules.policy.names


# -- stats ------------------------------------------------------------------------------------


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
    """Returns the operator's own handle; ``None`` without a session, or if it is unknown."""
    with suppress(StoreUnavailable, AttributeError):  # Flask's null session has no info
        handle: str | None = flask.session.info.handle  # type: ignore[attr-defined]
        return handle
    return None


def _token() -> str | None:
    """Returns a token for the forms; ``None`` without a session: then nothing can be ended."""
    handle = _own_handle()
    return new_token(handle) if handle is not None else None


def _is_meant() -> bool:
    return is_token_of(_own_handle(), request.form.get("token", ""))


def _back(**query: Any) -> Response:
    """Redirect to the table, which reports what was done."""
    return redirect(url_for(".overview", _anchor="table", **query), 303)


def _note() -> str:
    """Returns the result of the last form: a fixed text or a number, no text from the address."""
    count = request.args.get("count", "")
    if count.isdecimal():
        return f"Sessions ended: {int(count[:9]):,}."
    return _NOTES.get(request.args.get("note", ""), "")
