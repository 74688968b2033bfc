"""Checks the settings of Redis and Valkey servers: at the start, and for ``check``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import redis

from ...errors import StoreUnavailable, UnfitStore
from ..base import Finding
from .scripts import Caller
from .servers.connections import Connections
from .servers.standalone import Standalone, Topology

_OLDEST = {"redis": (6, 2), "valkey": (7, 2)}
_LOOPBACK = ("127.", "localhost", "::1", "[::1]", "/")
# Seconds by which the clocks of two servers may differ, the time of two calls included.
_APART = 1.0


class _Facts(NamedTuple):
    """Facts about a server: INFO, whether it saves snapshots, how far its clock is ahead."""

    info: Mapping[str, str]
    saves: bool
    ahead: float


def check_shards(topology: Topology, name: str, shards: int) -> bool:
    """Compares the number of shards with the one stored under *name*; stores it if there is none.

    Returns whether it is stored; if not (the server takes no writes), the next call checks again.

    :raises UnfitStore: the sessions are in another number of shards.
    """
    [stored] = topology.route(name)(("GET", name))
    if stored is None:
        with suppress(redis.ResponseError):
            commands = ("SET", name, shards, "NX"), ("GET", name)
            stored = topology.route(name)(*commands)[1]
    if stored in (None, b"%d" % shards):
        return stored is not None
    found = stored.decode("ascii", "replace")
    fix = f"set it back to {found}, or start anew under another SAFESESSION_KEY_PREFIX"
    raise UnfitStore([f"SAFESESSION_SHARDS is {shards}, but the sessions are in {found}: {fix}"])


def inspect(caller: Caller, replicas: int) -> list[Finding]:
    """Returns what is wrong with the number of shards, and :func:`findings`."""
    found: list[Finding] = []
    try:
        caller.check()
    except UnfitStore as error:
        found += [Finding("store-layout", problem) for problem in error.problems]
    return found + findings(Caller(caller.topology, caller.timeout), replicas)


def findings(caller: Caller, replicas: int) -> list[Finding]:
    """Returns a finding for each setting that should be changed, server by server.

    :param replicas: how many replicas have to confirm the end of a session.
    :raises StoreUnavailable: the only server does not answer; of several, that is a finding.
    """
    servers = caller.topology.servers()
    alone = isinstance(caller.topology, Standalone)
    found, clocks = list[Finding](), dict[str, float]()
    for server in servers:
        try:
            facts = _ask(caller, server)
        except StoreUnavailable as error:
            if len(servers) == 1:
                raise
            text = f"{server.server}: cannot be used: {error}"
            found.append(Finding("server-unavailable", text))
            continue
        clocks[server.server] = facts.ahead
        where = f"{server.server}: " if len(servers) > 1 else ""
        of_one = (*_of_server(facts), *_of_replicas(facts.info, replicas, alone=alone))
        found += [Finding(name, where + text) for name, text in (*of_one, *_of_network(server))]
    return found + list(_of_clocks(clocks))


def _ask(caller: Caller, server: Connections) -> _Facts:
    raw, (seconds, micros) = caller.call(lambda: server.exchange(("INFO",), ("TIME",)))
    # Relative to a clock that is never set: only differences between servers matter.
    ahead = int(seconds) + int(micros) / 1_000_000 - time.monotonic()
    return _Facts(_parsed(raw), _saves_snapshots(caller, server), ahead)


def _of_server(facts: _Facts) -> Iterator[Finding]:
    info = facts.info
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST[kind]:
        yield Finding(
            "server-version",
            f"the server is version {version}: Redis 6.2 or Valkey 7.2 is the oldest",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Finding(
            "eviction-policy",
            f"maxmemory-policy is {policy}: the server will remove sessions by its own rules, also"
            " those of users; set it to noeviction, SAFESESSION_MAX_SESSIONS is the cap",
        )
    if info.get("maxmemory") == "0":
        yield Finding(
            "no-memory-limit",
            "maxmemory is not set: other data on this server can take all its memory",
        )
    if info.get("aof_enabled") != "1" and not facts.saves:
        yield Finding(
            "no-persistence", "persistence is off: a restart of the server signs everybody out"
        )
    if "err" in (info.get("rdb_last_bgsave_status"), info.get("aof_last_write_status")):
        yield Finding(
            "failed-save",
            "the server could not save its data the last time: check its disk and its log",
        )


def _of_replicas(info: Mapping[str, str], wanted: int, *, alone: bool) -> Iterator[Finding]:
    if info.get("role", "master") != "master":
        yield Finding(
            "replica",
            "the server is a replica, which takes no writes: name its master, or its Sentinels",
        )
        return
    online = sum("state=online" in value for name, value in info.items() if name[:5] == "slave")
    if online < wanted:
        yield Finding(
            "missing-replicas",
            f"SAFESESSION_WAIT_REPLICAS is {wanted}, and {online} are connected: logins and"
            " logouts wait for the others until they time out; connect more, or lower it",
        )
    elif online == 0 and not alone:
        yield Finding(
            "missing-replicas",
            "no replica is connected: if this server is lost, so are its sessions",
        )


def _of_network(server: Connections) -> Iterator[Finding]:
    if not server.encrypted and not server.server.startswith(_LOOPBACK):
        yield Finding(
            "not-encrypted", "the connection is not encrypted: use rediss:// (TLS) across a network"
        )


def _of_clocks(clocks: Mapping[str, float]) -> Iterator[Finding]:
    """Yields a finding if *clocks*, by how many seconds each server's is ahead, differ."""
    if not clocks:
        return
    first, last = min(clocks, key=clocks.__getitem__), max(clocks, key=clocks.__getitem__)
    apart = clocks[last] - clocks[first]
    if apart > _APART:
        yield Finding(
            "clocks-apart",
            f"the clocks of {first} and {last} are {apart:.0f} s apart: a session that moves"
            " between them ends early or late by that; run NTP on both",
        )


def _saves_snapshots(caller: Caller, server: Connections) -> bool:
    """Returns whether the server saves snapshots; true where that cannot be asked."""
    try:
        answer: Any = caller.call(lambda: server.exchange(("CONFIG", "GET", "save"))[0])
    except StoreUnavailable:  # CONFIG is forbidden on most managed servers
        return True
    return bool(answer[1:2] != [b""])


def _parsed(raw: bytes) -> dict[str, str]:
    """Returns names and values of an answer of INFO."""
    lines = (line.partition(":") for line in raw.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
