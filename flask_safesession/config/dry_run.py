"""How many sessions other settings would end: a count that changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..errors import ConfigError
from ..model.policy import Policy
from ..model.record import limited
from ..model.tokens import NO_USER
from ..stores.base import Cap, Listed, Owning, Sharded, Store
from .settings import Settings

# Sessions that the store is asked for at once.
_PAGE = 500


def count_ends(store: Store, present: Settings, settings: Settings, now: int) -> int:
    """How many of the sessions that are live *now* the next purge would end under *settings*.

    It walks all sessions, page by page: seconds for a hundred thousand.

    :param present: the settings by which tiers are known until now.
    :raises ConfigError: the store cannot list sessions.
    :raises StoreUnavailable: the store did not answer.
    """
    if not isinstance(store, Owning):
        raise ConfigError(["the store cannot list its sessions: there is no dry run"])
    ends = 0
    left: Counter[tuple[int, bool]] = Counter()
    for tier in store.census(present.rules).live:
        for listed in _walk(store, tier):
            if _is_over(listed, settings.rules.policy, now):
                ends += 1
            else:
                part = store.part_of(listed.key) if isinstance(store, Sharded) else 0
                left[part, listed.record.user != NO_USER] += 1
    cap, parts = settings.rules.cap, store.part_count() if isinstance(store, Sharded) else 1
    return ends + sum(_excess(left, part, cap.share(parts)) for part in range(parts))


def _walk(store: Owning, tier: str) -> Iterator[Listed]:
    after = ""
    while True:
        page = store.page(tier, after, _PAGE)
        yield from page.sessions
        after = page.next
        if not after:
            return


def _is_over(listed: Listed, policy: Policy, now: int) -> bool:
    limits = policy.limits_by_tag(listed.record.tier)
    return limited(listed.record, limits.idle, limits.lifetime).deadline <= now


def _excess(left: Counter[tuple[int, bool]], part: int, cap: Cap) -> int:
    """Sessions that have to go from one part of the store because its cap is lower."""
    if not cap.evict:
        return 0
    users, strangers = left[part, True], left[part, False]
    of_users = max(0, users - cap.users)
    return of_users + max(0, users - of_users + strangers - cap.total)
