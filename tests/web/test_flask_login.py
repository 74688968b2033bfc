"""Flask-Login 0.6.3, as it is: nothing in it knows of SafeSession, and all of it works."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import flask_login
import pytest
from flask import Flask, get_flashed_messages, request
from flask.testing import FlaskClient
from flask_login import (
    LoginManager,
    UserMixin,
    confirm_login,
    current_user,
    fresh_login_required,
    login_required,
    login_user,
    logout_user,
)

from flask_safesession import SafeSession, session
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support.counting import CountingStore

MINUTE = 60_000
HOME = {"User-Agent": "the browser at home"}
ABROAD = {"User-Agent": "somebody else's"}


class MakeApp(Protocol):
    def __call__(self, **settings: Any) -> Flask: ...


class User(UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    def __init__(self, name: str) -> None:
        self.id = name


@pytest.fixture
def store(clock: FakeClock) -> CountingStore:
    return CountingStore(MemoryStore(clock))


@pytest.fixture
def app(make_app: MakeApp, store: CountingStore) -> Flask:
    app = make_app(store=store, idle_timeout="30m")
    manager = LoginManager(app)
    manager.login_view = manager.refresh_view = "sign_in"
    manager.user_loader(User)

    def sign_in() -> str:
        if "user" not in request.args:
            return " ".join(map(str, get_flashed_messages()))
        seconds = request.args.get("seconds", type=float)
        login_user(
            User(request.args["user"]),
            remember="remember" in request.args,
            duration=None if seconds is None else timedelta(seconds=seconds),
        )
        return "in"

    def sign_out() -> str:
        logout_user()
        return "out"

    def confirm() -> str:
        confirm_login()
        return "confirmed"

    def who() -> str:
        return current_user.id if current_user.is_authenticated else "nobody"

    def cart() -> list[str]:
        session.setdefault("cart", []).append("pear")
        return list(session["cart"])

    def handle() -> str:
        return session.info.handle or "new"

    for name, view in {
        "sign_in": sign_in,
        "sign_out": sign_out,
        "confirm": confirm,
        "who": who,
        "cart": cart,
        "handle": handle,
        "static_page": lambda: "nothing of the session",
        "account": login_required(lambda: "your account"),
        "password": fresh_login_required(lambda: "your password"),
    }.items():
        app.add_url_rule(f"/{name}", name, view, methods=["GET", "POST"])
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def text(client: FlaskClient, path: str, headers: dict[str, str] = HOME) -> str:
    """What the page says; where it redirects to is prefixed with an arrow."""
    response = client.get(path, headers=headers)
    if response.status_code == 302:
        return "-> " + response.location.partition("?")[0]
    assert response.status_code == 200
    return response.text


def cookie(client: FlaskClient, name: str = "session") -> str | None:
    found = client.get_cookie(name)
    return found.value if found else None


def remembered_for(client: FlaskClient) -> timedelta:
    found = client.get_cookie("remember_token")
    assert found is not None
    assert found.expires is not None
    return found.expires - datetime.now(UTC)


def safe_of(app: Flask) -> SafeSession:
    found: SafeSession = app.extensions["tested.safe"]
    return found


def test_the_version_is_the_one_that_is_promised() -> None:
    assert flask_login.__version__ == "0.6.3"


# -- in and out ---------------------------------------------------------------------------------


def test_a_user_signs_in_and_out(client: FlaskClient, app: Flask) -> None:
    assert text(client, "/account") == "-> /sign_in"
    text(client, "/sign_in?user=ann")
    assert text(client, "/account") == "your account"
    assert text(client, "/who") == "ann"
    assert safe_of(app).count() == 1
    text(client, "/sign_out")
    assert text(client, "/who") == "nobody"
    assert text(client, "/account") == "-> /sign_in"


def test_a_login_gives_a_new_id_and_keeps_what_is_in_the_session(
    client: FlaskClient, app: Flask
) -> None:
    client.get("/cart")
    before = cookie(client)
    text(client, "/sign_in?user=ann")
    after = cookie(client)
    assert before
    assert after
    assert before != after
    assert client.get("/cart").json == ["pear", "pear"]
    assert cookie(client) == after

    thief = app.test_client()
    thief.set_cookie("session", before)
    assert text(thief, "/who") == "nobody"
    assert thief.get("/cart").json == ["pear"]  # an empty cart, and the thief's own


@pytest.mark.parametrize("user_key", ["account", lambda data: data.get("_user_id")])
def test_a_login_before_each_request_is_one_sign_in_whatever_names_the_user(
    make_app: MakeApp, store: CountingStore, clock: FakeClock, user_key: Any
) -> None:
    app = make_app(store=store, user_key=user_key)
    LoginManager(app).user_loader(User)

    @app.before_request
    def of_the_proxy() -> None:
        session.setdefault("account", "ann")
        login_user(User("ann"))

    app.add_url_rule("/who", "who", lambda: current_user.id)
    client = app.test_client()
    text(client, "/who")
    first = cookie(client)
    clock.advance(MINUTE)
    text(client, "/who")
    assert cookie(client) == first


def test_a_confirmation_of_the_login_gives_a_new_id(client: FlaskClient, clock: FakeClock) -> None:
    text(client, "/sign_in?user=ann")
    first = cookie(client)
    clock.advance(MINUTE)
    text(client, "/confirm")
    assert cookie(client) != first


def test_a_logout_ends_the_session_but_the_cart_goes_on_in_a_new_one(client: FlaskClient) -> None:
    text(client, "/sign_in?user=ann")
    client.get("/cart")
    before = cookie(client)
    text(client, "/sign_out")
    assert cookie(client) not in (None, before)
    assert client.get("/cart").json == ["pear", "pear"]
    assert text(client, "/who") == "nobody"


# -- remember me --------------------------------------------------------------------------------


def test_remember_me_outlives_the_session_which_is_a_new_one_then(
    client: FlaskClient, app: Flask, clock: FakeClock
) -> None:
    text(client, "/sign_in?user=ann&remember=1")
    first, token = cookie(client), cookie(client, "remember_token")
    assert token
    handle = text(client, "/handle")
    clock.advance(31 * MINUTE)
    safe_of(app).purge()
    assert safe_of(app).count() == 0
    assert text(client, "/who") == "ann"
    assert cookie(client) not in (None, first)
    assert cookie(client, "remember_token") == token
    assert text(client, "/handle") not in (handle, "new")
    assert safe_of(app).count() == 1


def test_a_remembered_user_is_not_fresh_until_confirmed(
    client: FlaskClient, clock: FakeClock
) -> None:
    text(client, "/sign_in?user=ann&remember=1")
    assert text(client, "/password") == "your password"
    clock.advance(31 * MINUTE)
    assert text(client, "/account") == "your account"
    assert text(client, "/password").startswith("-> ")
    text(client, "/confirm")
    assert text(client, "/password") == "your password"


def test_a_refreshed_remember_cookie_keeps_the_logins_duration(
    client: FlaskClient, app: Flask, store: CountingStore
) -> None:
    app.config["REMEMBER_COOKIE_REFRESH_EACH_REQUEST"] = True
    text(client, "/sign_in?user=ann&remember=1&seconds=3600")
    client.delete_cookie("remember_token")
    text(client, "/static_page")
    assert timedelta(minutes=59) < remembered_for(client) < timedelta(minutes=61)


def test_what_the_login_left_in_the_session_is_seen_by_the_first_who_asks(
    client: FlaskClient, app: Flask
) -> None:
    """``_remember_seconds`` stays in the session until the logout, unlike ``_remember``."""
    app.add_url_rule("/asks", "asks", lambda: str("_remember_seconds" in session))
    text(client, "/sign_in?user=ann&remember=1&seconds=3600")
    assert text(client, "/asks") == "True"


# -- what it costs ------------------------------------------------------------------------------


def test_flask_logins_question_after_a_response_costs_no_store_call(
    client: FlaskClient, app: Flask, store: CountingStore
) -> None:
    asks = [hook.__name__ for hook in app.after_request_funcs[None]]
    assert "_update_remember_cookie" in asks
    for path in (
        "/who",
        "/cart",
        "/sign_in?user=ann&remember=1",
    ):  # no session, a stranger's, ann's
        client.get(path, headers=HOME)
        store.take()
        response = client.get("/static_page", headers=HOME)
        assert store.take() == []
        assert "Vary" not in response.headers
        assert "Set-Cookie" not in response.headers


def test_an_outage_is_not_a_logout(client: FlaskClient, store: CountingStore) -> None:
    text(client, "/sign_in?user=ann&remember=1")
    before = cookie(client)
    store.failing = {"load"}
    response = client.get("/account", headers=HOME)
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    store.failing = set()
    assert cookie(client) == before
    assert text(client, "/account") == "your account"


# -- session protection -------------------------------------------------------------------------


def test_basic_protection_keeps_the_user_and_takes_the_freshness(
    client: FlaskClient, app: Flask
) -> None:
    text(client, "/sign_in?user=ann")
    before = cookie(client)
    assert text(client, "/who", ABROAD) == "ann"
    assert text(client, "/password", ABROAD).startswith("-> ")
    assert text(client, "/password", HOME).startswith("-> ")
    assert cookie(client) == before


def test_strong_protection_ends_the_session(client: FlaskClient, app: Flask) -> None:
    app.config["SESSION_PROTECTION"] = "strong"
    text(client, "/sign_in?user=ann&remember=1")
    stolen = cookie(client)
    assert stolen
    assert text(client, "/who") == "ann"
    thief = app.test_client()
    thief.set_cookie("session", stolen)
    assert text(thief, "/who", ABROAD) == "nobody"
    assert cookie(thief) is None
    assert safe_of(app).count() == 0
    # The user's own session was that one. The remember cookie brings the user back, in a new one.
    assert text(client, "/who") == "ann"
    assert cookie(client) != stolen
    assert text(client, "/password").startswith("-> ")


def test_protection_looks_only_where_the_user_is_asked_for(client: FlaskClient, app: Flask) -> None:
    app.config["SESSION_PROTECTION"] = "strong"
    text(client, "/sign_in?user=ann&remember=1")
    response = client.get("/static_page", headers=ABROAD)
    assert "Set-Cookie" not in response.headers  # the session was not used: nothing is known
    client.get("/cart", headers=ABROAD)  # used, but nobody asked for the user
    assert cookie(client, "remember_token")


# -- whose sessions -----------------------------------------------------------------------------


def fresh_page(app: Flask) -> None:
    app.add_url_rule("/pay", "pay", safe_of(app).fresh(within="10m")(lambda: "paid"))


def paid(client: FlaskClient) -> int:
    return client.get("/pay", headers=HOME).status_code


def test_a_login_is_a_fresh_sign_in_for_a_while(
    client: FlaskClient, app: Flask, clock: FakeClock
) -> None:
    fresh_page(app)
    text(client, "/sign_in?user=ann")
    assert paid(client) == 200
    clock.advance(11 * MINUTE)
    assert text(client, "/who") == "ann"
    assert paid(client) == 403
    text(client, "/confirm")
    assert paid(client) == 200


def test_a_remembered_user_has_not_signed_in_until_confirmed(
    client: FlaskClient, app: Flask, clock: FakeClock
) -> None:
    fresh_page(app)
    text(client, "/sign_in?user=ann&remember=1")
    clock.advance(31 * MINUTE)
    assert text(client, "/who") == "ann"
    assert paid(client) == 403
    text(client, "/confirm")
    assert paid(client) == 200


@pytest.mark.parametrize(
    "confirm",
    [lambda: session.confirm_sign_in(), lambda: session.update(fs_paa=1.0)],  # noqa: PLW0108
    ids=["confirm_sign_in", "Flask-Security"],
)
def test_a_remembered_user_is_fresh_once_a_view_has_asked_for_the_password(
    app: Flask, client: FlaskClient, confirm: Any
) -> None:
    app.add_url_rule("/asked", "asked", lambda: f"{confirm()}")
    app.add_url_rule("/pay", "pay", safe_of(app).fresh(within="10m")(lambda: "paid"))
    text(client, "/sign_in?user=ann&remember=1")
    client.delete_cookie("session")
    assert text(client, "/who") == "ann"
    before = cookie(client)
    assert client.get("/pay", headers=HOME).status_code == 403
    text(client, "/asked")
    assert cookie(client) != before
    assert text(client, "/pay") == "paid"


def test_a_remembered_user_who_signs_in_within_a_minute_gets_a_new_id(client: FlaskClient) -> None:
    text(client, "/sign_in?user=ann&remember=1")
    client.delete_cookie("session")
    assert text(client, "/who") == "ann"  # restored, which is no sign-in
    before = cookie(client)
    client.post("/sign_in?user=ann", headers=HOME)
    assert cookie(client) != before
