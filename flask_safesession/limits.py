"""How long sessions may last and how many there may be, as the keys of ``app.config`` say."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .expiry import DEFAULT_TIER, Limits, Policy, milliseconds
from .keys import PREFIX, Keys, positive
from .stores.base import Cap

_MAX_TOUCH = 60_000
_SMALLEST_CAP = 2
_TIER_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_LIMITS = ("idle_timeout", "lifetime")


def read_policy(keys: Keys) -> Policy | None:
    """When sessions end; ``None`` where *keys* has a problem with that."""
    return _PolicyReader(keys).policy()


class _PolicyReader:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        given = keys.get("TOUCH_INTERVAL")
        self._touch = None if given is None else keys.duration_or_zero("TOUCH_INTERVAL")

    def policy(self) -> Policy | None:
        kind = self._keys.choice("EXPIRY", "sliding", "fixed", "tiered")
        default = self._default_limits(fixed=kind == "fixed")
        tiers = self._tiers(kind, default)
        return Policy(kind, default, tiers) if default else None

    def _default_limits(self, *, fixed: bool) -> Limits | None:
        lifetime, idle = self._keys.duration("LIFETIME"), self._keys.duration("IDLE_TIMEOUT")
        if not lifetime or not idle:
            return None
        if fixed or not self._keys.is_set("IDLE_TIMEOUT"):
            idle = lifetime if fixed else min(idle, lifetime)
        return self._limits(f"{PREFIX}IDLE_TIMEOUT", idle, lifetime)

    def _limits(self, where: str, idle: int, lifetime: int) -> Limits:
        if idle > lifetime:
            self._keys.problems.append(
                f"{where}: an idle timeout of {idle} ms is longer than the lifetime of"
                f" {lifetime} ms: shorten the one or extend the other"
            )
        touch = min(idle // 60, _MAX_TOUCH) if self._touch is None else self._touch
        if touch >= idle:
            self._keys.problems.append(
                f"{where}: {PREFIX}TOUCH_INTERVAL ({touch} ms) must be shorter than the idle"
                f" timeout ({idle} ms): otherwise use would not keep a session alive"
            )
        return Limits(idle, lifetime, touch)

    def _tiers(self, kind: str, default: Limits | None) -> dict[str, Limits]:
        tiers = self._keys.get("TIERS")
        if not isinstance(tiers, Mapping):
            mend = 'give a dict of names to {"idle_timeout": …, "lifetime": …}'
            self._keys.complain("TIERS", mend)
            return {}
        if tiers and kind in ("sliding", "fixed"):
            self._keys.problems.append(
                f"{PREFIX}TIERS is set, but {PREFIX}EXPIRY is {kind!r}: set it to 'tiered'"
            )
        if kind == "tiered" and not tiers:
            self._keys.problems.append(f"{PREFIX}EXPIRY is 'tiered', but {PREFIX}TIERS is empty")
        read = ((name, self._tier(name, tier, default)) for name, tier in tiers.items())
        return {name: limits for name, limits in read if limits is not None}

    def _tier(self, name: object, tier: object, default: Limits | None) -> Limits | None:
        where, problems = f"{PREFIX}TIERS[{name!r}]", self._keys.problems
        if not isinstance(name, str) or not _TIER_NAME.fullmatch(name):
            problems.append(f"{where}: name tiers with letters, digits and _ . : - only")
            return None
        if not isinstance(tier, Mapping) or not tier or not set(tier) <= set(_LIMITS):
            problems.append(
                f'{where} is {tier!r}: give {{"idle_timeout": …, "lifetime": …}}, or one of them'
            )
            return None
        try:
            read = {key: milliseconds(value) for key, value in tier.items()}
        except ValueError as error:
            problems.append(f"{where} is {tier!r}: {error}")
            return None
        if default is None:
            return None
        lifetime = read.get("lifetime", default.lifetime)
        return self._limits(where, read.get("idle_timeout", lifetime), lifetime)


def read_cap(keys: Keys, default: int, shards: int) -> Cap:
    """How many sessions there may be: *default* in all, if nothing is said."""
    total = keys.number("MAX_SESSIONS", default)
    per_user, per_tier = _per_user(keys)
    refuse = keys.choice("WHEN_USER_FULL", "evict-oldest", "reject") == "reject"
    evict = keys.choice("WHEN_FULL", "evict", "reject") == "evict"
    if total < _SMALLEST_CAP * shards:
        each = "" if shards == 1 else f" for each of {shards} shards"
        mend = (
            f"give 2 at least{each}, one for a user and one for the stranger who wants to sign in"
        )
        keys.complain("MAX_SESSIONS", mend, total)
    cap = Cap.of(total, per_user, evict=evict)._replace(per_tier=per_tier, refuse=refuse)
    if keys.is_set("MAX_SESSIONS_PER_USER"):
        return cap
    # Under a small cap the default would let one account push out all the others.
    users = cap.share(shards).users
    return cap._replace(per_user=min(per_user, max(1, users // 2)))


def _per_user(keys: Keys) -> tuple[int, dict[str, int]]:
    """How many sessions a user may have; and of each tier, if the tiers differ."""
    given = keys.get("MAX_SESSIONS_PER_USER")
    if not given or not isinstance(given, Mapping):
        return keys.number("MAX_SESSIONS_PER_USER", 100), {}
    numbers: dict[str, int] = {}
    for tier, value in given.items():
        try:
            numbers[tier] = positive(value)
        except (TypeError, ValueError):
            keys.problems.append(
                f"{PREFIX}MAX_SESSIONS_PER_USER[{tier!r}] is {value!r}: give a whole number"
                " above zero"
            )
        if tier not in (DEFAULT_TIER, *(keys.get("TIERS") or ())):
            keys.problems.append(
                f"{PREFIX}MAX_SESSIONS_PER_USER has {tier!r}, which is no tier: give one of"
                f" {PREFIX}TIERS, or {DEFAULT_TIER!r}"
            )
    return numbers.get(DEFAULT_TIER, 100), numbers
