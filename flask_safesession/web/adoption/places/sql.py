"""Flask-Session in a table of a SQL database, its type ``sqlalchemy``."""

# ruff: noqa: S608  # the table is a setting of the app; no value of a visitor is part of a statement

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, TypeAlias
from urllib.parse import quote

from ....errors import ConfigError, StoreUnavailable
from ....stores.opening import sql_driver
from ....stores.remote.deadline import deadline
from ....stores.sql.connections import Call
from ....stores.sql.servers.lines import Access, Lost, Refused, TimedOut
from ....stores.sql.servers.pool import CircuitOpen, Pool
from ....stores.sql.servers.url import read_url

_NAME = re.compile(r"[\w$ -]{1,64}")
# Stores' advice about their own tables.
_OF_OUR_TABLES = re.compile("(the tables are missing|let the user read, write and make the).*")
_OF_ITS_TABLE = "check SESSION_SQLALCHEMY_TABLE, and that the user may read and delete its rows"
#: Runs a statement that is a transaction of its own, and returns its rows.
Run: TypeAlias = Callable[[Call], list[Any]]


class SqlBackend:
    """Rows of Flask-Session's table.

    :param run: on the database.
    :param config: with Flask-Session's names of the table and its schema.
    :param now: SQL for the time in UTC, in which Flask-Session writes its column.
    :raises ConfigError: these are no names.
    """

    def __init__(self, run: Run, config: Mapping[str, Any], now: str, quote: str = '"') -> None:
        table = config.get("SESSION_SQLALCHEMY_TABLE", "sessions")
        names = [config.get("SESSION_SQLALCHEMY_SCHEMA"), table]
        parts = [str(name) for name in names if name is not None]
        if not all(map(_NAME.fullmatch, parts)):
            named = f"SESSION_SQLALCHEMY_TABLE: {'.'.join(parts)!r}"
            raise ConfigError([f"{named} has more than letters, digits, spaces and _ - $"])
        self._run = run
        self._table = ".".join(f"{quote}{part}{quote}" for part in parts)
        self._live = f"expiry > {now}"

    def get(self, key: str) -> bytes | None:
        """See :meth:`.flask_session.Backend.get`."""
        query = f"SELECT session_id, data FROM {self._table} WHERE session_id = ? AND {self._live}"
        rows = self._run((query, (key,)))
        # MySQL finds other cases, too: each would be an ID of its own, with a link of its own.
        found = [data for name, data in rows if name == key and data is not None]
        return bytes(found[0]) if found else None

    def delete(self, key: str) -> None:
        """See :meth:`.flask_session.Backend.delete`."""
        self._run((f"DELETE FROM {self._table} WHERE session_id = ?", (key,)))

    def count(self, prefix: str, most: int, accepts: Callable[[str], bool]) -> int | None:
        """See :meth:`.flask_session.Backend.count`: of the live rows."""
        del accepts
        ours = f"{self._live} AND SUBSTR(session_id, 1, {len(prefix):d}) = ?"
        some = f"SELECT 1 FROM {self._table} WHERE {ours} LIMIT {most:d}"
        return int(self._run((f"SELECT COUNT(*) FROM ({some}) AS live", (prefix,)))[0][0])


def on_server(url: str, config: Mapping[str, Any], timeout: float) -> SqlBackend:
    """Returns the place on a server. Each call takes *timeout* seconds at most.

    :raises ConfigError: the URL cannot be used.
    """
    place = read_url(url)
    driver = sql_driver(url)
    driver.check(place.url)
    pool = Pool(driver.open(place.url, timeout, Access()), place.server, place.most, lambda _: None)

    def run(call: Call) -> list[Any]:
        statement = driver.dialect.render(call[0], "")
        try:
            with deadline(timeout):
                try:
                    return _run_on(pool, (statement, call[1]))
                except Lost as error:
                    if isinstance(error, (CircuitOpen, TimedOut)):
                        raise
                    return _run_on(pool, (statement, call[1]))  # an idle connection was cut
        except (Lost, Refused) as error:
            raise StoreUnavailable(_OF_OUR_TABLES.sub(_OF_ITS_TABLE, str(error))) from error

    if driver.dialect.name == "PostgreSQL":
        return SqlBackend(run, config, "(now() AT TIME ZONE 'utc')")
    return SqlBackend(run, config, "UTC_TIMESTAMP(6)", "`")


def _run_on(pool: Pool, call: Call) -> list[Any]:
    with pool.line() as line:
        return line.run([call])[0].rows


def in_file(path: str, config: Mapping[str, Any], timeout: float) -> SqlBackend:
    """Returns the place in a SQLite file, which must exist: a new one would sign everybody out."""
    import sqlite3

    url = f"file:{quote(path)}?mode=rw"

    def run(call: Call) -> list[Any]:
        try:
            with closing(sqlite3.connect(url, timeout=timeout, uri=True)) as one:
                rows = one.execute(*call).fetchall()
                one.commit()
                return rows
        except sqlite3.Error as error:
            raise StoreUnavailable(f"{path}: {error}") from error

    return SqlBackend(run, config, "strftime('%Y-%m-%d %H:%M:%f', 'now')")
