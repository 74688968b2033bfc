"""``app.config`` to one frozen object, with every problem found in one go.

Each key is named ``SAFESESSION_…`` in ``app.config``; as a keyword argument of
:class:`~flask_safesession.SafeSession` it is in lower case without the prefix, and wins.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, TypeVar

from .errors import ConfigError
from .expiry import DEFAULT_TIER, Limits, Policy, milliseconds
from .stores.base import Cap, Rules
from .stores.layout import MAX_SHARDS

PREFIX = "SAFESESSION_"
MEMORY_URL = "memory://"
_SERVERS = ("redis", "rediss", "valkey", "valkeys")
#: Schemes of ``SAFESESSION_STORE``, beside :data:`MEMORY_URL`.
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

_MAX_TOUCH = 60_000
_SMALLEST_CAP = 2
_LONGEST_COOKIE_NAME = 256
_TIER_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_PLAIN = re.compile(r"[^{}\s\x00-\x20\x7f-\x9f\ud800-\udfff]{1,100}")
_T = TypeVar("_T")

DEFAULTS: dict[str, Any] = {
    "STORE": MEMORY_URL,
    "EXPIRY": "sliding",
    "IDLE_TIMEOUT": "30m",
    "LIFETIME": "12h",
    "TIERS": {},
    "TIER_KEY": "_tier",
    "USER_KEY": ("_user_id", "user_id"),
    "TOUCH_INTERVAL": None,
    "MAX_SESSIONS": None,
    "MAX_SESSIONS_PER_USER": 100,
    "WHEN_FULL": "evict",
    "WHEN_USER_FULL": "evict-oldest",
    "MAX_SESSION_SIZE": None,
    "CHECK_INTERVAL": "60s",
    "PURGE_BATCH": 200,
    "SCHEDULER": None,
    "STORE_TIMEOUT": "1s",
    "ON_OUTAGE": UNAVAILABLE,
    "KEY_PREFIX": "safesession",
    "SHARDS": 1,
    "WAIT_REPLICAS": 0,
    "RECORD_CLIENT": False,
    "RENEW_INTERVAL": None,
    "RENEW_GRACE": "10s",
}


@dataclass(frozen=True)
class Settings:
    """What an app asked for, checked.

    :param store: a URL, a store, or a client: as given.
    :param rules: the limits and caps that the store enforces.
    :param user_keys: session keys that may hold the user, in order of preference.
    :param max_size: bytes of one session's data.
    :param check_interval: milliseconds between purge runs; ``None``: no job.
    :param purge_batch: sessions that one purge step removes at most.
    :param scheduler: the app's own APScheduler, or ``None``.
    :param store_timeout: seconds that one store call may take.
    :param shards: in how many parts a shared store is.
    :param wait_replicas: replicas that have to confirm the end of a session.
    :param record_client: note the address and the browser of users' sessions.
    :param renew_interval: milliseconds after which a session that is used gets a new ID.
    :param renew_grace: milliseconds for which its old one still works.
    :param on_outage: what a request sees whose session cannot be loaded.
    """

    store: Any = field(repr=False)  # its URL may hold a password
    rules: Rules
    tier_key: str
    user_keys: tuple[str, ...]
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
    return _Reader(config, overrides).settings()


def cookie_problems(config: Mapping[str, Any]) -> list[str]:
    """Contradictions in Flask's own cookie settings, each with its mend (RFC 6265bis, 4.1.3)."""
    name = str(config.get("SESSION_COOKIE_NAME") or "")
    lowered = name.lower()
    problems = []
    if lowered.startswith(("__host-", "__secure-")) and not config.get("SESSION_COOKIE_SECURE"):
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
    if (
        str(samesite).title() == "None"
        and samesite is not None
        and not config.get("SESSION_COOKIE_SECURE")
    ):
        problems.append("SESSION_COOKIE_SAMESITE 'None' wants SESSION_COOKIE_SECURE: browsers do")
    if len(name) > _LONGEST_COOKIE_NAME:
        problems.append("SESSION_COOKIE_NAME is over 256 characters: browsers drop such cookies")
    return problems


