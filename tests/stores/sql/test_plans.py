"""How PostgreSQL and MariaDB find the rows of a statement, in tables of many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from flask_safesession.stores.sql.servers.store import SqlServerStore

from ...support.databases import Database
from ...support.kits import sql_store

ROWS, GROUPS, ALIKE = 20_000, 4, 80
# Far from both ends of a group, and in the midst of those with one deadline.
ROW = ROWS * 3 // 4 + ALIKE // 2
DEADLINE = ROW // ALIKE
SESSIONS = [
    (0, b"r", f"k{n}", f"t{n % GROUPS}", n // ALIKE, f"u{n % 1000}", n) for n in range(ROWS)
]
ENDINGS = [("users", b"e", f"k{n}", f"u{n % 1000}", n // ALIKE) for n in range(ROWS)]
# At an audit; and, at each hundredth ending, past the many that may be kept.
WALKS = ("compare", "count_endings", "surplus")


@contextmanager
def filled(database: Database, prefix: str) -> Iterator[tuple[SqlServerStore, Any]]:
    """A store of many sessions, of which some have the same deadline, and a cursor."""
    with (
        closing(sql_store(database, prefix)) as made,
        closing(database.connect()) as line,
        line.cursor() as cursor,
    ):
        made.prepare()
        if database.scheme == "mysql":
            cursor.execute("SET sql_mode = 'ANSI_QUOTES'")
        for columns, rows in (
            ('sessions (generation, record, "key", tier_group, deadline, owner, place)', SESSIONS),
            ('endings (kind, ending, "key", owner, expires)', ENDINGS),
        ):
            marks = ", ".join(["%s"] * len(rows[0]))  # with a value between, one at a time
            cursor.executemany(f"INSERT INTO {prefix}_{columns} VALUES ({marks})", rows)
        names = [f"{prefix}_{name}" for name in ("sessions", "endings", "meta", "seats")]
        cursor.execute(f"ANALYZE {'TABLE ' * (database.scheme == 'mysql')}{', '.join(names)}")
        yield made, cursor


def statements_of(made: SqlServerStore) -> dict[str, str]:
    statements = made.tables.statements
    for name in ("records", "remove", "endings"):
        for number in (1, 2, 10, 50):
            statements.for_keys(name, number)
    creation = {f"creation {n}": text for n, (text, _) in enumerate(statements.insertion)}
    return {**statements, **creation}


def test_no_statement_reads_all_sessions_or_endings(database: Database, prefix: str) -> None:
    reads_all = _in_postgresql if database.scheme == "postgresql" else _in_mysql
    with filled(database, prefix) as (made, cursor):
        walks = {name for name, text in statements_of(made).items() if reads_all(cursor, text)}
    assert walks <= set(WALKS)


def _in_postgresql(cursor: Any, statement: str) -> bool:
    cursor.execute("SET plan_cache_mode = force_generic_plan")
    cursor.execute(f"PREPARE it AS {statement}")
    nulls = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
    cursor.execute(f"EXPLAIN EXECUTE it{f'({nulls})' if nulls else ''}")
    plan = "\n".join(row[0] for row in cursor.fetchall())
    cursor.execute("DEALLOCATE it")
    return re.search(r"Seq Scan on \w+_(sessions|endings)", plan) is not None


def _in_mysql(cursor: Any, statement: str) -> bool:
    """Text compares with the columns of numbers, too, but is no limit."""
    text = re.sub("(LIMIT|OFFSET) %s", r"\1 5", statement)
    cursor.execute(f"EXPLAIN {text}", ("0",) * text.count("%s"))
    columns = [column[0] for column in cursor.description]
    plan = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    return any(
        step["type"] in ("ALL", "index")
        and step["select_type"] != "INSERT"
        and re.search("_(sessions|endings)$", step["table"] or "")
        for step in plan
    )


# The most rows that each may read, and what it is asked for. Those of a purge choose a thousand.
LISTS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "nearest": (50, ("t0", 5)),
    "nearest_after": (50, ("t0", DEADLINE, DEADLINE, ROW, 5)),
    "latest": (50, ("t0", 0, 5)),
    "latest_before": (50, ("t0", 0, DEADLINE, DEADLINE, ROW, 5)),
    "count_due": (50, ("t0", 1)),
    "older": (50, (5,)),
    "newer": (50, (5,)),
    "due": (1500, ("t0", "t0", 100)),
    "of_user": (150, ("u5", 5)),
    "of_user_tier": (150, ("u5", "t1", 5)),
    "count_of": (50, ("u5",)),
    "surplus_of": (150, ("users", "u5", 5, "users")),
    "expired": (500, ("users", "users")),
}


def test_mysql_begins_at_the_right_end_of_an_index(mysql: Database, prefix: str) -> None:
    """Its plans do not show from which row on an index is read."""
    with filled(mysql, prefix) as (made, cursor):
        read = {name: _rows_read(cursor, made, name, args) for name, (_, args) in LISTS.items()}
    assert {name: rows for name, rows in read.items() if rows > LISTS[name][0]} == {}


def _rows_read(cursor: Any, made: SqlServerStore, name: str, args: tuple[Any, ...]) -> int:
    cursor.execute("FLUSH STATUS")
    cursor.execute(made.tables.statements[name], args)
    cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
    return sum(int(rows) for _, rows in cursor.fetchall())
