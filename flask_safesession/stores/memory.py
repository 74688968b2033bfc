"""Stores sessions in the memory of one process: for development, tests, and single workers.

The engine over tables in memory: bytes by key, a sorted index of deadlines a tier, and one of
users' sessions. Each step is under one lock, and does not get slower as the store grows.
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
    """Returns milliseconds since 1970, by a clock that never goes back and includes suspension."""
    return _EPOCH + _ticks() // 1_000_000


def _ticks() -> int:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.monotonic_ns()


_EPOCH = time.time_ns() // 1_000_000 - _ticks() // 1_000_000


class MemoryStore(Engine):
    """The store behind ``memory://``.

    :param clock: returns the time in milliseconds.

    A forked child starts empty, with a warning: it would not see its parent's changes.
    """

    shared = False

    tables: MemoryTables

    def __init__(self, clock: Callable[[], int] = store_clock) -> None:
        super().__init__(MemoryTables(clock))
        _stores.add(self)

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`.base.IndexedStore.lease`: there is no other process."""
        del task, milliseconds
        return True


_stores: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _start_empty() -> None:
    """Empty all stores in a forked child, with new locks: a lost thread may hold the parent's."""
    for store in _stores:
        if store.tables.records:
            logger.warning(
                "a forked process starts with an empty memory:// store: its parent's %d sessions"
                " are not shared; use sqlite:// or a Redis store when there are several processes",
                len(store.tables.records),
            )
        store.tables = store.tables.emptied()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_empty)
