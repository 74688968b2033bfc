"""The words in which SQL databases differ."""

from __future__ import annotations

from typing import NamedTuple

_WORDS = (
    *("identity", "integer", "text", "blob", "clock"),
    *("lock", "skip", "join", "of", "by_key", "first", "limit"),
)


class Dialect(NamedTuple):
    """What stands for each ``{name}`` in the schema and the statements.

    :param name: of the database, in messages.
    :param identity: a column that numbers the rows in the order of their creation.
    :param integer: a column of 64 bits.
    :param text: a column of up to 40 ASCII characters, compared by bytes.
    :param blob: a column of bytes.
    :param clock: the milliseconds since 1970, by the database.
    :param lock: after a query: its rows stay locked until the end of the transaction.
    :param skip: the same for the rows of ``taken``, without those that others have locked.
    :param join: joins two tables, of which the first one is read first.
    :param of: names the table of sessions in a ``DELETE`` with ``by_key``.
    :param by_key: after a table, from which rows are locked: they are found by the index "key".
    :param limit: a condition that is true, and limits for this transaction how long it may last, to
        ``{milliseconds}``, and wait for a lock, to ``{wait}``: a little less, so that the server
        says what it waited for.
    :param table: after the columns of a table.
    :param partial: an index may leave out rows.
    :param upsert: begins the part of an ``INSERT`` for a row that is there; ``{key}``: its columns.
    :param new: the value for a column in that part.
    :param room: a condition on a row of ``seats``: these caps have room for one more session.
    :param first: the column of a query that comes before the statements of ``then``.
    :param then: the statements that do ``<insert>``, then ``<count>``.
    :param inserted: a condition in the latter: a row was inserted.
    :param parameter: stands for a value; ``{n}``: its number.
    :param quote: around names, in the database's own tools.
    """

    name: str
    identity: str
    integer: str
    text: str
    blob: str
    clock: str
    lock: str = " FOR UPDATE"
    skip: str = " FOR UPDATE OF taken SKIP LOCKED"
    join: str = "JOIN"
    of: str = ""
    by_key: str = ""
    limit: str = ""
    table: str = ""
    partial: bool = True
    upsert: str = "ON CONFLICT ({key}) DO UPDATE SET"
    new: str = "excluded.{column}"
    room: str = "cap = ? AND users_cap = ? AND held < total"
    first: str = "part"
    then: tuple[str, ...] = ("WITH inserted AS (<insert> RETURNING 1) <count>",)
    inserted: str = "EXISTS (SELECT 1 FROM inserted)"
    parameter: str = "?"
    quote: str = '"'

    def render(self, text: str, prefix: str) -> str:
        """Returns a statement with these words, for the tables under *prefix*."""
        for name in _WORDS:
            text = text.replace(f"{{{name}}}", getattr(self, name))
        head, *rest = text.split("?")
        numbered = (self.parameter.format(n=n) + part for n, part in enumerate(rest, 1))
        return "".join((head, *numbered)).replace("{p}", prefix.replace('"', '""'))

    def put(self, table: str, columns: str, key: str, changes: str) -> str:
        """Returns a statement that inserts a row, or changes the one with the same *key*.

        :param changes: ``column = <column>`` for the value that was given.
        """
        for column in columns.split(", "):
            changes = changes.replace(f"<{column}>", self.new.format(column=column))
        marks = ", ".join("?" * (columns.count(",") + 1))
        update = f"{self.upsert.format(key=key)} {changes}"
        row = f"({columns}) VALUES ({marks}) {update}"
        return f'INSERT INTO "{{p}}_{table}" {row}'
