"""How settings are read from ``app.config``: one row for each, and parsers for their values.

A wrong value is noted instead of raised, so that all problems are reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, NamedTuple

from flask import Flask

from ..errors import ConfigError
from ..events import logger
from ..model.identity import UserKey
from ..model.policy import milliseconds

PREFIX = "SAFESESSION_"

# Keys of Flask's own that people look for among ours.
_FLASKS = [key for key in Flask.default_config if "SESSION" in key or key.startswith("SECRET_KEY")]


class Setting(NamedTuple):
    """One setting.

    :param default: as an app would write it.
    :param unit: what it is given in, for the documentation.
    :param read: returns the value as the package uses it; raises ``TypeError`` or ``ValueError``
        for a wrong one, or ``ConfigError`` with problems of its own.
    :param fix: what to do about a wrong value.
    """

    default: Any
    unit: str
    read: Callable[[Any], Any]
    fix: str


class Keys:
    """The settings in *config*, with *overrides* (lower case, no prefix) on top.

    ``problems``: what is wrong with them so far, each with its fix.

    :param table: all settings by name.
    """

    def __init__(
        self, table: Mapping[str, Setting], config: Mapping[str, Any], overrides: Mapping[str, Any]
    ) -> None:
        self._table = table
        self._given = {k: v for k, v in config.items() if str(k).startswith(PREFIX)}
        self._given |= {PREFIX + k.upper(): v for k, v in overrides.items()}
        self.problems: list[str] = [*_unknown(self._given, table, set(overrides))]
        self._read = {name: self._checked(name, row) for name, row in table.items()}

    def __getitem__(self, name: str) -> Any:
        """Returns the value of a setting as it was read; ``None`` if it is wrong."""
        return self._read[name]

    def is_set(self, name: str) -> bool:
        """Returns whether a setting is given."""
        return PREFIX + name in self._given

    def shown(self, name: str) -> str:
        """Returns a setting as it is written, for messages."""
        return repr(self._value(name)) + ("" if self.is_set(name) else " by default")

    def complain(self, name: str, fix: str) -> None:
        """Note that a setting is wrong."""
        self.problems.append(f"{PREFIX}{name} is {self.shown(name)}: {fix}")

    def _value(self, name: str) -> Any:
        return self._given.get(PREFIX + name, self._table[name].default)

    def _checked(self, name: str, row: Setting) -> Any:
        try:
            return row.read(self._value(name))
        except ConfigError as error:
            self.problems += error.problems
        except (TypeError, ValueError) as error:
            self.complain(name, row.fix + (f" ({error})" if str(error) else ""))
        return None


def _unknown(
    given: Mapping[str, Any], known: Mapping[str, Setting], arguments: set[str]
) -> Iterator[str]:
    """Yields a problem for each key that is no setting; one that resembles none is a warning."""
    for key in sorted(given):
        name = key.removeprefix(PREFIX)
        if name in known:
            continue
        argument, near = name.lower(), get_close_matches(name, known, n=1, cutoff=0.7)
        if flasks := next((of for of in (name, f"SESSION_{name}") if of in _FLASKS), None):
            shown = f"the argument {argument}" if argument in arguments else key
            yield f'{shown} is not a setting: {flasks} is Flask\'s, set app.config["{flasks}"]'
        elif near:
            yield f"{key} is not a setting: did you mean {PREFIX}{near[0]}?"
        elif argument in arguments:
            yield f"{argument} is not an argument of SafeSession"
        else:
            logger.warning("%s is not a setting of SafeSession", key)


# -- parsers ------------------------------------------------------------------------------------


def choice(*options: Any, unit: str = "a name") -> Setting:
    """Returns a setting that is one of *options*, by default the first."""
    kind, (*most, last) = type(options[0]), map(repr, options)
    read = only(lambda value: value in options and type(value) is kind)  # 1 is not True
    return Setting(options[0], unit, read, f"give {', '.join(most)} or {last}")


def only(is_right: Callable[[Any], Any], read: Callable[[Any], Any] = lambda v: v) -> Any:
    """Returns a parser of values that *is_right* accepts once they were read by *read*."""

    def checked(value: object) -> Any:
        found = read(value)
        if not is_right(found):
            raise ValueError
        return found

    return checked


def none_or(read: Callable[[Any], Any], meaning: Any = None) -> Callable[[Any], Any]:
    """Returns a parser that also takes ``None``, which has that *meaning*."""
    return lambda value: meaning if value is None else read(value)


def milliseconds_or_zero(value: object) -> int:
    """Returns a duration in milliseconds; it may be none at all."""
    is_number = isinstance(value, (int, float, timedelta)) and not isinstance(value, bool)
    if (is_number and not value) or re.fullmatch(r"\s*0+\s*(ms|[smhdw])?\s*", str(value)):
        return 0
    return milliseconds(value)


def positive(value: object) -> int:
    """Returns *value* if it is a whole number above zero, or text with one."""
    found = 0
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError):  # what int() says of it is not for people
            found = int(value)
    if found < 1:
        raise ValueError
    return found


def positive_or_zero(value: object) -> int:
    """Returns *value* if it is zero or as :func:`positive` takes it."""
    return 0 if type(value) in (int, str) and value in (0, "0") else positive(value)


def positive_or_mapping(value: object) -> int | Mapping[Any, Any]:
    """Returns a number for all tiers, or a mapping of some, to be checked with the tiers."""
    return value if value and isinstance(value, Mapping) else positive(value)


text = only(lambda value: isinstance(value, str) and value)


def user_key(value: object) -> UserKey:
    """Returns where a session's user is: under a key, one of several in order, or by a function."""
    if callable(value) and not isinstance(value, type):
        return UserKey(find=value)
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable) or isinstance(names, (set, frozenset)):
        raise TypeError  # a set has no order, and the order decides
    return UserKey(only(len, tuple)(map(text, names)))


def scheduler(value: object) -> Any:
    """Returns APScheduler's own object, also of an extension that has it as ``.scheduler``."""
    found = getattr(value, "scheduler", value)
    return None if value is None else only(lambda found: hasattr(found, "add_job"))(found)
