"""Real SQL servers for the tests: on free ports and Unix sockets, in folders of their own.

Unless one is ``durable``, it does not wait for a disk. What was committed survives ``kill`` all the
same: it has reached the operating system, which goes on. Only a machine that fails would lose it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ._mysql import start_mysql
from ._pgbouncer import start_pgbouncer
from ._postgresql import start_postgresql
from ._programs import PACKAGES, version
from ._server import REFUSED, Database, connect, given

__all__ = [
    "REFUSED",
    "STARTS",
    "Database",
    "connect",
    "describe",
    "start_mysql",
    "start_pgbouncer",
    "start_postgresql",
    "take",
]

#: How a server is started, by the scheme of its URL.
STARTS: dict[str, Callable[[], Database]] = {
    "mysql": start_mysql,
    "postgresql": start_postgresql,
}


def take(scheme: str) -> Database:
    """The server that the environment names, or a new one."""
    url = os.environ.get(_variable(scheme))
    return given(url) if url else STARTS[scheme]()


def _variable(scheme: str) -> str:
    return f"SAFESESSION_TEST_{scheme.upper()}"


def describe() -> str:
    """What there is to test with, and what is missing."""
    found = [v for program in PACKAGES if (v := version(program))]
    found += [_describe(name) for name in map(_variable, STARTS) if os.environ.get(name)]
    missing = [program for program in PACKAGES if not version(program)]
    absent = f"; not on this machine: {', '.join(missing)}" if missing else ""
    return f"databases: {', '.join(found) or 'NONE'}{absent}"


def _describe(variable: str) -> str:
    try:
        [(said,)] = given(os.environ[variable]).ask("SELECT version()")
    except REFUSED as error:
        return f"{variable} ({error})"
    return f"{variable} ({' '.join(said.split()[:2])})"
