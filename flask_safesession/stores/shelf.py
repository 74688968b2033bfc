"""Records and their index, in the memory store: who ends when in each tier, and who is whose."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias

from sortedcontainers import SortedList

from ..expiry import ANONYMOUS_TIER
from ..record import Record, dumps, glance, loads
from ..tokens import KEY_LENGTH, NO_USER, tier_tag
from .base import LISTED, Listed, Removed, Rules

# Of entries: deadline and key in one object, which costs half of a tuple and is none of the garbage
# collector's business.
Bucket: TypeAlias = "SortedList[bytes]"


class Shelf:
    """The sessions that are there, due ones among them. Whoever uses it holds the store's lock."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.reindex()

    def reindex(self) -> None:
        """Build the index from the records."""
        self.buckets: dict[str, Bucket] = {ANONYMOUS_TIER: SortedList()}
        # One entry a session, tag + time of creation + key: a user's sessions are a range of it.
        self.users: SortedList[bytes] = SortedList()
        for key, raw in self.records.items():
            self._index(key, loads(raw))

    def difference(self) -> int:
        """By how many entries index and records differ at least."""
        indexed = sum(map(len, self.buckets.values()))
        users = indexed - len(self.buckets[ANONYMOUS_TIER])
        return abs(indexed - len(self.records)) + abs(users - len(self.users))

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """Set *fresh* in the place of *old*, which had the same tier and user."""
        self.records[key] = dumps(fresh)
        if old is None:
            self._index(key, fresh)
        elif old.deadline != fresh.deadline:
            bucket = self.buckets[bucket_of(fresh)]
            bucket.discard(entry_of(old.deadline, key))
            bucket.add(entry_of(fresh.deadline, key))

    def remove(self, key: str) -> Record:
        """Take the session out; what it was."""
        record = loads(self.records.pop(key))
        self.buckets[bucket_of(record)].discard(entry_of(record.deadline, key))
        if record.user != NO_USER:
            self.users.discard(_user_entry(record, key))
        return record

    def take_due(self, now: int, limit: int) -> Iterator[tuple[Removed, str]]:
        """Take out what is due, up to *limit*; each with its user's tag."""
        for bucket in self.buckets.values():
            wanted = min(limit, count_due(bucket, now))
            limit -= wanted
            for _ in range(wanted):
                entry = bucket.pop(0)
                key = entry[11:].decode("ascii")
                tier, user, created, absolute = glance(self.records.pop(key))
                if user:
                    self.users.discard(user + created + entry[11:])
                reason = "lifetime" if absolute == entry[:11] else "idle"
                yield Removed(key, tier.decode("ascii"), reason), user.decode("ascii")

    def take_all(self) -> dict[str, bytes]:
        """Take everything out, in one step."""
        taken, self.records = self.records, {}
        self.reindex()
        return taken

    def listed(self, key: str) -> Listed:
        """As lists show it."""
        return Listed(key, loads(self.records[key][:LISTED]))

    def keys_of(self, user: str) -> list[str]:
        """A user's sessions, oldest first."""
        first = user.encode("ascii")
        return [e[-KEY_LENGTH:].decode("ascii") for e in self.users.irange(first, first + b"~")]

    def page(self, tier: str, after: str, now: int, limit: int) -> list[bytes]:
        """The entries of up to *limit* live sessions of a tier, from the one that ends last."""
        bucket = self.buckets.get(tier if tier == ANONYMOUS_TIER else tier_tag(tier), ())
        if not bucket:
            return []
        first, last = b"%011x~" % now, after.encode("ascii") if after else None
        entries = bucket.irange(first, last, inclusive=(True, False), reverse=True)
        return list(islice(entries, limit))

    def user_buckets(self, rules: Rules) -> list[str]:
        """The buckets of users in the order of eviction, tiers no longer configured first."""
        named = [tier_tag(tier) for tier in rules.policy.order]
        retired = [name for name in self.buckets if name not in (ANONYMOUS_TIER, *named)]
        return retired + [name for name in named if name in self.buckets]

    def _index(self, key: str, record: Record) -> None:
        bucket = self.buckets.setdefault(bucket_of(record), SortedList())
        bucket.add(entry_of(record.deadline, key))
        if record.user != NO_USER:
            self.users.add(_user_entry(record, key))


def bucket_of(record: Record) -> str:
    """The bucket that *record* stands in."""
    return ANONYMOUS_TIER if record.user == NO_USER else record.tier


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


def _user_entry(record: Record, key: str) -> bytes:
    return f"{record.user}{record.created:011x}{key}".encode("ascii")
