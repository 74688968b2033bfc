"""SQL servers that stop, restart, are full or refuse: what visitors get, and what the log says."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from flask_safesession.stores.base import Live
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.stores.sql.servers.connections import Transaction
from flask_safesession.testing import make_draft, make_rules, new_key
from flask_safesession.testing.kit import together

from ..support import databases
from ..support.databases import Database
from ..support.faults_kit import (
    ANN,
    BOUND,
    CHANGES,
    TIMEOUT,
    OpenSite,
    Site,
    good,
    outage,
    read,
    unavailable,
)
from ..support.hammering_servers import open_store
from ..support.servers import poll

pytestmark = pytest.mark.faults
RULES = make_rules()
PATHS = ("/read", "/add/fig", "/logout")
PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")


@pytest.fixture(scope="module", params=databases.STARTS)
def server(request: pytest.FixtureRequest) -> Iterator[Database]:
    """One that may be stopped and killed."""
    made = databases.STARTS[request.param]()
    yield made
    made.stop()


def opened(open_site: OpenSite, database: Database, prefix: str, **settings: Any) -> Site:
    return open_site(database.url(), key_prefix=prefix, **settings)


def ready(site: Site, clients: list[Any]) -> list[Any]:
    """The first use is recorded always: afterwards there is nothing to be written."""
    for client in clients:
        read(client)
    site.take()
    return clients


# -- stopped and killed -------------------------------------------------------------------------


def test_fault_05_a_stopped_server_costs_one_timeout_at_the_load(
    server: Database, prefix: str, open_site: OpenSite
) -> None:
    paths = ["/read", *CHANGES]
    first, second = (
        [opened(open_site, server, prefix, store_timeout=TIMEOUT) for _ in paths] for _ in "12"
    )
    members = [site.member() for site in first]
    newcomers = [site.visitor(like=members[n]) for n, site in enumerate(second)]
    with server.paused():
        together(len(paths), lambda n: outage(members[n], paths[n], BOUND))
        # Their connections are still to be made.
        together(len(paths), lambda n: outage(newcomers[n], paths[n], BOUND))
    poll("the server", lambda: members[0].get("/read").status_code == 200)
    assert [read(member) for member in members] == [ANN] * len(paths)
    server.drop_tables(prefix)


def test_fault_05_a_server_that_stops_before_the_save_costs_one_timeout(
    server: Database, prefix: str, open_site: OpenSite
) -> None:
    sites = [opened(open_site, server, prefix, store_timeout=TIMEOUT) for _ in CHANGES]
    members = [site.member() for site in sites]
    stop = threading.Barrier(len(sites), server.pause, timeout=20)
    for site in sites:
        site.strike(stop.wait)
    try:
        together(len(sites), lambda n: outage(members[n], [*CHANGES][n], bound=20))
        assert all(site.slowest < BOUND for site in sites)
    finally:
        server.resume()
    poll("the server", lambda: members[0].get("/read").status_code == 200)
    for member in members:
        assert_whole(member)
    server.drop_tables(prefix)


@pytest.mark.parametrize("path", [path for path, call in CHANGES.items() if call != "commit"])
def test_fault_05_a_server_that_stops_between_two_batches_costs_one_timeout(
    server: Database,
    prefix: str,
    open_site: OpenSite,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    site = opened(open_site, server, prefix, store_timeout=TIMEOUT)
    member = site.member()
    end = Transaction.end

    def stopping(self: Transaction, statement: str) -> None:
        monkeypatch.setattr(Transaction, "end", end)
        server.pause()
        end(self, statement)

    monkeypatch.setattr(Transaction, "end", stopping)
    try:
        outage(member, path, BOUND)
    finally:
        server.resume()
    poll("the server", lambda: member.get("/read").status_code == 200)
    assert_whole(member)
    server.drop_tables(prefix)


def assert_whole(member: Any) -> None:
    """Whether it is done is not known: the command may have been on its way. Never half of it."""
    assert read(member) in (ANN, {}, {**ANN, "cart": ["pear", "fig"]})
    good(member, "/login/ann")
    assert read(member)["user_id"] == "ann"


@pytest.mark.parametrize("path", PATHS)
def test_fault_01_02_a_killed_server_is_an_outage_and_is_used_when_it_is_back(
    server: Database, prefix: str, open_site: OpenSite, path: str
) -> None:
    site = opened(open_site, server, prefix)
    member, other = site.member(), site.member("bob")
    if path == "/read":
        server.kill()
    else:
        site.strike(server.kill)
    outage(member, path)
    outage(other, "/add/fig")
    server.restart()
    poll("the server", lambda: other.get("/read").status_code == 200, every=0.1)
    assert read(member) == ANN
    good(member, "/add/fig")
    server.drop_tables(prefix)


def test_fault_03_a_restart_between_two_requests_is_not_noticed(
    server: Database, prefix: str, open_site: OpenSite
) -> None:
    site = opened(open_site, server, prefix)
    member = site.member()
    server.restart()
    assert read(member) == ANN
    server.restart()
    good(member, "/add/fig")
    server.restart()
    good(site.visitor(), "/add/fig")
    server.drop_tables(prefix)


# -- what others do -----------------------------------------------------------------------------


def test_a_foreign_transaction_that_locks_a_session_holds_up_its_writes_alone(
    database: Database, prefix: str, open_site: OpenSite
) -> None:
    site = opened(open_site, database, prefix, store_timeout=TIMEOUT)
    member, other = ready(site, [site.member(), site.member("bob")])
    with closing(database.connect()) as line, line.cursor() as cursor:
        if database.scheme == "mysql":  # otherwise it locks gaps, too, and nobody can sign in
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT id FROM {prefix}_sessions ORDER BY id FOR UPDATE")
        assert read(member) == ANN
        outage(member, "/add/fig", BOUND + 1)
        outage(other, "/logout", BOUND + 1)
        good(site.visitor(), "/login/eve")
        cursor.execute("ROLLBACK")
    good(member, "/add/fig")


def test_a_dead_lock_with_a_foreign_transaction_is_not_noticed(
    database: Database, prefix: str
) -> None:
    """It locks rows in the other order; the server ends one of the two, and we try again."""
    store = open_store(database.url(), prefix)
    first, second = (new_key() for _ in range(2))
    rules = make_rules(total=1_000_000)
    for key in (first, second):
        assert isinstance(store.create(key, make_draft(), rules), Live)
    for _ in range(5):
        key = new_key()
        assert isinstance(store.create(key, make_draft(), rules), Live)
        _lock_against(database, prefix, key, lambda key=key: store.end(key, "s", "logout", None))  # type: ignore[misc]
        assert not isinstance(store.load(key, rules, slide=False), Live)
    assert store.audit(rules, 100).repaired == 0
    store.close()


def _lock_against(database: Database, prefix: str, key: str, work: Callable[[], object]) -> None:
    """Lock a session and then the seats, while *work* locks the seats and then the session."""
    name = '"key"' if database.scheme == "postgresql" else "`key`"
    with closing(database.connect()) as line, line.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            f"SELECT 1 FROM {prefix}_sessions WHERE {name} = %s FOR UPDATE",
            (key,),
        )
        thread = threading.Thread(target=work)
        thread.start()
        poll("a wait for the lock", lambda: _waits(database))
        with suppress(*databases.REFUSED):
            cursor.execute(f"SELECT 1 FROM {prefix}_seats FOR UPDATE")
        with suppress(*databases.REFUSED):
            cursor.execute("ROLLBACK")
        thread.join(20)
        assert not thread.is_alive()


def _waits(database: Database) -> bool:
    if database.scheme == "postgresql":
        waiting = database.ask("SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type='Lock'")
    else:
        waiting = database.ask(
            "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        )
    return bool(waiting[0][0])


# -- errors, and what the page says of them -----------------------------------------------------


class Scene:
    """Three members of a site, and the lines of its log."""

    def __init__(self, server: Database, prefix: str, open_site: OpenSite) -> None:
        self.server, self.prefix, self.open_site = server, prefix, open_site
        self.stack = ExitStack()
        self.clients: list[Any] = []
        self.lines: list[str] = []

    def members(self, **settings: Any) -> Site:
        """Signed in; each was used."""
        patient = opened(self.open_site, self.server, self.prefix)
        made = ready(patient, [patient.member() for _ in PATHS])
        return self.as_members(made, self.server.url(), **settings)

    def as_members(self, made: list[Any], url: str, **settings: Any) -> Site:
        site = self.open_site(url, key_prefix=self.prefix, **settings)
        self.clients = [site.visitor(like=member) for member in made]
        return site

    def through(self, url: str, **settings: Any) -> None:
        """The members, on a site that uses another URL."""
        self.members()
        self.as_members(self.clients, url, **settings)

    def ask(self, postgresql: str, mysql: str, undo: str = "") -> None:
        """Tell the server something; *undo* is told at the end."""
        statement = postgresql if self.is_postgresql else mysql
        for part in filter(None, statement.split(";")):
            self.server.ask(part)
        if undo:
            self.stack.callback(self.server.ask, undo)

    @property
    def is_postgresql(self) -> bool:
        return self.server.scheme == "postgresql"

    def user(self, rights: str, tables: str = "") -> str:
        """Returns the URL of a new user with *rights* to what is under the prefix."""
        name = f"u{self.prefix}"
        here = f"'{name}'@'127.0.0.1'"
        self.ask(f"CREATE ROLE {name} LOGIN", f"CREATE USER {here}")
        drop = f"DROP OWNED BY {name}; DROP ROLE {name}" if self.is_postgresql else ""
        self.stack.callback(self.ask, drop, f"DROP USER {here}")
        for table in tables.split():
            named = f"{self.prefix}_{table}"
            self.ask(f"GRANT {rights} ON {named} TO {name}", f"GRANT {rights} ON {named} TO {here}")
        return self.server.url(user=name)

    def visit(self) -> list[int]:
        return [
            client.get(path).status_code for client, path in zip(self.clients, PATHS, strict=True)
        ]


@pytest.fixture
def scene(
    server: Database, prefix: str, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> Iterator[Scene]:
    made = Scene(server, prefix, open_site)

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            made.lines.append(record.getMessage())

    note = Note()
    logger = logging.getLogger("flask_safesession")
    logger.addHandler(note)
    with made.stack:
        yield made
    logger.removeHandler(note)
    server.drop_tables(prefix)


def down(scene: Scene) -> None:
    scene.members()
    scene.server.kill()
    scene.stack.callback(scene.server.restart)


def silent(scene: Scene) -> None:
    scene.members(store_timeout="300ms")
    scene.server.pause()
    scene.stack.callback(scene.server.wait)
    scene.stack.callback(scene.server.resume)


def given_up(scene: Scene) -> None:
    down(scene)
    for _ in range(FAILURES):
        unavailable(scene.clients[0].get("/read"))


def wrong_password(scene: Scene) -> None:
    scene.members()
    made: Any = databases.STARTS[scene.server.scheme]
    secured = made(password="right")
    scene.stack.callback(secured.stop)
    scene.as_members(scene.clients, secured.url(password="wrong"))


def no_database(scene: Scene) -> None:
    scene.through(scene.server.url("nowhere"))


def no_tables(scene: Scene) -> None:
    scene.members()
    for table in ("meta", "sessions"):
        scene.server.ask(f"DROP TABLE {scene.prefix}_{table}")


def no_right(scene: Scene) -> None:
    scene.members()
    if not scene.is_postgresql:  # everybody may do everything in a database of this name
        everybody = "DELETE FROM mysql.db WHERE Db LIKE 'test%'; FLUSH PRIVILEGES"
        scene.ask("", everybody)
    url = scene.user("SELECT", "meta sessions seats")
    scene.as_members(scene.clients, url)


def read_only(scene: Scene) -> None:
    scene.members()
    tables = "meta sessions seats counts endings documents"
    url = scene.user("SELECT, INSERT, UPDATE, DELETE", tables)
    if scene.is_postgresql:
        scene.ask(f"ALTER ROLE u{scene.prefix} SET default_transaction_read_only = on", "")
    else:
        scene.ask("", "SET GLOBAL read_only = 1", undo="SET GLOBAL read_only = 0")
    scene.as_members(scene.clients, url)


def too_many_connections(scene: Scene) -> None:
    scene.members()
    made: Any = databases.STARTS[scene.server.scheme]
    option = "max_connections=10" if scene.is_postgresql else "--max-connections=10"
    small = made(option)
    scene.stack.callback(small.stop)
    for _ in range(30):
        with suppress(*databases.REFUSED):
            line = small.connect()
            scene.stack.callback(line.close)
    scene.as_members(scene.clients, small.url())


def pool_exhausted(scene: Scene) -> None:
    url = scene.server.url()
    scene.members()
    url += ("&" if "?" in url else "?") + "max_connections=1"
    site = scene.as_members(scene.clients, url, store_timeout="300ms")
    places = site.store._pool._places
    assert places.acquire(timeout=1)
    scene.stack.callback(places.release)


def locked(scene: Scene) -> None:
    """By a program that is no session store."""
    scene.members(store_timeout="1s")
    line = scene.server.connect()
    scene.stack.callback(line.close)
    cursor = line.cursor()
    if scene.is_postgresql:
        cursor.execute("BEGIN")
        cursor.execute(f"LOCK TABLE {scene.prefix}_sessions IN SHARE MODE")
    else:
        cursor.execute(f"LOCK TABLES {scene.prefix}_sessions READ")


FAULTS: dict[str, Callable[[Scene], None]] = {
    "the server is down": down,
    "it does not answer in time": silent,
    "the circuit is open": given_up,
    "the password": wrong_password,
    "no such database": no_database,
    "tables were dropped": no_tables,
    "a right is missing": no_right,
    "a read-only server": read_only,
    "no connection is left on the server": too_many_connections,
    "no connection is left in the process": pool_exhausted,
    "another program has locked a table": locked,
}


ROW = re.compile(r"^\| ([^`|]+) \| `(.+?)` \| `(.+?)` \| (\d+) \| (\d+) \| (\d+) \|", re.MULTILINE)
ROWS = {name: cells for name, *cells in ROW.findall(PAGE)}


def pattern(text: str) -> re.Pattern[str]:
    """A text of the page, for any address, user and table."""
    wild = re.escape(text).replace("10\\.0\\.0\\.1:0", r"[\w.:]+").replace("…", ".+")
    return re.compile(wild.replace("safesession_", r"\w+_"))


def test_the_page_has_each_error() -> None:
    assert ROWS.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_each_error_looks_as_the_page_says_and_names_its_fix(scene: Scene, fault: str) -> None:
    postgresql, mysql, *statuses = ROWS[fault]
    FAULTS[fault](scene)
    scene.lines.clear()
    assert scene.visit() == [*map(int, statuses)]
    errors = [line.partition("error=")[2] for line in scene.lines if "store-failed" in line]
    wanted = pattern(postgresql if scene.is_postgresql else mysql)
    assert any(wanted.match(error) for error in errors), errors
    assert not any("\\n" in error for error in errors)
