"""Your devices: lists and ends the sessions of the signed-in person.

This requires a recent sign-in (OWASP ASVS 7.5.2, 7.5.3): an unlocked laptop is not enough to lock
its owner out everywhere.
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
    """List the sessions of the signed-in person."""
    return render_template("devices.html", sessions=safe.sessions_of(session["user_id"]))


@pages.post("/end")
@safe.fresh(within=RECENT)
def end() -> Response:
    """End one of them. Other people's handles end nothing."""
    handle = request.form.get("handle", "")
    own = {info.handle for info in safe.sessions_of(session["user_id"])}
    ended = handle in own and safe.end(handle)
    flash("That device is signed out." if ended else "That device was signed out already.")
    return redirect(url_for(".show"), 303)


@pages.post("/end-others")
@safe.fresh(within=RECENT)
def end_others() -> Response:
    """End all of them except this one."""
    flash(f"Other devices that are signed out now: {session.end_others()}.")
    return redirect(url_for(".show"), 303)


@pages.app_errorhandler(NotFresh)
def ask_again(_error: NotFresh) -> Response | tuple[str, int]:
    """Ask for the password again, or for a sign-in."""
    if current_person() is None:
        return redirect(url_for("account.sign_in"), 303)
    return render_template("again.html", failed=False), 403


@pages.post("/again")
def again() -> Response | tuple[str, int]:
    """Check the password again. Assigning the user is a sign-in, with a new ID."""
    person = current_person()
    if person is None:
        return redirect(url_for("account.sign_in"), 303)
    if authenticate(person.username, request.form.get("password", "")) is None:
        return render_template("again.html", failed=True), 401
    session["user_id"] = person.username
    return redirect(url_for(".show"), 303)


@pages.app_template_filter()
def since(moment: datetime) -> str:
    """Returns how long ago ``moment`` was, in words."""
    seconds = (watch.clock() - moment).total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
