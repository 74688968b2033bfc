"""Reads settings from the environment, and makes a secret key if there is none."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from flask import Flask

PREFIX = "SAFESESSION_"
RANDOM_KEY_NOTE = (
    "SECRET_KEY is not set: using a random one for this run. After a restart, or in a second "
    "worker process, no cookie is valid. Set SECRET_KEY to keep visitors signed in."
)


def configure(app: Flask) -> None:
    """Read ``SECRET_KEY``, every ``FLASK_…`` and every ``SAFESESSION_…`` variable.

    Set ``FLASK_SESSION_COOKIE_SECURE=true`` if the application is served by HTTPS.
    """
    app.config.from_prefixed_env()
    for name, text in os.environ.items():
        # An empty variable (``SAFESESSION_STORE=``, common in compose files) counts as not set.
        if name.startswith(PREFIX) and text:
            app.config[name] = parse(text)
    key = os.environ.get("SECRET_KEY") or app.config["SECRET_KEY"]
    if not key and str(app.config.get("SAFESESSION_STORE")).startswith("sqlite://"):
        with suppress(OSError):  # SafeSession reports what is wrong with the folder
            key = kept_key(app)
    if not key:
        key = secrets.token_hex(32)
        app.logger.warning(RANDOM_KEY_NOTE)
    app.config["SECRET_KEY"] = key


def leaks() -> bool:
    """Whether the application is to leak on purpose: see ``leak.py``."""
    return os.environ.get("EXAMPLE_LEAK", "") not in {"", "0"}


def kept_key(app: Flask) -> str:
    """Returns the secret key in the instance folder, where SQLite's file is; makes it if missing.

    Workers share it, and like the sessions it survives a restart. In production set SECRET_KEY.
    """
    folder = Path(app.instance_path)
    folder.mkdir(parents=True, exist_ok=True)
    path, own = folder / "secret_key", folder / f"secret_key.{secrets.token_hex(8)}"
    if not path.exists():
        own.touch(mode=0o600)
        own.write_text(secrets.token_hex(32))
        with suppress(FileExistsError):
            path.hardlink_to(own)  # other processes never read half a key
        own.unlink()
    return path.read_text()


def parse(text: str) -> object:
    """Returns a variable as a setting: text, or the value of JSON.

    >>> parse("30m"), parse("200"), parse("redis://localhost:6379/0")
    ('30m', '200', 'redis://localhost:6379/0')
    >>> parse("null"), parse('{"teller": {"lifetime": "5m"}}')
    (None, {'teller': {'lifetime': '5m'}})

    SafeSession reads numbers from text by itself. Flask's ``from_prefixed_env("SAFESESSION")``
    does not work here: it strips the prefix, and turns a key prefix ``"2024"`` into a number.
    """
    if text != "null" and not text.startswith(("{", "[")):
        return text
    try:
        parsed: object = json.loads(text)
    except ValueError:
        return text  # SafeSession reports what is wrong with it
    return parsed
