"""Signing in and out, and a desk for each of the three people."""

from __future__ import annotations

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from flask_safesession import session
from flask_safesession.heartbeat import TEXTS

from .people import DEMO_PASSWORDS, PEOPLE, Person, authenticate, current_person
from .sessions import safe

pages = Blueprint("account", __name__)


@pages.get("/sign-in")
def sign_in() -> str:
    """Show the sign-in form, and why the last session ended."""
    if reason := session.info.ended_reason:
        flash(TEXTS[reason])
    return _sign_in_page()


@pages.post("/sign-in")
def begin() -> Response | tuple[str, int]:
    """Check the password and start the person's session."""
    person = authenticate(request.form.get("username", ""), request.form.get("password", ""))
    if person is None:
        return _sign_in_page(failed=True), 401
    _open_session(person)
    return redirect(url_for(".desk"), 303)


def _open_session(person: Person) -> None:
    """Sign ``person`` in. Assigning the user gives the session a new ID, without more code.

    An anonymous visitor's cart stays. Another user's data does not.
    """
    if session.get("user_id") not in (None, person.username):
        session.clear()
    session["user_id"] = person.username
    session["_tier"] = person.tier


@pages.post("/sign-out")
def sign_out() -> Response:
    """End the session: its record is removed, and its cookie is useless."""
    session.invalidate()
    return redirect(url_for("watch.show", ended="signed-out"), 303)


@pages.get("/desk")
def desk() -> str | Response:
    """Show the desk of the signed-in person."""
    person = current_person()
    if person is None:
        return redirect(url_for(".sign_in"), 303)
    return render_template(f"desk_{person.tier}.html")


@pages.post("/purge")
def purge() -> Response:
    """Remove due sessions now, for the admin, without waiting for the scheduled job."""
    person = current_person()
    if person is None or person.tier != "admin":
        abort(403, "Only the admin may do that.")
    flash(f"Sessions that were due and are removed: {safe.purge().due}.")
    return redirect(url_for(".desk"), 303)


def _sign_in_page(failed: bool = False) -> str:
    return render_template(
        "sign_in.html", people=PEOPLE.values(), passwords=DEMO_PASSWORDS, failed=failed
    )
