"""Decodes what Flask-Session 0.8 writes: msgpack and JSON, and plain values in a pickle.

Nothing is unpickled. cachelib writes files as pickles; of these a reader of our own accepts the
instructions for plain values only, and of those that make objects only some classes of values.
"""

from __future__ import annotations

import json
import pickletools  # nosec B403  # it lists opcodes, and makes no objects
import struct
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgpack
from markupsafe import Markup

_PICKLE_VERSIONS = range(2, 6)


class Pickled(ValueError):
    """The value is a pickle, or one that holds more than plain values. The text has the fix."""


def decode(raw: bytes) -> dict[str, Any] | None:
    """Returns the session in *raw*, msgpack or JSON; ``None``: it is none.

    :raises Pickled: it is a pickle.
    """
    found: object = None
    try:
        found = msgpack.unpackb(raw, timestamp=3, strict_map_key=False)
    except Exception:  # noqa: BLE001  # whatever foreign bytes provoke
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            if is_pickle(raw):
                raise Pickled(
                    "is a pickle, which is never read, since that could run code: let Flask-Session"
                    " 0.8 run for a while before you move, since it writes each session that is"
                    " used as msgpack"
                ) from None
    return _session(found)


def is_pickle(raw: bytes) -> bool:
    """Returns whether *raw* begins and ends as a pickle does."""
    return len(raw) > 1 and raw[0] == 0x80 and raw[1] in _PICKLE_VERSIONS and raw[-1:] == b"."  # noqa: PLR2004  # the instruction PROTO


def decode_plain(raw: bytes) -> dict[str, Any] | None:
    """Returns the session in a pickle of plain values, or in JSON; ``None``: it is none.

    :raises Pickled: it holds an object of another class than those of values.
    """
    if not is_pickle(raw):
        return decode(raw)
    try:
        return _session(_Plain().run(raw))
    except (ValueError, ArithmeticError, LookupError, TypeError, struct.error) as error:
        raise Pickled(
            f"is a pickle with more than plain values ({error}), which is never read, since that"
            " could run code: let the app store text or numbers in their place before you move"
        ) from error


def _session(found: object) -> dict[str, Any] | None:
    return found if isinstance(found, dict) else None


_VALUES: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Classes whose objects are made, with plain values.
_CLASSES = {
    f"{known.__module__}.{known.__name__}": known
    for known in (date, datetime, timedelta, timezone, Decimal, Markup)
}
# Instructions whose argument is the value.
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    }
)


class _Plain:
    """A machine with the instructions for plain values. Any other one is a :exc:`ValueError`."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, raw: bytes) -> Any:
        for code, argument, _ in pickletools.genops(raw):
            name = code.name
            if name in _LITERALS:
                self._stack.append(argument)
            elif name in _VALUES:
                self._stack.append(_VALUES[name])
            elif name in _EMPTY:
                self._stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                self._stack.append(tuple(self._take(len(self._stack) - _TUPLES[name])))
            elif name not in ("PROTO", "FRAME", "STOP"):
                self._more(name, argument)
        return self._stack.pop()

    def _more(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name == "MARK":
            self._marks.append(len(stack))
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("STACK_GLOBAL", "REDUCE", "NEWOBJ"):
            self._make(name, *self._take(len(stack) - 2))
        else:
            self._collect(name)

    def _make(self, name: str, one: Any, two: Any) -> None:
        """Push a class, by its module and name; or an object, by its class and arguments."""
        if name != "STACK_GLOBAL":
            if one not in _CLASSES.values():
                raise ValueError(f"the instruction {name} is not for plain values")
            self._stack.append(one(*two))
        elif (known := _CLASSES.get(f"{one}.{two}")) is not None:
            self._stack.append(known)
        else:
            raise ValueError(f"an object of {one}.{two}")

    def _collect(self, name: str) -> None:
        """Move values from the end of the stack into a container."""
        stack, is_one = self._stack, name in ("SETITEM", "APPEND")
        begin = len(stack) - (2 if name == "SETITEM" else 1) if is_one else self._marks.pop()
        values = self._take(begin)
        if name in ("SETITEM", "SETITEMS"):
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name in ("APPEND", "APPENDS"):
            stack[-1].extend(values)
        elif name == "ADDITEMS":
            stack[-1].update(values)
        elif name == "TUPLE":
            stack.append(tuple(values))
        elif name == "FROZENSET":
            stack.append(frozenset(values))
        else:
            raise ValueError(f"the instruction {name} is not for plain values")

    def _take(self, begin: int) -> list[Any]:
        values, self._stack[begin:] = self._stack[begin:], []
        return values
