"""The figures of a fleet: several processes, one document in the store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, session

from flask_safesession import SafeSession, StoreUnavailable
from flask_safesession.dashboard import dashboard, fleet, minutes
from flask_safesession.dashboard.fleet import DOCUMENT, Fleet
from flask_safesession.dashboard.minutes import SPAN, Figures
from flask_safesession.events import (
    SessionCreated,
    SessionEnded,
    StoreFailed,
    StorePurged,
    emit,
)
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock, StoreKit

from ..support import servers

MINUTE = 60_000


class Worker:
    """A process of the fleet, with its own clock."""

    def __init__(self) -> None:
        # Events count in the middle of their second: here that is now, whatever the store's clock.
        self.app, self.seconds = Flask("worker"), 1000.5
        self.fleet = Fleet(lambda: self.seconds)
        self.fleet.listen(self.app)

    def create(self, count: int = 1) -> None:
        for _ in range(count):
            emit(self.app, SessionCreated("h", "default"))

    def end(self, reason: str) -> None:
        emit(self.app, SessionEnded("h", reason, "default"))

    def report(self, store: Any) -> Figures:
        found = self.fleet.report(store)
        assert found is not None
        return found


@pytest.fixture
def workers() -> list[Worker]:
    return [Worker() for _ in range(3)]


def created(figures: Figures) -> int:
    return sum(minute.created for minute in figures.last())


def ended(figures: Figures) -> dict[str, int]:
    """Of the whole hour, since a minute may begin between two reports."""
    return dict(sum((Counter(minute.ended) for minute in figures.last()), Counter[str]()))


# -- what is counted --------------------------------------------------------------------------


@pytest.mark.every_store
def test_the_figures_are_those_of_all_workers_whichever_shows_them(
    kit: StoreKit, workers: list[Worker]
) -> None:
    for number, worker in enumerate(workers):
        worker.create(number + 1)
        worker.end("logout")
        worker.end("of a store of somebody else's")
        emit(worker.app, StorePurged(number, 0, 0, 0.5))
        worker.report(kit.store)
    for worker in workers:
        figures = worker.report(kit.store)
        assert (created(figures), ended(figures)) == (6, {"logout": 3, "other": 3})
        assert {run.did and run.did.due for run in figures.newest_runs()} == {0, 1, 2}


def test_events_count_in_the_minute_of_the_stores_clock_in_which_they_happened(
    store: MemoryStore, clock: FakeClock, workers: list[Worker]
) -> None:
    worker = workers[0]
    clock.now = 600 * MINUTE
    worker.create()
    worker.seconds += 150
    clock.advance(150_000)
    worker.create(2)
    last = worker.report(store).last()
    assert [minute.created for minute in last[-3:]] == [1, 0, 2]
    assert last[-1].start == 602 * 60


@pytest.mark.parametrize("ahead", [0.0, 0.3, 0.95])
def test_events_at_either_end_of_a_minute_count_in_it_whenever_the_process_began(
    store: MemoryStore,
    clock: FakeClock,
    workers: list[Worker],
    monkeypatch: pytest.MonkeyPatch,
    ahead: float,
) -> None:
    passing = SimpleNamespace(time=lambda: clock() / 1000, monotonic=lambda: clock() / 1000 + ahead)
    monkeypatch.setattr(fleet, "time", passing)
    worker = workers[0]
    worker.fleet = Fleet()
    worker.fleet.listen(worker.app)
    clock.now = 600 * MINUTE + 100
    worker.create()
    clock.advance(MINUTE - 200)
    worker.create()
    clock.advance(200)
    worker.create()
    for moment in (0, 500, 30_000):
        clock.advance(moment)
        last = worker.report(store).last()
        assert [minute.created for minute in last[-2:]] == [2, 1]


def test_what_was_reported_is_not_reported_again(store: MemoryStore, workers: list[Worker]) -> None:
    workers[0].create()
    before = store.document(DOCUMENT).document
    workers[0].report(store)
    written = store.document(DOCUMENT).document
    assert created(workers[0].report(store)) == 1
    assert before != written == store.document(DOCUMENT).document


def test_a_worker_that_dies_leaves_what_it_has_reported(
    store: MemoryStore, workers: list[Worker]
) -> None:
    workers[0].create(5)
    workers[0].report(store)
    del workers[0]
    assert created(workers[0].report(store)) == 5


def test_no_event_is_missed_when_threads_send_many_and_some_report(
    store: MemoryStore, workers: list[Worker]
) -> None:
    def send(worker: Worker) -> None:
        for number in range(300):
            worker.create()
            if number % 50 == 0:
                worker.report(store)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(send, workers * 2))
    for worker in workers:
        worker.report(store)
    assert created(workers[0].report(store)) == 1800


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_child_counts_anew_even_if_the_parent_held_the_locks(
    store: MemoryStore, workers: list[Worker]
) -> None:
    worker = workers[0]
    worker.create(3)
    tally = worker.fleet._tally()
    with tally._lock, tally.reporting:
        child = os.fork()
        if not child:
            signal.alarm(20)  # else one that waits for the lock would wait for ever
            worker.create()
            os._exit(created(worker.report(store)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


# -- replies that are lost, and conflicts -----------------------------------------------------


class Flaky:
    """A store that fails writes, before or after they are done."""

    def __init__(self, store: MemoryStore, *, done: bool) -> None:
        self._store, self._done, self.fails = store, done, True

    def document(self, name: str) -> Any:
        return self._store.document(name)

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        if self._done or not self.fails:
            kept = self._store.keep(name, document, expected)
        if self.fails:
            raise StoreUnavailable("the reply was lost")
        return kept


@pytest.mark.parametrize("done", [True, False])
def test_a_lost_reply_counts_nothing_twice_and_loses_nothing(
    store: MemoryStore, workers: list[Worker], *, done: bool
) -> None:
    worker, flaky = workers[0], Flaky(store, done=done)
    worker.create(2)
    emit(worker.app, StorePurged(7, 0, 0, 0.1))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            worker.fleet.report(flaky)  # type: ignore[arg-type]
        worker.create(3)
    workers[1].create(10)
    workers[1].report(store)
    flaky.fails = False
    figures = worker.fleet.report(flaky)  # type: ignore[arg-type]
    assert figures is not None
    assert created(figures) == created(worker.report(store)) == 2 + 3 + 3 + 10
    assert [run.did and run.did.due for run in figures.newest_runs()] == [7]


class Contested(MemoryStore):
    """A store in which another worker is faster, again and again."""

    def __init__(self, clock: Callable[[], int], others: list[Worker]) -> None:
        super().__init__(clock)
        self.others = others

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        if self.others:
            self.others.pop().fleet.report(self)
        return super().keep(name, document, expected)


def test_workers_that_write_at_the_same_time_all_count(
    clock: FakeClock, workers: list[Worker]
) -> None:
    first, *others = workers
    store = Contested(clock, others.copy())
    for worker in workers:
        worker.create()
    assert created(first.report(store)) == 3


def test_a_worker_that_never_wins_keeps_its_counts(
    store: MemoryStore, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers[0].create()
    with monkeypatch.context() as patch:
        patch.setattr(store, "keep", lambda *_: False)
        workers[0].report(store)
    assert created(workers[1].report(store)) == 0
    assert created(workers[0].report(store)) == 1


ENDS = """
import sys
from flask import Flask, session
from flask_safesession import SafeSession
from flask_safesession.dashboard import dashboard

