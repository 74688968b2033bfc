"""The servers of this machine, and a kit for each kind of store."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.sql.servers import mysql, postgresql
from flask_safesession.stores.sql.servers.store import SqlServerStore
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.testing import FakeClock, StoreKit, age_redis

from . import servers
from .databases import Database

SERVERS = sorted(servers.binaries())
REAL = [pytest.param(name, id=name) for name in SERVERS]
#: The process that runs a test, where several do. Prefixes begin with it: databases may be shared.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
#: Every kind of store.
STORES = ["memory", "sqlite", *SERVERS, "postgresql", "mysql", "mongodb"]


def memory_kit() -> StoreKit:
    clock = FakeClock()
    return StoreKit(MemoryStore(clock), clock.advance)


def redis_kit(client: Any, prefix: str) -> StoreKit:
    store = RedisStore(client, prefix=prefix, timeout=5)
    return StoreKit(store, lambda ms: age_redis(client, ms, prefix), exact_clock=False)


def sqlite_kit(folder: Path, number: int = 0) -> StoreKit:
    clock = FakeClock()
    store = SqliteStore(folder / f"sessions{number}.sqlite3", timeout=5, clock=clock)
    return StoreKit(store, clock.advance)


_DRIVERS = {"postgresql": postgresql.DRIVER, "mysql": mysql.DRIVER}


def sql_store(database: Database, prefix: str, **options: Any) -> SqlServerStore:
    options = {"timeout": 10, **options}
    return SqlServerStore(database.url(), _DRIVERS[database.scheme], prefix=prefix, **options)


class SqlTables:
    """Tables that one store after another has: to make and drop them takes longer than most tests.

    Besides those of the store there is one in which its clock stands.
    """

    def __init__(self, database: Database, prefix: str) -> None:
        self._database, self._prefix = database, prefix
        self._line = database.connect()
        limit = {"postgresql": "lock_timeout = '5s'", "mysql": "innodb_lock_wait_timeout = 5"}
        self._ask(f"SET {limit[database.scheme]}")  # a transaction left open is an error
        self._ask(f"CREATE TABLE {prefix}_clock (now BIGINT NOT NULL)")
        self._ask(f"INSERT INTO {prefix}_clock VALUES ({FakeClock().now})")
        with closing(self._store()) as store:
            store.prepare()
        self._first_rows = {
            name: self._ask(f"SELECT * FROM {name}") for name in database.tables(prefix)
        }

    def kit(self) -> StoreKit:
        """A store in the tables, which are as if they had just been made."""
        for name, rows in self._first_rows.items():
            self._ask(f"DELETE FROM {name}")
            for row in rows:
                self._ask(f"INSERT INTO {name} VALUES ({', '.join(['%s'] * len(row))})", *row)
        return StoreKit(self._store(), self._advance)

    def _store(self) -> SqlServerStore:
        clock = f"(SELECT now FROM {self._prefix}_clock)"
        return sql_store(self._database, self._prefix, clock=clock)

    def _advance(self, milliseconds: int) -> None:
        self._ask(f"UPDATE {self._prefix}_clock SET now = now + {milliseconds}")

    def _ask(self, statement: str, *values: object) -> list[Any]:
        with self._line.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall()) if cursor.description else []

    def close(self) -> None:
        self._line.close()
