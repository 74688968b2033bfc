# ruff: noqa: DTZ001, PLR2004, S105  # naive times are a subject; the rest as in tests/**
"""What the README says of other sessions, shown on them: Flask's own, and Flask-Session 0.8."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import fakeredis
import pytest
import redis
from flask import Flask, request, session
from flask.testing import FlaskClient
from flask_session import Session
from flask_session.base import MsgSpecSerializer

from flask_safesession import SafeSession

FLASK, FLASK_SESSION, SAFE = "flask", "flask-session", "safe"


def install(kind: str, app: Flask, store: fakeredis.FakeRedis) -> None:
    if kind == FLASK_SESSION:
        app.config.update(SESSION_TYPE="redis", SESSION_REDIS=store)
        Session(app)
    elif kind == SAFE:
        SafeSession(app, store=store, check_interval=None)


class Site:
    """One app with one kind of session, and a visitor who has one."""

    def __init__(self, kind: str) -> None:
        self.store = fakeredis.FakeRedis()
        self.commands: list[str] = []
        self.is_down = False
        self.app = Flask("compared", static_folder=None)
        self.app.secret_key = "make one with secrets.token_hex()"
        self.app.logger.addHandler(logging.NullHandler())
        install(kind, self.app, self.store)
        for view in (self.plain, self.put, self.grow, self.out, self.show):
            self.app.add_url_rule(f"/{view.__name__}", view_func=view)
        self.visitor = self.app.test_client()
        self.visitor.get("/put?key=visited")
        self.visitor.get("/show")  # the server knows the scripts now
        if kind == SAFE:
            [server] = self.app.extensions["safesession"].store._caller.topology.servers()
            self.watch(server, "exchange", lambda *commands: [name for name, *_ in commands])
        else:
            self.watch(self.store, "execute_command", lambda name, *_: [name])

    def watch(self, sender: Any, method: str, names: Callable[..., list[str]]) -> None:
        """Note what is sent from now on, unless the store is said to be down.

        *names* finds the names of the commands among the arguments of *method*.
        """
        send = getattr(sender, method)

        def watched(*args: Any, **options: Any) -> Any:
            if self.is_down:
                raise redis.ConnectionError("nobody there")
            self.commands += names(*args)
            return send(*args, **options)

        setattr(sender, method, watched)

    def plain(self) -> str:
        self.meanwhile()
        return "plain"

    def put(self) -> str:
        session.setdefault("list", [])
        session[request.args["key"]] = 1
        self.meanwhile()
        return ""

    def grow(self) -> str:
        session["list"].append(1)
        return ""

    def out(self) -> str:
        session.clear()
        return ""

    def show(self) -> dict[str, object]:
        return dict(session)

    def meanwhile(self) -> None:
        """Another request with the same cookie, before this one is over."""
        if path := request.args.get("meanwhile"):
            self.copy().get(path)

    def copy(self) -> FlaskClient:
        """Another browser with the visitor's cookie."""
        cookie = self.visitor.get_cookie("session")
        assert cookie
        other = self.app.test_client()
        other.set_cookie("session", cookie.value)
        return other


@pytest.mark.parametrize(
    ("kind", "commands", "cookie"),
    [(FLASK, [], False), (FLASK_SESSION, ["GET", "SET"], True), (SAFE, [], False)],
)
def test_a_request_that_does_not_use_the_session(
    kind: str, commands: list[str], cookie: bool
) -> None:
    site = Site(kind)
    answer = site.visitor.get("/plain")
    assert site.commands == commands
    assert ("Set-Cookie" in answer.headers) == cookie


def test_what_is_sent_is_noted() -> None:
    site = Site(SAFE)
    site.visitor.get("/show")
    assert site.commands == ["EVALSHA"]


@pytest.mark.parametrize(("kind", "left"), [(FLASK, True), (FLASK_SESSION, False), (SAFE, False)])
def test_a_copy_of_the_cookie_after_the_logout(kind: str, left: bool) -> None:
    site = Site(kind)
    copy = site.copy()
    site.visitor.get("/out")
    assert ("visited" in (copy.get("/show").json or {})) == left


