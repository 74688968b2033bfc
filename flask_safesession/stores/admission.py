"""Chooses the sessions that make room for a new one: the same rules as ``lua/_admission.lua``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..errors import StoreFull, TooManySessions
from ..model.policy import ANONYMOUS_TIER
from ..model.reason import Reason
from ..model.record import Record
from ..model.tokens import NO_USER, tier_tag
from .base import MAX_EVICTIONS, Cap, Rules
from .tables import Tables, TooNarrow, group_of, read_heads

#: Keys, each with the reason of its end; ``None``: the session is due.
Victims = dict[str, "str | None"]

#: Due sessions that each creation removes from each tier at most.
SWEEP = 3


class Leaving(NamedTuple):
    """A session that the new one replaces."""

    key: str
    record: Record


def for_one_more(
    t: Tables, fresh: Record, rules: Rules, now: int, leaving: Leaving | None
) -> tuple[Victims, int]:
    """Returns the sessions to remove for *fresh*, and how many there will be then; 0: unknown.

    All are chosen before any is removed, so that a refusal does not change the store.

    :raises TooManySessions: the user has as many as allowed, and none may be evicted.
    :raises StoreFull: the cap is reached, and no session may be evicted.
    """
    rules, whole = rules._replace(cap=t.share(rules.cap)), rules.cap
    choice = _Choice(t, now, rules.cap.evict, leaving, partial=rules.cap is not whole)
    if not choice.partial:
        choice.sweep()
    if leaving is None or _filed(leaving.record) != _filed(fresh):
        # Otherwise the number stays the same: a lowered cap must not refuse it.
        _make_room(choice, fresh, rules)
    return choice.victims, 0 if choice.partial else choice.remaining + 1


def over_the_cap(t: Tables, rules: Rules, now: int, limit: int) -> Victims:
    """Returns live sessions over a lowered cap, *limit* at most."""
    cap = t.share(rules.cap)
    choice = _Choice(t, now, cap.evict, None, partial=cap is not rules.cap)
    if rules.cap.evict:
        groups = _user_groups(choice.counts, rules)
        choice.pick(groups, min(limit, choice.remaining_users - rules.cap.users))
        over = choice.remaining - rules.cap.total
        choice.pick([ANONYMOUS_TIER, *groups], min(limit - len(choice.victims), over))
    return choice.victims


def _make_room(choice: _Choice, fresh: Record, rules: Rules) -> None:
    cap, groups = rules.cap, [ANONYMOUS_TIER]
    if fresh.user != NO_USER:
        choice.choose_own(fresh, rules)
        groups += _user_groups(choice.counts, rules)
        choice.make_room(groups[1:], choice.remaining_users + 1 - cap.users, cap)
    choice.make_room(groups, choice.remaining + 1 - cap.total, cap)


def _filed(record: Record) -> tuple[str, str]:
    return record.user, record.tier


def _user_groups(counts: Mapping[str, int], rules: Rules) -> list[str]:
    """Returns the groups of users in the order of eviction, tiers no longer configured first."""
    named = [tier_tag(tier) for tier in rules.policy.order]
    retired = [name for name in counts if name != ANONYMOUS_TIER and name not in named]
    return retired + [name for name in named if name in counts]


class _Choice:
    """Chooses the sessions to remove. Changes nothing."""

    def __init__(
        self, t: Tables, now: int, evict: bool, leaving: Leaving | None, *, partial: bool
    ) -> None:
        #: The counts are of some sessions only.
        self.partial = partial
        self.counts: Mapping[str, int] = t.counts()
        self.victims: Victims = {}
        #: Sessions, and users' sessions, that are neither replaced nor victims.
        self.remaining: int = sum(self.counts.values())
        self.remaining_users: int = self.remaining - self.counts.get(ANONYMOUS_TIER, 0)
        self._t = t
        self._now = now
        self._evict = evict
        self._leaving = leaving.key if leaving else None
        if leaving is not None:
            self._count(group_of(leaving.record))

    def sweep(self) -> None:
        """Choose a few due sessions of every group, so that the store shrinks without a job."""
        for group in self.counts:
            for deadline, key, _ in self._t.nearest(group, SWEEP):
                if deadline > self._now:
                    break
                if key != self._leaving:
                    self._take(key, group, None)

    def choose_own(self, fresh: Record, rules: Rules) -> None:
        """Choose the sessions of the user that are over the cap per user.

        Reads :data:`MAX_EVICTIONS` sessions in the order of eviction. A due one after these counts
        until it is removed.
        """
        cap, t, user = rules.cap, self._t, fresh.user
        allowed = cap.per_tier.get(rules.policy.name_of(fresh.tier), cap.per_user)
        tier = fresh.tier if cap.per_tier else ""
        excess = t.count_of(user, tier) + 1 - allowed
        if excess <= 0:
            return
        going = self._going()
        excess -= sum(t.belongs(key, user, tier) for key in going)
        if excess <= 0:
            return
        heads = t.of_user(user, tier, MAX_EVICTIONS + len(going))
        met = read_heads([head for head in heads if head[0] not in going][:MAX_EVICTIONS])
        due = [listed for listed in met if listed.record.deadline <= self._now]
        excess -= len(due)
        if cap.refuse and excess > 0:
            raise TooManySessions
        live = [listed for listed in met if listed.record.deadline > self._now]
        for listed in due + live[: max(0, excess)]:
            reason = None if listed.record.deadline <= self._now else Reason.EVICTED
            self._take(listed.key, group_of(listed.record), reason)

    def make_room(self, groups: Iterable[str], excess: int, cap: Cap) -> None:
        """Choose *excess* sessions, tier by tier, those that expire first.

        :raises StoreFull: there are not enough.
        """
        if excess <= 0:
            return
        evicted = sum(reason == Reason.EVICTED for reason in self.victims.values())
        # With "reject" only the user's own were evicted: to subtract them would admit too many.
        wanted = min(excess, MAX_EVICTIONS - (evicted if self._evict else 0))
        if wanted > 0 and self.pick(groups, wanted) < wanted:
            raise StoreFull(cap.total)

    def pick(self, groups: Iterable[str], wanted: int) -> int:
        """Choose up to *wanted* sessions from these groups in order. Returns how many.

        :raises TooNarrow: other creations may choose the same ones.
        """
        if self.partial and wanted > 0:
            raise TooNarrow
        found = 0
        for group in groups:
            if found >= wanted:
                break
            for deadline, key, _ in self._t.nearest(group, wanted - found + len(self._going())):
                if found >= wanted or (deadline > self._now and not self._evict):
                    break
                if key != self._leaving and key not in self.victims:
                    self._take(key, group, None if deadline <= self._now else Reason.EVICTED)
                    found += 1
        return found

    def _going(self) -> set[str]:
        return {*self.victims, *([self._leaving] if self._leaving else [])}

    def _take(self, key: str, group: str, reason: str | None) -> None:
        """Choose *key*; *reason* is ``None`` for a due session."""
        self.victims[key] = reason
        self._count(group)

    def _count(self, group: str) -> None:
        self.remaining -= 1
        self.remaining_users -= group != ANONYMOUS_TIER
