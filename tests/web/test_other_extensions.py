"""Flask-Login, Flask-Principal and Flask-Security as they are: what of theirs is a sign-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flask_security
import pytest
from flask import Flask, g
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
from flask_principal import Identity, Principal, identity_changed

from flask_safesession import SafeSession, session
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

MINUTE = 60_000
MakeApp = Callable[..., Flask]


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


def safe_of(app: Flask) -> SafeSession:
    safe: SafeSession = app.extensions["tested.safe"]
    return safe


def add_pages(app: Flask) -> None:
    pay = safe_of(app).fresh(within="5m")(lambda: "paid")
    app.add_url_rule("/pay", "pay", pay)
    app.add_url_rule("/cart", "cart", lambda: session.setdefault("cart", "a pear"))
    app.add_url_rule("/user", "user", lambda: str(session.info.user))


def paid(client: FlaskClient) -> bool:
    return client.get("/pay").status_code == 200


# -- Flask-Login --------------------------------------------------------------------------------


class User(UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    def __init__(self, name: str) -> None:
        self.id = name


def with_login(app: Flask) -> LoginManager:
    add_pages(app)
    manager = LoginManager(app)
    manager.user_loader(User)
    app.add_url_rule("/in/<name>", "in", lambda name: str(login_user(User(name), remember=True)))
    app.add_url_rule("/who", "who", lambda: str(current_user.get_id()))
    app.add_url_rule("/api", "api", login_required(lambda: "data"), methods=["GET", "POST"])
    return manager


def test_a_remembered_user_gets_a_new_id_but_neither_freshness_nor_more_time(
    make_app: MakeApp, store: MemoryStore, clock: FakeClock
) -> None:
    app = make_app(store=store, lifetime="1h")
    with_login(app)
    first, client = app.test_client(), app.test_client()
    first.get("/in/ann")
    client.get("/cart")
    before = cookie_of(client)
    token = first.get_cookie("remember_token")
    assert token
    client.set_cookie("remember_token", token.value)
    clock.advance(25 * MINUTE)
    assert client.get("/who").text == "ann"
    assert cookie_of(client) not in ("", before)
    assert not paid(client)
    clock.advance(25 * MINUTE)
    assert client.get("/cart").text == "a pear"
    [handle] = {info.handle for info in safe_of(app).sessions_of("ann")}
    clock.advance(11 * MINUTE)
    client.get("/who")  # the cookie to be remembered by begins another session
    assert handle not in {info.handle for info in safe_of(app).sessions_of("ann")}


def basic(app: Flask, *, signs_in: bool) -> None:
    def load(request: Any) -> User | None:
        if not request.authorization:
            return None
        user = User(request.authorization.username)
        if signs_in:
            login_user(user)
        return user

    with_login(app).request_loader(load)


def test_a_script_that_signs_in_at_each_call_does_not_end_the_session_of_its_owners_browser(
    make_app: MakeApp, store: MemoryStore, clock: FakeClock
) -> None:
    app = make_app(store=store, max_sessions_per_user=3)
    basic(app, signs_in=True)
    browser = app.test_client()
    browser.get("/in/ann")
    clock.advance(1000)
    assert browser.get("/user").text == "ann"
    for _ in range(10):
        assert app.test_client().get("/api", auth=("ann", "secret")).text == "data"
    assert len(safe_of(app).sessions_of("ann")) == 3
    assert browser.get("/user").text == "ann"


def test_a_user_who_is_loaded_from_the_request_alone_needs_no_session(make_app: MakeApp) -> None:
    app = make_app()
    basic(app, signs_in=False)
    for method in ("GET", "POST"):
        response = app.test_client().open("/api", method=method, auth=("ann", "secret"))
        assert response.text == "data"
        assert "Set-Cookie" not in response.headers
    assert safe_of(app).count() == 0


def test_an_admin_who_acts_as_a_user_stays_the_sessions_user(make_app: MakeApp) -> None:
    app = make_app()
    manager = with_login(app)
    manager.user_loader(lambda name: User(session.get("acting_as", name)))
    app.add_url_rule("/as/<name>", "as", lambda name: str(session.setdefault("acting_as", name)))
    client = app.test_client()
    client.get("/in/admin")
    client.get("/as/ann")
    assert [client.get(path).text for path in ("/who", "/user")] == ["ann", "admin"]
    assert safe_of(app).sessions_of("ann") == []
    assert safe_of(app).end_user("admin") == 1


# -- Flask-Principal ----------------------------------------------------------------------------


@pytest.fixture
def principal(make_app: MakeApp, store: MemoryStore) -> Flask:
    app = make_app(store=store, user_key="identity.id", lifetime="1h")
    Principal(app)
    add_pages(app)

    @app.post("/in/<name>")
    def sign_in(name: str) -> str:
        identity_changed.send(app, identity=Identity(name))
        return ""

    app.add_url_rule("/who", "who", lambda: str(g.identity.id))
    return app


def test_an_identity_of_principal_is_the_user_if_the_user_key_names_it(principal: Flask) -> None:
    client = principal.test_client()
    client.get("/cart")
    before = cookie_of(client)
    client.post("/in/ann")
    assert cookie_of(client) != before
    assert len(safe_of(principal).sessions_of("ann")) == 1
    assert client.get("/cart").text == "a pear"


def test_an_identity_that_principal_saves_with_each_request_extends_nothing(
    principal: Flask, clock: FakeClock
) -> None:
    client = principal.test_client()
    client.post("/in/ann")
    before = cookie_of(client)
    for _ in range(3):
        clock.advance(19 * MINUTE)
        assert client.get("/who").text == "ann"
        assert not paid(client)
    assert cookie_of(client) == before
    clock.advance(4 * MINUTE)
    assert client.get("/who").text == "None"


# -- Flask-Security -----------------------------------------------------------------------------


class Member(flask_security.UserMixin):
    id = 1
    email = "ann@example.org"
    password = "the password"
    active = True
    fs_uniquifier = "what stands for ann"
    roles: list[Any] = []  # noqa: RUF012  # as its base has it


class Members(flask_security.UserDatastore):
    """One member, in memory."""

    def __init__(self) -> None:
        super().__init__(Member, flask_security.RoleMixin)
        self.member = Member()

    def find_user(self, case_insensitive: bool = False, **criteria: Any) -> Any:
        [(name, value)] = criteria.items()
        return self.member if getattr(self.member, name) == value else None

    def commit(self) -> None:
        pass


@pytest.fixture
def secured(make_app: MakeApp, store: MemoryStore) -> Flask:
    app = make_app(store=store)
    app.config.update(
        SECURITY_PASSWORD_SALT="salt",
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
        SECURITY_PASSWORD_SINGLE_HASH=["plaintext"],
        WTF_CSRF_ENABLED=False,
    )
    flask_security.Security(app, Members())
    add_pages(app)
    return app


def post(client: FlaskClient, path: str, **fields: str) -> None:
    assert client.post(path, json=fields | {"password": "the password"}).status_code == 200


def test_flask_securitys_user_is_the_sessions(secured: Flask) -> None:
    client = secured.test_client()
    client.get("/cart")
    before = cookie_of(client)
    post(client, "/login", email="ann@example.org")
    assert cookie_of(client) != before
    assert client.get("/user").text == Member.fs_uniquifier
    assert len(safe_of(secured).sessions_of(Member.fs_uniquifier)) == 1
    client.post("/logout", json={})
    assert safe_of(secured).sessions_of(Member.fs_uniquifier) == []


def test_flask_securitys_verification_of_the_password_is_a_sign_in(
    secured: Flask, clock: FakeClock
) -> None:
    client = secured.test_client()
    post(client, "/login", email="ann@example.org")
    assert paid(client)
    clock.advance(10 * MINUTE)
    assert not paid(client)
    before = cookie_of(client)
    post(client, "/verify")
    assert paid(client)
    assert cookie_of(client) != before
