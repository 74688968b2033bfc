"""A MongoDB server that stands still, dies, restarts, loses replies; several processes on one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.client_session import ClientSession

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.tokens import new_stamp, user_tag
from flask_safesession.stores.base import Conflict, Gone, Live, Terms
from flask_safesession.stores.mongodb.store import MongoDBStore
from flask_safesession.testing import make_draft, make_rules, new_key

from ..support import mongodb
from ..support.hammering import PER_USER, TOTAL, USERS
from ..support.hammering import RULES as HAMMERED
from ..support.proxy import Proxy
from ..support.said import file_of, find_wrong, heard
from ..support.servers import poll
from ..support.sites.running import browse, gunicorn, share_one_session

pytestmark = pytest.mark.faults
RULES = make_rules()
ROOT = Path(__file__).parents[2]
TIMEOUT = 0.5
# While it knows no server, the driver looks at the time twice a second; this machine may be busy.
BOUND = TIMEOUT + 0.5 + 0.5


@pytest.fixture
def server() -> Iterator[mongodb.Server]:
    made = mongodb.start("--sync-on-commit")  # else a killed one loses what it has acknowledged
    yield made
    made.stop()


@pytest.fixture
def store(server: mongodb.Server) -> Iterator[MongoDBStore]:
    made = MongoDBStore(server.url, timeout=TIMEOUT)
    poll("the store", lambda: _is_ready(made))
    yield made
    made.close()


def _is_ready(store: MongoDBStore) -> bool:
    try:
        return store.count(RULES).total >= 0
    except StoreUnavailable:
        return False


def add(store: MongoDBStore, **draft: Any) -> str:
    key = new_key()
    assert isinstance(store.create(key, make_draft(**draft), RULES), Live)
    return key


def load(store: MongoDBStore, key: str) -> Any:
    return store.load(key, RULES, slide=False)


def fails_in_time(work: Callable[[], object]) -> None:
    before = time.monotonic()
    with pytest.raises(StoreUnavailable):
        work()
    assert time.monotonic() - before < BOUND


def test_each_call_to_a_server_that_stands_still_ends_in_time(
    server: mongodb.Server, store: MongoDBStore
) -> None:
    key = add(store, user=1)
    record = load(store, key).record
    draft = make_draft(user=1)
    calls: list[Callable[[], object]] = [
        lambda: load(store, key),
        lambda: store.commit(key, draft, record.stamps[0], touch=0, loaded=record),
        lambda: add(store),
        lambda: store.end(key, new_stamp(), "logout", None),
    ]
    with server.paused():
        for call in calls:
            fails_in_time(call)
    assert isinstance(load(store, key), Live | Gone)
    poll("the store", lambda: _is_ready(store))
    assert isinstance(load(store, add(store)), Live)


def test_a_transaction_that_could_not_be_ended_holds_nobody_up(
    server: mongodb.Server, store: MongoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the server would keep its locks for a minute, and nobody could sign in."""
    add(store)
    read = store.tables._read

    def stop_and_read(*args: Any) -> Any:
        server.pause()
        return read(*args)

    monkeypatch.setattr(store.tables, "_read", stop_and_read)
    try:
        fails_in_time(lambda: add(store))
    finally:
        server.resume()
    monkeypatch.undo()
    assert poll("a session", lambda: _adds(store)) < 5


def _adds(store: MongoDBStore) -> bool:
    try:
        return bool(add(store))
    except StoreUnavailable:
        return False


def test_a_killed_server_is_noticed_and_so_is_its_return(
    server: mongodb.Server, store: MongoDBStore
) -> None:
    key = add(store)
    server.kill()
    for _ in range(6):
        fails_in_time(lambda: load(store, key))
    assert [*store.states().values()] == ["open"]
    server.launch()
    assert poll("the store", lambda: _is_ready(store)) < 10
    assert [*store.states().values()] == ["closed"]
    assert isinstance(load(store, key), Live)


def test_a_restart_between_two_calls_costs_nothing(
    server: mongodb.Server, store: MongoDBStore
) -> None:
    patient = MongoDBStore(server.url, timeout=20)
    key = add(patient)
    server.restart()
    assert isinstance(load(patient, key), Live)
    server.restart()
    assert isinstance(load(patient, add(patient)), Live)
    patient.close()


@pytest.fixture
def proxy(server: mongodb.Server) -> Iterator[Proxy]:
    made = Proxy(server.port)
    yield made
    made.close()


@pytest.fixture
def behind(proxy: Proxy, store: MongoDBStore) -> Iterator[MongoDBStore]:
    """The same store through the proxy, without the driver's own questions."""
    quiet = "directConnection=true&heartbeatFrequencyMS=600000&serverMonitoringMode=poll"
    made = MongoDBStore(f"mongodb://127.0.0.1:{proxy.port}/safesession_test?{quiet}", timeout=10)
    made.count(RULES)
    yield made
    made.close()


def with_a_lost_commit(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]
) -> Any:
    """What *work* returns, the first reply to whose COMMIT is lost."""
    commit = ClientSession.commit_transaction

    def lose(self: Any) -> None:
        proxy.cut_replies = 1
        commit(self)

    monkeypatch.setattr(ClientSession, "commit_transaction", lose)
    try:
        return work()
    finally:
        monkeypatch.undo()
        assert proxy.cut_replies == 0


