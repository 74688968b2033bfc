"""Encodes and decodes one value: msgpack, with an extension type for each other kind.

A value is decoded as what it was. A subclass becomes its base if that loses nothing; a value that
would lose something is refused.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property, partial
from typing import Any, NamedTuple
from uuid import UUID

import msgpack
from markupsafe import Markup
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.local import LocalProxy

from . import times
from .unstorable import Unstorable

#: How deep values may be nested.
MAX_DEPTH = 100

_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA = range(1, 8)
_UUID, _DECIMAL, _MARKUP, _BIG_INT = range(8, 12)
_MULTI, _IMMUTABLE_MULTI, _ORDERED, _COUNTER, _DEFAULT = range(12, 17)
# The buffer of each call grows from this. By default it begins with 256 KiB, which takes longer to
# allocate than a usual session takes to encode.
_SMALL: dict[str, Any] = {"buf_size": 1024}
# The allowed factories of a defaultdict: stored bytes must not name anything else.
_FACTORIES = {
    kind.__name__: kind for kind in (list, dict, set, tuple, str, bytes, int, float, bool)
}
# Attributes of the types of pandas and pendulum, which are finer than their bases. These types are
# always refused: otherwise the data, and not the code, would decide whether a page works.
_FINER = {datetime: ("to_pydatetime",), timedelta: ("to_pytimedelta", "months")}


class UndecodableError(ValueError):
    """The bytes are not session data."""


def pack(value: object) -> bytes:
    """Returns the bytes of a value. Equal bytes are equal values: ``1`` is not ``True``.

    :raises Unstorable: it cannot be stored without loss.
    """
    return msgpack.packb(
        value, default=_reduce, strict_types=True, unicode_errors="surrogatepass", **_SMALL
    )


def unpack(packed: bytes) -> Any:
    """Returns the value in *packed*. Foreign bytes may raise any exception."""
    return msgpack.unpackb(
        packed,
        ext_hook=partial(_restore, 0),
        strict_map_key=False,
        unicode_errors="surrogatepass",
    )


def _unpack_inner(level: int, packed: bytes) -> Any:
    """Returns the value in *packed*, which is inside *level* extensions.

    unpackb needs 40 kB of the C stack for each level, an Unpacker uses the heap: a hundred nested
    tuples must not overflow a small stack.
    """
    if level > MAX_DEPTH + 1:  # the additional one: a date in the innermost
        raise UndecodableError("it is nested too deep")
    unpacker = msgpack.Unpacker(
        ext_hook=partial(_restore, level),
        strict_map_key=False,
        unicode_errors="surrogatepass",
        max_buffer_size=len(packed) or 1,
    )
    unpacker.feed(packed)
    value = unpacker.unpack()
    if unpacker.tell() != len(packed):
        raise UndecodableError("there are bytes after the value")
    return value


def unwrapped(value: Any) -> Any:
    """Returns the object of a proxy or the text of a lazy string; any other value as it is."""
    while isinstance(value, LocalProxy):
        value = value._get_current_object()
    lazy = any(c.__name__.strip("_") == "LazyString" for c in type(value).__mro__)
    return str(value) if lazy and not hasattr(value, "__html__") else value


# -- to bytes -----------------------------------------------------------------------------------


def _reduce(value: Any) -> object:
    """Returns an extension type or a plain type, since msgpack calls this once for each value."""
    value = unwrapped(value)
    if value is None or isinstance(value, (bool, bytearray)):
        return value
    if encode := _ENCODERS.get(type(value)):
        return encode(value)
    if isinstance(value, str) or not isinstance(value, KEPT):
        value = _as_markup(value)
    for kind in _KINDS:
        if isinstance(value, kind.base):
            return kind.encode(_plain(value, kind))
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        if not set(_own_names(value, object)) <= parts.keys():
            raise Unstorable(value)
        return parts
    raise Unstorable(value)


def _as_markup(value: Any) -> Any:
    """Returns Markup of an object with ``__html__``; any other value as it is."""
    html = None if isinstance(value, (Markup, type)) else getattr(value, "__html__", None)
    return Markup(str(html())) if callable(html) else value  # noqa: S704  # nosec B704  # it is


def _plain(value: Any, kind: _Kind) -> Any:
    """Returns *value* as its base type.

    :raises Unstorable: that would lose something.
    """
    try:
        plain = kind.plain(value)
        if _is_all_of(value, plain, kind.base):
            return plain
    except Exception as error:  # a foreign class may raise anything
        raise Unstorable(value, kind.base) from error
    raise Unstorable(value, kind.base)


def _is_all_of(value: Any, plain: Any, base: type) -> bool:
    # Compared by the class of *value*: the base does not see what was added.
    equal = getattr(type(value), "__eq__")(value, plain)  # noqa: B009  # mypy takes it for object's
    if equal is NotImplemented or not (equal or _is_nan(value)) or not _shows(value, plain):
        return False
    return isinstance(value, Enum) or not any(_own_names(value, base))


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # noqa: PLR0124


def _shows(value: Any, plain: Any) -> bool:
    """Returns whether a container, read by its own methods, has the items that its base stores."""
    if isinstance(plain, MultiDict):
        return dict(value.lists()) == dict(plain.lists())
    if isinstance(plain, dict):
        seen = {key: value[key] for key in value}
        return [*seen] == [*plain] and seen == plain
    if isinstance(plain, (list, tuple)):
        return [*value] == [*plain]
    return not isinstance(plain, (set, frozenset)) or {*value} == {*plain}


def _own_names(value: Any, base: type) -> Iterator[str]:
    """Yields the public attributes and fields of *value* that *base* does not have."""
    yield from getattr(value, "_fields", ()) if base is tuple else ()
    yield from (name for name in _FINER.get(base, ()) if hasattr(value, name))
    if getattr(value, "n_fields", 0):  # such as time.struct_time, whose zone is not in the tuple
        yield "n_fields"
    kinds = type(value).__mro__[: type(value).__mro__.index(base)]
    slots = [kind.__dict__.get("__slots__", ()) for kind in kinds]
    named = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    for name in (*getattr(value, "__dict__", ()), *(n for n in named if hasattr(value, n))):
        computed = isinstance(getattr(type(value), name, None), (cached_property, property))
        if not name.startswith("_") and not computed:
            yield name


def _extension(code: int, parts: Callable[[Any], object]) -> Callable[[Any], msgpack.ExtType]:
    return lambda value: msgpack.ExtType(code, pack(parts(value)))


def _of_set(code: int) -> Callable[[Any], msgpack.ExtType]:
    # The iteration order of a set differs between processes; the sorted bytes do not.
    return lambda value: msgpack.ExtType(code, pack(sorted(map(pack, value))))


def _of_int(plain: int) -> object:
    if -(2**63) <= plain < 2**64:
        return plain
    return msgpack.ExtType(_BIG_INT, b"%x" % plain if plain >= 0 else b"-%x" % -plain)


def _of_default(value: defaultdict[Any, Any]) -> list[object]:
    factory: Any = value.default_factory
    name = None if factory is None else getattr(factory, "__name__", "")
    if name is not None and factory is not _FACTORIES.get(name):
        raise Unstorable(value, dict)
    return [name, dict(value)]


def _text(value: str) -> bytes:
    return str.__str__(value).encode("utf-8", "surrogatepass")


def _items(value: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the items that a dict stores, without the methods of its subclass."""
    return dict(dict.items(value))


