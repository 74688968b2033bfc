"""One server behind Sentinel, which says who it is, and makes another one the master if need be.

As Redis' guidelines for Sentinel clients have it: whenever a connection is made, Sentinels are
asked who the master is, one after the other, and the server that they name is asked whether it is
one. redis-py's own Sentinel client has no deadline for that, and does not ask the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import redis
from redis.sentinel import MasterNotFoundError

from ...remote.breaker import ANSWERED, FAILED, Notify
from .connections import Command, Connections, deadline, remaining
from .standalone import Access, Address, spelled
from .timed import timed

_Base: Any = object


class Sentinel:
    """The master of a service, whoever it is at the moment.

    :param service: its name in the Sentinels' configuration.
    :param sentinels: connections to each of them.
    :param access: how to get into the master.
    :param notify: told when the master's circuit breaker opens and closes.
    """

    guarded = False

    def __init__(
        self, service: str, sentinels: Sequence[Connections], access: Access, notify: Notify
    ) -> None:
        self._watch = _Watch(service, sentinels)
        name = f"{sentinels[0].server}/{service}"
        self._master = access.by(_of_master(access.kind), name, notify, watch=self._watch)

    def exchange(self, key: str, *commands: Command, careful: bool = False) -> list[Any]:
        """See :meth:`.topology.Topology.exchange`."""
        del key
        if self._watch.moved:
            self._watch.moved = False
            self._master.close()  # idle connections to whoever was the master before
        return self._master.exchange(*commands, careful=careful)

    def servers(self) -> Sequence[Connections]:
        """See :meth:`.topology.Topology.servers`."""
        return (self._master,)

    def close(self) -> None:
        """See :meth:`.topology.Topology.close`."""
        self._master.close()
        self._watch.close()


class _Watch:
    """Finds the master. ``moved``: it is another one than the last time."""

    def __init__(self, service: str, sentinels: Sequence[Connections]) -> None:
        self._service = service
        # Who is asked first stands first. Replaced as a whole, so that no lock is needed.
        self._order = tuple(sentinels)
        self._master: Address | None = None
        self.moved = False

    def find(self, connect: Callable[[Address], None]) -> None:
        """Call *connect* with the address that a Sentinel names, until it is the master's.

        A Sentinel that is cut off may name an old master. It is asked last from then on.

        :param connect: raises if that is no master.
        :raises MasterNotFoundError: no Sentinel has named one.
        """
        told = list[str]()
        tried = set[Address]()
        for sentinel, address in self._named(told):
            if address in tried:
                continue
            tried.add(address)
            try:
                connect(address)
            except ANSWERED:  # the master is there and will not have us, whoever names it
                raise
            except FAILED as error:
                told.append(f"{sentinel.server} names {spelled(address)}: {error}")
                self._order = (*self._without(sentinel), sentinel)
            else:
                self._order = (sentinel, *self._without(sentinel))
                self.moved = self.moved or self._master not in (None, address)
                self._master = address
                return
        raise MasterNotFoundError(f"no master for {self._service!r}; " + "; ".join(told))

    def close(self) -> None:
        for sentinel in self._order:
            sentinel.close()

    def _named(self, told: list[str]) -> Iterator[tuple[Connections, Address]]:
        """Ask one Sentinel after the other; none may take more than its share of the time."""
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        order = self._order
        for asked, sentinel in enumerate(order):
            try:
                with deadline(remaining() / (len(order) - asked + 1)):
                    answer = sentinel.exchange(question)[0]
            except redis.RedisError as error:
                told.append(f"{sentinel.server}: {error}")
                continue
            if not answer:
                told.append(f"{sentinel.server} does not know it")
                continue
            yield sentinel, (answer[0].decode(), int(answer[1]))

    def _without(self, sentinel: Connections) -> list[Connections]:
        return [other for other in self._order if other is not sentinel]


@cache
def _of_master(kind: Any) -> Any:
    """A class of connections to whoever is the master when they are made."""
    return type(f"Master{kind.__name__}", (_ToMaster, timed(kind)), {})


class _ToMaster(_Base):  # type: ignore[misc]  # stands before a class of timed()
    def __init__(self, watch: _Watch, **options: Any) -> None:
        super().__init__(**options)
        self._watch = watch

    def connect(self) -> None:
        if self._sock is None:
            self._watch.find(self._connect_to)

    def _connect_to(self, address: Address) -> None:
        self.host, self.port = address
        super().connect()
        try:
            self.send_command("ROLE")
            role = self.read_response()[0].decode()
        except BaseException:
            self.disconnect()
            raise
        if role != "master":
            self.disconnect()
            raise redis.ConnectionError(f"it is no master but a {role}")
