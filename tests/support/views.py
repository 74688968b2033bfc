"""Views that several tests add to their apps."""

from __future__ import annotations

from flask import request

from flask_safesession import session


def do() -> str:
    """Change the session as the arguments say, one after the other: ``/do?set=a:1&drop=b``."""
    for action, value in request.args.items(multi=True):
        key, _, text = value.partition(":")
        if action == "set":
            session[key] = text
        elif action == "drop":
            session.pop(key, None)
        elif action == "clear":
            session.clear()
        elif action == "renew":
            session.regenerate()
    return "done"
