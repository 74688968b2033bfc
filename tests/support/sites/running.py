"""Runs the site under gunicorn, or under a master of the tests' own, and visits it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..servers import Server, end, poll, spawn

PATIENCE = 20.0
CLIENTS = 8
DATABASE = 7  # no other test uses it: its connections are the site's
ROOT = Path(__file__).parents[3]
LISTENER = "{listener}"  # in a command: the socket that it listens on


class Browser:
    """Keeps its cookie, and notes which processes answered."""

    def __init__(self, port: int) -> None:
        self._way = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self.cookie = ""
        self.pids: set[int] = set()
        self.pid = 0

    def get(self, path: str) -> Any:
        self._way.request("GET", path, headers={"Cookie": self.cookie} if self.cookie else {})
        response = self._way.getresponse()
        told = response.read()
        assert response.status == 200, (path, response.status, told)
        for name, morsel in SimpleCookie(response.headers.get("Set-Cookie", "")).items():
            self.cookie = f"{name}={morsel.value}"
        self.pid = int(response.headers["X-Pid"])
        self.pids.add(self.pid)
        return json.loads(told)

    def close(self) -> None:
        """The next request is on a new connection, and may be another worker's."""
        self._way.close()


@dataclass
class Site:
    """A server that runs; ``store`` is where its sessions are."""

    port: int
    master: subprocess.Popen[bytes]
    log: Path
    store: Server
    #: Whether no worker keeps the others from the store, as in a transaction on a file.
    is_free: Callable[[], bool] = lambda: True

    @contextlib.contextmanager
    def browser(self, cookie: str = "") -> Iterator[Browser]:
        browser = Browser(self.port)
        browser.cookie = cookie
        try:
            yield browser
        finally:
            browser.close()

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.master.pid).children(recursive=True)}

    @contextlib.contextmanager
    def only(self, worker: int) -> Iterator[None]:
        """Until the end of the ``with`` block this worker accepts all connections.

        The others stand still: which of several workers accepts is the kernel's choice, and it may
        choose the same one a hundred times.
        """
        others = [psutil.Process(pid) for pid in self.workers() - {worker}]
        try:
            poll("workers that stand still", lambda: self._suspend(others))
            yield
        finally:
            for other in others:
                other.resume()

    def _suspend(self, workers: list[psutil.Process]) -> bool:
        for worker in workers:
            worker.suspend()
        poll("suspended workers", lambda: all(map(_stands_still, workers)))
        if not self.is_free():
            for worker in workers:
                worker.resume()
            return False
        return True

    def connections(self, pid: int) -> set[int]:
        """The local ports of a process's connections to the store."""
        return {
            found.laddr.port
            for found in psutil.Process(pid).net_connections("tcp")
            if getattr(found.raddr, "port", None) == self.store.port  # a listener has no far end
        }

    def answers(self) -> bool:
        assert self.master.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), self.browser() as browser:
            browser.get("/read")
            return True
        return False

    def stop(self) -> None:
        if self.master.poll() is None:
            self.master.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.master.wait(PATIENCE)
        end(self.master)


