"""Leaks on purpose, with ``EXAMPLE_LEAK=1``: to watch the commands and the dashboard find it.

Two mistakes that are easy to make. A health check that is not exempt writes to the session, so that
each call of a load balancer, which keeps no cookie, creates one. And a list grows with each page.
"""

from __future__ import annotations

from functools import partial
from time import time

from flask import Flask, request

from flask_safesession import session

PAGES = {"shop", "account", "devices"}


def spring(app: Flask) -> None:
    """Make the mistakes in ``app``."""
    app.view_functions["health"] = partial(app.view_functions["health"])  # without its mark
    app.before_request(check_health)
    app.before_request(note_page)


def check_health() -> None:
    """Note the last check in the session. It should be nowhere."""
    if request.endpoint == "health":
        session["last_check"] = time()


def note_page() -> None:
    """Note each page that a visitor opens, for ever. The last few would do."""
    if request.method == "GET" and request.blueprint in PAGES:
        page = {"path": request.path, "agent": request.user_agent.string, "at": time()}
        session.setdefault("history", []).append(page)
