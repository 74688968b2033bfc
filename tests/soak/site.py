"""The application's servers: gunicorn with forked workers, and with threads."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import psutil

from ..support.servers import end, free_port, spawn

PATIENCE = 20.0
LINES = 9
"""Of a traceback."""
ROOT = Path(__file__).parents[2]
FORKED = ("--worker-class", "sync", "--preload")
THREADED = ("--worker-class", "gthread", "--threads", "8")


@dataclass
class Site:
    """A running gunicorn."""

    port: int
    master: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return psutil.Process(self.master.pid).children()
        return []

    def kill_worker(self, dice: Random) -> None:
        """SIGKILL, in the middle of whatever it does."""
        if workers := self.workers():
            with suppress(psutil.NoSuchProcess):
                dice.choice(workers).kill()

    def reload(self) -> None:
        """SIGHUP: new workers, while the old ones finish what they have."""
        self.master.send_signal(signal.SIGHUP)

    def resident(self) -> int:
        """The largest resident set of a worker, in bytes."""
        sizes = [0]
        for worker in self.workers():
            with suppress(psutil.Error):
                sizes.append(worker.memory_info().rss)
        return max(sizes)

    def wait(self) -> None:
        """Until it answers."""
        give_up = time.monotonic() + PATIENCE
        while not self._answers():
            if self.master.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"gunicorn does not answer:\n{self.log.read_text()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with closing(asked), suppress(OSError):
            asked.request("POST", "/health")
            return asked.getresponse().status == 200
        return False

    def tracebacks(self) -> list[str]:
        """What workers have logged of exceptions, the last lines of each."""
        parts = self.log.read_text(errors="replace").split("Traceback (most recent call last):")
        return ["\n".join(_indented(part)[-LINES:]) for part in parts[1:]]

    def stop(self) -> None:
        self.master.terminate()
        try:
            self.master.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for worker in self.workers():
                worker.kill()
        finally:
            end(self.master)


def _indented(text: str) -> list[str]:
    """The lines of a traceback, up to that of the exception itself."""
    lines = text.strip("\n").splitlines()
    last = next((n for n, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return lines[: last + 1]


@contextmanager
def sites(workers: int, settings: Path, *, sabotage: str | None) -> Iterator[list[Site]]:
    """So many workers in all: half of them forked, half of them with threads.

    :param settings: the file that a worker reads when it starts, of the forked ones the master.
    """
    threaded = workers // 2
    environment = [f"SOAK={settings}", f"SOAK_SABOTAGE={sabotage or ''}"]
    kinds = [(workers - threaded, FORKED), (threaded, THREADED)]
    with ExitStack() as stack:
        started = [_start(n, kind, environment, settings.parent) for n, kind in kinds if n]
        for site in started:
            stack.callback(site.stop)
        for site in started:
            site.wait()
        yield started


def _start(workers: int, kind: tuple[str, ...], environment: list[str], folder: Path) -> Site:
    port = free_port()
    log = folder / f"gunicorn-{port}.log"
    # In a file and not an option: older versions of gunicorn do not know it, and skip it here.
    (folder / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    command = [sys.executable, "-m", "gunicorn", "tests.soak.app:make_app()"]
    command += ["--config", str(folder / "gunicorn.conf.py"), "--bind", f"127.0.0.1:{port}"]
    command += ["--chdir", str(ROOT), "--workers", str(workers), "--backlog", "1024", *kind]
    command += ["--timeout", "30", "--graceful-timeout", "10"]
    command += [word for variable in environment for word in ("--env", variable)]
    return Site(port, spawn(command, log), log)