def _stands_still(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


@contextlib.contextmanager
def gunicorn(
    store: Server, prefix: str, folder: Path, *options: str, used: bool = False
) -> Iterator[Site]:
    """The site under gunicorn; *used*: also before its workers are forked."""
    # In a file and not an option: older versions of gunicorn do not know it, and skip it here.
    config = folder / "gunicorn.conf.py"
    config.write_text("control_socket_disable = True")
    where = ["--bind", LISTENER, "--chdir", str(ROOT), "--config", str(config)]
    command = ["-m", "gunicorn", "tests.support.sites.app:app", *where, *options]
    with _running(command, store, prefix, folder, used=used) as site:
        yield site


@contextlib.contextmanager
def prefork(store: Server, prefix: str, folder: Path, workers: int) -> Iterator[Site]:
    """The site under a master that goes on using it; see :mod:`.prefork`."""
    command = ["-m", "tests.support.sites.prefork", LISTENER, str(workers)]
    with _running(command, store, prefix, folder, used=True) as site:
        yield site


@contextlib.contextmanager
def uwsgi(store: Server, prefix: str, folder: Path, *options: str) -> Iterator[Site]:
    """The site under uWSGI, which imports and uses it before it forks two workers."""
    program = str(Path(sys.executable).with_name("uwsgi"))
    command = [program, "--http-socket", LISTENER, "--wsgi", "tests.support.sites.app:app"]
    command += ["--add-header", "Connection: close"]  # it does, and would not say so
    command += ["--master", "--processes", "2", "--die-on-term", "--need-app", *options]
    with _running(command, store, prefix, folder, used=True) as site:
        yield site


def run_greenlets(url: str, when: str, greenlets: int, rounds: int) -> Any:
    """What :mod:`.greenlets` has seen."""
    command = [sys.executable, "-m", "tests.support.sites.greenlets", url, when]
    done = subprocess.run(
        [*command, str(greenlets), str(rounds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout)


@contextlib.contextmanager
def _running(
    command: list[str], store: Server, prefix: str, folder: Path, *, used: bool
) -> Iterator[Site]:
    """Run *command* with a socket that listens already, so that nobody else can take its port."""
    settings = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "SITE_STORE": store.url.replace("/0", f"/{DATABASE}"),
        "SITE_PREFIX": prefix,
        "SITE_USED": "yes" if used else "",
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in settings.items():
            environment.setenv(name, value)
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            port, number = listener.getsockname()[1], listener.fileno()
            words = [word.replace(LISTENER, f"fd://{number}") for word in command]
            master = spawn([sys.executable, *words], folder / "log", pass_fds=[number])
    site = Site(port, master, folder / "log", store)
    try:
        poll("the site", site.answers)
        yield site
    finally:
        site.stop()


# -- visits -------------------------------------------------------------------------------------


def browse(site: Site, rounds: int) -> None:
    """Visits of several clients, each of which has to see its own data.

    First each session is used in each worker; then all clients come at once.
    """
    visitors = [Visitor(site, number) for number in range(CLIENTS)]
    workers = sorted(site.workers())
    with ThreadPoolExecutor(CLIENTS) as pool:

        def visit(some: list[Visitor], rounds: int) -> None:
            list(pool.map(lambda visitor: visitor.visit(rounds), some))

        for worker in workers:
            with site.only(worker):
                visit(visitors, 1)
            assert {visitor.browser.pid for visitor in visitors} == {worker}
            for visitor in visitors:
                visitor.browser.close()
        # Where connections are kept, each worker begins with as many.
        for number, worker in enumerate(workers):
            with site.only(worker):
                visit(visitors[number :: len(workers)], 1)
        visit(visitors, rounds)
    assert len({visitor.browser.cookie for visitor in visitors}) == CLIENTS
    assert set().union(*(visitor.browser.pids for visitor in visitors)) == set(workers)
    for visitor in visitors:
        visitor.browser.close()


class Visitor:
    """A client that knows what has to be in its session."""

    def __init__(self, site: Site, number: int) -> None:
        self.browser = Browser(site.port)
        self.name = str(number)
        self.turns = 0
        self.mine: list[Any] | None = None

    def visit(self, rounds: int) -> None:
        """Two requests a round; each fifth round ends with the connection."""
        for _ in range(rounds):
            assert self.browser.get(f"/write/{self.name}/{self.turns}") == {"mine": self.mine}
            self.mine = [self.name, self.turns]
            assert self.browser.get("/read") == {"mine": self.mine}
            self.turns += 1
            if self.turns % 5 == 0:
                self.browser.close()


def share_one_session(site: Site) -> None:
    """Concurrent changes of one session to different keys: all of them survive."""
    with site.browser() as owner:
        owner.get("/put/start")
        cookie = owner.cookie

        def change(number: int) -> None:
            with site.browser(cookie) as browser:
                browser.get(f"/put/key{number}")

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(change, range(CLIENTS)))
        expected = sorted(["start", *(f"key{n}" for n in range(CLIENTS))])
        assert owner.get("/keys") == {"keys": expected}


def assert_each_process_has_its_own(site: Site) -> None:
    """Each worker has one job, and connections that no other process holds."""
    jobs: dict[int, Any] = {}
    workers = site.workers()
    for worker in workers:
        with site.only(worker), site.browser() as browser:
            jobs[worker] = browser.get("/process")
        assert browser.pid == worker
    assert all(found == {"jobs": 1, "schedulers": 1} for found in jobs.values())
    held = {pid: site.connections(pid) for pid in (*workers, site.master.pid)}
    assert all(held[pid] for pid in workers)
    assert len(set().union(*held.values())) == sum(map(len, held.values())), held


def assert_nothing_is_left(site: Site) -> None:
    """After it was stopped: no process, no connection, nothing amiss in the log."""
    pids = {*site.workers(), site.master.pid}
    assert any(site.connections(pid) for pid in pids)
    site.stop()
    log = site.log.read_text()
    assert site.master.returncode == 0, log
    assert not any(psutil.pid_exists(pid) for pid in pids)
    poll("the end of all connections", lambda: _connections_at(site.store) == 0)
    with pytest.raises(OSError, match="refused"), site.browser() as browser:
        browser.get("/read")
    assert "Traceback" not in log
    assert "[ERROR]" not in log


def _connections_at(server: Server) -> int:
    """How many connections the store sees from the site, whoever holds them."""
    listed: Any = server.ask("CLIENT", "LIST")
    return int(listed.decode().count(f" db={DATABASE} "))
