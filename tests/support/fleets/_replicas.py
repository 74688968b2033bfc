"""A master and its replicas, without anybody who watches them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..servers import Server, poll
from ._nodes import Nodes, flush, grow, in_sync


class Replicas:
    def __init__(self, nodes: Nodes, count: int) -> None:
        self.nodes = nodes
        self.master = grow(nodes, count)

    @property
    def replicas(self) -> list[Server]:
        return [server for server in self.nodes.servers if server is not self.master]

    @property
    def url(self) -> str:
        return self.nodes.url(self.master)

    def promote(self, replica: Server) -> None:
        """This one is the master from now on; the old one is not told."""
        replica.ask("REPLICAOF", "NO", "ONE")
        self.master = replica

    def follow(self) -> None:
        """All other running servers follow the master of now."""
        for server in self.replicas:
            if server.running:
                server.ask("REPLICAOF", "127.0.0.1", self.nodes.port(self.master))
        self.wait()

    def wait(self) -> float:
        """Until all running servers are in sync; the seconds that took."""
        return poll("replicas in sync", lambda: in_sync(self.nodes, self.master))

    def heal(self) -> None:
        """As new, but for the data and the roles."""
        self.nodes.revive()
        self.master.ask("REPLICAOF", "NO", "ONE")
        self.follow()

    def flush(self) -> None:
        flush(self.master, len(self.replicas))


@contextlib.contextmanager
def replicas(
    kind: str,
    folder: Path,
    count: int = 2,
    *,
    options: Sequence[str] = (),
    proxied: bool = False,
    **ways: Any,
) -> Iterator[Replicas]:
    """A master and *count* replicas in sync with it."""
    nodes = Nodes(kind, folder, options, proxied, **ways)
    try:
        fleet = Replicas(nodes, count)
        yield fleet
    finally:
        nodes.stop()
