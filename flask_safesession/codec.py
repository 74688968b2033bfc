"""Session data to bytes and back: msgpack with the types that Flask's own sessions keep, and more.

``encode(decode(b)) == b`` for every ``b`` that :func:`encode` made, so that equal bytes mean
unchanged data. Never pickle: bytes from the store are data, not instructions (Tomcat's
CVE-2020-9484). Subclasses become their base; what cannot be kept is refused before it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
from markupsafe import Markup
from werkzeug.local import LocalProxy

#: How deep values may be nested.
MAX_DEPTH = 100

_TUPLE, _SET, _FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA = range(1, 8)
_UUID, _DECIMAL, _MARKUP, _BIG_INT = range(8, 12)
_MICROSECOND = timedelta(microseconds=1)


class UndecodableError(ValueError):
    """The bytes are not session data."""


#: The key of what is known of a visitor's browser. It is encoded first, so that lists find it in
#: the first bytes of a payload.
CLIENT = "_client"
#: The key of when the ID was renewed, in milliseconds by the store's clock.
RENEWED_AT = "_renewed"


def client_in(packed: bytes) -> object:
    """What stands under :data:`CLIENT` in a payload, of which *packed* is the beginning."""
    unpacker = msgpack.Unpacker(strict_map_key=False)
    unpacker.feed(packed)
    with suppress(Exception):  # cut off, or something else
        if unpacker.read_map_header() and unpacker.unpack() == CLIENT:
            return unpacker.unpack()
    return None


def items_in(packed: bytes) -> Iterator[tuple[object, object]]:
    """Yields keys and values of a payload, of which *packed* is the beginning.

    A value that is cut off is ``True``.
    """
    unpacker = msgpack.Unpacker(strict_map_key=False, unicode_errors="surrogatepass")
    unpacker.feed(packed)
    with suppress(Exception):  # the end, or something else
        for _ in range(unpacker.read_map_header()):
            key: object = unpacker.unpack()
            value: object = True
            with suppress(Exception):
                value = unpacker.unpack()
            yield key, value


def encode(data: dict[Any, Any], known: bytes | None = None) -> bytes:
    """The bytes of *data*.

    :param known: bytes that were decoded before. If *data* still has these, it is not checked.
    :raises TypeError: a value cannot be stored; the message names its path.
    """
    if CLIENT in data and next(iter(data)) != CLIENT:
        data = {CLIENT: data[CLIENT], **data}
    try:
        packed = _pack(data)
    except Exception as error:  # whatever an object in it may raise
        raise _explained(data, error) from error
    if packed != known:
        _check(data, packed)
    return packed


def _check(data: dict[Any, Any], packed: bytes) -> None:
    """What is stored can be read again."""
    if _may_be_deep(packed) and _depth_exceeds(data, MAX_DEPTH):
        raise _too_deep()
    try:
        decode(packed)
    except UndecodableError as error:
        raise TypeError(
            "the session cannot be stored: something in it would not be what it was, such as a"
            " list or dict of a class of its own as a key or in a set"
        ) from error


def encode_value(value: object) -> bytes:
    """The bytes of one value: equal bytes are equal values (``1`` is not ``True``, NaN is NaN)."""
    return _pack(value)


def plain(value: object) -> object:
    """*value* as it will be when it comes back: a member of an enum of texts is its text."""
    return _unpack(_pack(value)) if type(value) not in (str, int) and _packs(value) else value


def decode(packed: bytes) -> dict[Any, Any]:
    """The data behind *packed*.

    :raises UndecodableError: they are corrupt, truncated, or something else altogether.
    """
    try:
        data = _unpack(packed)
    except Exception as error:  # whatever foreign bytes provoke, it is the same to the caller
        raise UndecodableError("the stored bytes are not session data") from error
    if not isinstance(data, dict):
        raise UndecodableError("the stored bytes are not session data")
    return data


def _pack(value: object) -> bytes:
    return msgpack.packb(value, default=_reduce, strict_types=True, unicode_errors="surrogatepass")


def _unpack(packed: bytes) -> Any:
    return msgpack.unpackb(
        packed, ext_hook=_restore, strict_map_key=False, unicode_errors="surrogatepass"
    )


def _unpack_inner(packed: bytes) -> Any:
    """As :func:`_unpack`, for what is inside an extension.

    unpackb takes 40 kB of the C stack for each level, an Unpacker takes them from the heap: a
    hundred tuples in each other must not end a process on a small stack.
    """
    unpacker = msgpack.Unpacker(
        ext_hook=_restore,
        strict_map_key=False,
        unicode_errors="surrogatepass",
        max_buffer_size=len(packed) or 1,
    )
    unpacker.feed(packed)
    value = unpacker.unpack()
    if unpacker.tell() != len(packed):
        raise UndecodableError("there is something left behind the value")
    return value


def _reduce(value: Any) -> object:
    """What msgpack does not know: an extension type, or the plain base of a subclass.

    msgpack asks once for each value: the answer has to be plain.
    """
    value = _unwrapped(value)
    if value is None or isinstance(value, (bool, bytearray)):
        return value
    for kind, reduce in _REDUCERS:
        if isinstance(value, kind):
            return reduce(value)
    if callable(html := getattr(value, "__html__", None)):
        return msgpack.ExtType(_MARKUP, _text(str(html())))
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} objects cannot be stored")


def _unwrapped(value: Any) -> Any:
    """What a proxy or a lazy string stands for."""
    while isinstance(value, LocalProxy):
        value = value._get_current_object()
    lazy = any(c.__name__.strip("_") == "LazyString" for c in type(value).__mro__)
    return str(value) if lazy and not hasattr(value, "__html__") else value


def _extension(code: int, parts: Callable[[Any], object]) -> Callable[[Any], msgpack.ExtType]:
    return lambda value: msgpack.ExtType(code, _pack(parts(value)))


def _of_set(code: int) -> Callable[[Any], msgpack.ExtType]:
    # Iteration order of a set differs between processes: sorted bytes do not.
    return lambda value: msgpack.ExtType(code, _pack(sorted(set(map(_pack, value)))))


def _of_int(value: int) -> object:
    plain = int.__int__(value)
    if -(2**63) <= plain < 2**64:
        return plain
    return msgpack.ExtType(_BIG_INT, b"%x" % plain if plain >= 0 else b"-%x" % -plain)


def _text(value: str) -> bytes:
    return str.__str__(value).encode("utf-8", "surrogatepass")


def _offset(offset: timedelta | None) -> int | None:
    # In microseconds: isoformat() and fromisoformat() lose offsets below a second.
    return None if offset is None else offset // _MICROSECOND


def _of_datetime(v: datetime) -> list[int | None]:
    clock = [v.hour, v.minute, v.second, v.microsecond, v.fold, _offset(v.utcoffset())]
    return [v.year, v.month, v.day, *clock]


def _of_time(v: time) -> list[int | None]:
    return [v.hour, v.minute, v.second, v.microsecond, v.fold, _offset(v.utcoffset())]


# In the order of the tests: bool is exact already, datetime is a date, Markup is a str.
_REDUCERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], object]], ...] = (
    (Markup, lambda v: msgpack.ExtType(_MARKUP, _text(v))),
    (str, str.__str__),
    (int, _of_int),
    (float, float.__float__),
    (bytes, lambda v: bytes(memoryview(v))),
    (tuple, _extension(_TUPLE, list)),
    (list, list),
    (dict, dict),
    (frozenset, _of_set(_FROZENSET)),
    (set, _of_set(_SET)),
    (datetime, _extension(_DATETIME, _of_datetime)),
    (date, _extension(_DATE, lambda v: [v.year, v.month, v.day])),
    (time, _extension(_TIME, _of_time)),
    (timedelta, _extension(_TIMEDELTA, lambda v: [v.days, v.seconds, v.microseconds])),
    (UUID, lambda v: msgpack.ExtType(_UUID, v.bytes)),
    (Decimal, lambda v: msgpack.ExtType(_DECIMAL, Decimal.__str__(v).encode("ascii"))),
)


def _zone(offset: int | None) -> tzinfo | None:
    return None if offset is None else timezone(offset * _MICROSECOND)


def _to_datetime(packed: bytes) -> datetime:
    year, month, day, hour, minute, second, micro, fold, offset = _unpack_inner(packed)
    return datetime(year, month, day, hour, minute, second, micro, _zone(offset), fold=fold)


def _to_time(packed: bytes) -> time:
    hour, minute, second, micro, fold, offset = _unpack_inner(packed)
    return time(hour, minute, second, micro, _zone(offset), fold=fold)


_RESTORERS: dict[int, Callable[[bytes], object]] = {
    _TUPLE: lambda b: tuple(_unpack_inner(b)),
    _SET: lambda b: set(map(_unpack_inner, _unpack_inner(b))),
    _FROZENSET: lambda b: frozenset(map(_unpack_inner, _unpack_inner(b))),
    _DATETIME: _to_datetime,
    _DATE: lambda b: date(*_unpack_inner(b)),
    _TIME: _to_time,
    _TIMEDELTA: lambda b: timedelta(*_unpack_inner(b)),
    _UUID: lambda b: UUID(bytes=b),
    _DECIMAL: lambda b: Decimal(b.decode("ascii")),
    _MARKUP: lambda b: Markup(b.decode("utf-8", "surrogatepass")),  # noqa: S704  # nosec B704  # it was
    _BIG_INT: lambda b: int(b, 16),
}


def _restore(code: int, packed: bytes) -> object:
    return _RESTORERS[code](packed)


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a container, each with the way to it from there."""
    if isinstance(value, dict):
        for key, part in value.items():
            quoted = f'"{key}"' if isinstance(key, str) else repr(key)
            yield f" key {quoted}", key
            yield f"[{quoted}]", part
    elif isinstance(value, tuple) and isinstance(names := getattr(value, "_fields", None), tuple):
        yield from ((f".{name}", part) for name, part in zip(names, value, strict=False))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{field.name}", getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{n}]", part) for n, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((" member", part) for part in value)


