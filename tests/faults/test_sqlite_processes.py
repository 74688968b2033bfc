"""Several processes on one SQLite file: a hammer with a watcher, killed writers, full disks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.tokens import user_tag
from flask_safesession.stores.base import Live
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.testing import make_draft, make_rules, new_key

from ..stores.sql.test_sqlite import add, assert_sound, is_live, locked
from ..support.faults_kit import Site, logged_to, members, rows_of
from ..support.hammering import PER_USER, RULES, TOTAL, USERS
from ..support.said import Said, file_of, find_wrong, heard
from ..support.servers import poll
from ..support.sites.running import browse, gunicorn, share_one_session

pytestmark = pytest.mark.faults
PROCESSES = 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


def is_unlocked(path: Path) -> bool:
    """Whether no process is in a transaction that writes to the file."""
    if not path.exists():
        return True
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def hammer(path: Path, number: int, seconds: float, patch: str = "") -> subprocess.Popen[bytes]:
    """One process of the hammer; *patch* is run before it begins."""
    code = f"{patch}\nfrom tests.support.hammering import main\nimport sys\nmain(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(path), str(number), str(seconds)]
    with file_of(path.parent, number).open("w") as said:
        return subprocess.Popen(command, stdout=said, cwd=ROOT)


def watch(path: Path, done: Callable[[], bool]) -> int:
    """Look at the caps until *done*; returns how often."""
    store, looks = SqliteStore(path, timeout=20), 0
    while not done():
        live = store.count(RULES)
        assert live.total + live.due <= TOTAL
        assert all(len(store.sessions_of(user_tag(user))) <= PER_USER for user in USERS)
        looks += 1
    store.close()
    return looks


def test_nothing_is_lost_and_no_cap_is_passed_while_processes_hammer_one_file(path: Path) -> None:
    processes = {number: hammer(path, number, 8) for number in range(PROCESSES)}
    looks = watch(path, lambda: any(one.poll() is not None for one in processes.values()))
    said = heard(path.parent, processes)
    assert looks > 10
    assert find_wrong(said) == []
    assert {"created", "seen", "won", "ended"} <= {what for _, what, _ in said}
    assert len(said) > 1000
    assert_sound(path)


MUTANTS = {
    "a commit without a look at the stamp": """
from flask_safesession.stores import engine
import flask_safesession.model.record as r
old = engine.Engine.commit
def commit(self, key, draft, expected, *, touch, loaded=None):
    t = self.tables
    with t.transaction(writes=False):
        t.now()
        record = t.read(key)
    return old(self, key, draft, record.stamps[0] if record else expected, touch=touch)
engine.Engine.commit = commit
""",
    "a rotation that leaves the old session": """
from flask_safesession.stores.sql.tables import SqlTables
from flask_safesession.stores import engine
admit = engine.admit
def without(t, key, fresh, rules, now, over, leaving=None):
    remove, t.remove = t.remove, lambda key: None
    try:
        return admit(t, key, fresh, rules, now, over, leaving)
    finally:
        del t.remove
engine.admit = without
""",
    "creates that take turns without a lock": """
from flask_safesession.stores.sql import connections

def free(connection):
    connection.execute("PRAGMA busy_timeout=5000")
connections.begin_to_write = connections.begin_to_read = free
finish = connections.Connections.finish
def only_give(self, connection, error):
    self._local.connection = None
    self._give(connection)
