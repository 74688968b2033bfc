"""The way of a request: what it costs, what the browser is told, what happens in an outage."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import flask
import pytest
from flask import Flask, flash, get_flashed_messages, stream_with_context
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_safesession import SafeSession, SessionTooLarge, StoreUnavailable, session
from flask_safesession.model.tokens import new_id, sign
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock
from flask_safesession.web.interface import SafeSessionInterface

from ..support.counting import CountingStore

MakeApp = Callable[..., Flask]


@pytest.fixture
def store(clock: FakeClock) -> CountingStore:
    return CountingStore(MemoryStore(clock))


@pytest.fixture
def app(make_app: MakeApp, store: CountingStore) -> Flask:  # noqa: C901  # a view a line
    app = make_app(store=store)

    @app.get("/untouched")
    def untouched() -> str:
        return "nothing of the session"

    @app.get("/read")
    def read() -> dict[str, Any]:
        return dict(session)

    @app.get("/set/<key>/<value>")
    def put(key: str, value: str) -> str:
        session[key] = value
        return "stored"

    @app.get("/append")
    def append() -> str:
        session.setdefault("cart", []).append("pear")
        return "stored"

    @app.get("/append-inside")
    def append_inside() -> str:
        session["cart"].append("pear")
        return "stored"

    @app.get("/drop/<key>")
    def drop(key: str) -> str:
        session.pop(key, None)
        return "dropped"

    @app.route("/login/<user>", methods=["GET", "POST"])
    def login(user: str) -> str:
        session["user_id"] = user
        return "in"

    @app.get("/logout")
    def logout() -> str:
        session.clear()
        return "out"

    @app.get("/leave")
    def leave() -> str:
        session.pop("user_id")
        return "out, with the cart"

    @app.get("/flash")
    def say() -> str:
        flash("hello")
        return "said"

    @app.get("/flashed")
    def said() -> list[Any]:
        return get_flashed_messages()

    @app.get("/permanent")
    def permanent() -> str:
        session.permanent = True
        return "kept"

    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def set_cookies(response: TestResponse) -> list[str]:
    return [c for c in response.headers.getlist("Set-Cookie") if c.startswith("session=")]


def cookie_of(client: FlaskClient) -> str | None:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else None


# -- the table of store calls -------------------------------------------------------------------


def test_a_request_that_does_not_use_the_session_costs_nothing(
    client: FlaskClient, store: CountingStore
) -> None:
    for prepare in ("/untouched", "/set/a/1"):
        client.get(prepare)
        store.take()
        response = client.get("/untouched")
        assert store.take() == []
        assert "Vary" not in response.headers
        assert not set_cookies(response)


@pytest.mark.parametrize(
    ("path", "calls"),
    [
        ("/read", ["load"]),
        ("/append", ["load", "commit"]),
        ("/append-inside", ["load", "commit"]),
        ("/set/cart/x", ["load", "commit"]),
        ("/login/1", ["load", "rotate"]),
        ("/logout", ["load", "end"]),
        ("/drop/nothing", ["load"]),
        ("/drop/cart", ["load", "commit"]),
        ("/permanent", []),
    ],
)
def test_each_kind_of_request_makes_exactly_its_store_calls(
    client: FlaskClient, store: CountingStore, path: str, calls: list[str]
) -> None:
    client.get("/append")
    assert store.take() == ["create"]
    client.get(path)
    assert store.take() == calls


# -- changes ------------------------------------------------------------------------------------


def test_changes_anywhere_inside_are_noticed(client: FlaskClient) -> None:
    client.get("/append")
    client.get("/append-inside")
    assert client.get("/read").json == {"cart": ["pear", "pear"]}


def test_modified_forces_a_write(app: Flask, client: FlaskClient, store: CountingStore) -> None:
    @app.get("/force")
    def force() -> str:
        session.modified = True
        return "written"

    client.get("/append")
    store.take()
    client.get("/force")
    assert store.take() == ["load", "commit"]


def test_assigning_the_same_value_writes_nothing(client: FlaskClient, store: CountingStore) -> None:
    client.get("/set/a/1")
    store.take()
    assert not set_cookies(client.get("/set/a/1"))
    assert store.take() == ["load"]


def test_the_cookie_is_set_only_when_the_browsers_must_change(client: FlaskClient) -> None:
    assert set_cookies(client.get("/append"))
    for path in ("/append", "/read", "/set/b/2"):
        assert not set_cookies(client.get(path))
    assert set_cookies(client.get("/login/1"))
    assert not set_cookies(client.get("/append"))


def test_a_login_that_is_written_again_after_the_view_is_still_one(
    app: Flask, client: FlaskClient, clock: FakeClock
) -> None:
    @app.after_request
    def again(response: Any) -> Any:
        session["user_id"] = session.get("user_id")
        return response

    client.post("/login/1")
    clock.advance(60_000)
    assert set_cookies(client.post("/login/1"))
    clock.advance(60_000)
    assert not set_cookies(client.get("/read"))


def test_a_change_of_tier_gives_a_new_id_and_keeps_the_age(make_app: MakeApp) -> None:
    app = make_app(expiry="tiered", tiers={"admin": {"lifetime": "1h"}})

    @app.get("/promote")
    def promote() -> str:
        session["_tier"] = "admin"
        return "up"

    @app.get("/login")
    def login() -> str:
        session["user_id"] = 1
        return "in"

    @app.get("/info")
    def info() -> dict[str, str]:
        return {"tier": session.info.tier, "created": str(session.info.created_at)}

    client = app.test_client()
    client.get("/login")
    first, before = cookie_of(client), client.get("/info").json
    client.get("/promote")
    after = client.get("/info").json
    assert cookie_of(client) != first
    assert before
    assert after
    assert (before["tier"], after["tier"]) == ("default", "admin")
    assert before["created"] == after["created"]


def test_logout_deletes_the_cookie_with_the_attributes_it_was_set_with(
    make_app: MakeApp,
) -> None:
    app = make_app()
    app.config.update(
        SESSION_COOKIE_NAME="__Host-s",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PARTITIONED=True,
    )

    @app.get("/in")
    def sign_in() -> str:
        session["a"] = 1
        return "in"

    @app.get("/out")
    def sign_out() -> str:
        session.clear()
        return "out"

    client = app.test_client()
    made = client.get("/in", base_url="https://localhost").headers["Set-Cookie"]
    gone = client.get("/out", base_url="https://localhost").headers["Set-Cookie"]
    for cookie in (made, gone):
        parts = set(cookie.split("; ")[1:])
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Strict", "Partitioned"} <= parts
    assert gone.startswith("__Host-s=;")
    assert "Max-Age=0" in gone


def test_the_last_flash_leaves_an_empty_session_and_the_browsers_cookie_as_it_was(
    client: FlaskClient, store: CountingStore, clock: FakeClock
) -> None:
    client.get("/flash")
    response = client.get("/flashed")
    assert response.json == ["hello"]
    assert not set_cookies(response)
    assert store.take() == ["create", "load", "commit"]
    assert client.get("/read").json == {}
    clock.advance(60_000)
    assert not set_cookies(client.get("/set/a/1"))
    assert client.get("/read").json == {"a": "1"}


def test_an_app_that_takes_out_its_last_key_has_the_cookie_deleted(
    app: Flask, client: FlaskClient, clock: FakeClock
) -> None:
    client.get("/append")
    (cookie,) = set_cookies(client.get("/drop/cart"))
    assert cookie.startswith("session=;")
    assert app.extensions["tested.safe"].count() == 1  # what is still in flight merges with it
    clock.advance(60_000)
    assert app.extensions["tested.safe"].count() == 0


def test_clear_and_then_write_is_a_new_session(app: Flask, client: FlaskClient) -> None:
    @app.get("/anew")
    def anew() -> dict[str, bool]:
        session.clear()
        session["a"] = 1
        return {}

    client.get("/append")
    first = cookie_of(client)
    client.get("/anew")
    second = cookie_of(client)
    assert client.get("/read").json == {"a": 1}
    assert first != second


# -- permanence and keys ------------------------------------------------------------------------


def test_a_permanent_sessions_cookie_outlasts_the_session(app: Flask, client: FlaskClient) -> None:
    @app.get("/stay")
    def stay() -> str:
        session.permanent = True
        session["a"] = 1
        return "kept"

    app.config["PERMANENT_SESSION_LIFETIME"] = 60
    (cookie,) = set_cookies(client.get("/stay"))
    assert "Max-Age=43200" in cookie  # the server's twelve hours, not the app's minute
    app.config["PERMANENT_SESSION_LIFETIME"] = 86_400
    (cookie,) = set_cookies(app.test_client().get("/stay"))
    assert "Max-Age=86400" in cookie


def test_a_change_of_permanence_changes_the_cookie(app: Flask, client: FlaskClient) -> None:
    @app.get("/stay/<int:stay>")
    def stay(stay: int) -> str:
        session.permanent = bool(stay)
        return str(session.get("a"))

    assert "Max-Age" not in set_cookies(client.get("/append"))[0]
    assert "Max-Age" in set_cookies(client.get("/stay/1"))[0]
    assert not set_cookies(client.get("/stay/1"))
    assert "Max-Age" not in set_cookies(client.get("/stay/0"))[0]


# -- what cannot be stored ----------------------------------------------------------------------


def test_what_cannot_be_stored_is_a_type_error_that_names_it(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    @app.get("/bad")
    def bad() -> str:
        session["cart"] = [{"price": object()}]
        return "stored?"

    client.get("/append")
    store.take()
    app.testing = True
    with pytest.raises(TypeError, match=r'session\["cart"\]\[0\]\["price"\]'):
        client.get("/bad")
    assert store.take() == ["load"]
    assert client.get("/read").json == {"cart": ["pear"]}

    app.testing = False
    response = client.get("/bad")
    assert response.status_code == 500
    assert not set_cookies(response)


def test_an_apps_handler_for_what_cannot_be_stored_is_used(app: Flask, client: FlaskClient) -> None:
    @app.get("/bad")
    def bad() -> str:
        session["bad"] = object()
        return "stored?"

    @app.errorhandler(TypeError)
    def own(error: TypeError) -> tuple[str, int]:
        return "own page", 422

    response = client.get("/bad")
    assert (response.status_code, response.text) == (422, "own page")


def test_a_session_that_is_too_large_is_refused_and_the_stored_one_stays(
    app: Flask, client: FlaskClient
) -> None:
    @app.get("/large")
    def large() -> str:
        session["large"] = "x" * 70_000
        return "stored?"

    @app.errorhandler(SessionTooLarge)
    def own(error: SessionTooLarge) -> tuple[str, int]:
        return f"{error.size} of {error.limit}", 413

    client.get("/append")
    response = client.get("/large")
    assert response.status_code == 413
    assert response.text.endswith("of 65536")
    assert client.get("/read").json == {"cart": ["pear"]}


# -- the store is down --------------------------------------------------------------------------


def test_a_failed_load_is_a_503_that_touches_no_cookie(
    client: FlaskClient, store: CountingStore
) -> None:
    client.get("/append")
    store.take()
    store.failing = {"load"}
    for path in ("/read", "/append", "/login/1", "/logout"):
        response = client.get(path)
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "5"
        assert not set_cookies(response)
        assert store.take() == ["load"]
    store.failing = set()
    assert client.get("/read").json == {"cart": ["pear"]}


@pytest.mark.parametrize(
    ("path", "operation"),
    [("/append", "commit"), ("/login/1", "rotate"), ("/logout", "end"), ("/drop/cart", "commit")],
)
def test_a_failed_save_is_a_503_once(
    client: FlaskClient, store: CountingStore, path: str, operation: str
) -> None:
    client.get("/append")
    store.take()
    store.failing = {operation}
    response = client.get(path)
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert "Service Unavailable" in response.text
    assert not response.headers.getlist("Set-Cookie")
    assert store.take() == ["load", operation]


def test_the_apps_own_page_is_used_for_failed_loads_and_failed_saves(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    @app.errorhandler(StoreUnavailable)
    def own(error: StoreUnavailable) -> tuple[str, int]:
        seen.append((str(error), dict(session)))  # an error page may look at the session
        return "back soon", 503

    client.get("/append")
    for operation in ("load", "commit"):
        store.failing = {operation}
        response = client.get("/append")
        assert (response.status_code, response.text) == (503, "back soon")
        assert response.headers["Retry-After"] == "5"
        assert not set_cookies(response)
    assert [reason for reason, _ in seen] == ["load is out of order", "commit is out of order"]
    assert seen[0][1] == {}


def test_an_error_page_cannot_claim_success_for_a_failed_save(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    @app.errorhandler(StoreUnavailable)
    def own(error: StoreUnavailable) -> str:
        return "forgot the status"

    client.get("/append")
    store.failing = {"commit"}
    response = client.get("/append")
    assert (response.status_code, response.text) == (503, "forgot the status")


def test_the_page_of_a_failed_save_keeps_security_headers_and_drops_what_was_of_the_other(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    closed: list[str] = []

    @app.get("/rich")
    def rich() -> Any:
        session["n"] = 1

        def body() -> Any:
            try:
                yield "half"
            finally:
                closed.append("body")

        response = app.response_class(body(), mimetype="text/csv")
        response.set_cookie("other", "1")
        response.headers["ETag"] = '"1"'
        response.headers["Content-Disposition"] = "attachment"
        response.call_on_close(lambda: closed.append("response"))
        next(response.response)  # type: ignore[call-overload]  # as a server would have begun
        return response

    @app.after_request
    def harden(response: Any) -> Any:
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    client.get("/append")
    store.failing = {"commit"}
    response = client.get("/rich")
    assert response.status_code == 503
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"
    assert response.mimetype == "text/html"
    for header in ("Set-Cookie", "ETag", "Content-Disposition"):
        assert header not in response.headers
    response.close()
    assert closed == ["body", "response"]


def test_an_error_page_after_a_good_save_carries_the_cookie(app: Flask) -> None:
    """Flask saves again while it builds the page for an exception that came after the save."""
    from flask import request_finished

    app.config["PROPAGATE_EXCEPTIONS"] = False

    def fail(sender: Flask, response: Any) -> None:
        if response.status_code == 200:
            raise ValueError("after the save")

    request_finished.connect(fail, app)
    client = app.test_client()
    response = client.get("/append")
    assert response.status_code == 500
    assert len(set_cookies(response)) == 1
    request_finished.disconnect(fail, app)
    assert client.get("/read").json == {"cart": ["pear"]}


def test_an_apps_own_cookies_of_the_name_do_not_stand_in_the_way(
    app: Flask, client: FlaskClient
) -> None:
    @app.get("/in")
    def sign_in() -> Any:
        session["user_id"] = 1
        response = app.make_response("in")
        response.delete_cookie("session", path="/old")
        return response

    lines = set_cookies(client.get("/in"))
    assert len(lines) == 2
    assert "Path=/old" in lines[0]
    assert client.get("/read").json == {"user_id": 1}


def test_modified_still_tells_after_the_response(app: Flask) -> None:
    with app.test_client() as client:
        client.get("/append")
        assert session.modified
        client.get("/read")
        assert not session.modified


def test_session_transaction_raises_what_a_visitor_would_get(
    client: FlaskClient, store: CountingStore
) -> None:
    store.failing = {"create"}
    with pytest.raises(StoreUnavailable), client.session_transaction() as transaction:
        transaction["a"] = 1


# -- threads of one request -----------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True], ids=["a load", "a load that fails"])
def test_threads_of_one_request_share_one_load_and_what_comes_of_it(
    app: Flask, client: FlaskClient, store: CountingStore, fails: bool
) -> None:
    another, load = threading.Event(), store.inner.load
    loads: list[int] = []

    def slow(*args: Any, **kwargs: Any) -> Any:
        loads.append(len(loads))
        if len(loads) > 1:
            another.set()
        another.wait(0.2)  # time for the other thread to ask, too, if it does
        if fails and loads[-1] == 0:
            raise StoreUnavailable("down")
        return load(*args, **kwargs)

    @app.get("/parallel")
    def parallel() -> str:
        mine, start = session._get_current_object(), threading.Barrier(2)  # type: ignore[attr-defined]

        def use(number: int) -> None:
            start.wait()
            with suppress(StoreUnavailable):
                mine[f"thread {number}"] = number

        threads = [threading.Thread(target=use, args=[n]) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return "stored"

    client.get("/append")
    store.inner.load = slow
    response = client.get("/parallel")
    assert len(loads) == 1
    store.inner.load = load
    data = client.get("/read").json
    if fails:
        assert response.status_code == 503
        assert data == {"cart": ["pear"]}
    else:
        assert response.status_code == 200
        assert data == {"cart": ["pear"], "thread 0": 0, "thread 1": 1}


# -- odd ways -----------------------------------------------------------------------------------


def test_a_write_after_the_headers_is_noticed(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/stream")
    def stream() -> Any:
        def body() -> Any:
            yield f"{session.get('cart')}"
            session["late"] = 1

        return app.response_class(stream_with_context(body()))

    client.get("/append")
    assert client.get("/stream").text == "['pear']"
    assert "before the stream begins" in caplog.text
    assert client.get("/read").json == {"cart": ["pear"]}


def save_by_hand(app: Flask) -> None:
    app.session_interface.save_session(app, flask.session, app.response_class())


def test_a_write_between_a_save_by_hand_and_the_response_is_stored_without_a_warning(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/twice")
    def twice() -> str:
        for key in ("first", "second"):
            session[key] = 1
            save_by_hand(app)
        session["third"] = 1
        return "stored"

    client.get("/twice")
    assert client.get("/read").json == {"first": 1, "second": 1, "third": 1}
    assert not caplog.records


def test_a_write_after_the_response_is_noticed_also_after_a_save_by_hand(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/stream")
    def stream() -> Any:
        session["early"] = 1
        save_by_hand(app)

        def body() -> Any:
            yield "begun"
            session["late"] = 1
            session["later"] = 1

        return app.response_class(stream_with_context(body()))

    assert client.get("/stream").text == "begun"
    [record] = caplog.records
    assert "after its response was built" in record.getMessage()
    assert client.get("/read").json == {"early": 1}


def test_another_extensions_session_is_left_alone(app: Flask, client: FlaskClient) -> None:
    interface = app.session_interface
    assert isinstance(interface, SafeSessionInterface)
    response = app.response_class()
    interface.save_session(app, interface.make_null_session(app), response)
    assert not response.headers.getlist("Set-Cookie")


def test_a_polling_view_does_not_keep_the_session_alive(
    make_app: MakeApp, clock: FakeClock
) -> None:
    app = make_app(store=MemoryStore(clock), idle_timeout="10m", touch_interval=0)
    safe: SafeSession = app.extensions["tested.safe"]

    @app.get("/poll")
    @safe.passive
    def poll() -> str:
        session["polled"] = session.get("polled", 0) + 1
        return "still here"

    @app.get("/use")
    def use() -> str:
        return str(session.setdefault("a", 1))

    client = app.test_client()
    client.get("/use")
    for _ in range(9):
        clock.advance(60_000)
        client.get("/poll")
    assert safe.count() == 1
    clock.advance(60_000)
    assert safe.count() == 0


def test_info_tells_what_is_known(app: Flask, client: FlaskClient) -> None:
    @app.get("/info")
    def info() -> dict[str, Any]:
        return session.info._asdict() | {"handle": session.info.handle}

    new = client.get("/info").json
    assert new == dict.fromkeys(new or {}, None) | {
        "new": True,
        "tier": "default",
        "current": False,
    }
    client.get("/login/7")
    known = client.get("/info").json
    assert known
    assert (known["user"], known["new"], known["tier"]) == ("7", False, "default")
    assert len(known["handle"]) == 18
    assert known["handle"] not in (cookie_of(client) or "")


@pytest.mark.parametrize(
    ("paths", "endpoint", "used"),
    [
        (["/append"], "append", False),
        (["/append", "/read"], "append", True),
        (["/append", "/login/7"], "append", False),
        (["/login/7", "/append", "/regenerate"], "login", True),
        (["/login/7", "/set/_tier/x"], "login", True),
        (["/login/7", "/logout", "/append"], "append", False),
        (["/login/7", "/anew"], "anew", False),
        (["/not-there"], None, False),
        (["/long"], "x" * 80, False),
    ],
)
def test_info_tells_where_the_session_was_created_and_whether_it_was_used_again(
    app: Flask,
    client: FlaskClient,
    clock: FakeClock,
    paths: list[str],
    endpoint: str | None,
    used: bool,
) -> None:
    app.add_url_rule("/regenerate", "regenerate", lambda: f"{session.regenerate()}")  # type: ignore[func-returns-value]
    app.add_url_rule("/long", "x" * 100, lambda: f"{session.update(a=1)}")
    app.register_error_handler(404, lambda error: (f"{session.update(a=1)}", 404))

    @app.get("/anew")
    def anew() -> str:
        session.clear()
        session["user_id"] = "8"
        return "another session"

    for path in paths:
        client.get(path)
        clock.advance(60_000)
    [info] = app.extensions["tested.safe"].browse().sessions
    assert (info.endpoint, info.used_again) == (endpoint, used)
    with client.session_transaction() as inside:
        assert inside.info.endpoint == endpoint  # type: ignore[attr-defined]


def test_a_session_that_no_request_created_and_one_that_stands_in_for_another(
    app: Flask, client: FlaskClient
) -> None:
    with client.session_transaction() as inside:
        inside["user_id"] = "7"
    known = app.extensions["tested.safe"].sessions_of("7")
    client.set_cookie("session", sign(new_id(), app.secret_key or ""))
    client.get("/append")
    assert [info.endpoint for info in known] == [None]
    assert [
        info.endpoint for info in app.extensions["tested.safe"].browse("anonymous").sessions
    ] == ["append"]


def test_an_exception_from_before_the_session_was_opened_stays_the_one_that_counts(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a time limit of greenlets raises it, wherever a request happens to be."""

    class OutOfTime(BaseException):
        pass

    def interrupted(*_: object) -> None:
        raise OutOfTime

    monkeypatch.setattr(app.session_interface, "open_session", interrupted)
    with pytest.raises(OutOfTime):
        client.get("/read")
