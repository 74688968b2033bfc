"""The example, through its pages: what a visitor sees is what SafeSession promises."""

import doctest
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

import psutil
import pytest
from flask import Flask
from flask.cli import ScriptInfo
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import example.environment
import example.furniture
import example.watch
from example import create_app
from example.people import DEMO_PASSWORDS
from example.sessions import safe
from flask_safesession import StoreUnavailable
from flask_safesession.heartbeat import TEXTS
from flask_safesession.model.policy import as_datetime
from flask_safesession.stores.base import UserStore
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support import servers
from ..support.counting import PlainStore

pytestmark = pytest.mark.usefixtures("cheap_passwords")
Wait = Callable[[int], None]

PEOPLE = {"teller": "tess", "admin": "ada", "customer": "carl"}
STORE_CALLS = ("load", "create", "commit", "rotate", "end", "purge", "count")
INLINE_OR_FOREIGN = r"""<style|<script>|\s(style|on\w+)=|=["']?(https?:)?//"""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SAFESESSION_", "FLASK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SECRET_KEY", "a secret that only these tests know")


@pytest.fixture
def wait(clock: FakeClock) -> Wait:
    """Let so many seconds pass."""
    return lambda seconds: clock.advance(seconds * 1000)


@pytest.fixture
def app(store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Flask:
    monkeypatch.setattr(example.watch, "clock", lambda: as_datetime(clock()))
    return create_app(store=store, check_interval=None)


@pytest.fixture
def visitor(app: Flask) -> Iterator[FlaskClient]:
    with app.test_client() as client:
        yield client


@pytest.fixture
def outage(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it, and every call to the store fails; or name the calls that fail."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise StoreUnavailable("unplugged by a test")

    def begin(*calls: str) -> None:
        for call in calls or STORE_CALLS:
            monkeypatch.setattr(store, call, refuse)

    return begin


def sign_in(client: FlaskClient, tier: str) -> TestResponse:
    form = {"username": PEOPLE[tier], "password": DEMO_PASSWORDS[PEOPLE[tier]]}
    return client.post("/sign-in", data=form)


def put(client: FlaskClient, sku: str, change: str = "add") -> TestResponse:
    return client.post(f"/cart/{sku}", data={"change": change})


def quantities(client: FlaskClient) -> list[int]:
    return [int(n) for n in re.findall(r"Quantity: </span>(\d+)", client.get("/cart").text)]


def watch(client: FlaskClient) -> dict[str, Any]:
    answer = client.get("/session/watch").json
    assert isinstance(answer, dict)
    return answer


def cookie(client: FlaskClient) -> str | None:
    found = client.get_cookie("session")
    return found.value if found else None


# Signing in, and the three ways to end


@pytest.mark.parametrize(
    ("tier", "seconds", "rule"),
    [
        ("teller", 300, "It ends 5 minutes after it began, used or not."),
        (
            "admin",
            600,
            "It ends after 10 minutes without use, and at the latest 1 hour after it began.",
        ),
        (
            "customer",
            1800,
            "It ends after 30 minutes without use, and at the latest 12 hours after it began.",
        ),
    ],
)
def test_each_tier_shows_its_own_limits(
    visitor: FlaskClient, tier: str, seconds: int, rule: str
) -> None:
    assert sign_in(visitor, tier).location == "/desk"
    assert visitor.get("/desk").status_code == 200
    assert rule in visitor.get("/session").text
    facts = watch(visitor)
    assert (facts["tier"], facts["user"]) == (tier, PEOPLE[tier])
    assert facts["left"] == facts["span"] == seconds


def test_a_teller_is_out_after_five_minutes_however_busy(visitor: FlaskClient, wait: Wait) -> None:
    sign_in(visitor, "teller")
    for _ in range(4):
        wait(60)
        visitor.post("/session/use")
    facts = watch(visitor)
    assert (facts["left"], facts["span"]) == (60, 300)
    wait(60)
    assert watch(visitor) == {"alive": False}
    assert visitor.get("/desk").location == "/sign-in"


def test_who_was_signed_out_is_told_why_where_to_sign_in(
    app: Flask, visitor: FlaskClient, wait: Wait
) -> None:
    def notes(path: str) -> list[str]:
        page = visitor.get(path, follow_redirects=True).text
        return re.findall(r'<p class="note" role="status">(.*?)</p>', page)

    assert notes("/sign-in") == []
    sign_in(visitor, "customer")
    with app.app_context():
        safe.end_user(PEOPLE["customer"])
    assert notes("/desk") == [TEXTS["revoked"]]
    sign_in(visitor, "customer")
    wait(31 * 60)
    assert notes("/desk") == [TEXTS["idle"]]
    sign_in(visitor, "customer")
    assert notes("/sign-in") == []


def test_a_wrong_password_signs_nobody_in_and_stores_nothing(
    app: Flask, visitor: FlaskClient
) -> None:
    for username in ("tess", "nobody"):
        response = visitor.post("/sign-in", data={"username": username, "password": "guess"})
        assert response.status_code == 401
        assert "do not belong together" in response.text
    with app.app_context():
        assert safe.count() == 0


# The cart


def test_the_cart_is_changed_where_it_stands(visitor: FlaskClient) -> None:
    for sku in ("mug", "bell", "mug", "mug"):
        put(visitor, sku)
    assert quantities(visitor) == [3, 1]
    put(visitor, "mug", "take")
    put(visitor, "bell", "drop")
    assert quantities(visitor) == [2]
    assert "€29.00" in visitor.get("/cart").text


def test_nobody_carries_more_than_twenty_of_one(visitor: FlaskClient) -> None:
    for _ in range(22):
        put(visitor, "rope")
    assert quantities(visitor) == [20]


@pytest.mark.parametrize(("sku", "change"), [("yacht", "add"), ("mug", "steal")])
def test_what_the_shop_does_not_have_is_not_found(
    visitor: FlaskClient, sku: str, change: str
) -> None:
    assert put(visitor, sku, change).status_code == 404


def test_the_cart_survives_sign_in_under_a_new_id(visitor: FlaskClient) -> None:
    put(visitor, "lantern")
    put(visitor, "lantern")
    stranger = cookie(visitor)
    sign_in(visitor, "customer")
    assert cookie(visitor) != stranger
    assert quantities(visitor) == [2]
    assert "Thank you" in visitor.post("/order", follow_redirects=True).text
    assert quantities(visitor) == []


def test_a_cart_is_not_handed_to_the_next_person(visitor: FlaskClient) -> None:
    put(visitor, "lantern")
    sign_in(visitor, "teller")
    sign_in(visitor, "customer")
    assert quantities(visitor) == []
    assert watch(visitor)["user"] == "carl"


def test_a_stranger_signs_in_before_ordering(visitor: FlaskClient) -> None:
    put(visitor, "lantern")
    assert visitor.post("/order").location == "/sign-in"
    assert "Your cart comes along" in visitor.get("/sign-in").text


# The session's own page


@pytest.mark.parametrize("page", ["/", "/cart", "/sign-in", "/session", "/session/watch", "/desk"])
def test_looking_around_stores_nothing(app: Flask, visitor: FlaskClient, page: str) -> None:
    response = visitor.get(page)
    assert "Set-Cookie" not in response.headers
    with app.app_context():
        assert safe.count() == 0


def test_a_stranger_has_a_short_session_of_the_tier_for_strangers(visitor: FlaskClient) -> None:
    assert "You have none" in visitor.get("/session").text
    visitor.post("/session/use")
    facts = watch(visitor)
    assert (facts["tier"], facts["user"], facts["left"]) == ("anonymous", None, 900)


def test_the_footer_counts_live_sessions_against_the_cap(visitor: FlaskClient) -> None:
    put(visitor, "mug")
    assert "1 live, 5,000 at most" in visitor.get("/").text


def test_only_the_admin_removes_what_is_due(app: Flask, visitor: FlaskClient, wait: Wait) -> None:
    put(app.test_client(), "mug")
    wait(899)
    assert visitor.post("/purge").status_code == 403
    sign_in(visitor, "customer")
    assert visitor.post("/purge").status_code == 403
    sign_in(visitor, "admin")
    wait(1)
    assert "removed: 1." in visitor.post("/purge", follow_redirects=True).text


# Protection


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "null", "Host": "["},
        {"Origin": "http://["},  # parsers of addresses raise on these
        {"Origin": "http://a]b"},
    ],
)
def test_a_form_sent_by_another_site_is_refused(
    visitor: FlaskClient, headers: dict[str, str]
) -> None:
    sign_in(visitor, "customer")
    assert visitor.post("/sign-out", headers=headers).status_code == 403
    assert watch(visitor)["alive"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://behind-a-proxy"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {},
    ],
)
def test_our_own_forms_and_curl_are_served(visitor: FlaskClient, headers: dict[str, str]) -> None:
    sign_in(visitor, "customer")
    assert visitor.post("/sign-out", headers=headers).status_code == 303
    assert watch(visitor) == {"alive": False}


