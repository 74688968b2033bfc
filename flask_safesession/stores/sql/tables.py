"""Rows of a SQL database as the engine's tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import count, islice
from typing import Any

from ...model.policy import ANONYMOUS_TIER
from ...model.reason import Reason
from ...model.record import GENERATIONS, Record, dumps, loads
from ...model.tokens import NO_USER
from ..admission import SWEEP
from ..base import Cap, Removed
from ..direct import ABOUT
from ..tables import Ending, Entry, Scope, place_of, taken
from .connections import Call, Connections, Place
from .seen import ALL, Seen, held_by_group
from .statements import HEAD, Statements

# Of a kind, expired endings and those over the limit are removed at each so-manieth end.
_TIDY_EVERY = 100
# Sessions that one statement removes, if there are as many.
_MANY = 50
# Owners whose endings are counted.
_COUNTED = 1000


# Of one thread or greenlet. Not a threading.local, which greenlets share if gevent patches late.
_current: ContextVar[Seen] = ContextVar("seen")


class SqlTables:
    """See :class:`..tables.Tables`. The counts are rows, since counting would be a walk.

    :param connections: to the database.
    :param statements: in its dialect.
    :param trim_every: each so-manieth ending of an owner trims the owner's, since this costs a
        round trip.
    """

    def __init__(
        self, connections: Connections, statements: Statements, *, trim_every: int = 1
    ) -> None:
        self._connections = connections
        self.statements: Statements = statements
        self._endings = count(1)
        self._counted: dict[str, int] = {}
        self._trim_every = trim_every
        self._kept = Counter[tuple[str, str]]()  # since the last trim: of a kind and an owner
        self._groups = {""}  # those that are known to this process, to read ahead

    @contextmanager
    def transaction(
        self, scope: Scope, *, writes: bool = True, durable: bool = False
    ) -> Iterator[None]:
        """See :meth:`..tables.Tables.transaction`."""
        place = self._connections.place(scope) if writes else Place()
        seen = Seen(self._connections, self.statements, scope, place, writes=writes)
        _current.set(seen)
        ahead = list(seen.ahead(self._groups))
        with self._connections.transaction(place, ahead, writes=writes, durable=durable):
            yield
            self._store_counts()

    @property
    def _seen(self) -> Seen:
        return _current.get()

    def now(self) -> int:
        """See :meth:`..tables.Tables.now`."""
        now: int = self._seen.meta()[2]
        return now

    def share(self, cap: Cap) -> Cap:
        """See :meth:`..tables.Tables.share`."""
        return self._connections.share(cap)

    def generation(self) -> int:
        """See :meth:`..tables.Tables.generation`."""
        generation: int = self._seen.meta()[0]
        return generation

    def begin_generation(self, stamp: str) -> None:
        """See :meth:`..tables.Tables.begin_generation`."""
        number, ended_by, _ = self._seen.meta()
        if ended_by != stamp:
            self._seen.forget_meta()
            self._write("begin_generation", (number + 1) % GENERATIONS, stamp)
            self._write("uncount")

    # -- sessions -------------------------------------------------------------------------------

    def read(self, key: str) -> Record | None:
        """See :meth:`..tables.Tables.read`."""
        found = self._seen.record(key)
        return None if found is None else loads(found[0])

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """See :meth:`..tables.Tables.put`. The indexes change only where they have to."""
        columns, raw = _columns(fresh), dumps(fresh)
        self._seen.records[key] = raw, columns[0], columns[1]
        if old is None:
            self._write("insert", *columns, raw, key)
            self._count(columns[1], 1)
            return
        before = _columns(old)
        if before == columns:
            self._write("replace", raw, key)
            return
        self._write("move", *columns, raw, key)
        if before[1] != columns[1]:
            self._count(before[1], -1)
            self._count(columns[1], 1)

    def replacement(self, key: str, fresh: Record, old: Record, now: int) -> Call:
        """Returns the statement that replaces *old* by *fresh* of the same group.

        It changes no row if *old* is not what is stored, is over, or is of an older generation; or
        if the time is not about *now*.
        """
        columns, raw = _columns(fresh), dumps(fresh)
        same = (key, dumps(old)[:HEAD], now - ABOUT, now + ABOUT)
        if columns == _columns(old):
            return self.statements["replace_same"], (raw, *same)
        return self.statements["move_same"], (*columns, raw, *same)

    def insertion(self, key: str, fresh: Record, cap: Cap, part: int, now: int) -> list[Call]:
        """Returns the statements that store a new anonymous session in a part that is locked.

        They change nothing if the part's quota has no room, if *key* was ever used, if *fresh* is
        not of the current generation, or if the time is not about *now*.
        """
        quota, time = (part, cap.total, cap.users), (now - ABOUT, now + ABOUT)
        row = (*_columns(fresh), dumps(fresh), key)
        values = iter((*row, fresh.generation, *quota, *time, key, key, part))
        return [(text, tuple(islice(values, n))) for text, n in self.statements.insertion]

    def remove(self, *keys: str) -> list[tuple[str, Record]]:
        """See :meth:`..tables.Tables.remove`."""
        unseen = sorted(key for key in keys if key not in self._seen.records)
        self._connections.need(unseen)
        self._connections.fetch([self._seen.query("records", key) for key in unseen])
        there = [(key, found) for key in keys if (found := self._seen.record(key))]
        removed = []
        for key, (raw, generation, group) in there:
            self._seen.records[key] = None
            if generation == self.generation():
                self._count(group, -1)
            with suppress(ValueError):  # it is not a record
                removed.append((key, loads(raw)))
        self._delete([key for key, _ in there])
        return removed

    def take_over(self, now: int, limit: int) -> list[tuple[Removed, str]]:
        """See :meth:`..tables.Tables.take_over`."""
        del now  # the statements use the database's time
        over: list[tuple[Removed, str]] = []
        for statement in ("older", "newer"):
            left = limit - len(over)
            rows = self._rows(statement, left)
            over += [taken(key, raw, Reason.REVOKED) for key, raw in rows]
        for group in self.counts():
            column, left = _column_of(group), limit - len(over)
            rows = self._rows("due", column, column, left)
            over += [taken(key, raw, None) for key, raw in rows]
            if rows:
                self._count(column, -len(rows))
        self._delete([removed.key for removed, _ in over])
        return over

    def heads(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """See :meth:`..tables.Tables.heads`."""
        keys = list(keys)
        self._connections.fetch([(self.statements["head"], (key,)) for key in keys])
        return [row for key in keys for row in self._rows("head", key)]

    # -- their index ----------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """See :meth:`..tables.Tables.counts`."""
        held = Counter(self._seen.counted)
        for row in self._seen.seats():
            held.update(held_by_group(row))
        self._groups |= held.keys()
        return {group or ANONYMOUS_TIER: number for group, number in held.items() if number}

    def count_due(self, group: str, now: int) -> int:
        """See :meth:`..tables.Tables.count_due`."""
        found: int = self._rows("count_due", _column_of(group), now)[0][0]
        return found

    def nearest(self, group: str, limit: int, after: Entry | None = None) -> list[Entry]:
        """See :meth:`..tables.Tables.nearest`."""
        if after is None:
            # A few are read ahead.
            rows = self._rows("nearest", _column_of(group), max(limit, SWEEP))[:limit]
        else:
            time, _, number = after
            rows = self._rows("nearest_after", _column_of(group), time, time, number, limit)
        found = [Entry(*row) for row in rows]
        self._seen.read_at_once(entry.key for entry in found)
        return found

    def latest(self, group: str, now: int, limit: int, before: Entry | None) -> list[Entry]:
        """See :meth:`..tables.Tables.latest`."""
        if before is None:
            rows = self._rows("latest", _column_of(group), now, limit)
        else:
            time, _, number = before
            rows = self._rows("latest_before", _column_of(group), now, time, time, number, limit)
        return [Entry(*row) for row in rows]

    def of_user(self, user: str, tier: str = "", limit: int = ALL) -> list[tuple[str, bytes]]:
        """See :meth:`..tables.Tables.of_user`."""
        limit = limit if limit >= 0 else ALL
        if tier:
            return self._rows("of_user_tier", user, tier, limit)
        return self._rows("of_user", user, limit)

    def count_of(self, user: str, tier: str = "") -> int:
        """See :meth:`..tables.Tables.count_of`."""
        return self._owned("count_of", user, tier)

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        """See :meth:`..tables.Tables.belongs`."""
        return bool(self._owned("belongs", user, tier, key))

    def repair(self) -> int:
        """See :meth:`..tables.Tables.repair`: counts the rows. The database keeps its indexes."""
        with self.transaction(Scope(), writes=False):
            differ = self._differences()
        if differ:
            with self.transaction(Scope(task="all")):
                self._seen.counted.update(self._differences())
                self._write("undeal")  # the quotas were made of wrong counts
        return len(differ)

    def _differences(self) -> dict[str, int]:
        """Returns, by group, how many more rows there are than are counted."""
        found = Counter[str]()
        for group, number, tiers in self._rows("compare"):
            if group is None:
                found.subtract(held_by_group((None, number, tiers)))
            else:
                found[group] += number
        return {group: number for group, number in found.items() if number}

    # -- what is kept of sessions that are over, and documents ----------------------------------

    def ending(self, kind: str, key: str, now: int) -> Ending | None:
        """See :meth:`..tables.Tables.ending`."""
        for found, expires, ending in self._seen.endings_of(key):
            if found == kind and expires > now:
                return Ending(*json.loads(ending))
        return None

    def put_ending(self, kind: str, key: str, owner: str, ending: Ending, until: int) -> None:
        """See :meth:`..tables.Tables.put_ending`."""
        self._seen.endings.pop(key, None)
        self._write("put_ending", key, kind, owner, until, json.dumps(ending).encode())

    def trim_endings(self, kind: str, most: int, owner: str = NO_USER) -> None:
        """See :meth:`..tables.Tables.trim_endings`."""
        if owner == NO_USER:
            if self._is_time(_TIDY_EVERY):
                self._drop("surplus", kind, most, kind)
        elif self._has_kept_many(kind, owner):
            self._drop("surplus_of", kind, owner, most - self._trim_every + 1, kind)

    def forget_endings(self, kind: str, now: int) -> None:
        """See :meth:`..tables.Tables.forget_endings`."""
        del now  # the statement uses the database's time
        if kind in self._seen.untidy or self._is_time(_TIDY_EVERY):
            self._seen.untidy.discard(kind)
            self._drop("expired", kind, kind)

    def count_endings(self, kind: str, *, exact: bool = True) -> int:
        """See :meth:`..tables.Tables.count_endings`. Counting walks, so it is done rarely."""
        if exact or kind not in self._counted or self._is_time(_TIDY_EVERY):
            self._counted[kind] = self._rows("count_endings", kind)[0][0]
        return self._counted[kind]

    def document(self, name: str) -> tuple[bytes, int]:
        """See :meth:`..tables.Tables.document`."""
        rows = self._rows("document", name)
        return rows[0] if rows else (b"", 0)

    def put_document(self, name: str, document: bytes, time: int) -> None:
        """See :meth:`..tables.Tables.put_document`."""
        self._write("put_document", name, document, time)

    # -- help -----------------------------------------------------------------------------------

    def _rows(self, name: str, *parameters: Any) -> list[Any]:
        return self._connections.read(self.statements[name], parameters)

    def _write(self, name: str, *parameters: Any) -> None:
        self._connections.write(self.statements[name], parameters)

    def _delete(self, keys: list[str]) -> None:
        at = 0
        while at < len(keys):
            number = _MANY if len(keys) - at >= _MANY else 1  # two statements to prepare
            some = tuple(keys[at : at + number])
            self._connections.write(self.statements.for_keys("remove", number), some)
            at += number

    def _owned(self, name: str, user: str, tier: str, *key: str) -> int:
        if tier:
            name, key = f"{name}_tier", (tier, *key)
        found: int = self._rows(name, user, *key)[0][0]
        return found

    def _count(self, column: str, difference: int) -> None:
        self._seen.counted[column] += difference

    def _store_counts(self) -> None:
        """Add what the transaction has counted to the row of its part; see :mod:`.schema`."""
        changes, part = self._seen.counted, self._seen.place.part
        if not any(changes.values()):
            return
        [row] = [row for row in self._connections.seats() if row[0] == part]
        held = Counter(held_by_group(row))
        held.update(changes)
        users = {group: number for group, number in held.items() if group and number}
        tiers = json.dumps(users).encode() if users else None
        self._write("count", held.total(), tiers, part)

    def _drop(self, name: str, *parameters: Any) -> None:
        """Remove the endings that a query returns."""
        for row in self._rows(name, *parameters):
            self._write("drop", *row)

    def _has_kept_many(self, kind: str, owner: str) -> bool:
        if len(self._kept) > _COUNTED:
            self._kept.clear()
        self._kept[kind, owner] += 1
        if self._kept[kind, owner] < self._trim_every:
            return False
        del self._kept[kind, owner]
        return True

    def _is_time(self, every: int) -> bool:
        return next(self._endings) % every == 0


def _columns(record: Record) -> tuple[int, str, int, str | None, int | None]:
    """Returns what the indexes know of a record."""
    if record.user == NO_USER:
        return record.generation, "", record.deadline, None, None
    return record.generation, record.tier, record.deadline, record.user, place_of(record)


def _column_of(group: str) -> str:
    return "" if group == ANONYMOUS_TIER else group
