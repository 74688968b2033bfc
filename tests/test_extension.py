"""``SafeSession`` as an extension: set-up, several apps, signals, logs, Flask's own features."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import flask
import pytest
import redis
from flask import Flask, Response, stream_with_context
from flask.testing import FlaskClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

import flask_safesession
from flask_safesession import (
    ConfigError,
    SafeSession,
    SessionInfo,
    StoreFull,
    StoreUnavailable,
    session,
)
from flask_safesession.events import (
    session_created,
    session_ended,
    session_lost,
    session_merged,
    session_rejected,
    session_rotated,
    store_failed,
)
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from .support import servers
from .support.counting import CountingStore
from .support.kits import SERVERS

KEY = "a key for tests that is long enough"
LOGGER = "flask_safesession"
MEMORY = MemoryStore()
CLIENT = redis.Redis(port=1)


class MakeApp(Protocol):
    def __call__(self, **settings: Any) -> Flask: ...


def plain_app(name: str = "plain") -> Flask:
    app = Flask(name)
    app.secret_key = KEY
    app.config["SAFESESSION_CHECK_INTERVAL"] = None
    return with_views(app)


def with_views(app: Flask) -> Flask:
    @app.get("/put/<key>/<value>")
    def put(key: str, value: str) -> str:
        session[key] = value
        return "stored"

    @app.get("/all")
    def everything() -> dict[str, Any]:
        return dict(session)

    @app.get("/clear")
    def clear() -> str:
        session.clear()
        return "cleared"

    @app.get("/untouched")
    def untouched() -> str:
        return "nothing of the session"

    return app


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return with_views(make_app())


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


# -- set-up -------------------------------------------------------------------------------------


def test_init_app_installs_what_the_constructor_installs() -> None:
    for app, install in ((plain_app(), SafeSession), (plain_app(), SafeSession().init_app)):
        install(app)
        client = app.test_client()
        assert client.get("/put/a/1").headers["Set-Cookie"].startswith("session=")
        assert client.get("/all").json == {"a": "1"}
        assert "safesession" in app.cli.commands


def test_twice_on_one_app_is_refused_with_what_to_do() -> None:
    app = plain_app()
    safe = SafeSession(app)
    interface = app.session_interface
    for again in (lambda: safe.init_app(app), lambda: SafeSession(app)):
        with pytest.raises(ConfigError, match=r"'plain' has SafeSession already: make it once"):
            again()
    assert app.session_interface is interface


def test_an_app_goes_when_its_last_reference_goes() -> None:
    safe = SafeSession()
    app = plain_app()
    safe.init_app(app, check_interval="1h")
    client = app.test_client()
    for path in ("/put/a/1", "/all", "/clear", "/untouched"):
        assert client.get(path).status_code == 200
    gone = weakref.ref(app)
    gc.disable()
    try:
        del app, client
        assert gone() is None
    finally:
        gc.enable()
    with pytest.raises(RuntimeError):
        safe.count()


# -- several apps -------------------------------------------------------------------------------


def test_one_extension_serves_several_apps_with_sessions_of_their_own() -> None:
    safe = SafeSession()
    one, two = plain_app("one"), plain_app("two")
    safe.init_app(one)
    safe.init_app(two)
    client = one.test_client()
    client.get("/put/a/1")
    cookie = client.get_cookie("session")
    assert cookie is not None
    other = two.test_client()
    other.set_cookie("session", cookie.value)
    assert other.get("/all").json == {}
    with one.app_context():
        assert safe.count() == 1
    with two.app_context():
        assert safe.count() == 0


def test_count_and_purge_need_no_context_while_there_is_one_app() -> None:
    clock = FakeClock()
    app = plain_app()
    safe = SafeSession(app, store=MemoryStore(clock))
    app.test_client().get("/put/a/1")
    assert safe.count() == 1
    clock.advance(24 * 3_600_000)
    assert safe.count() == 0
    assert safe.purge() == (1, 0, 0)
    with app.app_context():
        assert safe.count() == 0
        assert safe.purge() == (0, 0, 0)


@pytest.mark.parametrize("method", ["count", "purge"])
def test_without_an_app_they_say_what_to_do(method: str) -> None:
    with pytest.raises(RuntimeError, match=r"has no app: call init_app\(app\) first"):
        getattr(SafeSession(), method)()


@pytest.mark.parametrize("method", ["count", "purge"])
def test_without_knowing_the_store_they_say_what_to_do(method: str) -> None:
    safe, apps = SafeSession(), [plain_app("one"), plain_app("two")]
    for app in apps:
        safe.init_app(app)
    message = r"several stores, of the apps 'one', 'two': use it inside app\.app_context\(\)"
    with pytest.raises(RuntimeError, match=message):
        getattr(safe, method)()


def test_two_apps_under_one_server_keep_apart_by_the_cookies_names() -> None:
    front, back = plain_app("front"), plain_app("back")
    front.config["SESSION_COOKIE_NAME"] = "front"
    back.config["SESSION_COOKIE_NAME"] = "back"
    back.config["SESSION_COOKIE_PATH"] = "/"
    safe = SafeSession()
    for app in (front, back):
        safe.init_app(app)
    client = Client(DispatcherMiddleware(front, {"/back": back}))
    client.get("/put/who/front")
    client.get("/back/put/who/back")
    assert client.get("/all").json == {"who": "front"}
    assert client.get("/back/all").json == {"who": "back"}
    client.get("/back/clear")
    assert client.get("/all").json == {"who": "front"}
    assert client.get("/back/all").json == {}


def test_two_apps_may_share_one_store() -> None:
    store, safe = MemoryStore(), SafeSession()
    one, two = plain_app("one"), plain_app("two")
    safe.init_app(one, store=store)
    safe.init_app(two, store=store)
    client = Client(DispatcherMiddleware(one, {"/two": two}))
    client.get("/put/a/1")
    assert client.get("/two/all").json == {"a": "1"}


@pytest.mark.parametrize(
    "places",
    [
        [MEMORY, MEMORY],
        ["memory://one", "memory://one"],
        ["redis://localhost:1/0", "redis://localhost:1/0"],
        [CLIENT, CLIENT],
    ],
    ids=["store", "name", "URL", "client"],
)
def test_with_one_store_no_context_is_needed_however_many_apps_there_are(places: list[Any]) -> None:
    safe, apps = SafeSession(), [plain_app("one"), plain_app("two")]
    for app, place in zip(apps, places, strict=True):
        safe.init_app(app, store=place)
    assert safe._state() == (apps[0], apps[0].extensions["safesession"])
    with apps[1].app_context():
        assert safe._state()[0] is apps[1]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"store": "memory://"}, {"store": "memory://"}),
        ({"store": "memory://one"}, {"store": "memory://two"}),
        ({"store": "memory://one"}, {"store": "memory://"}),
        ({"store": "redis://localhost:1/0"}, {"store": "redis://localhost:1/1"}),
        (
            {"store": CLIENT, "key_prefix": "one"},
            {"store": CLIENT, "key_prefix": "two"},
        ),
    ],
    ids=["memory", "names", "a name and none", "databases", "prefixes"],
)
def test_apps_with_a_store_each_need_a_context(one: dict[str, Any], two: dict[str, Any]) -> None:
    safe, apps = SafeSession(), [plain_app("one"), plain_app("two")]
    for app, settings in zip(apps, (one, two), strict=True):
        safe.init_app(app, **settings)
    with pytest.raises(RuntimeError, match="several stores"):
        safe.count()


def test_apps_of_one_process_share_a_store_in_memory_by_its_name() -> None:
    apps = [plain_app(name) for name in ("one", "two", "three")]
    for app, store in zip(apps, ["memory://shop", "memory://shop", "memory://"], strict=True):
        SafeSession(app, store=store)
    client = Client(DispatcherMiddleware(apps[0], {"/two": apps[1], "/three": apps[2]}))
    client.get("/put/a/1")
    assert client.get("/two/all").json == {"a": "1"}
    assert client.get("/three/all").json == {}


def test_a_store_in_memory_with_a_name_goes_with_the_last_app_that_has_it() -> None:
    one, two = plain_app("one"), plain_app("two")
    for app in (one, two):
        SafeSession(app, store="memory://shop")
    gone = weakref.ref(one.extensions["safesession"].store)
    gc.disable()
    try:
        del app, one
        assert gone() is not None
        del two
        assert gone() is None
    finally:
        gc.enable()


# -- no key, no store, no room ------------------------------------------------------------------


def test_without_a_secret_key_there_is_flasks_null_session(make_app: MakeApp) -> None:
    store = CountingStore()
    app = with_views(make_app(store=store))
    app.secret_key = None
    app.testing = True  # errors come through
    client = app.test_client()
    assert client.get("/all").json == {}
    with pytest.raises(RuntimeError, match="no secret key was set"):
        client.get("/put/a/1")
    assert store.take() == []


def test_an_app_starts_while_its_store_is_down_and_works_when_it_is_up(
    make_app: MakeApp, tmp_path: Path
) -> None:
    port = servers.free_port()
    app = with_views(make_app(store=f"redis://127.0.0.1:{port}/0", store_timeout="5s"))
    client = app.test_client()
    assert client.get("/untouched").status_code == 200
    failed = client.get("/put/a/1")
    assert failed.status_code == 503
    assert failed.headers["Retry-After"] == "5"
    assert "Set-Cookie" not in failed.headers
    server = servers.start(SERVERS[0], tmp_path, port=port)
    try:
        assert client.get("/put/a/1").status_code == 200
        assert client.get("/all").json == {"a": "1"}
    finally:
        app.extensions["safesession"].store.close()
        server.stop()


def test_an_app_whose_store_is_down_at_start_says_so_once(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    make_app(store=f"redis://127.0.0.1:{servers.free_port()}/0")
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("the session store does not answer (ConnectionError: ")


def test_a_full_store_that_rejects_answers_503_and_says_when_to_come_back(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = with_views(make_app(max_sessions=4, when_full="reject"))
    kept = [app.test_client() for _ in range(4)]
    for number, client in enumerate(kept):
        assert client.get(f"/put/a/{number}").status_code == 200
    rejected: list[Any] = []

    def receive(sender: Flask, event: Any) -> None:
        rejected.append((sender, event.reason, event.tier))

    with session_rejected.connected_to(receive):
        response = app.test_client().get("/put/a/5")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert "Set-Cookie" not in response.headers
    assert rejected == [(app, "full", "default")]
    assert [client.get("/all").json for client in kept] == [{"a": str(n)} for n in range(4)]


def test_an_app_may_have_a_page_of_its_own_for_a_full_store(make_app: MakeApp) -> None:
    app = with_views(make_app(max_sessions=2, when_full="reject"))

    @app.errorhandler(StoreFull)
    def full(error: StoreFull) -> tuple[str, int]:
        return f"all {error.limit} taken", 503

    for _ in range(2):
        app.test_client().get("/put/a/1")
    response = app.test_client().get("/put/a/1")
    assert (response.status_code, response.text) == (503, "all 2 taken")
    assert response.headers["Retry-After"] == "5"


# -- warnings -----------------------------------------------------------------------------------


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == LOGGER and r.levelno == logging.WARNING]


MANY = {"wsgi.multiprocess": True}


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({}, "memory://?per_process=yes"),
        ({"store": "memory://"}, "memory://?per_process=yes"),
        ({"store": "memory://shop"}, "memory://shop?per_process=yes"),
        ({"store": MEMORY, "on_outage": "readonly-anonymous"}, "memory://?per_process=yes"),
    ],
    ids=["default", "memory", "name", "store"],
)
def test_memory_under_several_processes_is_an_error_of_each_request_that_uses_the_session(
    settings: dict[str, Any], accepted: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = plain_app()
    app.register_error_handler(StoreUnavailable, lambda error: "no outage")
    app.add_url_rule("/exempt", "exempt", SafeSession.exempt(lambda: str(dict(session))))
    SafeSession(app, **settings)
    client = app.test_client()
    for path in ("/untouched", "/exempt"):
        assert client.get(path, environ_overrides=MANY).status_code == 200
    assert caplog.records == []
    for path in ("/all", "/all", "/put/a/1"):
        caplog.clear()
        response = client.get(path, environ_overrides=MANY)
        assert (response.status_code, response.headers.get("Set-Cookie")) == (500, None)
        [record] = caplog.records
        assert record.exc_info is not None
        text = str(record.exc_info[1])
        assert text.startswith("Sessions cannot be used:\n  - this server runs several processes")
        assert "to 'sqlite://'" in text
        assert f"or to {accepted!r} if" in text
    assert client.get("/put/a/1").status_code == 200


def test_a_view_that_ignores_that_memory_is_not_shared_reports_no_success() -> None:
    app = plain_app()
    app.testing = False

    @app.get("/ignore")
    def ignore() -> str:
        with contextlib.suppress(ConfigError):
            session["a"] = 1
        session["a"] = 1
        return "stored"

    SafeSession(app)
    assert app.test_client().get("/ignore", environ_overrides=MANY).status_code == 500


def test_each_process_may_have_sessions_of_its_own_if_the_app_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stores = ["memory://?per_process=yes", "memory://shop?per_process=yes", "memory://shop"]
    one, two, three = apps = [plain_app(name) for name in ("one", "two", "three")]
    for app, store in zip(apps, stores, strict=True):
        SafeSession(app, store=store)
    client = Client(DispatcherMiddleware(one, {"/two": two, "/three": three}))
    client.get("/put/a/1", environ_overrides=MANY)
    assert client.get("/all", environ_overrides=MANY).json == {"a": "1"}
    client.get("/two/put/b/2", environ_overrides=MANY)
    assert client.get("/three/all").json == {"b": "2"}
    assert [record for record in caplog.records if "several processes" in record.message] == []


def test_a_shared_store_under_several_processes_is_as_it_should_be(
    make_app: MakeApp, any_server: servers.Server, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = with_views(make_app(store=any_server.url, key_prefix=prefix, store_timeout="5s"))
    response = app.test_client().get("/put/a/1", environ_overrides=MANY)
    assert response.status_code == 200
    assert warnings_in(caplog) == []
    app.extensions["safesession"].store.close()


def test_a_store_at_four_fifths_of_its_cap_is_warned_about_once(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = with_views(make_app(max_sessions=20))

    def create(number: int) -> list[FlaskClient]:
        made = [app.test_client() for _ in range(number)]
        for client in made:
            client.get("/put/a/1")
        return made

    clients = create(15)
    assert warnings_in(caplog) == []
    clients += create(5)
    [warning] = warnings_in(caplog)
    assert "raise SAFESESSION_MAX_SESSIONS" in warning.getMessage()
    assert vars(warning)["sessions"] == 16
    assert vars(warning)["cap"] == 20

    for client in clients[:12]:
        client.get("/clear")
    create(1)  # 9 of 20: well under
    caplog.clear()
    create(7)
    [again] = warnings_in(caplog)
    assert vars(again)["sessions"] == 16


# -- signals and logs ---------------------------------------------------------------------------


@pytest.fixture
def heard() -> Iterator[list[tuple[Any, Any]]]:
    """Every signal that is sent during the test: sender and event."""
    found: list[tuple[Any, Any]] = []

    def receive(sender: Any, event: Any) -> None:
        found.append((sender, event))

    signals = (
        session_created,
        session_ended,
        session_lost,
        session_merged,
        session_rejected,
        session_rotated,
        store_failed,
    )
    for signal in signals:
        signal.connect(receive)
    yield found
    for signal in signals:
        signal.disconnect(receive)


def names(heard: list[tuple[Any, Any]]) -> list[str]:
    taken = [event.signal.name for _, event in heard]
    heard.clear()
    return taken


def test_the_life_of_a_session_is_told_with_the_app_as_sender(
    app: Flask, client: FlaskClient, heard: list[tuple[Any, Any]]
) -> None:
    client.get("/put/a/1")
    [(sender, created)] = heard
    assert sender is app
    assert names(heard) == ["session-created"]
    client.get("/put/a/2")
    client.get("/all")
    assert names(heard) == []
    client.get("/put/user_id/ann")
    [(sender, rotated)] = heard
    assert sender is app
    assert names(heard) == ["session-rotated"]
    assert rotated.old == created.handle
    assert rotated.handle != rotated.old
    client.get("/clear")
    [(sender, ended)] = heard
    assert sender is app
    assert names(heard) == ["session-ended"]
    assert (ended.handle, ended.reason, ended.tier) == (rotated.handle, "logout", "default")
    client.get("/clear")
    assert names(heard) == []


def test_signals_come_after_the_cookie(client: FlaskClient) -> None:
    order: list[str] = []

    class Watched(Response):
        def set_cookie(self, *args: Any, **kwargs: Any) -> None:
            order.append("cookie")
            super().set_cookie(*args, **kwargs)

    client.application.response_class = Watched

    def receive(sender: Flask, event: Any) -> None:
        order.append(event.signal.name)

    with session_created.connected_to(receive), session_rotated.connected_to(receive):
        client.get("/put/a/1")
        client.get("/put/user_id/ann")
    assert order == ["cookie", "session-created", "cookie", "session-rotated"]


def test_a_session_that_is_saved_twice_is_told_of_once(
    make_app: MakeApp, heard: list[tuple[Any, Any]]
) -> None:
    class Twice(Flask):
        """As Flask itself does when something fails after the first save."""

        def process_response(self, *args: Any) -> Response:
            super().process_response(*args)
            return super().process_response(*args)

    app = Twice("twice")
    app.secret_key = KEY
    store = CountingStore()
    SafeSession(with_views(app), store=store, check_interval=None)
    client = app.test_client()
    assert len(client.get("/put/a/1").headers.getlist("Set-Cookie")) == 1
    assert store.take() == ["create"]
    assert names(heard) == ["session-created"]
    store.failing = {"commit"}
    assert client.get("/put/a/2").status_code == 503
    assert store.take() == ["load", "commit"]
    assert names(heard) == ["store-failed"]


def test_a_receiver_may_use_the_session_and_harms_nobody_when_it_fails(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, heard: list[tuple[Any, Any]]
) -> None:
    def look(sender: Flask, event: Any) -> None:
        assert session["a"] == "1"
        assert session.info.handle == event.handle
        raise ZeroDivisionError

    with session_created.connected_to(look):
        response = client.get("/put/a/1")
    assert response.status_code == 200
    assert client.get("/all").json == {"a": "1"}
    [failure] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert failure.getMessage() == "a receiver of session-created failed"
    assert failure.exc_info is not None
    assert failure.exc_info[0] is ZeroDivisionError


# -- Flask's own features -----------------------------------------------------------------------


def test_the_typed_session_is_flasks_own_proxy(app: Flask) -> None:
    assert flask_safesession.session is flask.session
    with app.test_request_context():
        # mypy --strict reads this file: without our types, these lines would not pass it.
        info: SessionInfo = session.info
        assert info.new
        session.regenerate()
        session.invalidate()


def test_an_async_view_uses_the_session_as_any_other(app: Flask, client: FlaskClient) -> None:
    @app.get("/async/<value>")
    async def view(value: str) -> dict[str, Any]:
        before = list(session.get("seen", []))
        await asyncio.sleep(0)
        session.setdefault("seen", []).append(value)
        return {"before": before}

    assert client.get("/async/one").json == {"before": []}
    assert client.get("/async/two").json == {"before": ["one"]}
    assert client.get("/all").json == {"seen": ["one", "two"]}


def test_a_stream_may_be_the_first_to_look_at_the_session(
    make_app: MakeApp, heard: list[tuple[Any, Any]]
) -> None:
    store = CountingStore()
    app = with_views(make_app(store=store))

    @app.get("/stream")
    def stream() -> Response:
        def pages() -> Iterator[str]:
            yield session["a"]

        return Response(stream_with_context(pages()))

    client = app.test_client()
    client.get("/put/a/1")
    store.take()
    response = client.get("/stream")
    assert response.text == "1"
    assert store.take() == ["load"]


def test_a_tests_session_transaction_reads_and_writes(client: FlaskClient) -> None:
    with client.session_transaction() as before:
        before["a"] = "1"
    assert client.get("/all").json == {"a": "1"}
    client.get("/put/b/2")
    with client.session_transaction() as after:
        assert dict(after) == {"a": "1", "b": "2"}
        after.clear()
    assert client.get("/all").json == {}


def test_a_session_transaction_that_cannot_be_stored_raises(make_app: MakeApp) -> None:
    client = with_views(make_app()).test_client()
    with (
        pytest.raises(TypeError, match=r"session\[\"thing\"\]"),
        client.session_transaction() as data,
    ):
        data["thing"] = object()


def test_requests_in_threads_each_have_their_own_session(app: Flask) -> None:
    barrier = threading.Barrier(4)
    found: dict[int, list[Any]] = {}

    def browse(number: int) -> None:
        client = app.test_client()
        barrier.wait(20)
        client.get(f"/put/mine/{number}")
        found[number] = [client.get("/all").json for _ in range(5)]

    threads = [threading.Thread(target=browse, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == {n: [{"mine": str(n)}] * 5 for n in range(4)}
