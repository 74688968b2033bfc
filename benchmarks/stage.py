"""A store on its own, to be filled and measured: its size, and a hand on its clock."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time
from typing import cast

import psutil
import redis

from flask_safesession.stores.base import IndexedStore
from flask_safesession.stores.memory import MemoryStore, store_clock
from flask_safesession.stores.redis import RedisStore

from .server import Server, running

MEMORY, REDIS = "memory", "Redis"
STORES = (MEMORY, REDIS)


@dataclass(frozen=True)
class Stage:
    """A store and what can be done to it from outside.

    ``footprint()`` is what is taken, in bytes: the resident set of this process, or a server's
    ``used_memory`` (its resident set goes up and down by a fifth with its allocator's free pages).
    ``pass_time(ms)`` lets that much time pass for every deadline in the store.
    """

    store: IndexedStore
    footprint: Callable[[], int]
    pass_time: Callable[[int], None]
    server: Server | None = None


@contextmanager
def stage(where: str, server_kind: str) -> Iterator[Stage]:
    """An empty store; ``where`` is one of ``STORES``. One on Redis has a server of its own."""
    if where == MEMORY:
        clock = _Clock()
        yield Stage(MemoryStore(clock), _resident_set, clock.turn)
        return
    with running(server_kind) as server, server.client() as client:
        store = RedisStore.from_url(server.url)
        yield Stage(
            store,
            lambda: _used_memory(client),
            lambda milliseconds: _bring_forward(client, milliseconds),
            server,
        )
        store.close()


@dataclass
class _Clock:
    ahead: int = field(default=0)

    def __call__(self) -> int:
        return store_clock() + self.ahead

    def turn(self, milliseconds: int) -> None:
        self.ahead += milliseconds


def _resident_set() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def _used_memory(client: redis.Redis) -> int:
    return int(cast("dict[str, int]", client.info("memory"))["used_memory"])


def _bring_forward(client: redis.Redis, milliseconds: int) -> None:
    """Move all deadlines towards the past.

    A server's clock cannot be turned. But the index of deadlines is what purge looks at, and a
    weight just under 1 takes nearly the same off each: deadlines are hours apart at most, and
    1970 is far away.
    """
    weight = 1 - milliseconds / (time() * 1000)
    for index in list(client.scan_iter("*:t:*", count=10_000)):
        client.zunionstore(index, {index: weight})
