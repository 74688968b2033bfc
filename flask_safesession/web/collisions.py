"""Detects apps of one process that overwrite each other's session cookie.

Two apps with one host, one cookie name and two stores read each other's cookie as that of an ended
session, and replace it: each signs out the other's visitors. Two such apps in one process prove
nothing: they may have different hosts, or be made by tests. The collision is certain when a browser
sends to one app the cookie that the other has just set, at an address that the cookie matches
(RFC 6265, 5.1.3 and 5.1.4).
"""

from __future__ import annotations

import re
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import NamedTuple

import flask
from flask import Flask, Request

from ..events import logger

_KEY = "safesession.sent"
# Remembered cookies of one app, and for how many seconds: shorter than any session lasts.
_REMEMBERED = 64
_RECENT = 60


class _Cookie(NamedTuple):
    """A cookie that was set: the hash of its value, and where browsers send it."""

    value: int
    host: str
    domain: str | None
    path: str
    at: float


class _Sender:
    """The cookies that one app has sent lately. Keeps no reference to the app."""

    def __init__(self, app: Flask, place: Hashable) -> None:
        self.name = app.name
        self.place = place
        self.sent: deque[_Cookie] = deque(maxlen=_REMEMBERED)
        self.warned = False


# Replaced as a whole, so that no thread sees it change.
_senders: tuple[weakref.ref[_Sender], ...] = ()


def register(app: Flask, place: Hashable) -> None:
    """Compare *app* with the other apps of this process from now on.

    :param place: where its sessions are stored; apps with equal places share them.
    """
    global _senders  # noqa: PLW0603  # one tuple per process
    sender = app.extensions[_KEY] = _Sender(app, place)
    _senders = (*(one for one in _senders if one() is not None), weakref.ref(sender))


def note_sent(app: Flask, value: str, domain: str | None, path: str) -> None:
    """Remember for a minute that *app* has set a session cookie with this *value*."""
    sender: _Sender | None = app.extensions.get(_KEY)
    if sender is not None and flask.has_request_context():
        host = _host(flask.request)
        sender.sent.append(_Cookie(hash(value), host, domain, path, time.monotonic()))


def watch(app: Flask, request: Request, values: Callable[[], list[str]], *, verified: bool) -> None:
    """Warn once if a session cookie of *request* that *app* does not know is another app's.

    :param values: returns the values of the request's session cookies.
    :param verified: *app* accepts the signature of at least one of them.
    """
    me: _Sender | None = app.extensions.get(_KEY)
    if me is None or me.warned or not (others := _others(me)):
        return
    brought = {hash(value) for value in values()}
    for other in others:
        if (other.place != me.place or not verified) and _has_sent(other, brought, request):
            me.warned = other.warned = True
            logger.warning(
                "the apps %r and %r of this process use the same session cookie at the same address"
                " but do not share sessions: each signs out the other's visitors. Give each its own"
                " SESSION_COOKIE_NAME or SESSION_COOKIE_PATH; or give both the same"
                ' SECRET_KEY and SAFESESSION_STORE, such as "memory://shared"',
                *sorted((me.name, other.name)),
                extra={"apps": sorted((me.name, other.name))},
            )
            return


def _others(me: _Sender) -> list[_Sender]:
    found = (reference() for reference in _senders)
    return [other for other in found if other is not None and other is not me]


def _has_sent(sender: _Sender, brought: set[int], request: Request) -> bool:
    since = time.monotonic() - _RECENT
    return any(
        cookie.value in brought and cookie.at > since and _reaches(cookie, request)
        for cookie in tuple(sender.sent)
    )


def _reaches(cookie: _Cookie, request: Request) -> bool:
    """Whether a browser that has *cookie* sends it with *request*."""
    host, domain = _host(request), (cookie.domain or "").lstrip(".").lower()
    at_home = host == cookie.host if not domain else f".{host}".endswith(f".{domain}")
    path = request.environ.get("SCRIPT_NAME", "") + request.environ.get("PATH_INFO", "")
    return at_home and f"{path}/".startswith(cookie.path.rstrip("/") + "/")


def _host(request: Request) -> str:
    """Returns the host of *request* without its port, which cookies ignore."""
    environ = request.environ
    host: str = environ.get("HTTP_HOST") or environ.get("SERVER_NAME", "")
    return re.sub(r":\d+$", "", host).lower()
