"""Records how far Flask is with a request, by hooks around its views."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import flask
from flask import Flask, Response

from ..events import logger
from .scratch import Scratch
from .session import current_state

#: Methods that change nothing (RFC 9110, 9.2.1).
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def install(app: Flask) -> None:
    """Record how far *app* is with each of its requests."""
    app.before_request_funcs.setdefault(None, []).insert(0, _begin_dispatch)
    app.after_request_funcs.setdefault(None, []).insert(0, _begin_response)
    before, alive = app.__dict__.get("dispatch_request"), weakref.ref(app)

    def dispatch_request(*context: Any) -> Any:
        # Not the bound method, which would keep the app from being freed.
        this: Any = alive()
        return _dispatch(before or partial(type(this).dispatch_request, this), *context)

    app.dispatch_request = dispatch_request  # type: ignore[method-assign]
    flask.request_tearing_down.connect(_end_request, app)


def _begin_dispatch() -> None:
    if (state := current_state()) is not None:
        state.dispatched = True


def _dispatch(dispatch: Callable[..., Any], *context: Any) -> Any:
    """Call the view. A user that it assigns in an unsafe request may be a sign-in."""
    state = current_state()
    if state is None or state.request.method in SAFE_METHODS:
        return dispatch(*context)
    state.in_unsafe_view = True
    try:
        return dispatch(*context)
    finally:
        state.in_unsafe_view = False


def _begin_response(response: Response) -> Response:
    if (state := current_state()) is not None:
        state.responding = True
    return response


def _end_request(_app: Flask, **_: object) -> None:
    """Warn if the session was written after the last save.

    Also sends the events of a failed save, and of a socket that only read.
    """
    try:
        state = current_state()
    except AssertionError:
        # A time limit or signal has ended the request before its session was opened. Its own
        # exception must not be replaced by this one.
        return
    if state is None:
        return
    is_late = state.sealed and state.changed
    # Otherwise the response is an error page, which reports the failure.
    if is_late and (state.failed is None or isinstance(state.data, Scratch)):
        logger.warning(
            "the session was written after its response was built; the change is not stored."
            " In a streaming view, change the session before the stream begins"
        )
    state.send_events()
