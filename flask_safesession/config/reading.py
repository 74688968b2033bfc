"""The keys of ``app.config`` that are ours: what they are by default, and how one is read.

What is wrong with a value is noted instead of raised, so that all problems are told at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, TypeVar

from flask import Flask

from ..events import logger
from ..model.policy import milliseconds

PREFIX = "SAFESESSION_"
#: The store of one app; with a name behind it, that of all apps of the process which give it.
MEMORY_URL = "memory://"
#: The SQLite file in the app's instance folder; with a path behind it, another file.
SQLITE_URL = "sqlite://"

#: What ``SAFESESSION_ON_OUTAGE`` may be.
UNAVAILABLE, READONLY = "unavailable", "readonly-anonymous"

#: Keys of Flask's own that people look for among ours.
_FLASKS = [key for key in Flask.default_config if "SESSION" in key or key.startswith("SECRET_KEY")]

_T = TypeVar("_T")
_PLAIN = re.compile(r"[^{}\s\x00-\x20\x7f-\x9f\ud800-\udfff]{1,100}")

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


class Keys:
    """The keys in *config*, with *overrides* (lower case, no prefix) on top.

    ``problems``: what is wrong with those that were read so far, each with its mend.
    """

    def __init__(self, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._given = {k: v for k, v in config.items() if str(k).startswith(PREFIX)}
        self._given |= {PREFIX + k.upper(): v for k, v in overrides.items()}
        self._check_names(set(overrides))

    def get(self, name: str) -> Any:
        """As it is given, or its default."""
        return self._given.get(PREFIX + name, DEFAULTS[name])

    def is_set(self, name: str) -> bool:
        """Whether it is given."""
        return PREFIX + name in self._given

    def shown(self, name: str) -> str:
        """As it is written, for messages."""
        return repr(self.get(name)) + ("" if self.is_set(name) else " by default")

    def complain(self, name: str, mend: str, value: object = None) -> None:
        """Note that a key is wrong; *value* is shown in the place of what is given."""
        shown = repr(self.get(name)) if value is None else value
        self.problems.append(f"{PREFIX}{name} is {shown}: {mend}")

    def checked(self, name: str, check: Callable[[Any], _T], mend: str) -> _T | None:
        """What *check* makes of it; ``None`` if it is wrong."""
        try:
            return check(self.get(name))
        except (TypeError, ValueError) as error:
            self.complain(name, mend + (f" ({error})" if str(error) else ""))
            return None

    def duration(self, name: str, mend: str = "give a duration") -> int:
        """Milliseconds; 0 if it is wrong."""
        return self.checked(name, milliseconds, mend) or 0

    def duration_or_zero(self, name: str) -> int:
        """Milliseconds, which may be none."""
        return self.checked(name, _milliseconds_or_zero, "give a duration") or 0

    def number(self, name: str, default: int) -> int:
        """A whole number above zero; *default* for ``None``, or if it is wrong."""
        if self.get(name) is None:
            return default
        return self.checked(name, positive, "give a whole number above zero") or default

    def number_or_zero(self, name: str, mend: str) -> int:
        """A whole number, which may be zero."""
        return self.checked(name, _positive_or_zero, mend) or 0

    def choice(self, name: str, *options: Any) -> Any:
        """One of *options*; what is given all the same if it is wrong."""
        value = self.get(name)
        if value not in options or type(value) is not type(options[0]):  # 1 is not True
            *most, last = map(repr, options)
            self.complain(name, f"give {', '.join(most)} or {last}")
        return value

    def text(self, name: str) -> str:
        """A text that is not empty."""
        return self.checked(name, _non_empty, "give a name") or ""

    def names(self, name: str, mend: str) -> tuple[str, ...]:
        """A text, or several in order."""
        return self.checked(name, _names, mend) or ()

    def plain(self, name: str) -> str:
        """A text that can be part of a key of the store."""
        mend = "give a text without braces, spaces or control characters"
        return self.checked(name, _plain, mend) or ""

    def scheduler(self, name: str) -> Any:
        """A scheduler, or ``None``."""
        return self.checked(name, _scheduler_of, "give an APScheduler 3 scheduler")

    def _check_names(self, arguments: set[str]) -> None:
        for key in sorted(self._given):
            name = key.removeprefix(PREFIX)
            if name in DEFAULTS:
                continue
            argument, near = name.lower(), get_close_matches(name, DEFAULTS, n=1, cutoff=0.7)
            if flasks := next((of for of in (name, f"SESSION_{name}") if of in _FLASKS), None):
                given = f"the argument {argument}" if argument in arguments else key
                self.problems.append(
                    f'{given} is not a setting: {flasks} is Flask\'s, set app.config["{flasks}"]'
                )
            elif near:
                self.problems.append(f"{key} is not a setting: did you mean {PREFIX}{near[0]}?")
            elif argument in arguments:
                self.problems.append(f"{argument} is not an argument of SafeSession")
            else:
                logger.warning("%s is not a setting of SafeSession", key)


def _milliseconds_or_zero(value: object) -> int:
    is_number = isinstance(value, (int, float, timedelta)) and not isinstance(value, bool)
    if (is_number and not value) or re.fullmatch(r"\s*0+\s*(ms|[smhdw])?\s*", str(value)):
        return 0
    return milliseconds(value)


def positive(value: object) -> int:
    """*value*, if it is a whole number above zero, or says one."""
    number = 0
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError):  # what int() says of it is not for people
            number = int(value)
    if number < 1:
        raise ValueError
    return number


def _positive_or_zero(value: object) -> int:
    return 0 if type(value) in (int, str) and value in (0, "0") else positive(value)


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
