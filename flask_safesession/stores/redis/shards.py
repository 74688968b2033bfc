"""Opens a store whose sessions are in several slots of Redis or Valkey servers."""

from __future__ import annotations

from typing import Any

from ..sharded import Sharded
from .store import RedisStore


def open_shards(
    given: object, *, shards: int, timeout: float = 1.0, **options: Any
) -> RedisStore | Sharded:
    """Returns a store whose sessions are in so many slots.

    :param shards: the same for all processes, fixed for the deployment.
    :param timeout: seconds that one operation may take, whatever the number of calls.
    :param options: as for :class:`RedisStore`.
    :raises ConfigError: the URL or client cannot be used, with what to do instead.
    """
    first = RedisStore(given, shards=shards, timeout=timeout, **options)
    if shards == 1:
        return first
    others = (first.in_slot(number) for number in range(1, shards))
    return Sharded([first, *others], first.notify, first, timeout)
