"""A server that seems to be far away: a proxy that delays bytes, and cores that stay awake."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread

SPIN = 0.0002
"""Seconds before bytes are due that are not slept through: a sleep may take longer than asked."""


@contextmanager
def far_away(port: int, delay: float) -> Iterator[str]:
    """A URL of the server on *port* behind a proxy in a process of its own.

    *delay* is in seconds, in each direction. It begins when the proxy has read the bytes, and fits
    clients that wait for each answer before they ask again.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_proxy, args=(port, delay, theirs))
    process.start()
    try:
        yield f"redis://127.0.0.1:{ours.recv()}/0"
    finally:
        ours.send("enough")
        process.join()


def _proxy(port: int, delay: float, line: Connection) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    Thread(target=_accept, args=(listener, port, delay), daemon=True).start()
    line.send(listener.getsockname()[1])
    line.recv()


def _accept(listener: socket.socket, port: int, delay: float) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for source, sink in ((near, far), (far, near)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Thread(target=_pass_on, args=(source, sink, delay), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, delay: float) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            due = time.perf_counter() + delay
            time.sleep(max(delay - SPIN, 0))
            while time.perf_counter() < due:
                pass
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def awake() -> Iterator[None]:
    """Let no core sleep meanwhile: to wake one up may cost more than a round trip.

    A core that has nothing else to do counts up; all other work goes before that.
    """
    code = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n"
    code += f"while os.getppid() == {os.getpid()}: pass"
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
    with ExitStack() as stack:
        for _ in range(cores):
            process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield
