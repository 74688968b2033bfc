"""An app's own database keeps its sessions, and its rows, pool and transactions are its own."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy
from pymysql.constants import CLIENT

from flask_safesession import ConfigError, SafeSession
from flask_safesession.config.donor import is_donor

from ..support.databases import Database

DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
FOUND_ROWS = CLIENT.FOUND_ROWS


def url_of(database: Database) -> str:
    """As SQLAlchemy takes it."""
    return database.url().replace(database.scheme, DRIVERS[database.scheme], 1)


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, pool: Any, tmp_path: Path) -> str:
    """The URL of an app's database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'app.sqlite3'}"
    return url_of(pool.database(request.param))


class Shop:
    """An app with a table of its own, and with its sessions in the same database."""

    def __init__(self, prefix: str, url: str, *, late: bool = False, **engine: Any) -> None:
        self.app = Flask("shop")
        self.app.secret_key = "a key for tests that is long enough"
        self.app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine
        self.db = SQLAlchemy()
        self.rows = sa.Table(f"{prefix}_rows", self.db.metadata, sa.Column("name", sa.String(9)))
        if not late:
            self.db.init_app(self.app)
        self.safe = SafeSession(
            self.app, store=self.db, key_prefix=prefix, check_interval=None, store_timeout="2s"
        )
        if late:
            self.db.init_app(self.app)
        with self.app.app_context():
            self.engine: Any = self.db.engine
            self.db.create_all()

    @property
    def store(self) -> Any:
        return self.app.extensions["safesession"].store

    def names(self) -> list[str]:
        with self.engine.connect() as line:
            return list(line.scalars(sa.select(self.rows.c.name)))

    def close(self) -> None:
        self.store.close()
        self.engine.dispose()


MakeShop = Callable[..., Shop]


@pytest.fixture
def make_shop(prefix: str) -> Iterator[MakeShop]:
    with contextlib.ExitStack() as stack:

        def make(url: str, **options: Any) -> Shop:
            made = Shop(prefix, url, **options)
            stack.callback(made.close)
            return made

        yield make


def use(shop: Shop) -> None:
    """Sign in, change and read a session."""
    shop.app.add_url_rule("/in", "in", lambda: str(session.update(user_id=7)))
    shop.app.add_url_rule("/", "read", lambda: str(session["user_id"]))
    client = shop.app.test_client()
    assert client.get("/in").status_code == 200
    assert client.get("/").text == "7"
    assert len(shop.safe.sessions_of(7)) == 1


@pytest.mark.parametrize("late", [False, True])
def test_one_line_keeps_sessions_in_the_apps_database(
    make_shop: MakeShop, url: str, prefix: str, late: bool
) -> None:
    shop = make_shop(url, late=late)
    use(shop)
    assert f"{prefix}_sessions" in sa.inspect(shop.engine).get_table_names()
    assert not late or set(shop.safe.servers().values()) <= {"closed"}


def test_an_engine_is_a_database_too(url: str, prefix: str, make_app: Callable[..., Flask]) -> None:
    engine = sa.create_engine(url)
    app = make_app(store=engine, key_prefix=prefix)
    app.add_url_rule("/", "read", lambda: str(session.update(a=1)))
    assert app.test_client().get("/").status_code == 200
    assert f"{prefix}_sessions" in sa.inspect(engine).get_table_names()
    app.extensions["safesession"].store.close()
    engine.dispose()


def test_a_view_keeps_its_open_transaction_while_its_session_is_saved(
    make_shop: MakeShop, url: str
) -> None:
    shop, seen = make_shop(url), []

    @shop.app.get("/")
    def view() -> str:
        shop.db.session.execute(shop.rows.insert().values(name="mine"))
        session["user_id"] = 7
        return str(shop.engine.pool.checkedout())

    @shop.app.teardown_request
    def look(error: BaseException | None) -> None:  # before Flask-SQLAlchemy ends the transaction
        seen.append(shop.engine.pool.checkedout())
        seen.append(shop.names())
        shop.db.session.commit()

    answer = shop.app.test_client().get("/")
    assert seen == [1, []], "no connection of the app's was used, and nothing was committed"
    assert shop.names() == ["mine"], "nothing was lost"
    if shop.engine.dialect.name == "sqlite":  # it has one writer at a time: the app's transaction
        assert answer.status_code == 503
    else:
        assert (answer.status_code, answer.text) == (200, "1")
        assert len(shop.safe.sessions_of(7)) == 1


def test_a_lost_session_does_not_undo_the_apps_rows_and_the_other_way_round(
    make_shop: MakeShop, database: Database
) -> None:
    shop = make_shop(url_of(database))

    @shop.app.get("/")
    def view() -> str:
        session["user_id"] = 7
        shop.db.session.execute(shop.rows.insert().values(name="mine"))
        shop.db.session.rollback()
        return ""

    assert shop.app.test_client().get("/").status_code == 200
    assert (shop.names(), len(shop.safe.sessions_of(7))) == ([], 1)


# -- what is taken from an engine -----------------------------------------------------------------


def engine_for(database: Database, **ways: Any) -> Any:
    return sa.create_engine(f"{DRIVERS[database.scheme]}://", **ways)


def creator_of(database: Database, **more: Any) -> Callable[[], Any]:
    """Connects as an app would, by the driver's own function."""
    if database.scheme == "postgresql":
        return lambda: psycopg.connect(database.url())
    unix: dict[str, Any] = {
        "unix_socket": str(database.folder / "socket"),
        "user": "root",
        "database": "test",
    }
    return lambda: pymysql.connect(**unix, **{"client_flag": FOUND_ROWS, **more})


def use_engine(
    make_app: Callable[..., Flask], engine: Any, database: Database, prefix: str
) -> None:
    """Sign in and change the session: what was stored is seen by others at once."""
    app = make_app(store=engine, key_prefix=prefix)
    app.add_url_rule("/in", "in", lambda: str(session.update(user_id=7)))
    app.add_url_rule("/", "write", lambda: str(session.setdefault("n", 1)))
    client, stored = app.test_client(), []
    for path in ("/in", "/"):
        assert client.get(path).status_code == 200
        stored += database.ask(f"SELECT record FROM {prefix}_sessions")
        app.extensions["safesession"].store.close()  # a new connection for each
    assert stored[0] != stored[1]
    assert len(app.extensions["tested.safe"].sessions_of(7)) == 1
    app.extensions["safesession"].store.close()
    assert engine.pool.checkedout() == 0
    engine.dispose()


def test_the_creator_of_an_engine_connects_for_the_store_too(
    database: Database, prefix: str, make_app: Callable[..., Flask]
) -> None:
    engine = engine_for(database, creator=creator_of(database))
    use_engine(make_app, engine, database, prefix)


def test_a_listener_gives_the_store_its_password_too(
    database: Database, prefix: str, make_app: Callable[..., Flask]
) -> None:
    asked: list[str] = []
    url = sa.make_url(url_of(database))
    engine = sa.create_engine(url.set(username=f"{prefix}_nobody"))

    @sa.event.listens_for(engine, "do_connect")
    def give(dialect: Any, record: Any, args: Any, parameters: dict[str, Any]) -> None:
        asked.append("a token")
        parameters["user"] = url.username

    use_engine(make_app, engine, database, prefix)
    assert asked


def test_a_listener_that_leaves_a_transaction_open_is_no_harm(
    postgresql: Database, prefix: str, make_app: Callable[..., Flask]
) -> None:
    engine = engine_for(postgresql, creator=creator_of(postgresql))

    @sa.event.listens_for(engine, "connect")
    def begin(connection: Any, record: Any) -> None:
        connection.execute("SELECT 1")  # begins a transaction, as the driver does it

    use_engine(make_app, engine, postgresql, prefix)


def test_a_creator_that_counts_changed_rows_only_is_refused(
    mysql: Database, prefix: str, make_app: Callable[..., Flask]
) -> None:
    engine = engine_for(mysql, creator=creator_of(mysql, client_flag=0))
    with pytest.raises(ConfigError, match=r"without client_flag=CLIENT\.FOUND_ROWS: add that"):
        make_app(store=engine, key_prefix=prefix)


def test_a_creator_that_fails_is_an_outage(make_app: Callable[..., Flask], caplog: Any) -> None:
    def fail() -> None:
        raise LookupError("no such instance")

    app = make_app(store=sa.create_engine("postgresql+psycopg://", creator=fail))
    app.add_url_rule("/", "read", lambda: str(session.update(a=1)))
    assert app.test_client().get("/").status_code == 503
    assert "the app's engine cannot connect: no such instance" in caplog.text


