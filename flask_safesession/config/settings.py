"""All settings in one table, and ``app.config`` read by it to one frozen object.

Each key is named ``SAFESESSION_…`` in ``app.config``; as a keyword argument of
:class:`~flask_safesession.SafeSession` it is in lower case without the prefix, and wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from ..errors import ConfigError
from ..model.identity import UserKey
from ..model.policy import milliseconds
from ..stores.base import Rules
from ..stores.layout import MAX_SHARDS
from ..stores.sql.url import read_file
from . import reading
from .limits import read_cap, read_policy
from .reading import PREFIX, Keys, Setting, choice, none_or, only

#: The store of one app; with a name after it, that of all apps of the process which give it.
MEMORY_URL = "memory://"
#: The SQLite file in the app's instance folder; with a path after it, another file.
SQLITE_URL = "sqlite://"
#: After a URL of memory: each process may have sessions of its own.
PER_PROCESS = "?per_process=yes"

_SERVERS = ("redis", "rediss", "valkey", "valkeys")
#: Schemes of ``SAFESESSION_STORE``, beside those of memory and of SQLite.
REDIS_SCHEMES: tuple[str, ...] = (
    *_SERVERS,
    "unix",
    *(f"{server}+sentinel" for server in _SERVERS),
    *(f"{server}+cluster" for server in _SERVERS),
)

#: What ``SAFESESSION_ON_OUTAGE`` may be.
UNAVAILABLE, READONLY = "unavailable", "readonly-anonymous"
#: The most that one purge step may be asked to remove.
MAX_BATCH = 10_000

_LONGEST_COOKIE_NAME = 256
_MEMORY_NAME = re.compile(rf"[A-Za-z0-9._-]{{0,100}}({re.escape(PER_PROCESS)})?")
_PLAIN = re.compile(r"[^{}\s\x00-\x20\x7f-\x9f\ud800-\udfff]{1,100}")  # for keys of a store
_NEARLY_A_URL = re.compile(r"([a-z+-]+)(?::/+|//|:(?=[a-z]))(.+)", re.IGNORECASE)
_NEARLY_A_FILE = re.compile(r"sqlite3?:?(/*)(.*)", re.IGNORECASE)
_SLASHES = 3  # more of them, and the path is absolute
_ADDRESS = re.compile(r"([\w.-]+|\[[\da-f:]+\])(:\d{1,5})?(?:/(\d*))?", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """The settings of an app, checked. Fields are named as the settings that they are from.

    :param store: a URL, a store, or a client: as given.
    :param rules: the limits and caps that the store enforces.
    :param max_session_size: bytes of one session's data.
    :param check_interval: milliseconds, as in the other intervals; ``None``: no job.
    :param store_timeout: seconds.
    """

    rules: Rules
    store: Any = field(repr=False)  # its URL may hold a password
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

    @property
    def per_process(self) -> bool:
        """Whether the app accepts that each process has sessions of its own."""
        return isinstance(self.store, str) and self.store.endswith(PER_PROCESS)


def read_settings(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """Returns the settings in *config*, with *overrides* (lower case, no prefix) on top.

    :raises ConfigError: with every problem that was found.
    """
    keys = Keys(SETTINGS, config, overrides)
    in_memory = _is_memory(keys["STORE"])
    policy = read_policy(keys)
    cap = read_cap(keys, 10_000 if in_memory else 1_000_000)
    _check_undivided(keys, in_memory=in_memory)
    problems = [*cookie_problems(config), *keys.problems]
    if problems or policy is None:
        raise ConfigError(problems)
    values = {f.name: keys[f.name.upper()] for f in fields(Settings) if f.name != "rules"}
    values["max_session_size"] = values["max_session_size"] or (64 if in_memory else 256) * 1024
    return Settings(Rules(policy, cap), **values)


def _is_memory(store: object) -> bool:
    """Whether *store* is the memory of this process."""
    if isinstance(store, str):
        return store.startswith(MEMORY_URL)
    return not getattr(store, "shared", True)


def _check_undivided(keys: Keys, *, in_memory: bool) -> None:
    """Refuse parts and replicas where the store has none."""
    store = keys["STORE"]
    in_file = isinstance(store, str) and store.startswith(SQLITE_URL)
    foreign = hasattr(store, "census") and not hasattr(store, "part_of")
    what = "is in memory" if in_memory else "is one file" if in_file else "is your own"
    for name in ("SHARDS", "WAIT_REPLICAS") if in_memory or in_file or foreign else ():
        if keys[name] not in (None, SETTINGS[name].default):
            shown = f"{PREFIX}{name} is {keys.shown(name)}"
            keys.problems.append(f"{shown}, but the store {what}: leave it")


# -- the store ----------------------------------------------------------------------------------


def _read_store(store: Any) -> Any:
    """*store*, if sessions can be kept in it.

    :raises ConfigError: with every problem, and without its password.
    """
    if not isinstance(store, str):
        usable = hasattr(store, "shared") or hasattr(store, "execute_command")
        if isinstance(store, type) or not usable:
            raise _wrong_store(store, SETTINGS["STORE"].fix)
        return store
    scheme, separator, name = store.partition("://")
    if store.startswith(MEMORY_URL):
        if not _MEMORY_NAME.fullmatch(name):
            raise _wrong_store(
                store,
                f"give a name of letters, digits, '.', '_' and '-' after {MEMORY_URL}, or none;"
                f" after that {PER_PROCESS} where each process may have sessions of its own",
            )
    elif store.startswith(SQLITE_URL):
        try:
            read_file(store)
        except ValueError as error:
            raise _wrong_store(store, f"give a file ({error})") from error
    elif separator and scheme in REDIS_SCHEMES:
        from ..stores.redis.url import read_url  # apps on memory do not pay for redis-py

        read_url(store)
    else:
        meant, schemes = _meant(hide_password(store)), ", ".join(REDIS_SCHEMES)
        known = f"give {MEMORY_URL!r}, {SQLITE_URL!r} or a URL that begins with {schemes} and ://"
        raise _wrong_store(store, f"did you mean {meant}?" if meant else known)
    return store


def _wrong_store(store: object, fix: str) -> ConfigError:
    shown = repr(hide_password(store)) if isinstance(store, str) else hide_password(repr(store))
    return ConfigError([f"{PREFIX}STORE is {shown}: {fix}"])


def _meant(text: str) -> str:
    """Returns the URL that was probably meant by *text*; empty if that is not clear."""
    if "@" in text or "*" in text:  # it may have a password
        return ""
    if re.fullmatch("memory:?/*", text, re.IGNORECASE):
        return MEMORY_URL
    if file := _NEARLY_A_FILE.fullmatch(text):
        return SQLITE_URL + ("//" if len(file[1]) > _SLASHES else "/" if file[2] else "") + file[2]
    if text.lower() in _SERVERS:
        return f"{text.lower()}://localhost:6379/0"
    if url := _NEARLY_A_URL.fullmatch(text):
        near = get_close_matches(url[1].lower(), REDIS_SCHEMES, n=1, cutoff=0.7)
        return f"{near[0]}://{'/' if near[0] == 'unix' else ''}{url[2]}" if near else ""
    return _address_meant(text)


def _address_meant(text: str) -> str:
    if text.startswith("/"):
        return f"unix://{text}"
    if (address := _ADDRESS.fullmatch(text)) and (address[2] or "." in text or text == "localhost"):
        return f"redis://{address[1]}{address[2] or ':6379'}/{address[3] or 0}"
    return ""


def cookie_problems(config: Mapping[str, Any]) -> list[str]:
    """Returns contradictions in Flask's own cookie settings and how to fix them.

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


