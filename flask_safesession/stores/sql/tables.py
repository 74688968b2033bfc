"""Rows of a SQL database as the engine's tables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from ...model.policy import ANONYMOUS_TIER
from ...model.reason import Reason
from ...model.record import GENERATIONS, Record, dumps, loads
from ...model.tokens import NO_USER
from ..base import LISTED, Removed
from ..tables import Ending, Entry
from .statements import statements

# Used since it was made; 2 to this power is over every time in milliseconds.
_USED = 1 << 52
_GROUPS, _ENDINGS = "group", "endings"


class Connections(Protocol):
    """The connections to a database, and its transactions."""

    def transaction(self, *, writes: bool, durable: bool) -> AbstractContextManager[object]:
        """Returns a ``with`` block: see :meth:`..tables.Tables.transaction`."""
        ...

    def execute(self, statement: str, parameters: Any = ()) -> Any:
        """Run one statement in the transaction of this thread; returns its cursor."""
        ...


class SqlTables:
    """See :class:`..tables.Tables`. The counts are rows, since counting would be a walk.

    :param connections: to the database.
    :param prefix: what the names of the tables begin with.
    :param clock: returns the time in milliseconds.
    """

    def __init__(self, connections: Connections, prefix: str, clock: Callable[[], int]) -> None:
        self.now: Callable[[], int] = clock
        self._connections = connections
        self._execute = connections.execute
        self._sql = statements(prefix)
        self._seen = threading.local()  # of the transaction of a thread

    def transaction(
        self, *, writes: bool = True, durable: bool = False
    ) -> AbstractContextManager[object]:
        """See :meth:`..tables.Tables.transaction`."""
        self._seen.generation = None
        return self._connections.transaction(writes=writes, durable=durable)

    def generation(self) -> int:
        """See :meth:`..tables.Tables.generation`."""
        found: int | None = self._seen.generation
        if found is None:
            found = self._seen.generation = self._one("generation")[0]
        return found

    def begin_generation(self, stamp: str) -> None:
        """See :meth:`..tables.Tables.begin_generation`."""
        if self._one("ended_by")[0] != stamp:
            number = (self.generation() + 1) % GENERATIONS
            self._run("begin_generation", number, stamp)
            self._run("uncount", _GROUPS)
            self._seen.generation = number

    # -- sessions -------------------------------------------------------------------------------

    def read(self, key: str) -> Record | None:
        """See :meth:`..tables.Tables.read`."""
        row = self._one("load", key)
        if row is None:
            return None
        raw, self._seen.generation = row
        return loads(raw)

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """See :meth:`..tables.Tables.put`. The indexes change only where they have to."""
        columns = _columns(fresh)
        if old is None:
            self._run("insert", *columns, dumps(fresh), key)
            self._count(_GROUPS, columns[1], 1)
            return
        before = _columns(old)
        if before == columns:
            self._run("replace", dumps(fresh), key)
            return
        self._run("move", *columns, dumps(fresh), key)
        if before[1] != columns[1]:
            self._count(_GROUPS, before[1], -1)
            self._count(_GROUPS, columns[1], 1)

    def replacement(self, key: str, fresh: Record, old: Record) -> tuple[str, tuple[Any, ...]]:
        """Returns the statement, and its parameters, that replaces *old* by *fresh* of one group.

        It changes no row if *old* is not what is stored now, or is of an older generation.
        """
        columns, same = _columns(fresh), (key, dumps(old))
        if columns == _columns(old):
            return self._sql["replace_same"], (dumps(fresh), *same)
        return self._sql["move_same"], (*columns, dumps(fresh), *same)

    def remove(self, key: str) -> Record | None:
        """See :meth:`..tables.Tables.remove`."""
        for raw, generation, group in self._all("remove", key):
            if generation == self.generation():
                self._count(_GROUPS, group, -1)
            with suppress(ValueError):  # it is no record
                return loads(raw)
        return None

    def take_over(self, now: int, limit: int) -> list[tuple[Removed, str]]:
        """See :meth:`..tables.Tables.take_over`."""
        generation = self.generation()
        taken: list[tuple[Removed, str]] = []
        for statement in ("take_older", "take_newer"):
            rows = self._all(statement, generation, limit - len(taken))
            taken += [_taken(key, raw, Reason.REVOKED) for key, raw in rows]
        for group in self.counts():
            rows = self._in_group("take_due", group, now=now, limit=limit - len(taken))
            taken += [_taken(key, raw, None) for key, raw in rows]
            if rows:
                self._count(_GROUPS, _column_of(group), -len(rows))
        return taken

    def heads(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """See :meth:`..tables.Tables.heads`."""
        return [row for key in keys for row in self._all("head", LISTED, key)]

    # -- their index ----------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """See :meth:`..tables.Tables.counts`."""
        return {name or ANONYMOUS_TIER: held for name, held in self._all("counts", _GROUPS)}

    def count_due(self, group: str, now: int) -> int:
        """See :meth:`..tables.Tables.count_due`."""
        [(count,)] = self._in_group("count_due", group, now=now)
        return int(count)

    def nearest(self, group: str, limit: int, after: Entry | None = None) -> list[Entry]:
        """See :meth:`..tables.Tables.nearest`."""
        if after is None:
            rows = self._in_group("nearest", group, limit=limit)
        else:
            rows = self._in_group("nearest_after", group, limit=limit, **after._asdict())
        return [Entry(*row) for row in rows]

    def latest(self, group: str, now: int, limit: int, before: Entry | None) -> list[Entry]:
        """See :meth:`..tables.Tables.latest`."""
        if before is None:
            rows = self._in_group("latest", group, now=now, limit=limit)
        else:
            place = before._asdict()
            rows = self._in_group("latest_before", group, now=now, limit=limit, **place)
        return [Entry(*row) for row in rows]

    def of_user(self, user: str, tier: str = "", limit: int = -1) -> list[tuple[str, bytes]]:
        """See :meth:`..tables.Tables.of_user`."""
        if tier:
            return self._all("of_user_tier", LISTED, user, self.generation(), tier, limit)
        return self._all("of_user", LISTED, user, self.generation(), limit)

    def count_of(self, user: str, tier: str = "") -> int:
        """See :meth:`..tables.Tables.count_of`."""
        found: int = self._owned("count_of", user, tier)
        return found

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        """See :meth:`..tables.Tables.belongs`."""
        return bool(self._owned("belongs", user, tier, key))

    def repair(self) -> int:
        """See :meth:`..tables.Tables.repair`: counts the rows. The database keeps its indexes."""
        with self.transaction(writes=False):
            differ = self._differing()
        if differ:
            with self.transaction():
                for what, name, difference in self._differing():
                    self._count(what, name, difference)
        return len(differ)

    # -- what is kept of sessions that are over, and documents ----------------------------------

    def ending(self, kind: str, key: str, now: int) -> Ending | None:
        """See :meth:`..tables.Tables.ending`."""
        row = self._one("ending", key, kind, now)
        if row is None:
            return None
        reason, stamp, successor, user, sign_in = row
        return Ending(reason, stamp, successor, user, bool(sign_in))

    def put_ending(self, kind: str, key: str, owner: str, ending: Ending, until: int) -> None:
        """See :meth:`..tables.Tables.put_ending`."""
        dropped = self._run("drop_ending", key, kind)
        self._run("put_ending", key, kind, owner, until, *ending)
        self._count(_ENDINGS, kind, 1 - dropped)

    def count_endings(self, kind: str, owner: str = NO_USER) -> int:
        """See :meth:`..tables.Tables.count_endings`."""
        if owner != NO_USER:
            row = self._one("count_endings_of", kind, owner)
        else:
            row = self._one("count", _ENDINGS, kind)
        return row[0] if row else 0

    def drop_oldest_ending(self, kind: str, owner: str = NO_USER) -> None:
        """See :meth:`..tables.Tables.drop_oldest_ending`."""
        if owner != NO_USER:
            self._count(_ENDINGS, kind, -self._run("drop_oldest_of", kind, owner))
        else:
            self._count(_ENDINGS, kind, -self._run("drop_oldest", kind))

    def forget_endings(self, kind: str, now: int) -> None:
        """See :meth:`..tables.Tables.forget_endings`."""
        self._count(_ENDINGS, kind, -self._run("forget", kind, now))

    def document(self, name: str) -> tuple[bytes, int]:
        """See :meth:`..tables.Tables.document`."""
        return self._one("document", name) or (b"", 0)

    def put_document(self, name: str, document: bytes, time: int) -> None:
        """See :meth:`..tables.Tables.put_document`."""
        self._run("put_document", name, document, time)

    # -- help -----------------------------------------------------------------------------------

    def _all(self, name: str, *parameters: Any) -> list[Any]:
        rows: list[Any] = self._execute(self._sql[name], parameters).fetchall()
        return rows

    def _one(self, name: str, *parameters: Any) -> Any:
        return self._execute(self._sql[name], parameters).fetchone()

    def _run(self, name: str, *parameters: Any) -> int:
        """Returns how many rows were changed."""
        changed: int = self._execute(self._sql[name], parameters).rowcount
        return changed

    def _in_group(self, name: str, group: str, **parameters: Any) -> list[Any]:
        given = {"generation": self.generation(), "group": _column_of(group), **parameters}
        rows: list[Any] = self._execute(self._sql[name], given).fetchall()
        return rows

    def _owned(self, name: str, user: str, tier: str, *key: str) -> Any:
        if tier:
            return self._one(f"{name}_tier", user, self.generation(), tier, *key)[0]
        return self._one(name, user, self.generation(), *key)[0]

    def _count(self, what: str, name: str, difference: int) -> None:
        if difference:
            self._run("add", what, name, difference)

    def _differing(self) -> list[tuple[str, str, int]]:
        """Counts that are not what the rows say, each with the difference."""
        groups = self._all("recount_groups", self.generation())
        differ: list[tuple[str, str, int]] = []
        for what, rows in ((_GROUPS, groups), (_ENDINGS, self._all("recount_endings"))):
            right, stored = dict(rows), dict(self._all("counts", what))
            differ += [
                (what, name, difference)
                for name in {*right, *stored}
                if (difference := right.get(name, 0) - stored.get(name, 0))
            ]
        return differ


def _columns(record: Record) -> tuple[int, str, int, str | None, int | None]:
    """Returns what the indexes know of a record."""
    if record.user == NO_USER:
        return record.generation, "", record.deadline, None, None
    used, at = record.place
    return record.generation, record.tier, record.deadline, record.user, _USED * used + at


def _column_of(group: str) -> str:
    return "" if group == ANONYMOUS_TIER else group


def _taken(key: str, raw: bytes, reason: str | None) -> tuple[Removed, str]:
    """Returns what was removed, and whose it was."""
    try:
        record = loads(raw)
    except ValueError:
        return Removed(key, "", reason or Reason.CORRUPT), NO_USER
    return Removed(key, record.tier, reason or record.end_reason), record.user
