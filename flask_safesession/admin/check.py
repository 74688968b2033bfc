"""Finds settings that work, but are a bad idea: ``flask safesession check``."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from flask import Flask

from ..config.settings import Settings, cookie_problems, is_secure
from ..errors import ConfigError, StoreUnavailable
from ..model.codec import items_in
from ..model.identity import TYPICAL_KEYS
from ..model.policy import ANONYMOUS_TIER
from ..model.text import name_of
from ..model.tokens import new_id
from ..stores.base import Adoptions, Finding, IndexedStore, Store
from ..stores.opening import Opened, is_uncounted
from ..web.adoption import Adoption
from ..web.adoption.places.base import Credential
from .lost_settings import lost_settings
from .neighbours import conflicts

#: The names of all findings, in the order of ``docs/cli.md``. A finding of a custom store with
#: another name counts as ``store``.
NAMES: tuple[str, ...] = (
    *("no-secret-key", "weak-secret-key", "fallbacks-not-a-list"),
    *("several-secret-keys", "several-user-keys", "user-elsewhere"),
    *("cookie-contradiction", "cookie-not-secure", "cookie-not-httponly", "cookie-samesite"),
    *("permanent-session-lifetime", "flask-session-settings", "overruled-setting"),
    *("adoption-over", "older-place"),
    *("second-session-extension", "debug-mode", "memory-of-several-processes", "no-purge-job"),
    *("store-unavailable", "store-layout", "server-unavailable", "server-version"),
    *("eviction-policy", "no-memory-limit", "no-persistence", "failed-save", "replica"),
    *("missing-replicas", "not-encrypted", "clocks-apart"),
    *("file-mode", "disk-nearly-full", "network-file-system", "store"),
)

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
        # The documentation of this extension, past and present.
        "makeonewithsecretstokenhex",
        "onlyfortests",
        "fortests",
        "theoldkeywhichwaslongenough",
        "thenewkeywhichislongenough",
    }
)
# Milliseconds after which the end of an adoption is due.
_WEEK = 7 * 86_400_000
# Anonymous sessions that are inspected.
_SAMPLE = 50


def findings(app: Flask, state: Any) -> list[Finding]:
    """Returns a finding for each thing to change, with the setting's name.

    :param state: the extension's state of *app*.
    """
    settings, opened = state.settings, state.opened
    found = [*_of_the_key(app), *_of_the_cookie(app), *_of_the_app(app, settings, opened.store)]
    found += [*lost_settings(app.config, state.overrides.own), *state.takeover.findings(app)]
    try:
        found.extend(_of_the_store(app, settings, opened))
        found.extend(_of_older_places(state.adoption))
    except StoreUnavailable as error:
        found.append(Finding("store-unavailable", f"the session store cannot be used: {error}"))
    except ConfigError as error:
        found += [Finding("store-layout", problem) for problem in error.problems]
    return list(dict.fromkeys(found))


def _of_the_key(app: Flask) -> Iterator[Finding]:
    yield from _of_one_key("SECRET_KEY", app.secret_key)
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or ()
    if isinstance(fallbacks, (str, bytes)):
        yield Finding(
            "fallbacks-not-a-list",
            "SECRET_KEY_FALLBACKS is a string: each of its characters counts as a key; give a list",
        )
        return
    for key in fallbacks:
        yield from _of_one_key("SECRET_KEY_FALLBACKS", key)


def _of_one_key(name: str, key: object) -> Iterator[Finding]:
    make = "make one with secrets.token_hex()"
    if not key:
        yield Finding("no-secret-key", f"{name} is not set: there are no sessions without it")
    elif not isinstance(key, (str, bytes)):
        text = f"{name} is a {name_of(type(key))}: give a string, made with secrets.token_hex()"
        yield Finding("weak-secret-key", text)
    elif _letters(key) in _WELL_KNOWN_KEYS:
        yield Finding("weak-secret-key", f"{name} is a well-known key: {make}")
    elif len(key) < _SHORTEST_KEY:
        yield Finding("weak-secret-key", f"{name} is short ({len(key)} characters): {make}")


def _letters(key: str | bytes) -> str:
    """Returns the letters and digits of a key: tutorials differ in the rest."""
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    return "".join(c for c in text.lower() if c.isascii() and c.isalnum())


def _of_the_cookie(app: Flask) -> Iterator[Finding]:
    yield from (Finding("cookie-contradiction", text) for text in cookie_problems(app.config))
    if not is_secure(app.config):
        yield Finding(
            "cookie-not-secure",
            "SESSION_COOKIE_SECURE is off: the cookie also travels over plain HTTP",
        )
    if not app.config["SESSION_COOKIE_HTTPONLY"]:
        yield Finding(
            "cookie-not-httponly",
            "SESSION_COOKIE_HTTPONLY is off: scripts in the page can read the cookie",
        )
    if app.config["SESSION_COOKIE_SAMESITE"] not in ("Lax", "Strict", "lax", "strict"):
        yield Finding(
            "cookie-samesite",
            "SESSION_COOKIE_SAMESITE is not 'Lax' or 'Strict': other sites' forms send the cookie",
        )


def _of_the_app(app: Flask, settings: Settings, store: Store) -> Iterator[Finding]:
    if app.debug:
        yield Finding("debug-mode", "debug mode is on: its pages show session data")
    if not (store.shared or settings.per_process) and _worker_count() > 1:
        yield Finding(
            "memory-of-several-processes",
            "WEB_CONCURRENCY asks for several processes, and SAFESESSION_STORE is memory://:"
            " requests that use a session will fail; use a database or redis://",
        )
    if settings.check_interval is None and not is_uncounted(store):
        yield Finding(
            "no-purge-job",
            "SAFESESSION_CHECK_INTERVAL is None: nothing removes idle sessions in time; run"
            " `flask safesession purge` from cron",
        )


def _worker_count() -> int:
    asked: Any = os.environ.get("WEB_CONCURRENCY", "1")
    return int(asked) if asked.isdecimal() else 1


def _of_the_store(app: Flask, settings: Settings, opened: Opened) -> Iterator[Finding]:
    for name, text in opened.store.inspect():
        yield Finding(name if name in NAMES else "store", text)
    if settings.adopt and opened.adopting is not None:
        yield from _of_adoption(settings, opened.adopting.adoptions())
    if opened.index is not None:
        yield from conflicts(app, opened.index, settings)
        yield from _of_the_users(settings, opened.index)


def _of_adoption(settings: Settings, found: Adoptions) -> Iterator[Finding]:
    """Yields a finding if nothing more comes from older places."""
    remove = "remove SAFESESSION_ADOPT and SAFESESSION_ADOPT_UNTIL"
    if settings.adopt_until is not None and found.now >= settings.adopt_until:
        yield Finding("adoption-over", f"the date of SAFESESSION_ADOPT_UNTIL has passed: {remove}")
    elif found.last and found.now - found.last >= _WEEK:
        yield Finding(
            "adoption-over",
            "no session has come from an older place for a week: when"
            f" `flask safesession adopt` shows that few are left, {remove}",
        )


def _of_older_places(adoption: Adoption | None) -> Iterator[Finding]:
    """Yields a finding for each older place that does not answer a request's question."""
    nobody = new_id()
    for place in adoption.places if adoption else ():
        try:
            place.read(Credential(nobody.series, nobody))
        except StoreUnavailable as error:
            yield Finding(
                "older-place",
                f"{error}. Until that is corrected, each request with an old cookie gets a 503",
            )


def _of_the_users(settings: Settings, store: IndexedStore) -> Iterator[Finding]:
    """Yields a finding if sessions without a user have a typical user key."""
    if not store.shared or settings.user_key.find is not None:
        return
    known = {part for key in settings.user_key.names for part in (key, key.partition(".")[0])}
    sample = store.page(ANONYMOUS_TIER, "", _SAMPLE).sessions
    counts = Counter(
        key
        for one in sample
        for key, value in items_in(one.record.payload)
        if value and key in TYPICAL_KEYS and key not in known
    )
    for key, count in counts.most_common(1):
        yield Finding(
            "user-elsewhere",
            f"{count} of {len(sample)} sessions without a user hold {key!r}: if users are signed in"
            f" there, name the key that holds the user's ID in SAFESESSION_USER_KEY (it is"
            f" {', '.join(map(repr, settings.user_key.names))}); until then a sign-in gives no new"
            " ID, and no user's sessions can be listed or ended",
        )
