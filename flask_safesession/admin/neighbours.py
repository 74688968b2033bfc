"""Detects apps and secret keys that conflict on one store.

Two mistakes leave no other trace: workers with different secret keys, and two apps under one key
prefix. Each process notes in a document of the store the fingerprints of the secret keys that it
signs with and accepts, and its user keys, and compares them with those of the others.
"""

from __future__ import annotations

import hashlib
import json
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from ..config.overrides import Overrides
from ..config.settings import Settings
from ..errors import ConfigError
from ..events import Once
from ..stores.base import Document, Finding, IndexedStore

#: The name of the document in the store.
DOCUMENT = "apps"
#: Milliseconds for which an entry counts as in use.
RECENT = 600_000
#: Fingerprints, and settings of the user key, that are kept.
MOST = 8

_VERSION = 1
# Milliseconds after which a process reads the document, and writes its entries, again.
_FRESH = 60_000
# Attempts to write the document, in case of conflicts.
_TRIES = 5
# Makes guesses slow: a reader of the store cannot try a dictionary of weak keys in seconds.
_ROUNDS = 100_000


@dataclass
class Seen:
    """The document's entries, each with the time of its last use by the store's clock.

    :param keys: by fingerprint of a secret key: ``app``, ``seen`` and the fingerprints that its
        processes accept (``accepts``).
    :param users: by setting of the user key: the apps that use it.
    """

    keys: dict[str, dict[str, Any]] = field(default_factory=dict)
    users: dict[str, dict[str, int]] = field(default_factory=dict)

    def unaccepted_keys(self, key: str) -> Iterator[str]:
        """Yields the apps whose secret key *key* does not accept, and which do not accept *key*.

        While a fleet changes its key, the new one accepts the old one as a fallback.
        """
        accepted = self.keys[key]["accepts"] if key in self.keys else self.keys
        for other, entry in self.keys.items():
            if other != key and other not in accepted and key not in entry["accepts"]:
                yield entry["app"]

    def other_users(self, setting: str) -> Iterator[tuple[str, str]]:
        """Yields settings of the user key other than *setting*, each with an app that uses it."""
        for other, apps in self.users.items():
            if other != setting:
                yield from ((other, app) for app in apps)


class Neighbours:
    """Notes the keys of one app, and reports conflicts. Keeps no reference to the app."""

    def __init__(self, app: Any, overrides: Overrides, settings: Settings) -> None:
        self._app = weakref.ref(app)
        self._overrides = overrides
        self._prefix = settings.key_prefix
        self._user_key = spelled(settings)
        self._next = float("-inf")
        self._once = Once()

    def begin(self) -> None:
        """Compare with the document when the app starts.

        :raises ConfigError: another app on this store uses other user keys.
        :raises StoreUnavailable: the store did not answer.
        """
        self._refresh(refuse=True)

    def refresh(self) -> None:
        """Compare again, once a minute at most, and report conflicts.

        :raises StoreUnavailable: the store did not answer.
        """
        if time.monotonic() >= self._next:
            self._refresh(refuse=False)

    def _refresh(self, *, refuse: bool) -> None:
        app, store = self._app(), self._overrides.opened.index
        if app is None or store is None:
            return
        self._next = time.monotonic() + _FRESH / 1000
        key, accepted = keys_of(app) if store.shared else ("", set())
        for _ in range(_TRIES):
            found = store.document(DOCUMENT)
            seen = loads(found)
            if seen is None:
                return
            changed = _note_user_key(seen, self._user_key, app.name, found.now)
            changed = _note_key(seen, key, accepted, app.name, found.now) or changed
            self._compare(app.name, seen, key, refuse=refuse)
            if not changed or store.keep(DOCUMENT, _dumps(seen), found.document):
                return

    def _compare(self, name: str, seen: Seen, key: str, *, refuse: bool) -> None:
        for setting, app in seen.other_users(self._user_key):
            text = describe_users(self._user_key, setting, app, self._prefix)
            if refuse and app != name:
                raise ConfigError([text])
            self._report(text if app != name else describe_change(self._user_key, setting))
        for app in seen.unaccepted_keys(key):
            self._report(describe_keys(name, app, self._prefix))

    def _report(self, text: str) -> None:
        self._once(text, text)


def conflicts(app: Any, store: IndexedStore, settings: Settings) -> Iterator[Finding]:
    """Yields a finding for each conflict on *store*.

    :raises StoreUnavailable: the store did not answer.
    """
    seen = loads(store.document(DOCUMENT))
    if seen is None:
        return
    key, accepted = keys_of(app) if store.shared else ("", set())
    _note_key(seen, key, accepted, app.name, 0)
    pairs = (
        (entry["app"], other)
        for key, entry in seen.keys.items()
        for other in seen.unaccepted_keys(key)
    )
    for name, other in islice(pairs, 1):
        yield Finding("several-secret-keys", describe_keys(name, other, settings.key_prefix))
    for setting, other in seen.other_users(spelled(settings)):
        if other != app.name:
            text = describe_users(spelled(settings), setting, other, settings.key_prefix)
            yield Finding("several-user-keys", text)


