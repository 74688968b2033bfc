"""What goes over the wire: round trips at the client's socket, microseconds at the server.

``INFO commandstats`` lists the commands inside a script beside the script itself, so it cannot
tell how often a client waited for an answer. The socket can.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest import mock

import redis

SCRIPTS = ("evalsha", "eval", "fcall")
OURS = ("info", "config", "client", "hello", "script", "ping")
"""Commands of the measuring and of connecting, never of a request."""


@dataclass
class Tally:
    """How many times something was sent and an answer waited for."""

    round_trips: int = 0


@contextmanager
def counting_round_trips() -> Iterator[Tally]:
    """Count the sends of every socket of this process.

    redis-py sends a command, or all commands of a pipeline, with one ``sendall`` as long as they
    are under its buffer cut-off of 6,000 bytes, which the sessions of this benchmark are.
    """
    tally = Tally()
    real = socket.socket.sendall

    def sendall(self: socket.socket, *args: Any) -> None:
        tally.round_trips += 1
        real(self, *args)

    with mock.patch.object(socket.socket, "sendall", sendall):
        yield tally


def reset_server_time(client: redis.Redis) -> None:
    """Set the server's statistics to nothing."""
    client.config_resetstat()


def server_microseconds(client: redis.Redis) -> float:
    """The processor time of all commands since the reset, in microseconds.

    A script's row includes the commands inside it, which have rows of their own as well: where
    there are scripts, only their rows are added up.
    """
    rows = cast("dict[str, dict[str, float]]", client.info("commandstats"))
    used: Counter[str] = Counter()
    for name, row in rows.items():
        used[name.removeprefix("cmdstat_").partition("|")[0]] += int(row["usec"])
    in_scripts = sum(used[name] for name in SCRIPTS)
    return in_scripts or sum(usec for name, usec in used.items() if name not in OURS)
