"""URLs of Memcached servers: ``memcached://host:port,host:port``."""

from __future__ import annotations

import re
from typing import TypeAlias

from ..urls import MEMCACHED_URL

#: Host and port.
Address: TypeAlias = tuple[str, int]

_HOST = re.compile(r"(?:\[([\da-fA-F:.]+)\]|([\w.-]+))(?::(\d{1,5}))?", re.ASCII)
_PORT, _LAST_PORT = 11211, 65535


def read_url(url: str) -> tuple[Address, ...]:
    """Returns the servers of *url*, in its order.

    :raises ValueError: it is malformed, with the fix.
    """
    hosts, separator, rest = url.removeprefix(MEMCACHED_URL).partition("?")
    if separator:
        raise ValueError(
            f"remove ?{rest}: there are no parameters. The server of a session is fixed, so there"
            " is no failover to another one"
        )
    found = [_HOST.fullmatch(text) for text in hosts.rstrip("/").split(",")]
    servers = tuple((m[1] or m[2], int(m[3] or _PORT)) for m in found if m)
    if len(servers) < len(found) or not all(0 < port <= _LAST_PORT for _, port in servers):
        raise ValueError("write memcached://host:port,host:port; IPv6 as [::1]:11211")
    if len(set(servers)) < len(servers):
        raise ValueError("name each server once")
    return servers