@pytest.mark.parametrize(("kind", "back"), [(FLASK_SESSION, True), (SAFE, False)])
def test_a_logout_while_another_request_is_in_flight(kind: str, back: bool) -> None:
    site = Site(kind)
    copy = site.copy()
    site.visitor.get("/put?key=a&meanwhile=/out")
    assert ("visited" in (copy.get("/show").json or {})) == back


@pytest.mark.parametrize(
    ("kind", "kept"), [(FLASK, {"a"}), (FLASK_SESSION, {"a"}), (SAFE, {"a", "b"})]
)
def test_two_requests_that_change_different_keys(kind: str, kept: set[str]) -> None:
    site = Site(kind)
    site.visitor.get("/put?key=a&meanwhile=/put?key=b")
    assert {"a", "b"} & set(site.visitor.get("/show").json or {}) == kept


@pytest.mark.parametrize(("kind", "noticed"), [(FLASK, 0), (FLASK_SESSION, 1), (SAFE, 1)])
def test_a_change_inside_a_value(kind: str, noticed: int) -> None:
    site = Site(kind)
    site.visitor.get("/grow")
    assert len(site.visitor.get("/show").json["list"]) == noticed  # type: ignore[index]


@pytest.mark.parametrize(("kind", "same"), [(FLASK_SESSION, True), (SAFE, False)])
def test_the_id_after_a_login(kind: str, same: bool) -> None:
    site = Site(kind)
    before = site.visitor.get_cookie("session")
    site.visitor.get("/put?key=user_id")
    after = site.visitor.get_cookie("session")
    assert before
    assert after
    assert (before.value == after.value) == same


def test_the_id_after_a_login_depends_on_the_user_key() -> None:
    site = Site(SAFE)
    before = site.visitor.get_cookie("session")
    site.visitor.get("/put?key=username")
    assert site.visitor.get_cookie("session") == before


@pytest.mark.parametrize(("kind", "there"), [(FLASK_SESSION, True), (SAFE, False)])
def test_the_id_in_the_store(kind: str, there: bool) -> None:
    site = Site(kind)
    cookie = site.visitor.get_cookie("session")
    assert cookie
    secret = cookie.value.split(".")[0].encode()
    assert any(secret in key for key in site.store.scan_iter()) == there


@pytest.mark.parametrize(("kind", "plain", "used"), [(FLASK_SESSION, 500, 500), (SAFE, 200, 503)])
def test_requests_while_the_store_is_down(kind: str, plain: int, used: int) -> None:
    site = Site(kind)
    site.is_down = True
    assert site.visitor.get("/plain").status_code == plain
    assert site.visitor.get("/show").status_code == used


def test_flask_session_keeps_a_session_31_days_after_the_last_request() -> None:
    site = Site(FLASK_SESSION)
    [key] = site.store.scan_iter()
    site.store.expire(key, 60)
    site.visitor.get("/plain")
    assert site.store.ttl(key) == 31 * 24 * 60 * 60


VALUES = [(1, 2), {1}, datetime(2030, 1, 2), Decimal("1.10"), UUID(int=5)]


def test_what_flask_session_makes_of_values() -> None:
    made = MsgSpecSerializer(Flask("values"), "msgpack")
    kinds = [type(made.decode(made.encode({"v": value}))["v"]) for value in VALUES]
    assert kinds == [list, list, str, str, str]


def test_what_flask_makes_of_values() -> None:
    app = Flask("values")
    app.secret_key = "make one with secrets.token_hex()"
    serializer: Any = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]

    def back(value: object) -> object:
        try:
            return serializer.loads(serializer.dumps(value))
        except TypeError:
            return TypeError

    naive = VALUES[2]
    assert isinstance(naive, datetime)
    aware = back(naive)
    assert isinstance(aware, datetime)
    assert aware.tzinfo
    assert [back(VALUES[n]) for n in (0, 1, 3, 4)] == [(1, 2), TypeError, "1.10", VALUES[4]]


def test_flask_session_falls_back_to_pickle_when_it_reads() -> None:
    call_int = b"cbuiltins\nint\n(V42\ntR."  # a pickle that calls a function
    assert MsgSpecSerializer(Flask("pickle"), "msgpack").decode(call_int) == 42
