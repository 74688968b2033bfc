"""One server; and the protocol of a topology, which finds the server responsible for a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import redis

from ...remote.breaker import Notify
from .connections import Connections, Exchange
from .timed import ours, timed

#: Host and port.
Address: TypeAlias = tuple[str, int]


class Access(NamedTuple):
    """How to connect to a server, whatever its address.

    :param kind: redis-py's class of connections.
    :param options: redis-py's arguments of that class; :func:`.timed.ours` selects from them.
    :param limit: the most connections at once; ``None``: as many as there are calls.
    """

    kind: Any
    options: Mapping[str, Any]
    limit: int | None = None

    @property
    def encrypted(self) -> bool:
        """Returns whether connections use TLS."""
        return issubclass(self.kind, redis.SSLConnection)

    def to(self, address: Address, notify: Notify) -> Connections:
        """Returns connections to the server at *address*."""
        host, port = address
        return self.by(timed(self.kind), spelled(address), notify, host=host, port=port)

    def by(self, kind: Any, server: str, notify: Notify, **more: Any) -> Connections:
        """Returns connections of the class *kind* of :mod:`.timed`, named *server* in logs."""
        make = partial(kind, **{**ours(self.options), **more})
        return Connections(make, server, self.limit, notify, encrypted=self.encrypted)


def spelled(address: Address) -> str:
    """Returns an address in its usual form, ``host:port``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Topology(Protocol):
    """The servers of a store.

    ``guarded``: scripts have to name a key that never exists. While a cluster moves a slot, its
    keys are on two nodes; a script that names a missing key is refused there before it does
    anything (TRYAGAIN), and would stop half-way otherwise.
    """

    guarded: bool

    def route(self, key: str) -> Exchange:
        """Returns a function that sends the next call's commands to the server of *key*.

        See :meth:`.connections.Connections.exchange`.
        """
        ...

    def servers(self) -> Sequence[Connections]:
        """Returns the servers that have sessions, as far as this process has found them."""
        ...

    def close(self) -> None:
        """Close the idle connections. Others are made when they are needed."""
        ...


class Standalone:
    """One server, always the same."""

    guarded = False

    def __init__(self, server: Connections) -> None:
        self._server = server

    def route(self, key: str) -> Exchange:
        """See :meth:`Topology.route`."""
        del key
        return self._server.exchange

    def servers(self) -> Sequence[Connections]:
        """See :meth:`Topology.servers`."""
        return (self._server,)

    def close(self) -> None:
        """See :meth:`Topology.close`."""
        self._server.close()
