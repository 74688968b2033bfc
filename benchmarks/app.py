"""The application that every contender runs, and the requests that are sent to it."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

from flask import Flask, request, session
from flask.sessions import SessionInterface

from . import data

SECRET = "only for the benchmarks: 6f1d2c7a9b"
NUMBER = "benchmarks.number"
"""The key in a request's environ under which the number of its visitor stands."""

Bag = MutableMapping[str, Any]
Environ = dict[str, Any]


def make_app(interface: SessionInterface | None = None, **config: object) -> Flask:
    """The application on one session interface; ``None`` is Flask's own."""
    app = Flask("benchmarks")
    app.config.from_mapping(config, SECRET_KEY=SECRET)
    if interface is not None:
        app.session_interface = interface
    add_views(app, lambda: session)
    return app


def add_views(app: Flask, bag: Callable[[], Bag]) -> None:
    """The views, on whatever ``bag`` returns: ``flask.session``, or a plain dictionary."""

    def untouched() -> str:
        return "ok"

    def read() -> str:
        return str(bag().get("name"))

    def change() -> str:
        here = bag()
        here["visits"] = here.get("visits", 0) + 1
        return "ok"

    def login() -> str:
        bag()["user_id"] = data.user_id(request.environ[NUMBER])
        return "ok"

    def logout() -> str:
        bag().clear()
        return "ok"

    def fill_stranger() -> str:
        bag().update(data.stranger(request.environ[NUMBER]))
        return "ok"

    def fill_user() -> str:
        bag().update(data.user(request.environ[NUMBER]))
        return "ok"

    for view in (untouched, read, change, login, logout, fill_stranger, fill_user):
        app.add_url_rule(f"/{view.__name__}", view_func=view)


def environ(path: str, cookie: str | None, number: int) -> Environ:
    """A browser's request, as a server hands it to the application."""
    made: Environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "HTTP_ACCEPT": "text/html",
        "HTTP_USER_AGENT": "benchmarks",
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        NUMBER: number,
    }
    if cookie is not None:
        made["HTTP_COOKIE"] = f"session={cookie}"
    return made
