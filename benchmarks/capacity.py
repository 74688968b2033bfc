"""What calls cost the server: its processor's time, bytes on the network, bytes to a replica.

``python -m benchmarks.capacity`` fills a server of its own and plays 50 workers that call it in
turns. The time is what the server's main thread has used, system calls included, so that neither
the workers' pace nor other work on the machine is in it.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple, cast
from unittest import mock

import click
import redis

from flask_safesession.config.settings import read_settings
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Rules, Terms
from flask_safesession.stores.redis import RedisStore
from flask_safesession.stores.redis.servers.connections import Command, Connections

from .machine import describe
from .population import IDLE, draft, fill, key, mean_payload, settings
from .server import Server, running

WORKERS = 50
ROUNDS = 5
_LOGIN = Terms(None, True, "login")
_CUT = 65536
"""More than any answer has."""


class Cost(NamedTuple):
    """What one call costs.

    ``microseconds``: of the server's main thread; ``persistent``: the same with an append-only file
    that is synced every second. ``received``, ``sent`` and ``logged`` are bytes, the last in that
    file, and on the way to each replica.
    """

    call: str
    microseconds: float
    persistent: float
    received: float
    sent: float
    logged: float


class _Used(NamedTuple):
    """A server's counters at one moment, or between two."""

    seconds: float
    received: int
    sent: int
    logged: int

    @classmethod
    def until_now(cls, client: redis.Redis) -> _Used:
        info = client.info("everything")
        busy = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
        flows = info["total_net_input_bytes"], info["total_net_output_bytes"]
        return cls(busy, *flows, info.get("aof_current_size", 0))


def measure(server: Server, sessions: int, calls: int) -> Iterator[Cost]:
    """Fill *server* with the sessions of so many users; then make so many calls of each kind."""
    store = RedisStore(server.url, timeout=60)
    rules = settings(10 * sessions).rules
    fill(store, range(sessions), rules, users=True)
    kinds = _kinds(store, rules, sessions)
    with server.client() as client, _workers(server.port) as workers:
        for name, call in kinds.items():
            call(0)  # from here on the server knows the script
            plain = _rounds(client, workers, call, range(1, calls))
            with _append_only_file(client):
                persistent = _rounds(client, workers, call, range(calls, 2 * calls))
            _, received, sent, logged = persistent
            yield Cost(name, plain[0], persistent[0], received, sent, logged)
    store.close()


def _kinds(store: RedisStore, rules: Rules, held: int) -> dict[str, Callable[[int], object]]:
    """The calls of which requests consist, to be made with numbers. Each goes on from the last."""
    eager = read_settings({}, {"idle_timeout": IDLE / 1000, "touch_interval": 0}).rules
    stamps: dict[int, str] = {}

    def first_write(n: int) -> object:
        new = draft(held + n, users=False)
        stamps[n] = new.stamp
        return store.create(key(held + n), new, rules)

    def change(n: int) -> object:
        return store.commit(key(held + n), draft(held + n, users=False), stamps[n], touch=0)

    def login(n: int) -> object:
        return store.rotate(key(held + n), key(-1 - n), draft(held + n, users=True), rules, _LOGIN)

    return {
        "load": lambda n: store.load(key(n % held), rules, slide=True),
        "load and slide": lambda n: store.load(key(n % held), eager, slide=True),
        "create": first_write,
        "commit": change,
        "rotate (login)": login,
        "end (logout)": lambda n: store.end(key(-1 - n), new_stamp(), "logout", None),
    }


def _rounds(
    client: redis.Redis,
    workers: list[socket.socket],
    call: Callable[[int], object],
    numbers: range,
) -> list[float]:
    """Medians, over the rounds, of the microseconds and the bytes of one call."""
    share = len(numbers) // ROUNDS
    rows = []
    for first in range(numbers.start, numbers.start + share * ROUNDS, share):
        before = _Used.until_now(client)
        _play(workers, call, range(first, first + share))
        used = [b - a for a, b in zip(before, _Used.until_now(client), strict=True)]
        rows.append([1e6 * used[0] / share, *(flow / share for flow in used[1:])])
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _play(workers: list[socket.socket], call: Callable[[int], object], numbers: range) -> None:
    """Each worker sends a call, then each waits for its answer; and again."""
    for first in range(numbers.start, numbers.stop, len(workers)):
        turn = range(first, min(first + len(workers), numbers.stop))
        asked = list(zip(workers, [_as_sent(call, n) for n in turn], strict=False))
        for worker, command in asked:
            worker.sendall(command)
        for worker, _ in asked:
            answer = worker.recv(_CUT)
            if answer[:1] not in (b"*", b"$"):
                raise RuntimeError(f"the server answered {answer[:80]!r}")


_packer: Any = redis.Connection()  # type: ignore[no-untyped-call]  # never connected


class _Caught(Exception):
    """The command was not sent."""


def _as_sent(call: Callable[[int], object], number: int) -> bytes:
    """What the store would send."""
    caught: list[Command] = []

    def catch(_: Connections, *commands: Command, **__: Any) -> None:
        caught.extend(commands)
        raise _Caught

    with mock.patch.object(Connections, "exchange", catch), suppress(_Caught):
        call(number)
    [command] = caught
    packed: list[bytes] = _packer.pack_command(*command)
    return b"".join(packed)


@contextmanager
def _workers(port: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(WORKERS)]
        for line in lines:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stack.enter_context(line)
        yield lines


@contextmanager
def _append_only_file(client: redis.Redis) -> Iterator[None]:
    client.config_set("appendonly", "yes")
    while cast("dict[str, int]", client.info("persistence"))["aof_rewrite_in_progress"]:
        time.sleep(0.05)  # the server is at work
    yield
    client.config_set("appendonly", "no")


@click.command()
@click.option("--server", type=click.Choice(["auto", "redis", "valkey"]), default="auto")
@click.option("--sessions", default=100_000)
@click.option("--calls", default=20_000)
def main(server: str, sessions: int, calls: int) -> None:
    """Print what each kind of call costs."""
    with running(server) as started:
        about = ", ".join(describe(started.name).values())
        click.echo(f"{about}; {sessions} users, payload {mean_payload(users=True):.0f} bytes")
        click.echo("call                     µs  with AOF   a second    in   out  log")
        for cost in measure(started, sessions, calls):
            row = f"{cost.call:<20} {cost.microseconds:6.1f} {cost.persistent:9.1f}"
            row += f" {1e6 / cost.persistent:10,.0f}"
            click.echo(f"{row} {cost.received:5.0f} {cost.sent:5.0f} {cost.logged:4.0f}")


if __name__ == "__main__":
    main()
