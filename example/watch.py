"""A page about the visitor's own session, with the time left counting down."""

from __future__ import annotations

from datetime import UTC, datetime

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from flask_safesession import session

from .furniture import limits
from .sessions import safe

pages = Blueprint("watch", __name__, url_prefix="/session")


@pages.get("")
def show() -> str:
    """Show the session. Opening this page uses the session, so it slides."""
    return render_template("session.html", facts=facts(), ended=request.args.get("ended"))


@pages.get("/watch")
@safe.passive
def watch() -> dict[str, object]:
    """Returns the facts for the page's script. Passive: watching does not keep a session alive."""
    return facts() or {"alive": False}


def facts() -> dict[str, object] | None:
    """Returns the facts about the session, or ``None`` if none is stored.

    In seconds, not times of day, so that a wrong clock on the visitor's machine does not matter.
    """
    info = session.info
    if info.created_at is None or info.last_active is None or info.expires_at is None:
        return None
    now = clock()
    idle, lifetime = limits(info.tier)
    begun = info.created_at if idle == lifetime else info.last_active
    return {
        "alive": True,
        "tier": info.tier,
        "user": info.user,
        "uses": session.get("uses", 0),
        "age": (now - info.created_at).total_seconds(),
        "idle": (now - info.last_active).total_seconds(),
        "left": (info.expires_at - now).total_seconds(),
        "span": (info.expires_at - begun).total_seconds(),
        "expires_at": info.expires_at.isoformat(),
    }


def clock() -> datetime:
    """Returns the time for display. Sessions expire by the store's clock, not this one."""
    return datetime.now(UTC)


@pages.post("/use")
def use() -> Response:
    """Use the session, as any request does that reads or changes it."""
    session["uses"] = session.get("uses", 0) + 1
    return redirect(url_for(".show"), 303)


@pages.post("/regenerate")
def regenerate() -> Response:
    """Give the session a new ID, as after a change of rights. The old ID ends."""
    session.regenerate()
    flash("The session has a new ID. What is in it, and its age, stayed.")
    return redirect(url_for(".show"), 303)
