"""Memcached: reading a session beside pymemcache's ``get``: ``python -m benchmarks.memcached``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from pymemcache.client.base import Client

from flask_safesession.model.record import dumps_draft
from flask_safesession.model.tokens import new_id, user_tag
from flask_safesession.stores.base import Live, Rules
from flask_safesession.stores.memcached.store import MemcachedStore
from tests.support import memcached

from . import data
from .population import draft, settings

SESSIONS = 300
ROUNDS = 30
#: The most that a load may take, as a multiple of ``get``.
TARGETS = {"anonymous": 2.5, "users": 3.5}


def measure(rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Microseconds of a load and of ``get``, in turn, by kind of session."""
    with memcached.running() as server, _open(server) as (store, client):
        within = settings(1_000_000).rules
        keys = {kind: _fill(store, client, within, users=kind == "users") for kind in TARGETS}
        turns: dict[str, list[tuple[float, float]]] = {kind: [] for kind in TARGETS}
        for _ in range(rounds):
            for kind, of in keys.items():
                load = _timed(lambda key: store.load(key, within, slide=True), of)
                turns[kind].append((load, _timed(client.get, of)))
        return turns


@contextmanager
def _open(server: memcached.Server) -> Iterator[tuple[MemcachedStore, Client]]:
    store = MemcachedStore(server.url, timeout=10)
    with server.client() as client:
        yield store, client
    store.close()


def _fill(store: MemcachedStore, client: Client, within: Rules, *, users: bool) -> list[str]:
    """Sessions that were used within their touch interval, and bare items of the same size."""
    keys = []
    for number in range(SESSIONS):
        key = new_id(user_tag(data.user_id(number))[0] if users else "").key
        made = draft(number, users=users)
        assert isinstance(store.create(key, made, within), Live)
        assert client.set(key, dumps_draft(made), noreply=False)
        keys.append(key)
    for key in keys:
        answer = store.load(key, within, slide=True)
        while isinstance(answer, Live) and not answer.record.is_used:  # in its first second
            answer = store.load(key, within, slide=True)
    return keys


def _timed(work: Callable[[str], object], keys: list[str]) -> float:
    start = perf_counter()
    for key in keys:
        work(key)
    return (perf_counter() - start) / len(keys) * 1e6


def main() -> None:
    """Print the table."""
    print(f"{'load':12}{'µs':>8}{'get':>8}{'ratio':>8}{'target':>8}")
    for kind, turns in measure(ROUNDS).items():
        load, get = (statistics.median(times) for times in zip(*turns, strict=True))
        ratio = statistics.median(ours / bare for ours, bare in turns)
        print(f"{kind:12}{load:8.0f}{get:8.0f}{ratio:8.2f}{TARGETS[kind]:8}")


if __name__ == "__main__":
    main()
