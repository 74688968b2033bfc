"""How long others wait for a load while something else goes on in the store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from time import perf_counter, sleep
from typing import Any, Protocol

from flask_safesession.stores.base import Rules, Store
from flask_safesession.stores.redis import RedisStore

from .population import key
from .server import Server
from .stage import Stage

THREADS = 4
PAUSE = 0.001
"""Seconds between two calls of a thread or a client: they are requests, not a race."""


class _Stop(Protocol):
    def is_set(self) -> bool: ...


@contextmanager
def others_loading(on: Stage, numbers: range, within: Rules) -> Iterator[list[float]]:
    """Load sessions of these numbers for as long as the block runs.

    The others are threads where the store is in memory, and a process of its own where it is on
    Redis. The list has the seconds of each of their calls once the block has ended.
    """
    if on.server is None:
        yield from _threads(on.store, numbers, within)
    else:
        yield from _process(on.server, numbers, within)


def _threads(store: Store, numbers: range, within: Rules) -> Iterator[list[float]]:
    waits: list[float] = []
    stop = threading.Event()
    threads = [
        threading.Thread(target=_load_until, args=(stop, store, numbers[first:], within, waits))
        for first in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield waits
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _process(server: Server, numbers: range, within: Rules) -> Iterator[list[float]]:
    waits: list[float] = []
    context = get_context("spawn")
    begun, stop, results = context.Event(), context.Event(), context.SimpleQueue()
    process = context.Process(
        target=_client, args=(server.url, numbers, within, begun, stop, results)
    )
    process.start()
    begun.wait()
    try:
        yield waits
    finally:
        stop.set()
        waits += results.get()
        process.join()


def _client(url: str, numbers: range, within: Rules, begun: Any, stop: Any, results: Any) -> None:
    store = RedisStore.from_url(url)
    store.load(key(numbers[0]), within, slide=True)  # connects
    begun.set()
    waits: list[float] = []
    _load_until(stop, store, numbers, within, waits)
    results.put(waits)


def _load_until(
    stop: _Stop, store: Store, numbers: range, within: Rules, waits: list[float]
) -> None:
    turn = 0
    while not stop.is_set():
        wanted = key(numbers[turn % len(numbers)])
        turn += 1
        start = perf_counter()
        store.load(wanted, within, slide=True)
        waits.append(perf_counter() - start)
        sleep(PAUSE)
