"""A site with pages, events of Flask-SocketIO and a view of Flask-Sock, on one session."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import flask
from flask import Flask, Response
from flask_sock import Sock
from flask_socketio import SocketIO

from flask_safesession import SafeSession, session
from flask_safesession.errors import SafeSessionError


def look() -> dict[str, Any]:
    return {"handle": session.info.handle, **session}


def put(key: str, value: Any) -> dict[str, Any]:
    session[key] = value
    return look()


def out() -> dict[str, Any]:
    session.clear()
    return {}


def save() -> dict[str, Any]:
    """Store what changed, before the socket is closed."""
    app: Any = flask.current_app
    with suppress(SafeSessionError):
        app.session_interface.save_session(app, session, Response())
        return {"saved": True}
    return {"saved": False}


def refresh() -> dict[str, Any]:
    """Store and bring in what others have changed, though this socket has changed nothing."""
    session.modified = True
    save()
    return look()


WORK: dict[str, Any] = {"look": look, "put": put, "out": out, "save": save, "refresh": refresh}


def serve(line: Any) -> None:
    """A view that holds its socket: each message names what is to be done with the session."""
    while True:
        name, *arguments = json.loads(line.receive())
        line.send(json.dumps(WORK[name](*arguments)))


def make_app(**settings: Any) -> Flask:
    made = Flask("sockets")
    made.secret_key = "a key for tests that is long enough"
    SafeSession(made, check_interval=None, **settings)
    # A client that leaves may wait for the answer to its poll, which is the next ping.
    sio = SocketIO(made, manage_session=False, async_mode="threading", ping_interval=1)
    sio.on("connect")(lambda _auth: session.get("user_id") and None)
    for name, work in WORK.items():
        sio.on(name)(work)
        path = f"/{name}/<key>/<value>" if name == "put" else f"/{name}"
        made.add_url_rule(path, name, work, methods=["GET", "POST"])
    Sock(made).route("/ws")(serve)
    return made


if "SITE_STORE" in os.environ:
    app = make_app(store=os.environ["SITE_STORE"], key_prefix=os.environ["SITE_PREFIX"])
