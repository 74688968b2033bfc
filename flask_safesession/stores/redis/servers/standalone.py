"""Where the servers are: one, one behind Sentinel, or a cluster.

A topology sends commands to the server that is responsible for a key, and knows nothing of
sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import redis

from ...remote.breaker import Notify
from .connections import Command, Connections
from .timed import ours, timed

#: Host and port.
Address: TypeAlias = tuple[str, int]


class Access(NamedTuple):
    """How to get into a server, wherever it is.

    :param kind: redis-py's class of connections.
    :param options: what they are made with, as redis-py has it; :mod:`.timed` takes of this what
        says who we are.
    :param limit: the most connections at once; ``None``: as many as there are calls.
    """

    kind: Any
    options: Mapping[str, Any]
    limit: int | None = None

    @property
    def encrypted(self) -> bool:
        """Whether by TLS."""
        return issubclass(self.kind, redis.SSLConnection)

    def to(self, address: Address, notify: Notify) -> Connections:
        """Connections to the server at *address*."""
        host, port = address
        return self.by(timed(self.kind), spelled(address), notify, host=host, port=port)

    def by(self, kind: Any, server: str, notify: Notify, **more: Any) -> Connections:
        """Connections of another class, one of :mod:`.timed`, to what is called *server*."""
        make = partial(kind, **{**ours(self.options), **more})
        return Connections(make, server, self.limit, notify, encrypted=self.encrypted)


def spelled(address: Address) -> str:
    """An address as people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Topology(Protocol):
    """What a store needs of its servers.

    ``guarded``: scripts have to name a key that never exists. On a cluster a slot that is on its
    way to another node has keys on both; a script that names a missing key is refused there before
    it does anything (TRYAGAIN), and would stop half-way otherwise.
    """

    guarded: bool

    def exchange(self, key: str, *commands: Command, careful: bool = False) -> list[Any]:
        """Send *commands* to the server responsible for *key*, all on one connection.

        :param careful: for commands that must not be sent twice: never to a dead connection, nor
            again after their reply was lost.
        :raises redis.RedisError: the server's error, or that of the connection.
        """
        ...

    def servers(self) -> Sequence[Connections]:
        """The servers that sessions are on, as far as this process knows them."""
        ...

    def close(self) -> None:
        """Close the idle connections. Others are made when they are needed."""
        ...


class Standalone:
    """One server, always the same."""

    guarded = False

    def __init__(self, server: Connections) -> None:
        self._server = server

    def exchange(self, key: str, *commands: Command, careful: bool = False) -> list[Any]:
        """See :meth:`Topology.exchange`."""
        del key
        return self._server.exchange(*commands, careful=careful)

    def servers(self) -> Sequence[Connections]:
        """See :meth:`Topology.servers`."""
        return (self._server,)

    def close(self) -> None:
        """See :meth:`Topology.close`."""
        self._server.close()
