"""A cluster: each slot's node is asked, and others when it is not that node's any more.

redis-py's ``RedisCluster`` is not used for this: it reads the slots anew under a lock for as long
as all nodes take together, sleeps before that, and tries again by rules of its own. Its errors, its
hash and its connections are.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError

from ...remote.breaker import FAILED, Notify
from .connections import Command, Connections, deadline, remaining, was_sent
from .standalone import Access, Address

_SLOTS = 16384
# How often a call is sent on.
_HOPS = 6
# Seconds between two looks at the map, however many calls fail.
_LOOK_INTERVAL = 0.1
# Seconds that a look may take whose caller has no time limit.
_LOOK = 1.0
# What stands for a host that has been told nobody.
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
    does that for all; only for the first map do the others wait.

    :param seeds: addresses of some nodes.
    :param access: how to get into each of them.
    :param notify: told when a node's circuit breaker opens and closes.
    """

    guarded = True

    def __init__(self, seeds: Sequence[Address], access: Access, notify: Notify) -> None:
        self._seeds = tuple(seeds)
        self._access = access
        self._notify = notify
        self._nodes: dict[Address, _Node] = {}
        self._slots: list[_Node | None] = []
        self._turn = _Turn()

    def exchange(self, key: str, *commands: Command, careful: bool = False) -> list[Any]:
        """See :meth:`.topology.Topology.exchange`."""
        slot = key_slot(key.encode())
        node, ahead = self._owner(slot), _NOTHING
        for _ in range(_HOPS):
            try:
                return node.at.exchange(*ahead, *commands, careful=careful)[len(ahead) :]
            except MovedError as error:
                node, ahead = self._moved(slot, node, error), _NOTHING
            except AskError as error:  # the slot is on its way: for this time only
                node, ahead = self._node(_address(error.host, error.port, node)), _ASKING
            except (ClusterDownError, *FAILED) as error:
                other = self._other(slot, node)
                if other is None or (careful and _may_be_done(error)):
                    raise
                node, ahead = other, _NOTHING
        raise ClusterDownError(f"nodes send each other calls for slot {slot}")

    def servers(self) -> Sequence[Connections]:
        """See :meth:`.topology.Topology.servers`."""
        if not self._slots:
            with suppress(redis.RedisError), deadline(_LOOK):
                self._read()
        masters = [node.at for node in self._slots if node]
        return tuple(dict.fromkeys(masters or [self._node(seed).at for seed in self._seeds]))

    def close(self) -> None:
        """See :meth:`.topology.Topology.close`."""
        for node in tuple(self._nodes.values()):
            node.at.close()

    # -- who has a slot -------------------------------------------------------------------------

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
        """Who has the slot now, if it is not *node*, which does not serve it."""
        self._look(slot)
        other = self._slots[slot]
        return None if other is None or other.at is node.at else other

    def _moved(self, slot: int, node: _Node, error: MovedError) -> _Node:
        """Who has the slot, as *node* says, who had it. There may be more that has changed."""
        self._look(slot, node)
        if error.host != _UNKNOWN:
            self._slots[slot] = self._node(_address(error.host, error.port, node))
        return self._slots[slot] or node

    def _node(self, address: Address) -> _Node:
        node = self._nodes.get(address)
        if node is None:
            node = _Node(address[0], self._access.to(address, self._notify))
            node = self._nodes.setdefault(address, node)  # somebody may have been faster
        return node

    # -- the map --------------------------------------------------------------------------------

    def _start(self, slot: int) -> None:
        """Read the first map. The others who start wait for it, but not for all of their time."""
        starting = self._own_turn().starting
        is_first = starting.acquire(timeout=remaining() / 2)
        try:
            if not self._slots:
                self._read(slot)
        finally:
            if is_first:
                starting.release()

    def _look(self, slot: int, first: _Node | None = None) -> None:
        """Read the map anew, if it is time and nobody is at it. Calls can go on without."""
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
        """Ask one node after the other for the map; none may take more than its share of time.

        :param slot: a map without it will not do.
        :param first: asked first; those who do not answer last.
        :raises redis.ConnectionError: nobody has it.
        """
        known = [*self._nodes.values(), *map(self._node, self._seeds)]
        known.sort(key=lambda node: (node is not first, node.at.breaker.failing))
        nodes, told = tuple(dict.fromkeys(known)), list[str]()
        for asked, node in enumerate(nodes):
            try:
                with deadline(remaining() / (len(nodes) - asked + 1)):
                    answer = node.at.exchange(("CLUSTER", "SLOTS"))[0]
            except redis.RedisError as error:
                told.append(f"{node.at.server}: {error}")
                continue
            if self._learn(answer, node, slot):
                return
            told.append(f"{node.at.server} does not know who has the slot")
        raise redis.ConnectionError(f"no map of the cluster; {'; '.join(told)}")

    def _learn(self, answer: list[list[Any]], told_by: _Node, slot: int | None) -> bool:
        """Go by this map from here on, if it has the slot."""
        slots: list[_Node | None] = [None] * _SLOTS
        nodes: dict[Address, _Node] = {}
        for start, end, *serving in answer:
            places = [self._place(entry, told_by) for entry in serving]
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

    def _place(self, entry: list[Any], told_by: _Node) -> Address | None:
        """The address in an entry of CLUSTER SLOTS; ``None``: the node has not told it."""
        host, port, _, *more = entry
        if host == _UNKNOWN.encode() and more:
            host = dict(zip(more[0][::2], more[0][1::2], strict=True)).get(b"ip", host)
        text = (host or b"").decode()
        return None if text == _UNKNOWN else _address(text, port, told_by)


class _Turn:
    """Whose turn it is to look: one at a time, and not all the time.

    Of one process: locks may be held at a fork. A turn is a time, since whoever got it may never be
    heard of again. ``starting``: held by who reads the first map.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.starting = threading.Lock()
        self._lock = threading.Lock()
        self._at = 0.0

    def is_taken(self) -> bool:
        """Whether it is not the caller's."""
        with self._lock:
            now = time.monotonic()
            if now < self._at:
                return True
            self._at = now + remaining() + _LOOK_INTERVAL
            return False

    def give_back(self) -> None:
        self._at = time.monotonic() + _LOOK_INTERVAL


def _address(host: str, port: int, told_by: _Node) -> Address:
    """Where a node is; one that knows no host of its own is where its neighbour is."""
    return host or told_by.host, port


def _may_be_done(error: redis.RedisError) -> bool:
    """Whether the node may have done what it was asked to."""
    return not isinstance(error, ClusterDownError) and was_sent(error)
