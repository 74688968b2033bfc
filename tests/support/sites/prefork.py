"""A master in the manner of uWSGI: it imports and uses the app, and forks workers meanwhile.

Other threads of the master use the app all the time, so that a fork finds connections with half a
reply on them, and locks that are held.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from itertools import count

from werkzeug.serving import make_server

from tests.support.sites.app import app

THREADS = 4


class User(threading.Thread):
    """Uses the app until it is told to stop; ``wrong``: what it saw of others."""

    stop = threading.Event()

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.turns = 0
        self.connected = threading.Event()
        self.wrong: list[object] = []

    def run(self) -> None:
        client = app.test_client()
        mine = None
        for turn in count():
            if self.stop.is_set():
                return
            before = client.get(f"/write/master{self.number}/{turn}").json
            if before != {"mine": mine}:
                self.wrong.append([mine, before])
            mine = [f"master{self.number}", turn]
            self.turns = turn
            self.connected.set()


def work(listener: socket.socket) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    make_server("127.0.0.1", 0, app, threaded=True, fd=listener.fileno()).serve_forever()


def main(where: str, workers: int) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    listener = socket.socket(fileno=int(where.removeprefix("fd://")))
    users = [User(number) for number in range(THREADS)]
    for user in users:
        user.start()
    for user in users:
        user.connected.wait()
    children = []
    for _ in range(workers):
        if (child := os.fork()) == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            work(listener)
        children.append(child)
    signal.sigwait({signal.SIGTERM})
    for child in children:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
    User.stop.set()
    for user in users:
        user.join()
    sys.stdout.write(f"{[(user.number, user.turns, user.wrong) for user in users]}\n")
    return int(any(user.wrong or not user.turns for user in users))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
