"""Error pages.

They extend ``bare.html``, which uses neither session nor store: an error page that calls the failed
store would fail, too.
"""

from __future__ import annotations

from flask import Flask, Response, make_response, render_template
from werkzeug.exceptions import HTTPException

from flask_safesession import StoreUnavailable


def register(app: Flask) -> None:
    """Register the error pages with ``app``."""
    app.register_error_handler(HTTPException, show_error)
    app.register_error_handler(StoreUnavailable, show_outage)


def show_error(error: HTTPException) -> Response:
    """Show what was wrong with the request."""
    return _page("error.html", error)


def show_outage(error: StoreUnavailable) -> Response:
    """Show that the visitor is still signed in: an outage is not a logout."""
    return _page("outage.html", error)


def _page(template: str, error: HTTPException) -> Response:
    response = make_response(error.get_response())  # keeps headers such as Allow and Retry-After
    response.set_data(render_template(template, error=error))
    response.content_type = "text/html; charset=utf-8"
    return response
