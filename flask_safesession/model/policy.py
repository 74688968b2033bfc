"""When sessions end: durations, limits, and the policy that gives each session its limits.

Pure arithmetic in whole milliseconds. Reads no clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import NamedTuple

from .tokens import tier_tag

#: The tier of sessions for which no other tier is configured.
DEFAULT_TIER = "default"
#: The tier of anonymous sessions.
ANONYMOUS_TIER = "anonymous"
#: Ten years. A longer duration is a mistake, and would not fit into the record's header.
MAX_DURATION = 3650 * 86_400_000

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_TEXT = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)


class Limits(NamedTuple):
    """The limits of one tier, in milliseconds.

    :param idle: the longest time without use.
    :param lifetime: the longest time from creation, whatever the use.
    :param touch: the touch interval.
    :param longest: what a session's own limits may be at most; 0: they can only be shorter than
        those of the tier.
    """

    idle: int
    lifetime: int
    touch: int
    longest: int = 0

    @property
    def extended(self) -> Limits:
        """The limits of extended sessions: the most that a session's own limits may be."""
        return self._replace(idle=self.longest, lifetime=self.longest) if self.longest else self


class OwnLimits(NamedTuple):
    """The limits that a session has of its own, in milliseconds.

    :param lifetime: the longest time from creation.
    :param idle: the longest time without use; 0: that of the tier.
    """

    lifetime: int
    idle: int = 0


@dataclass(frozen=True)
class Policy:
    """The limits of each tier.

    :param kind: ``"sliding"``, ``"fixed"`` or ``"tiered"``.
    :param default: for sessions without a configured tier.
    :param tiers: the configured tiers by name, in the order of eviction.
    """

    kind: str
    default: Limits
    tiers: dict[str, Limits] = field(default_factory=dict)

    def tier_of(self, value: object, *, has_user: bool) -> str:
        """Returns the tier of a session with *value* under the tier key.

        A user's session is never in ``anonymous``: that tier is evicted first.
        """
        if not has_user and ANONYMOUS_TIER in self.tiers:
            return ANONYMOUS_TIER
        if isinstance(value, str) and value in self.tiers and value != ANONYMOUS_TIER:
            return str.__str__(value)  # of an enum's member, the text that it is after storing
        return DEFAULT_TIER

    def limits(self, tier: str) -> Limits:
        """Returns the limits of a tier by its name; for an unknown one, the default."""
        return self.tiers.get(tier, self.default)

    def limits_by_tag(self, tag: str) -> Limits:
        """Returns the limits of a tier by its tag; for an unknown one, the default.

        :param tag: see :attr:`.record.Record.limits_tag`.
        """
        known = self.rows
        return known.get(tag) or known.get(tag.lstrip("+")) or self.limits(DEFAULT_TIER)

    def granted(self, tier: str, own: OwnLimits | None) -> tuple[int, int, bool]:
        """Returns idle timeout and lifetime of a session, and whether it is extended.

        :param own: its own limits, which are cut to what the tier allows; ``None``: it has none.
        """
        usual = self.limits(tier)
        if own is None:
            return usual.idle, usual.lifetime, False
        most = usual.extended
        lifetime = min(own.lifetime, most.lifetime)
        idle = min(own.idle or usual.idle, lifetime, most.idle)
        return idle, lifetime, idle > usual.idle or lifetime > usual.lifetime

    def name_of(self, tag: str) -> str:
        """Returns the name of a tier by its tag; ``default`` if it is no longer configured."""
        return self._names.get(tag, DEFAULT_TIER)

    @cached_property
    def rows(self) -> dict[str, Limits]:
        """The limits by :attr:`.record.Record.limits_tag`, without those that equal others.

        An extended session has those of its tier if there is no row of its own, and any session
        those of the default tier if its tier has no row.
        """
        rows = {tier_tag(name): limits for name, limits in self.tiers.items()}
        for name, limits in {DEFAULT_TIER: self.default, **self.tiers}.items():
            if limits.longest:
                rows[f"+{tier_tag(name)}"] = limits.extended
        return rows

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The tiers of users, in the order of eviction."""
        named = [name for name in self.tiers if name != ANONYMOUS_TIER]
        return tuple(named if DEFAULT_TIER in named else [DEFAULT_TIER, *named])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All tiers: ``anonymous``, then those of users."""
        return (ANONYMOUS_TIER, *self.order)

    @cached_property
    def _names(self) -> dict[str, str]:
        return {tier_tag(name): name for name in self.names}


def milliseconds(value: object) -> int:
    """Returns a duration in whole milliseconds.

    :param value: seconds as a number, a :class:`~datetime.timedelta`, or text such as ``"30m"``,
        ``"12h"``, ``"7d"``, ``"1h30m"``, ``"500ms"``; digits alone are seconds.
    :raises ValueError: it is none of these, not above zero, or longer than ten years.
    """
    exact = _exact_milliseconds(value)
    if exact != exact or exact < 1:  # noqa: PLR0124  # not a number
        raise ValueError("a duration must be at least a millisecond")
    if exact > MAX_DURATION:
        raise ValueError("a duration can be ten years at most")
    return round(exact)  # infinity was refused above


def spelled(duration: int) -> str:
    """Returns *duration*, in milliseconds, as text in the largest unit that divides it."""
    unit = next(name for name, size in reversed(_UNITS.items()) if duration % size == 0)
    return f"{duration // _UNITS[unit]}{unit}"


def _exact_milliseconds(value: object) -> float:
    if isinstance(value, timedelta):
        return value / timedelta(milliseconds=1)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value * 1000
    if isinstance(value, str):
        # Spaces are allowed between a number and its unit and between two parts, not in a number.
        text = re.sub(r"(?<=\d) +(?=[a-z])|(?<=[a-z]) +(?=\d)", "", value.strip().lower())
        if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            return float(text) * 1000
        if _TEXT.fullmatch(text):
            return sum(float(n) * _UNITS[unit] for n, unit in _PART.findall(text))
    raise ValueError('write seconds, a timedelta, or text such as "30m", "12h", "7d", "1h30m"')


def as_datetime(milliseconds: int) -> datetime:
    """Returns a store's time as an aware UTC datetime."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
