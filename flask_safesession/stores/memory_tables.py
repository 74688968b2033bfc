"""The engine's tables in the memory of a process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from heapq import merge
from itertools import islice
from typing import Any, TypeAlias

from sortedcontainers import SortedList

from ..model.policy import ANONYMOUS_TIER
from ..model.reason import Reason
from ..model.record import GENERATIONS, Record, dumps, loads, peek_fields
from ..model.tokens import KEY_LENGTH, NO_USER
from .base import LISTED, Cap, Removed
from .tables import ALL_KINDS, Ending, Entry, Scope, group_of

# Entries: deadline and key in one bytes object, which takes half the memory of a tuple and is not
# tracked by the garbage collector.
Members: TypeAlias = "SortedList[bytes]"

# Offsets in an entry of the index of users: user and tier tag, then the order of a user's sessions,
# which is the place (1 + 11 characters) and the number (11), then the key.
_ORDER = 20
_NUMBER = 32


class MemoryTables:
    """See :class:`.tables.Tables`. A transaction is one lock; nothing is undone.

    A signal handler may raise in the middle of a change. Each change is counted when it begins and
    when it is done; after an unfinished one, the next call rebuilds the index from the records.

    :param clock: returns the time in milliseconds.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self.clock: Callable[[], int] = clock
        self.lock: threading.Lock = threading.Lock()
        self.records: dict[str, bytes] = {}
        self._endings: dict[str, _Endings] = {kind: _Endings() for kind in ALL_KINDS}
        self._documents: dict[str, tuple[bytes, int]] = {}
        # The records of ended generations, and the stamp of the call that ended the last.
        self._aside: list[dict[str, bytes]] = []
        self._ended_by = ""
        self._generation = 0
        self._begun = 0
        # Interrupted changes since the last repair, which counts them.
        self._recovered = 0
        self._count = 0
        # The entry of each user's session in the index of users.
        self._places: dict[str, bytes] = {}
        self.reindex()

    def transaction(
        self, scope: Scope, *, writes: bool = True, durable: bool = False
    ) -> AbstractContextManager[object]:
        """Returns the lock itself: acquiring and releasing it cannot be interrupted."""
        del scope, writes, durable
        return self.lock

    def now(self) -> int:
        """See :meth:`.tables.Tables.now`. After an interrupted change it rebuilds the index."""
        self._recover()
        return self.clock()

    def share(self, cap: Cap) -> Cap:
        """See :meth:`.tables.Tables.share`: it counts all sessions."""
        return cap

    def generation(self) -> int:
        """See :meth:`.tables.Tables.generation`."""
        return self._generation

    def begin_generation(self, stamp: str) -> None:
        """See :meth:`.tables.Tables.begin_generation`. Puts all records aside."""
        if stamp == self._ended_by:
            return
        number, aside = (self._generation + 1) % GENERATIONS, [*self._aside, self.records]
        # In one assignment, so that no exception can interrupt it.
        self._aside, self.records, self._generation, self._ended_by, self._begun = (
            aside,
            {},
            number,
            stamp,
            self._begun + 1,
        )
        self.reindex()

    # -- sessions -------------------------------------------------------------------------------

    def read(self, key: str) -> Record | None:
        """See :meth:`.tables.Tables.read`."""
        raw = self.records.get(key)
        if raw is None and self._aside:
            raw = next((records[key] for records in self._aside if key in records), None)
        return None if raw is None else loads(raw)

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """See :meth:`.tables.Tables.put`. Changes the index only where it differs."""
        self._begun += 1
        self.records[key] = dumps(fresh)
        before = old and (group_of(old), old.deadline)
        if before != (group_of(fresh), fresh.deadline):
            if old is not None:
                self._members(old).discard(_entry_of(old.deadline, key))
            self._members(fresh).add(_entry_of(fresh.deadline, key))
        self._place(key, fresh, self._places.get(key, b"")[_NUMBER:])
        self._done += 1

    def remove(self, *keys: str) -> list[tuple[str, Record]]:
        """See :meth:`.tables.Tables.remove`."""
        found = ((key, self._remove(key)) for key in keys)
        return [(key, record) for key, record in found if record is not None]

    def _remove(self, key: str) -> Record | None:
        raw = self.records.get(key)
        if raw is None:
            found = next((records for records in self._aside if key in records), None)
            return None if found is None else loads(found.pop(key))
        record = loads(raw)
        self._begun += 1
        del self.records[key]
        self._members(record).discard(_entry_of(record.deadline, key))
        self._displace(key)
        self._done += 1
        return record

    def take_over(self, now: int, limit: int) -> list[tuple[Removed, str]]:
        """See :meth:`.tables.Tables.take_over`."""
        over = [*islice(self._take_aside(), limit)]
        for members in self.groups.values():
            over += self._take_due(members, min(limit - len(over), _count_due(members, now)))
        return over

    def heads(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """See :meth:`.tables.Tables.heads`."""
        found = ((key, self.records.get(key)) for key in keys)
        return [(key, raw[:LISTED]) for key, raw in found if raw is not None]

    # -- their index ----------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """See :meth:`.tables.Tables.counts`."""
        return {group: len(members) for group, members in self.groups.items()}

    def count_due(self, group: str, now: int) -> int:
        """See :meth:`.tables.Tables.count_due`."""
        return _count_due(self.groups[group], now) if group in self.groups else 0

    def nearest(self, group: str, limit: int, after: Entry | None = None) -> Iterator[Entry]:
        """See :meth:`.tables.Tables.nearest`."""
        members = self.groups.get(group, ())
        entries = iter(members)
        if after is not None and members:
            entries = members.irange(_entry_of(*after[:2]), inclusive=(False, True))
        return map(_split, islice(entries, limit))

    def latest(self, group: str, now: int, limit: int, before: Entry | None) -> list[Entry]:
        """See :meth:`.tables.Tables.latest`."""
        if group not in self.groups:
            return []
        first, last = b"%011x~" % now, before and _entry_of(*before[:2])
        entries = self.groups[group].irange(first, last, inclusive=(True, False), reverse=True)
        return [_split(entry) for entry in islice(entries, limit)]

    def of_user(self, user: str, tier: str = "", limit: int = -1) -> list[tuple[str, bytes]]:
        """See :meth:`.tables.Tables.of_user`."""
        tiers = [tier] if tier else [group for group in self.groups if group != ANONYMOUS_TIER]
        ranges = (self._range(user + name) for name in tiers)
        entries = merge(*ranges, key=lambda entry: entry[_ORDER:])
        keys = (entry[-KEY_LENGTH:].decode("ascii") for entry in entries)
        return self.heads(keys if limit < 0 else islice(keys, limit))

    def count_of(self, user: str, tier: str = "") -> int:
        """See :meth:`.tables.Tables.count_of`. Costs two searches."""
        first = f"{user}{tier}".encode("ascii")
        return self.users.bisect_right(first + b"~") - self.users.bisect_left(first)

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        """See :meth:`.tables.Tables.belongs`."""
        return self._places.get(key, b"").startswith(f"{user}{tier}".encode("ascii"))

    def repair(self) -> int:
        """See :meth:`.tables.Tables.repair`."""
        with self.lock:
            self._recover()
            indexed = sum(map(len, self.groups.values()))
            users = indexed - len(self.groups[ANONYMOUS_TIER])
            differ = abs(indexed - len(self.records)) + abs(users - len(self.users))
            if differ:
                self.reindex()
            differ, self._recovered = differ + self._recovered, 0
            return differ

    def reindex(self) -> None:
        """Build the index from the records."""
        before, self._places = self._places, {}
        self.groups: dict[str, Members] = {ANONYMOUS_TIER: SortedList()}
        # One entry for each session; a user's sessions of a tier are a range in the order of
        # eviction.
        self.users: SortedList[bytes] = SortedList()
        for key, raw in self.records.items():
            record = loads(raw[:LISTED])
            self._members(record).add(_entry_of(record.deadline, key))
            self._place(key, record, before.get(key, b"")[_NUMBER:])
        self._done = self._begun

    # -- tombstones, reasons and documents ------------------------------------------------------

    def ending(self, kind: str, key: str, now: int) -> Ending | None:
        """See :meth:`.tables.Tables.ending`."""
        return self._endings[kind].get(key, now)

    def put_ending(self, kind: str, key: str, owner: str, ending: Ending, until: int) -> None:
        """See :meth:`.tables.Tables.put_ending`."""
        self._endings[kind].put(key, owner, ending, until)

    def trim_endings(self, kind: str, most: int, owner: str = NO_USER) -> None:
        """See :meth:`.tables.Tables.trim_endings`."""
        self._endings[kind].trim(most, owner)

    def forget_endings(self, kind: str, now: int) -> None:
        """See :meth:`.tables.Tables.forget_endings`."""
        self._endings[kind].forget(now)

    def count_endings(self, kind: str, *, exact: bool = True) -> int:
        """See :meth:`.tables.Tables.count_endings`."""
        del exact
        return len(self._endings[kind])

    def document(self, name: str) -> tuple[bytes, int]:
        """See :meth:`.tables.Tables.document`."""
        return self._documents.get(name, (b"", 0))

    def put_document(self, name: str, document: bytes, time: int) -> None:
        """See :meth:`.tables.Tables.put_document`."""
        self._documents[name] = (document, time)

    def emptied(self) -> MemoryTables:
        """Returns tables without sessions, with the same clock and documents."""
        made = MemoryTables(self.clock)
        made._documents = self._documents
        return made

    # -- help -----------------------------------------------------------------------------------

    def _recover(self) -> None:
        if self._begun != self._done:
            self._recovered += 1
            self.reindex()

    def _take_aside(self) -> Iterator[tuple[Removed, str]]:
        while self._aside:
            records = self._aside[0]
            while records:
                key, raw = records.popitem()
                tier, user, _, _ = peek_fields(raw)
                yield Removed(key, tier.decode("ascii"), Reason.REVOKED), user.decode("ascii")
            del self._aside[0]

    def _take_due(self, members: Members, count: int) -> Iterator[tuple[Removed, str]]:
        for _ in range(count):
            self._begun += 1
            entry = members.pop(0)
            key = entry[11:].decode("ascii")
            raw = self.records.pop(key, None)
            self._displace(key)
            self._done += 1
            if raw is not None:
                tier, user, _, absolute = peek_fields(raw)
                reason = Reason.LIFETIME if absolute == entry[:11] else Reason.IDLE
                yield Removed(key, tier.decode("ascii"), reason), user.decode("ascii")

    def _members(self, record: Record) -> Members:
        return self.groups.setdefault(group_of(record), SortedList())

    def _range(self, prefix: str) -> Iterator[bytes]:
        first = prefix.encode("ascii")
        return self.users.irange(first, first + b"~")

    def _place(self, key: str, record: Record, number: bytes) -> None:
        """Update the session's entry in the index of users.

        :param number: the end of its previous entry; empty: it had none.
        """
        place = _place_of(record)
        if self._places.get(key, b"")[:_NUMBER] == place:
            return
        self._displace(key)
        if place:
            if not number:
                # Orders the sessions that were created in the same millisecond.
                self._count += 1
                number = f"{self._count:011x}{key}".encode("ascii")
            self._places[key] = place + number
            self.users.add(place + number)

    def _displace(self, key: str) -> None:
        if (entry := self._places.pop(key, None)) is not None:
            self.users.discard(entry)


class _Endings:
    """The endings of one kind, oldest first."""

    def __init__(self) -> None:
        # Tuples of plain values, which the garbage collector does not track; it would a reason.
        self._rows: OrderedDict[str, tuple[Any, ...]] = OrderedDict()
        self._keys_of: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: str, owner: str, ending: Ending, until: int) -> None:
        self._remove(key)
        self._rows[key] = (until, owner, str(ending.reason), *ending[1:])
        if owner != NO_USER:
            self._keys_of.setdefault(owner, {})[key] = None

    def get(self, key: str, now: int) -> Ending | None:
        until, _, *ending = self._rows.get(key, (0, ""))
        return Ending(*ending) if until > now else None

    def trim(self, most: int, owner: str) -> None:
        kept = self._keys_of.get(owner, {}) if owner else self._rows
        while len(kept) > most:
            self._remove(next(iter(kept)), owner)

    def forget(self, now: int) -> None:
        while self._rows and next(iter(self._rows.values()))[0] <= now:
            self._remove(next(iter(self._rows)))

    def _remove(self, key: str, owner: str = NO_USER) -> None:
        found = self._rows.pop(key, (0, owner))[1]
        keys = self._keys_of.get(found, {})
        keys.pop(key, None)
        if not keys:
            self._keys_of.pop(found, None)


def _entry_of(deadline: int, key: str) -> bytes:
    """Returns the entry of a session, which sorts as the pair of deadline and key."""
    return b"%011x" % deadline + key.encode("ascii")


def _split(entry: bytes) -> Entry:
    """Returns the deadline and the key in an entry."""
    return Entry(int(entry[:11], 16), entry[11:].decode("ascii"))


def _count_due(members: Members, now: int) -> int:
    return members.bisect_right(b"%011x~" % now)


def _place_of(record: Record) -> bytes:
    """Returns the beginning of a session's entry in the index of users; empty: it is anonymous."""
    if record.user == NO_USER:
        return b""
    used, at = record.place
    return f"{record.user}{record.tier}{used:d}{at:011x}".encode("ascii")
