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
from ..stores.opening import CannotDo, shown_place
from . import table
from .chart import chart_of
from .csrf import is_token_of, new_token
from .fleet import Fleet
from .pages import render

#: The key of an app's :class:`.Fleet` in ``app.extensions``.
WATCHED = "safesession.dashboard"

_NOTES = {
    "ended": "The session has ended.",
    "gone": "There is no such session: it has ended already.",
    "stale": (
        "Nothing was ended: this page was drawn for another session of yours, or for one that got"
        " a new ID meanwhile. Please try again."
    ),
}


class Desk(NamedTuple):
    """The arguments of a dashboard. *back*: the endpoint of the link back to the app."""

    safe: SafeSession
    back: str | None


def overview(desk: Desk, status: int = 200, note: str = "") -> tuple[str, int]:
    """Show the stats, and a page of the table of sessions."""
    safe = desk.safe
    ask, listed = table.asked(safe), None
    can_list = table.can_list(safe, ask)
    with suppress(StoreUnavailable):
        listed = table.listed(safe, ask) if can_list else None
    context = _figures(safe)
    if (can_list and listed is None) or (context["can_count"] and context["stats"] is None):
        status = 503
    if not ask.q.strip() and (listed is None or listed.user is None):
        ask = ask._replace(q="")
    return _page(
        desk,
        "overview.html",
        asked=ask,
        can_list=can_list,
        can_search=safe._state()[1].opened.users is not None,
        listed=listed,
        tiers=table.tiers(safe),
        own=_own_handle(),
        token=_token(),
        note=note or _note(),
        **context,
    ), status


def figures(desk: Desk) -> str:
    """Show the stats alone, for the script that refreshes them."""
    return render("figures.html", **_figures(desk.safe))


def diagnosis(desk: Desk) -> tuple[str, int]:
    """Show what makes the sessions grow."""
    app, state = desk.safe._state()
    can_list, found = state.opened.index is not None, None
    with suppress(StoreUnavailable):
        found = diagnose(app, state) if can_list else None
    return _page(
        desk,
        "diagnosis.html",
        can_list=can_list,
        found=found,
        about="" if found is None or found.is_whole else "about ",
        growth=growth_text(found.growth if found else None),
        place=partial(place_of, app),
        rows=ROWS,
        shared=state.store.shared,
    ), 503 if can_list and found is None else 200


def end(desk: Desk) -> Response | tuple[str, int]:
    """End the session with the handle in the form."""
    if not _is_meant():
        return overview(desk, 403, _NOTES["stale"])
    ended = desk.safe.end(request.form.get("handle", ""))
    return _back(**table.asked(desk.safe).given, note="ended" if ended else "gone")


def confirm(desk: Desk, status: int = 200, note: str = "") -> tuple[str, int]:
    """Ask whether to end all sessions of a user."""
    user = _user()
    return _page(
        desk,
        "confirm.html",
        user=user,
        sessions=desk.safe.sessions_of(user) if user else [],
        own=_own_handle(),
        token=_token(),
        note=note,
    ), status


def end_user(desk: Desk) -> Response | tuple[str, int]:
    """End all sessions of the user in the form, except the operator's own if asked to keep it."""
    if not _is_meant():
        return confirm(desk, 403, _NOTES["stale"])
    keep = _own_handle() if request.form.get("keep") else None
    user = _user()
    count = desk.safe.end_user(user, keep=keep) if user else 0
    return _back(user=user, count=str(count))


#: Rule, endpoint, view and method of each page.
ROUTES: tuple[tuple[str, str, Callable[..., Any], str], ...] = (
    ("/", "overview", overview, "GET"),
    ("/figures", "figures", figures, "GET"),
    ("/diagnosis", "diagnosis", diagnosis, "GET"),
    ("/end", "end", end, "POST"),
    ("/end-user", "confirm", confirm, "GET"),
    ("/end-user", "end_user", end_user, "POST"),
)


# -- what the pages show -----------------------------------------------------------------------


def _page(desk: Desk, template: str, **context: Any) -> str:
    """Render a page in the frame that all have: the app, the operator, and the link back."""
    app, names = desk.safe._state()[0], table.namer(desk.safe)
    operator = None
    with suppress(StoreUnavailable, AttributeError):  # Flask's null session has no info
        operator = flask.session.info.user  # type: ignore[attr-defined]
    home = url_for(desk.back) if desk.back else f"{request.script_root}/"
    frame = {"app": app.name, "operator": operator, "home": home, "name": names}
    return render(template, **frame, **context)


def _figures(safe: SafeSession) -> dict[str, Any]:
    stats: Stats | None = None
    fleet = None
    app, state = safe._state()
    can_count = state.opened.index is not None
    with suppress(StoreUnavailable, CannotDo):
        stats = safe.stats()
        watched: Fleet = app.extensions[WATCHED]
        fleet = watched.report(state.opened.need_index())
    settings = state.settings
    return {
        "stats": stats,
        "is_up": stats is not None if can_count else state.opened.is_up,
        "can_count": can_count,
        "servers": safe.servers(),
        "shared": state.store.shared,
        "place": shown_place(state.opened, settings.store),
        "prefix": settings.key_prefix,
        "shards": settings.shards,
        "interval": settings.check_interval,
        "chart": chart_of(fleet.last()) if fleet else None,
        "runs": fleet.newest_runs() if fleet else [],
        "fleet": fleet,
    }


# -- forms ------------------------------------------------------------------------------------


def _user() -> str:
    """Returns the user to end, not stripped: a stripped name may be another user's."""
    return request.values.get("user", "")


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
