"""Dates and times with their zones, as the parts of an extension type of msgpack."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, time, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from .unstorable import Unstorable

_MICROSECOND = timedelta(microseconds=1)


def of_datetime(v: datetime) -> list[object]:
    """Returns the parts of a moment.

    :raises Unstorable: its zone would be lost.
    """
    return [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.fold, _of_zone(v)]


def of_time(v: time) -> list[object]:
    """Returns the parts of a time of day.

    :raises Unstorable: its zone would be lost.
    """
    return [v.hour, v.minute, v.second, v.microsecond, v.fold, _of_zone(v)]


def to_datetime(parts: list[Any]) -> datetime:
    """Returns the moment with these parts."""
    year, month, day, hour, minute, second, micro, fold, zone = parts
    return datetime(year, month, day, hour, minute, second, micro, _zone(zone), fold=fold)


def to_time(parts: list[Any]) -> time:
    """Returns the time of day with these parts."""
    hour, minute, second, micro, fold, zone = parts
    return time(hour, minute, second, micro, _zone(zone), fold=fold)


def plain_datetime(v: datetime) -> datetime:
    """Returns the moment without what a subclass adds."""
    clock = (v.hour, v.minute, v.second, v.microsecond)
    return datetime(v.year, v.month, v.day, *clock, tzinfo=v.tzinfo, fold=v.fold)


def plain_time(v: time) -> time:
    """Returns the time of day without what a subclass adds."""
    return time(v.hour, v.minute, v.second, v.microsecond, v.tzinfo, fold=v.fold)


def _of_zone(value: datetime | time) -> object:
    """Returns an offset in microseconds, or a list of it, the name and whether it is a ZoneInfo.

    isoformat() would lose offsets below a second.
    """
    zone = value.tzinfo
    if zone is None:
        return None
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        offset = value.utcoffset()
        return [None if offset is None else offset // _MICROSECOND, zone.key, True]
    with suppress(Exception):  # a foreign zone may need a date
        offset = zone.utcoffset(None)
        if offset is not None and offset == value.utcoffset():
            plain, name = timezone(offset), zone.tzname(None)
            number = offset // _MICROSECOND
            return number if name in (None, plain.tzname(None)) else [number, name, False]
    raise Unstorable(zone, tzinfo)


def _zone(packed: Any) -> tzinfo | None:
    parts: Any = packed if isinstance(packed, list) else (packed, None, False)
    offset, name, has_rules = parts
    if has_rules:
        # Without this zone on the server, the offset is used: otherwise the session would be lost.
        with suppress(Exception):
            return ZoneInfo(name)
    if offset is None:
        return None
    return timezone(offset * _MICROSECOND, *([] if name is None else [name]))