def stand_in(name: str, driver: str, file: str | None = None, **arguments: Any) -> Any:
    """An engine of a driver that need not be installed."""
    cparams = arguments

    def connect() -> dict[str, Any]:
        return cparams

    connect.__module__ = "sqlalchemy.engine.create"
    dialect = SimpleNamespace(name=name, driver=driver, dispatch=SimpleNamespace(do_connect=()))
    url = SimpleNamespace(host="db", database=file, query={})
    return SimpleNamespace(dialect=dialect, url=url, pool=SimpleNamespace(_creator=connect))


@pytest.fixture
def place(make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Returns the URL of the store for an engine, which is not opened."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    return lambda engine: make_app(store=engine).extensions["safesession"].place[0]


WHO = {"user": "u", "password": "p@/:?#", "host": "db"}
AT = "u:p%40%2F%3A%3F%23@db"
TRANSLATED = {
    "psycopg2": (
        stand_in("postgresql", "psycopg2", **WHO, port=1, dbname="d", sslmode="verify-full"),
        f"postgresql://{AT}:1/d?sslmode=verify-full",
    ),
    "psycopg": (
        sa.create_engine(
            f"postgresql+psycopg://{AT}/d",
            connect_args={"connect_timeout": 3, "options": "-c search_path=a b", "row_factory": 1},
        ),
        f"postgresql://{AT}/d?options=-c%20search_path%3Da%20b",
    ),
    "several hosts": (
        sa.create_engine("postgresql+psycopg://u:p@/d?host=one:1&host=two:2"),
        "postgresql://u:p@/d?host=one%2Ctwo&port=1%2C2",
    ),
    "socket": (
        sa.create_engine("postgresql+psycopg:///d?host=/run/postgresql"),
        "postgresql:///d?host=%2Frun%2Fpostgresql",
    ),
    "IPv6": (sa.create_engine("mysql+pymysql://[::1]:1/d"), "mysql://[::1]:1/d"),
    "asyncpg": (
        stand_in("postgresql", "asyncpg", **WHO, database="d", ssl="require", timeout=3),
        f"postgresql://{AT}/d?sslmode=require",
    ),
    "asynchronous": (
        SimpleNamespace(
            sync_engine=stand_in("postgresql", "asyncpg", database="d"), url=0, dialect=0, pool=0
        ),
        "postgresql:///d",
    ),
    "mysqlclient": (
        stand_in("mysql", "mysqldb", user="u", passwd="p", db="d", host="db", use_unicode=True),
        "mysql://u:p@db/d",
    ),
    "mariadb": (
        sa.create_engine("mariadb+pymysql://u@db/d?charset=utf8mb4&unix_socket=/run/a b"),
        "mariadb://u@db/d?unix_socket=%2Frun%2Fa%20b",
    ),
    "TLS": (
        sa.create_engine("mysql+pymysql://u@db/d?ssl_check_hostname=false"),
        "mysql://u@db/d?ssl_verify_identity=False",
    ),
    "TLS as arguments": (
        stand_in("mysql", "pymysql", database="d", ssl={"ssl_ca": "", "check_hostname": True}),
        "mysql:///d?ssl_ca=&ssl_verify_identity=True",
    ),
    "TLS by a word": (
        stand_in("mysql", "pymysql", database="d", ssl=True),
        "mysql:///d?ssl=True",
    ),
}


@pytest.mark.parametrize(("engine", "url"), TRANSLATED.values(), ids=TRANSLATED)
def test_an_engine_is_translated_to_a_url(
    place: Callable[[Any], Any], engine: Any, url: str
) -> None:
    assert place(engine) == url


SECRET = "u:hunter2@db"
REFUSED = {
    "memory": (
        sa.create_engine("sqlite:///:memory:"),
        "is on SQLite's :memory:, another one in each connection: use memory:// in tests",
    ),
    "memory by default": (sa.create_engine("sqlite://"), "use memory:// in tests"),
    "shared memory": (
        sa.create_engine("sqlite:///file:x?mode=memory&uri=true", poolclass=sa.pool.StaticPool),
        "use memory:// in tests",
    ),
    "a file's URI": (
        sa.create_engine("sqlite:///file:x.sqlite3?uri=true"),
        "opens SQLite in a way of its own: give SAFESESSION_STORE a URL",
    ),
    "creator on SQLite": (
        sa.create_engine("sqlite:///x", creator=lambda: sqlite3.connect("y")),
        "opens SQLite in a way of its own",
    ),
    "encrypted": (stand_in("sqlite", "pysqlcipher", "x.sqlite3"), "a way of its own"),
    "another database": (
        stand_in("oracle", "oracledb"),
        "is for 'oracle': sessions can be in PostgreSQL, MySQL, MariaDB or SQLite",
    ),
    "a parameter": (
        sa.create_engine(f"mysql+pymysql://{SECRET}/d?compress=1"),
        "is of no use here (compress is no parameter; there are ssl, ",
    ),
    "a parameter of libpq": (
        stand_in("postgresql", "pg8000", password="hunter2", user="u", ssl_context=object()),
        'invalid URI query parameter: "ssl_context"',
    ),
    "an object for TLS": (
        stand_in("postgresql", "asyncpg", password="hunter2", user="u", ssl=True),
        'invalid URI query parameter: "ssl"',
    ),
    "an object for TLS of MySQL": (
        stand_in("mysql", "pymysql", password="hunter2", user="u", database="d", ssl=object()),
        "give true or false",
    ),
    "creator of another driver": (
        SimpleNamespace(
            dialect=SimpleNamespace(
                name="postgresql", driver="pg8000", dispatch=SimpleNamespace(do_connect=())
            ),
            url=0,
            pool=SimpleNamespace(_creator=print),
        ),
        "by the driver 'pg8000': use psycopg or pymysql there, or give SAFESESSION_STORE a URL",
    ),
}


@pytest.mark.parametrize(("engine", "text"), REFUSED.values(), ids=REFUSED)
def test_what_the_stores_drivers_cannot_do_is_refused_with_the_fix(
    make_app: Callable[..., Flask], engine: Any, text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_app(store=engine)
    assert text in str(caught.value)
    assert "hunter2" not in str(caught.value)


# -- Flask-SQLAlchemy -----------------------------------------------------------------------------


def test_a_relative_file_is_in_the_instance_folder_as_the_apps_is(tmp_path: Path) -> None:
    app = Flask("shop", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///app.sqlite3"
    db = SQLAlchemy(app)
    SafeSession(app, store=db, check_interval=None)
    assert app.extensions["safesession"].store.path == tmp_path / "app.sqlite3"
    app.extensions["safesession"].store.close()


def test_a_database_that_the_app_never_gets_is_an_error_with_the_fix(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(store=SQLAlchemy())
    app.add_url_rule("/", "write", lambda: str(session.update(a=1)))
    assert app.test_client().get("/").status_code == 500
    said = app.test_cli_runner().invoke(args=["safesession", "check"]).stdout
    assert "set SQLALCHEMY_DATABASE_URI and call db.init_app(app) [store-layout]" in said


def test_each_app_of_one_db_has_its_own_database(tmp_path: Path) -> None:
    db, safe, stores = SQLAlchemy(), SafeSession(check_interval=None), {}
    for name in ("one", "two"):
        app = Flask(name, instance_path=str(tmp_path / name))
        app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///app.sqlite3"
        safe.init_app(app, store=db)
        db.init_app(app)
        assert app.extensions["safesession"].opened.need_index().lease("purge", 1)
        stores[app] = app.extensions["safesession"].store
    assert [(tmp_path / name / "app.sqlite3").exists() for name in ("one", "two")] == [True, True]
    with pytest.raises(RuntimeError, match="several stores"):
        safe.count()
    for store in stores.values():
        store.close()


def test_neither_the_class_nor_a_session_is_a_database(make_app: Callable[..., Flask]) -> None:
    for wrong in (SQLAlchemy, SQLAlchemy().session, sa.create_engine):
        assert not is_donor(wrong)
        with pytest.raises(ConfigError, match="give a URL, a Store, Flask-SQLAlchemy's db, "):
            make_app(store=wrong)


def test_sqlalchemy_is_not_imported_for_apps_without_it() -> None:
    code = (
        "import sys; from flask import Flask; from flask_safesession import SafeSession;"
        "SafeSession(Flask('a'), check_interval=None); assert 'sqlalchemy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
