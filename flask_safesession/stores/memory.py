"""Sessions in the memory of one process: for development, tests, and apps with a single worker.

The engine over tables in memory: bytes by key, one sorted index of deadlines a tier, one of the
users' sessions. Everything happens under one lock, in steps that do not grow with the store.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable

from ..events import logger
from .engine import Engine
from .memory_tables import MemoryTables


def store_clock() -> int:
    """Milliseconds since 1970 on a clock that nobody can set back and that counts suspension."""
    return _EPOCH + _ticks() // 1_000_000


def _ticks() -> int:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.monotonic_ns()


_EPOCH = time.time_ns() // 1_000_000 - _ticks() // 1_000_000


class MemoryStore(Engine):
    """The store behind ``memory://``.

    :param clock: gives the time in milliseconds; tests inject one that they can turn.

    A forked child starts empty, with a warning: it cannot see what its parent does from then on.
    """

    shared = False

    _tables: MemoryTables

    def __init__(self, clock: Callable[[], int] = store_clock) -> None:
        super().__init__(MemoryTables(clock))
        _stores.add(self)

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`.base.IndexedStore.lease`: there is no other process."""
        del task, milliseconds
        return True


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _start_empty() -> None:
    """In a forked child: the parent's lock may be held by a thread that is not here."""
    for store in _stores:
        if store._tables.records:
            logger.warning(
                "a forked process starts with an empty memory:// store: its parent's %d sessions"
                " are not shared; use sqlite:// or a Redis store when there are several processes",
                len(store._tables.records),
            )
        store._tables = store._tables.emptied()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_empty)
