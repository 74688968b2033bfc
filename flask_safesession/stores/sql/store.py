"""What all SQL stores have in common."""

from __future__ import annotations

from ..direct import DirectStore
from .tables import SqlTables


class SqlStore(DirectStore):
    """The engine over rows of a SQL database.

    :param tables: in the database.
    :param connections: to it.
    """

    _rows: SqlTables

    def schema(self) -> list[str]:
        """Returns the statements that make the tables. Needs no connection."""
        return self._rows.statements.schema()
