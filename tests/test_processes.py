"""Processes, threads and greenlets: real servers that fork, and calls that are cut short."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask
from flask.testing import FlaskClient

from flask_safesession import session
from flask_safesession.admin import job as purge_job
from flask_safesession.admin.purge import PurgeReport
from flask_safesession.extension import State
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.redis.servers import connections

from .support import proxy, servers
from .support.concurrency import held, in_child
from .support.servers import Server, poll
from .support.sites.running import (
    PATIENCE,
    assert_each_process_has_its_own,
    assert_nothing_is_left,
    browse,
    gunicorn,
    run_greenlets,
    share_one_session,
)

ROUNDS = 10  # of two requests each, for each of eight browsers
MakeApp = Callable[..., Flask]


# -- forks ---


@pytest.mark.parametrize("kind", ["sync", "gevent"])
def test_fault_25_workers_of_a_preloaded_app_share_sessions_and_nothing_else(
    any_server: Server, prefix: str, tmp_path: Path, kind: str
) -> None:
    options = ("--preload", "--workers", "2", "--worker-class", kind)
    with gunicorn(any_server, prefix, tmp_path, *options, used=True) as site:
        poll("two workers", lambda: len(site.workers()) == 2)
        browse(site, ROUNDS)
        share_one_session(site)
        assert_each_process_has_its_own(site)
        assert site.connections(site.master.pid)
        assert_nothing_is_left(site)


def test_fault_25_a_child_keeps_no_connection_of_its_parents_not_even_one_in_use(
    make_app: MakeApp, any_server: Server, prefix: str
) -> None:
    with proxy.before(any_server.port) as way:
        app = make_site(make_app, store=way.url, key_prefix=prefix)
        mine, others = visitors(app)
        way.piece = 5
        thread = threading.Thread(target=mine.get, args=["/read"])
        thread.start()
        wait_until_it_waits(ident(thread))
        way.piece = None  # from the next reply on

        def child() -> list[Any]:
            return [others.get("/read").json, ports_to(way.port)]

        parents = ports_to(way.port)
        seen, childs = in_child(child)
        thread.join(PATIENCE)
    assert seen == {"mine": "others"}
    assert len(parents) == 1
    assert len(childs) == 1
    assert parents != childs


# Locks of this library and of those it uses. A thread that is not in the child may hold any.
LOCKS: dict[str, Callable[[State], Any]] = {
    "memory store": lambda state: state.store.tables.lock,  # type: ignore[attr-defined]
    "job": lambda state: state.job._running,
    "scheduler of the process": lambda _: purge_job._lock,
    "jobs of the scheduler": lambda _: purge_job._scheduler._jobstores_lock,  # type: ignore[union-attr]
    "breaker": lambda state: _server(state).breaker._lock,
    "the only connection": lambda state: _server(state)._own.free,
}


@pytest.mark.parametrize("name", LOCKS)
def test_fault_26_a_child_that_was_forked_while_a_lock_was_held_works_with_its_own_job(
    make_app: MakeApp, any_server: Server, prefix: str, name: str
) -> None:
    store = "memory://" if name == "memory store" else f"{any_server.url}?max_connections=1"
    app = make_site(make_app, store=store, key_prefix=prefix)
    app.test_client().get("/write/parent")
    assert app.test_client().get("/jobs").json == {"jobs": 1}
    parents = purge_job._scheduler

    def child() -> list[Any]:
        one = app.test_client()
        one.get("/write/child")
        mine = one.get("/read").json
        jobs = one.get("/jobs").json
        return [mine, jobs, purge_job._scheduler is parents, state_of(app).job.run()]

    with held(LOCKS[name](state_of(app))):
        mine, jobs, is_the_parents, report = in_child(child)
    assert mine == {"mine": "child"}
    assert jobs == {"jobs": 1}
    assert not is_the_parents
    assert PurgeReport(*report) == PurgeReport()


def test_fault_26_a_child_can_let_its_app_go_whatever_the_parents_scheduler_was_doing(
    make_app: MakeApp,
) -> None:
    apps = [make_site(make_app)]
    apps[0].test_client().get("/write/parent")

    def child() -> int:
        apps.clear()
        return gc.collect() and 1

    assert purge_job._scheduler
    with held(purge_job._scheduler._jobstores_lock):
        assert in_child(child)


def test_fault_26_a_child_leaves_a_scheduler_alone_that_runs_in_its_parent(
    make_app: MakeApp, any_server: Server, prefix: str
) -> None:
    own = BackgroundScheduler(timezone=UTC)
    own.start()
    app = make_site(make_app, store=any_server.url, key_prefix=prefix, scheduler=own)
    client = app.test_client()
    client.get("/write/parent")
    with held(own._jobstores_lock):
        assert in_child(lambda: client.get("/read").json) == {"mine": "parent"}
    assert len(own.get_jobs()) == 1
    own.shutdown()


def test_fault_26_a_child_that_starts_the_apps_own_scheduler_has_its_job_there(
    make_app: MakeApp,
) -> None:
    own = BackgroundScheduler(timezone=UTC)
    app = make_site(make_app, scheduler=own)
    app.test_client().get("/write/parent")

    def child() -> int:
        own.start()  # as in a hook of the server's
        app.test_client().get("/write/child")
        return len(own.get_jobs())

    assert in_child(child) == 1


def test_fault_26_a_child_that_was_forked_during_an_outage_finds_out_for_itself(
    make_app: MakeApp, tmp_path: Path
) -> None:
    with servers.running(min(servers.binaries()), tmp_path, *servers.KEEP) as server:
        app = make_site(make_app, store=server.url)
        client = app.test_client()
        client.get("/write/parent")
        server.kill()
        answers = [client.get("/read").status_code for _ in range(6)]
        assert answers == [503] * 6
        server.restart()
        assert list(store_of(app).states().values()) == ["open"]
        assert in_child(lambda: client.get("/read").json) == {"mine": "parent"}
        assert list(store_of(app).states().values()) == ["open"]


def test_an_app_works_under_uwsgi_without_threads_and_the_log_says_what_is_missing(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(purge_job, "_scheduler", None)
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(has_threads=False))
    app = make_site(make_app)
    client = app.test_client()
    client.get("/write/mine")
    assert client.get("/read").json == {"mine": "mine"}
    assert "--enable-threads" in caplog.text


# -- calls that are cut short ---


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_fault_28_a_signal_in_the_middle_of_a_reply_throws_its_connection_away(
    make_app: MakeApp, tmp_path: Path, error: type[BaseException]
) -> None:
    with servers.running(min(servers.binaries()), tmp_path) as server:
        app = make_site(make_app, store=server.url)
        mine, others = visitors(app)
        interrupt = when_it_waits(threading.get_ident(), interrupted_by(error))
        with server.paused(), interrupt, pytest.raises(error):
            mine.get("/read")
        # The server answers what it was asked before it stopped.
        assert others.get("/read").json == {"mine": "others"}
        assert mine.get("/read").json == {"mine": "mine"}
        assert server.ask("INFO", "clients")["connected_clients"] == 2  # it, and the one that asks


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_fault_28_a_thread_that_ends_in_the_middle_of_a_reply_throws_its_connection_away(
    make_app: MakeApp, any_server: Server, prefix: str, error: type[BaseException]
) -> None:
    with proxy.before(any_server.port) as way:
        app = make_site(make_app, store=way.url, key_prefix=prefix)
        mine, others = visitors(app)
        seen: list[object] = []

        def visit() -> None:
            try:
                seen.append(mine.get("/read").json)
            except error as raised:
                seen.append(type(raised))

        way.piece = 5
        thread = threading.Thread(target=visit)
        thread.start()
        wait_until_it_waits(ident(thread))
        raise_in(ident(thread), error)
        thread.join(PATIENCE)
        assert seen == [error]
        way.piece = None
        assert others.get("/read").json == {"mine": "others"}
        assert mine.get("/read").json == {"mine": "mine"}
        assert way.open == 1


def test_fault_28_a_thread_that_ends_while_it_waits_for_a_connection_leaves_it_to_the_next(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Turn(connections._Turn):
        def __init__(self) -> None:
            super().__init__()
            turns.append(self)
            if len(turns) == 2:  # the first to wait
                self.bell = EndsWhenItRings(self.bell)  # type: ignore[assignment]

    turns: list[Turn] = []
    monkeypatch.setattr(connections, "_Turn", Turn)
    with servers.running(min(servers.binaries()), tmp_path) as server:
        app = make_site(make_app, store=f"{server.url}?max_connections=1", store_timeout="20s")
        visitor, _ = visitors(app)
        seen: dict[str, int] = {}
        turns.clear()

        def visit(name: str) -> None:
            with suppress(SystemExit):
                seen[name] = visitor.get("/read").status_code

        threads = {name: threading.Thread(target=visit, args=[name]) for name in ("1", "2", "3")}
        slots = _server(state_of(app))._own.free
        with server.paused():
            threads["1"].start()
            wait_until_it_waits(ident(threads["1"]))
            threads["2"].start()
            poll("the second", lambda: len(slots._waiting) == 1)
            threads["3"].start()
            poll("the third", lambda: len(slots._waiting) == 2)
        for thread in threads.values():
            thread.join(PATIENCE)
    assert seen == {"1": 200, "3": 200}


class EndsWhenItRings:
    """A lock whose waiter's thread is ended at the very moment at which it gets the lock."""

    def __init__(self, lock: Any) -> None:
        self.lock = lock
        self.release = lock.release

    def acquire(self, timeout: float) -> bool:
        assert self.lock.acquire(timeout=timeout)
        raise SystemExit


