"""Finds the server of a ready client in ``SAFESESSION_STORE``.

The server's address and the credentials are taken from public attributes of the client. Its
time-outs, retries, decoding and pool are not used. Clients of Sentinel and of clusters keep what is
needed in private attributes: a URL takes their place.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.cluster import RedisCluster
from redis.connection import BlockingConnectionPool, ConnectionPool
from redis.sentinel import Sentinel, SentinelConnectionPool

from ...errors import ConfigError
from ...model.text import name_of
from ..remote.breaker import Notify
from .servers.standalone import Access, Standalone
from .servers.timed import timed

# redis-py's default for the number of connections.
_UNLIMITED = 2**31
_KINDS = "give a redis.Redis client, a URL such as redis://localhost:6379/0, or a Store"


def topology_of_client(client: Any, notify: Notify) -> Standalone:
    """Returns the server that *client* connects to.

    :raises ConfigError: it cannot be used safely, with what to do instead.
    """
    if why := _foreign(client) or _needs_url(client) or _unsafe(client):
        raise ConfigError([f"SAFESESSION_STORE is {why}"])
    pool = client.connection_pool
    options = pool.connection_kwargs
    limit = pool.max_connections if pool.max_connections < _UNLIMITED else None
    access = Access(pool.connection_class, options, limit)
    if path := options.get("path"):
        return Standalone(access.by(timed(access.kind), path, notify))
    address = options.get("host", "localhost"), int(options.get("port", 6379))
    return Standalone(access.to(address, notify))


def _foreign(client: Any) -> str | None:
    """Returns why *client* is not one of redis-py's clients."""
    kind = f"{type(client).__module__}.{type(client).__name__}"
    if any(base.__module__.startswith("valkey.") for base in type(client).__mro__):
        return f"a {kind}: give its URL (valkey://...), or a client of redis-py, also for Valkey"
    if ".asyncio" in kind:
        return f"a {kind}, which is asynchronous: give the client of the same name that is not"
    if not isinstance(client, (redis.Redis, RedisCluster, Sentinel)):
        return f"a {kind}: {_KINDS}"
    return None


def _needs_url(client: Any) -> str | None:
    """Returns which URL to give instead of *client*."""
    if isinstance(client, RedisCluster):
        return "a client of a cluster: give its URL, redis+cluster://HOST:PORT,HOST:PORT"
    pool = getattr(client, "connection_pool", None)
    if isinstance(client, Sentinel) or isinstance(pool, SentinelConnectionPool):
        service = getattr(pool, "service_name", "SERVICE")
        return (
            f"a client of Sentinel: give its URL, redis+sentinel://HOST:26379,HOST:26379/{service}"
        )
    return None


def _unsafe(client: redis.Redis) -> str | None:
    """Returns why a client of redis-py cannot be used."""
    pool = client.connection_pool
    if client.connection is not None:
        return (
            "a client with single_connection_client=True, on which threads would read each other's"
            " replies: make it without"
        )
    if type(pool) not in (ConnectionPool, BlockingConnectionPool):
        return f"a client on a {name_of(type(pool))}: {_KINDS}"
    options = pool.connection_kwargs
    if options.get("ssl_validate_ocsp") or options.get("ssl_validate_ocsp_stapled"):
        return "a client that uses OCSP, for which there is no time limit: make it without"
    return None