def _multi(kind: type[MultiDict[Any, Any]], lists: dict[Any, Any]) -> MultiDict[Any, Any]:
    made = kind()
    dict.update(made, {key: [*values] for key, values in lists.items()})
    return made


class _Kind(NamedTuple):
    """A kind that is kept: *plain* reduces a subclass to it, *encode* makes its msgpack form."""

    base: type
    plain: Callable[[Any], object]
    encode: Callable[[Any], object]


def _same(value: Any) -> Any:
    return value


# The order matters: a datetime is a date, Markup is a str.
_KINDS = (
    _Kind(
        Markup,
        lambda v: Markup(str.__str__(v)),  # noqa: S704  # nosec B704  # it was
        lambda v: msgpack.ExtType(_MARKUP, _text(v)),
    ),
    _Kind(str, str.__str__, _same),
    _Kind(int, int.__int__, _of_int),
    _Kind(float, float.__float__, _same),
    _Kind(bytes, lambda v: bytes(memoryview(v)), _same),
    _Kind(tuple, lambda v: tuple(tuple.__iter__(v)), _extension(_TUPLE, list)),
    _Kind(list, lambda v: list(list.__iter__(v)), _same),
    _Kind(
        ImmutableMultiDict,
        lambda v: _multi(ImmutableMultiDict, _items(v)),
        _extension(_IMMUTABLE_MULTI, _items),
    ),
    _Kind(MultiDict, lambda v: _multi(MultiDict, _items(v)), _extension(_MULTI, _items)),
    _Kind(OrderedDict, lambda v: OrderedDict(OrderedDict.items(v)), _extension(_ORDERED, dict)),
    _Kind(Counter, lambda v: Counter(_items(v)), _extension(_COUNTER, _items)),
    _Kind(
        defaultdict,
        lambda v: defaultdict(v.default_factory, _items(v)),
        _extension(_DEFAULT, _of_default),
    ),
    _Kind(dict, _items, _same),
    _Kind(frozenset, lambda v: frozenset(frozenset.__iter__(v)), _of_set(_FROZENSET)),
    _Kind(set, lambda v: set(set.__iter__(v)), _of_set(_SET)),
    _Kind(datetime, times.plain_datetime, _extension(_DATETIME, times.of_datetime)),
    _Kind(
        date,
        lambda v: date(v.year, v.month, v.day),
        _extension(_DATE, lambda v: [v.year, v.month, v.day]),
    ),
    _Kind(time, times.plain_time, _extension(_TIME, times.of_time)),
    _Kind(
        timedelta,
        lambda v: timedelta(v.days, v.seconds, v.microseconds),
        _extension(_TIMEDELTA, lambda v: [v.days, v.seconds, v.microseconds]),
    ),
    _Kind(UUID, lambda v: UUID(int=v.int), lambda v: msgpack.ExtType(_UUID, v.bytes)),
    _Kind(
        Decimal,
        lambda v: Decimal(Decimal.__str__(v)),
        lambda v: msgpack.ExtType(_DECIMAL, str(v).encode("ascii")),
    ),
)
_ENCODERS = {kind.base: kind.encode for kind in _KINDS}
#: The kinds that are decoded as what they were, beside ``None`` and ``bool``.
KEPT = tuple(_ENCODERS)


