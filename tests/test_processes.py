"""Real servers: gunicorn with forked workers, and with threads, on a real store."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import psutil
import pytest

from .servers import Server, free_port

PATIENCE = 20.0
CLIENTS = 8
ROUNDS = 19  # of two requests each
DATABASE = 7  # no other test uses it: its connections are the site's

SITE = """
import os
import threading

from flask import Flask

from flask_safesession import SafeSession, reaper, session

app = Flask("site")
app.secret_key = "a key for tests that is long enough"
safe = SafeSession(
    app,
    store=os.environ["SITE_STORE"],
    key_prefix=os.environ["SITE_PREFIX"],
    check_interval="1h",
    store_timeout="5s",
)


@app.get("/append/<value>")
def append(value):
    session.setdefault("mine", []).append(value)
    return {"mine": session["mine"]}


@app.get("/mine")
def mine():
    return {"mine": session.get("mine", [])}


@app.get("/put/<key>")
def put(key):
    session[key] = True
    return {}


@app.get("/keys")
def keys():
    return {"keys": sorted(session)}


@app.get("/process")
def process():
    names = [thread.name for thread in threading.enumerate()]
    return {"jobs": len(reaper._scheduler.get_jobs()), "schedulers": names.count("APScheduler")}


@app.after_request
def say_who_answers(response):
    response.headers["X-Pid"] = str(os.getpid())
    return response


if os.environ["SITE_USED_BEFORE_THE_FORK"]:
    # The worst that a preloaded app can do: workers inherit an open connection and a job.
    client = app.test_client()
    client.get("/append/parent")
    assert client.get("/process").json == {"jobs": 1, "schedulers": 1}
"""


class Browser:
    """Keeps its cookies, and notes which processes answered."""

    def __init__(self, base: str) -> None:
        self._base = base
        self.jar = CookieJar()
        self._open = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self.jar)
        ).open
        self.pids: set[int] = set()
        self.pid = 0

    def get(self, path: str) -> Any:
        with self._open(self._base + path, timeout=PATIENCE) as response:
            self.pid = int(response.headers["X-Pid"])
            self.pids.add(self.pid)
            return json.loads(response.read())


@dataclass
class Site:
    """A running gunicorn."""

    port: int
    master: subprocess.Popen[bytes]
    log: Path
    store: Server

    def browser(self) -> Browser:
        return Browser(f"http://127.0.0.1:{self.port}")

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.master.pid).children(recursive=True)}

    def connections(self, pid: int) -> set[int]:
        """The local ports of a process's connections to the store."""
        return {
            found.laddr.port
            for found in psutil.Process(pid).net_connections("tcp")
            if found.status == psutil.CONN_ESTABLISHED and found.raddr.port == self.store.port
        }

    def wait(self) -> None:
        def answers() -> bool:
            assert self.master.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                self.browser().get("/mine")
                return True
            return False

        until(answers)

    def stop(self) -> None:
        self.master.send_signal(signal.SIGTERM)
        try:
            self.master.wait(PATIENCE)
        finally:
            self.master.kill()


