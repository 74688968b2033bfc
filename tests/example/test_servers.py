"""The application, served as the files of ``example/deploy`` say."""

from __future__ import annotations

import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.message import Message
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import psutil
import pytest

from ..support.servers import Certificates, end, free_port, poll, spawn

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "example" / "deploy"
GUNICORN = [sys.executable, "-m", "gunicorn", "--config", str(FOLDER / "gunicorn.conf.py")]
WORKERS = 3  # in the files
PATIENCE = 20
# Where Debian has servers, and not all shells look.
NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or ""
needs_nginx = pytest.mark.skipif(not NGINX, reason="not on this machine: nginx")


class Answer(NamedTuple):
    status: int
    headers: Message
    text: str


class Visitor:
    """Keeps its cookie. Each request has a connection of its own, and may be another worker's."""

    def __init__(self, connect: Callable[[], HTTPConnection]) -> None:
        self._connect = connect
        self._cookie = ""

    def get(self, path: str) -> Answer:
        return self._ask("GET", path, {})

    def sign_in(self, **headers: str) -> Answer:
        headers |= {"Content-Type": "application/x-www-form-urlencoded"}
        carl = urlencode({"username": "carl", "password": "sliding-door"})
        return self._ask("POST", "/sign-in", headers, carl)

    def _ask(self, method: str, path: str, headers: dict[str, str], body: str = "") -> Answer:
        way = self._connect()
        try:
            way.request(method, path, body, {"Cookie": self._cookie, **headers})
            response = way.getresponse()
            answer = Answer(response.status, response.headers, response.read().decode())
        finally:
            way.close()
        if cookie := answer.headers["Set-Cookie"]:
            self._cookie = cookie.partition(";")[0]
        return answer


def visitor_at(port: int) -> Visitor:
    return Visitor(lambda: HTTPConnection("127.0.0.1", port, timeout=PATIENCE))


Serve = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers; each has to serve at its port, and to end well at the end of the test."""
    monkeypatch.chdir(ROOT)
    settings = {
        "SECRET_KEY": "a key for tests that is long enough",
        "SAFESESSION_STORE": f"sqlite:///{tmp_path}/sessions.db",
        "TMPDIR": str(tmp_path),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)

    @contextmanager
    def running(name: str, command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
        log = tmp_path / f"{name}.log"
        server = spawn(command, log)

        def serves() -> bool:
            assert server.poll() is None, log.read_text()
            try:
                return visitor_at(port).get("/health").status < 500
            except OSError:
                return False

        try:
            poll(name, serves)
            yield server
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE) == 0, log.read_text()
            assert "Traceback" not in log.read_text()
        finally:
            end(server)

    with ExitStack() as all_servers:
        yield lambda *arguments: all_servers.enter_context(running(*arguments))


def assert_workers_share_sessions_and_metrics(server: subprocess.Popen[bytes], port: int) -> None:
    poll("all workers", lambda: len(psutil.Process(server.pid).children()) == WORKERS)
    visitor = visitor_at(port)
    assert visitor.sign_in().status == 303
    for _ in range(2 * WORKERS):
        desk = visitor.get("/desk")
        assert desk.status == 200, desk.text
        assert "Carl" in desk.text
        metrics = visitor.get("/metrics").text
        assert 'safesession_store_up{flask_app="example"} 1.0' in metrics
        assert re.search(r'safesession_creations_total\{.*tier="customer"\} 1\.0', metrics), metrics


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("", id="threads"),
        pytest.param("--threads 1", id="sync"),
        pytest.param("--preload", id="preload"),
        pytest.param("--worker-class gevent", id="gevent"),
        pytest.param("--worker-class gevent --preload", id="gevent and preload"),
    ],
)
def test_gunicorn_serves_the_application(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, options: str, tmp_path: Path
) -> None:
    port, config = free_port(), tmp_path / "gunicorn.conf.py"
    config.write_text((FOLDER / "gunicorn.conf.py").read_text("utf-8") + READY, "utf-8")
    monkeypatch.setenv("BIND", f"127.0.0.1:{port}")
    server = serve("gunicorn", [*GUNICORN[:-1], str(config), *options.split()], port)
    poll("all workers", lambda: len([*tmp_path.glob("ready-*")]) == WORKERS)
    assert_workers_share_sessions_and_metrics(server, port)


# A worker that is told to end before it listens to signals goes on.
READY = """

def post_worker_init(worker: Any) -> None:
    open(os.path.join(os.environ["TMPDIR"], f"ready-{worker.pid}"), "w").close()
"""


def test_uwsgi_serves_the_application(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(metrics))
    port, copy = free_port(), tmp_path / "uwsgi.ini"
    written = (FOLDER / "uwsgi.ini").read_text("utf-8")
    copy.write_text(written.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
    program = str(Path(sys.executable).with_name("uwsgi"))
    server = serve("uwsgi", [program, "--ini", str(copy)], port)
    assert_workers_share_sessions_and_metrics(server, port)
    assert (
        "purge job" not in (tmp_path / "uwsgi.log").read_text()
    )  # it would say that it cannot run


# -- behind nginx -------------------------------------------------------------------------------


class Front(NamedTuple):
    """An nginx with our file, and the ports in the place of those in it."""

    command: list[str]
    http: int
    https: int
    app: int


@pytest.fixture
def front(tmp_path: Path) -> Front:
    http, https, app = (free_port() for _ in range(3))
    Certificates.make(tmp_path)
    site = (FOLDER / "nginx.conf").read_text("utf-8")
    for written, instead in {
        "/etc/ssl/quayside.": f"{tmp_path}/server.",
        "listen 80;": f"listen 127.0.0.1:{http};",
        "listen 443 ssl;": f"listen 127.0.0.1:{https} ssl;",
        "127.0.0.1:8000": f"127.0.0.1:{app}",
    }.items():
        assert written in site
        site = site.replace(written, instead)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    path = tmp_path / "nginx.conf"
    path.write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off;\n{folders}{site} }}\n"
    )
    return Front([NGINX, "-e", "stderr", "-c", str(path)], http, https, app)


@needs_nginx
def test_nginx_accepts_its_file(front: Front) -> None:
    command = [*front.command, "-t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


@needs_nginx
def test_behind_nginx_the_application_knows_the_visitors_address_and_that_it_is_https(
    serve: Serve, front: Front, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = {"BIND": f"127.0.0.1:{front.app}", "PROXIES": "1", "WEB_CONCURRENCY": "1"}
    environment["FLASK_SESSION_COOKIE_SECURE"] = "true"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    serve("gunicorn", GUNICORN, front.app)
    serve("nginx", front.command, front.http)
    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    elsewhere: dict[str, Any] = {"source_address": ("127.0.0.2", 0), "timeout": PATIENCE}
    visitor = Visitor(
        lambda: HTTPSConnection("127.0.0.1", front.https, context=trusted, **elsewhere)
    )
    origin = f"https://127.0.0.1:{front.https}"
    signed_in = visitor.sign_in(**{"Origin": origin, "X-Forwarded-For": "6.6.6.6"})
    assert signed_in.status == 303, signed_in.text
    assert "; Secure;" in signed_in.headers["Set-Cookie"]
    assert signed_in.headers["Cache-Control"] == "no-store"
    devices = visitor.get("/devices").text
    assert "from 127.0.0.2" in devices
    assert "6.6.6.6" not in devices
    assert [visitor.get("/metrics").status, visitor_at(front.app).get("/metrics").status] == [
        404,
        200,
    ]
    assert visitor_at(front.http).get("/cart").headers["Location"] == "https://127.0.0.1/cart"
