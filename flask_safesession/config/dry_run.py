"""Counts the sessions that other settings would end, without any change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..model.policy import Policy
from ..model.record import limited
from ..model.tokens import NO_USER
from ..stores.base import Cap, IndexedStore, Listed
from ..stores.sharded import shard_of
from .settings import Settings

# Sessions that are read from the store at once.
_PAGE = 500


def count_ends(store: IndexedStore, present: Settings, settings: Settings, now: int) -> int:
    """Returns how many sessions that are live *now* the next purge would end under *settings*.

    Reads all sessions, page by page: seconds for a hundred thousand.

    :param present: the current settings.
    :raises StoreUnavailable: the store did not answer.
    """
    ends = 0
    left: Counter[tuple[int, bool]] = Counter()
    for tier in store.count(present.rules).live:
        for listed in _walk(store, tier):
            if _is_over(listed, settings.rules.policy, now):
                ends += 1
            else:
                shard = shard_of(listed.key, settings.shards)
                left[shard, listed.record.user != NO_USER] += 1
    cap = settings.rules.cap.share(settings.shards)
    return ends + sum(_excess(left, shard, cap) for shard in range(settings.shards))


def _walk(store: IndexedStore, tier: str) -> Iterator[Listed]:
    after = ""
    while True:
        page = store.page(tier, after, _PAGE)
        yield from page.sessions
        after = page.next
        if not after:
            return


def _is_over(listed: Listed, policy: Policy, now: int) -> bool:
    limits = policy.limits_by_tag(listed.record.limits_tag)
    return limited(listed.record, limits.idle, limits.lifetime).deadline <= now


def _excess(left: Counter[tuple[int, bool]], shard: int, cap: Cap) -> int:
    """Returns how many sessions one shard has to evict because of its lower cap."""
    if not cap.evict:
        return 0
    users, anonymous = left[shard, True], left[shard, False]
    of_users = max(0, users - cap.users)
    return of_users + max(0, users - of_users + anonymous - cap.total)
