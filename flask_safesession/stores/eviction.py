"""Who has to go for one session more, in the memory store: the twin of ``lua/_admission.lua``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ..errors import StoreFull, TooManySessions
from ..model.policy import ANONYMOUS_TIER
from ..model.record import Record, loads
from ..model.tokens import NO_USER
from .base import EVICTED, LISTED, MAX_EVICTIONS, Cap, Rules
from .shelf import Shelf, bucket_of, due_keys, parts

#: Keys, each with a reason; ``None``: it is due.
Victims = dict[str, "str | None"]

#: Due sessions that each creation removes from each tier, at most.
SWEEP = 3


def for_one_more(
    shelf: Shelf, fresh: Record, rules: Rules, now: int, leaving: str | None
) -> Victims:
    """Who has to go for *fresh*, which may take the place of the session *leaving*.

    Everything is chosen before anything is removed: a refusal leaves the store as it was.

    :raises TooManySessions: the user has as many as allowed, and the oldest is not to go.
    :raises StoreFull: the cap is reached, and nobody is to go.
    """
    cap = rules.cap
    choice = _Choice(shelf, now, cap.evict)
    before = None if leaving is None else loads(shelf.records[leaving][:LISTED])
    if leaving is not None and before is not None:
        choice.leave(leaving, bucket_of(before))
    choice.sweep()
    if before is not None and (before.user, before.tier) == (fresh.user, fresh.tier):
        return choice.victims  # not one more: no cap that was lowered stands in its way
    names = [ANONYMOUS_TIER]
    if fresh.user != NO_USER:
        choice.choose_own(fresh, rules)
        names += shelf.user_buckets(rules)
        choice.make_room(names[1:], len(shelf.users) - choice.users + 1 - cap.users, cap)
    choice.make_room(names, len(shelf.records) - choice.total + 1 - cap.total, cap)
    return choice.victims


def over_the_cap(shelf: Shelf, rules: Rules, now: int, limit: int) -> Victims:
    """Live sessions over a cap that was lowered, *limit* at most."""
    choice = _Choice(shelf, now, rules.cap.evict)
    if rules.cap.evict:
        users = shelf.user_buckets(rules)
        choice.pick(users, min(limit, len(shelf.users) - rules.cap.users))
        over = len(shelf.records) - choice.total - rules.cap.total
        choice.pick([ANONYMOUS_TIER, *users], min(limit - choice.total, over))
    return choice.victims


class _Choice:
    """Chooses who has to go. Changes nothing."""

    def __init__(self, shelf: Shelf, now: int, evict: bool) -> None:
        self.now = now
        self.victims: Victims = {}
        self.total: int = 0
        self.users: int = 0
        self._leaving: str | None = None
        self._shelf = shelf
        self._evict = evict

    def has(self, key: str) -> bool:
        """Whether *key* is going already."""
        return key == self._leaving or key in self.victims

    def leave(self, key: str, bucket: str) -> None:
        """*key* goes anyway: it is counted, and nobody's victim."""
        self._leaving = key
        self._count(bucket)

    def take(self, key: str, bucket: str, reason: str | None) -> None:
        """Choose *key*; the *reason* of what is due anyway is ``None``."""
        self.victims[key] = reason
        self._count(bucket)

    def sweep(self) -> None:
        """A few due sessions of every tier: without a scheduler the store shrinks even so."""
        for name, bucket in self._shelf.buckets.items():
            for key in due_keys(bucket, self.now, SWEEP):
                if not self.has(key):
                    self.take(key, name, None)

    def choose_own(self, fresh: Record, rules: Rules) -> None:
        """Of the user's own sessions, those over that user's cap.

        Of more than :data:`MAX_EVICTIONS`, only so many are looked at, those first that are to be
        evicted first: a due one behind them counts until it is removed.
        """
        cap, user = rules.cap, fresh.user
        allowed = cap.per_tier.get(rules.policy.name_of(fresh.tier), cap.per_user)
        tier = fresh.tier if cap.per_tier else ""
        going = sum(self._shelf.belongs(key, user, tier) for key in self._going())
        excess = self._shelf.count_of(user, tier) - going + 1 - allowed
        if excess <= 0:
            return
        keys = (key for key in self._shelf.keys_of(user, tier) if not self.has(key))
        met = self._shelf.listed(islice(keys, MAX_EVICTIONS))
        due = [listed for listed in met if listed.record.deadline <= self.now]
        excess -= len(due)
        if cap.refuse and excess > 0:
            raise TooManySessions
        live = [listed for listed in met if listed.record.deadline > self.now]
        for listed in due + live[: max(0, excess)]:
            reason = None if listed.record.deadline <= self.now else EVICTED
            self.take(listed.key, bucket_of(listed.record), reason)

    def make_room(self, names: Iterable[str], excess: int, cap: Cap) -> None:
        """Choose *excess* sessions, those nearest their end, tier by tier."""
        evicted = sum(reason == EVICTED for reason in self.victims.values())
        # A user's own are evicted even where nobody else's are: they are no reason to admit more.
        wanted = min(excess, MAX_EVICTIONS - (evicted if self._evict else 0))
        if wanted > 0 and self.pick(names, wanted) < wanted:
            raise StoreFull(cap.total)

    def pick(self, names: Iterable[str], wanted: int) -> int:
        """Take up to *wanted* sessions from these tiers in order; how many were found."""
        found = 0
        for name in names:
            for entry in self._shelf.buckets[name]:
                deadline, key = parts(entry)
                if found >= wanted or (deadline > self.now and not self._evict):
                    break
                if not self.has(key):
                    self.take(key, name, None if deadline <= self.now else EVICTED)
                    found += 1
        return found

    def _going(self) -> list[str]:
        return [*self.victims, *([self._leaving] if self._leaving else [])]

    def _count(self, bucket: str) -> None:
        self.total += 1
        self.users += bucket != ANONYMOUS_TIER
