"""When sessions end: durations, limits, and the policy that gives each session its limits.

Pure arithmetic over whole milliseconds. Nothing here reads a clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import NamedTuple

from .tokens import tier_tag

#: The tier of a session whose user has no tier of their own.
DEFAULT_TIER = "default"
#: The tier of strangers: sessions without a user.
ANONYMOUS_TIER = "anonymous"
#: Ten years. Longer "durations" are mistakes, and would not fit the record's header.
MAX_DURATION = 3650 * 86_400_000

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_TEXT = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


class Limits(NamedTuple):
    """What one tier is allowed, in milliseconds.

    :param idle: the longest time without use.
    :param lifetime: the longest time from creation, whatever the use.
    :param touch: a slide is written at most once in this time.
    """

    idle: int
    lifetime: int
    touch: int


@dataclass(frozen=True)
class Policy:
    """Which limits hold for which session.

    :param kind: ``"sliding"``, ``"fixed"`` or ``"tiered"``.
    :param default: for every session that no tier is for.
    :param tiers: the configured tiers by name, first to be evicted first.
    """

    kind: str
    default: Limits
    tiers: dict[str, Limits] = field(default_factory=dict)

    def tier_of(self, value: object, *, has_user: bool) -> str:
        """The tier of a session that holds *value* under the tier key.

        Strangers take ``anonymous`` where it is given. A user cannot: that tier is evicted first.
        """
        if not has_user and ANONYMOUS_TIER in self.tiers:
            return ANONYMOUS_TIER
        if isinstance(value, str) and value in self.tiers and value != ANONYMOUS_TIER:
            return str.__str__(value)  # of an enum, the text that it is once it was stored
        return DEFAULT_TIER

    def limits(self, tier: str) -> Limits:
        """The limits of a tier by its name; an unknown one has the default's."""
        return self.tiers.get(tier, self.default)

    def limits_by_tag(self, tag: str) -> Limits:
        """The limits of a tier by its tag; those of a tier no longer configured: the default's."""
        return self.limits(self.name_of(tag))

    def name_of(self, tag: str) -> str:
        """The name behind a tier's tag; a tier no longer configured is ``default``."""
        return self._names.get(tag, DEFAULT_TIER)

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The tiers of users, in the order in which they are evicted."""
        named = [name for name in self.tiers if name != ANONYMOUS_TIER]
        return tuple(named if DEFAULT_TIER in named else [DEFAULT_TIER, *named])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All tiers: that of anonymous visitors, then those of users."""
        return (ANONYMOUS_TIER, *self.order)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {tier_tag(name): name for name in self.names}


def milliseconds(value: object) -> int:
    """A duration in whole milliseconds.

    :param value: seconds as a number, a :class:`~datetime.timedelta`, or text such as ``"30m"``,
        ``"12h"``, ``"7d"``, ``"1h30m"``, ``"500ms"``; digits alone are seconds.
    :raises ValueError: it is none of these, not above zero, or over ten years.
    """
    exact = _exact_milliseconds(value)
    if exact != exact or exact < 1:  # noqa: PLR0124  # not a number
        raise ValueError("a duration must be at least a millisecond")
    if exact > MAX_DURATION:
        raise ValueError("a duration can be ten years at most")
    return round(exact)  # infinity and its like are over ten years, too


def spelled(duration: int) -> str:
    """Returns *duration*, in milliseconds, as one would write it: in the largest unit that fits."""
    unit = next(name for name, size in reversed(_UNITS.items()) if duration % size == 0)
    return f"{duration // _UNITS[unit]}{unit}"


def _exact_milliseconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value / timedelta(milliseconds=1)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value * 1000
    if isinstance(value, str):
        # A space may stand between a number and its unit, or between two parts; never in a number.
        text = re.sub(r"(?<=\d) +(?=[a-z])|(?<=[a-z]) +(?=\d)", "", value.strip().lower())
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            return float(text) * 1000
        if _TEXT.fullmatch(text):
            return sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text))
    raise ValueError('write seconds, a timedelta, or text such as "30m", "12h", "7d", "1h30m"')


def as_datetime(milliseconds: int) -> datetime:
    """A store's time as an aware UTC datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
