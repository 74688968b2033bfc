"""What stores on databases do without the engine: the one statement of most loads and commits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ..model.reason import Reason
from ..model.record import Draft, Record, loads, touched
from .base import Answer, Gone, Live, PurgeStep, Rules
from .engine import Engine
from .rules import is_filed, successor, used
from .tables import Scope, Tables
from .tombstones import absent

#: Milliseconds by which a guessed time may differ from the database's.
ABOUT = 1000
# The pause after a step of a purge, as a multiple of its time: writers wait for each other, and the
# purge is not to be the one that they wait for.
_PAUSE = 4


class Rows(Tables, Protocol):
    """A backend that has a conditional write."""

    def replacement(self, key: str, fresh: Record, old: Record, now: int) -> Any:
        """Returns the statement that replaces *old* by *fresh* of the same group.

        It changes nothing if *old* is not what is stored, is over, or is of an older generation; or
        if the time is not about *now*.
        """
        ...


class Single(Protocol):
    """Connections that run one statement, which is a transaction of its own."""

    def look_up(self, key: str) -> tuple[bytes, int, int] | None:
        """Returns the record under *key*, the current generation and the time, by one query."""
        ...

    def change(self, call: Any) -> bool:
        """Run a statement. Returns whether it changed a row."""
        ...

    def guess(self) -> int | None:
        """Returns about the database's time, not after it; ``None``: it is not known yet."""
        ...


class DirectStore(Engine):
    """The engine, with short ways for loads and commits.

    :param tables: in the database.
    :param connections: to it.
    """

    shared = True

    tables: Rows

    def __init__(self, tables: Rows, connections: Single) -> None:
        super().__init__(tables)
        self._single = connections

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`. One query; a use is recorded by a second statement."""
        found = self._look_up(key)
        if isinstance(found, Gone):
            return found
        record, generation, now = found
        if record.generation == generation and record.deadline > now:
            fresh = used(record, rules, now, slide=slide)
            if fresh is record or (fresh.deadline > now and self._replace(key, fresh, record, now)):
                return Live(fresh, now)
        return super().load(key, rules, slide=slide)

    def read(self, key: str, rules: Rules) -> Live | Gone:
        """Returns the session under *key*, and writes nothing: its use is not recorded."""
        found = self._look_up(key)
        if isinstance(found, Gone):
            return found
        record, generation, now = found
        if record.generation != generation:
            return Gone(Reason.REVOKED)
        limited = used(record, rules, now, slide=False)
        return Live(record, now) if limited.deadline > now else Gone(limited.end_reason)

    def commit(
        self,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> Answer:
        """See :meth:`.base.Store.commit`. One statement, if the record is still what was loaded.

        Otherwise, and where that alone does not say whether it is live, the engine decides.
        """
        now = self._single.guess()
        if loaded and now and loaded.stamps[0] == expected and is_filed(loaded, draft):
            fresh = touched(successor(loaded, draft), now, touch)
            if self._replace(key, fresh, loaded, now):
                return Live(fresh, now)
        return super().commit(key, draft, expected, touch=touch)

    def _look_up(self, key: str) -> tuple[Record, int, int] | Gone:
        """Returns the record under *key*, the current generation and the time."""
        row = self._single.look_up(key)
        if row is None:
            return self._absent(key)
        try:
            return loads(row[0]), *row[1:]
        except ValueError:
            return Gone(Reason.CORRUPT)

    def _replace(self, key: str, fresh: Record, old: Record, now: int) -> bool:
        return self._single.change(self.tables.replacement(key, fresh, old, now))

    def _absent(self, key: str) -> Gone:
        """Returns the answer for a session that is not stored, without the lock of writers.

        If the session is made between the query and this, the answer is that of the query.
        """
        t = self.tables
        with t.transaction(Scope((key,)), writes=False):
            return absent(t, key, t.now(), "")


def paced(purge: Callable[[], PurgeStep]) -> PurgeStep:
    """Run a step of a purge, then give others time to write if there is more to do."""
    before = time.monotonic()
    step = purge()
    if step.more:
        time.sleep(_PAUSE * (time.monotonic() - before))
    return step
