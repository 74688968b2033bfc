"""Reads settings from ``app.config``, by a table with a row and a parser for each.

Wrong values are collected, so that all problems are reported at once.
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
from ..model.text import name_of

PREFIX = "SAFESESSION_"
#: How to fix a wrong ``SAFESESSION_STORE_PASSWORD``, which no message repeats.
TEXT_OR_FUNCTION = "give text, or a function without arguments that returns it"

_LARGEST = 2**63 - 1
# Flask's own keys that users mistake for settings of this extension.
_FLASKS = [key for key in Flask.default_config if "SESSION" in key or key.startswith("SECRET_KEY")]


class Setting(NamedTuple):
    """One setting.

    :param default: as an app would write it.
    :param unit: the unit or type, for the documentation.
    :param read: returns the value as the package uses it. For a wrong one it raises ``TypeError``
        or ``ValueError``, or ``ConfigError`` with problems of its own.
    :param fix: how to fix a wrong value.
    """

    default: Any
    unit: str
    read: Callable[[Any], Any]
    fix: str


class Keys:
    """The settings in *config*, replaced by those in *overrides* (lower case, no prefix).

    ``problems``: the problems found so far, each with its fix.

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
        """Returns the parsed value of a setting; ``None`` if it is wrong."""
        return self._read[name]

    def is_set(self, name: str) -> bool:
        """Returns whether a setting is given."""
        return PREFIX + name in self._given

    def shown(self, name: str) -> str:
        """Returns the value of a setting as it was written, for messages."""
        return repr(self._value(name)) + ("" if self.is_set(name) else " by default")

    def complain(self, name: str, fix: str) -> None:
        """Add the problem of a wrong setting."""
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
    """Yields a problem for each unknown key; warns of a key that resembles no setting."""
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
    """Returns a setting that is one of *options*; the first is the default."""
    kind, (*most, last) = type(options[0]), map(repr, options)
    read = only(lambda value: value in options and type(value) is kind)  # 1 is not True
    return Setting(options[0], unit, read, f"give {', '.join(most)} or {last}")


def only(is_right: Callable[[Any], Any], read: Callable[[Any], Any] = lambda v: v) -> Any:
    """Returns a parser for the results of *read* that *is_right* accepts."""

    def checked(value: object) -> Any:
        found = read(value)
        if not is_right(found):
            raise ValueError
        return found

    return checked


def none_or(read: Callable[[Any], Any], meaning: Any = None) -> Callable[[Any], Any]:
    """Returns a parser that also accepts ``None``, and returns *meaning* for it."""
    return lambda value: meaning if value is None else read(value)


def milliseconds_or_zero(value: object) -> int:
    """Returns a duration in milliseconds, which may be 0."""
    is_number = isinstance(value, (int, float, timedelta)) and not isinstance(value, bool)
    if (is_number and not value) or re.fullmatch(r"\s*0+\s*(ms|[smhdw])?\s*", str(value)):
        return 0
    return milliseconds(value)


def positive(value: object) -> int:
    """Returns a whole number above zero that databases can store; *value* may be text."""
    found = 0
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError):  # int()'s message would not help
            found = int(value)
    if not 1 <= found <= _LARGEST:
        raise ValueError
    return found


def positive_or_zero(value: object) -> int:
    """Returns a whole number from zero; *value* may be text."""
    return 0 if type(value) in (int, str) and value in (0, "0") else positive(value)


def positive_or_mapping(value: object) -> int | Mapping[Any, Any]:
    """Returns a number for all tiers, or a mapping by tier, which is not yet checked."""
    return value if value and isinstance(value, Mapping) else positive(value)


text: Callable[[Any], Any] = only(lambda value: isinstance(value, str) and value)


def password(value: object) -> Callable[[], Any]:
    """Returns a function that returns the password.

    :raises ConfigError: without *value*, which may be one.
    """
    if not (callable(value) or (isinstance(value, str) and value)):
        shown = f"{PREFIX}STORE_PASSWORD is of class {name_of(type(value))}"
        raise ConfigError([f"{shown}: {TEXT_OR_FUNCTION}"])
    return value if callable(value) else lambda: value


def user_key(value: object) -> UserKey:
    """Returns the user key: a name, several in order of preference, or a function."""
    if callable(value) and not isinstance(value, type):
        return UserKey(find=value)
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Iterable) or isinstance(names, (set, frozenset)):
        raise TypeError  # a set has no order, and the order decides
    return UserKey(only(len, tuple)(map(text, names)))


def scheduler(value: object) -> Any:
    """Returns the APScheduler scheduler, also from an extension's attribute ``scheduler``."""
    found = getattr(value, "scheduler", value)
    return None if value is None else only(lambda found: hasattr(found, "add_job"))(found)