# -- and back -----------------------------------------------------------------------------------

_Inner = Callable[[bytes], Any]


def _to_default(packed: bytes, inner: _Inner) -> defaultdict[Any, Any]:
    name, items = inner(packed)
    return defaultdict(None if name is None else _FACTORIES[name], items)


_RESTORERS: dict[int, Callable[[bytes, _Inner], object]] = {
    _TUPLE: lambda b, inner: tuple(inner(b)),
    _SET: lambda b, inner: set(map(inner, inner(b))),
    _FROZENSET: lambda b, inner: frozenset(map(inner, inner(b))),
    _DATETIME: lambda packed, inner: times.to_datetime(inner(packed)),
    _DATE: lambda b, inner: date(*inner(b)),
    _TIME: lambda packed, inner: times.to_time(inner(packed)),
    _TIMEDELTA: lambda b, inner: timedelta(*inner(b)),
    _UUID: lambda b, _: UUID(bytes=b),
    _DECIMAL: lambda b, _: Decimal(b.decode("ascii")),
    _MARKUP: lambda b, _: Markup(b.decode("utf-8", "surrogatepass")),  # noqa: S704  # nosec B704  # it was
    _BIG_INT: lambda b, _: int(b, 16),
    _MULTI: lambda b, inner: _multi(MultiDict, inner(b)),
    _IMMUTABLE_MULTI: lambda b, inner: _multi(ImmutableMultiDict, inner(b)),
    _ORDERED: lambda b, inner: OrderedDict(inner(b)),
    _COUNTER: lambda b, inner: Counter(dict(inner(b))),
    _DEFAULT: _to_default,
}


def _restore(level: int, code: int, packed: bytes) -> object:
    return _RESTORERS[code](packed, partial(_unpack_inner, level + 1))
