"""Who is asked for the master or for the map of slots, in which order, and what is made of it.

Sentinels and nodes are stand-ins here, which say what real ones rarely do. Real ones:
test_topologies.py, tests/faults.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
import redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
)
from redis.sentinel import MasterNotFoundError

from flask_safesession.stores.redis.servers.cluster import Cluster
from flask_safesession.stores.redis.servers.connections import Connections, remaining
from flask_safesession.stores.redis.servers.sentinel import _Watch
from flask_safesession.stores.redis.servers.standalone import Address, spelled
from flask_safesession.stores.remote.deadline import deadline

PING = ("PING",)
LOST = redis.ConnectionError("lost")


def test_an_address_is_written_as_people_do() -> None:
    assert spelled(("h", 1)) == "h:1"
    assert spelled(("::1", 1)) == "[::1]:1"


# -- Sentinels -----------------------------------------------------------------------------------


class Asked:
    """Stands in for connections to one Sentinel, which names a master, nobody, or does not answer.

    ``given``: the seconds that it was given each time.
    """

    def __init__(self, number: int, named: str | Exception | None) -> None:
        self.server = f"s{number}"
        self.named = named
        self.given: list[float] = []
        self.closed = False

    def exchange(self, *commands: Any) -> list[Any]:
        assert commands == (("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"),)
        self.given.append(remaining())
        if isinstance(self.named, Exception):
            raise self.named
        return [self.named and [self.named.encode(), b"1"]]

    def close(self) -> None:
        self.closed = True


def watch(*named: str | Exception | None) -> tuple[_Watch, list[Asked]]:
    asked = [Asked(number, name) for number, name in enumerate(named)]
    return _Watch("main", cast(list[Connections], asked)), asked


def find(watch: _Watch, *masters: str, error: Exception | None = None) -> list[str]:
    """The addresses that were tried, *masters* being such; others are an *error*."""
    tried: list[str] = []

    def connect(address: Address) -> None:
        tried.append(address[0])
        if address[0] not in masters:
            raise error or redis.ConnectionError(f"{address[0]} is no master")

    with deadline(4):
        watch.find(connect)
    return tried


def test_who_answered_last_is_asked_first_and_who_named_no_master_last() -> None:
    found, asked = watch(LOST, "old", "new", "new")
    assert find(found, "new") == ["old", "new"]
    assert [len(one.given) for one in asked] == [1, 1, 1, 0]
    assert find(found, "new") == ["new"]
    assert [len(one.given) for one in asked] == [1, 1, 2, 0]
    asked[2].named = asked[3].named = None
    with pytest.raises(MasterNotFoundError):
        find(found, "new")
    assert [one.server for one in found._order] == ["s2", "s0", "s3", "s1"]


def test_no_sentinel_gets_more_than_its_share_of_the_time() -> None:
    found, asked = watch(LOST, LOST, LOST)
    with pytest.raises(MasterNotFoundError):
        find(found)
    assert [round(one.given[0], 1) for one in asked] == [1.0, 1.3, 2.0]  # of what is left


def test_an_address_is_tried_once_and_all_is_told() -> None:
    found, _ = watch("old", "old", "old", None, LOST)
    with pytest.raises(MasterNotFoundError) as caught:
        find(found)
    assert str(caught.value) == (
        "no master for 'main'; s0 names old:1: old is no master; s3 names none; s4: lost"
    )


@pytest.mark.parametrize("answer", [AuthenticationError("WRONGPASS"), BusyLoadingError("LOADING")])
def test_what_the_master_itself_says_is_not_asked_about_elsewhere(answer: Exception) -> None:
    found, asked = watch("master", "other")
    with pytest.raises(type(answer)):
        find(found, error=answer)
    assert not asked[1].given


def test_another_master_is_noticed_once() -> None:
    found, asked = watch("a")
    assert (find(found, "a"), found.moved) == (["a"], False)
    asked[0].named = "b"
    assert (find(found, "b"), found.moved) == (["b"], True)
    found.moved = False
    assert (find(found, "b"), found.moved) == (["b"], False)
    found.close()
    assert asked[0].closed


# -- the nodes of a cluster -----------------------------------------------------------------------


class Node:
    """Stands in for connections to one node. What it does next stands in ``next``; else it is well.

    ``slots``: what it answers when it is asked for the map.
    """

    def __init__(self, name: str) -> None:
        self.server = name
        self.breaker = self
        self.failing = False
        self.slots: list[Any] = []
        self.next: list[Exception] = []
        self.got: list[Any] = []
        self.given: list[float] = []  # seconds for the map
        self.closed = False

    def exchange(self, *commands: Any, careful: bool = False) -> list[Any]:
        if commands == (("CLUSTER", "SLOTS"),):
            self.given.append(remaining())
            return [self.slots]
        self.got.append(commands)
        if self.next:
            raise self.next.pop(0)
        return [self.server] * len(commands)

    def close(self) -> None:
        self.closed = True


class Nodes(dict[str, Node]):
    """A cluster of such nodes, found by their names; and what gives access to them."""

    def __init__(self, seed: str) -> None:
        host, _, port = seed.partition(":")
        access: Any = self
        self.cluster = Cluster([(host, int(port))], access, print)

    def __missing__(self, name: str) -> Node:
        return self.setdefault(name, Node(name))

    def to(self, address: Any, notify: Any) -> Node:
        return self[spelled(address)]

    def ask(self, *, careful: bool = False) -> Any:
        """Who answered."""
        with deadline(5):
            return self.cluster.route("{a}")(PING, careful=careful)[0]


def entry(host: bytes | None, port: int, *more: Any) -> list[Any]:
    return [host, port, b"id", *more]


def all_on(*nodes: list[Any]) -> list[Any]:
    return [[0, 16383, *nodes]]


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        (entry(b"b", 2), "b:2"),
        (entry(b"::1", 2, []), "[::1]:2"),
        (entry(None, 2, []), "a:2"),
        (entry(b"", 2), "a:2"),
        (entry(b"?", 2, [b"ip", b"b"]), "b:2"),
        (entry(b"b", 2, [b"hostname", b"c"]), "b:2"),
    ],
)
def test_a_map_names_nodes_in_many_ways(told: list[Any], meant: str) -> None:
    nodes = Nodes("a:1")
    nodes["a:1"].slots = all_on(told, entry(b"replica", 3))
    assert nodes.ask() == meant
    assert [at.server for at in nodes.cluster.servers()] == [meant]


def test_nodes_that_send_each_other_calls_do_not_do_so_forever() -> None:
    nodes = Nodes("a:1")
    nodes["a:1"].slots = all_on(entry(b"a", 1))
    nodes["a:1"].next = [MovedError("1 b:2")] * 99
    nodes["b:2"].next = [MovedError("1 a:1")] * 99
    with pytest.raises(ClusterDownError, match="redirect calls for slot"):
        nodes.ask()
    assert len(nodes["a:1"].got) < 5


def test_a_node_that_has_left_is_forgotten() -> None:
    nodes = Nodes("a:1")
    nodes["a:1"].slots = all_on(entry(b"b", 2))
    nodes["b:2"].slots = all_on(entry(b"c", 3))
    nodes["b:2"].next = [MovedError("1 c:3")]
    assert nodes.ask() == "c:3"
    assert nodes["b:2"].closed
    assert [at.server for at in nodes.cluster.servers()] == ["c:3"]
    asked = len(nodes["b:2"].given)
    nodes["a:1"].slots = []
    with pytest.raises(redis.ConnectionError), deadline(1):
        nodes.cluster._read(1)
    assert nodes["a:1"].given
    assert len(nodes["b:2"].given) == asked


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("sent", [False, True])
def test_what_may_have_been_done_is_not_sent_to_another_node(careful: bool, sent: bool) -> None:
    nodes, lost = Nodes("a:1"), redis.TimeoutError("lost")
    lost.was_sent = sent  # type: ignore[attr-defined]
    nodes["a:1"].slots = all_on(entry(b"b", 2))
    nodes.cluster.servers()
    nodes["b:2"].slots = all_on(entry(b"c", 3))
    nodes["b:2"].next = [lost]
    if careful and sent:
        with pytest.raises(redis.TimeoutError):
            nodes.ask(careful=True)
        assert nodes.ask(careful=True) == "c:3"  # the next one, that is
    else:
        assert nodes.ask(careful=careful) == "c:3"


def test_a_call_that_comes_after_a_failure_looks_first() -> None:
    """A probe of a stopped node would cost its whole time."""
    nodes = Nodes("a:1")
    nodes["a:1"].slots = all_on(entry(b"b", 2))
    nodes.ask()
    nodes["b:2"].failing = True
    nodes["a:1"].slots = all_on(entry(b"c", 3))
    assert nodes.ask() == "c:3"
    assert len(nodes["b:2"].got) == 1


def test_who_does_not_answer_is_asked_last_and_nobody_gets_more_than_a_share() -> None:
    nodes = Nodes("a:1")
    nodes["a:1"].slots = all_on(entry(b"b", 2), entry(b"replica", 3))
    nodes.ask()
    nodes["b:2"].failing = True
    nodes["a:1"].slots = []
    with pytest.raises(redis.ConnectionError) as caught, deadline(4):
        nodes.cluster._read(1)
    assert [text.split()[0] for text in str(caught.value).split("; ")[1:]] == [
        "replica:3", "a:1", "b:2",
    ]  # fmt: skip
    shares = [round(nodes[name].given[-1], 1) for name in ("replica:3", "a:1", "b:2")]
    assert shares == [1.0, 1.3, 2.0]  # of what is left


def test_a_slot_that_nobody_has_is_told() -> None:
    nodes = Nodes("a:1")
    nodes["a:1"].slots = [[0, 1, entry(b"a", 1)]]
    with pytest.raises(redis.ConnectionError, match="a:1 names no node for the slot"):
        nodes.ask()
