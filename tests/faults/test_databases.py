"""Databases do what tests take for granted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from ..support import databases, servers
from ..support.databases import REFUSED, Database
from ..support.databases._server import release_memory

pytestmark = pytest.mark.faults

Start = Callable[..., Database]


@pytest.fixture(params=databases.STARTS)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a database of each kind, for this test alone."""
    with contextlib.ExitStack() as stack:

        def make(*options: str, **ways: Any) -> Database:
            start: Start = databases.STARTS[request.param]
            made = start(*options, **ways)
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture(params=[*databases.STARTS, "pgbouncer"])
def own(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A server of this test alone, of each kind."""
    if request.param == "pgbouncer":
        made = databases.start_pgbouncer(request.getfixturevalue("postgresql"))
    else:
        made = databases.STARTS[request.param]()
    yield made
    made.stop()


def processes(database: Database) -> list[psutil.Process]:
    first = psutil.Process(database.process.pid)
    return [first, *first.children(recursive=True)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # its new parent has yet to collect it
    except psutil.NoSuchProcess:
        return False


def one(connection: Any) -> Any:
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()


def test_a_database_answers_on_its_port_and_on_its_socket(own: Database) -> None:
    assert one(own.connect()) == (1,)
    assert one(own.connect(socket=True)) == (1,)


def test_no_database_runs_as_root(own: Database) -> None:
    assert 0 not in psutil.Process(own.process.pid).uids() or os.geteuid() != 0


def test_a_paused_database_answers_when_it_is_resumed(own: Database) -> None:
    with ThreadPoolExecutor() as pool:
        with own.paused():
            answer = pool.submit(own.ask, "SELECT 1")
            with pytest.raises(TimeoutError):
                answer.result(timeout=0.2)
        assert list(answer.result()) == [(1,)]


@pytest.mark.parametrize("paused", [False, True])
def test_a_restart_keeps_what_was_committed(start: Start, paused: bool) -> None:
    database = start()
    database.ask("CREATE TABLE kept (number INT)")
    database.ask("INSERT INTO kept VALUES (%s)", 7)
    before = database.url(), database.folder
    if paused:
        database.pause()
    database.restart()
    assert (database.url(), database.folder) == before
    assert list(database.ask("SELECT number FROM kept")) == [(7,)]


def test_a_killed_database_leaves_no_process_and_a_stopped_one_no_file(own: Database) -> None:
    all_of_it, folder = processes(own), own.folder
    own.kill()
    assert not [process for process in all_of_it if is_alive(process)]
    with pytest.raises(REFUSED):
        own.ask("SELECT 1")
    own.stop()
    assert not folder.exists()


def test_pgbouncer_comes_back_on_its_port(pgbouncer: Database) -> None:
    pgbouncer.restart()
    assert one(pgbouncer.connect()) == (1,)


def test_a_password_is_asked_for(start: Start) -> None:
    database = start(password="it's \\:@/%")
    assert one(database.connect()) == (1,)
    for url in (database.url(password="wrong"), database.url(user=database.superuser)):
        with pytest.raises(REFUSED):
            databases.connect(url)
    if database.scheme == "postgresql":
        pooled = databases.start_pgbouncer(database)
        assert one(pooled.connect()) == (1,)
        pooled.stop()


def test_with_certificates_there_is_tls_alone(start: Start, tmp_path: Path) -> None:
    database = start(tls=servers.Certificates.make(tmp_path))
    assert one(database.connect()) == (1,)
    assert one(database.connect(socket=True)) == (1,)
    plain = "?sslmode=disable" if database.scheme == "postgresql" else ""
    with pytest.raises(REFUSED):
        databases.connect(database.url().partition("?")[0] + plain)


def test_the_tables_of_a_prefix_are_dropped(database: Database, prefix: str) -> None:
    for name in (f"{prefix}_one", f"{prefix}_two", f"{prefix}0_three"):
        database.ask(f"CREATE TABLE {name} (number INT)")
    database.drop_tables(prefix)
    database.ask(f"DROP TABLE {prefix}0_three")
    for name in (f"{prefix}_one", f"{prefix}_two"):
        database.ask(f"CREATE TABLE {name} (number INT)")  # there is none any more


def test_a_server_that_somebody_else_runs_is_used_and_never_stopped(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = start(password="secret")
    monkeypatch.setenv(f"SAFESESSION_TEST_{theirs.scheme.upper()}", theirs.url())
    taken = databases.take(theirs.scheme)
    assert list(taken.ask("SELECT 1")) == [(1,)]
    assert taken.url() == theirs.url()
    taken.stop()
    for end in (taken.pause, taken.kill, taken.restart):
        with pytest.raises(pytest.skip.Exception, match="not of this run"):
            end()
    assert theirs.running


def test_no_database_outlives_the_tests(start: Start) -> None:
    scheme = start().scheme  # or it is skipped here
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        code = f"""
import psutil, time
from tests.support import databases
started = databases.STARTS[{scheme!r}]()
first = psutil.Process(started.process.pid)
started.pause()
children = [child.pid for child in first.children(recursive=True)]
print(started.folder, first.pid, *children, flush=True)
time.sleep(60)
"""
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TMPDIR": folder},
        ) as tests:
            assert tests.stdout is not None
            place, *pids = tests.stdout.readline().split()
            all_of_it = [psutil.Process(int(pid)) for pid in pids]
            tests.send_signal(signal.SIGKILL)
        servers.poll("an end", lambda: not any(map(is_alive, all_of_it)))
        release_memory(Path(place) / "data" / "postmaster.pid")
