"""Sessions of older places go on here, and nobody is signed out by the move."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cachelib import FileSystemCache
from flask import Flask
from flask.testing import FlaskClient
from flask_session import Session as FlaskSession
from markupsafe import Markup
from pymemcache.client.base import PooledClient
from time_machine import travel

from flask_safesession import SafeSession, session
from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.redis import open_shards
from flask_safesession.testing import FakeClock, StoreKit
from flask_safesession.testing.kit import together

from ..support import memcached
from ..support.databases import Database
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


def stay() -> str:
    session.expires_in("30d")
    return "done"


class SilentStore(MemoryStore):
    """Fails at each call for a session."""

    def load(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a call")

    adopt = follow = load


class MeetingStore:
    """Passes calls on to *store*; before the one with the number *at* it calls *meet*."""

    shared = True

    def __init__(self, store: Any) -> None:
        self.store = store
        self.plan(0)

    def plan(self, at: int, meet: Callable[[], object] | None = None) -> None:
        self.calls, self.at, self.meet = 0, at, meet

    def at_call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at and self.meet is not None:
                meet, self.meet = self.meet, None
                meet()
            return method(*args, **kwargs)

        return call

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)
        watched = ("load", "create", "commit", "rotate", "end", "adopt", "follow", "close_adoption")
        return self.at_call(method) if name in watched else method


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
        yield from _with_sqlalchemy(f"sqlite:///{tmp_path / 'old #1.db'}")
    else:
        yield with_safesession(make_app)


def _with_sqlalchemy(url: str, scheme: str = "") -> Iterator[Old]:
    from flask_sqlalchemy import SQLAlchemy
    from sqlalchemy import func, select

    app = Flask("old")
    app.secret_key = KEY
    app.config |= {"SQLALCHEMY_DATABASE_URI": url, "SESSION_TYPE": "sqlalchemy"}
    app.config["SESSION_SQLALCHEMY_TABLE"] = "old-sessions"
    db = app.config["SESSION_SQLALCHEMY"] = SQLAlchemy(app)
    FlaskSession(app)

    def left() -> int:
        with app.app_context():
            table = db.metadata.tables["old-sessions"]
            return int(db.session.execute(select(func.count()).select_from(table)).scalar_one())

    place = Old(app, f"flask-session+{scheme or url}", left=left)
    place.config["SESSION_SQLALCHEMY_TABLE"] = "old-sessions"
    yield place
    with app.app_context():
        db.drop_all()
        db.engine.dispose()


@pytest.fixture(params=["postgresql", "mysql", "memcached"])
def on_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Old]:
    """Flask-Session on the other kinds of servers."""
    if request.param == "memcached":
        yield from _with_memcached()
        return
    database: Database = request.getfixturevalue(request.param)
    url = database.url()
    driver = {"postgresql": "psycopg", "mysql": "pymysql"}[request.param]
    with_driver = url.replace("://", f"+{driver}://", 1)
    yield from _with_sqlalchemy(with_driver, url)


def _with_memcached() -> Iterator[Old]:
    if memcached.BINARY is None:
        pytest.skip("memcached is not on this machine")
    with memcached.running() as server:
        # Otherwise it does not wait until a session is stored.
        client = PooledClient(("127.0.0.1", server.port), default_noreply=False)
        place = f"flask-session+{server.url}"
        yield flask_session(place, SESSION_TYPE="memcached", SESSION_MEMCACHED=client)
        client.close()


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


def test_so_it_is_on_other_servers(on_server: Old, site: Site, kit: StoreKit) -> None:
    test_who_was_signed_in_before_is_signed_in_after(on_server, site)
    test_nobody_is_lost_by_eight_threads(on_server, site, kit)


def test_there_an_old_worker_revives_nothing(on_server: Old, site: Site) -> None:
    test_an_old_worker_that_writes_its_record_back_revives_nothing(on_server, site, "clear=1")


def test_there_an_id_in_another_case_is_another_id(on_server: Old, site: Site) -> None:
    cookie, app = cookie_of(on_server.browser()), site(on_server)
    assert read(browser(app, cookie.swapcase())) == {}
    assert read(browser(app, cookie)) == {"user_id": "7", "cart": "book"}


def test_there_sessions_are_counted(on_server: Old, site: Site) -> None:
    on_server.browser()
    found = [_place(site(on_server)).count(9)]
    on_server.config["SESSION_KEY_PREFIX"] = "another app:"
    found.append(_place(site(on_server)).count(9))
    assert found in ([1, 0], [None, None])


def test_a_response_that_nobody_receives_loses_nothing(old: Old, site: Site) -> None:
    cookie, app = cookie_of(old.browser()), site(old)
    lost = browser(app, cookie).post("/do?set=cart:two")
    assert "Set-Cookie" in lost.headers
    again = browser(app, cookie)
    assert read(again) == {"user_id": "7", "cart": "two"}
    assert cookie_of(again) != cookie
    assert len(app.extensions["tested.safe"].sessions_of(7)) == 1


def test_a_lost_response_is_made_up_for_under_a_new_secret_key(old: Old, site: Site) -> None:
    cookie, app = cookie_of(old.browser()), site(old)
    browser(app, cookie).get("/read")
    app.config["SECRET_KEY_FALLBACKS"] = [KEY]
    app.secret_key = "another one, since the first has been long in use"
    again = browser(app, cookie)
    assert read(again) == {"user_id": "7", "cart": "book"}
    app.config["SECRET_KEY_FALLBACKS"] = []
    assert read(again) == {"user_id": "7", "cart": "book"}


def test_a_late_request_follows_the_link(old: Old, site: Site) -> None:
    cookie, app = cookie_of(old.browser()), site(old)
    first, late = browser(app, cookie), browser(app, cookie)
    first.post("/do?set=cart:two")
    first.post("/do?set=cart:three")
    assert read(late) == {"user_id": "7", "cart": "three"}
    assert cookie_of(late) == cookie_of(first)


@pytest.mark.every_store
def test_nobody_is_lost_by_eight_threads(old: Old, site: Site, kit: StoreKit) -> None:
    browsers = [old.browser(f"set=user_id:{n}&set=cart:{n}") for n in range(4)]
    app = site(old)

    def shop(number: int) -> tuple[Any, str]:
        client = browser(app, cookie_of(browsers[number // 2]))
        assert client.post(f"/do?set=own{number}:1").status_code == 200
        return read(client), cookie_of(client)

    found = together(8, shop)
    for number, (data, cookie) in enumerate(found):
        user = str(number // 2)
        assert data.items() >= {"user_id": user, "cart": user, f"own{number}": "1"}.items()
        assert read(browser(app, cookie)).keys() >= {f"own{number // 2 * 2}", f"own{number}"}
        assert len(app.extensions["tested.safe"].sessions_of(user)) == 1


def test_an_adopted_session_is_never_fresh_until_its_user_signs_in(old: Old, site: Site) -> None:
    client = browser(site(old), cookie_of(old.browser("set=user_id:7")))
    assert client.get("/fresh").status_code == 403
    client.post("/do?renew=1&set=_tier:x")
    assert client.get("/fresh").status_code == 403
    client.post("/do?set=user_id:7")
    assert client.get("/fresh").status_code == 200


def test_what_other_extensions_take_for_a_recent_sign_in_stays_behind(old: Old, site: Site) -> None:
    before = old.browser("set=user_id:7&set=_fresh:1&set=fs_paa:2e9")
    found: Any = browser(site(old), cookie_of(before)).get("/read").json
    assert found["_fresh"] is False
    assert "fs_paa" not in found


@pytest.mark.parametrize("end", ["clear=1", "drop=user_id"])
def test_a_logout_closes_adoption_for_the_user_and_for_nobody_else(
    old: Old, site: Site, end: str
) -> None:
    phone, desk, other = (
        old.browser(f"set=user_id:{query}") for query in ("7", "7&set=cart:pen", "8")
    )
    app = site(old)
    moved = browser(app, cookie_of(phone))
    moved.post(f"/do?{end}")
    assert "user_id" not in read(moved)
    assert read(browser(app, cookie_of(phone))) == {}  # nor by a copy of the old cookie
    late = browser(app, cookie_of(desk))
    assert read(late) == {}
    assert read(browser(app, cookie_of(other))) == {"user_id": "8"}
    late.post("/do?set=user_id:7")
    assert read(late) == {"user_id": "7"}


@pytest.mark.parametrize("end", ["end_user", "end_others", "end_all"])
def test_ends_from_outside_close_it_too(old: Old, site: Site, end: str) -> None:
    phone, desk, other = (
        old.browser(f"set=user_id:{query}") for query in ("7", "7&set=cart:pen", "8")
    )
    app = site(old)
    moved = browser(app, cookie_of(phone))
    assert read(moved)["user_id"] == "7"
    safe: SafeSession = app.extensions["tested.safe"]
    if end == "end_user":
        safe.end_user(7)
    elif end == "end_all":
        safe.end_all()
    else:
        moved.post("/alone")
    assert bool(read(moved)) is (end == "end_others")
    assert read(browser(app, cookie_of(phone))) == read(moved)
    assert read(browser(app, cookie_of(desk))) == {}
    assert bool(read(browser(app, cookie_of(other)))) is (end != "end_all")


def test_a_live_cookie_of_ours_wins(old: Old, site: Site) -> None:
    app = site(old)
    ours = app.test_client()
    ours.post("/do?set=user_id:1")
    both = f"session={cookie_of(old.browser())}; session={cookie_of(ours)}"
    found: Any = app.test_client(use_cookies=False).get("/read", headers={"Cookie": both}).json
    assert found == {"user_id": "1"}
    assert old.left is None or old.left() == 1


def test_an_ended_session_of_ours_does_not_go_on_from_the_old_cookie(old: Old, site: Site) -> None:
    cookie, app = cookie_of(old.browser()), site(old)
    client = browser(app, cookie)
    read(client)
    app.extensions["tested.safe"].end(app.extensions["tested.safe"].sessions_of(7)[0].handle)
    again = browser(app, cookie)
    assert read(again) == {}
    again.post("/do?set=cart:new")  # into the stand-in of the dead ID
    assert read(again) == read(browser(app, cookie)) == {"cart": "new"}


def test_nothing_comes_after_the_date(
    old: Old, site: Site, kit: StoreKit, clock: FakeClock
) -> None:
    app = site(old, store=MemoryStore(clock), adopt_until=datetime.fromtimestamp(10, UTC))
    assert read(browser(app, cookie_of(old.browser()))) == {}
    assert old.left is None or old.left() == 1


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=-1)])
def test_the_stores_clock_decides_when_that_is(
    old: Old, site: Site, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    clock = FakeClock(int(now.timestamp() * 1000))
    with travel(now + ahead, tick=False):  # the worker's
        limits = {"lifetime": "60d", "idle_timeout": "60d"}
        until = now + timedelta(hours=1)
        app = site(old, store=MemoryStore(clock), adopt_until=until, **limits)
        assert read(browser(app, cookie_of(old.browser()))) == {"user_id": "7", "cart": "book"}
        clock.advance(HOUR)
        monkeypatch.setattr(_place(app), "read", pytest.fail)
        assert read(browser(app, cookie_of(old.browser("set=cart:pen")))) == {}


def test_after_the_date_the_old_place_may_be_gone(site: Site) -> None:
    old, past = (
        Old(Flask("old"), "flask-session+redis://127.0.0.1:1/0"),
        datetime(2020, 1, 1, tzinfo=UTC),
    )
    assert browser(site(old), "A" * 43).get("/read").status_code == 503
    assert browser(site(old, adopt_until=past), "A" * 43).get("/read").status_code == 200


def test_a_visitor_without_a_user_keeps_the_cart(old: Old, site: Site) -> None:
    client = browser(site(old), cookie_of(old.browser("set=cart:pen")))
    assert read(client) == {"cart": "pen"}
    client.post("/do?set=user_id:7")
    assert read(client) == {"cart": "pen", "user_id": "7"}


def test_a_cookie_that_leads_nowhere_is_a_new_visitor(old: Old, site: Site) -> None:
    client = browser(site(old), "A" * 43)
    assert read(client) == {}
    client.post("/do?set=cart:pen")
    assert read(client) == {"cart": "pen"}


# -- what happens between the steps -------------------------------------------------------------


def _place(app: Flask) -> Any:
    return app.extensions["safesession"].adoption.places[0]


def test_a_crash_between_link_and_deletion_loses_nothing_and_doubles_nothing(
    old: Old, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie, app = cookie_of(old.browser()), site(old)
    with monkeypatch.context() as patch:
        patch.setattr(_place(app), "delete", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            browser(app, cookie).get("/read")
    assert old.left is None or old.left() == 1
    again = browser(app, cookie)
    assert read(again) == {"user_id": "7", "cart": "book"}
    assert old.left is None or old.left() == 0
    assert len(app.extensions["tested.safe"].sessions_of(7)) == 1


def test_a_deletion_that_fails_is_no_error(
    old: Old, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = site(old)

    def fail(*_: object) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(_place(app), "delete", fail)
    client = browser(app, cookie_of(old.browser()))
    assert read(client) == read(client) == {"user_id": "7", "cart": "book"}


def test_an_outage_of_the_old_place_is_a_503_and_signs_nobody_out(
    old: Old, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookie, app = cookie_of(old.browser()), site(old)
    client = browser(app, cookie)
    with monkeypatch.context() as patch:
        patch.setattr(_place(app), "read", _down)
        for method in (client.get, client.post):
            refused = method("/do?set=cart:new")
            assert refused.status_code == 503
            assert "Set-Cookie" not in refused.headers
    assert read(client) == {"user_id": "7", "cart": "book"}


def _down(*_: object) -> Any:
    raise StoreUnavailable("down")


@pytest.mark.parametrize("end", ["", "clear=1"])
def test_an_old_worker_that_writes_its_record_back_revives_nothing(
    old: Old, site: Site, end: str
) -> None:
    before = old.browser()
    cookie, app = cookie_of(before), site(old)
    worker = old.app.test_request_context("/read", headers={"Cookie": f"session={cookie}"})
    with worker:
        session["cart"] = "from the old worker"
        client = browser(app, cookie)
        assert read(client) == {"user_id": "7", "cart": "book"}
        if end:
            client.post(f"/do?{end}")
        response = old.app.response_class()
        old.app.session_interface.save_session(old.app, session._get_current_object(), response)  # type: ignore[attr-defined]
    late = browser(app, cookie)
    assert read(late) == ({} if end else {"user_id": "7", "cart": "book"})


@pytest.mark.parametrize("late", ["set=late:1", "clear=1", "set=user_id:7"])
def test_two_requests_that_meet_anywhere_use_one_session(
    old: Old, site: Site, kit: StoreKit, late: str
) -> None:
    met = 0
    for at in count(1):
        store = MeetingStore(MemoryStore())
        cookie, app = cookie_of(old.browser()), site(old, store=store)
        _place(app).read = meeting = store.at_call(_place(app).read)
        one, two = browser(app, cookie), browser(app, cookie)
        store.plan(at, partial(two.post, f"/do?{late}"))
        assert one.post("/do?set=mine:1").status_code == 200
        if store.meet is not None:
            break
        met += 1
        safe: SafeSession = app.extensions["tested.safe"]
        assert len(safe.sessions_of(7)) == (0 if late == "clear=1" else 1), at
        assert ("user_id" in read(browser(app, cookie))) is (late == "set=late:1"), at
        if late == "set=late:1":
            assert read(one) == {"user_id": "7", "cart": "book", "mine": "1", "late": "1"}
            assert cookie_of(one) == cookie_of(two)
        del meeting
    assert met > 2


def test_a_store_that_takes_no_more_is_a_503_and_loses_nothing(old: Old, site: Site) -> None:
    app = site(old, max_sessions=2, when_full="reject")
    app.test_client().post("/do?set=user_id:1")
    client = browser(app, cookie_of(old.browser()))
    assert client.get("/read").status_code == 503
    app.extensions["tested.safe"].end_user(1)
    assert read(client) == {"user_id": "7", "cart": "book"}


def test_a_user_with_too_many_sessions_signs_in_again(old: Old, site: Site) -> None:
    app = site(old, max_sessions_per_user=1, when_user_full="reject")
    app.test_client().post("/do?set=user_id:7")
    cookie = cookie_of(old.browser())
    assert read(browser(app, cookie)) == {}
    assert old.left is None or old.left() == 1


def test_a_session_that_is_too_large_is_reported_and_stays(
    old: Old, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    app = site(old, max_session_size=20)
    client = browser(app, cookie_of(old.browser()))
    assert read(client) == read(client) == {}
    assert old.left is None or old.left() == 1
    [said] = [r.getMessage() for r in caplog.records if "cannot be adopted" in r.getMessage()]
    assert "raise SAFESESSION_MAX_SESSION_SIZE" in said


# -- Flask-Session's formats --------------------------------------------------------------------


@pytest.fixture
def redis_place(any_server: Server) -> Iterator[Callable[..., Old]]:
    client = any_server.client()
    place = f"flask-session+redis://127.0.0.1:{any_server.port}/0"

    def make(**config: Any) -> Old:
        found = flask_session(place, SESSION_TYPE="redis", SESSION_REDIS=client, **config)
        found.config = config
        return found

    yield make
    client.close()


@pytest.mark.parametrize(
    "config",
    [
        {"SESSION_SERIALIZATION_FORMAT": "json"},
        {"SESSION_KEY_PREFIX": "shop:"},
        {"SESSION_KEY_PREFIX": ""},
        {"SESSION_ID_LENGTH": 64, "SESSION_KEY_PREFIX": ""},
        {"SESSION_PERMANENT": False},
    ],
    ids=["json", "prefix", "none", "longer", "not-permanent"],
)
def test_its_settings_are_followed(
    redis_place: Callable[..., Old], site: Site, config: dict[str, Any]
) -> None:
    old = redis_place(**config)
    assert read(browser(site(old), cookie_of(old.browser()))) == {"user_id": "7", "cart": "book"}


@pytest.mark.filterwarnings("ignore:The 'use_signer' option:DeprecationWarning")
def test_a_signed_id_is_verified(redis_place: Callable[..., Old], site: Site) -> None:
    old = redis_place(SESSION_USE_SIGNER=True)
    cookie, app = cookie_of(old.browser()), site(old)
    sid = cookie.rpartition(".")[0]
    for forged in (sid, f"{sid}.{'x' * 27}"):
        assert read(browser(app, forged)) == {}
    app.config["SECRET_KEY_FALLBACKS"] = [KEY]
    app.secret_key = "another one, since the first has been long in use"
    assert read(browser(app, cookie)) == {"user_id": "7", "cart": "book"}


def test_values_come_back_as_it_wrote_them(redis_place: Callable[..., Old], site: Site) -> None:
    old = redis_place()
    values: dict[Any, Any] = {7: "seven", b"8": "eight", "raw": b"\x00"}
    values |= {"list": [1, {"a": None}], "at": datetime(2030, 1, 2, tzinfo=UTC)}
    old.app.add_url_rule("/values", "values", lambda: str(session.update(values)))
    client = old.app.test_client()
    client.get("/values")
    app = site(old)
    app.add_url_rule("/same", "same", lambda: str({k: session[k] for k in values} == values))
    assert browser(app, cookie_of(client)).get("/same").text == "True"


@pytest.mark.parametrize(
    "value",
    [
        b"not a session",
        b'{"a":' * 9999,
        b"[1, 2]",
        b"17",
        b'{"a": 1',
        b"\xff\xff",
        b"",
    ],
    ids=["text", "deep", "list", "number", "cut", "bytes", "empty"],
)
@pytest.mark.parametrize("prefix", ["", "session:"])
def test_what_does_not_decode_as_a_session_is_never_deleted(
    redis_place: Callable[..., Old], site: Site, any_server: Server, value: bytes, prefix: str
) -> None:
    app, client = site(redis_place(SESSION_KEY_PREFIX=prefix)), any_server.client()
    client.set(prefix + "A" * 43, value)
    visitor = browser(app, "A" * 43)
    assert read(visitor) == {}
    visitor.post("/do?set=cart:pen")
    assert client.get(prefix + "A" * 43) == value
    client.close()


def test_without_a_prefix_only_ids_of_its_length_are_looked_up(
    redis_place: Callable[..., Old], site: Site, any_server: Server
) -> None:
    app, client = site(redis_place(SESSION_KEY_PREFIX="")), any_server.client()
    client.set("settings", json.dumps({"colour": "red"}))
    client.rpush("B" * 43, "a list")
    for name in ("settings", "B" * 43, "a:b", "é", "%", "A" * 3000):
        assert read(browser(app, name)) == {}
    assert json.loads(client.get("settings") or "") == {"colour": "red"}
    assert client.llen("B" * 43) == 1
    client.close()


def test_without_a_prefix_other_data_under_such_a_name_is_no_session(
    redis_place: Callable[..., Old], site: Site, any_server: Server
) -> None:
    old, client = redis_place(SESSION_KEY_PREFIX=""), any_server.client()
    uuid = "0f8fad5b-d9cb-469f-a165-70867728950e"
    data = {"A" * 43: json.dumps({"user_id": "7"}).encode(), uuid: bytes(msgpack.packb({1: 2}))}
    for name, value in data.items():
        client.set(name, value)
        assert read(browser(site(old), name)) == {}
    assert client.exists(*data) == 2
    client.close()


def test_what_is_left_is_counted_without_other_keys(
    redis_place: Callable[..., Old], site: Site, any_server: Server
) -> None:
    old, client = redis_place(SESSION_KEY_PREFIX=""), any_server.client()
    client.set("settings", "{}")
    client.set("a:b" + "c" * 40, "{}")
    app = site(old, store=f"redis://127.0.0.1:{any_server.port}/0")
    browser(app, cookie_of(old.browser())).post("/do?set=cart:pen")
    old.browser()
    assert _place(app).count(9) == 1
    client.close()


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("value", [{"user_id": "7"}, {"user_id": Bomb()}], ids=["plain", "bomb"])
def test_a_pickle_is_refused_and_reported_once(
    redis_place: Callable[..., Old],
    site: Site,
    any_server: Server,
    caplog: pytest.LogCaptureFixture,
    value: Any,
) -> None:
    app, client = site(redis_place()), any_server.client()
    client.set("session:" + "A" * 43, pickle.dumps(value))
    visitor = browser(app, "A" * 43)
    assert read(visitor) == read(visitor) == {}
    [said] = [r.getMessage() for r in caplog.records if "pickle" in r.getMessage()]
    assert "let Flask-Session 0.8 run for a while before you move" in said
    assert client.exists("session:" + "A" * 43)
    client.close()


def test_a_file_with_more_than_plain_values_is_refused(
    tmp_path: Path, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FileSystemCache(str(tmp_path), threshold=0)
    old = flask_session(
        f"flask-session+file://{tmp_path}", SESSION_TYPE="cachelib", SESSION_CACHELIB=cache
    )
    cache.set("session:" + "A" * 43, {"user_id": Bomb()})
    values: dict[str, Any] = {"user_id": "8", "seen": {1, 2}, "at": (1.5, None, -7, b"")}
    values |= {"day": TOMORROW, "sum": Decimal("1.10"), "told": Markup("<b>"), "no": [TOMORROW]}
    cache.set("session:" + "B" * 43, values)
    app = site(old)
    app.add_url_rule("/values", "values", lambda: repr(sorted(session.items())))
    assert read(browser(app, "A" * 43)) == {}
    assert "(an object of _pytest.outcomes._Fail), which is never read" in caplog.text
    assert "let the app store text or numbers in their place before you move" in caplog.text
    found = browser(app, "B" * 43).get("/values").text
    assert found == repr(sorted(values.items()))


def test_of_files_only_the_live_ones_are_counted(tmp_path: Path, site: Site) -> None:
    cache = FileSystemCache(str(tmp_path))
    cache.set("session:" + "A" * 43, {"user_id": "7"}, timeout=60)
    cache.set("session:" + "B" * 43, {"user_id": "8"}, timeout=-60)
    assert _place(site(Old(Flask("old"), f"flask-session+file://{tmp_path}"))).count(9) == 1


def test_a_folder_that_is_missing_is_an_outage(tmp_path: Path, site: Site) -> None:
    app = site(Old(Flask("old"), f"flask-session+file://{tmp_path / 'gone'}"))
    assert browser(app, "A" * 43).get("/read").status_code == 503


def test_a_server_that_is_down_is_an_outage(site: Site) -> None:
    for url in ("redis://127.0.0.1:1/0", "memcached://127.0.0.1:1", "postgresql://127.0.0.1:1/x"):
        app = site(Old(Flask("old"), f"flask-session+{url}"))
        assert browser(app, "A" * 43).get("/read").status_code == 503
        assert app.test_client().get("/read").status_code == 200


# -- Flask's own cookies ------------------------------------------------------------------------


def test_an_old_cookie_keeps_its_age_and_is_refused_after_its_lifetime(site: Site) -> None:
    old = with_cookies()
    begun = datetime.now(UTC)
    cookie = cookie_of(old.browser())
    app = site(old, store=MemoryStore(lambda: int(time.time() * 1000)))
    with travel(begun + timedelta(hours=11), tick=False):
        client = browser(app, cookie)
        assert client.get("/age").text.startswith(f"{begun:%Y-%m-%d %H:%M}")
    with travel(begun + timedelta(hours=13), tick=False):
        assert read(client) == {}  # the lifetime of 12 hours counts from then
        assert read(browser(app, cookie)) == {}


def test_a_cookie_older_than_flask_allows_is_refused(site: Site) -> None:
    old = with_cookies()
    cookie = cookie_of(old.browser())
    begun = datetime.now(UTC)
    clock = MemoryStore(lambda: int(time.time() * 1000))
    app = site(old, store=clock, lifetime="60d", idle_timeout="60d", adopt_until="2999-12-31")
    app.permanent_session_lifetime = timedelta(days=3)
    with travel(begun + timedelta(days=3, seconds=5), tick=False):
        assert read(browser(app, cookie)) == {}
    with travel(begun + timedelta(days=2), tick=False):
        assert read(browser(app, cookie)) == {"user_id": "7", "cart": "book"}


def test_a_forged_cookie_costs_no_call(site: Site) -> None:
    old = with_cookies()
    cookie = cookie_of(old.browser())
    app = site(old, store=SilentStore())
    forged = cookie.rpartition(".")[0] + "." + "x" * 27  # some last characters mean the same
    for value in (forged, "a.b.c", ".", "x" * 3000):
        assert read(browser(app, value)) == {}


def test_a_failed_signature_of_ours_falls_through_to_nothing(
    old: Old, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, asked = site(old), list[str]()
    client = app.test_client()
    client.post("/do?set=cart:pen")
    forged = cookie_of(client)[:-1] + ("A" if cookie_of(client)[-1] != "A" else "B")

    def credentials(app: Flask, foreign: list[str], ours: object) -> list[Any]:
        asked.extend(foreign)
        return []

    monkeypatch.setattr(_place(app), "credentials", credentials)
    monkeypatch.setattr(_place(app), "read", pytest.fail)
    both = f"session={forged}; session=other"
    app.test_client(use_cookies=False).get("/read", headers={"Cookie": both})
    assert asked == ["other"]


# -- SafeSession's own places -------------------------------------------------------------------


def test_a_replaced_secret_of_an_old_id_opens_nothing(make_app: MakeApp, clock: FakeClock) -> None:
    store = MemoryStore(clock)
    old = views(make_app(store=store, renew_interval="1m"))
    client = old.test_client()
    client.post("/do?set=user_id:7")
    first = cookie_of(client)
    clock.advance(MINUTE)
    for _ in range(2):
        client.get("/read")
    clock.advance(MINUTE)
    assert cookie_of(client) != first
    app = views(make_app(store=MemoryStore(clock), adopt=[store]))
    assert read(browser(app, first)) == {}
    assert read(browser(app, cookie_of(client))) == {"user_id": "7"}


def test_a_session_keeps_the_limits_that_it_asked_for(make_app: MakeApp, clock: FakeClock) -> None:
    store, settings = MemoryStore(clock), {"longest_lifetime": "60d"}
    old = views(make_app(store=store, **settings))
    old.add_url_rule("/stay", "stay", stay, methods=["POST"])
    client = old.test_client()
    client.post("/do?set=user_id:7")
    client.post("/stay")
    clock.advance(24 * HOUR)
    app = views(make_app(store=MemoryStore(clock), adopt=[store], **settings))
    after = browser(app, cookie_of(client))
    assert read(after) == {"user_id": "7"}
    clock.advance(24 * HOUR)
    assert read(after) == {"user_id": "7"}


@pytest.fixture
def make_shards(any_server: Server) -> Iterator[Callable[[str, int], Any]]:
    """Makes stores under several prefixes."""
    client, made = any_server.client(), []

    def make(prefix: str, shards: int) -> Any:
        made.append(open_shards(client, prefix=prefix, timeout=5, shards=shards))
        return made[-1]

    yield make
    for store in made:
        store.close()
    client.close()


def test_a_move_to_more_shards(make_app: MakeApp, make_shards: Callable[[str, int], Any]) -> None:
    old = views(make_app(store=make_shards("few", 1)))
    before = [old.test_client() for _ in range(12)]
    for number, client in enumerate(before):
        client.post(f"/do?set=user_id:{number // 2}&set=cart:{number}")
    anonymous = old.test_client()
    anonymous.post("/do?set=cart:pen")
    ready = [old.extensions["safesession"].store]
    app = views(make_app(store=make_shards("more", 4), adopt=ready, shards=4))
    after = [browser(app, cookie_of(client)) for client in (*before, *before)]
    for number, client in enumerate(after):
        cart = str(number % 12)
        assert read(client) == {"user_id": str(int(cart) // 2), "cart": cart}
    assert read(browser(app, cookie_of(anonymous))) == {"cart": "pen"}
    safe: SafeSession = app.extensions["tested.safe"]
    assert [len(safe.sessions_of(user)) for user in range(6)] == [2] * 6
    assert safe.count() == 13
    assert app.extensions["safesession"].store.adoptions().total == 13