# Every level of nesting is one of these bytes at least: maps, arrays, and extensions for tuples and
# sets. Text may have them too, so that their number proves only that something is shallow.
_LEVELS = frozenset([*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xE0)])
_NOT_LEVELS = bytes(byte for byte in range(256) if byte not in _LEVELS)
_CONTAINERS = (dict, list, tuple, set, frozenset)


def _may_be_deep(packed: bytes) -> bool:
    return len(packed.translate(None, _NOT_LEVELS)) > MAX_DEPTH


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        # By identity: what is contained twice is looked at once, or levels would grow for ever.
        parts = {id(part): part for container in level for part in _contents(container)}
        level = [part for part in parts.values() if isinstance(part, _CONTAINERS)]
        if not level:
            return False
    return True


def _contents(container: Any) -> Iterable[Any]:
    return (*container, *container.values()) if isinstance(container, dict) else container


def _too_deep() -> TypeError:
    return TypeError(f"the session is nested more than {MAX_DEPTH} deep, or contains itself")


def _explained(data: object, error: Exception) -> TypeError:
    """A :class:`TypeError` that says where in the session the culprit is."""
    if _depth_exceeds(data, MAX_DEPTH):
        return _too_deep()
    path, value = "session", data
    while culprit := next((c for c in _children(value) if not _packs(c[1])), None):
        path, value = path + culprit[0], culprit[1]
    return TypeError(
        f"{path} cannot be stored in the session: {error}. Store text, numbers, dates, lists,"
        " dicts and the like, or an ID from which the object can be loaded."
    )


def _packs(value: object) -> bool:
    try:
        _pack(value)
    except Exception:  # noqa: BLE001  # whatever it raised, it is the culprit
        return False
    return True