def hide_password(url: str) -> str:
    """Returns *url* without its password, also if it is malformed: for messages and logs."""
    hidden = re.sub(r"^((?:.*?://)?[^:@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    # Without a host after it, what is not a port is a password.
    hidden = re.sub(r"^(\w[\w+.-]*://[^:@/?\[]*):(?!\d+(?:[/?,]|$))[^@]*$", r"\1:***", hidden)
    return re.sub(r"(password=)[^&;\s]*", r"\1***", hidden, flags=re.IGNORECASE)


_DURATION, _NUMBER = "give a duration", "give a whole number above zero"

#: All settings by name, in the order of the documentation.
SETTINGS: dict[str, Setting] = {
    "STORE": Setting(
        MEMORY_URL, "URL, client or store", _read_store, "give a URL, a Store or a redis-py client"
    ),
    "EXPIRY": choice("sliding", "fixed", "tiered"),
    "IDLE_TIMEOUT": Setting("30m", "duration", milliseconds, _DURATION),
    "LIFETIME": Setting("12h", "duration", milliseconds, _DURATION),
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
    "MAX_SESSIONS": Setting(None, "sessions", none_or(reading.positive), _NUMBER),
    "MAX_SESSIONS_PER_USER": Setting(
        100, "sessions", none_or(reading.positive_or_mapping, 100), _NUMBER
    ),
    "WHEN_FULL": choice("evict", "reject"),
    "WHEN_USER_FULL": choice("evict-oldest", "reject"),
    "MAX_SESSION_SIZE": Setting(None, "bytes", none_or(reading.positive), _NUMBER),
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
}
