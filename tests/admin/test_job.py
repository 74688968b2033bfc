"""The purge job: when it runs, where, what it does, and what it outlives."""

from __future__ import annotations

import gc
import logging
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
import redis
import time_machine
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask

from flask_safesession import SafeSession, StoreUnavailable
from flask_safesession.admin import job as purge_job
from flask_safesession.admin.job import PurgeJob
from flask_safesession.admin.purge import PurgeReport, audit
from flask_safesession.events import session_ended, store_failed, store_purged
from flask_safesession.stores.base import AuditStep, PurgeStep, Rules
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock, make_draft, make_rules, new_key

from ..support.concurrency import PATIENCE, in_child
from ..support.counting import PlainStore
from ..support.servers import Server

MINUTE = 60_000


class MakeApp(Protocol):
    def __call__(self, **settings: Any) -> Flask: ...


# -- help ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_process_scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins without a scheduler in the process, and leaves none."""
    monkeypatch.setattr(purge_job, "_scheduler", None)
    yield
    if purge_job._scheduler is not None:
        purge_job._scheduler.shutdown(wait=False)


class WatchedStore(MemoryStore):
    """Notes on which threads it is purged; fails or waits where a test says so."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        super().__init__(clock or FakeClock())
        self.purges: list[threading.Thread] = []
        self.purging = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.down = False

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        self.purges.append(threading.current_thread())
        self.purging.set()
        assert self.may_go_on.wait(PATIENCE)
        if self.down:
            raise StoreUnavailable("the store is down")
        return super().purge(rules, limit)


@pytest.fixture
def store() -> Iterator[WatchedStore]:
    made = WatchedStore()
    yield made
    made.may_go_on.set()


@pytest.fixture
def serve(make_app: MakeApp) -> Callable[..., Flask]:
    """Makes an app whose job comes round once an hour, and lets it serve a request."""

    def make(**settings: Any) -> Flask:
        app = make_app(**{"check_interval": "1h", **settings})
        app.add_url_rule("/", view_func=_hello)
        assert visit(app) == 200
        return app

    return make


def _hello() -> str:
    return "hello"


def visit(app: Flask) -> int:
    """One request, which does not use the session; its status."""
    return app.test_client().get("/").status_code


def purge_job_of(app: Flask) -> PurgeJob:
    found: PurgeJob = app.extensions["safesession"].job
    return found


def safe_of(app: Flask) -> SafeSession:
    found: SafeSession = app.extensions["tested.safe"]
    return found


def job_of(app: Flask) -> Any:
    of = purge_job_of(app)
    return of._scheduler.get_job(of._id)


def jobs() -> list[Any]:
    """The jobs of the process's own scheduler."""
    return [] if purge_job._scheduler is None else list(purge_job._scheduler.get_jobs())


def run_soon(app: Flask) -> None:
    """Let the scheduler think that it is time."""
    job_of(app).modify(next_run_time=datetime.now(UTC))


def fill(store: MemoryStore, rules: Rules, count: int, user: object = None) -> None:
    for _ in range(count):
        store.create(new_key(), make_draft(rules=rules, user=user), rules)


def rules_of(app: Flask) -> Rules:
    found: Rules = app.extensions["safesession"].settings.rules
    return found


# -- when it starts -----------------------------------------------------------------------------


def test_neither_init_nor_a_command_starts_the_job(make_app: MakeApp) -> None:
    app = make_app(check_interval="1h")
    assert app.test_cli_runner().invoke(args=["safesession", "purge"]).exit_code == 0
    with app.app_context():
        safe_of(app).purge()
        safe_of(app).count()
    assert purge_job._scheduler is None


def test_the_first_request_starts_the_job_and_later_ones_no_other(make_app: MakeApp) -> None:
    app = make_app(check_interval="1h")
    client = app.test_client()
    client.get("/")  # not even the session is used
    [job] = jobs()
    client.get("/")
    assert [again.id for again in jobs()] == [job.id]


