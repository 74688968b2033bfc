"""A TCP proxy of the tests' own: passes bytes on, late or not at all when told to."""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import itertools
import os
import select
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from . import servers

_PIECE_EVERY = 0.1  # seconds
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends a reset
_SPIN = 0.0001  # seconds: the last moment before bytes are due is not slept through
_LINUX = sys.platform == "linux"
_SO_TIMESTAMPNS = 35
_PR_SET_TIMERSLACK = 29


class Proxy:
    """Stands before a server on the loopback interface.

    ``cut_replies``: so many replies are thrown away and their connections cut, after the server has
    done what it was asked. ``truncate``: a reply is cut after so many bytes. ``silent``: nothing is
    passed on at all, and nothing is cut. ``piece``: replies come in pieces of so many bytes, ten a
    second. ``delay``: all bytes arrive so many seconds later, in each direction; how many are under
    way does not matter. ``refuse``: new connections are closed at once. ``reset``: whatever is cut
    is a TCP reset instead of an end of file. ``target``: the port for new connections. ``cut_all``
    closes all the connections there are now.

    One thread does it all. A delay begins when the kernel has the bytes, so that the thread's own
    work is a part of it and not an addition to it.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.cut_replies = 0
        self.truncate: int | None = None
        self.silent = False
        self.piece: int | None = None
        self.delay = 0.0
        self.refuse = False
        self.reset = False
        self.connections = 0
        self._pairs: set[_Pair] = set()
        self._due: list[tuple[float, int, _Way, bytes]] = []  # a heap; no bytes: the end
        self._numbers = itertools.count()
        self._orders: deque[Callable[[], None]] = deque()
        self._selector = selectors.DefaultSelector()
        self._bell, self._button = socket.socketpair()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        for end, work in ((self._listener, self._accept), (self._bell, self._obey)):
            end.setblocking(False)
            self._selector.register(end, selectors.EVENT_READ, work)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._pairs)

    @property
    def under_way(self) -> int:
        """How many chunks of bytes have come and are not due yet."""
        return len(self._due)

    def cut_all(self) -> None:
        self._order(self._cut_all)

    def fix(self) -> None:
        """Again as it was when it was new; connections stay."""
        self.cut_replies, self.truncate, self.silent, self.piece = 0, None, False, None
        self.delay, self.refuse, self.reset = 0.0, False, False

    def close(self) -> None:
        if self._thread.is_alive():
            self._order(self._end)
            self._thread.join(10)
        self._button.close()

    # From here on, all is done by the one thread, except that others give it orders.

    def _order(self, work: Callable[[], None]) -> None:
        """Let the thread do it, and wait until it has."""
        done = threading.Event()
        self._orders += [work, done.set]
        self._button.send(b"!")
        if not done.wait(10):
            raise TimeoutError("the proxy's thread is not there any more")

    def _obey(self, _: int) -> None:
        self._bell.recv(4096)
        while self._orders:
            self._orders.popleft()()

    def _run(self) -> None:
        _wake_precisely()
        while self._selector.get_map():
            # An epoll counts in milliseconds, a select on the epoll in microseconds.
            select.select([self._selector.fileno()], [], [], self._until_due())
            for key, events in self._selector.select(0):
                if key.fd in self._selector.get_map():  # an earlier event may have closed it
                    key.data(events)
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, way, data = heapq.heappop(self._due)
                way.hand_on(data)
        self._selector.close()

    def _until_due(self) -> float | None:
        return max(self._due[0][0] - time.monotonic() - _SPIN, 0) if self._due else None

    def _accept(self, _: int) -> None:
        try:
            near, _address = self._listener.accept()
        except OSError:  # it went away again
            return
        if self.refuse:
            self._close(near)
            return
        far = socket.socket()
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if _LINUX:
                end.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        far.connect_ex(("127.0.0.1", self.target))
        self.connections += 1
        self._pairs.add(_Pair(self, near, far))

    def watch(self, end: socket.socket, events: int, work: Callable[[int], None]) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(end)
        if events:
            self._selector.register(end, events, work)

    def later(self, way: _Way, data: bytes, wait: float = 0) -> None:
        """Hand *data* on when it is due, never before what came before."""
        way.due = max(way.due, way.arrived + self.delay + wait)
        heapq.heappush(self._due, (way.due, next(self._numbers), way, data))

    def take(self, way: _Way, data: bytes) -> None:
        """Decide what becomes of bytes that came; none are the end."""
        if self.silent and data:
            return
        if way.replies and data and self.cut_replies:
            self.cut_replies -= 1
            way.pair.cut()
        elif way.replies and data and self.truncate is not None:
            data, self.truncate = data[: self.truncate], None
            self.later(way, data)
            self.later(way, b"")
        elif way.replies and (size := self.piece):
            for at in range(0, max(len(data), 1), size):
                self.later(way, data[at : at + size], at // size * _PIECE_EVERY)
        else:
            self.later(way, data)

    def drop(self, pair: _Pair) -> None:
        self._pairs.discard(pair)
        for end in (pair.near, pair.far):
            self.watch(end, 0, pair.there.ready)
            self._close(end)

    def _close(self, end: socket.socket) -> None:
        if self.reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.close()

    def _cut_all(self) -> None:
        for pair in list(self._pairs):
            pair.cut()

    def _end(self) -> None:
        self._cut_all()
        for end in (self._listener, self._bell):
            self._selector.unregister(end)
            end.close()


class _Pair:
    """One connection: from the client to here, and on to the server."""

    def __init__(self, proxy: Proxy, near: socket.socket, far: socket.socket) -> None:
        self.proxy, self.near, self.far = proxy, near, far
        self.alive = True
        self.there = _Way(self, near, far, replies=False)
        self.back = _Way(self, far, near, replies=True)
        self.watch()

    def watch(self) -> None:
        """Wait at each end for bytes to come, and for room where some are left over."""
        for way, other in ((self.there, self.back), (self.back, self.there)):
            wanted = 0 if way.ended else selectors.EVENT_READ
            wanted |= selectors.EVENT_WRITE if other.blocked else 0
            self.proxy.watch(way.source, wanted, way.ready)

    def cut(self) -> None:
        if self.alive:
            self.alive = False
            self.proxy.drop(self)


class _Way:
    """One direction of a connection."""

    def __init__(
        self, pair: _Pair, source: socket.socket, sink: socket.socket, *, replies: bool
    ) -> None:
        self.pair, self.source, self.sink, self.replies = pair, source, sink, replies
        self.arrived = self.due = 0.0
        self.ended = False  # nothing comes any more
        self.blocked = False  # the sink is full
        self._unsent = bytearray()
        self._last = False  # nothing follows on what is unsent

    def ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE and self.pair.alive:
            (self.pair.back if self is self.pair.there else self.pair.there).send()
        if events & selectors.EVENT_READ and self.pair.alive:
            self._receive()

    def _receive(self) -> None:
        try:
            data, self.arrived = _receive(self.source)
        except BlockingIOError:
            return
        except OSError:  # reset, or the server is not there
            data, self.arrived = b"", time.monotonic()
        self.pair.proxy.take(self, data)
        if not data:
            self.ended = True
            self.pair.watch()

    def hand_on(self, data: bytes) -> None:
        self._unsent += data
        self._last = self._last or not data
        self.send()

    def send(self) -> None:
        if not self.pair.alive:
            return
        try:
            while self._unsent:
                del self._unsent[: self.sink.send(self._unsent)]
        except BlockingIOError:
            self._is_blocked(True)
        except OSError:
            self.pair.cut()
        else:
            self._is_blocked(False)
            if self._last:
                self.pair.cut()

    def _is_blocked(self, blocked: bool) -> None:
        if blocked != self.blocked:
            self.blocked = blocked
            self.pair.watch()


def _receive(source: socket.socket) -> tuple[bytes, float]:
    """Bytes, and when the kernel had them."""
    data, notes, _, _ = source.recvmsg(65536, 64)
    late = 0.0
    for _, _, stamp in notes:
        seconds, nanoseconds = struct.unpack("qq", stamp)
        late = time.time() - seconds - nanoseconds / 1e9
    return data, time.monotonic() - min(max(late, 0), 0.001)  # the wall clock may be a test's


def _wake_precisely() -> None:
    """Linux lets a thread oversleep by 50 microseconds, to save power; not this one."""
    if _LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """No core sleeps meanwhile: where they do, waking one up costs more than a round trip.

    For measuring. A core that has nothing else to do counts up; all other work goes before that.
    """
    code = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile 1: pass"
    command = [sys.executable, "-I", "-S", "-c", code]
    cores = len(os.sched_getaffinity(0)) if _LINUX else 0
    with contextlib.ExitStack() as stack:
        for _ in range(cores):
            stack.callback(servers.end, servers.spawn(command))
        yield


@contextlib.contextmanager
def before(port: int) -> Iterator[Proxy]:
    """A proxy for as long as the ``with`` block lasts."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
