"""Quayside: a small bank with a shop, to show SafeSession in a real application.

``flask --app example run`` starts it without configuration, with sessions in the memory of the
process. In a SQLite file they survive a restart, and several workers share them. Several machines
share them through Redis::

    SAFESESSION_STORE=sqlite:// flask --app example run --debug
    SAFESESSION_STORE=sqlite:// gunicorn --workers 3 "example:create_app()"
    SAFESESSION_STORE=redis://localhost:6379/0 flask --app example run

With ``EXAMPLE_LEAK=1`` it makes too many sessions, and too large ones: see ``leak.py``.

Start reading in ``sessions.py``: it is all that an application needs.
"""

from __future__ import annotations

from typing import Unpack

from flask import Flask

from flask_safesession import SettingsDict
from flask_safesession.heartbeat import heartbeat

from . import (
    account,
    control,
    devices,
    environment,
    errors,
    furniture,
    guard,
    leak,
    sessions,
    shop,
    watch,
)


def create_app(**overrides: Unpack[SettingsDict]) -> Flask:
    """Returns the application. ``flask --app example`` finds this function by its name.

    :param overrides: settings of SafeSession as keyword arguments (``store=…``), for tests. They
        overrule the defaults in ``sessions.py`` and the environment.
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
    if environment.leaks():
        leak.spring(app)
    return app


@sessions.safe.exempt
def health() -> tuple[str, dict[str, str]]:
    """Respond to a load balancer. Exempt, so that an outage of the store restarts no process."""
    return "ok\n", {"Content-Type": "text/plain; charset=utf-8"}