def test_the_job_comes_round_by_its_interval_in_utc_late_or_not(serve: MakeApp) -> None:
    job = job_of(serve(check_interval="90s"))
    assert job.trigger.interval == timedelta(seconds=90)
    assert job.trigger.timezone is UTC
    assert job.coalesce is True
    assert job.misfire_grace_time is None
    assert job.max_instances == 1
    assert job.next_run_time.utcoffset() == timedelta()
    left = job.next_run_time - datetime.now(UTC)
    assert timedelta(seconds=60) < left <= timedelta(seconds=90)


def test_the_job_runs_again_and_again(serve: MakeApp, store: WatchedStore) -> None:
    app = serve(check_interval="10ms", store=store)
    for _ in range(3):
        store.purging.clear()
        assert store.purging.wait(PATIENCE)
    del app  # so long it had to live


def test_first_requests_at_the_same_moment_all_succeed(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of them must not find a job half made."""
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.start()
    adding, go_on = threading.Event(), threading.Event()
    add_job = scheduler.add_job

    def slow_add_job(*args: Any, **kwargs: Any) -> Any:
        adding.set()
        assert go_on.wait(PATIENCE)
        return add_job(*args, **kwargs)

    monkeypatch.setattr(scheduler, "add_job", slow_add_job)
    app = make_app(check_interval="1h", scheduler=scheduler)
    app.add_url_rule("/", view_func=_hello)
    # As two requests that have both seen that it is time to look.
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        purge_job, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=time.sleep)
    )
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(visit, app)
            assert adding.wait(PATIENCE)
            clock.now += 3 * 3600
            threading.Timer(0.05, go_on.set).start()  # the second may also wait for the first
            assert visit(app) == 200
            assert first.result(PATIENCE) == 200
        assert len(scheduler.get_jobs()) == 1
    finally:
        go_on.set()
        scheduler.shutdown()


# -- several apps -------------------------------------------------------------------------------


def test_several_apps_have_one_scheduler_and_a_job_each(serve: MakeApp) -> None:
    apps = [serve() for _ in range(3)]
    assert len({id(purge_job_of(app)._scheduler) for app in apps}) == 1
    assert {job.id for job in jobs()} == {job_of(app).id for app in apps}
    assert len(jobs()) == 3


def test_the_job_goes_when_the_last_reference_to_its_app_goes(serve: MakeApp) -> None:
    kept, app = serve(), serve()
    gone = weakref.ref(app)
    assert len(jobs()) == 2
    gc.disable()  # nothing but reference counts may be needed
    try:
        del app
        assert gone() is None
        assert [job.id for job in jobs()] == [job_of(kept).id]
    finally:
        gc.enable()


def test_a_job_whose_app_is_just_gone_does_nothing(make_app: MakeApp, store: WatchedStore) -> None:
    app = make_app(store=store)
    of = purge_job_of(app)
    del app
    assert of.run() is None
    assert store.purges == []


# -- where it runs ------------------------------------------------------------------------------


def test_the_job_runs_on_a_daemon_thread_of_its_own(serve: MakeApp, store: WatchedStore) -> None:
    app = serve(store=store)
    run_soon(app)
    assert store.purging.wait(PATIENCE)
    thread = store.purges[0]
    assert thread.daemon
    assert thread not in (threading.main_thread(), purge_job_of(app)._scheduler._thread)


def test_a_purge_in_progress_holds_up_no_other_app(serve: MakeApp, store: WatchedStore) -> None:
    store.may_go_on.clear()
    slow, other_store = serve(store=store), WatchedStore()
    run_soon(slow)
    assert store.purging.wait(PATIENCE)
    other = serve(store=other_store)  # its job is added while the purge goes on
    run_soon(other)
    assert other_store.purging.wait(PATIENCE)
    del slow  # so long it had to live


def test_two_runs_of_one_job_never_overlap(serve: MakeApp, store: WatchedStore) -> None:
    store.may_go_on.clear()
    app = serve(store=store)
    run_soon(app)
    assert store.purging.wait(PATIENCE)
    assert purge_job_of(app).run() is None
    assert len(store.purges) == 1


EXIT = """
import threading
from datetime import datetime, timezone
from flask import Flask
from flask_safesession import SafeSession
from flask_safesession.admin import job as purge_job
from flask_safesession.stores.memory import MemoryStore

purging = threading.Event()

class Slow(MemoryStore):
    def purge(self, rules, limit):
        purging.set()
        threading.Event().wait({wait})

app = Flask(__name__)
app.secret_key = "a key for tests that is long enough"
SafeSession(app, store=Slow(), check_interval="1h")
app.test_client().get("/")
[job] = purge_job._scheduler.get_jobs()
job.modify(next_run_time=datetime.now(timezone.utc))
assert purging.wait({wait})
print("leaving")
"""


def test_a_purge_in_progress_does_not_hold_up_the_exit() -> None:
    program = EXIT.format(wait=3 * PATIENCE)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


# -- the app's own scheduler --------------------------------------------------------------------


@pytest.fixture
def own_scheduler() -> Iterator[BackgroundScheduler]:
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.start()
    yield scheduler
    if scheduler.running:
        scheduler.shutdown()


@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "in an extension"])
def test_the_job_can_be_one_of_the_apps_own_scheduler(
    serve: MakeApp, store: WatchedStore, own_scheduler: BackgroundScheduler, wrapped: bool
) -> None:
    given = SimpleNamespace(scheduler=own_scheduler) if wrapped else own_scheduler
    app = serve(store=store, scheduler=given)
    [job] = own_scheduler.get_jobs()
    assert "SafeSession" in job.name
    assert purge_job._scheduler is None
    run_soon(app)
    assert store.purging.wait(PATIENCE)


def test_the_apps_own_scheduler_may_be_started_later(serve: MakeApp, store: WatchedStore) -> None:
    scheduler = BackgroundScheduler(timezone=UTC)
    app = serve(store=store, scheduler=scheduler, check_interval="10ms")
    scheduler.start()
    try:
        assert store.purging.wait(PATIENCE)
    finally:
        scheduler.shutdown()
    del app  # so long it had to live


def test_the_job_leaves_the_apps_own_scheduler_when_the_app_goes(
    serve: MakeApp, own_scheduler: BackgroundScheduler
) -> None:
    app = serve(scheduler=own_scheduler)
    assert len(own_scheduler.get_jobs()) == 1
    del app
    assert own_scheduler.get_jobs() == []


def test_a_scheduler_that_the_app_has_cleared_gets_its_job_again_and_fails_no_request(
    serve: MakeApp, own_scheduler: BackgroundScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = serve(scheduler=own_scheduler)
    own_scheduler.remove_all_jobs()
    pass_hours(monkeypatch, 3)
    assert visit(app) == 200
    assert len(own_scheduler.get_jobs()) == 1


def test_a_scheduler_that_the_app_has_shut_down_fails_no_request(
    serve: MakeApp, own_scheduler: BackgroundScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = serve(scheduler=own_scheduler)
    own_scheduler.shutdown()
    pass_hours(monkeypatch, 3)
    assert visit(app) == 200


def test_a_scheduler_that_never_starts_in_this_process_gathers_no_jobs(
    serve: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = BackgroundScheduler(timezone=UTC)
    app = serve(scheduler=scheduler)
    for hours in (3, 6, 9):
        pass_hours(monkeypatch, hours)
        assert visit(app) == 200
    assert len(scheduler.get_jobs()) == 1
    del app
    assert scheduler.get_jobs() == []


def test_a_scheduler_that_keeps_its_jobs_in_a_database_fails_no_request(
    make_app: MakeApp, own_scheduler: BackgroundScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    own_scheduler.remove_jobstore("default")
    own_scheduler.add_jobstore(_Database())
    app = make_app(check_interval="1h", scheduler=own_scheduler)
    app.add_url_rule("/", view_func=_hello)
    assert visit(app) == 200
    assert own_scheduler.get_jobs() or "SAFESESSION_SCHEDULER" in caplog.text


class _Database(MemoryJobStore):  # type: ignore[misc]  # APScheduler has no types
    """Does what APScheduler's stores for databases do with a job before anything else."""

    def add_job(self, job: Any) -> None:
        pickle.dumps(job.__getstate__())
        super().add_job(job)


# -- servers ------------------------------------------------------------------------------------


@pytest.fixture
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What uWSGI shows its apps where it runs no threads."""
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=False))
    purge_job._report_no_threads.cache_clear()


def test_a_server_without_threads_is_reported_once_with_what_to_do(
    make_app: MakeApp, without_threads: None, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        app = make_app(check_interval="1h")
        app.add_url_rule("/", view_func=_hello)
        assert [visit(app), visit(app)] == [200, 200]
    [record] = caplog.records
    assert "--enable-threads" in record.getMessage()
    assert "set SAFESESSION_CHECK_INTERVAL to None and run `flask safesession purge` from cron" in (
        record.getMessage()
    )
    assert "SCHEDULER" not in caplog.text
    assert "Traceback" not in caplog.text


def test_without_a_job_there_is_nothing_to_report_of_threads(
    make_app: MakeApp, without_threads: None, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    app.add_url_rule("/", view_func=_hello)
    assert (visit(app), caplog.records) == (200, [])


def test_a_scheduler_that_cannot_start_is_reported_once_and_blames_no_setting_nobody_made(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(BackgroundScheduler, "start", refuse)
    app = make_app(check_interval="1h")
    app.add_url_rule("/", view_func=_hello)
    assert visit(app) == 200
    pass_hours(monkeypatch, 3)
    assert visit(app) == 200
    [record] = caplog.records
    assert record.getMessage().startswith("the purge job cannot run in this process")
    assert "SAFESESSION_SCHEDULER" not in record.getMessage()


# -- clocks -------------------------------------------------------------------------------------


def pass_hours(monkeypatch: pytest.MonkeyPatch, hours: float) -> None:
    """Let time pass for the reapers' monotonic clock, and for nobody else."""
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + hours * 3600, sleep=time.sleep)
    monkeypatch.setattr(purge_job, "time", later)


