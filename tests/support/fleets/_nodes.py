"""What all fleets are made of: data servers, each behind a proxy where the test asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import servers
from ..proxy import Proxy
from ..servers import Server, poll

# What is acknowledged survives a SIGKILL; a replica is in sync as soon as it can be.
_OPTIONS = (
    *("--appendonly", "yes", "--appendfsync", "everysec"),
    *("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"),
    *("--repl-ping-replica-period", "1", "--hz", "50"),
)


class Nodes:
    """The data servers of one fleet. Behind proxies they announce the proxies' ports.

    *options* go to each server, *ways* (password, users, tls) are those of ``servers.start``.
    """

    def __init__(
        self, kind: str, folder: Path, options: Sequence[str], proxied: bool, **ways: Any
    ) -> None:
        self.kind, self.proxied, self.ways = kind, proxied, ways
        self.servers: list[Server] = []
        self.proxies: dict[int, Proxy] = {}  # by the port of the server behind
        self._folder, self._options = folder, options

    def add(self, *options: str, announce: str = "--replica-announce-port") -> Server:
        port = servers.free_port()
        folder = self._folder / f"{len(self.servers)}-{port}"
        folder.mkdir()
        if self.proxied:
            proxy = self.proxies[port] = Proxy(port)
            options += (announce, str(proxy.port))
        options = (*_OPTIONS, *options, *self._options)
        server = servers.start(self.kind, folder, *options, port=port, **self.ways)
        self.servers.append(server)
        return server

    def port(self, server: Server) -> int:
        """Where clients and the other servers find it."""
        return self.proxies[server.port].port if self.proxied else server.port

    def at(self, port: int) -> Server:
        """The server that is found there."""
        return next(server for server in self.servers if self.port(server) == port)

    def url(self, server: Server) -> str:
        return servers.make_url("", [self.port(server)], "/0", None, server.password, server.tls)

    def proxy(self, server: Server) -> Proxy:
        return self.proxies[server.port]

    def revive(self) -> None:
        """All run, all are reachable."""
        for proxy in self.proxies.values():
            proxy.fix()
        for server in self.servers:
            revive(server)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
        for proxy in self.proxies.values():
            proxy.close()


def revive(server: Server) -> bool:
    """Resume or restart it, and say whether it had to be restarted."""
    if server.running:
        server.resume()
        return False
    server.restart()
    return True


def in_sync(nodes: Nodes, master: Server) -> bool:
    """All other running servers follow this one, and it knows."""
    role = master.ask("INFO", "replication")
    followers = [server for server in nodes.servers if server is not master and server.running]
    states = [role[f"slave{n}"]["state"] for n in range(role["connected_slaves"])]
    return (
        role["role"] == "master"
        and states == ["online"] * len(followers)
        and all(follows(server, nodes.port(master)) for server in followers)
    )


def flush(master: Server, replicas: int) -> None:
    """Empty them all."""
    client: Any = master.client(socket_timeout=5)
    with contextlib.closing(client):
        client.flushall()
        if client.wait(replicas, 3000) < replicas:
            raise TimeoutError("the replicas do not follow")


def follows(replica: Server, port: int) -> bool:
    role = replica.ask("INFO", "replication")
    return bool(
        role["role"] == "slave"
        and role["master_port"] == port
        and role["master_link_status"] == "up"
    )


def grow(nodes: Nodes, count: int) -> Server:
    """Start a master and so many replicas, in sync; returns the master."""
    master = nodes.add()
    for _ in range(count):
        nodes.add("--replicaof", f"127.0.0.1 {nodes.port(master)}")
    poll("replicas in sync", lambda: in_sync(nodes, master))
    return master