def test_pages_keep_the_content_security_policy_that_they_send(visitor: FlaskClient) -> None:
    sign_in(visitor, "customer")
    put(visitor, "mug")
    for page in ("/", "/cart", "/sign-in", "/session", "/desk", "/nowhere"):
        response = visitor.get(page)
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert response.headers["Cache-Control"] == "no-store"
        assert not re.search(
            r"""<style|<script>|\s(style|on\w+)=|=["']?(https?:)?//""", response.text
        )


# When the store is away


def test_when_the_store_cannot_be_read_a_page_says_so_and_nobody_is_signed_out(
    visitor: FlaskClient, outage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(visitor, "customer")
    outage()
    for page in ("/", "/session", "/desk"):
        response = visitor.get(page)
        assert response.status_code == 503
        assert "You have not been signed out" in response.text
        assert "Sign in" not in response.text
        assert "Retry-After" in response.headers
        assert "Set-Cookie" not in response.headers
    monkeypatch.undo()
    assert watch(visitor)["user"] == "carl"


def test_when_the_store_cannot_be_written_the_same_page_says_so(
    visitor: FlaskClient, outage: Any
) -> None:
    put(visitor, "mug")
    outage("commit")
    response = put(visitor, "mug")
    assert response.status_code == 503
    assert "send it again" in response.text
    assert "Retry-After" in response.headers
    assert quantities(visitor) == [1]


def test_strangers_look_around_while_the_store_is_away(visitor: FlaskClient, outage: Any) -> None:
    outage()
    for page in ("/", "/cart", "/sign-in", "/session"):
        response = visitor.get(page)
        assert response.status_code == 200
        assert "live count unknown, 5,000 at most" in response.text


def test_what_a_store_cannot_do_without_an_index_is_not_offered(store: MemoryStore) -> None:
    app = create_app(store=PlainStore(store, UserStore), check_interval=None)
    ada = app.test_client()
    form = {"username": "ada", "password": DEMO_PASSWORDS["ada"]}
    desk = ada.post("/sign-in", data=form, follow_redirects=True).text
    assert "live count unknown" in desk
    for wrong in ("at most", "At most", "Remove what is due", "A job removes"):
        assert wrong not in desk
    assert ada.get("/control/?q=Ada+Minh").status_code == 200


def test_health_check_styles_and_unknown_pages_do_not_need_the_store(
    visitor: FlaskClient, outage: Any
) -> None:
    sign_in(visitor, "customer")
    outage()
    for page, status in (("/health", 200), ("/static/style.css", 200), ("/nowhere", 404)):
        with visitor.get(page) as response:
            assert response.status_code == status
            assert "Cookie" not in response.headers.get("Vary", "")


# Starting it


def test_flask_finds_the_factory_and_nothing_needs_to_be_configured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    app = ScriptInfo(app_import_path="example").load_app()
    assert len(app.secret_key or "") == 64
    assert "SECRET_KEY is not set" in caplog.text


def test_with_sqlite_the_footer_says_so_and_the_key_is_kept_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("SAFESESSION_STORE", "sqlite://")
    monkeypatch.setattr(Flask, "auto_find_instance_path", lambda _: str(tmp_path / "instance"))
    first, second = create_app(check_interval=None), create_app(check_interval=None)
    assert first.secret_key == second.secret_key
    assert stat.S_IMODE((tmp_path / "instance/secret_key").stat().st_mode) == 0o600
    assert "SECRET_KEY is not set" not in caplog.text
    one, two = first.test_client(), second.test_client()
    sign_in(one, "customer")
    two.set_cookie("session", one.get_cookie("session").value)  # type: ignore[union-attr]
    page = two.get("/desk").text
    assert "Sign out" in page
    assert "Sessions in <b>sqlite</b>: 1 live" in page
    for app in (first, second):
        app.extensions["safesession"].store.close()


def test_with_sqlite_a_saved_file_under_debug_signs_nobody_out(tmp_path: Path) -> None:
    shutil.copytree(Path(example.__file__).parent, tmp_path / "example")
    port = servers.free_port()
    path = [str(tmp_path), str(Path(example.__file__).parents[1])]
    environ = {"SAFESESSION_STORE": "sqlite://", "PYTHONPATH": os.pathsep.join(path)}
    unset = ("SECRET_KEY", "SAFESESSION_STORE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-m", "flask", "--app", "example", "run", "--debug"]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=tmp_path,
        env=kept | environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            browser = Browser(f"http://127.0.0.1:{port}")
            before = served_by(process.pid, browser)
            browser.open("/sign-in", username="carl", password=DEMO_PASSWORDS["carl"])
            assert ">Sign out<" in browser.open("/desk")
            (tmp_path / "example/shop.py").touch()
            assert served_by(process.pid, browser, other_than=before) != before
            assert ">Sign out<" in browser.open("/desk")
        finally:
            os.killpg(process.pid, signal.SIGKILL)


class Browser:
    """A visitor with cookies, of a server in another process."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._opener = build_opener(HTTPCookieProcessor())

    def open(self, page: str, **form: str) -> str:
        data = urlencode(form).encode() if form else None
        with self._opener.open(Request(self._base + page, data), timeout=30) as response:
            text: str = response.read().decode()
            return text


def served_by(parent: int, browser: Browser, other_than: set[int] | None = None) -> set[int]:
    """The child that serves requests, once there is one."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        children = {child.pid for child in psutil.Process(parent).children()}
        if children and children != other_than:
            with suppress(OSError):
                browser.open("/health")
                return children
        time.sleep(0.05)
    raise AssertionError("the server does not answer")


def test_the_environment_configures_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESESSION_STORE", "")  # as in a compose file: not set
    monkeypatch.setenv("SAFESESSION_MAX_SESSIONS", "7")
    monkeypatch.setenv("SAFESESSION_CHECK_INTERVAL", "null")
    monkeypatch.setenv("SAFESESSION_TIERS", '{"teller": {"lifetime": "90s"}}')
    visitor = create_app().test_client()
    sign_in(visitor, "teller")
    page = visitor.get("/session").text
    assert "It ends 90 seconds after it began" in page
    assert "7 at most" in page
    assert 89 < watch(visitor)["left"] <= 90


@pytest.mark.parametrize("module", [example.environment, example.furniture])
def test_the_examples_in_docstrings_are_true(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed
