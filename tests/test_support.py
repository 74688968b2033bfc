"""Servers and the proxy do what tests take for granted.

Fleets: tests/faults/test_harness.py; databases: tests/faults/test_databases.py.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .support import servers
from .support.proxy import Proxy, awake, before


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
