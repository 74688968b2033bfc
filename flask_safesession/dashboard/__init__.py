"""A page for operators: lists, counts and ends sessions.

An app mounts it behind its own permission check::

    from flask_safesession.dashboard import dashboard

    app.register_blueprint(dashboard(safe, allowed=lambda: current_user.is_admin))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from flask import Blueprint, Flask, Response, abort, current_app, request
from flask.blueprints import BlueprintSetupState

from ..admin.people import People
from ..errors import ConfigError
from ..extension import SafeSession
from . import views
from .fleet import Fleet

__all__ = ["dashboard"]

_HEADERS = {
    # All files come from this app, pages have no inline code, and no site may frame them.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    # Not "no-referrer": that would send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def dashboard(
    safe: SafeSession,
    *,
    allowed: Callable[[], Any] | None = None,
    name_of: Callable[[str], Any] | None = None,
    find_user: Callable[[str], Any] | None = None,
    back: str | None = None,
    name: str = "safesession",
    url_prefix: str = "/safesession",
) -> Blueprint:
    """Returns a blueprint with the dashboard. Its users can end any session.

    :param safe: the extension whose sessions are shown.
    :param allowed: returns whether this request may use it: ``True``, or ``False`` for a 403. It
        can also end the request itself (``abort(redirect(…))``), and may be ``async``. It is called
        in the request, before every view.
    :param name_of: returns the name of a user, who is given as text (``str`` of the value under the
        user key), or ``None``. With it, lists show the users of sessions, for one more store call
        each.
    :param find_user: returns the user (the value under the user key) that a text means, such as a
        name or an e-mail address, or ``None``. The commands use it, too.
    :param back: the endpoint of the link back to the app; ``None``: the app's root.
    :param name: the blueprint's name; ``url_for("safesession.overview")`` is the page.
    :param url_prefix: where it is mounted.
    :raises ConfigError: *allowed* is missing or not callable.
    """
    if not callable(allowed):
        problem = f"dashboard(allowed={allowed!r}): give a function that returns whether the user"
        raise ConfigError([problem + " may list and end all sessions"])
    pages = Blueprint(
        name, __name__, url_prefix=url_prefix, static_folder="static", static_url_path="/assets"
    )
    pages.before_request(partial(_check, allowed))
    pages.after_request(_protect)
    pages.record(partial(_listen, safe, People(name_of, find_user)))
    _add_pages(pages, views.Desk(safe, back))
    return pages


def _add_pages(pages: Blueprint, desk: views.Desk) -> None:
    for rule, endpoint, view, method in views.ROUTES:
        bound: Callable[..., Any] = partial(view, desk)
        if method == "GET":  # watching must not keep the operator's own session alive
            desk.safe.passive(bound)
        pages.add_url_rule(rule, endpoint, bound, methods=[method])


def _check(allowed: Callable[[], Any]) -> None:
    """Refuse requests that the app does not allow. Files are public, and cost no store call."""
    if _is_file():
        return
    verdict = current_app.ensure_sync(allowed)()
    if verdict is False:
        abort(403)
    if verdict is not True:  # a response or a user would be true, and let all visitors in
        raise TypeError(f"dashboard(allowed=…) returned {verdict!r}: return True or False")


def _protect(response: Response) -> Response:
    for header, value in _HEADERS.items():
        response.headers[header] = value
    if not _is_file():
        response.headers["Cache-Control"] = "no-store"
    return response


def _is_file() -> bool:
    return (request.endpoint or "").rpartition(".")[2] == "static"


def _listen(safe: SafeSession, people: People, state: BlueprintSetupState) -> None:
    """Count the events of the app, and know its users. Once, even if it is mounted twice."""
    if "safesession" not in state.app.extensions:
        raise ConfigError(["the app has no SafeSession yet: call init_app before it is mounted"])
    try:
        app = safe._app_for(cast(Flask, state.app))
    except RuntimeError as error:
        problem = f"dashboard(safe) is mounted on {state.app.name!r}, which is not one of its apps"
        raise ConfigError([f"{problem}: give it the SafeSession of that app"]) from error
    known = app.extensions["safesession"]
    known.people.name_of = people.name_of or known.people.name_of
    known.people.find_user = people.find_user or known.people.find_user
    if views.WATCHED not in app.extensions:
        fleet = app.extensions[views.WATCHED] = Fleet()
        fleet.listen(app)
        known.job.reports.append(fleet.report)
