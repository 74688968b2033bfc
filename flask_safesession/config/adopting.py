"""Reads the settings of adoption: the older places of sessions, and until when they are asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..stores.opening import check_store, is_uncounted
from ..stores.sharded import MAX_SHARDS
from ..stores.urls import REDIS_SCHEMES, SQL_SCHEMES, hide_password
from .reading import PREFIX, Keys

#: Flask's own sessions, which are in their cookies.
FLASK_COOKIE = "flask-cookie"
#: Before the URL of a place of Flask-Session.
FLASK_SESSION = "flask-session+"
# Of Redis, only single servers.
_SINGLE = tuple(scheme for scheme in REDIS_SCHEMES if "+" not in scheme)
#: The schemes of Flask-Session's places.
SCHEMES: tuple[str, ...] = (*_SINGLE, *SQL_SCHEMES, "sqlite", "memcached", "file")
# The other names of SQL servers.
_ALIASES = dict(zip(SQL_SCHEMES[2:], SQL_SCHEMES[:2], strict=True))
# Our own parameters of a SafeSession URL.
_OWN = ("prefix", "shards")


class OldPlace(NamedTuple):
    """A place from which sessions are adopted.

    :param kind: ``flask-cookie``, ``flask-session+`` or ``safesession``.
    :param store: its URL, or a store.
    :param prefix: of a SafeSession place; empty: that of the app.
    :param shards: of a SafeSession place; 0: that of the app.
    """

    kind: str
    store: Any = ""
    prefix: str = ""
    shards: int = 0

    @property
    def name(self) -> str:
        """The place for messages, without a password."""
        head = self.kind if self.kind != "safesession" else ""
        if not isinstance(self.store, str):
            return type(self.store).__name__
        return head + hide_password(self.store) + (f" ({self.prefix})" if self.prefix else "")


def old_places(given: object) -> tuple[OldPlace, ...]:
    """Returns the places in a list of texts and stores; a single one need not be in a list.

    :raises ConfigError: with every problem, without passwords.
    :raises ValueError: it is no such list.
    """
    several = given if isinstance(given, (list, tuple)) else (given,)
    if not all(_is_place(one) for one in several):
        raise ValueError
    problems, found = [], []
    for one in several:
        try:
            found.append(_place(one))
        except ConfigError as error:
            problems += [
                text.replace(f"{PREFIX}STORE", f"{PREFIX}ADOPT") for text in error.problems
            ]
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def _is_place(given: object) -> bool:
    if isinstance(given, str):
        return given == FLASK_COOKIE or "://" in given
    return hasattr(given, "load")


def _place(given: object) -> OldPlace:
    if given == FLASK_COOKIE:
        return OldPlace(FLASK_COOKIE)
    if not isinstance(given, str):
        return OldPlace("safesession", check_store(given))
    if given.startswith(FLASK_SESSION):
        url = given.removeprefix(FLASK_SESSION)
        scheme, separator, rest = url.partition("://")
        if not separator or not rest or scheme not in SCHEMES:
            fix = f"after {FLASK_SESSION} give a URL that begins with {', '.join(SCHEMES)} and ://"
            fix += ", without SQLAlchemy's driver" if "+" in scheme else ""
            raise ConfigError([f"{PREFIX}ADOPT has {hide_password(given)!r}: {fix}"])
        return OldPlace(FLASK_SESSION, check_store(url) if scheme in _SINGLE else url)
    head, _, query = given.partition("?")
    parts = [part.partition("=") for part in query.split("&") if part]
    own = {name: value for name, _, value in parts if name in _OWN}
    rest = "&".join("".join(part) for part in parts if part[0] not in _OWN)
    shards = own.get("shards", "0")
    if not re.fullmatch("[0-9]{1,2}", shards) or int(shards) > MAX_SHARDS:
        problem = f"{PREFIX}ADOPT has shards={shards}: give the number of shards of the old place"
        raise ConfigError([problem])
    url = check_store(f"{head}?{rest}" if rest else head)
    return OldPlace("safesession", url, own.get("prefix", ""), int(shards))


def moment(given: object) -> int:
    """Returns a date or time in milliseconds since 1970; one without a zone is in UTC.

    :raises ValueError: it is none.
    """
    if isinstance(given, str):
        given = datetime.fromisoformat(given)
    if isinstance(given, date) and not isinstance(given, datetime):
        given = datetime(given.year, given.month, given.day, tzinfo=UTC)
    if not isinstance(given, datetime):
        raise TypeError
    at = given if given.tzinfo else given.replace(tzinfo=UTC)
    return int(at.timestamp() * 1000)


def check_places(keys: Keys) -> None:
    """Add a problem for each place that contradicts another setting."""
    places: Iterable[OldPlace] = keys["ADOPT"] or ()
    is_undated = keys.shown("ADOPT_UNTIL").startswith("None")
    if is_undated and any(place.kind == FLASK_COOKIE for place in places):
        keys.complain(
            "ADOPT_UNTIL",
            f"{FLASK_COOKIE!r} in {PREFIX}ADOPT requires a date, from which on old cookies, and"
            " copies of them, are worth nothing",
        )
    if places and is_uncounted(keys["STORE"]):
        keys.complain(
            "ADOPT",
            "Memcached may lose what it remembers of an adopted session, which could then come back"
            " after its end: choose another store",
        )
    here = (_canonical(keys["STORE"]), keys["KEY_PREFIX"])
    for place in places:
        there = (_canonical(place.store), place.prefix or keys["KEY_PREFIX"])
        if place.kind == "safesession" and there == here:
            keys.problems.append(
                f"{PREFIX}ADOPT has {place.name!r}, which is {PREFIX}STORE itself: name the older"
                f" place; if only its number of shards was another, set a new {PREFIX}KEY_PREFIX"
                " and write ?prefix=… there, too"
            )


def _canonical(store: Any) -> Any:
    """Returns a URL with one name for each kind of server, so that it can be compared."""
    if not isinstance(store, str):
        return store
    scheme, separator, rest = store.partition("://")
    return _ALIASES.get(scheme, scheme.replace("valkey", "redis")) + separator + rest