def describe_keys(name: str, other: str, prefix: str) -> str:
    """Returns what two secret keys on one store mean, and the fix."""
    share = (
        f"share SAFESESSION_KEY_PREFIX {prefix!r}, and with it the cap, users and purges: give each"
        " its own"
    )
    if name != other:
        return (
            f"apps {name!r} and {other!r} sign cookies with different secret keys and {share}; if"
            " they are one app, give them the same SECRET_KEY"
        )
    return (
        f"processes of app {name!r} sign cookies with different secret keys, and none accepts the"
        " other's: visitors lose their sessions between them. Give all of them the same SECRET_KEY"
        " (and the old one in SECRET_KEY_FALLBACKS). If they are two apps, they " + share
    )


def describe_users(setting: str, other: str, app: str, prefix: str) -> str:
    """Returns what two settings of the user key on one store mean, and the fix."""
    return (
        f"SAFESESSION_USER_KEY is {setting}, and {other} in app {app!r} on the same store: apps"
        f" under one SAFESESSION_KEY_PREFIX ({prefix!r}) share their users. Give both the same user"
        " key, or each its own prefix (the other's entry expires ten minutes after its last use)"
    )


def describe_change(setting: str, other: str) -> str:
    """Returns the warning that processes of one app have different user keys."""
    return (
        f"other processes of this app use SAFESESSION_USER_KEY = {other}, and this one {setting}:"
        " sessions are filed anew again and again until all processes use the same"
    )


def spelled(settings: Settings) -> str:
    """Returns the user key as text; a callable by its name."""
    return _spelled(settings.user_key.find or settings.user_key.names)


def _spelled(keys: Any) -> str:
    if isinstance(keys, str):
        return repr(keys)[:200]
    if callable(keys):
        named = keys if hasattr(keys, "__qualname__") else type(keys)
        return f"{named.__module__}.{named.__qualname__}"
    return ", ".join(map(_spelled, keys))


def keys_of(app: Any) -> tuple[str, set[str]]:
    """Returns the fingerprints of an app's secret key and of its fallbacks; empty without a key."""
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or ()
    key = app.secret_key
    if not _is_key(key) or isinstance(fallbacks, (str, bytes)):
        return "", set()
    return fingerprint(key), {fingerprint(old) for old in fallbacks if _is_key(old)}


def _is_key(key: object) -> bool:
    return isinstance(key, (str, bytes)) and bool(key)


@lru_cache(maxsize=32)
def fingerprint(key: str | bytes) -> str:
    """Returns a digest by which secret keys can be compared, but not used."""
    raw = key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key
    salt = b"flask-safesession.fingerprint"
    return hashlib.pbkdf2_hmac("sha256", raw, salt, _ROUNDS, 6).hex()


def _note_key(seen: Seen, key: str, accepted: set[str], app: str, now: int) -> bool:
    """Note that *key* is in use. Returns whether *seen* has changed."""
    if not key:
        return False
    entry = seen.keys.get(key, {"accepts": {}})
    times = [entry.get("seen", 0), *(entry["accepts"].get(old, 0) for old in accepted)]
    if all(_is_fresh(time, now) for time in times):
        return False
    accepts = {**entry["accepts"], **dict.fromkeys(accepted, now)}
    seen.keys[key] = {"app": app, "seen": now, "accepts": _latest(accepts)}
    kept = _latest({name: entry["seen"] for name, entry in seen.keys.items()})
    seen.keys = {name: seen.keys[name] for name in kept}
    return True


def _note_user_key(seen: Seen, setting: str, app: str, now: int) -> bool:
    apps = seen.users.get(setting, {})
    if _is_fresh(apps.get(app, 0), now):
        return False
    seen.users[setting] = _latest({**apps, app: now})
    kept = _latest({name: max(apps.values()) for name, apps in seen.users.items()})
    seen.users = {name: seen.users[name] for name in kept}
    return True


def _is_fresh(time: int, now: int) -> bool:
    return 0 <= now - time < _FRESH


def _latest(times: dict[str, int]) -> dict[str, int]:
    return dict(sorted(times.items(), key=lambda item: item[1])[-MOST:])


def _dumps(seen: Seen) -> bytes:
    document = {"version": _VERSION, "keys": seen.keys, "users": seen.users}
    return json.dumps(document).encode("ascii")


def loads(found: Document) -> Seen | None:
    """Returns the recent entries: none of a corrupt document; ``None`` for a newer version's."""
    try:
        document = json.loads(found.document or b"{}")
        if document.get("version", _VERSION) > _VERSION:
            return None
        return _recent(document.get("keys", {}), document.get("users", {}), found.now)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Seen()


def _recent(keys: Any, users: Any, now: int) -> Seen:
    seen = Seen()
    for key, entry in keys.items():
        if _is_recent(entry["seen"], now):
            accepts = {old: at for old, at in entry["accepts"].items() if _is_recent(at, now)}
            seen.keys[key] = {"app": str(entry["app"]), "seen": entry["seen"], "accepts": accepts}
    for setting, apps in users.items():
        if recent := {app: at for app, at in apps.items() if _is_recent(at, now)}:
            seen.users[setting] = recent
    return seen


def _is_recent(time: int, now: int) -> bool:
    """Whether *time* is within :data:`RECENT` of *now*, before or after: clocks can be set back."""
    return abs(now - time) <= RECENT
