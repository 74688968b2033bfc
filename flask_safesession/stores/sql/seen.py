"""What a transaction on rows has read, and what it will probably read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..admission import SWEEP
from ..tables import ALL_KINDS, Scope
from .connections import Call, Connections, Place
from .schema import PARTS
from .statements import Statements

#: As a limit: more than any user has.
ALL = 1 << 30


class Seen:
    """What one transaction has read: each row once, those of its scope at once.

    :param place: what it locks.
    :param writes: it may write, so records are locked as they are read.
    """

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        scope: Scope,
        place: Place,
        *,
        writes: bool,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._scope = scope
        self._writes = writes
        self.place: Place = place
        #: The kinds of endings of which it has to remove the expired ones.
        self.untidy: set[str] = set(ALL_KINDS) if scope.task == "purge" else set()
        #: The keys of which everything is read at once.
        self.keys: tuple[str, ...] = tuple(sorted(set(scope.keys)))
        #: Record, generation and group; ``None``: there is no such session.
        self.records: dict[str, tuple[bytes, int, str] | None] = {}
        #: Of each ending: the kind, when it expires, and itself.
        self.endings: dict[str, list[Any]] = {}
        #: Of each group, how many sessions more or fewer it has by now.
        self.counted: Counter[str] = Counter()
        self._meta: tuple[int, str, int] | None = None

    def ahead(self, groups: Iterable[str]) -> Iterator[Call]:
        """Returns what the engine will probably read: records first, since it may wait for them.

        :param groups: those that are known.
        """
        scope, statements = self._scope, self._statements
        for name in ("records", "endings") if scope.keys else ():
            yield self._for_keys(name, self.keys)
        if self._counts_all and (scope.cap or scope.task == "purge"):
            yield statements["held"], ()
        if scope.cap and scope.user and not scope.cap.per_tier:
            yield statements["count_of"], (scope.user,)
        elif scope.user and not scope.cap:
            yield statements["of_user"], (scope.user, ALL)
        if scope.cap and self.place.whole:
            for group in groups:
                yield statements["nearest"], (group, SWEEP)
        if scope.task == "purge":
            yield from self._ahead_of_purge(groups)
        if scope.document:
            yield statements["document"], (scope.document,)
        yield statements["meta"], ()

    def _ahead_of_purge(self, groups: Iterable[str]) -> Iterator[Call]:
        statements, limit = self._statements, self._scope.limit
        yield statements["older"], (limit,)
        yield statements["newer"], (limit,)
        for group in groups:
            yield statements["due"], (group, group, limit)
        for kind in ALL_KINDS:
            yield statements["expired"], (kind, kind)

    def meta(self) -> tuple[int, str, int]:
        """Returns the generation, the stamp that began it, and the time."""
        if (meta := self._meta) is None:
            meta = self._meta = self._connections.read(self._statements["meta"])[0]
            self._connections.note(meta[0], meta[2])
        return meta

    def forget_meta(self) -> None:
        """Read the generation anew, since another one has begun."""
        self._meta = None

    def record(self, key: str) -> tuple[bytes, int, str] | None:
        """Returns what :attr:`records` has of a key."""
        if key not in self.records:
            statement, keys = self.query("records", key)
            self._connections.need(keys)
            self.records.update(dict.fromkeys(keys))
            rows = self._connections.read(statement, keys)
            self.records.update((row[0], row[1:]) for row in rows)
        return self.records[key]

    def endings_of(self, key: str) -> list[Any]:
        """Returns what :attr:`endings` has of a key."""
        if key not in self.endings:
            statement, keys = self.query("endings", key)
            self._connections.need(keys)
            rows = self._connections.read(statement, keys)
            self.endings |= {one: [row[1:] for row in rows if row[0] == one] for one in keys}
        return self.endings[key]

    def seats(self) -> list[Any]:
        """Returns the rows that count: that of its part, or all if it may change all sessions."""
        if self._counts_all:
            return self._connections.read(self._statements["held"])
        return [row for row in self._connections.seats() if row[0] == self.place.part]

    @property
    def _counts_all(self) -> bool:
        return self.place.whole or self.place.part >= PARTS

    def read_at_once(self, keys: Iterable[str]) -> None:
        """Take *keys* for those that the engine reads next, if it may change every session."""
        if self._scope.task == "all":
            self.keys = tuple(sorted(keys))

    def query(self, name: str, key: str) -> Call:
        """Returns the query for a key; for one of :attr:`keys`, for all of them."""
        return self._for_keys(name, self.keys if key in self.keys else (key,))

    def _for_keys(self, name: str, keys: tuple[str, ...]) -> Call:
        return self._statements.for_keys(name, len(keys), lock=self._writes), keys


def held_by_group(row: Sequence[Any]) -> dict[str, int]:
    """Returns how many sessions of each group a row of ``seats`` counts, from its first columns."""
    held: int = row[1]
    users: dict[str, int] = json.loads(row[2]) if row[2] else {}
    return {"": held - sum(users.values()), **users}
