"""Work in a forked child, and locks that another thread holds."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 20.0  # seconds until a test gives up on another thread or process


def in_child(work: Callable[[], Any]) -> Any:
    """The result of *work* (made of what JSON knows) in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = json.dumps({"result": work()})
        except BaseException as error:  # noqa: BLE001  # told to the parent
            answer = json.dumps({"error": repr(error)})
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], PATIENCE)
        answer = os.read(reading, 65536).decode() if ready else '{"error": "the child hangs"}'
    finally:
        os.close(reading)
        if not ready:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    told = json.loads(answer)
    assert "error" not in told, told
    return told["result"]


@contextmanager
def held(lock: threading.Lock) -> Iterator[None]:
    """*lock* is held by another thread for as long as the block lasts."""
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holds.set()
            release.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(PATIENCE)
    yield
    release.set()
    thread.join()
