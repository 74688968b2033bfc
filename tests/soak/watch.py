"""A look at the store and the workers from outside, a few times a second."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AskError
from redis.retry import Retry

from .fleet import Fleet
from .history import Sample
from .site import Site

EVERY = 0.25
CENSUS = """
local p = string.sub(KEYS[1], 1, -7)
local total = redis.call('ZCARD', p .. ':t:anonymous')
for _, tag in ipairs(redis.call('HKEYS', p .. ':tiers')) do
  total = total + redis.call('ZCARD', p .. ':t:' .. tag)
end
local most, cursor = 0, '0'
repeat
  local page = redis.call('SCAN', cursor, 'MATCH', p .. ':u:*', 'COUNT', 1000)
  cursor = page[1]
  for _, name in ipairs(page[2]) do most = math.max(most, redis.call('ZCARD', name)) end
until cursor == '0'
return {total, most}
"""
"""Entries in one shard's index, and the most of one user, at one moment."""


class Watch:
    """Takes samples until it is told to stop; a store that does not answer gives none."""

    def __init__(
        self, fleet: Fleet, sites: list[Site], prefix: str, shards: int, samples: list[Sample]
    ) -> None:
        self._fleet = fleet
        self._sites = sites
        self._slots = [f"{{{prefix}:{number}}}" for number in range(shards)]
        self._samples = samples
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look on for as long as the ``with`` block lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()
        if not self._samples:
            raise RuntimeError("the store never answered the watch: nothing was seen of its caps")

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            with suppress(redis.RedisError, OSError, LookupError):
                self._samples.append(self._look())

    def _look(self) -> Sample:
        at, used, shards = monotonic(), 0, []
        for server in self._fleet.masters():
            client: Any = server.client(socket_timeout=0.5, retry=Retry(NoBackoff(), 0))
            with client:
                used += client.info("memory")["used_memory"]
                shards += [counted for slot in self._slots if (counted := _count(client, slot))]
        if len(shards) != len(self._slots):
            raise LookupError("a slot is on its way to another server")
        resident = max(site.resident() for site in self._sites)
        held, fullest = zip(*shards, strict=True)
        return Sample(at, sum(held), max(fullest), used, resident)


def _count(client: Any, slot: str) -> tuple[int, int] | None:
    """Entries in this shard's index, and the most of one user; ``None`` if it is elsewhere."""
    try:
        held, most = client.eval(CENSUS, 1, f"{slot}:tiers")
    except AskError:  # MOVED is one, too
        return None
    return held, most
