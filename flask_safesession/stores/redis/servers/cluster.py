"""A cluster: sends commands to the node of their slot, and follows slots that move.

redis-py's ``RedisCluster`` is not used for this: it reads the map of slots under a lock for as long
as all nodes take together, sleeps before that, and retries by rules of its own. Its errors, its
hash and its connections are used.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError

from ...remote.breaker import Notify
from ...remote.deadline import deadline
from .connections import FAILED, Command, Connections, Exchange, remaining, was_sent
from .standalone import Access, Address

_SLOTS = 16384
# How often one call is redirected at most.
_HOPS = 6
# Seconds between two reads of the map, however many calls fail.
_LOOK_INTERVAL = 0.1
# Seconds that a read of the map may take if its caller has no time limit.
_LOOK = 1.0
# What nodes answer instead of a host name that is not configured.
_UNKNOWN = "?"
_NOTHING: tuple[Command, ...] = ()
_ASKING: tuple[Command, ...] = (("ASKING",),)


class _Node(NamedTuple):
    host: str
    at: Connections


class Cluster:
    """All nodes of a cluster; a key is on the master that has its slot.

    The map of slots is read when it is first needed; again when a node says that it is out of date,
    and while a node does not answer, so that a replica that took over is found. One call at a time
    reads it for all; only for the first map do the others wait.

    :param seeds: addresses of some nodes.
    :param access: how to connect to each of them.
    :param notify: called when a node's circuit breaker opens and closes.
    """

    guarded = True

    def __init__(self, seeds: Sequence[Address], access: Access, notify: Notify) -> None:
        self._seeds = tuple(seeds)
        self._access = access
        self._notify = notify
        self._nodes: dict[Address, _Node] = {}
        self._slots: list[_Node | None] = []
        self._turn = _Turn()

    def route(self, key: str) -> Exchange:
        """See :meth:`.standalone.Topology.route`."""
        return partial(self._exchange, key_slot(key.encode()))

    def servers(self) -> Sequence[Connections]:
        """See :meth:`.standalone.Topology.servers`."""
        if not self._slots:
            with suppress(redis.RedisError), deadline(_LOOK):
                self._read()
        masters = [node.at for node in self._slots if node]
        return tuple(dict.fromkeys(masters or [self._node(seed).at for seed in self._seeds]))

    def close(self) -> None:
        """See :meth:`.standalone.Topology.close`."""
        for node in tuple(self._nodes.values()):
            node.at.close()

    # -- the node of a slot ---------------------------------------------------------------------

    def _exchange(self, slot: int, *commands: Command, careful: bool = False) -> list[Any]:
        node, ahead = self._owner(slot), _NOTHING
        for _ in range(_HOPS):
            try:
                return node.at.exchange(*ahead, *commands, careful=careful)[len(ahead) :]
            except MovedError as error:
                node, ahead = self._moved(slot, node, error), _NOTHING
            except AskError as error:  # the slot is moving: for this call only
                node, ahead = self._node(_address(error.host, error.port, node)), _ASKING
            except (ClusterDownError, *FAILED) as error:
                other = self._other(slot, node)
                if other is None or (careful and _may_be_done(error)):
                    raise
                node, ahead = other, _NOTHING
        raise ClusterDownError(f"nodes redirect calls for slot {slot} to each other")

    def _owner(self, slot: int) -> _Node:
        if not self._slots:
            self._start(slot)
        node = self._slots[slot]
        if node is None or node.at.breaker.failing:
            self._look(slot)
            node = self._slots[slot]
        if node is None:
            raise ClusterDownError(f"no node has slot {slot}")
        return node

    def _other(self, slot: int, node: _Node) -> _Node | None:
        """Returns the slot's current node, if it is not *node*, which does not serve it."""
        self._look(slot)
        other = self._slots[slot]
        return None if other is None or other.at is node.at else other

    def _moved(self, slot: int, node: _Node, error: MovedError) -> _Node:
        """Returns the node to which *node*, the previous one, redirects calls for the slot.

        Other slots may have moved as well, so the map is read again.
        """
        self._look(slot, node)
        if error.host != _UNKNOWN:
            self._slots[slot] = self._node(_address(error.host, error.port, node))
        return self._slots[slot] or node

    def _node(self, address: Address) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = _Node(address[0], self._access.to(address, self._notify))
            node = self._nodes.setdefault(address, node)  # another thread may have been faster
        return node

    # -- the map --------------------------------------------------------------------------------

    def _start(self, slot: int) -> None:
        """Read the first map. Other calls wait for it, but not for all of their time."""
        starting = self._own_turn().starting
        is_first = starting.acquire(timeout=remaining() / 2)
        try:
            if not self._slots:
                self._read(slot)
        finally:
            if is_first:
                starting.release()

    def _look(self, slot: int, first: _Node | None = None) -> None:
        """Read the map again, unless another call does, or just did. Ignores errors."""
        turn = self._own_turn()
        with suppress(redis.RedisError):
            if turn.is_taken():
                return
            try:
                self._read(slot, first)
            finally:
                turn.give_back()

    def _own_turn(self) -> _Turn:
        if self._turn.process != os.getpid():
            self._turn = _Turn()
        return self._turn

    def _read(self, slot: int | None = None, first: _Node | None = None) -> None:
        """Ask one node after the other for the map, each within its share of the time.

        :param slot: a slot that the map has to contain.
        :param first: the node to ask first; those that do not answer are asked last.
        :raises redis.ConnectionError: no node has such a map.
        """
        known = [*self._nodes.values(), *map(self._node, self._seeds)]
        known.sort(key=lambda node: (node is not first, node.at.breaker.failing))
        nodes, problems = tuple(dict.fromkeys(known)), list[str]()
        for asked, node in enumerate(nodes):
            try:
                with deadline(remaining() / (len(nodes) - asked + 1)):
                    answer = node.at.exchange(("CLUSTER", "SLOTS"))[0]
            except redis.RedisError as error:
                problems.append(f"{node.at.server}: {error}")
                continue
            if self._use(answer, node, slot):
                return
            problems.append(f"{node.at.server} names no node for the slot")
        raise redis.ConnectionError(f"no map of the cluster; {'; '.join(problems)}")

    def _use(self, answer: list[list[Any]], source: _Node, slot: int | None) -> bool:
        """Use this map from now on if it has the slot; returns whether it has."""
        slots: list[_Node | None] = [None] * _SLOTS
        nodes: dict[Address, _Node] = {}
        for start, end, *serving in answer:
            places = [self._place(entry, source) for entry in serving]
            nodes |= {place: self._node(place) for place in places if place}
            master = nodes.get(places[0]) if places[0] else None
            slots[start : end + 1] = [master] * (end + 1 - start)
        if not nodes or (slot is not None and slots[slot] is None):
            return False
        before = self._nodes
        seeds = {place: node for place, node in before.items() if place in self._seeds}
        self._nodes, self._slots = {**nodes, **seeds}, slots
        for place, node in before.items():
            if place not in nodes:
                node.at.close()
        return True

    def _place(self, entry: list[Any], source: _Node) -> Address | None:
        """Returns the address in an entry of CLUSTER SLOTS; ``None``: the entry has none."""
        host, port, _, *more = entry
        if host == _UNKNOWN.encode() and more:
            host = dict(zip(more[0][::2], more[0][1::2], strict=True)).get(b"ip", host)
        text = (host or b"").decode()
        return None if text == _UNKNOWN else _address(text, port, source)


class _Turn:
    """Allows one call at a time to read the map, with a pause between two.

    It belongs to one process, since locks may be held at a fork. A turn is a time and not a lock:
    a call that has it may never end. ``starting``: held by the call that reads the first map.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.starting = threading.Lock()
        self._lock = threading.Lock()
        self._at = 0.0

    def is_taken(self) -> bool:
        """Returns whether another call has the turn; if not, the caller has it now."""
        with self._lock:
            now = time.monotonic()
            if now < self._at:
                return True
            self._at = now + remaining() + _LOOK_INTERVAL
            return False

    def give_back(self) -> None:
        self._at = time.monotonic() + _LOOK_INTERVAL


def _address(host: str, port: int, source: _Node) -> Address:
    """Returns a node's address; a node without a host name is on that of the *source*."""
    return host or source.host, port


def _may_be_done(error: redis.RedisError) -> bool:
    """Returns whether the node may have executed the commands."""
    return not isinstance(error, ClusterDownError) and was_sent(error)
