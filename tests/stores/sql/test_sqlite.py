"""SQLite: its file, its settings, what may be in its way, and what processes do to each other."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from flask_safesession import ConfigError, SafeSession, StoreUnavailable, session
from flask_safesession.config.settings import read_settings
from flask_safesession.model.policy import DEFAULT_TIER
from flask_safesession.model.record import Draft
from flask_safesession.model.tokens import tier_tag, user_tag
from flask_safesession.stores import admission, audit, engine, forks, rules, tombstones
from flask_safesession.stores.base import AuditStep, Gone, Live, Rules, Terms
from flask_safesession.stores.sql import store as sql_store
from flask_safesession.stores.sql import tables
from flask_safesession.stores.sql.seen import held_by_group
from flask_safesession.stores.sql.sqlite import connections, file, inspecting, steps
from flask_safesession.stores.sql.sqlite import store as sqlite
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.stores.tables import Scope
from flask_safesession.testing import AppKit, FakeClock, make_draft, make_rules, new_key

from ...support.concurrency import in_child
from ...support.sites.running import run_greenlets
from .. import test_memory
from ..test_memory import interrupted

MINUTE = 60_000
PATIENCE = 20.0
RULES = make_rules()
# -- help ---------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    made = SqliteStore(path, timeout=PATIENCE)
    yield made
    made.close()


def add(store: SqliteStore, payload: bytes = b"data", user: object = None) -> str:
    key = new_key()
    assert isinstance(store.create(key, make_draft(payload, user=user), RULES), Live)
    return key


def is_live(store: SqliteStore, key: str) -> bool:
    return isinstance(store.load(key, RULES, slide=False), Live)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program writes to the file for as long as the block lasts."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as other:
        return other.execute(query).fetchall()


def assert_sound(path: Path, prefix: str = "safesession") -> None:
    """The file is whole, and the counts are what the rows say."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    counted = rows(
        path,
        f"""SELECT tier_group, COUNT(*) FROM {prefix}_sessions
        WHERE generation = (SELECT generation FROM {prefix}_meta) GROUP BY tier_group""",
    )
    held = Counter[str]()
    for row in rows(path, f"SELECT part, held, tiers FROM {prefix}_seats"):
        held.update(held_by_group(row))
    assert dict(counted) == {group: number for group, number in held.items() if number}


def make_site(folder: Path, name: str = "site", **settings: Any) -> Flask:
    """An app whose instance folder is in *folder*."""
    app = Flask(name, instance_path=str(folder / name))
    app.secret_key = "a key for tests that is long enough"
    settings = {"store": "sqlite://", "check_interval": None, "store_timeout": "10s", **settings}
    app.extensions["tested.safe"] = SafeSession(app, **settings)

    @app.post("/sign-in/<user>")
    def sign_in(user: str) -> str:
        session["user_id"] = user
        return "in"

    @app.get("/who")
    def who() -> dict[str, Any]:
        return {"user": session.get("user_id")}

    return app


def store_of(app: Flask) -> SqliteStore:
    found: SqliteStore = app.extensions["safesession"].store
    return found


def who(client: Any) -> Any:
    return client.get("/who").json["user"]


# -- the file -----------------------------------------------------------------------------------


def test_the_file_is_in_the_instance_folder_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    client = make_site(tmp_path).test_client()
    client.post("/sign-in/ann")
    files = list((tmp_path / "site").iterdir())
    assert "safesession.sqlite3" in {file.name for file in files}
    assert {mode_of(file) for file in files} == {0o600}
    assert who(client) == "ann"


