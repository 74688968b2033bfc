"""Flask-Session in a table of a SQL database (its type ``sqlalchemy``), by plain drivers."""

# ruff: noqa: S608  # the table is a setting of the app; no value of a visitor is part of a statement

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ....errors import ConfigError, StoreUnavailable

_NAME = re.compile(r"[^\W\d]\w{0,62}")
_SCHEMES = {"postgres": "postgresql", "mariadb": "mysql"}
# The current time in UTC, in which Flask-Session writes its column.
_NOW = {
    "postgresql": "(now() AT TIME ZONE 'utc')",
    "mysql": "UTC_TIMESTAMP(6)",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
}


class SqlBackend:
    """Rows of Flask-Session's table. Each call has its own connection, and *timeout* seconds.

    :param config: with Flask-Session's names of the table and its schema.
    :raises ConfigError: these are no names.
    """

    def __init__(self, url: str, config: Mapping[str, Any], timeout: float) -> None:
        scheme = url.partition("://")[0]
        kind = _SCHEMES.get(scheme, scheme)
        names = (config.get("SESSION_SQLALCHEMY_SCHEMA"), config.get("SESSION_SQLALCHEMY_TABLE"))
        parts = [part for part in (names[0], names[1] or "sessions") if part]
        if not all(_NAME.fullmatch(part) for part in parts):
            shown = ".".join(map(str, parts))
            raise ConfigError([f"SESSION_SQLALCHEMY_TABLE: {shown!r} is not the name of a table"])
        quote = "`" if kind == "mysql" else '"'
        table = ".".join(f"{quote}{part}{quote}" for part in parts)
        self._mark = "?" if kind == "sqlite" else "%s"
        self._table = f"{table} WHERE session_id = {self._mark}"
        self._live = f"expiry > {_NOW[kind]}"
        self._all = f"SELECT 1 FROM {table} WHERE {self._live}"
        self._connect = _CONNECT[kind](url, timeout)

    def get(self, key: str) -> bytes | None:
        """See :meth:`.flask_session.Backend.get`."""
        rows = self._run(f"SELECT data FROM {self._table} AND {self._live}", key)
        return bytes(rows[0][0]) if rows and rows[0][0] is not None else None

    def delete(self, key: str) -> None:
        """See :meth:`.flask_session.Backend.delete`."""
        self._run(f"DELETE FROM {self._table}", key)

    def count(self, prefix: str, most: int) -> int | None:
        """See :meth:`.flask_session.Backend.count`: of all live rows, whatever their prefix."""
        del prefix
        rows = self._run(f"SELECT COUNT(*) FROM ({self._all} LIMIT {int(most)}) AS live")
        return int(rows[0][0])

    def _run(self, statement: str, *parameters: str) -> list[Any]:
        try:
            with closing(self._connect()) as connection:
                cursor = connection.cursor()
                cursor.execute(statement, parameters)
                rows = list(cursor.fetchall()) if cursor.description else []
                connection.commit()
                return rows
        except Exception as error:  # of whatever driver it is
            text = f"the old place of sessions: {type(error).__name__}: {error}"
            raise StoreUnavailable(text) from error


def _postgresql(url: str, timeout: float) -> Callable[[], Any]:
    import psycopg

    seconds = max(2, round(timeout))  # the least that libpq accepts
    options = f"-c statement_timeout={int(timeout * 1000)}"
    return lambda: psycopg.connect(url, connect_timeout=seconds, options=options)


def _mysql(url: str, timeout: float) -> Callable[[], Any]:
    import pymysql

    parts = urlsplit(url)
    socket = dict(parse_qsl(parts.query)).get("unix_socket")
    given: dict[str, Any] = {
        "host": parts.hostname or "localhost",
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.lstrip("/")),
        "unix_socket": socket,
    }
    given |= dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), timeout)
    return lambda: pymysql.connect(**given)


def _sqlite(url: str, timeout: float) -> Callable[[], Any]:
    import sqlite3

    path = url.removeprefix("sqlite:///")
    # It must be there: a new, empty file would sign everybody out.
    name = f"file:{path}?mode=rw"
    return lambda: sqlite3.connect(name, timeout=timeout, uri=True)


_CONNECT = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}
