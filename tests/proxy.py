"""A TCP proxy of the tests' own: passes bytes on, and loses them when told to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator


class Proxy:
    """Stands before a server on the loopback interface.

    ``cut_replies``: so many replies are thrown away and their connections cut, after the server has
    done what it was asked. ``truncate``: a reply is cut after so many bytes. ``silent``: nothing is
    passed on at all, and nothing is cut. ``piece``: replies come in pieces of so many bytes, ten a
    second.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_replies = 0
        self.truncate: int | None = None
        self.silent = False
        self.piece: int | None = None
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self.connections += 1
            self._sockets += [near, far]
            self._start(self._pass, near, far, False)
            self._start(self._pass, far, near, True)

    def _pass(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.silent:
                    continue
                if replies and self.cut_replies:
                    self.cut_replies -= 1
                    break
                if replies and self.truncate is not None:
                    data, self.truncate = data[: self.truncate], None
                    sink.sendall(data)
                    break
                if replies and (piece := self.piece):
                    for at in range(0, len(data), piece):
                        sink.sendall(data[at : at + piece])
                        time.sleep(0.1)  # a slow network is what is played here
                else:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def before(port: int) -> Iterator[Proxy]:
    """A proxy for as long as the ``with`` block lasts."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
