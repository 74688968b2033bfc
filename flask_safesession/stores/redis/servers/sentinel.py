"""One server behind Sentinels, which name the master and replace it when it is lost.

After Redis' guidelines for Sentinel clients: for each new connection, Sentinels are asked for the
master, one after the other, and the server that they name is asked for its role. redis-py's own
Sentinel client has no deadline for that, and does not check the role.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import redis
from redis.sentinel import MasterNotFoundError

from ...remote.breaker import Notify
from ...remote.deadline import deadline
from .connections import ANSWERED, FAILED, Connections, Exchange, remaining
from .standalone import Access, Address, spelled
from .timed import timed

_Base: Any = object


class Sentinel:
    """The current master of a service.

    :param service: its name in the Sentinels' configuration.
    :param sentinels: connections to each of them.
    :param access: how to connect to the master.
    :param notify: called when the master's circuit breaker opens and closes.
    """

    guarded = False

    def __init__(
        self, service: str, sentinels: Sequence[Connections], access: Access, notify: Notify
    ) -> None:
        self._watch = _Watch(service, sentinels)
        name = f"{sentinels[0].server}/{service}"
        self._master = access.by(_of_master(access.kind), name, notify, watch=self._watch)

    def route(self, key: str) -> Exchange:
        """See :meth:`.standalone.Topology.route`."""
        del key
        if self._watch.moved:
            self._watch.moved = False
            self._master.close()  # idle connections to the previous master
        return self._master.exchange

    def servers(self) -> Sequence[Connections]:
        """See :meth:`.standalone.Topology.servers`."""
        return (self._master,)

    def close(self) -> None:
        """See :meth:`.standalone.Topology.close`."""
        self._master.close()
        self._watch.close()


class _Watch:
    """Finds the master. ``moved``: it is not the same server as before."""

    def __init__(self, service: str, sentinels: Sequence[Connections]) -> None:
        self._service = service
        # In the order in which they are asked. Replaced as a whole, so that no lock is needed.
        self._order = tuple(sentinels)
        self._master: Address | None = None
        self.moved = False

    def find(self, connect: Callable[[Address], None]) -> None:
        """Call *connect* with the addresses that Sentinels name, until one is the master's.

        A Sentinel that is cut off may name an old master. From then on it is asked last.

        :param connect: raises if that server is not a master.
        :raises MasterNotFoundError: no Sentinel has named one.
        """
        problems = list[str]()
        tried = set[Address]()
        for sentinel, address in self._named(problems):
            if address in tried:
                continue
            tried.add(address)
            try:
                connect(address)
            except ANSWERED:  # the master itself refuses, so other Sentinels cannot help
                raise
            except FAILED as error:
                problems.append(f"{sentinel.server} names {spelled(address)}: {error}")
                self._order = (*self._without(sentinel), sentinel)
            else:
                self._order = (sentinel, *self._without(sentinel))
                self.moved = self.moved or self._master not in (None, address)
                self._master = address
                return
        raise MasterNotFoundError(f"no master for {self._service!r}; " + "; ".join(problems))

    def close(self) -> None:
        for sentinel in self._order:
            sentinel.close()

    def _named(self, problems: list[str]) -> Iterator[tuple[Connections, Address]]:
        """Yields each Sentinel with the address that it names, within its share of the time."""
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        order = self._order
        for asked, sentinel in enumerate(order):
            try:
                with deadline(remaining() / (len(order) - asked + 1)):
                    answer = sentinel.exchange(question)[0]
            except redis.RedisError as error:
                problems.append(f"{sentinel.server}: {error}")
                continue
            if not answer:
                problems.append(f"{sentinel.server} names none")
                continue
            yield sentinel, (answer[0].decode(), int(answer[1]))

    def _without(self, sentinel: Connections) -> list[Connections]:
        return [other for other in self._order if other is not sentinel]


@cache
def _of_master(kind: Any) -> Any:
    """Returns a class like *kind* of connections to the current master."""
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
            raise redis.ConnectionError(f"it is not a master but a {role}")
