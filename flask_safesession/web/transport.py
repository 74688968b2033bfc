"""The session's cookie, and the response headers that belong to it.

Nothing here calls the store or reads a session's data.
"""

from __future__ import annotations

import re
from math import ceil
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SessionInterface
from werkzeug.http import dump_header, parse_cache_control_header, parse_set_header
from werkzeug.sansio.http import parse_cookie

from ..model.tokens import Verified, sign, unsign
from . import collisions
from .data import is_permanent
from .state import State
from .unverified import report_unverified

# Characters of a Cookie header that are parsed: servers accept 4 to 64 KiB.
_LONGEST_HEADER = 64 * 1024
# IDs of one request that are looked up. A browser sends one, or two after a change of path or
# domain. Forged ones do not count: otherwise a neighbouring host could hide the real one.
_MOST_IDS = 4
# A dot and the signature. Anything shorter is forged, and not worth hashing.
_SHORTEST_VALUE = 44
# Directives for shared caches (RFC 9111, 5.2.2), and a "private" for single headers.
_FOR_SHARED_CACHES = frozenset({"public", "s-maxage", "private"})
# RFC 9213, and the older headers of Akamai, Fastly, LiteSpeed and nginx.
_TARGETED = re.compile(
    r".+-cache-control|surrogate-control|edge-control|x-accel-expires", re.IGNORECASE
)


def verified(app: Flask, request: Request, name: str) -> list[Verified]:
    """Returns the first distinct IDs in cookies of this *name* that verify, in the header's order.

    Forged cookies are ignored, however many there are.
    """
    if not (found := values(request, name)):
        return []
    key = app.secret_key or ""
    fallbacks = [old for old in app.config.get("SECRET_KEY_FALLBACKS") or () if old]
    distinct: dict[str, Verified] = {}
    for value in dict.fromkeys(found):
        good = unsign(value, key, fallbacks) if len(value) > _SHORTEST_VALUE else None
        if good is not None:
            distinct.setdefault(good.sid.reveal(), good)
            if len(distinct) == _MOST_IDS:
                break
    if not distinct:
        report_unverified(found)
    return list(distinct.values())


def values(request: Request, name: str) -> list[str]:
    """Returns the values of all cookies of this *name*, as Werkzeug reads them, in order."""
    header: str = request.environ.get("HTTP_COOKIE", "")
    if name not in header:
        return []
    if len(header) > _LONGEST_HEADER:
        header = header[:_LONGEST_HEADER].rpartition(";")[0]
    if '"' in header:
        return parse_cookie(header).getlist(name)
    # Without quotes a split is enough: Werkzeug's parser takes longer than all the rest.
    pairs = (cookie.partition("=") for cookie in header.split(";"))
    return [value.strip(" \t") for key, _, value in pairs if key.strip(" \t") == name]


def answer_cookie(interface: SessionInterface, state: State, response: Response) -> None:
    """Set or delete the browser's cookie, in place of the one that an earlier save set.

    The response is kept out of shared caches, even if it deletes the cookie: a cache that ignores
    ``Vary`` would sign out all its visitors.
    """
    app, sid = state.app, state.saved.sid
    name, lines = interface.get_cookie_name(app), response.headers.getlist("Set-Cookie")
    if state.cookie_line in lines:
        response.headers.setlist("Set-Cookie", [c for c in lines if c != state.cookie_line])
    attributes = _attributes(app, interface)
    if sid is None or state.saved.cookie == "delete":
        response.delete_cookie(name, **attributes)
    else:
        value, age = sign(sid, app.secret_key or ""), max_age(state)
        response.set_cookie(name, value, max_age=age, **attributes)
        collisions.note_sent(app, value, attributes["domain"], attributes["path"])
    state.cookie_line = response.headers.getlist("Set-Cookie")[-1]
    keep_out_of_shared_caches(response)


def _attributes(app: Flask, interface: SessionInterface) -> dict[str, Any]:
    return {
        "domain": interface.get_cookie_domain(app),
        "path": interface.get_cookie_path(app),
        "secure": interface.get_cookie_secure(app),
        "httponly": interface.get_cookie_httponly(app),
        "samesite": interface.get_cookie_samesite(app),
        "partitioned": interface.get_cookie_partitioned(app),
    }


def max_age(state: State) -> int | None:
    """Returns the cookie's seconds: the session's lifetime, so that it is set only once.

    ``PERMANENT_SESSION_LIFETIME``, if longer, unless the session has limits of its own.
    """
    loaded = state.loaded
    if loaded.stored is None or not is_permanent(loaded.data):
        return None
    left = (loaded.stored.record.absolute - loaded.now) / 1000
    if loaded.stored.note.own:
        return ceil(left)
    return ceil(max(state.app.permanent_session_lifetime.total_seconds(), left))


def vary_by_cookie(response: Response) -> None:
    """Add ``Cookie`` to the ``Vary`` header, unless that is ``*``."""
    given = response.headers.getlist("Vary")
    if not given:  # the usual case, without building a set
        response.headers.add("Vary", "Cookie")
        return
    varied = parse_set_header(", ".join(given))
    if "*" not in varied:
        varied.add("Cookie")
    response.headers["Vary"] = varied.to_header()


def keep_out_of_shared_caches(response: Response) -> None:
    """Set ``no-store``, or make the app's own cache policy ``private``.

    Removes headers that overrule ``Cache-Control`` at a content delivery network or a proxy.
    """
    headers = response.headers
    for name in {name for name, _ in headers if _TARGETED.fullmatch(name)}:
        headers.remove(name)
    if "Cache-Control" not in headers and "Expires" not in headers:
        headers["Cache-Control"] = "no-store"
        return
    given = parse_cache_control_header(", ".join(headers.getlist("Cache-Control")))
    policy = {name.lower(): value for name, value in given.items()}
    policy = {name: value for name, value in policy.items() if name not in _FOR_SHARED_CACHES}
    if "no-store" not in policy:
        policy["private"] = None
    headers["Cache-Control"] = dump_header(policy)


def is_socket(request: Request) -> bool:
    """Whether *request* opens a WebSocket, whose response delivers no cookie."""
    upgrade = request.environ.get("HTTP_UPGRADE", "").lower() == "websocket"
    return upgrade or bool(getattr(request.url_rule, "websocket", False))
