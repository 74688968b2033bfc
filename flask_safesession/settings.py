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
from .expiry import Limits, Policy, milliseconds
from .stores.base import Cap, Rules

PREFIX = "SAFESESSION_"
MEMORY_URL = "memory://"
#: Schemes of ``SAFESESSION_STORE``, beside :data:`MEMORY_URL`.
REDIS_SCHEMES = ("redis", "rediss", "unix", "valkey")

_MAX_TOUCH = 60_000
_SMALLEST_CAP = 2
_LONGEST_COOKIE_NAME = 256
_TIER_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_MISSING = object()
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
    "MAX_SESSION_SIZE": None,
    "CHECK_INTERVAL": "60s",
    "PURGE_BATCH": 200,
    "SCHEDULER": None,
    "STORE_TIMEOUT": "1s",
    "KEY_PREFIX": "safesession",
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
    key_prefix: str


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
    if samesite not in (None, "Lax", "Strict", "None"):
        problems.append(f"SESSION_COOKIE_SAMESITE is {samesite!r}: give 'Lax', 'Strict' or 'None'")
    if samesite == "None" and not config.get("SESSION_COOKIE_SECURE"):
        problems.append("SESSION_COOKIE_SAMESITE 'None' wants SESSION_COOKIE_SECURE: browsers do")
    if len(name) > _LONGEST_COOKIE_NAME:
        problems.append("SESSION_COOKIE_NAME is over 256 characters: browsers drop such cookies")
    return problems


class _Reader:
    """Reads key by key and collects what is wrong instead of stopping at the first."""

    def __init__(self, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        self._problems: list[str] = cookie_problems(config)
        self._given = {k: v for k, v in config.items() if k.startswith(PREFIX)}
        self._given |= {PREFIX + k.upper(): v for k, v in overrides.items()}
        self._check_names(set(overrides))

    def settings(self) -> Settings:
        store, in_memory = self._store()
        policy = self._policy()
        cap = self._cap(10_000 if in_memory else 1_000_000)
        size = self._number("MAX_SESSION_SIZE", 64 * 1024 if in_memory else 256 * 1024)
        interval = self._given.get(PREFIX + "CHECK_INTERVAL", DEFAULTS["CHECK_INTERVAL"])
        settings = {
            "store": store,
            "tier_key": self._text("TIER_KEY"),
            "user_keys": self._user_keys(),
            "max_size": size,
            "check_interval": None if interval is None else self._duration("CHECK_INTERVAL"),
            "purge_batch": self._number("PURGE_BATCH", 200),
            "scheduler": self._scheduler(),
            "store_timeout": (self._duration("STORE_TIMEOUT") or 0) / 1000,
            "key_prefix": self._prefix(),
        }
        if self._problems or policy is None:
            raise ConfigError(self._problems)
        return Settings(rules=Rules(policy, cap), **settings)

    # -- names ----------------------------------------------------------------------------------

    def _check_names(self, arguments: set[str]) -> None:
        known = [PREFIX + name for name in DEFAULTS]
        for key in sorted(self._given):
            if key in known:
                continue
            near = get_close_matches(key, known, n=1, cutoff=0.8)
            argument = key.removeprefix(PREFIX).lower()
            if near:
                self._problems.append(f"{key} is not a setting: did you mean {near[0]}?")
            elif argument in arguments:
                self._problems.append(f"{argument} is not an argument of SafeSession")
            else:
                warnings.warn(f"{key} is not a setting of SafeSession", stacklevel=6)

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

    def _text(self, name: str) -> str:
        return self._checked(name, _non_empty, "give a name") or ""

    def _user_keys(self) -> tuple[str, ...]:
        mend = "give the session key that holds the user, or several"
        return self._checked("USER_KEY", _names, mend) or ()

    def _prefix(self) -> str:
        mend = "give a text without braces, spaces or control characters"
        return self._checked("KEY_PREFIX", _plain, mend) or ""

    def _scheduler(self) -> Any:
        return self._checked("SCHEDULER", _scheduler_of, "give an APScheduler 3 scheduler")

    # -- the store ------------------------------------------------------------------------------

    def _store(self) -> tuple[Any, bool]:
        """What is to hold the sessions, and whether it is the memory of this process."""
        store = self._get("STORE")
        if not isinstance(store, str):
            if store is None or not (hasattr(store, "shared") or hasattr(store, "execute_command")):
                self._problems.append(
                    f"{PREFIX}STORE is {store!r}: give a URL, a Store or a redis-py client"
                )
            return store, not getattr(store, "shared", True)
        scheme = store.partition("://")[0]
        if store != MEMORY_URL and scheme not in REDIS_SCHEMES:
            self._problems.append(
                f"{PREFIX}STORE is {hide_password(store)!r}: give {MEMORY_URL!r} or a URL that"
                f" begins with {', '.join(REDIS_SCHEMES)} and ://"
            )
        return store, store == MEMORY_URL

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
        touch = min(idle // 60, _MAX_TOUCH)
        if self._is_set("TOUCH_INTERVAL") and self._get("TOUCH_INTERVAL") is not None:
            zero = self._get("TOUCH_INTERVAL") in (0, "0", "0s", timedelta(0))
            touch = 0 if zero else self._duration("TOUCH_INTERVAL") or 0
        if touch >= idle:
            self._problems.append(
                f"{where}: {PREFIX}TOUCH_INTERVAL ({touch} ms) must be shorter than the idle"
                f" timeout ({idle} ms): otherwise use would not keep a session alive"
            )
        return Limits(idle, lifetime, touch)

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

    def _cap(self, default: int) -> Cap:
        total = self._number("MAX_SESSIONS", default)
        per_user = self._number("MAX_SESSIONS_PER_USER", 100)
        when_full = self._get("WHEN_FULL")
        if when_full not in ("evict", "reject"):
            self._problems.append(f"{PREFIX}WHEN_FULL is {when_full!r}: give 'evict' or 'reject'")
        if total < _SMALLEST_CAP:
            self._problems.append(
                f"{PREFIX}MAX_SESSIONS is {total}: give 2 at least, one for a user and one for the"
                " stranger who wants to sign in"
            )
        return Cap.of(total, per_user, evict=when_full == "evict")


def hide_password(url: str) -> str:
    """*url* without its password, also if it is malformed: for messages and logs."""
    hidden = re.sub(r"^((?:[^:/?#]+://)?[^:@/]*):.*@", r"\1:***@", url)
    return re.sub(r"((?:^|[?&])password=)[^&]*", r"\1***", hidden)


def _positive(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)) or int(value) < 1:
        raise ValueError
    return int(value)


def _non_empty(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _names(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable):
        raise TypeError
    checked = tuple(_non_empty(name) for name in names)
    return checked or _names(None)


def _plain(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^{}\s\x00-\x20]{1,100}", value):
        raise ValueError
    return value


def _scheduler_of(value: object) -> Any:
    """APScheduler's own object, also from an extension that wraps it in ``.scheduler``."""
    scheduler = getattr(value, "scheduler", value)
    if value is not None and not hasattr(scheduler, "add_job"):
        raise ValueError
    return scheduler
