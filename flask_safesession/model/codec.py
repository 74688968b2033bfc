"""Encodes and decodes session data: msgpack, with all types that Flask's sessions keep and more.

``encode(decode(b)) == b`` for every ``b`` that :func:`encode` made, so that equal bytes mean
unchanged data. Never pickle: bytes from the store are data, not instructions (Tomcat's
CVE-2020-9484). A value that would not be decoded as what it was is refused.
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
    """Yields the keys and values in the beginning of a payload; a cut-off value is ``True``."""
    unpacker = msgpack.Unpacker(strict_map_key=False, unicode_errors="surrogatepass")
    unpacker.feed(packed)
    with suppress(Exception):  # the end, or not a payload
        for _ in range(unpacker.read_map_header()):
            key: object = unpacker.unpack()
            value: object = True
            with suppress(Exception):
                value = unpacker.unpack()
            yield key, value


def encode(data: dict[Any, Any], known: bytes | None = None) -> bytes:
    """Returns the bytes of *data*.

    :param known: bytes that were decoded before. If *data* still has these, it is not checked.
    :raises TypeError: a value cannot be stored. The message names its path and the fix.
    """
    try:
        packed = pack(data)
        if packed != known:
            _check(packed)
    except Exception as error:  # an object may raise anything
        raise explained(data) from error
    return packed


def _check(packed: bytes) -> None:
    """Raises an error if *packed*, decoded and encoded again, would be different."""
    if pack(decode(packed)) != packed:
        raise UndecodableError("two keys or members became one")


def plain(value: object) -> object:
    """Returns *value* as it will be after storing: of a text enum's member, the text."""
    if type(value) in (str, int):
        return value
    try:
        return unpack(pack(value))
    except Exception:  # noqa: BLE001  # reported when the session is stored
        return value


def decode(packed: bytes) -> dict[Any, Any]:
    """Returns the data in *packed*.

    :raises UndecodableError: the bytes are corrupt, truncated, nested too deep or no session data.
    """
    try:
        data = unpack(packed)
        if type(data) is dict and not is_too_deep(data, packed):
            return data
    except Exception as error:  # foreign bytes may raise anything
        raise UndecodableError("the stored bytes are not session data") from error
    raise UndecodableError("the stored bytes are not session data")
