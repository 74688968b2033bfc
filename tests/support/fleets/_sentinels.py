"""A master and two replicas, watched by three Sentinels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from .. import servers
from ..proxy import Proxy
from ..servers import Server, poll
from ._nodes import Nodes, flush, grow, in_sync, revive

SERVICE = "main"
DOWN_AFTER = 400  # milliseconds
# Milliseconds; by default some are ten seconds. While a master is down, Sentinels look at its
# replicas once a second, however often they do otherwise. What they saw must not be older than five
# times the ping-period, else no replica is good enough; and who has not heard of a failover for
# four times the publish-period undoes it.
_PACE = (
    *("info-period", "100", "ping-period", "300", "ask-period", "100", "publish-period", "500"),
    *("tilt-period", "1000"),  # after a pause of everything
)


class Trio:
    def __init__(self, nodes: Nodes, folder: Path, password: str | None) -> None:
        self.nodes = nodes
        self.sentinels: list[Server] = []
        self.proxies: list[Proxy] = []  # before the Sentinels, in their order
        self._folder, self._password = folder, password

    def start(self) -> None:
        master = grow(self.nodes, 2)
        for _ in range(3):
            self._add_sentinel(self.nodes.port(master))
        self.wait()

    @property
    def servers(self) -> list[Server]:
        return self.nodes.servers

    @property
    def url(self) -> str:
        return self.url_for(None, self.servers[0].password)

    def url_for(self, user: str | None, password: str | None) -> str:
        ports = [proxy.port for proxy in self.proxies] or [s.port for s in self.sentinels]
        path = f"/{SERVICE}/0"
        return servers.make_url("+sentinel", ports, path, user, password, self.servers[0].tls)

    def master(self) -> Server:
        """The one that the first Sentinel to answer calls the master now."""
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.RedisError):
                return self.nodes.at(_master_port(sentinel))
        raise LookupError("no Sentinel answers")

    def replicas(self) -> list[Server]:
        master = self.master()
        return [server for server in self.servers if server is not master]

    def failover(self) -> float:
        """Ask a Sentinel to change the master; seconds until all servers and Sentinels have."""
        old, leader = self.master(), self.sentinels[0]

        def is_over() -> bool:
            if self.nodes.at(_master_port(leader)) is old:  # it may have begun and given up
                leader.ask("SENTINEL", "FAILOVER", SERVICE)
            return self._has_changed(old)

        return poll("a failover", is_over, 30) + self.wait()

    def kill_master(self) -> Server:
        """SIGKILL; the Sentinels will notice."""
        master = self.master()
        master.kill()
        return master

    def wait_for_another(self, old: Server) -> float:
        """Until all running Sentinels name another master, and it is one; the seconds."""
        return poll("another master", lambda: self._has_changed(old), 30)

    def _has_changed(self, old: Server) -> bool:
        ports = {_master_port(sentinel) for sentinel in self.sentinels if sentinel.running}
        new = self.nodes.at(ports.pop())
        return not ports and new is not old and new.ask("INFO", "replication")["role"] == "master"

    def wait(self) -> float:
        """Until all is well, and all Sentinels agree that it is; the seconds."""
        return poll("a whole trio", self._is_whole, 30)

    def _is_whole(self) -> bool:
        if len({_master_port(sentinel) for sentinel in self.sentinels}) > 1:
            return False
        return all(_is_content(s) for s in self.sentinels) and in_sync(self.nodes, self.master())

    def heal(self) -> None:
        """As new, but for the data and the roles."""
        self.nodes.revive()
        for proxy in self.proxies:
            proxy.fix()
        for sentinel in self.sentinels:
            if revive(sentinel):
                sentinel.ask("SENTINEL", "DEBUG", *_PACE)
        self.wait()

    def flush(self) -> None:
        flush(self.master(), 2)

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for proxy in self.proxies:
            proxy.close()

    def _add_sentinel(self, master_port: int) -> None:
        port = servers.free_port()
        folder = self._folder / f"sentinel-{port}"
        folder.mkdir()
        if self.nodes.proxied:
            self.proxies.append(Proxy(port))
        file = folder / "sentinel.conf"
        file.write_text("\n".join(self._settings(port, folder, master_port)))
        command = [servers.binaries()[self.nodes.kind], str(file), "--sentinel"]
        process = servers.spawn(command, folder / f"{port}.log")
        tls = self.servers[0].tls
        sentinel = Server(self.nodes.kind, port, process, command, folder, self._password, tls)
        self.sentinels.append(sentinel)
        sentinel.wait()
        sentinel.ask("SENTINEL", "DEBUG", *_PACE)

    def _settings(self, port: int, folder: Path, master_port: int) -> Iterator[str]:
        first = self.servers[0]
        yield f"port {port}" if first.tls is None else f"port 0\ntls-port {port}"
        if first.tls:
            options = first.tls.of_server()
            yield from (f"{o[2:]} {v}" for o, v in zip(options[::2], options[1::2], strict=True))
        yield f"bind 127.0.0.1\ndir {folder}"
        yield f"sentinel monitor {SERVICE} 127.0.0.1 {master_port} 2"
        yield f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER}"
        yield f"sentinel failover-timeout {SERVICE} 2000"
        yield f"sentinel parallel-syncs {SERVICE} 2"
        if first.password:
            yield f"sentinel auth-pass {SERVICE} {first.password}"
        if self._password:
            yield f"requirepass {self._password}\nsentinel sentinel-pass {self._password}"
        if self.proxies:
            yield f"sentinel announce-ip 127.0.0.1\nsentinel announce-port {self.proxies[-1].port}"


def _master_port(sentinel: Server) -> int:
    _host, port = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
    return int(port)


def _is_content(sentinel: Server) -> bool:
    """It sees one master, two replicas and two other Sentinels, and nothing wrong with any."""
    master = _table(sentinel.ask("SENTINEL", "MASTER", SERVICE))
    replicas = [_table(row) for row in sentinel.ask("SENTINEL", "REPLICAS", SERVICE)]
    others = [_table(row) for row in sentinel.ask("SENTINEL", "SENTINELS", SERVICE)]
    return (
        master["flags"] == "master"
        and [r["flags"] for r in replicas] == ["slave"] * 2
        and [r["master-link-status"] for r in replicas] == ["ok"] * 2
        # master_down is what that Sentinel said last; nobody asks it again after a failover.
        and [o["flags"].replace(",master_down", "") for o in others] == ["sentinel"] * 2
    )


def _table(row: Any) -> dict[str, str]:
    parts = [part.decode() for part in (row if isinstance(row, list) else sum(row.items(), ()))]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@contextlib.contextmanager
def sentinels(
    kind: str,
    folder: Path,
    *,
    options: Sequence[str] = (),
    proxied: bool = False,
    sentinel_password: str | None = None,
    **ways: Any,
) -> Iterator[Trio]:
    """One master, two replicas, three Sentinels, all knowing each other."""
    nodes = Nodes(kind, folder, options, proxied, **ways)
    trio = Trio(nodes, folder, sentinel_password)
    try:
        trio.start()
        yield trio
    finally:
        trio.stop()
        nodes.stop()