class _Reader:
    """Reads key by key and collects what is wrong instead of stopping at the first."""

    def __init__(self, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        self._problems: list[str] = cookie_problems(config)
        self._given = {k: v for k, v in config.items() if str(k).startswith(PREFIX)}
        self._given |= {PREFIX + k.upper(): v for k, v in overrides.items()}
        self._check_names(set(overrides))

    def settings(self) -> Settings:
        store, in_memory = self._store()
        self._touch = self._touch_interval()
        policy = self._policy()
        foreign = hasattr(store, "census") and not hasattr(store, "reshard")
        alone = "is in memory" if in_memory else "is your own" if foreign else ""
        shards = self._shards(alone)
        cap = self._cap(10_000 if in_memory else 1_000_000, shards)
        size = self._number("MAX_SESSION_SIZE", 64 * 1024 if in_memory else 256 * 1024)
        interval = self._given.get(PREFIX + "CHECK_INTERVAL", DEFAULTS["CHECK_INTERVAL"])
        settings = {
            "store": store,
            "tier_key": self._text("TIER_KEY"),
            "user_keys": self._user_keys(),
            "max_size": size,
            "check_interval": None if interval is None else self._duration("CHECK_INTERVAL"),
            "purge_batch": self._batch(),
            "scheduler": self._scheduler(),
            "store_timeout": (self._duration("STORE_TIMEOUT") or 0) / 1000,
            "on_outage": self._on_outage(),
            "key_prefix": self._prefix(),
            "shards": shards,
            "wait_replicas": self._wait_replicas(alone),
            "record_client": self._record_client(),
            "renew_interval": self._renew_interval(),
            "renew_grace": self._checked("RENEW_GRACE", _milliseconds_or_zero, "give a duration")
            or 0,
        }
        if self._problems or policy is None:
            raise ConfigError(self._problems)
        return Settings(rules=Rules(policy, cap), **settings)

    # -- names ----------------------------------------------------------------------------------

    def _check_names(self, arguments: set[str]) -> None:
        for key in sorted(self._given):
            name = key.removeprefix(PREFIX)
            if name in DEFAULTS:
                continue
            argument, near = name.lower(), get_close_matches(name, DEFAULTS, n=1, cutoff=0.7)
            if near:
                self._problems.append(f"{key} is not a setting: did you mean {PREFIX}{near[0]}?")
            elif argument in arguments:
                self._problems.append(f"{argument} is not an argument of SafeSession")
            else:
                warnings.warn(f"{key} is not a setting of SafeSession", stacklevel=7)

    # -- one key --------------------------------------------------------------------------------

    def _get(self, name: str) -> Any:
        return self._given.get(PREFIX + name, DEFAULTS[name])

    def _is_set(self, name: str) -> bool:
        return PREFIX + name in self._given

    def _checked(self, name: str, check: Callable[[Any], _T], mend: str) -> _T | None:
        value = self._get(name)
        try:
            return check(value)
        except (TypeError, ValueError) as error:
            detail = f" ({error})" if str(error) else ""
            self._problems.append(f"{PREFIX}{name} is {value!r}: {mend}{detail}")
            return None

    def _duration(self, name: str) -> int | None:
        return self._checked(name, milliseconds, "give a duration")

    def _number(self, name: str, default: int) -> int:
        if self._get(name) is None:
            return default
        return self._checked(name, _positive, "give a whole number above zero") or default

    def _batch(self) -> int:
        batch = self._number("PURGE_BATCH", 200)
        if batch > MAX_BATCH:
            self._problems.append(
                f"{PREFIX}PURGE_BATCH is {batch}: give {MAX_BATCH} at most, since the store waits"
                " for each step"
            )
        return batch

    def _text(self, name: str) -> str:
        return self._checked(name, _non_empty, "give a name") or ""

    def _user_keys(self) -> tuple[str, ...]:
        mend = "give the session key that holds the user, or several"
        return self._checked("USER_KEY", _names, mend) or ()

    def _prefix(self) -> str:
        mend = "give a text without braces, spaces or control characters"
        return self._checked("KEY_PREFIX", _plain, mend) or ""

    def _shards(self, alone: str) -> int:
        shards = self._number("SHARDS", 1)
        if shards & (shards - 1) or shards > MAX_SHARDS:
            self._problems.append(
                f"{PREFIX}SHARDS is {shards}: give a power of two, {MAX_SHARDS} at most, so that"
                " all shards are of one size"
            )
        if shards > 1 and alone:
            self._problems.append(f"{PREFIX}SHARDS is {shards}, but the store {alone}: leave it")
        return min(shards, MAX_SHARDS)

    def _wait_replicas(self, alone: str) -> int:
        mend = "give the number of replicas, or 0"
        replicas = self._checked("WAIT_REPLICAS", _positive_or_zero, mend) or 0
        if replicas and alone:
            self._problems.append(
                f"{PREFIX}WAIT_REPLICAS is {replicas}, but the store {alone}: leave it"
            )
        return replicas

    def _scheduler(self) -> Any:
        return self._checked("SCHEDULER", _scheduler_of, "give an APScheduler 3 scheduler")

    # -- the store ------------------------------------------------------------------------------

    def _store(self) -> tuple[Any, bool]:
        """What is to hold the sessions, and whether it is the memory of this process."""
        store = self._get("STORE")
        if not isinstance(store, str):
            usable = hasattr(store, "shared") or hasattr(store, "execute_command")
            if isinstance(store, type) or not usable:
                shown = hide_password(repr(store))
                self._problems.append(
                    f"{PREFIX}STORE is {shown}: give a URL, a Store or a redis-py client"
                )
            return store, not getattr(store, "shared", True)
        scheme, separator, _ = store.partition("://")
        if store != MEMORY_URL and not (separator and scheme in REDIS_SCHEMES):
            self._problems.append(
                f"{PREFIX}STORE is {hide_password(store)!r}: give {MEMORY_URL!r} or a URL that"
                f" begins with {', '.join(REDIS_SCHEMES)} and ://"
            )
        return store, store == MEMORY_URL

    def _on_outage(self) -> Any:
        on_outage = self._get("ON_OUTAGE")
        if on_outage not in (UNAVAILABLE, READONLY):
            self._problems.append(
                f"{PREFIX}ON_OUTAGE is {on_outage!r}: give {UNAVAILABLE!r} or {READONLY!r}"
            )
        return on_outage

    # -- the policy -----------------------------------------------------------------------------

    def _policy(self) -> Policy | None:
        kind = self._get("EXPIRY")
        if kind not in ("sliding", "fixed", "tiered"):
            self._problems.append(
                f"{PREFIX}EXPIRY is {kind!r}: give 'sliding', 'fixed' or 'tiered'"
            )
        default = self._default_limits(fixed=kind == "fixed")
        tiers = self._tiers(kind, default)
        return Policy(kind, default, tiers) if default else None

    def _default_limits(self, *, fixed: bool) -> Limits | None:
        lifetime, idle = self._duration("LIFETIME"), self._duration("IDLE_TIMEOUT")
        if lifetime is None or idle is None:
            return None
        if fixed or not self._is_set("IDLE_TIMEOUT"):
            idle = lifetime if fixed else min(idle, lifetime)
        return self._limits(f"{PREFIX}IDLE_TIMEOUT", idle, lifetime)

    def _limits(self, where: str, idle: int, lifetime: int) -> Limits:
        if idle > lifetime:
            self._problems.append(
                f"{where}: an idle timeout of {idle} ms is longer than the lifetime of"
                f" {lifetime} ms: shorten the one or extend the other"
            )
        touch = min(idle // 60, _MAX_TOUCH) if self._touch is None else self._touch
        if touch >= idle:
            self._problems.append(
                f"{where}: {PREFIX}TOUCH_INTERVAL ({touch} ms) must be shorter than the idle"
                f" timeout ({idle} ms): otherwise use would not keep a session alive"
            )
        return Limits(idle, lifetime, touch)

    def _touch_interval(self) -> int | None:
        if self._get("TOUCH_INTERVAL") is None:
            return None
        return self._checked("TOUCH_INTERVAL", _milliseconds_or_zero, "give a duration") or 0

    def _tiers(self, kind: str, default: Limits | None) -> dict[str, Limits]:
        tiers = self._get("TIERS")
        if not isinstance(tiers, Mapping):
            self._problems.append(
                f"{PREFIX}TIERS is {tiers!r}: give a dict of names to"
                ' {"idle_timeout": …, "lifetime": …}'
            )
            return {}
        if tiers and kind in ("sliding", "fixed"):
            self._problems.append(
                f"{PREFIX}TIERS is set, but {PREFIX}EXPIRY is {kind!r}: set it to 'tiered'"
            )
        if kind == "tiered" and not tiers:
            self._problems.append(f"{PREFIX}EXPIRY is 'tiered', but {PREFIX}TIERS is empty")
        read = ((name, self._tier(name, tier, default)) for name, tier in tiers.items())
        return {name: limits for name, limits in read if limits is not None}

    def _tier(self, name: object, tier: object, default: Limits | None) -> Limits | None:
        where = f"{PREFIX}TIERS[{name!r}]"
        if not isinstance(name, str) or not _TIER_NAME.fullmatch(name):
            self._problems.append(f"{where}: name tiers with letters, digits and _ . : - only")
            return None
        if not isinstance(tier, Mapping) or not tier or set(tier) - {"idle_timeout", "lifetime"}:
            self._problems.append(
                f'{where} is {tier!r}: give {{"idle_timeout": …, "lifetime": …}}, or one of them'
            )
            return None
        try:
            read = {key: milliseconds(value) for key, value in tier.items()}
        except ValueError as error:
            self._problems.append(f"{where} is {tier!r}: {error}")
            return None
        if default is None:
            return None
        lifetime = read.get("lifetime", default.lifetime)
        return self._limits(where, read.get("idle_timeout", lifetime), lifetime)

    def _cap(self, default: int, shards: int) -> Cap:
        total = self._number("MAX_SESSIONS", default)
        per_user, per_tier = self._per_user()
        when_user_full = self._get("WHEN_USER_FULL")
        if when_user_full not in ("evict-oldest", "reject"):
            self._problems.append(
                f"{PREFIX}WHEN_USER_FULL is {when_user_full!r}: give 'evict-oldest' or 'reject'"
            )
        when_full = self._get("WHEN_FULL")
        if when_full not in ("evict", "reject"):
            self._problems.append(f"{PREFIX}WHEN_FULL is {when_full!r}: give 'evict' or 'reject'")
        if total < _SMALLEST_CAP * shards:
            each = "" if shards == 1 else f" for each of {shards} shards"
            self._problems.append(
                f"{PREFIX}MAX_SESSIONS is {total}: give 2 at least{each}, one for a user and one"
                " for the stranger who wants to sign in"
            )
        cap = Cap.of(total, per_user, evict=when_full == "evict")
        cap = cap._replace(per_tier=per_tier, refuse=when_user_full == "reject")
        if self._is_set("MAX_SESSIONS_PER_USER"):
            return cap
        # Under a small cap the default would let one account push out all the others.
        users = cap.share(shards).users
        return cap._replace(per_user=min(per_user, max(1, users // 2)))

    def _per_user(self) -> tuple[int, dict[str, int]]:
        """How many sessions a user may have; and of each tier, if the tiers differ."""
        given = self._get("MAX_SESSIONS_PER_USER")
        if not given or not isinstance(given, Mapping):
            return self._number("MAX_SESSIONS_PER_USER", 100), {}
        numbers: dict[str, int] = {}
        for tier, value in given.items():
            try:
                numbers[tier] = _positive(value)
            except (TypeError, ValueError):
                self._problems.append(
                    f"{PREFIX}MAX_SESSIONS_PER_USER[{tier!r}] is {value!r}: give a whole number"
                    " above zero"
                )
            if tier not in (DEFAULT_TIER, *(self._get("TIERS") or ())):
                self._problems.append(
                    f"{PREFIX}MAX_SESSIONS_PER_USER has {tier!r}, which is no tier: give one of"
                    f" {PREFIX}TIERS, or {DEFAULT_TIER!r}"
                )
        return numbers.get(DEFAULT_TIER, 100), numbers

    def _record_client(self) -> bool:
        value = self._get("RECORD_CLIENT")
        if not isinstance(value, bool):
            self._problems.append(f"{PREFIX}RECORD_CLIENT is {value!r}: give True or False")
        return bool(value)

    def _renew_interval(self) -> int | None:
        return None if self._get("RENEW_INTERVAL") is None else self._duration("RENEW_INTERVAL")


def hide_password(url: str) -> str:
    """*url* without its password, also if it is malformed: for messages and logs."""
    hidden = re.sub(r"^((?:.*?://)?[^:@]*):.*@", r"\1:***@", url, flags=re.DOTALL)
    # Without a host behind it, what is no port is a password.
    hidden = re.sub(r"^(\w[\w+.-]*://[^:@/?\[]*):(?!\d+(?:[/?,]|$))[^@]*$", r"\1:***", hidden)
    return re.sub(r"(password=)[^&;\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def _milliseconds_or_zero(value: object) -> int:
    is_zero = not isinstance(value, bool) and value in (0, timedelta(0))
    if is_zero or re.fullmatch(r"\s*0+\s*(ms|[smhdw])?\s*", str(value)):
        return 0
    return milliseconds(value)


def _positive(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or int(value) < 1:
        raise ValueError
    return int(value)


def _positive_or_zero(value: object) -> int:
    return 0 if value in (0, "0") and not isinstance(value, bool) else _positive(value)


def _non_empty(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _names(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable) or isinstance(names, (set, frozenset)):
        raise TypeError  # a set has no order, and the order decides
    checked = tuple(_non_empty(name) for name in names)
    return checked or _names(None)


def _plain(value: object) -> str:
    if not isinstance(value, str) or not _PLAIN.fullmatch(value):
        raise ValueError
    return value


def _scheduler_of(value: object) -> Any:
    """APScheduler's own object, also from an extension that wraps it in ``.scheduler``."""
    scheduler = getattr(value, "scheduler", value)
    if value is not None and not hasattr(scheduler, "add_job"):
        raise ValueError
    return scheduler
