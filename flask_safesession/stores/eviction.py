"""Who has to go for one session more, in the memory store: the twin of ``lua/_admission.lua``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TypeAlias

from sortedcontainers import SortedList

from ..errors import StoreFull
from ..expiry import ANONYMOUS_TIER
from .base import EVICTED, Cap

#: Due sessions that each creation removes from each tier, at most.
SWEEP = 3
#: Live sessions that one creation evicts at most, after a cap was lowered: the rest is the purge's.
MAX_EVICTIONS = 16

# Of entries: deadline and key in one object, which costs half of a tuple and is none of the garbage
# collector's business.
Bucket: TypeAlias = "SortedList[bytes]"


class Choice:
    """Chooses who has to go. Reads the index only."""

    def __init__(self, buckets: Mapping[str, Bucket], now: int, evict: bool) -> None:
        self.now = now
        self.victims: dict[str, str | None] = {}
        self.total: int = 0
        self.users: int = 0
        self._leaving: str | None = None
        self._buckets = buckets
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
        for name, bucket in self._buckets.items():
            for key in due_keys(bucket, self.now, SWEEP):
                if not self.has(key):
                    self.take(key, name, None)

    def make_room(self, names: Iterable[str], excess: int, cap: Cap) -> None:
        """Choose *excess* sessions, those nearest their end, tier by tier."""
        if excess > 0 and self.pick(names, wanted := min(excess, MAX_EVICTIONS)) < wanted:
            raise StoreFull(cap.total)

    def pick(self, names: Iterable[str], wanted: int) -> int:
        """Take up to *wanted* sessions from these tiers in order; how many were found."""
        found = 0
        for name in names:
            for entry in self._buckets[name]:
                deadline, key = parts(entry)
                if found >= wanted or (deadline > self.now and not self._evict):
                    break
                if not self.has(key):
                    self.take(key, name, None if deadline <= self.now else EVICTED)
                    found += 1
        return found

    def _count(self, bucket: str) -> None:
        self.total += 1
        self.users += bucket != ANONYMOUS_TIER


def entry_of(deadline: int, key: str) -> bytes:
    """The entry of a session in its bucket: one object of bytes sorts as the pair would."""
    return b"%011x" % deadline + key.encode("ascii")


def parts(entry: bytes) -> tuple[int, str]:
    """The deadline and the key in an entry."""
    return int(entry[:11], 16), entry[11:].decode("ascii")


def count_due(bucket: Bucket, now: int) -> int:
    """How many sessions in *bucket* are past their deadline."""
    return bucket.bisect_right(b"%011x~" % now)


def due_keys(bucket: Bucket, now: int, limit: int) -> list[str]:
    """The keys of up to *limit* sessions in *bucket* that are past their deadline."""
    return [parts(entry)[1] for entry in islice(bucket, min(limit, count_due(bucket, now)))]
