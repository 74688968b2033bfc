"""The store under the soak: real servers behind proxies, and what can be done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import sleep

from ..support.fleets import Cluster, cluster, replicas, sentinels
from ..support.proxy import Proxy, before
from ..support.servers import KEEP, Server, running

OPTIONS = (*KEEP, "--lua-time-limit", "50")
"""What was acknowledged is kept, and whoever meets a long script is told so soon."""

Fault = Callable[[Random], object]


@dataclass(frozen=True)
class Fleet:
    """Where the sessions are.

    :param url: for ``SAFESESSION_STORE``.
    :param masters: the servers that are written to, as things are now.
    :param proxy: what stands before one of them.
    :param heal: waits until all is well again.
    :param faults: those that only such a fleet can have.
    """

    url: str
    masters: Callable[[], list[Server]]
    proxy: Callable[[Server], Proxy]
    heal: Callable[[], object] = lambda: None
    faults: Mapping[str, Fault] = field(default_factory=dict)


@contextmanager
def _single(name: str, folder: Path, slot: str) -> Iterator[Fleet]:
    """One server."""
    with running(name, folder, *OPTIONS) as server, before(server.port) as proxy:
        yield Fleet(proxy.url, lambda: [server], lambda _: proxy)


@contextmanager
def _replicas(name: str, folder: Path, slot: str) -> Iterator[Fleet]:
    """A master and two replicas, of which nobody takes its place."""
    with replicas(name, folder, options=OPTIONS, proxied=True) as group:
        faults = {"replica stop": lambda dice: _stop_one(group.replicas, dice)}
        yield Fleet(group.url, lambda: [group.master], group.nodes.proxy, group.wait, faults)


@contextmanager
def _sentinel(name: str, folder: Path, slot: str) -> Iterator[Fleet]:
    """A master and two replicas under three Sentinels: a fault may lead to a failover."""
    with sentinels(name, folder, options=OPTIONS, proxied=True) as trio:
        faults: dict[str, Fault] = {
            "replica stop": lambda dice: _stop_one(trio.replicas(), dice),
            "sentinel stop": lambda dice: _stop_one(trio.sentinels, dice),
            "failover": lambda dice: trio.failover(),
        }
        yield Fleet(trio.url, lambda: [trio.master()], trio.nodes.proxy, trio.heal, faults)


@contextmanager
def _cluster(name: str, folder: Path, slot: str) -> Iterator[Fleet]:
    """Three masters with a replica each; *slot* is a key in the slot that moves about."""
    with cluster(name, folder, options=OPTIONS, proxied=True) as nodes:

        def failover(dice: Random) -> None:
            master = dice.choice(nodes.masters())
            nodes.failover(dice.choice(nodes.replicas_of(master)))

        faults: dict[str, Fault] = {
            "failover": failover,
            "slot move": lambda dice: _move(nodes, slot, dice),
            "replica stop": lambda dice: _stop_one(
                nodes.replicas_of(dice.choice(nodes.masters())), dice
            ),
        }
        yield Fleet(nodes.url, nodes.masters, nodes.nodes.proxy, nodes.heal, faults)


def _stop_one(servers: list[Server], dice: Random) -> None:
    with dice.choice(servers).paused():
        sleep(dice.uniform(0.2, 3))


def _move(nodes: Cluster, key: str, dice: Random) -> None:
    """Take the slot of *key* to another master, a few keys at a time, while it is in use."""
    slot = nodes.slot_of(key)
    source = nodes.node_of(slot)
    nodes.begin_move(slot, dice.choice([one for one in nodes.masters() if one is not source]))
    for _ in range(10):
        if some := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 20):
            nodes.move_keys(slot, *some)
        sleep(dice.uniform(0, 0.1))
    nodes.finish_move(slot)


FLEETS = {"single": _single, "replicas": _replicas, "sentinel": _sentinel, "cluster": _cluster}
