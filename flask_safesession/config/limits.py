"""Reads the durations and the caps of sessions from the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..model.policy import DEFAULT_TIER, Limits, Policy, milliseconds
from ..stores.base import Cap
from .reading import PREFIX, Keys, positive

_MAX_TOUCH = 60_000
_SMALLEST_CAP = 2
_TIER_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_LIMITS = ("idle_timeout", "lifetime")
_LONGEST = "longest_lifetime"


def read_policy(keys: Keys) -> Policy | None:
    """Returns the policy; ``None`` if a setting of it is wrong."""
    return _PolicyReader(keys).policy()


class _Span(NamedTuple):
    """A duration in milliseconds, and the name and text of its setting."""

    length: int
    setting: str
    text: str


class _Spans(NamedTuple):
    """The limits of one tier, with their settings; *longest*: if it is set."""

    idle: _Span
    lifetime: _Span
    longest: _Span | None = None


class _PolicyReader:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._touch: int | None = keys["TOUCH_INTERVAL"]

    def policy(self) -> Policy | None:
        kind = self._keys["EXPIRY"]
        default = self._default(fixed=kind == "fixed")
        tiers = self._tiers(kind, default)
        if default is None:
            return None
        self._check_touch([default, *tiers.values()])
        limits = {name: self._limits(spans) for name, spans in tiers.items()}
        return Policy(kind, self._limits(default), limits)

    def _default(self, *, fixed: bool) -> _Spans | None:
        lifetime, idle = self._own("LIFETIME"), self._own("IDLE_TIMEOUT")
        if not lifetime.length or not idle.length:
            return None
        if fixed or not self._keys.is_set("IDLE_TIMEOUT"):
            idle = lifetime if fixed else min(idle, lifetime)
        longest = self._own("LONGEST_LIFETIME")
        return self._checked(_Spans(idle, lifetime, longest if longest.length else None))

    def _own(self, name: str) -> _Span:
        return _Span(self._keys[name] or 0, PREFIX + name, self._keys.shown(name))

    def _checked(self, spans: _Spans) -> _Spans:
        idle, lifetime, longest = spans
        if idle.length > lifetime.length:
            self._keys.problems.append(
                f"{idle.setting} is {idle.text}, longer than {lifetime.setting} ({lifetime.text}):"
                " shorten one or extend the other"
            )
        if longest and longest.length < lifetime.length:
            self._keys.problems.append(
                f"{longest.setting} is {longest.text}, shorter than {lifetime.setting}"
                f" ({lifetime.text}): extend it, or remove it"
            )
        return spans

    def _check_touch(self, tiers: list[_Spans]) -> None:
        shortest = min(spans.idle for spans in tiers)
        if self._touch is not None and self._touch >= shortest.length:
            self._keys.complain(
                "TOUCH_INTERVAL",
                f"it must be shorter than {shortest.setting} ({shortest.text}), otherwise use would"
                " not keep a session alive",
            )

    def _limits(self, spans: _Spans) -> Limits:
        idle = spans.idle.length
        touch = min(idle // 60, _MAX_TOUCH) if self._touch is None else self._touch
        longest = spans.longest.length if spans.longest else 0
        return Limits(idle, spans.lifetime.length, touch, longest)

    def _tiers(self, kind: str, default: _Spans | None) -> dict[str, _Spans]:
        tiers = self._keys["TIERS"]
        if tiers is None:
            return {}
        if tiers and kind in ("sliding", "fixed"):
            self._keys.problems.append(
                f"{PREFIX}TIERS is set, but {PREFIX}EXPIRY is {kind!r}: set it to 'tiered'"
            )
        if kind == "tiered" and not tiers:
            self._keys.problems.append(f"{PREFIX}EXPIRY is 'tiered', but {PREFIX}TIERS is empty")
        read = ((name, self._tier(name, tier, default)) for name, tier in tiers.items())
        return {name: limits for name, limits in read if limits is not None}

    def _tier(self, name: object, tier: object, default: _Spans | None) -> _Spans | None:
        where, problems = f"{PREFIX}TIERS[{name!r}]", self._keys.problems
        if not isinstance(name, str) or not _TIER_NAME.fullmatch(name):
            problems.append(f"{where}: name tiers with letters, digits and _ . : - only")
            return None
        if not isinstance(tier, Mapping) or not _is_tier(tier):
            problems.append(
                f'{where} is {tier!r}: give {{"idle_timeout": …, "lifetime": …}}, or one of them,'
                f' and perhaps "{_LONGEST}"'
            )
            return None
        read = {key: self._limit(f"{where}[{key!r}]", value) for key, value in tier.items()}
        if default is None or not all(span.length for span in read.values()):
            return None
        lifetime = read.get("lifetime", default.lifetime)
        idle = read.get("idle_timeout", lifetime)
        return self._checked(_Spans(idle, lifetime, read.get(_LONGEST)))

    def _limit(self, setting: str, value: object) -> _Span:
        length = 0
        try:
            length = milliseconds(value)
        except ValueError as error:
            self._keys.problems.append(f"{setting} is {value!r}: give a duration ({error})")
        return _Span(length, setting, repr(value))


def _is_tier(tier: Mapping[object, object]) -> bool:
    return not tier.keys().isdisjoint(_LIMITS) and tier.keys() <= {*_LIMITS, _LONGEST}


def read_cap(keys: Keys, default: int) -> Cap:
    """Returns the caps; *default*: the total if none is set."""
    total, shards = keys["MAX_SESSIONS"] or default, keys["SHARDS"] or 1
    per_user, per_tier = _per_user(keys)
    if total < _SMALLEST_CAP * shards:
        each = "" if shards == 1 else f" for each of {shards} shards"
        keys.complain(
            "MAX_SESSIONS",
            f"give 2 at least{each}, one for a user and one for a visitor who is about to sign in",
        )
    evict, refuse = keys["WHEN_FULL"] == "evict", keys["WHEN_USER_FULL"] == "reject"
    cap = Cap.of(total, per_user, evict=evict)._replace(per_tier=per_tier, refuse=refuse)
    if keys.is_set("MAX_SESSIONS_PER_USER"):
        return cap
    # Under a small cap the default number would let one account evict all others.
    users = cap.share(shards).users
    return cap._replace(per_user=min(per_user, max(1, users // 2)))


def _per_user(keys: Keys) -> tuple[int, dict[str, int]]:
    """Returns the cap of each user, and those of single tiers."""
    given = keys["MAX_SESSIONS_PER_USER"]
    if not isinstance(given, Mapping):
        return given or 100, {}
    numbers: dict[str, int] = {}
    for tier, value in given.items():
        try:
            numbers[tier] = positive(value)
        except (TypeError, ValueError):
            keys.problems.append(
                f"{PREFIX}MAX_SESSIONS_PER_USER[{tier!r}] is {value!r}: give a whole number"
                " above zero"
            )
        if tier not in (DEFAULT_TIER, *(keys["TIERS"] or ())):
            keys.problems.append(
                f"{PREFIX}MAX_SESSIONS_PER_USER has {tier!r}, which is not a tier: give one of"
                f" {PREFIX}TIERS, or {DEFAULT_TIER!r}"
            )
    return numbers.get(DEFAULT_TIER, 100), numbers
