"""The application under the soak: every view says how it found its session.

Run by gunicorn as ``tests.soak.app:make_app()``; ``SOAK`` in the environment is the
file with the settings of Flask-SafeSession, and ``SOAK_SABOTAGE`` what is to be broken.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, TypeVar

from blinker import NamedSignal
from flask import Flask, jsonify, request

from flask_safesession import SafeSession, events, session

from .history import COUNT, HEALTH, LOGIN, LOGOUT, PEEK, READ, REGENERATE, SWAP, WRITE
from .sabotage import sabotage
from .settings import read

SECRET = "only for the soak: 0d3c9be1"
CALLS = ("load", "create", "commit", "rotate", "end", "count")
EVENTS, TIMES = "X-Soak-Events", "X-Soak-Times"

T = TypeVar("T")
_request = threading.local()


def make_app() -> Flask:
    """The application, as the environment describes it."""
    app = Flask("soak", static_folder=None)
    app.secret_key = SECRET
    safe = SafeSession(app, **read(Path(os.environ["SOAK"])))
    store = app.extensions["safesession"].store
    if broken := os.environ.get("SOAK_SABOTAGE"):
        sabotage(broken, store)
    for name in CALLS:
        setattr(store, name, _timed(name, getattr(store, name)))
    _add_views(app, safe)
    _note_events()
    app.wsgi_app = _measured(app.wsgi_app)  # type: ignore[method-assign]
    return app


def _add_views(app: Flask, safe: SafeSession) -> None:
    def count() -> Any:
        return jsonify(count=safe.count())

    views = {HEALTH: _health, COUNT: count, READ: _found, PEEK: safe.passive(_peek)}
    views |= {WRITE: _change, LOGIN: _change, LOGOUT: _logout, SWAP: _swap, REGENERATE: _regenerate}
    for name, view in views.items():
        app.add_url_rule(f"/{name}", name, view, methods=["POST"])


def _health() -> Any:
    return jsonify(healthy=True)


def _found() -> Any:
    return jsonify(data=dict(session))


def _peek() -> Any:
    return _found()


def _change() -> Any:
    found = _found()
    _dawdle()
    _write()
    return found


def _logout() -> Any:
    found = _found()
    session.clear()
    return found


def _swap() -> Any:
    found = _logout()
    _write()
    return found


def _regenerate() -> Any:
    found = _found()
    _dawdle()
    session.regenerate()
    return found


def _write() -> None:
    for key, value in request.get_json()["writes"].items():
        if value is None:
            session.pop(key, None)
        else:
            session[key] = value


def _dawdle() -> None:
    """Give others time to change the session meanwhile."""
    sleep(request.get_json()["pause"])


def _timed(name: str, call: Callable[..., T]) -> Callable[..., T]:
    @wraps(call)
    def timed(*args: Any, **kwargs: Any) -> T:
        start = perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            if (times := getattr(_request, "times", None)) is not None:  # else it is the purge job
                times.append((name, round(perf_counter() - start, 5)))

    return timed


def _note_events() -> None:
    def note(_: Any, event: Any) -> None:
        if (noted := getattr(_request, "events", None)) is not None:
            noted.append([event.signal.name, getattr(event, "error", "")])

    for signal in vars(events).values():
        if isinstance(signal, NamedSignal):
            signal.connect(note, weak=False)


def _measured(wsgi: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """Put what happened in a request into its answer's headers."""

    def measured(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
        _request.times, _request.events = [], []
        start = perf_counter()

        def answer(status: str, headers: list[tuple[str, str]], *exception: Any) -> Any:
            times = [["", round(perf_counter() - start, 5)], *_request.times]
            said = [(TIMES, json.dumps(times)), (EVENTS, json.dumps(_request.events))]
            return start_response(status, [*headers, *said], *exception)

        try:
            return wsgi(environ, answer)
        finally:
            _request.times = _request.events = None

    return measured
