"""Connections to one server: how long they are kept, what they cost in time, what a child does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from flask_safesession.stores.redis.servers import connections as module
from flask_safesession.stores.redis.servers.connections import (
    Connections,
    remaining,
    was_sent,
)
from flask_safesession.stores.redis.servers.standalone import Access
from flask_safesession.stores.remote import names
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.stores.remote.deadline import deadline
from flask_safesession.testing.kit import together

from ...support import proxy as proxies
from ...support import servers
from ...support.concurrency import in_child

PING = ("PING",)


class Clock:
    """Stands in for the module ``time``; runs ahead of it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def proxy(any_server: servers.Server) -> Iterator[proxies.Proxy]:
    with proxies.before(any_server.port) as made:
        yield made


@pytest.fixture
def connect() -> Iterator[Callable[..., Connections]]:
    made: list[Connections] = []

    def to(port: int, host: str = "127.0.0.1", **options: Any) -> Connections:
        made.append(Access(redis.Connection, options).to((host, port), print))
        return made[-1]

    yield to
    for connections in made:
        connections.close()


def fails(
    connections: Connections, command: tuple[Any, ...] = PING, within: float = 10
) -> redis.RedisError:
    with pytest.raises(redis.RedisError) as caught, deadline(within):
        connections.exchange(command)
    return caught.value


# -- how long they are kept -----------------------------------------------------------------------


def test_a_connection_is_used_again(proxy: proxies.Proxy, connect: Any) -> None:
    server = connect(proxy.port)
    for _ in range(5):
        assert server.exchange(PING, ("ECHO", "a")) == [b"PONG", b"a"]
    assert proxy.connections == 1


def test_one_that_was_idle_for_minutes_is_not(
    proxy: proxies.Proxy, connect: Any, clock: Clock
) -> None:
    """A firewall may have forgotten it: the call would wait for a reply that cannot come."""
    server = connect(proxy.port)
    server.exchange(PING)
    clock.ahead += 50
    server.exchange(PING)
    assert proxy.connections == 1
    clock.ahead += 70
    server.exchange(PING)
    assert proxy.connections == 2
    assert proxy.open == 1


def test_those_of_a_crowd_are_closed_when_it_has_gone(
    proxy: proxies.Proxy, connect: Any, clock: Clock
) -> None:
    server = connect(proxy.port)
    proxy.delay = 0.05  # so that all are in use at once
    together(8, lambda _: server.exchange(PING))
    proxy.delay = 0
    crowd = proxy.open
    assert crowd > 2
    clock.ahead += 70
    for _ in range(crowd):
        server.exchange(PING)
    servers.poll("the proxy", lambda: proxy.open == 1)


def test_a_fork_leaves_the_parents_connections_alone(proxy: proxies.Proxy, connect: Any) -> None:
    server = connect(proxy.port)
    server.exchange(PING)

    def child() -> list[str]:
        mine = [reply.decode() for reply in server.exchange(PING)]
        server.close()
        return mine

    assert in_child(child) == ["PONG"]
    assert server.exchange(PING) == [b"PONG"]
    assert proxy.connections == 2


@pytest.mark.parametrize("command", [PING, ("SET", "\xfc", b"\0\r\n", 7), ("EVAL", "", 0)])
def test_commands_are_packed_as_redis_py_packs_them(command: tuple[Any, ...]) -> None:
    connection: Any = redis.Connection()  # type: ignore[no-untyped-call]  # never connected
    assert module._packed(command) == b"".join(connection.pack_command(*command))


# -- what a failure tells -------------------------------------------------------------------------


def test_an_error_says_whether_the_server_may_have_got_the_commands(
    proxy: proxies.Proxy, connect: Any
) -> None:
    assert not was_sent(fails(connect(servers.free_port())))
    assert not was_sent(fails(connect(proxy.port, username="nobody", password="wrong")))
    server = connect(proxy.port)
    assert was_sent(fails(server, ("EVAL", "return redis.call('NO')", 0)))
    proxy.cut_replies = 1
    assert was_sent(fails(server))
    proxy.refuse = True
    for _ in range(FAILURES + 1):
        last = fails(server)
    assert "not asked again yet" in str(last)
    assert not was_sent(last)


def test_who_gets_no_connection_has_sent_nothing(proxy: proxies.Proxy) -> None:
    server = Access(redis.Connection, {}, 1).to(("127.0.0.1", proxy.port), print)
    proxy.silent = True
    holder = threading.Thread(target=fails, args=(server,), kwargs={"within": 30})
    holder.start()
    servers.poll("the holder", lambda: server._own.busy)
    started = time.monotonic()
    error = fails(server, within=0.3)
    assert time.monotonic() - started < 20  # of the thirty seconds that the holder waits
    assert "none of 1 connections came free in time" in str(error)
    assert not was_sent(error)
    proxy.cut_all()
    holder.join(10)
    server.close()


# -- time -----------------------------------------------------------------------------------------


def test_a_deadline_in_another_can_only_shorten_it() -> None:
    with deadline(10):
        with deadline(60):
            assert remaining() <= 10
        with deadline(1):
            assert remaining() <= 1
        assert 9 < remaining() <= 10


def test_no_time_left_is_a_time_out() -> None:
    with deadline(0), pytest.raises(redis.TimeoutError, match="no time left"):
        remaining()


def test_no_time_left_sends_nothing(proxy: proxies.Proxy, connect: Any) -> None:
    with deadline(0), pytest.raises(redis.TimeoutError) as caught:
        connect(proxy.port).exchange(PING)
    assert not was_sent(caught.value)
    assert proxy.connections == 0


# -- names of hosts -------------------------------------------------------------------------------


def answering(*addresses: str) -> Callable[..., Any]:
    """A resolver for the name ``sessions.test``."""
    original = socket.getaddrinfo

    def resolve(host: str, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "sessions.test":
            return original(host, port, *args, **kwargs)
        return [
            found for address in addresses for found in original(address, port, *args, **kwargs)
        ]

    return resolve


def test_all_addresses_of_a_name_are_tried(
    any_server: servers.Server, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answering("127.0.0.2", "127.0.0.1"))
    assert connect(any_server.port, "sessions.test").exchange(PING) == [b"PONG"]
    monkeypatch.setattr(socket, "getaddrinfo", answering("127.0.0.2", "127.0.0.3"))
    error = fails(connect(any_server.port, "sessions.test"))
    assert "sessions.test" in str(error)


def test_an_unknown_name_is_told(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in str(fails(connect(1, "sessions.test")))


def test_addresses_are_not_looked_up(
    any_server: servers.Server, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError(args)

    monkeypatch.setattr(names, "_look_up", never)
    assert connect(any_server.port).exchange(PING) == [b"PONG"]
