"""The cookie of a session, and the headers of a response that go with it.

Nothing here asks the store or knows what a session holds.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SessionInterface

from .saving import Saved
from .session import Session
from .tokens import Verified, sign, unsign

# Cookies of our name in one request that are looked at; a browser sends one, two after a change of
# path or domain.
_MAX_COOKIES = 4


def verified(app: Flask, request: Request, name: str) -> list[Verified]:
    """The IDs in cookies of that *name* whose signature holds; forged ones count for nothing."""
    header = request.environ.get("HTTP_COOKIE", "")
    if f"{name}=" not in header:
        return []
    # Split here: Werkzeug's parser is for every kind of value, and takes longer than the rest.
    pairs = [cookie.strip().partition("=") for cookie in header.split(";")]
    values = [value.strip('"') for key, _, value in pairs if key == name][:_MAX_COOKIES]
    key = app.secret_key or ""
    fallbacks = [old for old in app.config.get("SECRET_KEY_FALLBACKS") or () if old]
    unsigned = [unsign(value, key, fallbacks) for value in values]
    return [good for good in unsigned if good is not None]


def answer_cookie(
    interface: SessionInterface, app: Flask, session: Session, response: Response, saved: Saved
) -> None:
    """Set or delete the browser's cookie, in place of one that an earlier save has set."""
    name, lines = interface.get_cookie_name(app), response.headers.getlist("Set-Cookie")
    if session._cookie_line in lines:
        response.headers.setlist("Set-Cookie", [c for c in lines if c != session._cookie_line])
    attributes = _attributes(app, interface)
    if saved.sid is None:
        response.delete_cookie(name, **attributes)
    else:
        value, age = sign(saved.sid, app.secret_key or ""), max_age(app, session)
        response.set_cookie(name, value, max_age=age, **attributes)
    session._cookie_line = response.headers.getlist("Set-Cookie")[-1]
    if saved.fresh:
        keep_out_of_caches(response)


def _attributes(app: Flask, interface: SessionInterface) -> dict[str, Any]:
    return {
        "domain": interface.get_cookie_domain(app),
        "path": interface.get_cookie_path(app),
        "secure": interface.get_cookie_secure(app),
        "httponly": interface.get_cookie_httponly(app),
        "samesite": interface.get_cookie_samesite(app),
        "partitioned": interface.get_cookie_partitioned(app),
    }


def max_age(app: Flask, session: Session) -> int | None:
    """Seconds that the cookie lasts: never less than the session may, so it needs no refresh."""
    loaded = session._loaded
    if loaded.stored is None or not loaded.permanent:
        return None
    left = (loaded.stored.record.absolute - loaded.now) / 1000
    return ceil(max(app.permanent_session_lifetime.total_seconds(), left))


def vary_by_cookie(response: Response) -> None:
    """Say that the response depends on the cookie."""
    if "Vary" in response.headers:
        response.vary.add("Cookie")
    else:  # the usual case, without building a set for it
        response.headers.add("Vary", "Cookie")


def keep_out_of_caches(response: Response) -> None:
    """Let no cache keep the response, unless the app has decided."""
    if "Cache-Control" not in response.headers:
        response.cache_control.no_store = True
