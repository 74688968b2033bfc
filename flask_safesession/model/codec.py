"""Session data to bytes and back: msgpack with the types that Flask's own sessions keep, and more.

``encode(decode(b)) == b`` for every ``b`` that :func:`encode` made, so that equal bytes mean
unchanged data. Never pickle: bytes from the store are data, not instructions (Tomcat's
CVE-2020-9484). What cannot come back as what it was is refused before it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgpack

from .refusal import explained, is_too_deep
from .values import MAX_DEPTH, UndecodableError, pack, unpack

__all__ = [
    "MAX_DEPTH",
    "UndecodableError",
    "decode",
    "encode",
    "encode_value",
    "plain",
]

encode_value = pack


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
    :raises TypeError: a value cannot be stored; the message names its path, and what to store.
    """
    try:
        packed = pack(data)
        if packed != known:
            _check(packed)
    except Exception as error:  # whatever an object in it may raise
        raise explained(data) from error
    return packed


def _check(packed: bytes) -> None:
    """What is stored can be read again, and would be stored as the same."""
    if pack(decode(packed)) != packed:
        raise UndecodableError("two keys or members became one")


def plain(value: object) -> object:
    """*value* as it will be when it comes back: a member of an enum of texts is its text."""
    if type(value) in (str, int):
        return value
    try:
        return unpack(pack(value))
    except Exception:  # noqa: BLE001  # it cannot be stored, which is reported where it is stored
        return value


def decode(packed: bytes) -> dict[Any, Any]:
    """The data behind *packed*.

    :raises UndecodableError: they are corrupt, truncated, nested too deep, or something else
        altogether.
    """
    try:
        data = unpack(packed)
        if type(data) is dict and not is_too_deep(data, packed):
            return data
    except Exception as error:  # whatever foreign bytes provoke, it is the same to the caller
        raise UndecodableError("the stored bytes are not session data") from error
    raise UndecodableError("the stored bytes are not session data")
