"""Apps of one process that overwrite each other's session cookie are reported; others are not."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_safesession import SafeSession, session
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.memory import MemoryStore

KEY, OTHER_KEY = "k" * 32, "o" * 32


@pytest.fixture
def warnings() -> Iterator[list[logging.LogRecord]]:
    """What was reported of collisions; nothing else may be."""
    found: list[logging.LogRecord] = []
    handler, logger = logging.Handler(logging.WARNING), logging.getLogger("flask_safesession")
    handler.emit = found.append  # type: ignore[method-assign, assignment]
    handler.addFilter(lambda record: record.module != "unverified")  # another key's cookies
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    assert all("the same session cookie" in record.getMessage() for record in found)


def make(name: str, key: str = KEY, store: Any = "memory://", **config: Any) -> Flask:
    app = Flask(name)
    app.secret_key = key
    app.config.update(config)
    SafeSession(app, store=store, check_interval=None)
    app.add_url_rule("/in", "in", lambda: session.setdefault("user_id", name))
    app.add_url_rule("/", "home", lambda: str(session.get("user_id")))
    app.add_url_rule("/file", "file", lambda: "no session")
    return app


def mounted(shop: Flask, wiki: Flask) -> Client:
    return Client(DispatcherMiddleware(shop, {"/wiki": wiki}))


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["one key", "two keys"])
@pytest.mark.parametrize("first", ["", "/wiki"], ids=["root first", "mounted first"])
def test_two_apps_with_one_cookie_and_two_stores_are_reported_once_with_the_fix(
    key: str, first: str, warnings: list[logging.LogRecord]
) -> None:
    client = mounted(make("shop"), make("wiki", key))
    for path in (f"{first}/in", "/", "/wiki/", "/wiki/in", "/", "/in", "/wiki/"):
        client.get(path)
    [record] = warnings
    assert record.levelname == "WARNING"
    for part in ("'shop' and 'wiki'", "SESSION_COOKIE_NAME", '"memory://shared"'):
        assert part in record.getMessage()


def test_two_apps_with_one_store_and_two_keys_are_reported(
    warnings: list[logging.LogRecord],
) -> None:
    store = "memory://accounts"
    client = mounted(make("shop", store=store), make("wiki", OTHER_KEY, store))
    client.get("/in")
    client.get("/wiki/")
    assert len(warnings) == 1


def test_a_cookie_name_that_is_changed_later_counts(warnings: list[logging.LogRecord]) -> None:
    shop, wiki = make("shop"), make("wiki", SESSION_COOKIE_NAME="wiki")
    client = mounted(shop, wiki)
    for path in ("/in", "/wiki/", "/wiki/in", "/"):
        client.get(path)
    assert not warnings
    wiki.config["SESSION_COOKIE_NAME"] = "session"
    client.get("/wiki/")
    assert len(warnings) == 1


@pytest.mark.parametrize(
    "config",
    [{"SESSION_COOKIE_NAME": "wiki"}, {"SESSION_COOKIE_PATH": "/wiki"}],
    ids=["name", "path"],
)
def test_apps_with_a_cookie_each_are_not_reported(
    config: dict[str, Any], warnings: list[logging.LogRecord]
) -> None:
    shop = make("shop", SESSION_COOKIE_PATH="/shop")
    client = Client(
        DispatcherMiddleware(make("root"), {"/shop": shop, "/wiki": make("wiki", **config)})
    )
    for path in ("/shop/in", "/wiki/in", "/shop/", "/wiki/"):
        client.get(path)
    assert not warnings


def test_apps_that_share_a_store_are_not_reported(warnings: list[logging.LogRecord]) -> None:
    store = MemoryStore()
    client = mounted(make("shop", store=store), make("wiki", store=store))
    client.get("/in")
    assert client.get("/wiki/").text == "shop"
    store.end_all(new_stamp())
    assert client.get("/wiki/").text == "None"
    assert not warnings


def test_apps_that_are_only_alive_in_one_process_are_not_reported(
    warnings: list[logging.LogRecord],
) -> None:
    for app in [make("one"), make("two"), make("two")]:
        client = app.test_client()
        for path in ("/in", "/", "/file"):
            client.get(path)
        client.set_cookie("session", "forged")
        client.get("/")
    assert not warnings


def test_an_old_cookie_proves_nothing(
    warnings: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session may have ended, in a store that both apps have under two addresses."""
    client = mounted(make("shop"), make("wiki"))
    client.get("/in")
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    client.get("/wiki/")
    assert not warnings


@pytest.mark.parametrize(
    ("host", "domain", "reported"),
    [
        ("wiki.example", None, False),
        ("example", None, True),
        ("EXAMPLE:8000", None, True),
        ("wiki.example", "example", True),
        ("wiki.example", ".example", True),
        ("wikiexample", "example", False),
    ],
)
def test_a_cookie_that_browsers_do_not_send_there_proves_nothing(
    host: str, domain: str | None, reported: bool, warnings: list[logging.LogRecord]
) -> None:
    """An attacker can carry a cookie of one tenant to another by hand."""
    shop, wiki = make("shop", SESSION_COOKIE_DOMAIN=domain), make("wiki")
    made = shop.test_client(use_cookies=False).get("/in", base_url="http://example")
    cookie = made.headers["Set-Cookie"].partition(";")[0]
    wiki.test_client(use_cookies=False).get(
        "/", base_url=f"http://{host}", headers={"Cookie": cookie}
    )
    assert len(warnings) == int(reported)


def test_an_app_that_is_gone_is_not_compared(warnings: list[logging.LogRecord]) -> None:
    shop, wiki = make("shop"), make("wiki")
    cookie = shop.test_client().get("/in").headers["Set-Cookie"].partition(";")[0]
    del shop
    wiki.test_client(use_cookies=False).get("/", headers={"Cookie": cookie})
    assert not warnings


def test_what_is_remembered_of_an_app_has_a_limit() -> None:
    shop = make("shop")
    for _ in range(200):
        shop.test_client().get("/in")
    assert len(shop.extensions["safesession.sent"].sent) == 64
