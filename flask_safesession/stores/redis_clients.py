"""A ready client in ``SAFESESSION_STORE`` to the servers that it knows.

Where they are and who we are is taken from it. Time-outs, retries, decoding and the ways of its
pool are not, and the client itself is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import redis
from redis.cluster import RedisCluster
from redis.connection import BlockingConnectionPool, ConnectionPool
from redis.sentinel import Sentinel as SentinelClient
from redis.sentinel import SentinelConnectionPool

from ..errors import ConfigError, name_of
from ..events import Event
from .breaker import Notify
from .cluster import Cluster
from .sentinel import Sentinel
from .timed import timed
from .topology import Access, Standalone, Topology

# What redis-py has for "as many as you like".
_UNLIMITED = 2**31
_KINDS = (
    "give a redis.Redis client, Sentinel(...).master_for(...), a redis.RedisCluster, a URL such as"
    " redis://localhost:6379/0, or a Store"
)


def topology_of_client(client: Any, notify: Notify) -> Topology:
    """The servers that *client* knows.

    :raises ConfigError: it cannot be used safely, with what to do instead.
    """
    if why := _foreign(client) or _unsafe(client):
        raise ConfigError([f"SAFESESSION_STORE is {why}"])
    if isinstance(client, RedisCluster):
        return _cluster(client, notify)
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return _sentinel(pool, notify)
    access, options = _access_of(pool), pool.connection_kwargs
    if path := options.get("path"):
        return Standalone(access.by(timed(access.kind), path, notify))
    return Standalone(access.to(_address(options), notify))


def ignore(event: Event) -> None:
    """Tell nobody. A Sentinel that is down is no store that is down."""


def _foreign(client: Any) -> str | None:
    """Why it is none of redis-py's clients that could do."""
    kind = f"{type(client).__module__}.{type(client).__name__}"
    if any(base.__module__.startswith("valkey.") for base in type(client).__mro__):
        return (
            f"a {kind}: give its URL (valkey://...), or a client of redis-py, with which Valkey"
            " servers get on as well"
        )
    if ".asyncio" in kind:
        return f"a {kind}, which is asynchronous: give the client of the same name that is not"
    if isinstance(client, SentinelClient):
        return "a Sentinel, which keeps no sessions: give its master_for(...)"
    if not isinstance(client, (redis.Redis, RedisCluster)):
        return f"a {kind}: {_KINDS}"
    return None


def _unsafe(client: Any) -> str | None:
    """Why it cannot be used although it is one of redis-py's."""
    if isinstance(client, RedisCluster):
        return _unlimited(client.nodes_manager.connection_kwargs)
    pool = client.connection_pool
    if client.connection is not None:
        return (
            "a client with single_connection_client=True, on which threads would read each other's"
            " replies: make it without"
        )
    if isinstance(pool, SentinelConnectionPool):
        if not pool.is_master:
            return "a client of replicas, where nothing can be written: give master_for(...)"
        if pool.sentinel_manager.min_other_sentinels:
            return (
                "a client with min_other_sentinels: make its Sentinel without, every server is"
                " asked by ROLE whether it is the master"
            )
    elif type(pool) not in (ConnectionPool, BlockingConnectionPool):
        return f"a client on a {name_of(type(pool))}: {_KINDS}"
    return _unlimited(pool.connection_kwargs)


def _unlimited(options: Mapping[str, Any]) -> str | None:
    if options.get("ssl_validate_ocsp") or options.get("ssl_validate_ocsp_stapled"):
        return "a client that asks for OCSP, for which there is no time limit: make it without"
    return None


def _access_of(pool: Any) -> Access:
    limit = pool.max_connections if pool.max_connections < _UNLIMITED else None
    return Access(pool.connection_class, pool.connection_kwargs, limit)


def _address(options: Mapping[str, Any]) -> tuple[str, int]:
    return options.get("host", "localhost"), int(options.get("port", 6379))


def _sentinel(pool: Any, notify: Notify) -> Sentinel:
    manager = pool.sentinel_manager
    options = {k: v for k, v in pool.connection_kwargs.items() if k not in ("host", "port")}
    encrypted = issubclass(pool.connection_class, redis.SSLConnection)
    access = _access_of(pool)._replace(kind=_kind(encrypted), options=options)
    sentinels = []
    for client in manager.sentinels:
        guarded = client.connection_pool
        to = Access(guarded.connection_class, guarded.connection_kwargs)
        sentinels.append(to.to(_address(guarded.connection_kwargs), ignore))
    forced = getattr(manager, "_force_master_ip", None)
    remap = (lambda address: (forced, address[1])) if forced else None
    return Sentinel(pool.service_name, sentinels, access, notify, remap)


def _cluster(client: Any, notify: Notify) -> Cluster:
    manager = client.nodes_manager
    options = dict(manager.connection_kwargs)
    # The client's own would also ask for reads from replicas.
    options.pop("redis_connect_func", None)
    if client.user_on_connect_func:
        options["redis_connect_func"] = partial(_connect_and, client.user_on_connect_func)
    given = options.get("connection_class", redis.Connection)
    encrypted = bool(options.get("ssl")) or issubclass(given, redis.SSLConnection)
    seeds = [(node.host, int(node.port)) for node in manager.startup_nodes.values()]
    access = Access(_kind(encrypted), options, options.get("max_connections"))
    return Cluster(seeds, access, notify, manager.address_remap)


def _kind(encrypted: bool) -> type[redis.Connection]:
    return redis.SSLConnection if encrypted else redis.Connection


def _connect_and(then: Callable[[Any], object], connection: Any) -> None:
    connection.on_connect()
    then(connection)