connections.Connections.finish = only_give
""",
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_hammer_notices_a_store_that_is_wrong(path: Path, mutant: str) -> None:
    """A hammer that finds nothing proves nothing."""
    SqliteStore(path).count(RULES)
    processes = {n: hammer(path, n, 5, MUTANTS[mutant]) for n in range(PROCESSES)}
    wrong: list[str] = []
    try:
        watch(path, lambda: any(one.poll() is not None for one in processes.values()))
    except AssertionError as error:
        wrong.append(str(error))
    wrong += find_wrong(heard(path.parent, processes))
    try:
        assert_sound(path)
    except AssertionError as error:
        wrong.append(str(error))
    assert wrong


def test_writers_that_are_killed_leave_everything_or_nothing(path: Path) -> None:
    dice = random.Random(1)
    SqliteStore(path).count(RULES)
    said: list[Said] = []
    for number in range(12):
        victims = {n: hammer(path, n, 60) for n in (2 * number, 2 * number + 1)}
        poll("writers", lambda: all(map(_has_said, [path] * 2, victims)))  # noqa: B023  # now
        time.sleep(dice.uniform(0, 0.1))
        for victim in victims.values():
            victim.send_signal(signal.SIGKILL)
        said += heard(path.parent, victims)
        assert_sound(path)
    assert len(said) > 500
    assert find_wrong(said) == []
    store = SqliteStore(path, timeout=2)
    ended = {of for _, what, of in said if what == "ended"}
    assert not any(is_live(store, key) for key in ended)
    assert is_live(store, add(store))


def _has_said(path: Path, number: int) -> bool:
    return file_of(path.parent, number).stat().st_size > 5000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_sessions_can_be_read_and_ended_and_a_freed_one_takes_more(
    small_disk: Path,
) -> None:
    path, rules = small_disk / "sessions.sqlite3", make_rules(total=10_000)
    store = SqliteStore(path, timeout=2)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 300_000)
    keys: list[str] = []
    full = None
    while full is None:
        key, draft = new_key(), make_draft(b"x" * 4000, user=len(keys), rules=rules)
        try:
            store.create(key, draft, rules)
            keys.append(key)
        except StoreUnavailable as error:
            full = error
    assert "room" in str(full)
    assert len(keys) > 50
    assert all(is_live(store, key) for key in keys)
    ballast.unlink()
    assert isinstance(store.end(keys[0], "stamp--", "logout", None), Live)
    assert isinstance(store.create(new_key(), make_draft(), rules), Live)
    store.close()
    assert_sound(path)


# -- what the log says --------------------------------------------------------------------------


def fill_disk(path: Path) -> None:
    with contextlib.suppress(OSError), (path.parent / "ballast").open("wb", 0) as ballast:
        while True:
            ballast.write(b"x" * 1000)


def overwrite(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"no database " * 1000)


def take_away(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


FAULTS: dict[str, Callable[[Path], Any]] = {
    "another program writes to the file for too long": locked,
    "the disk is full": fill_disk,
    "the file is not a database": overwrite,
    "the folder is gone": take_away,
}


def test_the_page_has_each_of_these_faults() -> None:
    assert rows_of("SQLite").keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_looks_as_the_page_says(
    fault: str, request: pytest.FixtureRequest, tmp_path: Path, open_site: Callable[..., Site]
) -> None:
    (folder := tmp_path / "site").mkdir()
    if fault == "the disk is full":
        folder = request.getfixturevalue("small_disk")
    path, lines = folder / "shop.sqlite3", list[str]()
    site = open_site(f"sqlite:///{path}", store_timeout="200ms")
    paths = ("/read", "/add/fig", "/logout")
    clients = members(site, paths)
    if fault in ("the file is not a database", "the folder is gone"):
        site.store.close()  # otherwise it notices within a second
    with logged_to(lines), FAULTS[fault](path) or contextlib.nullcontext():
        found = [client.get(at).status_code for client, at in zip(clients, paths, strict=True)]
    text, statuses = rows_of("SQLite")[fault]
    assert found == statuses
    assert any(text.replace("/srv", str(folder)) in line for line in lines), lines


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
@pytest.mark.parametrize("preload", [True, False])
def test_fault_25_three_workers_on_one_file_share_sessions(
    path: Path, prefix: str, tmp_path: Path, kind: str, preload: bool
) -> None:
    options = ["--workers", "3", "--worker-class", kind, *(["--preload"] if preload else [])]
    where: Any = SimpleNamespace(url=f"sqlite:///{path}", port=0)
    with gunicorn(where, prefix, tmp_path, *options, used=preload) as site:
        poll("three workers", lambda: len(site.workers()) == 3)
        site.is_free = lambda: is_unlocked(path)
        browse(site, 5)
        share_one_session(site)
        site.stop()
        log = site.log.read_text()
    assert "Traceback" not in log
    assert_sound(path, prefix)