def test_a_name_is_one_in_the_instance_folder_and_a_path_is_a_path(tmp_path: Path) -> None:
    named = make_site(tmp_path, store="sqlite:///data/mine.db")
    assert store_of(named).path == tmp_path / "site" / "data" / "mine.db"
    elsewhere = make_site(tmp_path, "other", store=f"sqlite:///{tmp_path}/there.db")
    assert store_of(elsewhere).path == tmp_path / "there.db"


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("sqlite:///:memory:", "use memory:// in tests"),
        ("sqlite://:memory:", "use memory:// in tests"),
        ("sqlite://name.db", "write sqlite:///name.db"),
        ("sqlite:///name.db?timeout=5", "takes no parameters"),
        ("sqlite:////var/lib/", "names a folder"),
        ("sqlite3:////var/lib/x.db", "did you mean sqlite:////var/lib/x.db?"),
        ("sqlite3:///x.db", "did you mean sqlite:///x.db?"),
        ("sqlite", "did you mean sqlite://?"),
        ("ftp://localhost", "give 'memory://', 'sqlite://' or a URL that begins with postgresql"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_with_the_right_one(url: str, fix: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_settings({}, {"store": url})
    [problem] = refused.value.problems
    assert "SAFESESSION_STORE is" in problem
    assert fix in problem


def test_settings_of_a_fleet_of_servers_are_refused() -> None:
    with pytest.raises(ConfigError, match="SHARDS is 4, but the store is one file") as refused:
        read_settings({}, {"store": "sqlite://", "shards": 4, "wait_replicas": 1})
    assert "WAIT_REPLICAS is 1, but the store is one file" in str(refused.value)


def test_a_folder_that_is_not_there_or_cannot_be_written_to_is_refused_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="is not there: make"):
        make_site(tmp_path, store=f"sqlite:///{tmp_path}/nowhere/x.db")
    (tmp_path / "site").write_text("in the way of the folder")
    with pytest.raises(ConfigError, match=r"cannot be made .*let the app's user own it"):
        make_site(tmp_path)
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    with pytest.raises(ConfigError, match=r"cannot be written to.*let the app's user own it"):
        make_site(tmp_path, "unwritable")


def test_a_file_that_cannot_be_written_to_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    monkeypatch.setattr(os, "access", lambda of, _: of != path)
    with pytest.raises(ConfigError, match="cannot be written to: let the app's user own it"):
        SqliteStore(path)


def test_memory_is_refused_also_without_a_url() -> None:
    with pytest.raises(ConfigError, match="use memory://"):
        SqliteStore(":memory:")


def test_a_file_that_cannot_have_a_write_ahead_log_is_refused(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(steps.Connection):
        def execute(self, sql: str, *parameters: Any) -> Any:
            if "journal_mode" in sql:
                return SimpleNamespace(fetchone=lambda: ["delete"])
            return super().execute(sql, *parameters)

    monkeypatch.setattr(file, "Connection", Elsewhere)
    with pytest.raises(StoreUnavailable, match=r"write-ahead log.*keep it on a local disk"):
        add(store)


def test_tables_of_a_newer_version_are_refused_when_the_app_starts(tmp_path: Path) -> None:
    app = make_site(tmp_path)
    app.test_client().post("/sign-in/ann")
    file = store_of(app).path
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("UPDATE safesession_meta SET version = 99")
    store_of(app).close()
    with pytest.raises(ConfigError, match="of version 99, and this is version 1: use the newer"):
        make_site(tmp_path)


def test_tables_that_become_newer_are_an_outage_for_the_workers_that_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_site(tmp_path)
    signed_in = app.test_client()
    signed_in.post("/sign-in/ann")
    with closing(sqlite3.connect(store_of(app).path)) as other, other:
        other.execute("UPDATE safesession_meta SET version = 99")
    store_of(app).close()  # connections look at the version when they are opened
    for answer in (signed_in.get("/who"), app.test_client().post("/sign-in/bob")):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
    assert caplog.text.count("are of version 99, and this is version 1: use the newer") == 2


def test_an_app_can_keep_its_own_tables_in_the_file(path: Path) -> None:
    with closing(sqlite3.connect(path)) as own, own:
        own.execute("CREATE TABLE sessions (mine TEXT)")
    store = SqliteStore(path, prefix='it"s')
    assert is_live(store, add(store))
    store.close()
    assert rows(path, "SELECT * FROM sessions") == []


# -- what it keeps ------------------------------------------------------------------------------


def test_sessions_survive_a_restart(tmp_path: Path) -> None:
    """Also that of ``flask run --debug`` at each saved file."""
    before = make_site(tmp_path).test_client()
    before.post("/sign-in/ann")
    cookie = before.get_cookie("session")
    assert cookie is not None
    after = make_site(tmp_path).test_client()
    after.set_cookie("session", cookie.value)
    assert who(after) == "ann"


def test_two_apps_on_one_file_share_sessions_under_one_prefix_and_not_under_two(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    here, there = (make_site(tmp_path, name, store=url) for name in ("here", "there"))
    apart = make_site(tmp_path, "apart", store=url, key_prefix="apart")
    client = here.test_client()
    client.post("/sign-in/ann")
    cookie = client.get_cookie("session")
    assert cookie is not None
    for app, user in ((there, "ann"), (apart, None)):
        other = app.test_client()
        other.set_cookie("session", cookie.value)
        assert who(other) == user
    assert [app.extensions["tested.safe"].count() for app in (here, there, apart)] == [1, 1, 0]
    assert len({app.extensions["safesession"].place for app in (here, there)}) == 1


def test_one_url_is_another_file_in_each_app(tmp_path: Path) -> None:
    places = [make_site(tmp_path, name).extensions["safesession"].place for name in ("one", "two")]
    assert places[0] != places[1]


def test_sign_ins_and_ends_are_synced_to_the_disk_and_visits_are_not(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []
    finish = connections.Connections.finish

    def noted(self: Any, connection: Any, error: Any) -> None:
        levels.append(connection.execute("PRAGMA synchronous").fetchone()[0])
        finish(self, connection, error)

    monkeypatch.setattr(connections.Connections, "finish", noted)
    normal, full = 1, 2
    key, new, draft = new_key(), new_key(), make_draft()
    store.create(key, draft, RULES)
    store.commit(key, make_draft(), draft.stamp, touch=0)
    store.rotate(key, new, make_draft(user=1), RULES, Terms(None, True, "rotated"))
    store.end(new, "stamp--", "logout", None)
    store.create(new_key(), make_draft(user=1), RULES)
    store.end_user(user_tag(1), "stamp--", "revoked", "")
    store.end_all("stamp--")
    assert levels == [normal, normal, full, full, full, full, full]


def test_one_process_of_several_gets_the_lease(path: Path) -> None:
    clock = FakeClock()
    stores = [SqliteStore(path, clock=clock) for _ in range(3)]
    assert [store.lease("purge", 1000) for store in stores] == [True, False, False]
    clock.advance(1000)
    assert [store.lease("purge", 1000) for store in stores] == [True, False, False]


def test_the_purge_goes_in_steps_of_a_hundred_with_pauses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    store = SqliteStore(path, clock=clock)
    for _ in range(250):
        add(store)
    clock.advance(30 * MINUTE)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    steps = [store.purge(RULES, 10_000) for _ in range(3)]
    assert [(step.due, step.more) for step in steps] == [(100, True), (100, True), (50, False)]
    assert len(pauses) == 2
    assert min(pauses) > 0


def test_the_purge_empties_the_write_ahead_log(store: SqliteStore, path: Path) -> None:
    for _ in range(50):
        add(store, b"x" * 4000)
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size > 50 * 4000
    store.purge(RULES, 100)
    assert log.stat().st_size == 0


def test_the_rows_are_counted_once_in_as_many_steps_as_a_walk_would_take(
    store: SqliteStore,
) -> None:
    for _ in range(20):
        add(store)
    store.audit(RULES, 100)
    for _ in range(2):
        assert [store.audit(RULES, 8).done for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("after", ["x", "-1", "9" * 60, "f" * 60, f"{'9' * 20}:x:1"])
def test_a_cursor_that_somebody_made_up_is_no_number_that_sqlite_cannot_hold(
    store: SqliteStore, after: str
) -> None:
    add(store)
    with suppress(ValueError):
        store.page(DEFAULT_TIER, after, 1)


def test_the_audit_finds_counts_that_are_not_what_the_rows_say(
    store: SqliteStore, path: Path
) -> None:
    for user in (None, None, 1):
        add(store, user=user)
    store.end(add(store), "stamp--", "logout", None)
    assert store.audit(RULES, 10) == AuditStep(0, done=True)
    with closing(sqlite3.connect(path)) as other, other:
        tiers = json.dumps({"gone": 3, tier_tag("default"): 4}).encode()
        other.execute("UPDATE safesession_seats SET held = 14, tiers = ? WHERE part = 0", (tiers,))
    assert store.audit(RULES, 100).repaired == 3
    assert_sound(path)
    assert store.count(RULES).total == 3


def test_a_test_can_turn_the_clock_of_a_file(tmp_path: Path) -> None:
    app = make_site(tmp_path)
    client = app.test_client()
    with AppKit(app) as kit:
        client.post("/sign-in/ann")
        kit.travel("31m")
        assert who(client) is None
        client.post("/sign-in/bob")
    assert abs(store_of(app).document("none").now - file.wall_clock()) < MINUTE


def test_times_are_the_machines(store: SqliteStore) -> None:
    live = store.load(add(store), RULES, slide=False)
    assert isinstance(live, Live)
    assert abs(live.now - file.wall_clock()) < MINUTE


# -- what is in its way -------------------------------------------------------------------------


def test_while_another_program_writes_reading_goes_on_and_writing_is_a_503(
    tmp_path: Path,
) -> None:
    app = make_site(tmp_path, store_timeout="50ms")
    client = app.test_client()
    client.post("/sign-in/ann")
    assert who(client) == "ann"  # the first use is recorded
    with locked(store_of(app).path):
        assert who(client) == "ann"
        answer = client.post("/sign-in/bob")
        assert answer.status_code == 503
        assert "Set-Cookie" not in answer.headers
        with pytest.raises(StoreUnavailable, match="database is locked: another program writes"):
            add(store_of(app))
    assert who(client) == "ann"
    assert client.post("/sign-in/bob").status_code == 200
    assert_sound(store_of(app).path)


def test_a_writer_waits_for_another_one_and_no_longer_than_it_has_to(
    store: SqliteStore, path: Path
) -> None:
    add(store)
    with ThreadPoolExecutor(1) as pool:
        with locked(path):
            waiting = pool.submit(add, store)
            assert not waiting.done()
        assert is_live(store, waiting.result(PATIENCE))


def test_a_file_that_is_no_database_says_what_to_do_and_the_app_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "site" / "safesession.sqlite3"
    file.parent.mkdir()
    file.write_bytes(b"no database " * 1000)
    with caplog.at_level(logging.WARNING, "flask_safesession"):
        client = make_site(tmp_path).test_client()
    assert "move it away, and the app starts with an empty one" in caplog.text
    assert client.post("/sign-in/ann").status_code == 503
    file.unlink()
    assert client.post("/sign-in/ann").status_code == 200
    assert who(client) == "ann"


def test_a_database_that_is_damaged_says_what_to_do(path: Path) -> None:
    store = SqliteStore(path)
    keys = [add(store, b"x" * 2000) for _ in range(50)]
    store.purge(RULES, 10)
    store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with pytest.raises(StoreUnavailable, match="move it away"):
        [store.load(key, RULES, slide=True) for key in keys]


def test_a_record_that_is_damaged_is_one_session_less(path: Path) -> None:
    clock = FakeClock()
    store = SqliteStore(path, clock=clock)
    damaged, other = add(store, user=1), add(store, user=1)
    with closing(sqlite3.connect(path)) as intruder, intruder:
        update = "UPDATE safesession_sessions SET record = ? WHERE key = ?"
        intruder.execute(update, (b"garbage", damaged))
    draft = make_draft(user=1)
    assert store.load(damaged, RULES, slide=True) == Gone("corrupt")
    assert store.commit(damaged, draft, draft.stamp, touch=0) == Gone("corrupt")
    assert store.end(damaged, "stamp--", "logout", None) == Gone("corrupt")
    assert [one.key for one in store.sessions_of(user_tag(1))] == [other]
    assert [one.key for one in store.page(DEFAULT_TIER, "", 9).sessions] == [other]
    assert store.peek(damaged) is None
    clock.advance(30 * MINUTE)
    reasons = {gone.key: gone.reason for gone in store.purge(RULES, 10).removed}
    assert reasons == {damaged: "corrupt", other: "idle"}
    assert_sound(path)


def fill(store: SqliteStore, user: object) -> StoreUnavailable:
    """Create sessions until there is no room for more."""
    for _ in range(1000):
        try:
            add(store, b"x" * 5000, user=user)
        except StoreUnavailable as error:
            return error
    raise AssertionError("the disk was never full")


@pytest.mark.parametrize("user", [None, 1])
def test_on_a_full_disk_what_is_stored_can_be_read_and_nothing_is_half_done(
    store: SqliteStore, path: Path, user: object
) -> None:
    keys = [add(store, b"x" * 5000, user=user) for _ in range(20)]

    def child() -> list[Any]:
        mine = SqliteStore(path, timeout=PATIENCE)
        add(mine)
        limit = path.with_name(path.name + "-wal").stat().st_size + 200_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        error = str(fill(mine, user))
        reads = [is_live(mine, key) for key in keys]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        return [error, all(reads), is_live(mine, add(mine, b"x" * 5000, user=user))]

    error, reads, works = in_child(child)
    assert "room on" in error or "make room" in error
    assert reads
    assert works
    assert_sound(path)


def test_what_check_finds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(path)
    add(store)
    assert store.inspect() == []
    path.chmod(0o644)
    monkeypatch.setattr(inspecting, "_file_system_of", lambda _: "nfs4")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    found = {finding.name: finding.text for finding in store.inspect()}
    assert found.keys() == {"file-mode", "disk-nearly-full", "network-file-system"}
    assert "chmod 600" in found["file-mode"]
    assert "5 MiB left" in found["disk-nearly-full"]
    assert "(nfs4)" in found["network-file-system"]


def test_the_file_system_is_that_of_the_longest_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = f"/dev/a / ext4 rw 0 0\nthere:/x {tmp_path} nfs4 rw 0 0\ntmpfs /tmp/other tmpfs rw 0 0"
    monkeypatch.setattr(Path, "read_text", lambda _: mounts)
    assert inspecting._file_system_of(tmp_path / "x.db") == "nfs4"
    assert inspecting._file_system_of(Path("/etc/x.db")) == "ext4"


def test_a_file_that_was_moved_away_is_left_alone_within_a_second(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add(store)
    store.purge(RULES, 10)
    for name in (path, *path.parent.glob("*-wal"), *path.parent.glob("*-shm")):
        name.rename(name.with_name(f"old-{name.name}"))
    later = time.monotonic() + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert store.load(key, RULES, slide=True) == Gone("unknown")
    assert is_live(store, add(store))
    assert is_live(SqliteStore(path.with_name(f"old-{path.name}")), key)


# -- exceptions in the middle -------------------------------------------------------------------

OURS = (rules, sqlite, sql_store, tables, connections, engine, tombstones, admission, audit)


@pytest.fixture
def in_our_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_memory, "STEPS", {module.__file__ for module in OURS})


def change(store: SqliteStore, name: str, mine: str, visitor: str, draft: Draft) -> None:
    changes: dict[str, Callable[[], object]] = {
        "load": lambda: store.load(mine, RULES, slide=True),
        "create": lambda: store.create(new_key(), draft, RULES),
        "commit": lambda: store.commit(mine, draft._replace(payload=b"new"), draft.stamp, touch=0),
        "rotate": lambda: store.rotate(
            visitor, new_key(), draft, RULES, Terms(None, True, "rotated")
        ),
        "end_user": lambda: store.end_user(draft.user, "stamp--", "revoked", ""),
        "end_all": lambda: store.end_all("stamp--"),
        "purge": lambda: store.purge(RULES, 10),
    }
    changes[name]()


# The last step of a transaction is one that Python does not let raise.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("in_our_steps")
@pytest.mark.parametrize(
    "name", ["load", "create", "commit", "rotate", "end_user", "end_all", "purge"]
)
def test_fault_42_a_change_that_an_exception_interrupts_is_undone_and_locks_nobody_out(
    path: Path, name: str
) -> None:
    store = SqliteStore(path, timeout=5)
    for step in range(10_000):
        draft = make_draft(user=step)
        mine, visitor = new_key(), add(store)
        store.create(mine, draft, RULES)
        with interrupted(step) as done:
            change(store, name, mine, visitor, draft)
        other = SqliteStore(path, timeout=5)
        assert is_live(other, add(other))
        assert is_live(store, add(store))
        assert_sound(path)
        other.close()
        if done[0] >= 0:
            assert done[0] > 3
            return


# -- threads, forks and greenlets ---------------------------------------------------------------


def count_up(store: SqliteStore, key: str, times: int, rules: Rules = RULES) -> None:
    done = 0
    while done < times:
        found = store.load(key, rules, slide=False)
        assert isinstance(found, Live)
        draft = make_draft(b"%d" % (int(found.record.payload) + 1))
        done += isinstance(store.commit(key, draft, found.record.stamps[0], touch=0), Live)


def count_of(store: SqliteStore, key: str) -> int:
    found = store.load(key, RULES, slide=False)
    assert isinstance(found, Live)
    return int(found.record.payload)


def test_no_commit_of_concurrent_threads_is_lost(store: SqliteStore) -> None:
    key = add(store, b"0")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: count_up(store, key, 25), range(8)))
    assert count_of(store, key) == 200


def test_threads_that_come_and_go_leave_no_connection_behind(store: SqliteStore) -> None:
    key = add(store)
    for _ in range(20):
        thread = threading.Thread(target=is_live, args=(store, key))
        thread.start()
        thread.join()
    assert len(store._connections._idle) == 1
    store.close()
    assert not store._connections._idle


def test_parent_and_child_go_on_with_connections_of_their_own(
    store: SqliteStore, path: Path
) -> None:
    """Also if other threads of the parent were writing: SQLite's locks are not inherited."""
    key, stop = add(store, b"0"), threading.Event()
    counted = 0

    def count_on() -> None:
        nonlocal counted
        while not stop.is_set():
            count_up(store, key, 1)
            counted += 1

    def child() -> int:
        inherited = len(forks._leaked)
        count_up(store, key, 3)
        return inherited

    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(count_on)
        try:
            inherited = [in_child(child) for _ in range(15)]
        finally:
            stop.set()
        counting.result(PATIENCE)
    assert set(inherited) == {0}
    assert count_of(store, key) == counted + 45
    assert_sound(path)


def test_a_fork_in_the_middle_of_a_transaction_does_not_wait_for_itself(
    store: SqliteStore,
) -> None:
    with store.tables.transaction(Scope()):
        assert in_child(lambda: 1) == 1
    assert is_live(store, add(store))


def test_a_fork_that_runs_no_hooks_is_noticed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = add(store)
    before = store._connections._idle[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert is_live(store, key)
    assert store._connections._idle[0] is not before
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        before.execute("SELECT 1")


LEAVING = """
import os, sys
from flask_safesession.stores.tables import Scope
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.testing import make_draft, make_rules, new_key
store = SqliteStore(sys.argv[1])
store.create(new_key(), make_draft(), make_rules())
if os.fork() == 0:
    sys.exit(0)  # as a worker that ends by itself
os.wait()
store.create(new_key(), make_draft(), make_rules())
os._exit(0)  # so that the log is there
"""


def test_a_child_that_ends_takes_no_file_from_its_parent(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert SqliteStore(path).count(RULES).total == 2
    assert_sound(path)


@pytest.mark.parametrize("when", ["early", "late"])
def test_greenlets_see_their_own_session_also_when_they_are_cut_short(
    path: Path, when: str
) -> None:
    seen = run_greenlets(f"sqlite:///{path}", when, 20, 20)
    assert seen["wrong"] == []
    [(meta,), *_] = rows(path, "SELECT name FROM sqlite_master WHERE name LIKE '%_meta'")
    assert_sound(path, meta.removesuffix("_meta"))


WRITER = """
import json, sys
from flask_safesession.stores.tables import Scope
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.testing import make_draft, make_rules, new_key
store, rules = SqliteStore(sys.argv[1], timeout=30), make_rules(total=40, per_user=3)
for number in range(100):
    store.create(new_key(), make_draft(user=number % 5 or None), rules)
print(json.dumps(store.count(rules).total))
"""


def test_caps_hold_among_processes(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    totals = [json.loads(writer.communicate(timeout=60)[0]) for writer in writers]
    assert all(0 < total <= 40 for total in totals)
    assert_sound(path)
    store = SqliteStore(path)
    assert all(len(store.sessions_of(user_tag(user))) == 3 for user in range(1, 5))
