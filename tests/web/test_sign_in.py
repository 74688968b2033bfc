"""What counts as a sign-in, and what a sign-in does: a new ID, both clocks anew, freshness."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from flask_safesession import SafeSession, session
from flask_safesession.errors import NotFresh
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

MINUTE = 60_000
MakeApp = Callable[..., Flask]


def put(key: str, value: object) -> str:
    session[key] = value
    return ""


def json_of(client: FlaskClient, path: str, **request: Any) -> Any:
    return client.get(path, **request).json


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


@pytest.fixture
def app(make_app: MakeApp, store: MemoryStore) -> Flask:
    app = make_app(store=store, user_key=("user_id", "userinfo.sub"), lifetime="1h")
    add_sign_ins(app)
    add_pages(app)
    return app


def add_sign_ins(app: Flask) -> None:
    @app.before_request
    def proxy() -> None:
        if user := request.headers.get("X-Remote-User"):
            session["user_id"] = user

    @app.route("/in/<user>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    def sign_in(user: str) -> str:
        session["user_id"] = user
        return ""

    @app.route("/idp/<sub>", methods=["GET", "POST"])
    def callback(sub: str) -> str:
        session["userinfo"] = {"sub": sub, "exp": request.args.get("exp", 1)}
        if "confirm" in request.args:
            session.confirm_sign_in()
        return ""

    @app.route("/again/<user>", methods=["GET", "POST"])
    def again(user: str) -> str:
        session.clear()
        session["user_id"] = user
        return ""

    @app.get("/confirm")
    def confirm() -> str:
        session.confirm_sign_in()
        return ""


def add_pages(app: Flask) -> None:
    safe: SafeSession = app.extensions["tested.safe"]

    app.add_url_rule("/set/<key>", "put", lambda key: put(key, 1))

    @app.get("/number")
    def number() -> str:
        session["user_id"] = 7
        return ""

    @app.get("/new-id")
    def new_id() -> str:
        session.regenerate()
        return ""

    @app.get("/read")
    def read() -> dict[str, Any]:
        return {"user": session.info.user, "data": dict(session)}

    @app.get("/pay")
    @safe.fresh(within="5m")
    def pay() -> str:
        return "paid"


def is_sign_in(client: FlaskClient, clock: FakeClock, act: Callable[[], Any]) -> bool:
    """Whether *act* gave another ID and made the session fresh; never the one without the other."""
    clock.advance(10 * MINUTE)
    before = cookie_of(client)
    assert client.get("/pay").status_code == 403
    assert act().status_code == 200
    changed, fresh = cookie_of(client) != before, client.get("/pay").status_code == 200
    assert changed == fresh
    return changed


def member(app: Flask, path: str = "/in/ann") -> FlaskClient:
    client = app.test_client()
    client.get("/set/cart")
    before = cookie_of(client)
    client.get(path)
    assert cookie_of(client) != before
    return client


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_the_same_user_assigned_by_the_view_of_an_unsafe_request_signs_in(
    app: Flask, clock: FakeClock, method: str
) -> None:
    client = member(app)
    assert is_sign_in(client, clock, lambda: client.open("/in/ann", method=method))


def test_the_same_user_assigned_by_the_view_of_a_get_does_not(app: Flask, clock: FakeClock) -> None:
    client = member(app)
    assert not is_sign_in(client, clock, lambda: client.get("/in/ann"))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_same_user_assigned_before_each_request_does_not(
    app: Flask, clock: FakeClock, method: str
) -> None:
    headers = {"X-Remote-User": "ann"}
    client = app.test_client()
    client.get("/set/cart", headers=headers)
    path = "/idp/x" if method == "POST" else "/set/more"
    assert not is_sign_in(client, clock, lambda: client.open(path, method=method, headers=headers))


def test_the_same_user_assigned_on_each_request_extends_neither_lifetime_nor_freshness(
    app: Flask, clock: FakeClock
) -> None:
    headers = {"X-Remote-User": "ann"}
    client = app.test_client()
    client.get("/set/cart", headers=headers)
    ids = {cookie_of(client)}
    for _ in range(3):
        clock.advance(19 * MINUTE)
        assert "cart" in json_of(client, "/read", headers=headers)["data"]
        assert client.get("/pay", headers=headers).status_code == 403
        ids.add(cookie_of(client))
    assert len(ids) == 1
    clock.advance(3 * MINUTE)
    assert "cart" not in json_of(client, "/read", headers=headers)["data"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_user_always_signs_in(app: Flask, clock: FakeClock, method: str) -> None:
    client = member(app)
    assert is_sign_in(client, clock, lambda: client.open("/in/bob", method=method))


def test_a_user_who_is_written_otherwise_is_the_same(app: Flask, clock: FakeClock) -> None:
    client = app.test_client()
    client.get("/in/7")
    assert not is_sign_in(client, clock, lambda: client.get("/number"))


def test_a_container_with_the_same_user_does_not(app: Flask, clock: FakeClock) -> None:
    client = member(app, "/idp/ann")
    assert not is_sign_in(client, clock, lambda: client.post("/idp/ann?exp=2"))
    assert is_sign_in(client, clock, lambda: client.get("/idp/bob"))


def test_a_confirmed_sign_in_counts_in_a_get_too(app: Flask, clock: FakeClock) -> None:
    client = member(app, "/idp/ann")
    assert is_sign_in(client, clock, lambda: client.get("/idp/ann?confirm=1"))
    assert is_sign_in(client, clock, lambda: client.get("/confirm"))


def test_nobody_cannot_be_confirmed(app: Flask) -> None:
    app.testing = True
    with pytest.raises(RuntimeError, match="assign the user key before it"):
        app.test_client().get("/confirm")


def test_a_clear_and_then_the_same_user_is_a_sign_in(app: Flask, clock: FakeClock) -> None:
    client = member(app)
    assert is_sign_in(client, clock, lambda: client.get("/again/ann"))
    assert json_of(client, "/read")["data"] == {"user_id": "ann"}


def test_a_second_sign_in_within_a_minute_counts_once_and_is_warned_of_once(
    app: Flask, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    client = member(app)
    first = cookie_of(client)
    for _ in range(3):
        client.post("/in/ann")
    assert cookie_of(client) == first
    assert sum("confirm_sign_in" in line for line in caplog.messages) == 1
    clock.advance(MINUTE)
    client.post("/in/ann")
    assert cookie_of(client) != first


def test_regenerate_gives_a_new_id_and_nothing_else(app: Flask, clock: FakeClock) -> None:
    client = member(app)
    clock.advance(10 * MINUTE)
    before = cookie_of(client)
    client.get("/new-id")
    assert cookie_of(client) != before
    assert client.get("/pay").status_code == 403
    clock.advance(29 * MINUTE)
    assert json_of(client, "/read")["user"] == "ann"
    clock.advance(22 * MINUTE)
    assert json_of(client, "/read")["user"] is None


def test_a_sign_in_restarts_both_clocks(app: Flask, clock: FakeClock) -> None:
    client = member(app)
    for _ in range(6):
        clock.advance(20 * MINUTE)
        client.post("/in/ann")
    assert json_of(client, "/read")["user"] == "ann"


def test_what_is_not_fresh_says_what_was_assigned(app: Flask) -> None:
    found: list[NotFresh] = []

    @app.errorhandler(NotFresh)
    def note(error: NotFresh) -> tuple[str, int]:
        found.append(error)
        return "", 403

    headers = {"X-Remote-User": "ann"}
    client = app.test_client()
    store = app.extensions["safesession"].store
    client.get("/set/cart", headers=headers)
    store.tables.clock.advance(10 * MINUTE)
    assert client.get("/pay", headers=headers).status_code == 403
    assert found[0].assigned == "user_id"
    assert "session['user_id']" in str(found[0])
    assert "confirm_sign_in()" in str(found[0])
    assert client.get("/pay").status_code == 403
    assert "user_id" not in str(found[1])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"sub": "x", "name": "y"}, "'user.sub'"),
        ([1, 2], "a list"),
        (True, "True"),
        ((1,), "a tuple"),
    ],
)
def test_what_cannot_be_a_user_is_refused_with_the_fix(
    make_app: MakeApp, value: object, says: str
) -> None:
    app = make_app(user_key="user")
    app.testing = True
    app.add_url_rule("/in", "in", lambda: put("user", value))
    with pytest.raises(TypeError, match="cannot name a user") as error:
        app.test_client().get("/in")
    assert says in str(error.value)
    assert "session['user']" in str(error.value)


@pytest.mark.parametrize("value", ["", None, False])
def test_an_empty_user_is_nobody_and_ends_the_users_session(
    make_app: MakeApp, value: object
) -> None:
    app = make_app()
    app.add_url_rule("/in", "in", lambda: put("cart", put("user_id", "ann")))
    app.add_url_rule("/out", "out", lambda: put("user_id", value))
    app.add_url_rule("/read", "read", lambda: {"user": session.info.user})
    client = app.test_client()
    client.get("/in")
    old = app.test_client()
    old.set_cookie("session", cookie_of(client))
    client.get("/out")
    assert json_of(client, "/read") == old.get("/read").json == {"user": None}
    assert app.extensions["tested.safe"].sessions_of("ann") == []


def test_zero_is_a_user(make_app: MakeApp) -> None:
    app = make_app()
    app.add_url_rule("/in", "in", lambda: put("user_id", 0))
    client = app.test_client()
    client.get("/in")
    safe = app.extensions["tested.safe"]
    assert len(safe.sessions_of(0)) == len(safe.sessions_of("0")) == 1


def test_a_function_says_who_the_user_is(make_app: MakeApp) -> None:
    app = make_app(user_key=lambda data: (data.get("who") or {}).get("id"))
    app.add_url_rule("/set", "put", lambda: put("cart", 1))
    app.add_url_rule("/in", "in", lambda: put("who", {"id": 3}))
    app.add_url_rule("/read", "read", lambda: {"user": session.info.user})
    client = app.test_client()
    client.get("/set")
    before = cookie_of(client)
    client.get("/in")
    assert cookie_of(client) != before
    assert json_of(client, "/read") == {"user": 3}
    assert len(app.extensions["tested.safe"].sessions_of(3)) == 1


@pytest.mark.parametrize("user", [None, "", False, True, {"id": 7}, [7]])
def test_nobody_has_no_sessions_to_list_or_end(make_app: MakeApp, user: object) -> None:
    app = make_app()
    safe = app.extensions["tested.safe"]
    for act in (safe.sessions_of, safe.end_user):
        with pytest.raises(ValueError, match="is not a user"):
            act(user)


@pytest.mark.parametrize("key", ["user", "username", "userinfo", "identity.id", "logged_in"])
def test_a_user_under_another_key_is_hinted_at_once(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    caplog.set_level(logging.INFO, logger="flask_safesession")
    app = make_app()
    app.add_url_rule("/in", "in", lambda: put(key, "ann"))
    for _ in range(2):
        app.test_client().get("/in")
    hints = [line for line in caplog.records if "SAFESESSION_USER_KEY" in line.getMessage()]
    assert [(line.levelno, repr(key) in line.getMessage()) for line in hints] == [
        (logging.INFO, True)
    ]


def test_a_stored_value_that_cannot_be_a_user_counts_as_none_and_is_reported_once(
    make_app: MakeApp, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = make_app(store=store), make_app(store=store, user_key="user")
    for app in (before, after):
        app.add_url_rule("/in", "in", lambda: put("user", {"id": 1}))
        app.add_url_rule("/set", "put", lambda: put("cart", 1))
        app.add_url_rule("/read", "read", lambda: {"user": session.info.user})
    client = before.test_client()
    client.get("/in")
    later = after.test_client()
    later.set_cookie("session", cookie_of(client))
    for path in ("/read", "/set", "/read"):
        assert later.get(path).status_code == 200
    assert later.get("/read").json == {"user": None}
    assert sum("cannot name a user" in line for line in caplog.messages) == 1


# -- filing anew --------------------------------------------------------------------------------


def test_a_session_is_filed_under_the_user_that_todays_settings_find(
    make_app: MakeApp, store: MemoryStore, clock: FakeClock
) -> None:
    before, after = make_app(store=store), make_app(store=store, user_key="account")
    for app in (before, after):
        app.add_url_rule("/in", "in", lambda: put("account", "ann"))
        app.add_url_rule("/read", "read", lambda: {"user": session.info.user})
    client = before.test_client()
    client.get("/in")
    later = after.test_client()
    later.set_cookie("session", cookie_of(client))
    safe = after.extensions["tested.safe"]
    clock.advance(MINUTE)
    response = later.get("/read")
    assert response.json == {"user": "ann"}
    assert "Set-Cookie" not in response.headers
    assert [info.handle for info in safe.sessions_of("ann")]
    assert safe.end_user("ann") == 1
    assert later.get("/read").json == {"user": None}
