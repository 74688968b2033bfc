"""Explains why a session cannot be stored: the path of the value, and what to store instead."""

from __future__ import annotations

import os
from collections import UserString
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, timedelta, tzinfo
from enum import Enum
from numbers import Number
from typing import Any
from zoneinfo import ZoneInfo

from werkzeug.datastructures import MultiDict

from .text import printable
from .unstorable import Unstorable, class_name
from .values import MAX_DEPTH, pack, unpack, unwrapped

_OTHERWISE = (
    "store text, numbers, dates, lists, dicts and the like, or an ID from which the object can be"
    " loaded"
)
# Each level of nesting takes at least one of these bytes: maps, arrays, and extensions for tuples
# and sets. Text may contain them too, so a small number proves only that the value is not too deep.
_LEVELS = frozenset([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xE0)])
_NOT_LEVELS = bytes(byte for byte in range(256) if byte not in _LEVELS)
_CONTAINERS: tuple[Any, ...] = (dict, list, tuple, set, frozenset)
_SCALARS = frozenset([str, int, float, bool, bytes, type(None)])


def is_too_deep(value: Any, packed: bytes | None = None) -> bool:
    """Returns whether *value* is nested deeper than :data:`.values.MAX_DEPTH`, or contains itself.

    :param packed: its bytes, if known: they mostly prove at once that it is not.
    """
    if packed is not None and len(packed.translate(None, _NOT_LEVELS)) <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        # By identity: an object contained twice is visited once, or levels would grow without end.
        parts = (part for container in level for part in _contents(container))
        others = {id(part): part for part in parts if type(part) not in _SCALARS}
        level = [part for part in others.values() if _is_container(part)]
        if not level:
            return False
    return True


def explained(data: object) -> TypeError:
    """Returns a :class:`TypeError` with the path of the value in *data* that cannot be stored."""
    if is_too_deep(data):
        return TypeError(f"the session is nested more than {MAX_DEPTH} deep, or contains itself")
    path, value = "session", data
    while culprit := next((child for child in _children(value) if _why(child[1])), None):
        path, value = path + culprit[0], culprit[1]
    return TypeError(f"{path} cannot be stored in the session: {_why(value)}")


def _why(value: Any) -> str:
    """Returns why *value* cannot be stored and the fix; empty if it can be stored."""
    try:
        packed = pack(value)
        with suppress(Exception):  # such as a list as a key
            if pack(unpack(packed)) == packed:
                return ""
    except Unstorable as error:
        return f"{error}: {_fix(error.value, error.base)}"
    except Exception as error:  # noqa: BLE001  # an object may raise anything
        return (
            f"{class_name(value)} objects cannot be stored: {class_name(error)} while it was read"
        )
    return (
        f"in this {class_name(value)} two keys or members would become one, or one would become a"
        " list or dict: store them as what they become"
    )


def _fix(value: Any, base: type | None) -> str:
    """Returns what to store instead of *value*."""
    if base is tzinfo:
        return "use a zoneinfo.ZoneInfo, or .astimezone(datetime.timezone.utc)"
    with suppress(Exception):  # an object may raise anything here
        for applies, words in _FIXES:
            if applies(value):
                return words if isinstance(words, str) else words(value)
        if base is not None:
            return f"convert it with {base.__name__}(...)"
        if isinstance(value, (Mapping, Collection)):
            kind = "dict" if isinstance(value, Mapping) else "list"
            return f"convert it with {kind}(...)"
    return _OTHERWISE


def _scalar_fix(value: Any) -> str:
    item = value.item()
    if type(item) in (bool, int, float, str, bytes):
        return f"convert it with {type(item).__name__}(...)"
    return "convert it with .item()" if isinstance(item, (date, timedelta)) else _OTHERWISE


# Tests of an object, each with the fix. The first that applies is used.
_FIXES: tuple[tuple[Callable[[Any], bool], str | Callable[[Any], str]], ...] = (
    (lambda v: isinstance(v, type), _OTHERWISE),
    (lambda v: isinstance(v, (date, timedelta)) and v != v, "store None"),  # noqa: PLR0124
    (lambda v: hasattr(v, "to_pydatetime"), "convert it with .to_pydatetime(), to microseconds"),
    (lambda v: hasattr(v, "to_pytimedelta"), "convert it with .to_pytimedelta()"),
    (lambda v: hasattr(v, "dtype") and getattr(v, "ndim", 1) == 0, _scalar_fix),
    (lambda v: hasattr(v, "tolist"), "convert it with .tolist()"),
    (lambda v: isinstance(v, MultiDict), "convert it with .to_dict(flat=False)"),
    (lambda v: hasattr(v, "to_dict"), "convert it with .to_dict()"),
    (lambda v: hasattr(v, "_asdict"), "convert it with ._asdict() or tuple(...)"),
    (lambda v: isinstance(v, Enum), "store its .value"),
    (lambda v: isinstance(v, ZoneInfo), "store its .key"),
    (lambda v: isinstance(v, (os.PathLike, Number, UserString)), "convert it with str(...)"),
)


def _is_container(value: Any) -> bool:
    return isinstance(value, _CONTAINERS) or _is_dataclass(value)


def _is_dataclass(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _contents(value: Any) -> Iterable[Any]:
    if type(value) is dict:
        return (*value, *value.values())
    if type(value) is list:
        return value
    with suppress(Exception):  # a proxy for nothing
        value = unwrapped(value)
    if isinstance(value, dict):
        return (*dict.keys(value), *dict.values(value))
    if _is_dataclass(value):
        return [getattr(value, field.name, None) for field in fields(value)]
    return _raw(value) if isinstance(value, _CONTAINERS) else ()


def _raw(value: Any) -> Iterator[Any]:
    """Returns the members of a list, tuple or set, without the iteration of its subclass."""
    base = next(kind for kind in _CONTAINERS[1:] if isinstance(value, kind))
    stored: Iterator[Any] = base.__iter__(value)
    return stored


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the parts of a container, each with its path from there."""
    with suppress(Exception):  # a proxy for nothing
        value = unwrapped(value)
    if isinstance(value, dict):
        for key, part in dict.items(value):
            yield f" key {_spelled(key)}", key
            yield f"[{_spelled(key)}]", part
    elif isinstance(value, tuple) and isinstance(names := getattr(value, "_fields", None), tuple):
        yield from ((f".{name}", part) for name, part in zip(names, _raw(value), strict=False))
    elif _is_dataclass(value):
        yield from ((f".{f.name}", getattr(value, f.name, None)) for f in fields(value))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{n}]", part) for n, part in enumerate(_raw(value)))
    elif isinstance(value, (set, frozenset)):
        yield from ((" member", part) for part in _raw(value))


def _spelled(key: Any) -> str:
    """Returns a key as in code; of other classes only the name, since the text may be secret."""
    if type(key) is str:
        return f'"{printable(key)}"'
    if type(key) is tuple:
        return f"({', '.join(map(_spelled, key))}{',' if len(key) == 1 else ''})"
    plain = key is None or type(key) in (int, float, bool, bytes)
    return repr(key) if plain else f"<{class_name(key)}>"
