"""The servers of this machine, and a kit for each kind of store."""

from __future__ import annotations

import os
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


def sql_kit(database: Database, prefix: str) -> StoreKit:
    """A store in tables of its own, by a clock that stands in one of them."""
    clock = f"{prefix}_clock"
    database.ask(f"CREATE TABLE {clock} (now BIGINT NOT NULL)")
    database.ask(f"INSERT INTO {clock} VALUES ({FakeClock().now})")

    def advance(milliseconds: int) -> None:
        database.ask(f"UPDATE {clock} SET now = now + {milliseconds}")

    return StoreKit(sql_store(database, prefix, clock=f"(SELECT now FROM {clock})"), advance)