def test_a_commit_whose_reply_is_lost_is_done_once(
    proxy: Proxy, behind: MongoDBStore, store: MongoDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(work: Callable[[], Any]) -> Any:
        return with_a_lost_commit(proxy, monkeypatch, work)

    key, new, draft = new_key(), new_key(), make_draft()
    assert isinstance(lossy(lambda: behind.create(key, draft, RULES)), Live)
    terms = Terms(draft.stamp, True, "rotated")
    moved = make_draft(user=1)
    assert isinstance(lossy(lambda: behind.rotate(key, new, moved, RULES, terms)), Live)
    assert store.count(RULES).total == 1
    answer = lossy(lambda: behind.end(new, new_stamp(), "logout", None))
    assert isinstance(answer, Live) or answer.repeated
    assert store.count(RULES).total == 0
    lossy(lambda: behind.end_all(new_stamp()))
    assert isinstance(load(store, add(store)), Live)


def test_a_write_whose_reply_is_lost_is_done_once(
    proxy: Proxy, behind: MongoDBStore, store: MongoDBStore
) -> None:
    key = add(behind)
    record = load(behind, key).record
    draft = make_draft(b"mine")
    proxy.cut_replies = 1
    answer = behind.commit(key, draft, record.stamps[0], touch=0, loaded=record)
    assert proxy.cut_replies == 0
    assert isinstance(answer, Live)
    assert load(store, key).record.payload == b"mine"
    late = behind.commit(key, make_draft(b"late"), record.stamps[0], touch=0, loaded=record)
    assert isinstance(late, Conflict)


def hammer(url: str, folder: Path, number: int, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.hammering", url, str(number)]
    with file_of(folder, number).open("w") as said:
        return subprocess.Popen([*command, str(seconds)], stdout=said, cwd=ROOT)


def assert_sound(server: mongodb.Server) -> None:
    with server.database() as database:
        [seat] = database["safesession_seats"].find()
        held: dict[str, int] = {}
        for session in database["safesession_sessions"].find({"generation": seat["generation"]}):
            held[session["group"]] = held.get(session["group"], 0) + 1
    assert seat["held"] == held


def test_nothing_is_lost_and_no_cap_is_passed_while_processes_hammer_one_server(
    server: mongodb.Server, tmp_path: Path
) -> None:
    watcher, looks = MongoDBStore(server.url, timeout=20), 0
    watcher.count(HAMMERED)
    processes = {number: hammer(server.url, tmp_path, number, 15) for number in range(4)}
    while all(process.poll() is None for process in processes.values()):
        live = watcher.count(HAMMERED)
        assert live.total + live.due <= TOTAL
        assert all(len(watcher.sessions_of(user_tag(user))) <= PER_USER for user in USERS)
        looks += 1
    watcher.close()
    said = heard(tmp_path, processes)
    assert looks > 10
    assert find_wrong(said) == []
    assert {"created", "seen", "won", "ended"} <= {what for _, what, _ in said}
    assert_sound(server)


@pytest.mark.skipif(
    mongodb.VARIABLE not in os.environ,
    reason="SecantusDB may keep what killed writers have locked for many minutes",
)
def test_writers_that_are_killed_leave_everything_or_nothing(
    server: mongodb.Server, tmp_path: Path
) -> None:
    """The server frees what they have locked after transactionLifetimeLimitSeconds, a minute."""
    store = MongoDBStore(server.url, timeout=90)
    store.count(HAMMERED)
    victims = {number: hammer(server.url, tmp_path, number, 60) for number in range(3)}
    poll("writers", lambda: all(_has_said(tmp_path, number) for number in victims), 60)
    for victim in victims.values():
        os.kill(victim.pid, signal.SIGKILL)
    said = heard(tmp_path, victims)
    store.purge(HAMMERED, 1)
    assert_sound(server)
    assert find_wrong(said) == []
    ended = {of for _, what, of in said if what == "ended"}
    assert not any(isinstance(store.load(key, HAMMERED, slide=False), Live) for key in ended)
    store.close()


def _has_said(folder: Path, number: int) -> bool:
    return file_of(folder, number).stat().st_size > 2000


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_workers_share_sessions(
    server: mongodb.Server,
    prefix: str,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of a preloaded app inherit the connections of their parent, which has used the store.

    gevent's cannot: it patches the process after PyMongo was used, and finds dead references.
    """
    monkeypatch.setenv("SITE_TIMEOUT", "30s")  # SecantusDB is slow where the machine is busy
    preload = kind != "gevent"
    options = ["--workers", "3", "--worker-class", kind, *(["--preload"] if preload else [])]
    where: Any = SimpleNamespace(url=server.url, port=server.port)
    with gunicorn(where, prefix, tmp_path, *options, used=preload) as site:
        poll("three workers", lambda: len(site.workers()) == 3)
        browse(site, 5)
        share_one_session(site)
        site.stop()
        log = site.log.read_text()
    assert "Traceback" not in log
