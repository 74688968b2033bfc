"""As tests/test_processes.py, at length: each kind of server, ten thousand requests, many forks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from flask import Flask

from flask_safesession.admin import job as purge_job

from ..support import proxy
from ..support.concurrency import in_child
from ..support.servers import Server, poll
from ..support.sites.running import (
    CLIENTS,
    assert_each_process_has_its_own,
    assert_nothing_is_left,
    browse,
    gunicorn,
    prefork,
    run_greenlets,
    share_one_session,
    uwsgi,
)
from ..test_processes import make_site, state_of

pytestmark = pytest.mark.faults
REQUESTS, FEWER = 10_000, 2_000
FORKS = 100
MakeApp = Callable[..., Flask]


@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "loaded by each"])
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_fault_25_nobody_sees_another_visitors_data_in_ten_thousand_requests(
    any_server: Server, prefix: str, tmp_path: Path, kind: str, preload: bool
) -> None:
    options = ["--workers", "2", "--worker-class", kind, "--threads", "4"]
    options += ["--preload"] if preload else []
    with gunicorn(any_server, prefix, tmp_path, *options, used=preload) as site:
        poll("two workers", lambda: len(site.workers()) == 2)
        browse(site, (REQUESTS if preload else FEWER) // (2 * CLIENTS))
        share_one_session(site)
        assert_each_process_has_its_own(site)
        assert_nothing_is_left(site)


def test_fault_25_nor_where_the_master_goes_on_using_the_app(
    any_server: Server, prefix: str, tmp_path: Path
) -> None:
    with prefork(any_server, prefix, tmp_path, workers=3) as site:
        poll("three workers", lambda: len(site.workers()) == 3)
        browse(site, FEWER // (2 * CLIENTS))
        assert_each_process_has_its_own(site)
        assert_nothing_is_left(site)


@pytest.mark.parametrize(
    "options", [(), ("--py-call-osafterfork",)], ids=["without hooks", "with hooks"]
)
def test_fault_25_nor_under_uwsgi_where_each_worker_has_its_job_running(
    any_server: Server, prefix: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """By default uWSGI runs no hooks of Python's when it forks."""
    with uwsgi(any_server, prefix, tmp_path, "--enable-threads", *options) as site:
        poll("two workers", lambda: len(site.workers()) == 2)
        browse(site, FEWER // (2 * CLIENTS))
        share_one_session(site)
        assert_each_process_has_its_own(site)
        # Its own, and that of the scheduler; what Python knows of may be its master's.
        assert [psutil.Process(pid).num_threads() for pid in site.workers()] == [2, 2]
        assert_nothing_is_left(site)


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "redis"])
def test_fault_26_a_hundred_children_of_a_busy_process_work(
    make_app: MakeApp, any_server: Server, prefix: str, memory: bool
) -> None:
    store = "memory://" if memory else f"{any_server.url}?max_connections=4"
    app = make_site(make_app, store=store, key_prefix=prefix)
    stop, turns = threading.Event(), [0] * 6

    def use(number: int) -> None:
        client = app.test_client()
        for turn in count():
            if stop.is_set():
                return
            client.get(f"/write/{number}")
            if number < 2:
                state_of(app).job.run()
            turns[number] = turn

    def child() -> list[Any]:
        client = app.test_client()
        client.get(f"/write/{os.getpid()}")
        job = client.get("/jobs").json
        report = state_of(app).job.run()
        return [client.get("/read").json == {"mine": str(os.getpid())}, job, report is not None]

    users = [threading.Thread(target=use, args=[number]) for number in range(len(turns))]
    for user in users:
        user.start()
    try:
        poll("threads at work", lambda: all(turns))
        for _ in range(FORKS):
            mine, job, ran = in_child(child)
            assert mine
            assert job == {"jobs": 1}
            assert ran or not memory  # on a shared store it may be another's turn
    finally:
        stop.set()
        for user in users:
            user.join()
    assert purge_job._scheduler


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("limit", ["", "?max_connections=5"], ids=["free", "bounded"])
def test_fault_28_greenlets_that_run_out_of_time_throw_their_connections_away(
    any_server: Server, when: str, limit: str
) -> None:
    with proxy.before(any_server.port) as way:
        way.delay = 0.005
        seen = run_greenlets(way.url + limit, when, greenlets=60, rounds=40)
    assert seen["wrong"] == []
    assert seen["cut"] > 300
    assert seen["process"] == {"jobs": 2, "schedulers": 1}
