"""The servers of this machine, and a kit for each kind of store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.sql.sqlite import SqliteStore
from flask_safesession.testing import FakeClock, StoreKit, age_redis

from . import servers

SERVERS = sorted(servers.binaries())
REAL = [pytest.param(name, id=name) for name in SERVERS]
#: Every kind of store.
STORES = ["memory", "sqlite", *SERVERS]


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
