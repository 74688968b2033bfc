"""What all SQL stores have in common."""

from __future__ import annotations

from contextlib import suppress
from itertools import count

from ...errors import StoreUnavailable
from ...model.record import Draft
from ...model.tokens import NO_USER
from ..base import Live, Removed, Rules, Taken
from ..direct import DirectStore
from ..rules import begun
from ..tables import Scope
from .connections import Connections
from .tables import SqlTables

#: With a large cap, the creations after which due sessions are removed once, for all of these; and
#: how many at most.
SWEEP_EVERY, SWEPT = 64, 96


class SqlStore(DirectStore):
    """The engine over rows of a SQL database, with a short way for creations.

    :param tables: in the database.
    :param connections: to it.
    """

    tables: SqlTables
    _single: Connections

    def __init__(self, tables: SqlTables, connections: Connections) -> None:
        super().__init__(tables, connections)
        self._created = count(1)

    def schema(self) -> list[str]:
        """Returns the statements that make the tables. Needs no connection."""
        return self.tables.statements.schema()

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`..base.Store.create`. One in many also removes due sessions, and counts."""
        live = self._create(key, draft, rules)
        if isinstance(live, Live) and not live.total and next(self._created) % SWEEP_EVERY == 0:
            with suppress(StoreUnavailable):  # the session is stored all the same
                removed, total = self._sweep(rules)
                return live._replace(removed=(*live.removed, *removed), total=total)
        return live

    def _create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """Store an anonymous session without the engine, if its part has room for one more.

        Whatever else may be the case is for the engine. The statement checks, once the part is
        locked, all that was known before: the generation, the quota, the time.
        """
        here = self._single
        now, generation = here.guess(), here.generation
        is_plain = draft.user == NO_USER and here.may_have_room(rules.cap)
        if is_plain and now is not None and generation is not None:
            fresh, part = begun(draft, generation, now), here.place(Scope((key,))).part
            if here.insert(part, self.tables.insertion(key, fresh, rules.cap, part, now)):
                return Live(fresh, now)
        return super().create(key, draft, rules)

    def _sweep(self, rules: Rules) -> tuple[tuple[Removed, ...], int]:
        """Remove due sessions. Returns them, and how many there are now."""
        removed = super().purge(rules, SWEPT).removed
        with self.tables.transaction(Scope(), writes=False):
            return removed, sum(self.tables.counts().values())
