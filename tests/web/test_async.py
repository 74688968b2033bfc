"""Views that are coroutines: a session does for them what it does for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from asgiref import testing as asgi
from asgiref import wsgi
from flask import Flask
from flask.testing import FlaskClient
from flask.views import MethodView

from flask_safesession import NotFresh, SafeSession, StoreUnavailable, session
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support.counting import CountingStore

MINUTE = 60_000
MakeApp = Callable[..., Flask]
# They have annotations in part only.
ADAPTER: Any = wsgi.WsgiToAsgi
BROWSER: Any = asgi.ApplicationCommunicator


@pytest.fixture
def store(clock: FakeClock) -> CountingStore:
    return CountingStore(MemoryStore(clock))


@pytest.fixture
def app(make_app: MakeApp, store: CountingStore) -> Flask:
    return with_views(make_app(store=store))


def with_views(app: Flask) -> Flask:
    @app.route("/in/<user>", methods=["GET", "POST"])
    async def sign_in(user: str) -> str:
        await asyncio.sleep(0)
        session["user_id"] = user
        return "signed in"

    @app.get("/read")
    async def read() -> dict[str, Any]:
        await asyncio.sleep(0)
        return dict(session)

    @app.get("/put/<key>")
    async def put(key: str) -> str:
        await asyncio.sleep(0)
        session[key] = True
        return ""

    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def safe(app: Flask) -> SafeSession:
    made: SafeSession = app.extensions["tested.safe"]
    return made


def test_an_async_view_costs_what_another_costs(client: FlaskClient, store: CountingStore) -> None:
    for path, calls in (
        ("/put/a", ["create"]),
        ("/read", ["load"]),
        ("/put/b", ["load", "commit"]),
    ):
        client.get(path)
        assert store.take() == calls
    assert client.get("/read").json == {"a": True, "b": True}


def test_a_sign_in_by_an_async_view_gives_a_new_id(client: FlaskClient) -> None:
    client.post("/in/ann")
    before = client.get_cookie("session")
    client.get("/in/ann")  # assigned again, by a safe request: not a sign-in
    assert client.get_cookie("session") == before
    client.post("/in/bob")
    assert client.get_cookie("session") != before


def test_tasks_and_threads_of_a_view_share_one_session_that_is_loaded_once(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    @app.get("/together")
    async def together() -> str:
        async def add(number: int) -> None:
            await asyncio.sleep(0)
            session[f"task{number}"] = number

        def look(number: int) -> None:
            assert session["a"]
            session[f"thread{number}"] = number

        threads = [asyncio.to_thread(look, number) for number in range(3)]
        await asyncio.gather(*threads, *map(add, range(3)))
        return ""

    client.get("/put/a")
    store.take()
    assert client.get("/together").status_code == 200
    assert store.take() == ["load", "commit"]
    assert len(client.get("/read").get_json()) == 7


def test_async_functions_around_an_async_view_use_its_session(
    app: Flask, client: FlaskClient
) -> None:
    @app.before_request
    async def before() -> None:
        session["before"] = True

    @app.after_request
    async def after(response: Any) -> Any:
        session["after"] = True
        return response

    client.get("/put/view")
    assert client.get("/read").json == {"before": True, "view": True, "after": True}


# -- passive, exempt, fresh ---------------------------------------------------------------------


def test_a_passive_async_view_keeps_no_session_alive(
    app: Flask, safe: SafeSession, client: FlaskClient, clock: FakeClock
) -> None:
    @app.get("/poll")
    @safe.passive
    async def poll() -> dict[str, Any]:
        return dict(session)

    client.post("/in/ann")
    client.get("/read")
    clock.advance(20 * MINUTE)
    assert client.get("/poll").json == {"user_id": "ann"}
    clock.advance(11 * MINUTE)
    assert client.get("/poll").json == {}


def test_an_exempt_async_view_makes_no_store_call(
    app: Flask, safe: SafeSession, client: FlaskClient, store: CountingStore
) -> None:
    @app.get("/health")
    @safe.exempt
    async def health() -> dict[str, Any]:
        return dict(session)

    client.post("/in/ann")
    store.take()
    response = client.get("/health")
    assert (response.json, store.take()) == ({}, [])
    assert not {"Set-Cookie", "Vary"} & set(response.headers.keys())


def awaiting(view: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator of an app that knows async views only, as many are written."""
    assert iscoroutinefunction(view)

    @wraps(view)
    async def decorated(*args: Any, **kwargs: Any) -> Any:
        return await view(*args, **kwargs)

    return decorated


def test_fresh_keeps_an_async_view_one_that_can_be_awaited(
    app: Flask, safe: SafeSession, client: FlaskClient, clock: FakeClock
) -> None:
    @app.post("/pay/<amount>")
    @safe.passive
    @awaiting
    @safe.fresh(within="5m")
    @awaiting
    async def pay(amount: str) -> str:
        await asyncio.sleep(0)
        return f"paid {amount}"

    class Pay(MethodView):
        decorators = [safe.fresh(within="5m")]  # noqa: RUF012  # Flask's interface

        async def post(self) -> str:
            return "paid"

    app.add_url_rule("/pay", view_func=Pay.as_view("pay_by_class"))
    app.register_error_handler(NotFresh, lambda error: ("sign in again", 403))
    client.post("/in/ann")
    assert (client.post("/pay/7").text, client.post("/pay").text) == ("paid 7", "paid")
    clock.advance(6 * MINUTE)
    for path in ("/pay/7", "/pay"):
        assert (client.post(path).status_code, client.post(path).text) == (403, "sign in again")


# -- outages, and another kind of server --------------------------------------------------------


@pytest.mark.parametrize("failing", ["load", "commit"])
def test_a_failure_of_the_store_is_answered_by_an_async_error_handler(
    app: Flask, client: FlaskClient, store: CountingStore, failing: str
) -> None:
    @app.errorhandler(StoreUnavailable)
    async def sorry(error: StoreUnavailable) -> tuple[str, int]:
        return "come back later", 503

    client.get("/put/a")
    store.failing = {failing}
    response = client.get("/put/b")
    assert (response.status_code, response.text) == (503, "come back later")
    assert "Set-Cookie" not in response.headers


def test_it_works_behind_an_adapter_for_asgi_servers(make_app: MakeApp, tmp_path: Path) -> None:
    app = with_views(make_app(store=f"sqlite:///{tmp_path}/sessions.db"))

    async def visit() -> tuple[Any, Any]:
        _, headers = await get("/put/a")
        cookie = headers[b"set-cookie"].partition(b";")[0]
        body, _ = await get("/read", (b"cookie", cookie))
        return headers, body

    async def get(path: str, *headers: tuple[bytes, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
        scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path}
        browser = BROWSER(ADAPTER(app), {**scope, "query_string": b"", "headers": list(headers)})
        await browser.send_input({"type": "http.request"})
        start, sent = await browser.receive_output(), await browser.receive_output()
        await browser.wait()
        return sent["body"], dict(start["headers"])

    headers, body = asyncio.run(visit())
    assert headers[b"vary"] == b"Cookie"
    assert body == b'{"a":true}\n'