def test_a_wall_clock_that_was_set_back_does_not_stop_the_job(
    serve: MakeApp, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = serve(store=store)
    due = job_of(app).next_run_time
    with time_machine.travel(datetime.now(UTC) - timedelta(days=1)):
        visit(app)
        assert job_of(app).next_run_time == due  # a day and an hour from now: it would wait so long
        pass_hours(monkeypatch, 2.1)
        visit(app)
        assert store.purging.wait(PATIENCE)


def test_a_job_that_comes_round_is_left_alone(
    serve: MakeApp, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = serve(store=store)
    due = job_of(app).next_run_time
    pass_hours(monkeypatch, 1.5)
    purge_job_of(app).run()
    pass_hours(monkeypatch, 3)
    app.test_client().get("/")
    assert job_of(app).next_run_time == due


# -- forks --------------------------------------------------------------------------------------


def test_after_a_fork_the_child_has_its_own_job_and_the_parents_goes_on(
    serve: MakeApp, store: WatchedStore
) -> None:
    app = serve(store=store)
    parents = purge_job._scheduler

    def child() -> list[Any]:
        before = len(jobs())
        visit(app)
        run_soon(app)
        return [before, len(jobs()), purge_job._scheduler is parents, store.purging.wait(PATIENCE)]

    assert in_child(child) == [0, 1, False, True]
    assert not store.purging.is_set()
    assert len(jobs()) == 1
    run_soon(app)
    assert store.purging.wait(PATIENCE)


def test_a_child_that_was_forked_during_a_purge_can_purge(
    serve: MakeApp, store: WatchedStore
) -> None:
    store.may_go_on.clear()
    app = serve(store=store)
    run_soon(app)
    assert store.purging.wait(PATIENCE)

    def child() -> list[Any]:
        store.may_go_on = threading.Event()
        store.may_go_on.set()
        return list(purge_job_of(app).run() or [])

    assert in_child(child) == [0, 0, 0]
    store.may_go_on.set()


# -- a failing store ----------------------------------------------------------------------------


def test_a_failing_store_is_reported_once_and_so_is_its_return(
    make_app: MakeApp, store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flask_safesession")
    app = make_app(store=store, check_interval="1h")
    told: list[Any] = []

    def receive(sender: Flask, event: Any) -> None:
        told.append((sender, event.operation, event.error))

    with store_failed.connected_to(receive):
        store.down = True
        for _ in range(3):
            assert purge_job_of(app).run() is None
        assert told == [(app, "purge", "the store is down")]
        [record] = caplog.records
        assert record.levelno == logging.ERROR
        assert vars(record)["operation"] == "purge"
        assert vars(record)["error"] == "the store is down"

        store.down = False
        caplog.clear()
        for _ in range(2):
            assert purge_job_of(app).run() == PurgeReport()
        assert [r.getMessage() for r in caplog.records] == ["the store answers the purge job again"]

        store.down = True
        purge_job_of(app).run()
        assert len(told) == 2


def test_the_job_outlives_a_store_that_breaks_its_promises(
    serve: MakeApp, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("apscheduler.executors.default"), "disabled", True)
    calls: list[int] = []
    again = threading.Event()

    def broken(rules: Rules, limit: int) -> PurgeStep:
        calls.append(limit)
        if len(calls) > 1:
            again.set()
        raise ZeroDivisionError

    monkeypatch.setattr(store, "purge", broken)
    app = serve(store=store, check_interval="10ms")
    assert again.wait(PATIENCE)
    del app  # so long it had to live


# -- the lease ----------------------------------------------------------------------------------


def test_of_several_workers_one_has_the_lease_for_an_interval(
    make_app: MakeApp, server: Server, prefix: str
) -> None:
    apps = [
        make_app(store=server.url, key_prefix=prefix, check_interval="1h", store_timeout="5s")
        for _ in range(3)
    ]
    client = server.client()
    lease = f"{{{prefix}:0}}:lease:purge"
    for _ in range(2):
        reports = [purge_job_of(app).run() for app in apps]
        assert reports == [PurgeReport(), None, None]
        # A little less than the hour, so that the next turn finds it free.
        left = client.pttl(lease)
        assert isinstance(left, int)
        assert 50 * MINUTE < left < 60 * MINUTE
        client.delete(lease)
        apps.append(apps.pop(0))
    assert purge_job_of(apps[0]).run() == PurgeReport()
    assert safe_of(apps[1]).purge() == PurgeReport()  # asked for: whoever's turn it is
    close(apps, client)


def test_workers_at_the_same_moment_agree_on_one(
    make_app: MakeApp, server: Server, prefix: str
) -> None:
    apps = [
        make_app(store=server.url, key_prefix=prefix, check_interval="1h", store_timeout="5s")
        for _ in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        reports = list(pool.map(lambda app: purge_job_of(app).run(), apps))
    assert sum(report is not None for report in reports) == 1
    close(apps)


def close(apps: list[Flask], *clients: redis.Redis) -> None:
    for app in apps:
        app.extensions["safesession"].store.close()
    for client in clients:
        client.close()


# -- what a run does ----------------------------------------------------------------------------


def test_a_run_removes_what_is_due_and_says_why(make_app: MakeApp) -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    app = make_app(store=store, idle_timeout="30m", lifetime="40m", touch_interval=0, purge_batch=3)
    rules = rules_of(app)
    old = new_key()
    store.create(old, make_draft(rules=rules, user=1), rules)
    clock.advance(20 * MINUTE)
    store.load(old, rules, slide=True)  # in use until its lifetime is over
    fill(store, rules, 5)
    clock.advance(19 * MINUTE)
    fill(store, rules, 4)
    clock.advance(11 * MINUTE)
    ended: list[Any] = []

    def receive(sender: Flask, event: Any) -> None:
        ended.append((sender, event.handle == old, event.reason, event.tier))

    with session_ended.connected_to(receive):
        report = purge_job_of(app).run()
    assert report == PurgeReport(due=6)
    assert report.removed == 6
    assert ended.count((app, True, "lifetime", "default")) == 1
    assert ended.count((app, False, "idle", "default")) == 5
    assert len(ended) == 6
    assert safe_of(app).count() == 4


def test_a_run_trims_to_a_cap_that_was_lowered(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flask_safesession")
    store = MemoryStore(FakeClock())
    fill(store, make_rules(total=100), 50)
    app = make_app(store=store, max_sessions=20, purge_batch=7)
    reasons: list[str] = []

    def receive(sender: Flask, event: Any) -> None:
        reasons.append(event.reason)

    with session_ended.connected_to(receive):
        assert purge_job_of(app).run() == PurgeReport(trimmed=30)
    assert reasons == ["evicted"] * 30
    assert safe_of(app).count() == 20
    [record] = caplog.records
    assert {name: vars(record)[name] for name in ("due", "trimmed", "repaired")} == {
        "due": 0,
        "trimmed": 30,
        "repaired": 0,
    }


def test_a_run_that_finds_nothing_to_do_says_nothing(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flask_safesession")
    app = make_app()
    assert purge_job_of(app).run() == PurgeReport()
    assert caplog.records == []


def test_a_run_sends_what_it_did_when_it_is_over(make_app: MakeApp) -> None:
    clock = FakeClock()
    store = MemoryStore(clock)
    app = make_app(store=store, max_sessions=20, purge_batch=2)
    fill(store, rules_of(app), 5)
    clock.advance(20 * MINUTE)
    fill(store, make_rules(total=100), 21)
    clock.advance(15 * MINUTE)
    told: list[Any] = []

    def receive(sender: Flask, event: Any) -> None:
        told.append((sender, event.due, event.trimmed, event.repaired))
        assert 0 < event.seconds < PATIENCE

    with store_purged.connected_to(receive):
        assert purge_job_of(app).run() == PurgeReport(due=5, trimmed=1)
        assert safe_of(app).purge() == PurgeReport()
    assert told == [(app, 5, 1, 0), (app, 0, 0, 0)]


# -- the audit (FAULTS, row 30) -----------------------------------------------------------------


@pytest.fixture
def database(server: Server) -> Iterator[redis.Redis]:
    """A database of the server that no other test writes to: an audit walks all of its keys."""
    client = redis.Redis(host="127.0.0.1", port=server.port, db=9)
    client.flushdb()
    yield client
    client.flushdb()
    client.close()


def names(database: redis.Redis, prefix: str, kind: str) -> list[str]:
    found: Any = database.keys(f"{{{prefix}:0}}:{kind}:*")
    return sorted(name.decode() for name in found)


def test_the_audit_of_a_large_store_goes_on_where_it_stopped(
    make_app: MakeApp, database: redis.Redis, prefix: str
) -> None:
    app = make_app(store=database, key_prefix=prefix, store_timeout="5s", purge_batch=4)
    state = app.extensions["safesession"]
    for _ in range(200):
        state.store.create(new_key(), make_draft(rules=state.settings.rules), state.settings.rules)
    slot = f"{{{prefix}:0}}"
    lost = names(database, prefix, "s")[:50]
    database.zrem(f"{slot}:t:anonymous", *[name[-18:] for name in lost])
    runs, repaired, places = 0, 0, set()
    while repaired < 50:
        runs += 1
        report = safe_of(app).purge()
        assert report.repaired < 50  # a slice, not a walk over everything
        repaired += report.repaired
        places.add(tuple(database.hmget(f"{slot}:audit", ["walk", "cursor"])))
        assert runs < 100
    assert runs > 2
    assert len(places) > 2
    assert safe_of(app).count() == 200
    close([app])


def test_an_audit_ends_with_its_round_or_its_slices(make_app: MakeApp) -> None:
    settings = make_app().extensions["safesession"].settings

    class Many(MemoryStore):
        steps = 0

        def audit(self, rules: Rules, limit: int) -> AuditStep:
            self.steps += 1
            return AuditStep(1, done=self.steps % 8 == 0)

    store = Many()
    assert audit(store, settings, 5) == 5
    assert audit(store, settings, 5) == 3
    assert store.steps == 8


def test_a_store_without_an_index_has_no_job(make_app: MakeApp) -> None:
    job = make_app(store=PlainStore(), check_interval="1m").extensions["safesession"].job
    job.wake()
    assert job.run() is None
    assert job._scheduler is None
