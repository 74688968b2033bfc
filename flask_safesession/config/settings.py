"""``app.config`` to one frozen object, with every problem found in one go.

Each key is named ``SAFESESSION_…`` in ``app.config``; as a keyword argument of
:class:`~flask_safesession.SafeSession` it is in lower case without the prefix, and wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ..errors import ConfigError
from ..model.identity import UserKey
from ..stores.base import Rules
from ..stores.layout import MAX_SHARDS
from ..stores.sql.url import read_file
from .limits import read_cap, read_policy
from .reading import MEMORY_URL, PREFIX, READONLY, SQLITE_URL, UNAVAILABLE, Keys

_SERVERS = ("redis", "rediss", "valkey", "valkeys")
#: Schemes of ``SAFESESSION_STORE``, beside those of memory and of SQLite.
REDIS_SCHEMES: tuple[str, ...] = (
    *_SERVERS,
    "unix",
    *(f"{server}+sentinel" for server in _SERVERS),
    *(f"{server}+cluster" for server in _SERVERS),
)

#: The most that one purge step may be asked to remove.
MAX_BATCH = 10_000

_LONGEST_COOKIE_NAME = 256
_MEMORY_NAME = re.compile(r"[A-Za-z0-9._-]{0,100}")
_NEARLY_A_URL = re.compile(r"([a-z+-]+)(?::/+|//|:(?=[a-z]))(.+)", re.IGNORECASE)
_NEARLY_A_FILE = re.compile(r"sqlite3?:?(/*)(.*)", re.IGNORECASE)
_SLASHES = 3  # more of them, and the path is absolute
_ADDRESS = re.compile(r"([\w.-]+|\[[\da-f:]+\])(:\d{1,5})?(?:/(\d*))?", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """What an app asked for, checked.

    :param store: a URL, a store, or a client: as given.
    :param rules: the limits and caps that the store enforces.
    :param user_key: where a session's user stands.
    :param max_size: bytes of one session's data.
    :param check_interval: milliseconds between purge runs; ``None``: no job.
    :param purge_batch: sessions that one purge step removes at most.
    :param scheduler: the app's own APScheduler, or ``None``.
    :param store_timeout: seconds that one store call may take.
    :param shards: in how many parts a shared store is.
    :param wait_replicas: replicas that have to confirm the end of a session.
    :param record_client: note the address and the browser of users' sessions.
    :param renew_interval: milliseconds after which a session that is used gets a new secret.
    :param renew_grace: milliseconds for which the one before it is still good.
    :param on_outage: what a request sees whose session cannot be loaded.
    """

    store: Any = field(repr=False)  # its URL may hold a password
    rules: Rules
    tier_key: str
    user_key: UserKey
    max_size: int
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


def read_settings(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """The settings in *config*, with *overrides* (lower case, no prefix) on top.

    :raises ConfigError: with every problem that was found.
    """
    keys = Keys(config, overrides)
    keys.problems[:0] = cookie_problems(config)
    store, in_memory = _store(keys)
    policy = read_policy(keys)
    foreign = hasattr(store, "census") and not hasattr(store, "part_of")
    in_file = isinstance(store, str) and store.startswith(SQLITE_URL)
    alone = "is in memory" if in_memory else "is one file" if in_file else ""
    alone = alone or ("is your own" if foreign else "")
    shards = _shards(keys, alone)
    cap = read_cap(keys, 10_000 if in_memory else 1_000_000, shards)
    given = {
        "store": store,
        "max_size": keys.number("MAX_SESSION_SIZE", 64 * 1024 if in_memory else 256 * 1024),
        "tier_key": keys.text("TIER_KEY"),
        "user_key": _user_key(keys),
        "check_interval": _duration_or_none(keys, "CHECK_INTERVAL", "no job"),
        "purge_batch": _batch(keys),
        "scheduler": keys.scheduler("SCHEDULER"),
        "store_timeout": keys.duration("STORE_TIMEOUT") / 1000,
        "on_outage": keys.choice("ON_OUTAGE", UNAVAILABLE, READONLY),
        "key_prefix": keys.plain("KEY_PREFIX"),
        "shards": shards,
        "wait_replicas": _wait_replicas(keys, alone),
        "record_client": bool(keys.choice("RECORD_CLIENT", True, False)),
        "renew_interval": _duration_or_none(keys, "RENEW_INTERVAL", "no renewals"),
        "renew_grace": keys.duration_or_zero("RENEW_GRACE"),
    }
    if keys.problems or policy is None:
        raise ConfigError(keys.problems)
    return Settings(rules=Rules(policy, cap), **given)


def _user_key(keys: Keys) -> UserKey:
    given = keys.get("USER_KEY")
    if callable(given) and not isinstance(given, type):
        return UserKey(find=given)
    fix = "give the session key that holds the user, several, or a function of the session"
    return UserKey(keys.names("USER_KEY", fix))


def _duration_or_none(keys: Keys, name: str, meaning: str) -> int | None:
    if keys.get(name) is None:
        return None
    return keys.duration(name, f"give a duration, or None for {meaning}")


def _batch(keys: Keys) -> int:
    batch = keys.number("PURGE_BATCH", 200)
    if batch > MAX_BATCH:
        mend = f"give {MAX_BATCH} at most, since the store waits for each step"
        keys.complain("PURGE_BATCH", mend)
    return batch


def _shards(keys: Keys, alone: str) -> int:
    shards = keys.number("SHARDS", 1)
    if shards & (shards - 1) or shards > MAX_SHARDS:
        mend = f"give a power of two, {MAX_SHARDS} at most, so that all shards are of one size"
        keys.complain("SHARDS", mend)
    if shards > 1 and alone:
        keys.problems.append(
            f"{PREFIX}SHARDS is {keys.shown('SHARDS')}, but the store {alone}: leave it"
        )
    return min(shards, MAX_SHARDS)


def _wait_replicas(keys: Keys, alone: str) -> int:
    replicas = keys.number_or_zero("WAIT_REPLICAS", "give the number of replicas, or 0")
    if replicas and alone:
        keys.problems.append(
            f"{PREFIX}WAIT_REPLICAS is {keys.shown('WAIT_REPLICAS')}, but the store {alone}:"
            " leave it"
        )
    return replicas


def _store(keys: Keys) -> tuple[Any, bool]:
    """What is to hold the sessions, and whether it is the memory of this process."""
    store = keys.get("STORE")
    if not isinstance(store, str):
        usable = hasattr(store, "shared") or hasattr(store, "execute_command")
        if isinstance(store, type) or not usable:
            shown = hide_password(repr(store))
            keys.complain("STORE", "give a URL, a Store or a redis-py client", shown)
        return store, not getattr(store, "shared", True)
    shown = repr(hide_password(store))
    scheme, separator, name = store.partition("://")
    in_memory = store.startswith(MEMORY_URL)
    if in_memory and not _MEMORY_NAME.fullmatch(name):
        mend = f"give a name of letters, digits, '.', '_' and '-' after {MEMORY_URL}, or none"
        keys.complain("STORE", mend, shown)
    elif store.startswith(SQLITE_URL):
        keys.checked("STORE", read_file, "give a file")
    elif not in_memory and not (separator and scheme in REDIS_SCHEMES):
        mend = (
            f"give {MEMORY_URL!r}, {SQLITE_URL!r} or a URL that begins with"
            f" {', '.join(REDIS_SCHEMES)} and ://"
        )
        meant = _meant(hide_password(store))
        keys.complain("STORE", f"did you mean {meant}?" if meant else mend, shown)
    elif not in_memory:
        _check_redis(keys, store)
    return store, in_memory


def _check_redis(keys: Keys, url: str) -> None:
    from ..stores.redis.url import read_url  # apps on memory do not pay for redis-py

    try:
        read_url(url)
    except ConfigError as error:
        keys.problems += error.problems


def _meant(text: str) -> str:
    """Returns the URL that *text*, which is none, may stand for; empty if that is not clear."""
    if "@" in text or "*" in text:  # a password
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
    """Contradictions in Flask's own cookie settings, each with its mend (RFC 6265bis, 4.1.3)."""
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
        problems.append(f"SESSION_COOKIE_NAME {name!r} wants SESSION_COOKIE_PATH '/', not {path!r}")
    samesite = config.get("SESSION_COOKIE_SAMESITE")
    spelled = samesite.title() if isinstance(samesite, str) else samesite
    if spelled not in (None, "Lax", "Strict", "None"):
        problems.append(f"SESSION_COOKIE_SAMESITE is {samesite!r}: give 'Lax', 'Strict' or 'None'")
    if str(samesite).title() == "None" and samesite is not None and not is_secure(config):
        problems.append("SESSION_COOKIE_SAMESITE 'None' wants SESSION_COOKIE_SECURE: browsers do")
    if len(name) > _LONGEST_COOKIE_NAME:
        problems.append("SESSION_COOKIE_NAME is over 256 characters: browsers drop such cookies")
    return problems


def is_secure(config: Mapping[str, Any]) -> bool:
    """Whether the cookie is sent over HTTPS only: Werkzeug also adds that to a partitioned one."""
    return bool(config.get("SESSION_COOKIE_SECURE") or config.get("SESSION_COOKIE_PARTITIONED"))


def hide_password(url: str) -> str:
    """*url* without its password, also if it is malformed: for messages and logs."""
    hidden = re.sub(r"^((?:.*?://)?[^:@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    # Without a host behind it, what is no port is a password.
    hidden = re.sub(r"^(\w[\w+.-]*://[^:@/?\[]*):(?!\d+(?:[/?,]|$))[^@]*$", r"\1:***", hidden)
    return re.sub(r"(password=)[^&;\s]*", r"\1***", hidden, flags=re.IGNORECASE)
