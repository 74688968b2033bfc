"""Quayside: a small bank with a shop, to show what SafeSession does in a real application.

``flask --app example run`` starts it; nothing needs to be configured. Sessions are in the memory of
this process then. In a file they survive a restart, and several workers share them; for several
machines there is Redis::

    SAFESESSION_STORE=sqlite:// flask --app example run --debug
    SAFESESSION_STORE=sqlite:// gunicorn --workers 3 "example:create_app()"
    SAFESESSION_STORE=redis://localhost:6379/0 flask --app example run

Start reading in ``sessions.py``: it is all that an application needs.
"""

from __future__ import annotations

from flask import Flask

from flask_safesession.heartbeat import heartbeat

from . import (
    account,
    control,
    devices,
    environment,
    errors,
    furniture,
    guard,
    sessions,
    shop,
    watch,
)


def create_app(**overrides: object) -> Flask:
    """Build the application; ``flask --app example`` finds this function by its name.

    :param overrides: settings of SafeSession as keyword arguments (``store=…``); they win over
        the defaults in ``sessions.py`` and over the environment. Tests use them.
    """
    app = Flask(__name__)
    environment.configure(app)
    sessions.configure(app, **overrides)
    guard.protect(app)
    errors.register(app)
    furniture.furnish(app)
    for blueprint in (shop.pages, account.pages, devices.pages, watch.pages, control.pages()):
        app.register_blueprint(blueprint)
    app.register_blueprint(heartbeat(sessions.safe, sign_in="account.sign_in"))
    app.add_url_rule("/health", view_func=health)
    return app


def health() -> tuple[str, dict[str, str]]:
    """Answer a load balancer. No session is used: no store call is made, no cookie set."""
    return "ok\n", {"Content-Type": "text/plain; charset=utf-8"}