app = Flask("worker")
app.secret_key = "a key for tests that is long enough"
safe = SafeSession(app, store=sys.argv[1], check_interval="1h")
app.register_blueprint(dashboard(safe, allowed=lambda: True))
app.add_url_rule("/", "write", lambda: str(session.setdefault("cart", 3)))
for _ in range(int(sys.argv[2])):
    app.test_client().get("/")
"""


def test_a_worker_that_ends_by_itself_leaves_all_that_it_has_counted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.sqlite3"
    for count in (3, 0, 4):
        subprocess.run([sys.executable, "-c", ENDS, url, str(count)], check=True)
    app = Flask("reader")
    safe = SafeSession(app, store=url, check_interval=None)
    store = safe._state()[1].opened.index
    assert created(Worker().report(store)) == safe.count() == 7
    app.extensions["safesession"].store.close()


def test_a_process_without_a_job_reports_nothing_when_it_ends(store: MemoryStore) -> None:
    app, reported = Flask("command"), list[object]()
    SafeSession(app, store=store)
    job = app.extensions["safesession"].job
    job.reports.append(reported.append)
    job.leave()
    assert reported == []
    assert job.run() is not None
    assert reported == [store]


# -- clocks and limits ------------------------------------------------------------------------


def test_an_hour_is_kept_and_no_more(
    store: MemoryStore, clock: FakeClock, workers: list[Worker]
) -> None:
    for _ in range(100):
        for worker in workers:
            worker.create()
            worker.report(store)
        clock.advance(MINUTE)
    clock.advance(-MINUTE)
    last = workers[0].report(store).last()
    assert [minute.created for minute in last] == [3] * SPAN
    newest = clock.now // MINUTE
    assert [minute.start // 60 for minute in last] == list(range(newest - SPAN + 1, newest + 1))


def test_the_document_stays_small(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minutes, "WRITERS", 20)
    for _ in range(70):
        worker = Worker()  # a server that replaces its workers all the time
        for reason in (*minutes.REASONS, "whim"):
            worker.create(3)
            worker.end(reason)
        emit(worker.app, StorePurged(1_000, 1_000, 1_000, 10.123456))
        worker.report(store)
        clock.advance(MINUTE)
    kept = json.loads(store.document(DOCUMENT).document)
    assert (len(kept["minutes"]), len(kept["runs"]), len(kept["writers"])) == (60, minutes.RUNS, 20)
    assert len(store.document(DOCUMENT).document) < 8_000


def test_a_worker_keeps_a_bounded_number_of_counters_while_the_store_is_down(
    store: MemoryStore, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "_MOST", 5)
    for _ in range(20):
        workers[0].create()
        workers[0].seconds += 1
    assert created(workers[0].report(store)) == 5


@pytest.mark.parametrize(
    ("step", "shown", "later"),
    [(-90, 1, 1), (-30, 1, 1), (-1, 1, 4), (1, 4, 4), (30, 4, 4), (90, 1, 1)],
)
def test_a_clock_that_steps_doubles_nothing_and_recovers(
    store: MemoryStore, clock: FakeClock, workers: list[Worker], step: int, shown: int, later: int
) -> None:
    for worker in workers:
        worker.create()
        worker.report(store)
    clock.advance(step * MINUTE)
    workers[0].create()
    assert created(workers[0].report(store)) == shown
    clock.advance(MINUTE)
    assert created(workers[1].report(store)) == later


def test_runs_that_failed_in_all_workers_are_one_run(
    store: MemoryStore, workers: list[Worker]
) -> None:
    for worker in workers:
        emit(worker.app, StoreFailed("purge", "gone"))
        emit(worker.app, StoreFailed("load", "gone"))
        worker.report(store)
    assert [run.did for run in workers[0].report(store).newest_runs()] == [None]


# -- documents of others ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        b"\xff",
        b"[]",
        b'{"minutes": 7}',
        b'{"minutes": {"x": {}}}',
        b'{"runs": [[1, 2]]}',
        b'{"runs": 5}',
        b'{"writers": {"a": 1}}',
        b'{"version": "x"}',
    ],
)
def test_a_document_that_cannot_be_read_is_replaced(
    store: MemoryStore, workers: list[Worker], document: bytes
) -> None:
    store.keep(DOCUMENT, document, b"")
    workers[0].create()
    assert created(workers[0].report(store)) == 1
    assert created(workers[1].report(store)) == 1


def test_a_document_of_a_newer_version_is_left_alone(
    store: MemoryStore, workers: list[Worker]
) -> None:
    store.keep(DOCUMENT, b'{"version": 2}', b"")
    workers[0].create()
    assert workers[0].fleet.report(store) is None
    assert store.document(DOCUMENT).document == b'{"version": 2}'


# -- real processes ---------------------------------------------------------------------------


def session_is_over() -> str:
    session.clear()
    return ""


def make_app(url: str, prefix: str) -> Flask:
    """An app with a dashboard, as each worker of a fleet has it."""
    app = Flask("fleet")
    app.secret_key = "a key for tests that is long enough"
    safe = SafeSession(app, store=url, key_prefix=prefix, store_timeout="10s")
    app.register_blueprint(dashboard(safe, allowed=lambda: True))
    app.add_url_rule("/in", "in", lambda: str(session.update(user_id="carl")))
    app.add_url_rule("/out", "out", session_is_over)
    return app


WORKER = """
import sys
from tests.addons.test_fleet import make_app

app = make_app(*sys.argv[1:])
for _ in range(10):
    client = app.test_client()
    client.get("/in")
    client.get("/out")
    app.extensions["safesession"].job.run()
"""


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgresql"])
def test_three_processes_at_the_same_time_are_counted_as_one(
    kind: str, tmp_path: Path, prefix: str, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path}/sessions.sqlite3"
    else:
        pool: Any = request.getfixturevalue("pool")
        given = pool.database(kind).url() if kind == "postgresql" else None
        url = given or f"redis://127.0.0.1:{pool.get(min(servers.binaries())).port}/0"
    app = make_app(url, prefix)
    command = [sys.executable, "-c", WORKER, url, prefix]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0] * 3
    page = app.test_client().get("/safesession/").text
    app.extensions["safesession"].store.close()
    assert "Of all workers, in the last 60 minutes." in page
    assert "created, above the line: <b>30</b>" in page
    assert "logout: <b>30</b>" in page
    runs = page.partition('id="runs"')[2].partition("</section>")[0]
    assert runs.count('<th scope="row">') == 1  # one process has the lease