def test_fault_28_greenlets_that_run_out_of_time_throw_their_connections_away(
    any_server: Server,
) -> None:
    with proxy.before(any_server.port) as way:
        way.delay = 0.005
        seen = run_greenlets(f"{way.url}?max_connections=5", "late", greenlets=20, rounds=6)
    assert seen["wrong"] == []
    assert seen["cut"] > 10
    assert seen["process"] == {"jobs": 2, "schedulers": 1}  # a job an app


# -- help ---


def make_site(make_app: MakeApp, **settings: Any) -> Flask:
    app = make_app(check_interval="1h", **settings)
    app.add_url_rule("/write/<value>", "write", write)
    app.add_url_rule("/read", "read", lambda: {"mine": session.get("mine")})
    app.add_url_rule("/jobs", "jobs", lambda: {"jobs": len(_jobs(app))})
    return app


def write(value: str) -> str:
    session["mine"] = value
    return ""


def _jobs(app: Flask) -> list[Any]:
    """The jobs of this app: those of other tests' apps may be there still."""
    found = purge_job._scheduler.get_jobs() if purge_job._scheduler else []
    return [job for job in found if job.id == state_of(app).job._id]


def state_of(app: Flask) -> State:
    state: State = app.extensions["safesession"]
    return state


def store_of(app: Flask) -> RedisStore:
    store = state_of(app).store
    assert isinstance(store, RedisStore)
    return store


