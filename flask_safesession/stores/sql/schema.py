"""The tables of the SQL stores, and the statements that make them."""

# ruff: noqa: S608  # no value of a visitor is part of a statement

from __future__ import annotations

from typing import NamedTuple

from .dialect import Dialect

#: The version of the tables. A store with a newer one is refused.
SCHEMA_VERSION = 1
#: Rows of ``seats``: those of sessions by the first letter of their keys, then one for the purge
#: and one for documents. See :mod:`.locks`.
PARTS = 16
PURGE, DOCUMENTS = PARTS, PARTS + 1


class _Table(NamedTuple):
    name: str
    columns: tuple[str, ...]
    #: Name and columns; the last one: only rows in which this column has a value.
    indexes: tuple[tuple[str, str, str], ...] = ()


# In a row of ``seats``, "held" is how many sessions it counts, and "tiers" is JSON: those of users,
# by tier. The other columns are the quotas of a part, and the caps that they were made for.
# A user's sessions are evicted by place, then id: those whose cookie never came back first.
# Anonymous sessions have no owner and are in the group ''. No two indexes of a table begin with the
# same column: without statistics, PostgreSQL would take either of them.
_TABLES = (
    _Table(
        "sessions",
        (
            "id {identity}",
            '"key" {text} NOT NULL',
            "generation {integer} NOT NULL",
            "tier_group {text} NOT NULL",
            "deadline {integer} NOT NULL",
            "owner {text}",
            "place {integer}",
            "record {blob} NOT NULL",
            'UNIQUE ("key")',
        ),
        (
            ("due", "generation, tier_group, deadline, id", ""),
            ("owned", "owner, generation, tier_group, place", "owner"),
        ),
    ),
    _Table(
        "endings",
        (
            '"key" {text} NOT NULL',
            "kind {text} NOT NULL",
            "owner {text} NOT NULL",
            "expires {integer} NOT NULL",
            "ending {blob} NOT NULL",
            'PRIMARY KEY ("key", kind)',
        ),
        (("expiry", "kind, expires", ""), ("owner", "owner, kind, expires", "")),
    ),
    _Table(
        "seats",
        (
            "part {integer} NOT NULL PRIMARY KEY",
            "held {integer} NOT NULL",
            "tiers {blob}",
            "cap {integer} NOT NULL",
            "users_cap {integer} NOT NULL",
            "total {integer} NOT NULL",
            "users {integer} NOT NULL",
        ),
    ),
    _Table(
        "documents",
        (
            "name {text} NOT NULL PRIMARY KEY",
            "document {blob} NOT NULL",
            "written {integer} NOT NULL",
        ),
    ),
    _Table(
        "meta",
        (
            "one {integer} NOT NULL PRIMARY KEY CHECK (one = 1)",
            "version {integer} NOT NULL",
            "generation {integer} NOT NULL",
            "ended_by {text} NOT NULL",
        ),
    ),
)
_ROWS = (
    *(
        f"""INSERT INTO "{{p}}_seats" SELECT {part}, 0, NULL, 0, 0, 0, 0
        FROM (SELECT 1 AS one) AS one
        WHERE NOT EXISTS (SELECT 1 FROM "{{p}}_seats" WHERE part = {part})"""
        for part in range(DOCUMENTS + 1)
    ),
    # The last one: without it the tables are not complete.
    f"""INSERT INTO "{{p}}_meta" SELECT 1, {SCHEMA_VERSION}, 0, '' FROM (SELECT 1 AS one) AS one
        WHERE NOT EXISTS (SELECT 1 FROM "{{p}}_meta")""",
)


def schema(dialect: Dialect, prefix: str) -> list[str]:
    """Returns the statements that make the tables and their first rows, if they are missing."""
    made = [statement for table in _TABLES for statement in _create(table, dialect)]
    return [dialect.render(statement, prefix) for statement in (*made, *_ROWS)]


def printed(dialect: Dialect, prefix: str) -> list[str]:
    """Returns the same statements for the database's own tools: MySQL's quote names otherwise."""
    mark, name = dialect.quote, prefix.replace(dialect.quote, dialect.quote * 2)
    texts = schema(dialect, "{p}")
    return [text.replace('"', mark).replace("{p}", name) for text in texts]


def _create(table: _Table, dialect: Dialect) -> list[str]:
    name, columns, after = f'"{{p}}_{table.name}"', list(table.columns), []
    for ending, indexed, present in table.indexes:
        index = f'"{{p}}_{table.name}_{ending}"'
        if dialect.partial:
            where = f" WHERE {present} IS NOT NULL" if present else ""
            after.append(f"CREATE INDEX IF NOT EXISTS {index} ON {name} ({indexed}){where}")
        else:
            columns.append(f"INDEX {index} ({indexed})")
    body = ",\n    ".join(columns)
    return [f"CREATE TABLE IF NOT EXISTS {name} (\n    {body}){dialect.table}", *after]
