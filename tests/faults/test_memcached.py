"""Memcached: a hammer of several processes, lost replies, full, stopped and restarted servers."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flask_safesession.errors import StoreUnavailable, TooManySessions
from flask_safesession.model.tokens import new_stamp, user_tag
from flask_safesession.stores.base import Gone, Live, Taken, Terms
from flask_safesession.stores.memcached.store import MemcachedStore
from flask_safesession.testing import make_draft, make_rules
from flask_safesession.testing.kit import together

from ..support import memcached
from ..support import proxy as proxies
from ..support.concurrency import in_child
from ..support.faults_kit import Site, logged_to, members, open_circuit, rows_of
from ..support.hammering import PER_USER, USERS, new_key
from ..support.memcached import needs_memcached, url_of
from ..support.said import WELL, Said, file_of, find_wrong, heard, read
from ..support.servers import poll
from ..support.sites.running import browse, gunicorn, share_one_session
from .test_sqlite_processes import PROCESSES, ROOT

pytestmark = [pytest.mark.faults, needs_memcached]
RULES = make_rules()


@pytest.fixture
def server() -> Iterator[memcached.Server]:
    with memcached.running() as made:
        yield made


@pytest.fixture
def store(server: memcached.Server) -> Iterator[MemcachedStore]:
    made = MemcachedStore(server.url, timeout=1)
    yield made
    made.close()


# -- several processes ----------------------------------------------------------------------------


def hammer(folder: Path, url: str, number: int, seconds: float, patch: str = "") -> Any:
    code = f"{patch}\nfrom tests.support.hammering import main\nimport sys\nmain(*sys.argv[1:])"
    command = [sys.executable, "-c", code, url, str(number), str(seconds)]
    with file_of(folder, number).open("w") as said:
        return subprocess.Popen(command, stdout=said, cwd=ROOT)


def run_hammer(folder: Path, url: str, seconds: float, patch: str = "") -> tuple[list[Said], int]:
    """What all processes said, and how often the caps were looked at meanwhile."""
    processes = [hammer(folder, url, n, seconds, patch) for n in range(PROCESSES)]
    looks = watch(url, lambda: any(one.poll() is not None for one in processes))
    return heard(folder, dict(enumerate(processes)), ends=WELL), looks


def watch(url: str, done: Callable[[], bool]) -> int:
    store, looks = MemcachedStore(url, timeout=20), 0
    while not done():
        assert all(len(store.sessions_of(user_tag(user))) <= PER_USER for user in USERS)
        looks += 1
    store.close()
    return looks


@pytest.mark.parametrize("servers", [1, 3])
def test_nothing_that_ended_comes_back_and_no_stamp_is_won_twice(
    tmp_path: Path, servers: int
) -> None:
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(memcached.running()) for _ in range(servers)]
        said, looks = run_hammer(tmp_path, url_of(*started), 10)
    assert looks > 10
    assert find_wrong(said) == []
    assert {"created", "seen", "won", "ended"} <= {what for _, what, _ in said}
    assert len(said) > 1000


def test_on_a_server_that_evicts_visitors_are_signed_out_and_never_in(tmp_path: Path) -> None:
    with memcached.running("-m", "2", "-n", "256") as small:
        for seconds in (10, 60):  # where the machine is busy, it takes longer until it is full
            said, looks = run_hammer(tmp_path, small.url, seconds)
            if (evictions := int(small.stats()["evictions"])) > 100:
                break
    assert evictions > 100
    assert looks > 10
    assert [wrong for wrong in find_wrong(said) if "out_of_memory" not in wrong] == []
    assert {"created", "seen", "won", "ended"} <= {what for _, what, _ in said}


MUTANTS = {
    "commits without compare-and-set": """
from flask_safesession.stores.memcached.lines import Line
write = Line.write
def careless(self, name, value, seconds, old):
    if old is None or b":s:" not in name:
        return write(self, name, value, seconds, old)
    return bool(self._client.set(name, value, seconds, noreply=False))
Line.write = careless
""",
    "sessions that need not stand in the item of their user": """
from flask_safesession.stores.memcached.turn import Turn
Turn._is_member = lambda *args: True
""",
    "a rotation that leaves the old session": """
from flask_safesession.stores.memcached.turn import Turn
finish = Turn.finish
def leave(self, held, ending):
    if ending.reason != "rotated":
        finish(self, held, ending)
