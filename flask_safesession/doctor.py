"""What ``flask safesession check`` looks at: settings that work, and are still a bad idea."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from flask import Flask

from .errors import StoreUnavailable
from .interface import SafeSessionInterface
from .settings import Settings, cookie_problems
from .stores.base import Inspecting, Store

_SHORTEST_KEY = 16
# Keys from tutorials and default configurations; attackers try these first (CVE-2023-27524).
_WELL_KNOWN_KEYS = frozenset(
    {
        "dev",
        "development",
        "secret",
        "secretkey",
        "changeme",
        "changethis",
        "mysecret",
        "mysecretkey",
        "supersecret",
        "supersecretkey",
        "password",
        "test",
        "testing",
        "youwillneverguess",
        "hardtoguessstring",
        "thisismysecretkey",
        "thisismyscretkey",
        "yoursecretkey",
        "yoursecretkeyhere",
        "changemetoacomplexrandomsecret",
        "yourownrandomgeneratedsecretkey",
        "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
        "5y2lf4q8z",
        "5y2lf4q8znxec",  # the quick start of Flask before 2.0 and of now
        "x02x01thisismyscretkeyx01x02eyyh",  # Superset's default
        "thisismyscretkeyeyyh",
    }
)


def findings(app: Flask, settings: Settings, store: Store) -> list[str]:
    """One sentence for each thing to mend, with the setting's name; empty if all is well."""
    found = [*_of_the_key(app), *_of_the_cookie(app), *_of_the_app(app, settings, store)]
    if isinstance(store, Inspecting):
        try:
            found += store.inspect()
        except StoreUnavailable as error:
            found.append(f"the session store cannot be used: {error}")
    return found


def _of_the_key(app: Flask) -> Iterator[str]:
    yield from _of_one_key("SECRET_KEY", app.secret_key)
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or ()
    if isinstance(fallbacks, (str, bytes)):
        yield "SECRET_KEY_FALLBACKS is one text: each of its letters counts as a key; give a list"
        return
    for key in fallbacks:
        yield from _of_one_key("SECRET_KEY_FALLBACKS", key)


def _of_one_key(name: str, key: object) -> Iterator[str]:
    if not key:
        yield f"{name} is not set: there are no sessions without it"
    elif not isinstance(key, (str, bytes)):
        yield f"{name} is a {type(key).__name__}: give text, made with secrets.token_hex()"
    elif _letters(key) in _WELL_KNOWN_KEYS:
        yield f"{name} is a well-known one: make one with secrets.token_hex()"
    elif len(key) < _SHORTEST_KEY:
        yield f"{name} is short ({len(key)} characters): make one with secrets.token_hex()"


def _letters(key: str | bytes) -> str:
    """What a key has of letters and digits: tutorials differ in the rest."""
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    return "".join(c for c in text.lower() if c.isascii() and c.isalnum())


def _of_the_cookie(app: Flask) -> Iterator[str]:
    yield from cookie_problems(app.config)
    if not app.config["SESSION_COOKIE_SECURE"]:
        yield "SESSION_COOKIE_SECURE is off: the cookie also travels over plain HTTP"
    if not app.config["SESSION_COOKIE_HTTPONLY"]:
        yield "SESSION_COOKIE_HTTPONLY is off: scripts in the page can read the cookie"
    if app.config["SESSION_COOKIE_SAMESITE"] not in ("Lax", "Strict", "lax", "strict"):
        yield "SESSION_COOKIE_SAMESITE is not 'Lax' or 'Strict': other sites' forms send the cookie"


def _of_the_app(app: Flask, settings: Settings, store: Store) -> Iterator[str]:
    if not isinstance(app.session_interface, SafeSessionInterface):
        yield (
            f"app.session_interface is a {type(app.session_interface).__name__}: another extension"
            " has replaced SafeSession; initialise SafeSession last, or only it"
        )
    if app.debug:
        yield "debug mode is on: its pages show what is in a session"
    if not store.shared and _worker_count() > 1:
        yield (
            "WEB_CONCURRENCY asks for several processes, and SAFESESSION_STORE is memory://:"
            " they will not share sessions; use a redis:// URL"
        )
    if settings.check_interval is None:
        yield (
            "SAFESESSION_CHECK_INTERVAL is None: nothing removes idle sessions in time; run"
            " `flask safesession purge` from cron"
        )


def _worker_count() -> int:
    asked: Any = os.environ.get("WEB_CONCURRENCY", "1")
    return int(asked) if asked.isdecimal() else 1
