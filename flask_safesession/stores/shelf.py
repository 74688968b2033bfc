"""Records and their index in the memory store: which session ends when, and whose it is."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import TypeAlias

from sortedcontainers import SortedList

from ..model.policy import ANONYMOUS_TIER
from ..model.record import Record, dumps, glance, loads
from ..model.tokens import KEY_LENGTH, NO_USER, tier_tag
from .base import LISTED, Listed, Removed, Rules

# Of entries: deadline and key in one object, which costs half of a tuple and is none of the garbage
# collector's business.
Bucket: TypeAlias = "SortedList[bytes]"

# Of an entry in the index of users: user and tier tag, then what orders the sessions of a user,
# which is the place (1 + 11 characters) and the number (11), then the key.
_ORDER = 20
_NUMBER = 32


class Shelf:
    """The sessions that are stored, due ones among them. The caller holds the store's lock.

    A signal handler may raise in the middle of a change. Each change is counted when it begins and
    when it is done, so that this is noticed: :attr:`is_torn`.
    """

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self._begun = 0
        self._count = 0
        # The entry of each user's session in the index of users.
        self._places: dict[str, bytes] = {}
        self.reindex()

    @property
    def is_torn(self) -> bool:
        """Whether a change was interrupted, so that the index may be wrong."""
        return self._begun != self._done

    def reindex(self) -> None:
        """Build the index from the records."""
        before, self._places = self._places, {}
        self.buckets: dict[str, Bucket] = {ANONYMOUS_TIER: SortedList()}
        # One entry a session; a user's sessions of a tier are a range of it, in the order of
        # eviction.
        self.users: SortedList[bytes] = SortedList()
        for key, raw in self.records.items():
            record = loads(raw[:LISTED])
            self._bucket(record).add(entry_of(record.deadline, key))
            self._place(key, record, before.get(key, b"")[_NUMBER:])
        self._done = self._begun

    def difference(self) -> int:
        """By how many entries index and records differ at least."""
        indexed = sum(map(len, self.buckets.values()))
        users = indexed - len(self.buckets[ANONYMOUS_TIER])
        differ = abs(indexed - len(self.records)) + abs(users - len(self.users))
        return max(differ, int(self.is_torn))

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """Set *fresh* in the place of *old*. The index changes only where it has to."""
        self._begun += 1
        self.records[key] = dumps(fresh)
        before = old and (bucket_of(old), old.deadline)
        if before != (bucket_of(fresh), fresh.deadline):
            if old is not None:
                self._bucket(old).discard(entry_of(old.deadline, key))
            self._bucket(fresh).add(entry_of(fresh.deadline, key))
        self._place(key, fresh, self._places.get(key, b"")[_NUMBER:])
        self._done += 1

    def remove(self, key: str) -> Record | None:
        """Remove the session and return what it was; ``None`` if an index entry led nowhere."""
        raw = self.records.get(key)
        if raw is None:
            return None
        record = loads(raw)
        self._begun += 1
        del self.records[key]
        self._bucket(record).discard(entry_of(record.deadline, key))
        self._displace(key)
        self._done += 1
        return record

    def take_due(self, now: int, limit: int) -> Iterator[tuple[Removed, str]]:
        """Remove up to *limit* sessions that are due; yields each with its user's tag."""
        for bucket in self.buckets.values():
            wanted = min(limit, count_due(bucket, now))
            limit -= wanted
            for _ in range(wanted):
                self._begun += 1
                entry = bucket.pop(0)
                key = entry[11:].decode("ascii")
                raw = self.records.pop(key, None)
                self._displace(key)
                self._done += 1
                if raw is not None:
                    tier, user, _, absolute = glance(raw)
                    reason = "lifetime" if absolute == entry[:11] else "idle"
                    yield Removed(key, tier.decode("ascii"), reason), user.decode("ascii")

    def listed(self, keys: Iterator[str]) -> list[Listed]:
        """Returns sessions as lists show them; entries that lead nowhere are left out."""
        return read(self.heads(keys))

    def heads(self, keys: Iterator[str]) -> list[tuple[str, bytes]]:
        """Returns what :func:`read` makes a list of, without the lock."""
        found = ((key, self.records.get(key)) for key in keys)
        return [(key, raw[:LISTED]) for key, raw in found if raw is not None]

    def keys_of(self, user: str, tier: str = "") -> Iterator[str]:
        """Yields a user's sessions in the order of their eviction.

        Those whose cookie never came back come first, oldest first; then those that are unused for
        the longest.

        :param tier: only those with this tag.
        """
        tiers = [tier] if tier else [name for name in self.buckets if name != ANONYMOUS_TIER]
        ranges = (self._range(user + name) for name in tiers)
        for entry in merge(*ranges, key=lambda entry: entry[_ORDER:]):
            yield entry[-KEY_LENGTH:].decode("ascii")

    def count_of(self, user: str, tier: str = "") -> int:
        """Returns how many sessions a user has, due ones among them; costs two searches."""
        first = f"{user}{tier}".encode("ascii")
        return self.users.bisect_right(first + b"~") - self.users.bisect_left(first)

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        """Whether the session under *key* is one of those that :meth:`count_of` counts."""
        return self._places.get(key, b"").startswith(f"{user}{tier}".encode("ascii"))

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

    def _bucket(self, record: Record) -> Bucket:
        return self.buckets.setdefault(bucket_of(record), SortedList())

    def _range(self, prefix: str) -> Iterator[bytes]:
        first = prefix.encode("ascii")
        return self.users.irange(first, first + b"~")

    def _place(self, key: str, record: Record, number: bytes) -> None:
        """Put the session where it belongs among its user's; *number* is that of its entry."""
        place = _place_of(record)
        if self._places.get(key, b"")[:_NUMBER] == place:
            return
        self._displace(key)
        if place:
            if not number:
                # Sessions that were made in the same millisecond have an order, too.
                self._count += 1
                number = f"{self._count:011x}{key}".encode("ascii")
            self._places[key] = place + number
            self.users.add(place + number)

    def _displace(self, key: str) -> None:
        if (entry := self._places.pop(key, None)) is not None:
            self.users.discard(entry)


def read(heads: list[tuple[str, bytes]]) -> list[Listed]:
    """Returns the sessions of which these are the heads."""
    return [Listed(key, loads(raw)) for key, raw in heads]


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


def _place_of(record: Record) -> bytes:
    """What orders a user's sessions; empty for an anonymous session."""
    if record.user == NO_USER:
        return b""
    order = f"1{record.last_active:011x}" if record.is_used else f"0{record.created:011x}"
    return f"{record.user}{record.tier}{order}".encode("ascii")
