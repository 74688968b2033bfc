"""A cluster: masters that share the slots, and a replica or more for each."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import redis
from redis.crc import key_slot

from .. import servers
from ..servers import Server, poll
from ._nodes import Nodes, flush, follows

SLOTS = 16384
NODE_TIMEOUT = 700  # milliseconds
_OPTIONS = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT)),
    *("--cluster-require-full-coverage", "no"),  # a lost node costs its own slots only
    *("--cluster-allow-replica-migration", "no"),  # masters keep the replicas that they have
    *("--cluster-replica-validity-factor", "0"),  # any replica may become a master
)


class _Row(NamedTuple):
    """What one node knows of another."""

    master: str  # its node ID, or "-"
    slots: tuple[range, ...]
    sound: bool


class Cluster:
    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._ids: dict[Server, str] = {}
        self._moves: dict[int, tuple[Server, Server]] = {}  # by slot: source and target

    @property
    def servers(self) -> list[Server]:
        return self.nodes.servers

    @property
    def url(self) -> str:
        return self.url_for(None, self.servers[0].password)

    def url_for(self, user: str | None, password: str | None) -> str:
        ports = [self.nodes.port(server) for server in self.servers]
        return servers.make_url("+cluster", ports, "", user, password, self.servers[0].tls)

    def masters(self) -> list[Server]:
        return [server for server, row in self._view().items() if row.slots]

    def replicas_of(self, master: Server) -> list[Server]:
        return [server for server, row in self._view().items() if row.master == self._ids[master]]

    def slot_of(self, key: str | bytes) -> int:
        return key_slot(key.encode() if isinstance(key, str) else key)

    def node_of(self, key: str | bytes | int) -> Server:
        """The master that has this key's slot, or this slot."""
        slot = key if isinstance(key, int) else self.slot_of(key)
        view = self._view().items()
        return next(server for server, row in view if any(slot in part for part in row.slots))

    def begin_move(self, slot: int, target: Server) -> None:
        """From now on the source answers ASK for keys that it has not, or has no longer."""
        source = self.node_of(slot)
        self._moves[slot] = source, target
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self._ids[source])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self._ids[target])

    def move_keys(self, slot: int, *keys: str | bytes) -> None:
        """These keys, or all that are there."""
        source, target = self._moves[slot]
        login = ["AUTH", target.password] if target.password else []
        while batch := keys or source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            where = ("127.0.0.1", target.port, "", 0, 5000)
            source.ask("MIGRATE", *where, *login, "KEYS", *batch)
            if keys:
                return

    def finish_move(self, slot: int) -> None:
        """Move the keys that are left, and wait until all nodes know where the slot is."""
        self.move_keys(slot)
        source, target = self._moves.pop(slot)
        others = [server for server in self.masters() if server not in (source, target)]
        for server in (target, source, *others):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", self._ids[target])
        self.wait()

    def kill(self, node: Server) -> None:
        """SIGKILL; the others will notice."""
        node.kill()

    def failover(self, replica: Server) -> float:
        """The replica takes its master's place; seconds until all nodes know."""
        replica.ask("CLUSTER", "FAILOVER")
        return poll("a new master", lambda: replica in self.masters()) + self.wait()

    def wait_for_another(self, lost: Server) -> float:
        """Until the other nodes know who has the slots of a *lost* master; the seconds."""
        return self.wait(lost)

    def wait(self, *without: Server) -> float:
        """Until all running nodes agree that all slots are served, and by whom; the seconds."""
        left = [server for server in self.servers if server.running and server not in without]
        return poll("a settled cluster", lambda: self._is_settled(left), 30)

    def heal(self) -> None:
        """As new, but for the data, the roles and the places of slots that have moved."""
        self.nodes.revive()
        self.wait()
        for slot, ends in self._moves.items():
            for server in ends:
                server.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        self._moves.clear()

    def flush(self) -> None:
        for master in self.masters():
            flush(master, len(self.replicas_of(master)))

    def start(self, masters: int, replicas: int) -> None:
        tls = self.nodes.ways.get("tls")
        for _ in range(masters + replicas):
            bus = ["--cluster-port", str(servers.free_port())]
            bus += ["--tls-cluster", "yes"] if tls else []
            announce = "--cluster-announce-tls-port" if tls else "--cluster-announce-port"
            server = self.nodes.add(*_OPTIONS, *bus, announce=announce)
            self._ids[server] = server.ask("CLUSTER", "MYID").decode()
        self._meet()
        self._give_slots(self.servers[:masters])
        for number, replica in enumerate(self.servers[masters:]):
            replica.ask("CLUSTER", "REPLICATE", self._ids[self.servers[number % masters]])
        self.wait()

    def _meet(self) -> None:
        for epoch, server in enumerate(self.servers, 1):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for one, other in itertools.combinations(self.servers, 2):
            bus = other.ask("CONFIG GET", "cluster-port")["cluster-port"]
            one.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes.port(other), bus)
        poll("acquaintance", lambda: all(self._knows_all(server) for server in self.servers))

    def _knows_all(self, server: Server) -> bool:
        rows = self._view(server)
        return len(rows) == len(self.servers) and all(row.sound for row in rows.values())

    def _give_slots(self, masters: Sequence[Server]) -> None:
        bounds = [SLOTS * n // len(masters) for n in range(len(masters) + 1)]
        for master, (first, end) in zip(masters, itertools.pairwise(bounds), strict=True):
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)

    def _view(self, at: Server | None = None) -> dict[Server, _Row]:
        """What one node knows; the first that answers, if it does not matter which."""
        if at is None:
            for server in self.servers:
                with contextlib.suppress(redis.RedisError):
                    return self._view(server)
            raise LookupError("no node answers")
        by_id = {node: server for server, node in self._ids.items()}
        rows = {row["node_id"]: row for row in at.ask("CLUSTER NODES").values()}
        return {
            by_id[node]: _Row(
                row["master_id"],
                tuple(range(int(part[0]), int(part[-1]) + 1) for part in row["slots"]),
                row["connected"] and set(row["flags"].split(",")) <= {"myself", "master", "slave"},
            )
            for node, row in rows.items()
            if node in by_id
        }

    def _is_settled(self, left: Iterable[Server]) -> bool:
        views = []
        for server in left:
            view = self._view(server)
            views.append({one: view[one] for one in left})
            if server.ask("CLUSTER INFO")["cluster_state"] != "ok":
                return False
        first = views[0]
        served = sum(len(part) for row in first.values() for part in row.slots)
        return (
            served == SLOTS
            and all(view == first and all(row.sound for row in view.values()) for view in views)
            and all(self._follows(server, row) for server, row in first.items())
        )

    def _follows(self, server: Server, row: _Row) -> bool:
        """It serves slots, or its master's link is up."""
        master = next((one for one, node in self._ids.items() if node == row.master), None)
        return bool(row.slots) if master is None else follows(server, self.nodes.port(master))


@contextlib.contextmanager
def cluster(
    kind: str,
    folder: Path,
    masters: int = 3,
    replicas: int = 3,
    *,
    options: Sequence[str] = (),
    proxied: bool = False,
    **ways: object,
) -> Iterator[Cluster]:
    """So many masters with equal shares of the slots, and replicas for each in turn."""
    nodes = Nodes(kind, folder, options, proxied, **ways)
    try:
        made = Cluster(nodes)
        made.start(masters, replicas)
        yield made
    finally:
        nodes.stop()
