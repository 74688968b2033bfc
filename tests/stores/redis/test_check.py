"""What ``flask safesession check`` finds in the settings of servers, one by one and together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.redis.check import findings
from flask_safesession.stores.redis.scripts import Caller
from flask_safesession.stores.redis.url import topology_of

from ...support import fleets, servers
from ...support.kits import REAL

# A server with these has nothing to fix.
SOUND = ("--maxmemory", "1gb", "--appendonly", "yes")


class Several:
    """Any number of servers that are no single standalone one."""

    def __init__(self, *servers: Any) -> None:
        self._servers = servers

    def servers(self) -> Sequence[Any]:
        return self._servers


class Told:
    """A server that is not there: what it tells, and where it is said to be."""

    def __init__(
        self, info: str = "", *, at: str = "127.0.0.1:1", ahead: float = 0, encrypted: bool = False
    ) -> None:
        self.server, self.encrypted = at, encrypted
        self._answers = {
            "INFO": f"maxmemory:1000\r\naof_enabled:1\r\nredis_version:7.2.0\r\n{info}".encode(),
            "TIME": (b"%d" % (1_000_000 + ahead), b"0"),
            "CONFIG": [b"save", b""],
        }

    def exchange(self, *commands: tuple[str, ...]) -> list[Any]:
        return [self._answers[name] for name, *_ in commands]


def at(*urls: str) -> list[Any]:
    """Connections to these servers."""
    return [topology_of(url, print).servers()[0] for url in urls]


def found(*of: Any, replicas: int = 0) -> list[str]:
    topology: Any = Several(*of)
    return [text for _, text in findings(Caller(topology, 1.0), replicas)]


def found_at(url: str, replicas: int = 0) -> list[str]:
    """What the store of an app that names one server finds."""
    store = RedisStore(url, wait_replicas=replicas)
    try:
        return [text for _, text in store.inspect()]
    finally:
        store.close()


def starts(sentences: list[str]) -> list[str]:
    return [sentence.split(":")[0] for sentence in sentences]


@pytest.fixture(params=REAL)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def sound(kind: str, tmp_path: Path) -> Iterator[servers.Server]:
    folder = tmp_path / "data"
    folder.mkdir()
    with servers.running(kind, folder, *SOUND) as server:
        yield server


# -- one server ---------------------------------------------------------------------------------


def test_a_sound_server_has_nothing_to_mend(sound: servers.Server) -> None:
    assert found_at(sound.url) == []


@pytest.mark.parametrize(
    ("setting", "value", "start"),
    [
        ("maxmemory-policy", "volatile-lru", "maxmemory-policy is volatile-lru"),
        ("maxmemory-policy", "allkeys-random", "maxmemory-policy is allkeys-random"),
        ("maxmemory", "0", "maxmemory is not set"),
        ("appendonly", "no", "persistence is off"),
    ],
)
def test_each_setting_is_one_finding(
    sound: servers.Server, setting: str, value: str, start: str
) -> None:
    sound.ask("CONFIG", "SET", setting, value)
    assert starts(found_at(sound.url)) == [start]


def test_snapshots_are_persistence_too(sound: servers.Server) -> None:
    sound.ask("CONFIG", "SET", "appendonly", "no")
    sound.ask("CONFIG", "SET", "save", "60 1")
    assert found_at(sound.url) == []


def test_who_may_not_ask_for_the_settings_of_persistence_is_not_told_that_there_is_none(
    sound: servers.Server,
) -> None:
    sound.ask("CONFIG", "SET", "appendonly", "no")
    sound.ask("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-config")
    assert found_at(sound.url_for("app", "secret")) == []


def test_a_save_that_failed_is_a_finding(sound: servers.Server) -> None:
    shutil.rmtree(sound.folder)
    sound.ask("BGSAVE")
    servers.poll(
        "a failed save",
        lambda: sound.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "err",
    )
    assert starts(found_at(sound.url)) == ["the server could not save its data the last time"]


def test_a_log_that_could_not_be_written_is_a_finding() -> None:
    seen = found(Told("aof_last_write_status:err\r\nslave0:state=online"))
    assert starts(seen) == ["the server could not save its data the last time"]


@pytest.mark.parametrize(
    ("info", "sentences"),
    [
        ("redis_version:6.0.16", 1),
        ("redis_version:6.2.0", 0),
        ("redis_version:10.0.0", 0),
        ("valkey_version:7.0.15", 1),
        ("valkey_version:7.2.4", 0),  # it also says that it is Redis 7.2
    ],
)
def test_a_version_that_is_too_old_is_a_finding(info: str, sentences: int) -> None:
    seen = found(Told(f"{info}\r\nslave0:state=online"))
    assert len(seen) == sentences
    assert all("is the oldest" in sentence for sentence in seen)


@pytest.mark.parametrize(
    ("place", "encrypted", "sentences"),
    [
        ("cache.example:6379", False, 1),
        ("10.0.0.5:6379", False, 1),
        ("cache.example:6379", True, 0),
        ("127.0.0.1:6379", False, 0),
        ("[::1]:6379", False, 0),
        ("/run/valkey/valkey.sock", False, 0),
    ],
)
def test_a_connection_across_a_network_has_to_be_encrypted(
    place: str, encrypted: bool, sentences: int
) -> None:
    seen = found(Told("slave0:state=online", at=place, encrypted=encrypted))
    assert len(seen) == sentences
    assert all("use rediss:// (TLS)" in sentence for sentence in seen)


# -- replicas -----------------------------------------------------------------------------------


def test_replicas_that_have_to_confirm_have_to_be_there(kind: str, tmp_path: Path) -> None:
    with fleets.replicas(kind, tmp_path, 1, options=SOUND) as pair:
        [replica] = pair.replicas
        assert found_at(pair.url, 1) == []
        assert starts(found_at(pair.url, 2)) == [
            "SAFESESSION_WAIT_REPLICAS is 2, and 1 are connected"
        ]
        assert starts(found_at(replica.url, 2)) == [
            "the server is a replica, which takes no writes"
        ]
        assert found(*at(pair.url)) == []
        replica.kill()
        servers.poll(
            "a lonely master",
            lambda: pair.master.ask("INFO", "replication")["connected_slaves"] == 0,
        )
        assert found_at(pair.url) == []
        assert starts(found_at(pair.url, 1)) == [
            "SAFESESSION_WAIT_REPLICAS is 1, and 0 are connected"
        ]
        assert starts(found(*at(pair.url))) == ["no replica is connected"]


def test_a_replica_that_is_still_being_filled_confirms_nothing() -> None:
    seen = found(Told("connected_slaves:1\r\nslave0:ip=::1,state=wait_bgsave"), replicas=1)
    assert starts(seen) == ["SAFESESSION_WAIT_REPLICAS is 1, and 0 are connected"]


# -- several servers ----------------------------------------------------------------------------


def test_findings_name_the_server_where_there_are_several() -> None:
    one, other = Told("slave0:state=online", at="127.0.0.1:1"), Told(at="127.0.0.1:2")
    [finding] = found(one, other)
    assert finding.startswith("127.0.0.1:2: no replica is connected")


def test_a_server_that_is_down_does_not_hide_what_is_wrong_with_the_others() -> None:
    [down, other] = found(*at("redis://127.0.0.1:1/0"), Told(at="127.0.0.1:2"))
    assert down.startswith("127.0.0.1:1: cannot be used: ConnectionError")
    assert other.startswith("127.0.0.1:2: no replica is connected")
    assert len(found(*at("redis://127.0.0.1:1", "redis://127.0.0.1:2"))) == 2


def test_the_only_server_that_is_down_is_told_of_by_the_caller() -> None:
    with pytest.raises(StoreUnavailable):
        found(*at("redis://127.0.0.1:1/0"))


@pytest.mark.parametrize(("ahead", "sentences"), [(0, 0), (-1, 0), (2, 1), (-3600, 1)])
def test_clocks_that_differ_are_a_finding(ahead: float, sentences: int) -> None:
    info = "slave0:state=online"
    seen = found(Told(info), Told(info, at="127.0.0.1:2", ahead=ahead), Told(info))
    assert len(seen) == sentences
    assert all(f"are {abs(ahead)} s apart" in text and "127.0.0.1:2" in text for text in seen)
