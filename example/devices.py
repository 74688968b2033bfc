"""Your devices: where the visitor is signed in, and how to end it there.

To see and end sessions, people must have signed in a moment ago (OWASP ASVS 7.5.2, 7.5.3): who
finds an unlocked laptop cannot lock its owner out everywhere.
"""

from __future__ import annotations

from datetime import datetime

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from flask_safesession import NotFresh, session

from . import watch
from .people import authenticate, current_person
from .sessions import safe

pages = Blueprint("devices", __name__, url_prefix="/devices")

RECENT = "10m"


@pages.get("")
@safe.fresh(within=RECENT)
def show() -> str:
    """List the sessions of who is signed in."""
    return render_template("devices.html", sessions=safe.sessions_of(session["user_id"]))


@pages.post("/end")
@safe.fresh(within=RECENT)
def end() -> Response:
    """End one of them; other people's handles end nothing."""
    handle = request.form.get("handle", "")
    own = {info.handle for info in safe.sessions_of(session["user_id"])}
    ended = handle in own and safe.end(handle)
    flash("That device is signed out." if ended else "That device was signed out already.")
    return redirect(url_for(".show"), 303)


@pages.post("/end-others")
@safe.fresh(within=RECENT)
def end_others() -> Response:
    """End all of them but this one."""
    flash(f"Other devices that are signed out now: {session.end_others()}.")
    return redirect(url_for(".show"), 303)


@pages.app_errorhandler(NotFresh)
def ask_again(_error: NotFresh) -> Response | tuple[str, int]:
    """Ask for the password once more, or for who it is."""
    if current_person() is None:
        return redirect(url_for("account.sign_in"), 303)
    return render_template("again.html", failed=False), 403


@pages.post("/again")
def again() -> Response | tuple[str, int]:
    """Check the password of who is signed in. To assign the user is a sign-in, with a new ID."""
    person = current_person()
    if person is None:
        return redirect(url_for("account.sign_in"), 303)
    if authenticate(person.username, request.form.get("password", "")) is None:
        return render_template("again.html", failed=True), 401
    session["user_id"] = person.username
    return redirect(url_for(".show"), 303)


@pages.app_template_filter()
def since(moment: datetime) -> str:
    """Write how long ago ``moment`` was, in words."""
    seconds = (watch.clock() - moment).total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