def until(true: Callable[[], bool]) -> None:
    """Wait for another process: there is nothing else to wait on."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def start(any_server: Server, prefix: str, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def run(*options: str, used_before: bool = False) -> Site:
        (tmp_path / "site_of_tests.py").write_text(SITE)
        # In a file and not an option: older versions of gunicorn do not know it, and skip it here.
        (tmp_path / "gunicorn.conf.py").write_text("control_socket_disable = True")
        port, log = free_port(), tmp_path / "log"
        command = [sys.executable, "-m", "gunicorn", "site_of_tests:app"]
        command += [
            "--config",
            str(tmp_path / "gunicorn.conf.py"),
            "--bind",
            f"127.0.0.1:{port}",
            "--chdir",
            str(tmp_path),
            *options,
        ]
        environment = os.environ | {
            "SITE_STORE": any_server.url.replace("/0", f"/{DATABASE}"),
            "SITE_PREFIX": prefix,
            "SITE_USED_BEFORE_THE_FORK": "yes" if used_before else "",
        }
        with log.open("wb") as out:
            master = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        sites.append(Site(port, master, log, any_server))
        sites[-1].wait()
        return sites[-1]

    yield run
    for site in sites:
        if site.master.poll() is None:
            site.stop()


def connections_at(server: Server) -> int:
    """How many connections the store sees from the site, whoever holds them."""
    with contextlib.closing(server.client()) as client:
        listed: Any = client.client_list()
    return sum(connection["db"] == str(DATABASE) for connection in listed)


def browse(site: Site) -> list[Browser]:
    """Some 300 requests of several clients at once; each has to see its own data, all of it."""

    def one(number: int) -> Browser:
        browser, mine = site.browser(), []
        for turn in range(ROUNDS):
            mine.append(f"{number}-{turn}")
            assert browser.get(f"/append/{mine[-1]}") == {"mine": mine}
            assert browser.get("/mine") == {"mine": mine}
        return browser

    with ThreadPoolExecutor(CLIENTS) as pool:
        browsers = list(pool.map(one, range(CLIENTS)))
    cookies = {cookie.value for browser in browsers for cookie in browser.jar}
    assert len(cookies) == CLIENTS
    return browsers


def share_one_session(site: Site) -> None:
    """Concurrent changes of one session to different keys: all of them survive."""
    owner = site.browser()
    owner.get("/put/start")

    def change(number: int) -> None:
        browser = site.browser()
        for cookie in owner.jar:
            browser.jar.set_cookie(cookie)
        browser.get(f"/put/key{number}")

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(change, range(CLIENTS)))
    expected = sorted(["start", *(f"key{n}" for n in range(CLIENTS))])
    assert owner.get("/keys") == {"keys": expected}


def assert_nothing_is_left(site: Site, pids: set[int]) -> None:
    site.stop()
    assert site.master.returncode == 0
    assert not any(psutil.pid_exists(pid) for pid in pids)
    until(lambda: connections_at(site.store) == 0)
    with pytest.raises(OSError, match="refused"):
        site.browser().get("/mine")
    log = site.log.read_text()
    assert "Traceback" not in log
    assert "[ERROR]" not in log


def test_forked_workers_of_a_preloaded_app_share_sessions_and_nothing_else(
    start: Callable[..., Site],
) -> None:
    site = start("--preload", "--workers", "2", "--worker-class", "sync", used_before=True)
    until(lambda: len(site.workers()) == 2)
    workers = site.workers()

    browsers = browse(site)
    assert set().union(*(browser.pids for browser in browsers)) == workers
    assert any(len(browser.pids) == 2 for browser in browsers)  # one session, both workers
    share_one_session(site)

    jobs = {}
    browser = site.browser()

    def both_were_asked() -> bool:
        found = browser.get("/process")
        jobs[browser.pid] = found
        return jobs.keys() == workers

    until(both_were_asked)
    assert all(found == {"jobs": 1, "schedulers": 1} for found in jobs.values())

    everybody = [*workers, site.master.pid]
    held = [site.connections(pid) for pid in everybody]
    assert all(held)
    assert len(set().union(*held)) == sum(map(len, held))  # none is held by two
    assert_nothing_is_left(site, {*workers, site.master.pid})


def test_threads_of_one_worker_share_its_job_and_nothing_of_each_other(
    start: Callable[..., Site],
) -> None:
    site = start("--workers", "1", "--worker-class", "gthread", "--threads", "4")
    [worker] = site.workers()
    browse(site)
    share_one_session(site)
    assert site.browser().get("/process") == {"jobs": 1, "schedulers": 1}
    assert 1 <= len(site.connections(worker)) <= 4  # one a thread at most
    assert_nothing_is_left(site, {worker, site.master.pid})