Turn.finish = leave
""",
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_hammer_notices_a_store_that_is_wrong(
    tmp_path: Path, server: memcached.Server, mutant: str
) -> None:
    """A hammer that finds nothing proves nothing."""
    said, _ = run_hammer(tmp_path, server.url, 5, MUTANTS[mutant])
    assert find_wrong(said)


def test_processes_that_are_killed_bring_nothing_back(
    tmp_path: Path, server: memcached.Server
) -> None:
    said, dice = list[Said](), random.Random(1)
    for first in range(0, 12, 2):
        victims = {n: hammer(tmp_path, server.url, n, 60) for n in (first, first + 1)}
        poll("words", lambda: all(_has_said(tmp_path, n) for n in victims))  # noqa: B023  # now
        time.sleep(dice.uniform(0, 0.05))
        for number, victim in victims.items():
            victim.kill()
            victim.wait()
            said += read(tmp_path, number)
    assert len(said) > 500
    assert find_wrong(sorted(said)) == []
    with contextlib.closing(MemcachedStore(server.url, timeout=5)) as store:
        ended = {of for _, what, of in said if what == "ended"}
        assert not any(is_live(store, key) for key in ended)
        assert is_live(store, add(store, user=1))


def _has_said(folder: Path, number: int) -> bool:
    return file_of(folder, number).stat().st_size > 5000


@pytest.mark.parametrize("refuse", [True, False])
def test_of_sign_ins_at_once_as_many_are_left_as_the_cap_allows(
    store: MemcachedStore, refuse: bool
) -> None:
    rules = make_rules(per_user=3)
    rules = rules._replace(cap=rules.cap._replace(refuse=refuse))

    def sign_in(number: int) -> str:
        old, new = new_key(None), new_key(1)
        assert isinstance(store.create(old, make_draft(), rules), Live)
        draft = make_draft(user=1)
        try:
            answer = store.rotate(old, new, draft, rules, Terms(None, True, "rotated"))
        except TooManySessions:
            assert isinstance(store.load(old, rules, slide=False), Live)
            return ""
        assert isinstance(answer, Live)
        return new

    keys = [key for key in together(8, sign_in) if key]
    live = [key for key in keys if isinstance(store.load(key, rules, slide=False), Live)]
    assert len(live) == 3
    assert {one.key for one in store.sessions_of(user_tag(1))} == set(live)
    assert len(keys) == (3 if refuse else 8)


# -- replies that are lost ------------------------------------------------------------------------


def operations(store: MemcachedStore) -> dict[str, Callable[[str], object]]:
    """All that is done to a session of user 1, each by its key."""
    stamp = new_stamp()

    def rotate(user: int | None, restart: bool) -> Callable[[str], object]:
        new, draft = new_key(user), make_draft(user=user)
        terms = Terms(None, restart, "rotated")
        return lambda key: store.rotate(key, new, draft, RULES, terms)

    def commit(key: str) -> object:
        before = store.load(key, RULES, slide=False)
        assert isinstance(before, Live)
        return store.commit(key, make_draft(user=1), before.record.stamps[0], touch=0)

    return {
        "load": lambda key: store.load(key, RULES, slide=True),
        "create": lambda _: store.create(new_key(1), make_draft(user=1), RULES),
        "commit": commit,
        "rotate": rotate(1, False),
        "sign in": rotate(2, True),
        "sign out with data": rotate(None, False),
        "end": lambda key: store.end(key, stamp, "logout", None),
        "end_user": lambda _: store.end_user(user_tag(1), stamp, "revoked", ""),
        "end_all": lambda _: store.end_all(stamp),
    }


@pytest.mark.parametrize("name", list(operations(SimpleNamespace())))  # type: ignore[arg-type]
def test_an_operation_is_done_once_whichever_of_its_replies_is_lost(
    server: memcached.Server, name: str
) -> None:
    with proxies.before(server.port) as proxy:
        store = MemcachedStore(f"memcached://127.0.0.1:{proxy.port}", timeout=5)
        for number in range(30):
            key = new_key(1)
            assert isinstance(store.create(key, make_draft(user=1), RULES), Live)
            cut = _Cutting(proxy, number)
            with cut:
                answer = operations(store)[name](key)
            assert not isinstance(answer, Taken) or name == "create"
            check(store, name, key, answer)
            if not cut.done:
                assert number > 0
                break
            store.end_all(new_stamp())
        else:
            raise AssertionError("it never came through")
        store.close()


class _Cutting:
    """Cuts the connection after so many replies, instead of the next one."""

    def __init__(self, proxy: proxies.Proxy, after: int) -> None:
        self._proxy, self._left, self.done = proxy, after, False

    def __enter__(self) -> None:
        self._take, self._proxy.take = self._proxy.take, self._counted  # type: ignore[method-assign]

    def __exit__(self, *exception: object) -> None:
        self._proxy.take = self._take  # type: ignore[method-assign]

    def _counted(self, way: Any, data: bytes) -> None:
        if way.replies and data and not self.done:
            if self._left == 0:
                self.done = True
                way.pair.cut()
                return
            self._left -= 1
        self._take(way, data)


def check(store: MemcachedStore, name: str, key: str, answer: object) -> None:
    """The session is live under one key at most, or under none."""
    live = isinstance(store.load(key, RULES, slide=False), Live)
    listed = {one.key for user in (1, 2) for one in store.sessions_of(user_tag(user))}
    assert live == (name in ("load", "create", "commit"))
    if name in ("rotate", "sign in", "sign out with data"):
        assert isinstance(answer, Live)
    if name in ("rotate", "sign in"):
        assert len(listed) == 1
    elif name.startswith("end") or name == "sign out with data":
        assert listed == set()


# -- servers that are stopped, restarted and emptied ----------------------------------------------


def add(store: MemcachedStore, user: int | None = None) -> str:
    key = new_key(user)
    assert isinstance(store.create(key, make_draft(user=user), RULES), Live)
    return key


def is_live(store: MemcachedStore, key: str) -> bool:
    return isinstance(store.load(key, RULES, slide=False), Live)


@pytest.mark.parametrize("connected", [True, False])
def test_a_stopped_server_is_an_error_in_time(
    server: memcached.Server, store: MemcachedStore, connected: bool
) -> None:
    key = add(store)
    if not connected:
        store.close()
    with server.paused():
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.load(key, RULES, slide=True)
        assert 0.5 < time.monotonic() - before < 1.5
    assert is_live(store, key)


def test_replies_in_small_pieces_are_an_error_in_time(server: memcached.Server) -> None:
    with proxies.before(server.port) as proxy:
        store = MemcachedStore(f"memcached://127.0.0.1:{proxy.port}", timeout=1)
        key = add(store)
        proxy.piece = 1
        before = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.load(key, RULES, slide=True)
        assert time.monotonic() - before < 1.5
        proxy.fix()
        assert is_live(store, key)
        store.close()


def test_while_a_server_is_down_calls_fail_at_once_and_then_go_on(
    server: memcached.Server, store: MemcachedStore
) -> None:
    key = add(store)
    server.kill()
    for _ in range(10):
        with pytest.raises(StoreUnavailable):
            store.load(key, RULES, slide=True)
    assert list(store.states().values()) == ["open"]
    server.start()
    poll("the server", lambda: _answers(store, key))
    assert list(store.states().values()) == ["closed"]
    assert store.load(key, RULES, slide=True) == Gone("unknown")  # a new server is empty
    assert is_live(store, add(store))


def _answers(store: MemcachedStore, key: str) -> bool:
    try:
        store.load(key, RULES, slide=True)
    except StoreUnavailable:
        return False
    return True


def test_an_idle_connection_that_the_server_closed_is_replaced(
    server: memcached.Server, store: MemcachedStore
) -> None:
    for _ in range(3):
        add(store, user=1)
        server.restart()
    assert isinstance(store.create(new_key(1), make_draft(user=1), RULES), Live)


def test_an_emptied_server_signs_everybody_out_and_nobody_in(
    server: memcached.Server, store: MemcachedStore
) -> None:
    keys = [add(store), add(store, user=1)]
    for empty in (server.flush, server.restart):
        empty()
        assert not any(is_live(store, key) for key in keys)
        keys += [add(store), add(store, user=1)]
        assert [is_live(store, key) for key in keys[-2:]] == [True, True]
        assert not any(is_live(store, key) for key in keys[:-2])


@pytest.mark.parametrize("name", ["epoch", f"u:{user_tag(1)}", "s"])
def test_whichever_item_is_evicted_signs_out_for_ever(
    server: memcached.Server, store: MemcachedStore, name: str
) -> None:
    key, other = add(store, user=1), add(store)
    with server.client() as client:
        client.delete(f"safesession:{name}" + (f":{key}" if name == "s" else ""), noreply=False)
    assert not is_live(store, key)
    assert is_live(store, other) == (name != "epoch")
    assert is_live(store, add(store, user=1))
    assert not is_live(store, key)


def test_with_one_of_three_servers_down_its_sessions_alone_are_unavailable() -> None:
    with memcached.running() as one, memcached.running() as two, memcached.running() as three:
        store = MemcachedStore(url_of(one, two, three), timeout=1)
        keys = {letter: f"{letter}{new_key(None)[1:]}" for letter in "ABC"}
        for key in keys.values():
            assert isinstance(store.create(key, make_draft(), RULES), Live)
        with two.paused():
            assert is_live(store, keys["A"])
            assert is_live(store, keys["C"])
            with pytest.raises(StoreUnavailable):
                store.load(keys["B"], RULES, slide=False)
            with pytest.raises(StoreUnavailable):
                store.end_all(new_stamp())
        assert not is_live(store, keys["A"])
        assert is_live(store, keys["B"])  # it was not reached: the caller was told so
        assert not is_live(store, keys["C"])
        store.close()


# -- what the log says ----------------------------------------------------------------------------


def give_up(server: memcached.Server, site: Site) -> None:
    server.kill()
    open_circuit(site)


FAULTS: dict[str, Callable[[memcached.Server, Site], Any]] = {
    "the server is down": lambda server, _: server.kill(),
    "it does not answer in time": lambda server, _: server.paused(),
    "the circuit is open": give_up,
    "a session is larger than an item": lambda *_: None,
}


def test_the_page_has_each_of_these_faults() -> None:
    assert rows_of("Memcached").keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_looks_as_the_page_says(
    fault: str, server: memcached.Server, open_site: Callable[..., Site]
) -> None:
    site = open_site(server.url, store_timeout="200ms", max_session_size=2_000_000)
    lines, paths = list[str](), ("/read", "/add/fig", "/logout")
    if fault == "a session is larger than an item":
        paths = ("/read", f"/add/{'x' * 1_100_000}", "/logout")
    clients = members(site, paths)
    with logged_to(lines), FAULTS[fault](server, site) or contextlib.nullcontext():
        found = [client.get(at).status_code for client, at in zip(clients, paths, strict=True)]
    text, statuses = rows_of("Memcached")[fault]
    assert found == statuses
    assert any(text.replace("10.0.0.1:11211", f"127.0.0.1:{server.port}") in line for line in lines)


# -- forks, threads, greenlets --------------------------------------------------------------------


def test_a_child_makes_its_own_connections(server: memcached.Server, store: MemcachedStore) -> None:
    keys = [add(store, user=n) for n in range(4)]

    def work() -> list[bool]:
        return [is_live(store, key) for key in keys * 20]

    before = int(server.stats()["total_connections"])
    for _ in range(3):
        assert all(in_child(work))
        assert all(work())
    made = int(server.stats()["total_connections"]) - before - 1
    assert made == 3


def test_threads_share_no_connection(server: memcached.Server, store: MemcachedStore) -> None:
    keys = [add(store, user=n) for n in range(8)]
    found = together(8, lambda n: Counter(_user_of(store, keys[n]) for _ in range(200)))
    assert found == [{user_tag(n): 200} for n in range(8)]
    assert int(server.stats()["curr_connections"]) <= 12


def _user_of(store: MemcachedStore, key: str) -> str:
    answer = store.load(key, RULES, slide=True)
    assert isinstance(answer, Live)
    return answer.record.user


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
@pytest.mark.parametrize("preload", [True, False])
def test_three_workers_share_sessions(
    server: memcached.Server, prefix: str, tmp_path: Path, kind: str, preload: bool
) -> None:
    options = ["--workers", "3", "--worker-class", kind, *(["--preload"] if preload else [])]
    where: Any = SimpleNamespace(url=server.url, port=0)
    with gunicorn(where, prefix, tmp_path, *options, used=preload) as site:
        poll("three workers", lambda: len(site.workers()) == 3)
        browse(site, 5)
        share_one_session(site)
        site.stop()
        log = site.log.read_text()
    assert "Traceback" not in log
