"""Replaces the response to a request whose session could not be loaded or stored."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import flask
from flask import Flask, Response

from ..errors import RETRY_AFTER, StoreFull, StoreUnavailable, UnfitStore
from .state import State

# Headers that the error page keeps: they say who may read a page, and protect it. The others
# describe what the page did, and some act on the browser (cookies, Clear-Site-Data, Refresh,
# HX-Redirect): they would make a failed logout look like a logout.
_KEPT = frozenset(
    {
        "strict-transport-security",
        "content-security-policy",
        "x-content-type-options",
        "x-frame-options",
        "referrer-policy",
        "x-request-id",
    }
)
_KEPT_PREFIX = "access-control-"


def as_outage(error: StoreUnavailable | UnfitStore) -> StoreUnavailable:
    """Returns *error* as what a request is told: the app runs, and the store cannot be used."""
    if isinstance(error, StoreUnavailable):
        return error
    unavailable = StoreUnavailable("; ".join(error.problems))
    unavailable.__cause__ = error
    return unavailable


def answer_failure(state: State, response: Response, error: Exception) -> None:
    """Replace *response* by an error response if the session was written and not stored.

    If the session was only read, the view's page stays.
    """
    if state.was_written and response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        _answer(state.app, response, error)
    elif isinstance(error, StoreUnavailable) and sys.exc_info()[1] is error:
        # Flask calls no error handler for what an after_request function raises: a plain 500.
        with suppress(StoreUnavailable):  # no handler, or it raised the error again
            _answer(state.app, response, error)
    unavailable = response.status_code == HTTPStatus.SERVICE_UNAVAILABLE
    if unavailable and "Retry-After" not in response.headers:
        response.headers["Retry-After"] = str(RETRY_AFTER)


def _answer(app: Flask, response: Response, error: Exception) -> None:
    _replace(response, _handled(app, error))
    claims_success = response.status_code < HTTPStatus.BAD_REQUEST
    if isinstance(error, (StoreUnavailable, StoreFull)) and claims_success:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE


def _handled(app: Flask, error: Exception) -> Response:
    """Returns the app's response to *error*, as if a view had raised it.

    :raises Exception: *error* itself, if the app has no handler for it.
    """
    try:
        raise error  # noqa: TRY301  # handlers may call sys.exc_info()
    except Exception:  # noqa: BLE001  # raised again without a handler
        handle: Any = app.handle_user_exception
        # Flask after 3.1 passes the context first.
        takes_context = len(inspect.signature(handle).parameters) > 1
        proxy: Any = flask.globals.app_ctx
        context = [proxy._get_current_object()] if takes_context else []
        return app.make_response(handle(*context, error))


def _replace(response: Response, by: Response) -> None:
    """Turn *response* into *by*, in place: Flask sends this very object."""
    if hasattr(old := response.response, "close"):
        old.close()
    kept = [(name, v) for name, v in response.headers if _is_kept(name, by)]
    response.headers.clear()
    response.headers.extend(by.headers)
    response.headers.extend(kept)
    response.status = by.status
    response.response = by.response
    response.direct_passthrough = by.direct_passthrough
    response._on_close.extend(by._on_close)


def _is_kept(name: str, by: Response) -> bool:
    """Whether a header of the replaced page stays. Those of *by* itself win."""
    lowered = name.lower()
    if lowered == "vary":  # both pages may vary
        return True
    return (lowered in _KEPT or lowered.startswith(_KEPT_PREFIX)) and name not in by.headers
