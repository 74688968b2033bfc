"""Servers and the proxy do what tests take for granted. Fleets: tests/faults/test_harness.py."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .support import servers
from .support.kits import REAL
from .support.proxy import Proxy, awake, before


@pytest.fixture(params=REAL)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def proxy(any_server: servers.Server) -> Iterator[Proxy]:
    with before(any_server.port) as made:
        yield made


@contextlib.contextmanager
def hasty(port: int, timeout: float = 5) -> Iterator[redis.Redis]:
    """A client that tries once."""
    once = Retry(NoBackoff(), 0)
    with contextlib.closing(redis.Redis(port=port, retry=once, socket_timeout=timeout)) as client:
        yield client


def round_trips(client: redis.Redis, count: int) -> list[float]:
    """Seconds of each."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        client.ping()
        times.append(time.perf_counter() - start)
    return times


def test_a_paused_server_is_silent_and_then_goes_on(kind: str, tmp_path: Path) -> None:
    with (
        servers.running(kind, tmp_path) as server,
        hasty(server.port, 0.1) as client,
    ):
        client.ping()
        with server.paused(), pytest.raises(redis.TimeoutError):
            client.ping()
        assert client.ping()
        server.pause()  # and is killed like that


def test_no_server_outlives_the_tests(tmp_path: Path) -> None:
    code = f"""
import pathlib, time
from tests.support import servers
print(servers.start({min(servers.binaries())!r}, pathlib.Path({str(tmp_path)!r})).port, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as tests:
        assert tests.stdout is not None
        port = int(tests.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        tests.send_signal(signal.SIGKILL)
    servers.poll("an end", lambda: not is_open(port))


def is_open(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_delay_is_what_it_says(proxy: Proxy) -> None:
    with awake(), hasty(proxy.port) as far:
        far.ping()
        proxy.delay = 0.001
        shortest = min(round_trips(far, 200))
    # Never less; how much more it is says how busy the machine is.
    assert 0.0019 < shortest < 0.02


HOUR = 3600


def test_what_is_under_way_keeps_its_order_and_does_not_wait_for_each_other(proxy: Proxy) -> None:
    with contextlib.closing(socket.create_connection(("127.0.0.1", proxy.port))) as client:
        start = time.monotonic()
        for sent in range(1, 6):
            proxy.delay = HOUR - sent
            client.sendall(b"%d" % sent)
            servers.poll("a chunk", partial(is_under_way, proxy, sent), every=0.001)
        due = sorted(proxy._due, key=lambda chunk: chunk[:2])
    assert b"".join(data for *_, data in due) == b"12345"
    # One after the other would be five hours.
    assert all(HOUR - 1 <= when - start < 2 * HOUR for when, *_ in due)


def is_under_way(proxy: Proxy, chunks: int) -> bool:
    return proxy.under_way == chunks


def test_a_proxy_refuses_cuts_and_resets(proxy: Proxy) -> None:
    with hasty(proxy.port) as client:
        client.ping()
        assert (proxy.connections, proxy.open) == (1, 1)
        proxy.refuse = True
        assert client.ping()  # what is open stays open
        proxy.cut_all()
        assert proxy.open == 0
        with pytest.raises(redis.ConnectionError):
            client.ping()
        proxy.mend()
        assert client.ping()
        assert (proxy.connections, proxy.open) == (2, 1)


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_is_an_end_or_a_reset(proxy: Proxy, reset: bool) -> None:
    with contextlib.closing(socket.create_connection(("127.0.0.1", proxy.port))) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(7) == b"+PONG\r\n"
        proxy.reset = reset
        proxy.cut_replies = 1
        client.sendall(b"PING\r\n")
        with pytest.raises(ConnectionResetError) if reset else contextlib.nullcontext():
            assert client.recv(7) == b""
