"""Sessions of older places go on here, and nobody is signed out by the move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cachelib import FileSystemCache
from flask import Flask
from flask.testing import FlaskClient
from flask_session import Session as FlaskSession

from flask_safesession import SafeSession, session
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import StoreKit

from ..support.servers import Server
from ..support.views import do

KEY = "a key for tests that is long enough"
TOMORROW = datetime.now(UTC) + timedelta(days=1)
MINUTE, HOUR = 60_000, 3_600_000
MakeApp = Callable[..., Flask]


def views(app: Flask) -> Flask:
    app.add_url_rule("/do", "do", do, methods=["GET", "POST"])
    app.add_url_rule("/read", "read", lambda: dict(session))
    app.add_url_rule("/fresh", "fresh", SafeSession.fresh()(lambda: "fresh"))
    app.add_url_rule("/age", "age", lambda: str(session.info.created_at))
    app.add_url_rule("/alone", "alone", lambda: str(session.end_others()), methods=["POST"])
    return app


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


def browser(app: Flask, cookie: str) -> FlaskClient:
    client = app.test_client()
    client.set_cookie("session", cookie)
    return client


def read(client: FlaskClient) -> Any:
    found: Any = client.get("/read").json
    return {key: value for key, value in found.items() if key[0] != "_"}


class Old:
    """An app with older sessions, and what the new app needs to adopt them."""

    def __init__(self, app: Flask, *adopt: Any, left: Callable[[], int] | None = None) -> None:
        self.app = views(app)
        self.config = {k: v for k, v in app.config.items() if k.startswith("SESSION_KEY")}
        self.adopt, self.left = list(adopt), left

    def browser(self, *queries: str) -> FlaskClient:
        client = self.app.test_client()
        for query in queries or ("set=user_id:7&set=cart:book",):
            assert client.post(f"/do?{query}").status_code == 200
        return client


def flask_session(place: str, left: Callable[[], int] | None = None, **config: Any) -> Old:
    app = Flask("old")
    app.secret_key = KEY
    app.config.update(config)
    FlaskSession(app)
    return Old(app, place, left=left)


def with_cookies() -> Old:
    app = Flask("old")
    app.secret_key = KEY
    return Old(app, "flask-cookie")


def with_safesession(make_app: MakeApp) -> Old:
    store = MemoryStore()
    old = make_app(store=store)
    safe: SafeSession = old.extensions["tested.safe"]
    return Old(old, store, left=safe.count)


@pytest.fixture
def redis_url(any_server: Server) -> str:
    return f"redis://127.0.0.1:{any_server.port}/0"


@pytest.fixture(params=["redis", "files", "cookie", "safesession", "sqlite"])
def old(
    request: pytest.FixtureRequest, any_server: Server, make_app: MakeApp, tmp_path: Path
) -> Iterator[Old]:
    kind = request.param
    if kind == "redis":
        client = any_server.client()
        yield flask_session(
            f"flask-session+redis://127.0.0.1:{any_server.port}/0",
            lambda: len(client.keys("session:*")),
            SESSION_TYPE="redis",
            SESSION_REDIS=client,
        )
        client.close()
    elif kind == "files":
        folder = tmp_path / "sessions"
        cache = FileSystemCache(str(folder), threshold=0)
        yield flask_session(
            f"flask-session+file://{folder}",
            lambda: len(list(folder.iterdir())),
            SESSION_TYPE="cachelib",
            SESSION_CACHELIB=cache,
        )
    elif kind == "cookie":
        yield with_cookies()
    elif kind == "sqlite":
        yield from _with_sqlalchemy(f"sqlite:///{tmp_path / 'old.db'}")
    else:
        yield with_safesession(make_app)


def _with_sqlalchemy(url: str, scheme: str = "") -> Iterator[Old]:
    from flask_sqlalchemy import SQLAlchemy
    from sqlalchemy import text

    app = Flask("old")
    app.secret_key = KEY
    app.config |= {"SQLALCHEMY_DATABASE_URI": url, "SESSION_TYPE": "sqlalchemy"}
    app.config["SESSION_SQLALCHEMY_TABLE"] = "old_sessions"
    db = app.config["SESSION_SQLALCHEMY"] = SQLAlchemy(app)
    FlaskSession(app)

    def left() -> int:
        with app.app_context():
            return int(db.session.execute(text("SELECT COUNT(*) FROM old_sessions")).scalar_one())

    place = Old(app, f"flask-session+{scheme or url}", left=left)
    place.config["SESSION_SQLALCHEMY_TABLE"] = "old_sessions"
    yield place
    with app.app_context():
        db.drop_all()
        db.engine.dispose()


@pytest.fixture
def site(make_app: MakeApp, kit: StoreKit) -> Callable[..., Flask]:
    """Makes the new app, with the old one's settings."""

    def make(old: Old, **settings: Any) -> Flask:
        settings = {"store": kit.store, "adopt": old.adopt, "adopt_until": TOMORROW} | settings
        return views(make_app(**settings, config=old.config))

    return make


Site = Callable[..., Flask]


# -- everybody stays signed in ------------------------------------------------------------------


def test_who_was_signed_in_before_is_signed_in_after(old: Old, site: Site) -> None:
    before = old.browser()
    after = browser(site(old), cookie_of(before))
    assert read(after) == {"user_id": "7", "cart": "book"}
    assert cookie_of(after) != cookie_of(before)
    assert read(after) == {"user_id": "7", "cart": "book"}
    assert old.left is None or old.left() == 0
    assert after.application.extensions["tested.safe"].sessions_of(7)


def test_a_response_that_nobody_receives_loses_nothing(old: Old, site: Site) -> None:
    cookie, app = cookie_of(old.browser()), site(old)
    lost = browser(app, cookie).post("/do?set=cart:two")
    assert "Set-Cookie" in lost.headers
    again = browser(app, cookie)
    assert read(again) == {"user_id": "7", "cart": "two"}
    assert cookie_of(again) != cookie
    assert len(app.extensions["tested.safe"].sessions_of(7)) == 1
