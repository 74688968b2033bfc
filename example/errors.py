"""Pages for when something is wrong.

They extend ``bare.html``, which uses neither session nor store: an error page that asks the store
that has just failed would fail as well.
"""

from __future__ import annotations

from flask import Flask, Response, make_response, render_template
from werkzeug.exceptions import HTTPException

from flask_safesession import StoreUnavailable


def register(app: Flask) -> None:
    """Let ``app`` answer errors with pages."""
    app.register_error_handler(HTTPException, show_error)
    app.register_error_handler(StoreUnavailable, show_outage)


def show_error(error: HTTPException) -> Response:
    """Say what was wrong with the request."""
    return _page("error.html", error)


def show_outage(error: StoreUnavailable) -> Response:
    """Say that the visitor is still signed in: an outage is not a logout."""
    return _page("outage.html", error)


def _page(template: str, error: HTTPException) -> Response:
    response = make_response(error.get_response())  # keeps headers such as Allow and Retry-After
    response.set_data(render_template(template, error=error))
    response.content_type = "text/html; charset=utf-8"
    return response
