"""The tables of faults in docs/incidents.md: real faults write these lines to the log.

A row's second cell names the fault; what stands in its first, and the statuses that visitors get,
are what happens here. Addresses and numbers are others, and Valkey says Valkey for Redis.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from flask_safesession import ConfigError
from flask_safesession.model.tokens import new_id, sign
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.stores.remote.deadline import deadline

from ..support import fleets, servers
from ..support.faults_kit import Site, good, logged_to, outage, read, unavailable

pytestmark = pytest.mark.faults

PAGE = (Path(__file__).parents[2] / "docs/incidents.md").read_text("utf-8")
ROW = re.compile(r"^\| `(.+?)` \| (.+?)(?:;.*?|, .*?)? \| (\d+) \| (\d+) \| (\d+) \|", re.MULTILINE)
PATHS = ("/read", "/add/fig", "/logout")


class Row(NamedTuple):
    """What the page says: a text of the log, and what those get who read, change and log out."""

    text: str
    statuses: list[int]


ROWS = {name: Row(text, [*map(int, statuses)]) for text, name, *statuses in ROW.findall(PAGE)}


def pattern(text: str) -> re.Pattern[str]:
    """A text of the page, for any address, number and handle, and either kind of server."""
    wild = re.escape(text).replace("10\\.0\\.0\\.1:6379", r"[\w.:]+").replace("Redis", r"\w+")
    wild = wild.replace("this\\ user", r"(this user|User \w+)").replace("…", r"[\w-]+")
    return re.compile(re.sub(r"\b(8000|10000)\b", r"\\d+", wild))


class Scene:
    """A site on a server of its own, three members signed in, and the lines of its log."""

    def __init__(self, kind: str, folder: Path, open_site: Callable[..., Site]) -> None:
        self.kind, self.folder = kind, folder
        self.lines: list[str] = []
        self.stack = ExitStack()
        self._open = open_site

    def server(self, *options: str, **ways: Any) -> servers.Server:
        return self.stack.enter_context(servers.running(self.kind, self.folder, *options, **ways))

    def open(self, url: str, **settings: Any) -> Site:
        self.site = self._open(url, **settings)
        return self.site

    def members(self, url: str, **settings: Any) -> None:
        made = [self._open(url).member() for _ in PATHS]  # with as much time as they need
        for member in made:
            read(member)  # the first use is recorded always: now there is nothing to be written
        site = self.open(url, **settings)
        self.clients = [site.visitor(like=member) for member in made]

    def strangers(self, url: str, **settings: Any) -> None:
        """For a store that could never be used: cookies as of members."""
        site = self.open(url, **settings)
        self.clients = [site.visitor() for _ in PATHS]
        for client in self.clients:
            client.set_cookie("session", sign(new_id(), str(site.app.secret_key)))

    def visit(self) -> list[int]:
        return [
            client.get(path).status_code for client, path in zip(self.clients, PATHS, strict=True)
        ]


@pytest.fixture
def scene(
    kind: str, tmp_path: Path, open_site: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> Iterator[Scene]:
    made = Scene(kind, tmp_path, open_site)
    with logged_to(made.lines), made.stack:
        yield made


# -- faults, by their names on the page -----------------------------------------------------------


def down(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url)
    server.kill()


def silent(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url, store_timeout="200ms")
    scene.stack.enter_context(server.paused())


def given_up(scene: Scene) -> None:
    down(scene)
    for _ in range(FAILURES):
        unavailable(scene.clients[0].get("/read"))


def no_address(scene: Scene) -> None:
    scene.strangers("redis://nowhere.invalid:6379/0")


def loading(scene: Scene) -> None:
    """A server that loads looks up after each kilobyte, of a snapshot only."""
    server = scene.server("--appendonly", "yes")
    scene.members(server.url)
    with server.client() as client:
        client.mset({f"other:{n}": f"{n:01100}" for n in range(500)})
    server.ask("CONFIG", "SET", "rdbcompression", "no")
    server.ask("BGREWRITEAOF")
    servers.poll("a snapshot", lambda: _has_rewritten(server.ask("INFO", "persistence")))
    server.command += [
        "--key-load-delay",
        "5000",
        "--loading-process-events-interval-bytes",
        "1024",
    ]
    server.restart()


def _has_rewritten(info: dict[str, int]) -> bool:
    return info["aof_rewrites"] > 0 and info["aof_rewrite_in_progress"] == 0


def full(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url)
    server.ask("CONFIG", "SET", "maxmemory", 1)


def became_a_replica(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url)
    server.ask("REPLICAOF", "127.0.0.1", servers.free_port())


def lost_its_master(scene: Scene) -> None:
    server = scene.server("--replica-serve-stale-data", "no")
    scene.members(server.url)
    server.ask("REPLICAOF", "127.0.0.1", servers.free_port())


def no_master(scene: Scene) -> None:
    port = servers.free_port()
    file = scene.folder / "sentinel.conf"
    monitor = f"sentinel monitor sessions 127.0.0.1 {servers.free_port()} 1"
    file.write_text(f"port {port}\nbind 127.0.0.1\ndir {scene.folder}\n{monitor}\n")
    binary = servers.binaries()[scene.kind]
    process = servers.spawn([binary, str(file), "--sentinel"], scene.folder / "log")
    scene.stack.callback(servers.end, process)
    with redis.Redis(port=port) as client:
        servers.poll("a Sentinel", client.ping)
    scene.strangers(f"redis+sentinel://127.0.0.1:{port}/sessions")


def cannot_save(scene: Scene) -> None:
    server = scene.server("--save", "3600 1")
    scene.members(server.url)
    (scene.folder / "dump.rdb").mkdir()
    server.ask("BGSAVE")
    servers.poll(
        "a failed save",
        lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "err",
    )


def too_few_replicas(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url)
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)


def busy(scene: Scene) -> None:
    server = scene.server("--lua-time-limit", "50")
    scene.members(server.url)

    def run() -> None:
        with server.client() as client, suppress(redis.RedisError):
            client.eval("while true do end", 0)

    somebody = threading.Thread(target=run)
    somebody.start()

    def is_busy() -> bool:
        try:
            server.ask("PING")
        except redis.ResponseError:
            return True
        return False

    servers.poll("a busy server", is_busy)
    scene.stack.callback(somebody.join)
    scene.stack.callback(server.ask, "SCRIPT", "KILL")


def no_password(scene: Scene) -> None:
    server = scene.server(password="right")
    scene.strangers(server.url_for(None, None))


def wrong_password(scene: Scene) -> None:
    server = scene.server(password="right")
    scene.strangers(server.url_for(None, "wrong"))


def forbidden(scene: Scene) -> None:
    server = scene.server(users={"app": "on >secret ~* +@all -evalsha"})
    scene.strangers(server.url_for("app", "secret"))


def too_many_connections(scene: Scene) -> None:
    server = scene.server()
    client = scene.stack.enter_context(server.client())
    client.config_set("maxclients", 1)
    scene.strangers(server.url)


def none_came_free(scene: Scene) -> None:
    server = scene.server()
    scene.members(f"{server.url}?max_connections=1", store_timeout="200ms")
    [pool] = scene.site.store._caller.topology.servers()
    begun = threading.Event()

    def hold() -> None:
        begun.set()
        with deadline(20):
            pool.exchange(("BLPOP", "something", 20))

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait(5)
    servers.poll("a blocked client", lambda: server.ask("INFO", "clients")["blocked_clients"] == 1)
    scene.stack.callback(holder.join)
    scene.stack.callback(server.ask, "LPUSH", "something", "1")


def small_cluster(scene: Scene) -> tuple[fleets.Cluster, int]:
    two = scene.stack.enter_context(fleets.cluster(scene.kind, scene.folder, masters=2, replicas=0))
    scene.members(two.url)
    return two, two.slot_of("{safesession:0}")


def slot_is_moving(scene: Scene) -> None:
    two, slot = small_cluster(scene)
    target = next(node for node in two.masters() if node is not two.node_of(slot))
    two.begin_move(slot, target)


def slot_without_node(scene: Scene) -> None:
    two, slot = small_cluster(scene)
    for node in two.servers:
        node.ask("CLUSTER", "DELSLOTS", slot)


def newer_records(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url)
    with server.client() as client:
        for name in client.scan_iter("*:s:*"):
            if client.getrange(name, 0, 2) == b"SS1":
                client.setrange(name, 0, "SS2")


FAULTS: dict[str, Callable[[Scene], None]] = {
    "the server is down": down,
    "it does not answer in time: stopped": silent,
    "the [circuit](#the-circuit-breaker) is open": given_up,
    "the name has no address": no_address,
    "it has been restarted and reads its data": loading,
    "it is full": full,
    "it became a replica": became_a_replica,
    "as above": lost_its_master,
    "the Sentinels name no master": no_master,
    "it cannot save": cannot_save,
    "fewer replicas follow it than `min-replicas-to-write`": too_few_replicas,
    "a script of another program runs for longer than `busy-reply-threshold`": busy,
    "the URL has no password": no_password,
    "the password": wrong_password,
    "the ACL user": forbidden,
    "more connections than `maxclients`": too_many_connections,
    "`?max_connections=` in the URL is lower than the number of threads that wait": none_came_free,
    "the [slot is being moved](planning.md#moving-a-slot) key by key": slot_is_moving,
    "the slot has no node": slot_without_node,
    "old and new workers on one store": newer_records,
}


def test_all_rows_of_the_table_are_tried() -> None:
    assert list(ROWS) == list(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_looks_as_the_page_says(scene: Scene, fault: str) -> None:
    row = ROWS[fault]
    FAULTS[fault](scene)
    scene.lines.clear()
    assert scene.visit() == row.statuses
    failed = re.compile(r"store-failed operation=(load|save) error=" + pattern(row.text).pattern)
    assert any(failed.match(line) for line in scene.lines), scene.lines


# -- lines of other kinds -------------------------------------------------------------------------


def quoted(start: str) -> re.Pattern[str]:
    """A line of the second table."""
    [text] = re.findall(rf"^\| `({start}.*?)`", PAGE, re.MULTILINE)
    return pattern(text)


def seen(scene: Scene, start: str) -> bool:
    wanted = quoted(start)
    return any(wanted.search(line) for line in scene.lines)


def test_a_server_that_is_given_up_and_found_again_looks_as_the_page_says(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url)
    server.kill()
    for _ in range(FAILURES):
        unavailable(scene.clients[0].get("/read"))
    assert seen(scene, "store-state-changed")
    server.restart()
    client = scene.clients[0]
    servers.poll("the server again", lambda: client.get("/read").status_code == 200)
    assert scene.lines[-1].endswith("state=closed")
    assert "`state=closed`" in PAGE


def test_a_replica_that_confirms_nothing_looks_as_the_page_says(scene: Scene) -> None:
    with fleets.replicas(scene.kind, scene.folder, 1) as pair:
        scene.members(pair.url, wait_replicas=1, store_timeout="400ms")
        with pair.replicas[0].paused():
            good(scene.clients[0], "/logout")
    assert seen(scene, "replicas-missing")


def test_a_store_that_fills_up_looks_as_the_page_says(scene: Scene) -> None:
    site = scene.open(scene.server().url, max_sessions=10, when_full="reject")
    for n in range(9):
        good(site.visitor(), f"/login/{n}")
    assert seen(scene, "the store holds")
    good(site.visitor(), "/add/fig")
    outage(site.visitor(), "/login/late")
    assert seen(scene, "session-rejected")


def test_a_purge_without_a_server_looks_as_the_page_says(scene: Scene) -> None:
    site = scene.open("redis://127.0.0.1:1/0", check_interval="1h")
    job = site.app.extensions["safesession"].job
    assert [job.run(), job.run()] == [None, None]
    assert seen(scene, "store-failed operation=purge")
    assert sum("operation=purge" in line for line in scene.lines) == 1


def test_another_number_of_shards_looks_as_the_page_says(scene: Scene) -> None:
    server = scene.server()
    good(scene.open(server.url).visitor(), "/add/fig")
    with pytest.raises(ConfigError) as refused:
        scene.open(server.url, shards=4)
    assert quoted("SAFESESSION_SHARDS").search(str(refused.value))


def test_sessions_that_were_flushed_are_those_of_strangers(scene: Scene) -> None:
    server = scene.server()
    scene.members(server.url)
    server.ask("FLUSHALL")
    assert scene.visit() == [200, 200, 200]
    assert scene.lines == []
