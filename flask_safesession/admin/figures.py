"""Computes figures from a sample of sessions: pure functions, without a store call."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..model.tokens import NO_USER
from ..web.data import FLASHES
from .sampling import Part, Sample, Seen
from .stats import TREND_OVER, full_in

#: Seconds after which a session that was not used again probably never will be.
SETTLED = 60.0
#: Keys of CSRF tokens (Flask-WTF, Flask-SeaSurf) and flashes, and those that come with them.
TOKENS = frozenset({"csrf_token", "_csrf_token", FLASHES})
_WITH_TOKENS = TOKENS | {"_permanent", "_fresh", "_id"}
#: Rows of each table.
ROWS = 10

# Numbers and random texts in the names of keys: these keys are shown as one.
_VARYING = re.compile(r"(?=[A-Za-z]*\d)[A-Za-z0-9]{16,}|\d+")
_STATM = Path("/proc/self/statm")


class _Held(NamedTuple):
    """The parts of one session that are shown under one name; see :class:`.sampling.Seen`."""

    used_for: float
    weight: float
    parts: list[Part]


@dataclass(frozen=True)
class Origin:
    """The sessions that were created at one endpoint.

    :param endpoint: empty: unknown.
    :param anonymous: only those of anonymous visitors; otherwise only those of users.
    :param sessions: their number in the store; an estimate, if not all were looked at.
    :param settled: sessions of the sample that are at least :data:`SETTLED` seconds old.
    :param never_used: those of them that were never used again.
    :param median_age: in seconds.
    :param with_data: sessions whose data were read.
    :param only_tokens: those of them that hold only a CSRF token or a flash.
    """

    endpoint: str
    anonymous: bool
    sessions: int
    settled: int
    never_used: int
    median_age: float
    with_data: int
    only_tokens: int


@dataclass(frozen=True)
class Sizes:
    """Bytes of the data of sessions.

    :param with_data: sessions whose data were read.
    :param percentile_95: the size that 95 % of them do not exceed.
    :param total: of all sessions in the store; an estimate, if not all were looked at.
    """

    with_data: int
    median: int
    percentile_95: int
    largest: int
    total: int


@dataclass(frozen=True)
class Lengths:
    """The numbers of entries of the containers under one key.

    :param brief: the median in the half of the sessions that has been in use for the shorter time.
    :param long: that in the other half; both 0 if there are too few to compare. Sessions that were
        never used again are in neither.
    """

    shortest: int
    longest: int
    brief: float
    long: float


@dataclass(frozen=True)
class Key:
    """A top-level key of sessions.

    :param name: if there are *several*, with ``#`` for the numbers and random texts that differ.
    :param several: keys that differ in these alone are shown as one.
    :param share: its part of all bytes that were read, 0 to 1.
    :param sessions: sessions that have it.
    :param median: bytes in one session.
    :param lengths: the entries of a container, or the keys of several; ``None``: neither.
    """

    name: str
    several: bool
    share: float
    sessions: int
    median: int
    largest: int
    lengths: Lengths | None


@dataclass(frozen=True)
class User:
    """A user with several sessions.

    :param handle: of the newest one. The store has no user's name.
    """

    handle: str
    sessions: int


@dataclass(frozen=True)
class Growth:
    """The change of the number of sessions.

    :param per_hour: sessions.
    :param over: the seconds in which it was measured.
    :param full_in: seconds until the cap is reached; ``None``: never, at this growth.
    """

    per_hour: float
    over: float
    full_in: float | None


def origins_of(seen: Iterable[Seen]) -> list[Origin]:
    """Returns the sessions by endpoint of creation, those with the most sessions first."""
    groups: defaultdict[tuple[str, bool], list[Seen]] = defaultdict(list)
    for one in seen:
        groups[one.endpoint, one.user == NO_USER].append(one)
    found = [_origin(endpoint, anonymous, g) for (endpoint, anonymous), g in groups.items()]
    return sorted(found, key=lambda origin: -origin.sessions)


def _origin(endpoint: str, anonymous: bool, group: list[Seen]) -> Origin:
    settled = [one for one in group if one.age >= SETTLED]
    with_data = [one for one in group if one.size is not None]
    return Origin(
        endpoint,
        anonymous,
        round(sum(one.weight for one in group)),
        len(settled),
        sum(not one.used_for for one in settled),
        median(one.age for one in group),
        len(with_data),
        sum(map(has_only_tokens, with_data)),
    )


def has_only_tokens(one: Seen) -> bool:
    """Returns whether a session holds a CSRF token or a flash, and nothing else."""
    keys = {part.key for part in one.parts}
    return bool(keys & TOKENS) and keys <= _WITH_TOKENS


def sizes_of(seen: Iterable[Seen], sessions: int) -> Sizes | None:
    """Returns the sizes of sessions; ``None``: no data were read.

    :param sessions: live sessions in the store.
    """
    read = sorted((one.size, one.data_weight) for one in seen if one.size is not None)
    whole = sum(weight for _, weight in read)
    if not whole:
        return None
    mean = sum(size * weight for size, weight in read) / whole
    middle, high = (_quantile(read, share * whole) for share in (0.5, 0.95))
    return Sizes(len(read), middle, high, read[-1][0], round(mean * sessions))


def _quantile(sizes: list[tuple[int, float]], place: float) -> int:
    """Returns the size at *place* of a sorted list, of which each size takes its weight."""
    passed = accumulate(weight for _, weight in sizes)
    return next((size for (size, _), end in zip(sizes, passed, strict=True) if end >= place), 0)


def keys_of(seen: Iterable[Seen]) -> list[Key]:
    """Returns the top-level keys of sessions, those that take the most bytes first."""
    read = [one for one in seen if one.parts]
    patterns = {part.key: _VARYING.sub("#", part.key) for one in read for part in one.parts}
    counts = Counter(patterns.values())
    held: defaultdict[tuple[str, bool], list[_Held]] = defaultdict(list)
    for one in read:
        parts: defaultdict[tuple[str, bool], list[Part]] = defaultdict(list)
        for part in one.parts:
            several = counts[patterns[part.key]] > 1
            parts[patterns[part.key] if several else part.key, several].append(part)
        for name, group in parts.items():
            held[name].append(_Held(one.used_for, one.data_weight, group))
    whole = sum(part.bytes * one.data_weight for one in read for part in one.parts)
    found = [_key(name, several, holders, whole) for (name, several), holders in held.items()]
    return sorted(found, key=lambda key: -key.share)


def _key(name: str, several: bool, holders: list[_Held], whole: float) -> Key:
    sizes = [sum(part.bytes for part in one.parts) for one in holders]
    bytes_ = sum(size * one.weight for size, one in zip(sizes, holders, strict=True))
    measured = [
        (one.used_for, len(one.parts) if several else one.parts[0].length) for one in holders
    ]
    lengths = [(used, length) for used, length in measured if length is not None]
    return Key(
        name,
        several,
        bytes_ / whole,
        len(sizes),
        round(median(sizes)),
        max(sizes),
        _lengths(lengths) if lengths else None,
    )


def _lengths(measured: list[tuple[float, int]]) -> Lengths:
    by_use = sorted(one for one in measured if one[0])
    half = len(by_use) // 2
    shortest, longest = min(n for _, n in measured), max(n for _, n in measured)
    if not half or by_use[half - 1][0] == by_use[-half][0]:
        return Lengths(shortest, longest, 0, 0)
    brief, long = (median(n for _, n in part) for part in (by_use[:half], by_use[-half:]))
    return Lengths(shortest, longest, brief, long)


def users_of(sample: Sample) -> list[User]:
    """Returns the users of the sample with several sessions, those with the most first."""
    return sorted((User(*one) for one in sample.of_users), key=lambda user: -user.sessions)


def growth_of(sample: Sample, cap: int) -> Growth | None:
    """Returns the growth since the last count; ``None``: there is none, or it is too recent."""
    if sample.before is None or sample.before[1] < TREND_OVER[0]:
        return None
    count, seconds = sample.before
    total = sample.counts.total
    left = full_in([(0.0, count), (seconds, total)], cap)
    if left is None:
        return None
    return Growth((total - count) * 3600 / seconds, seconds, left if isfinite(left) else None)


def process_bytes() -> int | None:
    """Returns the bytes of memory that this process uses; ``None``: unknown on this platform."""
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def sized(count: float) -> str:
    """Returns a number of bytes in its largest unit.

    >>> sized(120), sized(3300), sized(5 * 1024 ** 3)
    ('120 B', '3.2 KiB', '5.0 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004  # a unit is 1024 of the one before
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