def _server(state: State) -> Any:
    [server] = state.store._caller.topology.servers()  # type: ignore[attr-defined]
    return server


def visitors(app: Flask) -> tuple[FlaskClient, FlaskClient]:
    """Two, with a session each; the store has one idle connection, and the server the scripts."""
    both = app.test_client(), app.test_client()
    for client, name in zip(both, ("mine", "others"), strict=True):
        client.get(f"/write/{name}")
        client.get("/read")
    return both


def ports_to(port: int) -> list[int]:
    """The near ends of this process's connections to *port*."""
    found = psutil.Process().net_connections("tcp")
    return [one.laddr.port for one in found if getattr(one.raddr, "port", None) == port]


def ident(thread: threading.Thread) -> int:
    assert thread.ident, "not started"
    return thread.ident


def is_in(thread: int, place: str) -> bool:
    """Whether *thread* is in a function of that name, or in a method of such a class."""
    frame = sys._current_frames().get(thread)
    while frame:
        if place in (frame.f_code.co_name, type(frame.f_locals.get("self")).__name__):
            return True
        frame = frame.f_back
    return False


def wait_until_it_waits(thread: int, place: str = "read_response") -> None:
    """For a reply, or in another *place*."""
    poll(f"a thread in {place}", lambda: is_in(thread, place))


@contextmanager
def when_it_waits(thread: int, interrupt: Callable[[], None]) -> Iterator[None]:
    """Interrupt *thread* when it waits for a reply."""

    def watch() -> None:
        wait_until_it_waits(thread)
        interrupt()

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join(PATIENCE)


def interrupted_by(error: type[BaseException]) -> Callable[[], None]:
    """A signal to this process whose handler raises *error*, as gunicorn's does."""

    def handle(*_: object) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise error

    signal.signal(signal.SIGUSR1, handle)
    return lambda: os.kill(os.getpid(), signal.SIGUSR1)


def raise_in(thread: int, error: type[BaseException]) -> None:
    """Let *thread* raise *error* as soon as it runs again."""
    raised = ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(error)
    )
    assert raised == 1
