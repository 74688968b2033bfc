"""The table of all settings, and the frozen object that is read from ``app.config`` with it.

A setting is ``SAFESESSION_…`` in ``app.config``, or a keyword argument of
:class:`~flask_safesession.SafeSession` in lower case without the prefix, which wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import ConfigError
from ..model.identity import UserKey
from ..model.policy import milliseconds
from ..stores.base import Cap, Rules
from ..stores.opening import ANY_STORE, is_in_memory, is_uncounted, undivided
from ..stores.sharded import MAX_SHARDS
from ..stores.urls import MEMORY_URL, PER_PROCESS, SQL_SCHEMES
from . import donor, reading
from .adopting import OldPlace, check_places, moment, old_places
from .limits import read_cap, read_policy
from .reading import PREFIX, Keys, Setting, choice, none_or, only

#: The values of ``SAFESESSION_ON_OUTAGE``.
UNAVAILABLE, READONLY = "unavailable", "readonly-anonymous"
#: The largest ``SAFESESSION_PURGE_BATCH``.
MAX_BATCH = 10_000

# What to do about settings that need a count of all sessions.
_COUNTED = {
    "MAX_SESSIONS": "remove it, or set it to None. The server's memory is the cap",
    "WHEN_FULL": "remove it. The server decides what it evicts; with -M it refuses new sessions",
}
_MOST_PER_USER = 1000
_LONGEST_COOKIE_NAME = 256
_PLAIN = re.compile(r"[^{}\s\x00-\x20\x7f-\x9f\ud800-\udfff]{1,100}")  # for keys in a store


@dataclass(frozen=True)
class Settings:
    """The settings of an app, checked. Each field is named after its setting.

    :param store: a URL, a store, a client or a database of SQLAlchemy: as given.
    :param store_password: returns the password for a new connection to a SQL server.
    :param rules: the limits and caps that the store enforces.
    :param max_session_size: bytes of one session's data.
    :param check_interval: milliseconds, as the other intervals; ``None``: no purge job.
    :param adopt_until: milliseconds since 1970; ``None``: without a date.
    :param store_timeout: seconds.
    """

    rules: Rules
    store: Any = field(repr=False)  # its URL may hold a password
    store_password: Any = field(repr=False)
    tier_key: str
    user_key: UserKey
    max_session_size: int
    check_interval: int | None
    purge_batch: int
    scheduler: Any
    store_timeout: float
    on_outage: str
    key_prefix: str
    shards: int
    wait_replicas: int
    record_client: bool
    renew_interval: int | None
    renew_grace: int
    adopt: tuple[OldPlace, ...] = field(repr=False)  # a URL may hold a password
    adopt_until: int | None

    @property
    def per_process(self) -> bool:
        """Whether the app accepts separate sessions in each process."""
        return isinstance(self.store, str) and self.store.endswith(PER_PROCESS)

    def for_shards(self, shards: int) -> Settings:
        """Returns the settings for one shard of several, with its share of the caps."""
        return replace(self, rules=self.rules.share(shards)) if shards > 1 else self


def read_settings(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """Returns the settings in *config*, replaced by those in *overrides* (lower case, no prefix).

    :raises ConfigError: with every problem.
    """
    keys = Keys(SETTINGS, config, overrides)
    in_memory = is_in_memory(keys["STORE"])
    policy = read_policy(keys)
    cap = read_cap(keys, 10_000 if in_memory else 1_000_000)
    _check_undivided(keys)
    check_places(keys)
    _check_password(keys)
    if is_uncounted(keys["STORE"]):
        _check_uncounted(keys, cap)
    problems = [*cookie_problems(config), *keys.problems]
    if problems or policy is None:
        raise ConfigError(problems)
    values = {f.name: keys[f.name.upper()] for f in fields(Settings) if f.name != "rules"}
    values["max_session_size"] = values["max_session_size"] or (64 if in_memory else 256) * 1024
    return Settings(Rules(policy, cap), **values)


def _check_undivided(keys: Keys) -> None:
    """Add a problem for shards or replicas if the store has none."""
    kind = undivided(keys["STORE"])
    for name in ("SHARDS", "WAIT_REPLICAS") if kind else ():
        if keys[name] not in (None, SETTINGS[name].default):
            shown = f"{PREFIX}{name} is {keys.shown(name)}"
            keys.problems.append(f"{shown}, but the store {kind}: remove it")


def _check_password(keys: Keys) -> None:
    """Add a problem for a password that is not used."""
    store = keys["STORE"]
    is_sql = isinstance(store, str) and store.partition("://")[0] in SQL_SCHEMES
    if keys["STORE_PASSWORD"] is not None and store is not None and not is_sql:
        keys.problems.append(
            f"{PREFIX}STORE_PASSWORD is for a {PREFIX}STORE that begins with postgresql:// or"
            " mysql://: remove it, and give another store its password in its URL"
        )


def _check_uncounted(keys: Keys, cap: Cap) -> None:
    """Add a problem for each setting that a store without an index cannot keep."""
    for name, fix in _COUNTED.items():
        if keys[name] not in (None, SETTINGS[name].default):
            keys.complain(name, f"Memcached cannot count its sessions: {fix}")
    if max(cap.per_user, *cap.per_tier.values(), 0) > _MOST_PER_USER:
        keys.complain(
            "MAX_SESSIONS_PER_USER",
            f"give {_MOST_PER_USER} at most on Memcached, where one item has all of a user's keys",
        )


def cookie_problems(config: Mapping[str, Any]) -> list[str]:
    """Returns the contradictions in Flask's cookie settings, each with its fix.

    See RFC 6265bis, 4.1.3.
    """
    name = str(config.get("SESSION_COOKIE_NAME") or "")
    lowered = name.lower()
    problems = []
    if lowered.startswith(("__host-", "__secure-")) and not is_secure(config):
        problems.append(
            f"SESSION_COOKIE_NAME {name!r} promises a secure cookie: set SESSION_COOKIE_SECURE"
        )
    if lowered.startswith("__host-") and config.get("SESSION_COOKIE_DOMAIN"):
        problems.append(
            f"SESSION_COOKIE_NAME {name!r} forbids a domain: remove SESSION_COOKIE_DOMAIN"
        )
    path = config.get("SESSION_COOKIE_PATH") or config.get("APPLICATION_ROOT") or "/"
    if lowered.startswith("__host-") and path != "/":
        problems.append(
            f"SESSION_COOKIE_NAME {name!r} requires SESSION_COOKIE_PATH '/', not {path!r}"
        )
    samesite = config.get("SESSION_COOKIE_SAMESITE")
    spelled = samesite.title() if isinstance(samesite, str) else samesite
    if spelled not in (None, "Lax", "Strict", "None"):
        problems.append(f"SESSION_COOKIE_SAMESITE is {samesite!r}: give 'Lax', 'Strict' or 'None'")
    if str(samesite).title() == "None" and samesite is not None and not is_secure(config):
        problems.append("SESSION_COOKIE_SAMESITE 'None' requires SESSION_COOKIE_SECURE")
    if len(name) > _LONGEST_COOKIE_NAME:
        problems.append("SESSION_COOKIE_NAME is over 256 characters: browsers drop such cookies")
    return problems


def is_secure(config: Mapping[str, Any]) -> bool:
    """Returns whether the cookie is sent over HTTPS only, as every partitioned one is."""
    return bool(config.get("SESSION_COOKIE_SECURE") or config.get("SESSION_COOKIE_PARTITIONED"))


_DURATION, _NUMBER = "give a duration", "give a whole number above zero"
_AMOUNT = f"{_NUMBER}, below 2**63"

#: All settings by name, in the order of the documentation.
SETTINGS: dict[str, Setting] = {
    "STORE": Setting(
        MEMORY_URL,
        "URL, client, database or store",
        donor.read_store,
        ANY_STORE,
    ),
    "STORE_PASSWORD": Setting(
        None,
        "text, or a function that returns it",
        none_or(reading.password),
        reading.TEXT_OR_FUNCTION,
    ),
    "EXPIRY": choice("sliding", "fixed", "tiered"),
    "IDLE_TIMEOUT": Setting("30m", "duration", milliseconds, _DURATION),
    "LIFETIME": Setting("12h", "duration", milliseconds, _DURATION),
    "LONGEST_LIFETIME": Setting(
        None, "duration", none_or(milliseconds), f"{_DURATION}, or None for no longer sessions"
    ),
    "TIERS": Setting(
        {},
        "dict of name to dict of durations",
        only(lambda tiers: isinstance(tiers, Mapping)),
        'give a dict of names to {"idle_timeout": …, "lifetime": …}',
    ),
    "TIER_KEY": Setting("_tier", "a session key", reading.text, "give a name"),
    "USER_KEY": Setting(
        ("_user_id", "user_id"),
        "a session key, a dotted path, several of them, or a function",
        reading.user_key,
        "give the session key that holds the user, several, or a function of the session",
    ),
    "TOUCH_INTERVAL": Setting(
        None, "duration, or `0`", none_or(reading.milliseconds_or_zero), _DURATION
    ),
    "MAX_SESSIONS": Setting(None, "sessions", none_or(reading.positive), _AMOUNT),
    "MAX_SESSIONS_PER_USER": Setting(
        100, "sessions", none_or(reading.positive_or_mapping, 100), _AMOUNT
    ),
    "WHEN_FULL": choice("evict", "reject"),
    "WHEN_USER_FULL": choice("evict-oldest", "reject"),
    "MAX_SESSION_SIZE": Setting(None, "bytes", none_or(reading.positive), _AMOUNT),
    "CHECK_INTERVAL": Setting(
        "60s", "duration", none_or(milliseconds), f"{_DURATION}, or None for no job"
    ),
    "PURGE_BATCH": Setting(
        200,
        "sessions",
        none_or(only(lambda n: n <= MAX_BATCH, reading.positive), 200),
        f"{_NUMBER}, {MAX_BATCH} at most, since the store waits for each step",
    ),
    "SCHEDULER": Setting(None, "a scheduler", reading.scheduler, "give an APScheduler 3 scheduler"),
    "STORE_TIMEOUT": Setting("1s", "duration", lambda v: milliseconds(v) / 1000, _DURATION),
    "ON_OUTAGE": choice(UNAVAILABLE, READONLY),
    "KEY_PREFIX": Setting(
        "safesession",
        "text",
        only(_PLAIN.fullmatch, reading.text),
        "give a text without braces, spaces or control characters",
    ),
    "SHARDS": Setting(
        1,
        "parts",
        none_or(only(lambda n: n <= MAX_SHARDS and n & -n == n, reading.positive), 1),
        f"give a power of two, {MAX_SHARDS} at most, so that all shards are of one size",
    ),
    "WAIT_REPLICAS": Setting(
        0, "replicas", reading.positive_or_zero, "give the number of replicas, or 0"
    ),
    "RECORD_CLIENT": choice(False, True, unit="`True` or `False`"),
    "RENEW_INTERVAL": Setting(
        None, "duration", none_or(milliseconds), f"{_DURATION}, or None for no renewals"
    ),
    "RENEW_GRACE": Setting("10s", "duration, or `0`", reading.milliseconds_or_zero, _DURATION),
    "ADOPT": Setting(
        None,
        "a list of places",
        none_or(old_places, ()),
        "give a list of 'flask-cookie', 'flask-session+' and a URL, or a URL of SafeSession",
    ),
    "ADOPT_UNTIL": Setting(
        None, "a date", none_or(moment), "give a date, such as '2030-12-31', or None"
    ),
}
