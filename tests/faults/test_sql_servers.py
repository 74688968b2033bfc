"""SQL servers that stop, restart, are full or refuse: what visitors get, and what the log says."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from flask_safesession import ConfigError
from flask_safesession.errors import StoreUnavailable
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
    logged_to,
    outage,
    read,
    unavailable,
)
from ..support.hammering_servers import open_store
from ..support.kits import WORKER
from ..support.servers import poll

pytestmark = pytest.mark.faults
RULES = make_rules()
PATHS = ("/read", "/add/fig", "/logout")
PAGE = (Path(__file__).parents[2] / "docs/incidents.md").read_text("utf-8")


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
    commit = Transaction.commit

    def stopping(self: Transaction) -> None:
        monkeypatch.setattr(Transaction, "commit", commit)
        server.pause()
        commit(self)

    monkeypatch.setattr(Transaction, "commit", stopping)
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
        # InnoDB shows what it knew before, as long as it is asked again within 100 ms.
        poll("a wait for the lock", lambda: _waits(database), every=0.15)
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
    with logged_to(made.lines), made.stack:
        yield made
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
    tables = "meta sessions seats endings documents"
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
    pool = site.store._pool
    scene.stack.callback(pool.give, pool.take())


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


def test_tables_of_a_newer_version_are_refused_when_the_app_starts(
    database: Database, prefix: str, open_site: OpenSite
) -> None:
    open_store(database.url(), prefix).prepare()
    database.ask(f"UPDATE {prefix}_meta SET version = 99")
    with pytest.raises(ConfigError, match="newer Flask-SafeSession"):
        opened(open_site, database, prefix)
    database.ask(f"UPDATE {prefix}_meta SET version = 1")


def test_tables_that_the_user_may_not_make_are_refused_with_the_fix(
    database: Database, prefix: str, open_site: OpenSite
) -> None:
    name = f"u{prefix}"
    if database.scheme == "postgresql":
        makes = [f"CREATE ROLE {name} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"]
        drop = f"DROP ROLE {name}"
    else:
        database.make_database(f"d{prefix}")
        makes = [
            f"CREATE USER '{name}'@'127.0.0.1'",
            f"GRANT SELECT ON d{prefix}.* TO '{name}'@'127.0.0.1'",
        ]
        drop = f"DROP USER '{name}'@'127.0.0.1'"
    for statement in makes:
        database.ask(statement)
    place = None if database.scheme == "postgresql" else f"d{prefix}"
    try:
        with pytest.raises(ConfigError, match="flask safesession schema"):
            open_site(database.url(place, name), key_prefix=prefix)
    finally:
        database.ask(drop)
        if place:
            database.ask(f"DROP DATABASE {place}")


@pytest.fixture
def small_disk(server: Database, tmp_path: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    """A disk of 12 MiB, and the URL of a database on it."""
    is_postgresql = server.scheme == "postgresql"
    if not is_postgresql:
        server.make_database(f"d{prefix}")
    folder = tmp_path / "disk" if is_postgresql else server.folder / "data" / f"d{prefix}"
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=0777", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    place = folder / "data"
    try:
        if is_postgresql:
            above = 3 if WORKER else 2  # each of several processes has a folder of its own
            for parent in (tmp_path, *tmp_path.parents[:above]):
                parent.chmod(0o755)
            place.mkdir()
            os.chown(place, server.account["user"], server.account["group"])
            server.ask(f"CREATE TABLESPACE s{prefix} LOCATION '{place}'")
            server.ask(f"CREATE DATABASE d{prefix} TABLESPACE s{prefix}")
        yield folder, server.url(f"d{prefix}")
        with suppress(*databases.REFUSED):  # MariaDB cannot remove a folder that is a disk
            server.ask(f"DROP DATABASE d{prefix}")
        if is_postgresql:
            server.ask(f"DROP TABLESPACE s{prefix}")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_sessions_can_be_read_and_a_freed_one_takes_more(
    small_disk: tuple[Path, str], prefix: str
) -> None:
    folder, url = small_disk
    store, rules = open_store(url, prefix, timeout=10), make_rules(total=1_000_000)
    store.prepare()
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast.write_bytes(b"x" * max(0, free - 1_500_000))
    keys, full = list[str](), None
    while full is None:
        key = new_key()
        try:
            store.create(key, make_draft(os.urandom(6000), user=len(keys), rules=rules), rules)
            keys.append(key)
        except StoreUnavailable as error:
            full = error
        assert len(keys) < 2000
    assert "make room on the server's disk" in str(full)
    assert len(keys) > 20
    for key in keys:  # uses are recorded where there is room
        assert isinstance(store.load(key, rules, slide=True), Live)
    ballast.unlink()
    assert isinstance(store.end(keys[0], "stamp--", "logout", None), Live)
    assert isinstance(store.create(new_key(), make_draft(rules=rules), rules), Live)
    assert store.audit(rules, 1).repaired == 0
    store.close()


def test_a_purge_of_a_hundred_thousand_goes_in_steps_and_others_go_on(
    database: Database, prefix: str
) -> None:
    store, rules, number = open_store(database.url(), prefix), make_rules(total=1_000_000), 100_000
    assert isinstance(store.create(new_key(), make_draft(rules=rules), rules), Live)
    _fill(database, prefix, number)
    others, swept, stop = list[float](), list[int](), threading.Event()

    def go_on() -> None:
        with closing(open_store(database.url(), prefix, timeout=5)) as other:
            while not stop.is_set():
                began, key = time.monotonic(), new_key()
                made = other.create(key, make_draft(rules=rules), rules)
                assert isinstance(made, Live)
                swept.append(len(made.removed))
                assert isinstance(other.end(key, "stamp--", "logout", None), Live)
                others.append(time.monotonic() - began)

    thread = threading.Thread(target=go_on)
    thread.start()
    due, steps, more = 0, 0, True
    while more:
        step = store.purge(rules, 1000)
        due, steps, more = due + step.due, steps + 1, step.more
    stop.set()
    thread.join(20)
    assert store.count(rules).due == 0
    assert due + sum(swept) == number, "creations remove some, too"
    assert due / 500 <= steps <= due / 500 + 2
    assert len(others) > steps / 4
    assert max(others) < 5
    assert store.audit(rules, 1).repaired == 0
    store.close()


def _fill(database: Database, prefix: str, number: int) -> None:
    """Copy the only session, as due ones."""
    series = "generate_series(1, %d) AS n" if database.scheme == "postgresql" else "seq_1_to_%d"
    n = "n" if database.scheme == "postgresql" else "seq"
    key = '"key"' if database.scheme == "postgresql" else "`key`"
    database.ask(
        f"INSERT INTO {prefix}_sessions ({key}, generation, tier_group, deadline, record)"
        f" SELECT CONCAT('x', {n}), generation, tier_group, {n}, record"
        f" FROM {prefix}_sessions, {series % number}"
    )
    database.ask(f"UPDATE {prefix}_seats SET held = held + {number} WHERE part = 0")


# -- clocks -------------------------------------------------------------------------------------


def test_fault_22_a_workers_clock_an_hour_off_changes_nothing(
    database: Database, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, rules = open_store(database.url(), prefix), make_rules(idle=60_000)
    began, real = time.monotonic(), time.time
    for hours in (-1, 1):
        monkeypatch.setattr(time, "time", lambda hours=hours: real() + hours * 3600)
        key = new_key()
        draft = make_draft(rules=rules)
        assert isinstance(store.create(key, draft, rules), Live)
        loaded = store.load(key, rules, slide=True)
        assert isinstance(loaded, Live)
        draft = make_draft(b"new", rules=rules)
        stamp = loaded.record.stamps[0]
        answer = store.commit(key, draft, stamp, touch=0, loaded=loaded.record)
        assert isinstance(answer, Live)
        passed = (time.monotonic() - began) * 1000 + 1000
        assert abs(answer.record.last_active - loaded.record.created) < passed
    store.close()


@pytest.mark.parametrize("step", [-3_600_000, 3_600_000, -500, 500])
def test_fault_39_a_databases_clock_that_steps_ends_nothing_too_late(
    database: Database, prefix: str, step: int
) -> None:
    """A commit takes the time for known; the database sees that it is not, and decides."""
    clock = f"{prefix}_clock"
    database.ask(f"CREATE TABLE {clock} (ahead BIGINT NOT NULL)")
    database.ask(f"INSERT INTO {clock} VALUES (0)")
    store = open_store(database.url(), prefix)
    real = store._driver.dialect.clock
    store.close()
    sql = f"({real} + (SELECT ahead FROM {clock}))"
    store = open_store(database.url(), prefix, clock=sql)
    rules, key = make_rules(idle=1_800_000), new_key()
    assert isinstance(store.create(key, make_draft(rules=rules), rules), Live)
    loaded = store.load(key, rules, slide=True)
    assert isinstance(loaded, Live)
    database.ask(f"UPDATE {clock} SET ahead = {step}")
    draft = make_draft(b"new", rules=rules)
    stamp = loaded.record.stamps[0]
    answer = store.commit(key, draft, stamp, touch=0, loaded=loaded.record)
    if step > rules.policy.default.idle:
        assert not isinstance(answer, Live), "it was over"
    else:
        assert isinstance(answer, Live)
        after = store.load(key, rules, slide=False)
        assert isinstance(after, Live)
        assert answer.record.last_active <= max(after.now, loaded.now) + 1000
    store.end_all("stamp--")
    assert not isinstance(store.load(key, rules, slide=False), Live)
    store.close()
    database.ask(f"DROP TABLE {clock}")
