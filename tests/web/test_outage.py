# ruff: noqa: PLW0108  # a lambda: outside a request the proxy has no methods to refer to
"""Requests that do without the store: in an outage, and in views that are exempt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flask_login
import pytest
from flask import (
    Blueprint,
    Flask,
    flash,
    get_flashed_messages,
    request_finished,
    stream_with_context,
)
from flask.testing import FlaskClient
from flask.views import MethodView, View
from werkzeug.test import TestResponse

from flask_safesession import ConfigError, SafeSession, StoreUnavailable, session
from flask_safesession.config.settings import read_settings
from flask_safesession.events import StoreFailed, store_failed
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock
from flask_safesession.web.interface import EXEMPT

from ..support.counting import CountingStore

MakeApp = Callable[..., Flask]
Use = Callable[[], object]


def read_and_stay() -> None:
    session.get("user_id")
    session.permanent = True


def assign_and_remove() -> None:
    session["a"] = 1
    del session["a"]


READS: dict[str, Use] = {
    "get": lambda: session.get("user_id"),
    "in": lambda: "user_id" in session,
    "dict": lambda: dict(session),
    "flashes": get_flashed_messages,
    "new": lambda: session.new,
    "info": lambda: session.info,
    "permanent": lambda: session.permanent,
    "permanent = True": lambda: setattr(session, "permanent", True),
    "read, then permanent = True": read_and_stay,
    "modified = False": lambda: setattr(session, "modified", False),
}
WRITES: dict[str, Use] = {
    "assign": lambda: session.__setitem__("a", 1),
    "assign and remove": assign_and_remove,
    "sign in": lambda: session.__setitem__("user_id", 1),
    "delete": lambda: session.__delitem__("user_id"),
    "pop": lambda: session.pop("user_id"),
    "pop what may not be there": lambda: session.pop("user_id", None),
    "setdefault": lambda: session.setdefault("cart", []),
    "update": lambda: session.update(a=1),
    "change inside": lambda: session.setdefault("cart", []).append("pear"),
    "flash": lambda: flash("hello"),
    "clear": lambda: session.clear(),
    "invalidate": lambda: session.invalidate(),
    "regenerate": lambda: session.regenerate(),
    "modified = True": lambda: setattr(session, "modified", True),
}


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
def app(make_app: MakeApp, store: CountingStore) -> Flask:
    return with_views(make_app(store=store, on_outage="readonly-anonymous"))


def with_views(app: Flask) -> Flask:
    add(app, "/in", lambda: session.update(user_id="ann", cart=["pear"]))
    app.add_url_rule("/read", "read", lambda: dict(session), methods=["GET", "POST"])
    app.add_url_rule("/untouched", "untouched", lambda: "nothing of the session")
    return app


def add(app: Flask, path: str, use: Use, **options: Any) -> Any:
    """A view at *path* that does *use* and claims success."""

    def view() -> str:
        use()
        return "done"

    app.add_url_rule(path, path, view, **options)
    return view


@pytest.fixture
def client(app: Flask, store: CountingStore) -> FlaskClient:
    """The browser of somebody who is signed in."""
    client = app.test_client()
    with client.session_transaction() as transaction:
        transaction.update(user_id="ann", cart=["pear"])
    store.take()
    return client


def safe_of(app: Flask) -> SafeSession:
    found: SafeSession = app.extensions["tested.safe"]
    return found


def look() -> None:
    session.get("user_id")


@contextmanager
def failures(app: Flask) -> Iterator[list[StoreFailed]]:
    seen: list[StoreFailed] = []

    def note(sender: Flask, event: StoreFailed) -> None:
        seen.append(event)

    with store_failed.connected_to(note, app):
        yield seen


def assert_page_of_a_stranger(response: TestResponse) -> None:
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert response.headers["Vary"] == "Cookie"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in response.headers


def assert_unavailable(response: TestResponse) -> None:
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "5"
    assert "Set-Cookie" not in response.headers


# -- the setting --------------------------------------------------------------------------------


def test_an_outage_is_a_503_unless_another_policy_is_chosen() -> None:
    assert read_settings({}, {}).on_outage == "unavailable"
    assert read_settings({"SAFESESSION_ON_OUTAGE": "readonly-anonymous"}, {}).on_outage == (
        "readonly-anonymous"
    )


@pytest.mark.parametrize("value", ["readonly", "Unavailable", "", None, True, ["unavailable"]])
def test_an_unknown_policy_is_named_with_the_right_ones(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({}, {"on_outage": value})
    assert caught.value.problems == (
        f"SAFESESSION_ON_OUTAGE is {value!r}: give 'unavailable' or 'readonly-anonymous'",
    )


# -- an outage, readonly-anonymous --------------------------------------------------------------


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_view_that_only_reads_sees_a_stranger_in_an_outage(
    app: Flask, client: FlaskClient, store: CountingStore, read: Use
) -> None:
    add(app, "/use", lambda: (read(), len(session)))
    store.failing = {"load"}
    with failures(app) as seen:
        assert_page_of_a_stranger(client.get("/use"))
    assert store.take() == ["load"]
    assert seen == [StoreFailed("load", "load is out of order")]
    store.failing = set()
    assert client.get("/read").json == {"user_id": "ann", "cart": ["pear"]}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_view_that_writes_is_a_503_in_an_outage(
    app: Flask, client: FlaskClient, store: CountingStore, write: Use
) -> None:
    add(app, "/use", write)
    store.failing = {"load"}
    with failures(app) as seen:
        assert_unavailable(client.get("/use"))
    assert store.take() == ["load"]
    assert len(seen) == 1
    store.failing = set()
    assert client.get("/read").json == {"user_id": "ann", "cart": ["pear"]}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_view_that_looks_away_cannot_pretend_to_have_written_whatever_the_policy(
    make_app: MakeApp, store: CountingStore, write: Use
) -> None:
    app = with_views(make_app(store=store))

    @app.get("/look-away")
    def look_away() -> str:
        for _ in range(2):
            try:
                write()
            except StoreUnavailable:
                continue
        return "done"

    client = app.test_client()
    client.get("/in")
    store.take()
    store.failing = {"load"}
    assert_unavailable(client.get("/look-away"))
    assert store.take() == ["load"]


def test_the_page_of_a_write_is_the_apps_own(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    @app.errorhandler(StoreUnavailable)
    def own(error: StoreUnavailable) -> tuple[str, int]:
        return f"back soon, {session.pop('user_id', 'stranger')} {dict(session)}", 503

    add(app, "/use", lambda: session.clear())
    store.failing = {"load"}
    response = client.get("/use")
    assert_unavailable(response)
    assert response.text == "back soon, stranger {}"


def test_what_is_known_of_the_session_in_an_outage_is_what_is_known_of_a_stranger(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    app.add_url_rule("/info", "info", lambda: session.info._asdict() | {"is_new": session.new})
    stranger = app.test_client().get("/info").json
    assert stranger
    assert stranger["user"] is None
    assert stranger["new"] is True
    store.failing = {"load"}
    assert client.get("/info").json == stranger


def test_permanence_is_remembered_but_the_session_stays_empty(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    @app.before_request
    def stay() -> None:
        session.permanent = True

    app.add_url_rule("/stay", "stay", lambda: [dict(session), bool(session), session.permanent])
    store.failing = {"load"}
    response = client.get("/stay")
    assert_page_of_a_stranger(response)
    assert response.json == [{}, False, True]


def test_the_apps_own_cache_control_stands(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    app.add_url_rule("/own", "own", lambda: (dict(session), {"Cache-Control": "private"}))
    store.failing = {"load"}
    assert client.get("/own").headers["Cache-Control"] == "private"


def test_what_a_visitor_posts_is_not_done_in_a_strangers_name(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    posted: list[object] = []
    add(app, "/post", lambda: posted.append(session.get("user_id")), methods=["POST", "DELETE"])
    store.failing = {"load"}
    for method in ("POST", "DELETE"):
        assert_unavailable(client.open("/post", method=method))
    assert posted == []
    assert_page_of_a_stranger(client.head("/read"))
    assert app.test_client().post("/post").status_code == 200, "no cookie: a stranger indeed"


def test_a_stranger_without_a_cookie_reads_as_always_and_writes_a_503(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    add(app, "/write", WRITES["assign"])
    store.failing = {"load", "create"}
    stranger = app.test_client()
    response = stranger.get("/read")
    assert response.status_code == 200
    assert "Cache-Control" not in response.headers
    assert store.take() == []
    assert_unavailable(stranger.get("/write"))
    assert store.take() == ["create"]


@pytest.mark.parametrize("policy", ["unavailable", "readonly-anonymous"])
def test_a_save_that_fails_is_a_503_under_every_policy(
    make_app: MakeApp, store: CountingStore, policy: str
) -> None:
    app = with_views(make_app(store=store, on_outage=policy))
    client = app.test_client()
    add(app, "/again", lambda: session.regenerate())
    client.get("/in")
    store.take()
    store.failing = {"rotate"}
    with failures(app) as seen:
        assert_unavailable(client.get("/again"))
    assert store.take() == ["load", "rotate"]
    assert [event.operation for event in seen] == ["save"]


def test_a_store_that_is_back_before_the_response_is_not_asked_again(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    def fix_and_write() -> None:
        assert dict(session) == {}
        store.failing = set()
        session["cart"] = ["a stranger's"]

    add(app, "/fix", fix_and_write)
    store.failing = {"load"}
    assert_unavailable(client.get("/fix"))
    assert store.take() == ["load"]
    assert client.get("/read").json == {"user_id": "ann", "cart": ["pear"]}


def test_a_sibling_that_signs_in_meanwhile_keeps_its_new_cookie(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    """Both have the same cookie; the one that found the store down answers last."""

    def let_a_sibling_sign_in() -> None:
        assert dict(session) == {}
        store.failing = set()
        client.get("/renew")

    add(app, "/renew", lambda: session.confirm_sign_in())
    add(app, "/slow", let_a_sibling_sign_in)
    late = app.test_client()
    before = client.get_cookie("session")
    assert before
    late.set_cookie("session", before.value)
    store.failing = {"load"}
    assert_page_of_a_stranger(late.get("/slow"))
    after = client.get_cookie("session")
    assert after
    assert after.value != before.value
    assert client.get("/read").json == {"user_id": "ann", "cart": ["pear"]}


def test_a_configuration_error_is_no_outage(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConfigError(["SAFESESSION_SHARDS is 2, but there are 4"])

    store.inner.load = refuse
    response = client.get("/read")
    assert response.status_code == 500
    assert response.headers["Vary"] == "Cookie", "the page is Flask's, and finished"
    app.testing = True
    with pytest.raises(ConfigError):
        client.get("/read")


def test_an_outage_that_begins_during_a_stream_is_reported(
    app: Flask, client: FlaskClient, store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    def body() -> Iterator[str]:
        yield f"{session.get('user_id')}"
        session["late"] = 1

    app.add_url_rule("/stream", "stream", lambda: stream_with_context(body()))
    store.failing = {"load"}
    with failures(app) as seen:
        response = client.get("/stream")
        assert response.text == "None"
    assert len(seen) == 1
    assert "before the stream begins" in caplog.text
    assert store.take() == ["load"]


@pytest.mark.parametrize("failing", [set(), {"load"}], ids=["up", "down"])
def test_a_write_in_a_stream_is_noticed_also_where_the_view_had_read(
    app: Flask,
    client: FlaskClient,
    store: CountingStore,
    caplog: pytest.LogCaptureFixture,
    failing: set[str],
) -> None:
    def body() -> Iterator[str]:
        yield f"{len(session)}"
        session["late"] = 1

    app.add_url_rule("/stream", "stream", lambda: stream_with_context(body()))
    app.before_request(look)
    store.failing = failing
    response = client.get("/stream")
    assert (response.status_code, response.text) == (200, "0" if failing else "2")
    assert "before the stream begins" in caplog.text


@pytest.mark.parametrize("policy", ["unavailable", "readonly-anonymous"])
def test_a_load_that_fails_after_the_view_is_no_internal_error(
    make_app: MakeApp, store: CountingStore, policy: str
) -> None:
    """Flask asks no error handler for what an ``after_request`` function raises."""
    app = with_views(make_app(store=store, on_outage=policy))

    @app.after_request
    def look_late(response: Any) -> Any:
        look()
        return response

    client = app.test_client()
    client.get("/in")
    store.take()
    store.failing = {"load"}
    with failures(app) as seen:
        response = client.get("/untouched")
    assert store.take() == ["load"]
    assert len(seen) == 1
    if policy == "unavailable":
        assert_unavailable(response)
    else:
        assert_page_of_a_stranger(response)
        assert response.text == "nothing of the session"


def test_a_handler_that_does_not_want_the_failure_leaves_flasks_page(
    make_app: MakeApp, store: CountingStore
) -> None:
    app = with_views(make_app(store=store))

    @app.errorhandler(StoreUnavailable)
    def refuse(error: StoreUnavailable) -> str:
        raise error

    client = app.test_client()
    client.get("/in")
    store.failing = {"load"}
    with failures(app) as seen:
        assert client.get("/read").status_code == 500
    assert len(seen) == 1


# -- exempt views -------------------------------------------------------------------------------


def assert_left_alone(response: TestResponse, text: str = "done") -> None:
    assert (response.status_code, response.text) == (200, text)
    for header in ("Set-Cookie", "Vary", "Cache-Control", "Retry-After"):
        assert header not in response.headers


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of exempt views; nothing else may have been."""
    said = [record.getMessage() for record in caplog.records]
    assert all("safe.exempt" in line for line in said), said
    caplog.clear()
    return said


@pytest.mark.parametrize("failing", [set(), {"load", "create"}], ids=["up", "down"])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_an_exempt_view_reads_an_empty_session_and_asks_nobody(
    app: Flask,
    client: FlaskClient,
    store: CountingStore,
    caplog: pytest.LogCaptureFixture,
    read: Use,
    failing: set[str],
) -> None:
    safe_of(app).exempt(add(app, "/use", lambda: (read(), dict(session) == {} or 1 / 0)))
    store.failing = failing
    for browser in (client, app.test_client()):
        assert_left_alone(browser.get("/use"))
    assert store.take() == []
    assert warnings(caplog) == []


class Page:
    """A view that is a method, as those of other libraries are."""

    def show(self) -> str:
        """Ask for the session."""
        return str(dict(session))


def test_a_view_that_is_a_method_can_be_exempt(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    page = Page()
    exempt = safe_of(app).exempt(page.show)
    app.add_url_rule("/exempt", view_func=exempt)
    app.add_url_rule("/plain", "plain", page.show)
    assert (exempt.__name__, exempt.__doc__) == ("show", page.show.__doc__)
    assert_left_alone(client.get("/exempt"), "{}")
    assert not hasattr(page.show, EXEMPT)  # nor is it for other apps


@pytest.mark.parametrize("failing", [set(), {"load", "create"}], ids=["up", "down"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_an_exempt_view_writes_is_not_stored_and_a_warning_says_so(
    app: Flask,
    client: FlaskClient,
    store: CountingStore,
    caplog: pytest.LogCaptureFixture,
    write: Use,
    failing: set[str],
) -> None:
    def use() -> None:
        try:
            write()
        except KeyError:  # an empty session has nothing to remove
            assert write in (WRITES["delete"], WRITES["pop"])

    safe_of(app).exempt(add(app, "/use", use))
    store.failing = failing
    for browser in (client, app.test_client()):
        assert_left_alone(browser.get("/use"))
        [warning] = warnings(caplog)
        assert "'/use'" in warning
        assert "Remove the mark" in warning
    assert store.take() == []
    store.failing = set()
    assert client.get("/read").json == {"user_id": "ann", "cart": ["pear"]}


def marked(safe: SafeSession) -> Iterator[tuple[str, Callable[[Flask], Any]]]:
    """Every way to make an exempt view."""

    def plain() -> dict[str, Any]:
        return dict(session)

    async def awaited() -> dict[str, Any]:
        return dict(session)

    class Plain(View):
        def dispatch_request(self) -> dict[str, Any]:
            return dict(session)

    class Decorated(MethodView):
        decorators = [safe.exempt]  # noqa: RUF012  # Flask's interface

        def get(self) -> dict[str, Any]:
            return dict(session)

    @safe.exempt
    class Marked(MethodView):
        def get(self) -> dict[str, Any]:
            return dict(session)

    def on_blueprint(app: Flask) -> None:
        outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)
        inner.get("/x")(safe.exempt(lambda: dict(session)))
        outer.register_blueprint(inner)
        app.register_blueprint(outer)

    def rule(view: Any) -> Callable[[Flask], Any]:
        return lambda app: app.add_url_rule("/x", "x", view)

    yield "below the route", lambda app: app.get("/x")(safe.exempt(plain))
    yield "above the route", lambda app: safe.exempt(app.get("/x")(lambda: dict(session)))
    yield "async", rule(safe.exempt(awaited))
    yield "what as_view gives", rule(safe.exempt(Plain.as_view("x")))
    yield "a class's decorators", rule(Decorated.as_view("x"))
    yield "a class", rule(Marked.as_view("x"))
    yield "on a blueprint", on_blueprint
    yield "passive as well", rule(safe.exempt(safe.passive(lambda: dict(session))))


WAYS = dict(marked(SafeSession()))


@pytest.mark.parametrize("register", WAYS.values(), ids=WAYS)
def test_a_view_can_be_marked_in_every_way_that_flask_knows(
    app: Flask, client: FlaskClient, store: CountingStore, register: Callable[[Flask], Any]
) -> None:
    register(app)
    assert client.get("/x").json == {}
    assert "Allow" in client.options("/x").headers
    assert store.take() == []
    assert client.get("/read").json == {"user_id": "ann", "cart": ["pear"]}


def test_a_class_can_be_passive_too(make_app: MakeApp) -> None:
    clock = FakeClock()
    app = with_views(make_app(store=MemoryStore(clock), idle_timeout="10m", touch_interval=0))

    @safe_of(app).passive
    class Poll(View):
        def dispatch_request(self) -> dict[str, Any]:
            return dict(session)

    app.add_url_rule("/poll", view_func=Poll.as_view("poll"))
    client = app.test_client()
    client.get("/in")
    clock.advance(6 * 60_000)
    assert client.get("/poll").json
    clock.advance(6 * 60_000)
    assert client.get("/poll").json == {}


def test_an_exempt_view_does_not_keep_the_session_alive(make_app: MakeApp) -> None:
    clock = FakeClock()
    app = with_views(make_app(store=MemoryStore(clock), idle_timeout="10m", touch_interval=0))
    safe_of(app).exempt(add(app, "/health", READS["get"]))
    client = app.test_client()
    client.get("/in")
    for _ in range(2):
        clock.advance(6 * 60_000)
        client.get("/health")
    assert client.get("/read").json == {}


def test_what_an_app_does_before_each_request_does_not_break_an_exempt_view(
    app: Flask, client: FlaskClient, store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    safe_of(app).exempt(add(app, "/health", READS["get"]))

    @app.before_request
    def prepare() -> None:
        session.permanent = True
        session.setdefault("csrf_token", "secret")

    store.failing = {"load", "create"}
    for _ in range(2):
        assert_left_alone(client.get("/health"))
        assert len(warnings(caplog)) == 1
    assert store.take() == []
    assert_unavailable(client.get("/read"))


def test_a_request_that_finds_no_view_has_an_ordinary_session(
    app: Flask, client: FlaskClient, store: CountingStore
) -> None:
    safe_of(app).exempt(add(app, "/health", READS["get"]))
    app.before_request(look)
    app.register_error_handler(404, lambda error: (dict(session), 404))
    assert client.get("/nowhere").json == {"user_id": "ann", "cart": ["pear"]}
    assert client.post("/health").status_code == 405
    assert store.take() == ["load", "load"]


def test_the_error_page_of_an_exempt_view_is_exempt(
    app: Flask, client: FlaskClient, store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    safe_of(app).exempt(add(app, "/health", lambda: 1 / 0))

    @app.errorhandler(ZeroDivisionError)
    def own(error: ZeroDivisionError) -> tuple[dict[str, Any], int]:
        flash("sorry")
        return {"user_id": session.get("user_id")}, 500

    response = client.get("/health")
    assert (response.status_code, response.json) == (500, {"user_id": None})
    assert "Set-Cookie" not in response.headers
    assert len(warnings(caplog)) == 1
    assert store.take() == []


def test_the_warning_comes_once_though_flask_saves_again_for_an_error_page(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    safe_of(app).exempt(add(app, "/health", WRITES["assign"]))

    def fail(sender: Flask, response: Any) -> None:
        if response.status_code == 200:
            raise ValueError("after the save")

    with request_finished.connected_to(fail, app):
        assert client.get("/health").status_code == 500
    assert caplog.text.count("safe.exempt") == 1


def test_a_tests_session_transaction_works_where_the_front_page_is_exempt(
    app: Flask, client: FlaskClient
) -> None:
    safe_of(app).exempt(add(app, "/", READS["get"]))
    with client.session_transaction("/") as transaction:
        transaction["a"] = 1
    assert client.get("/read").json == {"user_id": "ann", "cart": ["pear"], "a": 1}


def test_a_stream_of_an_exempt_view_is_exempt(
    app: Flask, client: FlaskClient, store: CountingStore, caplog: pytest.LogCaptureFixture
) -> None:
    def body() -> Iterator[str]:
        yield f"{dict(session)}"
        session["late"] = 1

    safe_of(app).exempt(view := lambda: stream_with_context(body()))
    app.add_url_rule("/stream", "stream", view)
    assert_left_alone(client.get("/stream"), "{}")
    assert store.take() == []
    assert "is not stored" in caplog.text


# -- Flask-Login --------------------------------------------------------------------------------


class User(flask_login.UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    def __init__(self, name: str) -> None:
        self.id = name


def name_of_user() -> str:
    user = flask_login.current_user
    return user.id if user.is_authenticated else "nobody"


PROTECTIONS = [None, "basic", "strong"]


@pytest.fixture(params=PROTECTIONS, ids=str)
def members(app: Flask, store: CountingStore, request: pytest.FixtureRequest) -> FlaskClient:
    """A user of Flask-Login's who is remembered, of an app with permanent sessions."""
    app.config["SESSION_PROTECTION"] = request.param
    manager = flask_login.LoginManager(app)
    manager.login_view = "sign_in"
    manager.user_loader(User)
    app.add_url_rule("/who", "who", name_of_user)
    # A function of its own: /who is not exempt.
    app.add_url_rule("/health", "health", safe_of(app).exempt(lambda: name_of_user()))
    app.add_url_rule("/account", "account", flask_login.login_required(lambda: "your account"))
    add(app, "/out", flask_login.logout_user)

    @app.get("/sign_in")
    def sign_in() -> str:
        flask_login.login_user(User("ann"), remember=True)
        return "done"

    @app.before_request
    def stay() -> None:
        session.permanent = True

    client = app.test_client()
    client.get("/sign_in")
    assert client.get("/who").text == "ann"
    store.take()
    return client


ELSEWHERE = {"User-Agent": "another browser"}


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("headers", [None, ELSEWHERE], ids=["at home", "elsewhere"])
def test_flask_login_knows_nobody_in_an_exempt_view_and_writes_nothing(
    app: Flask,
    members: FlaskClient,
    store: CountingStore,
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str] | None,
    refresh: bool,
) -> None:
    app.config["REMEMBER_COOKIE_REFRESH_EACH_REQUEST"] = refresh
    assert members.get_cookie("remember_token")
    assert_left_alone(members.get("/health", headers=headers), "nobody")
    members.delete_cookie("session")
    assert_left_alone(members.get("/health", headers=headers), "nobody")
    assert store.take() == []
    assert warnings(caplog) == []


@pytest.mark.parametrize("refresh", [False, True])
@pytest.mark.parametrize("headers", [None, ELSEWHERE], ids=["at home", "elsewhere"])
def test_flask_login_sees_a_stranger_in_an_outage_and_the_user_after_it(
    app: Flask,
    members: FlaskClient,
    store: CountingStore,
    headers: dict[str, str] | None,
    refresh: bool,
) -> None:
    app.config["REMEMBER_COOKIE_REFRESH_EACH_REQUEST"] = refresh
    store.failing = {"load"}
    response = members.get("/who", headers=headers)
    assert_page_of_a_stranger(response)
    assert response.text == "nobody"
    assert members.get("/untouched").status_code == 200
    store.failing = set()
    store.take()
    assert members.get("/who").text == "ann"
    assert store.take() == ["load"]


def test_flask_login_cannot_sign_in_or_out_in_an_outage_nor_send_to_the_login(
    members: FlaskClient, store: CountingStore
) -> None:
    store.failing = {"load"}
    for path in ("/sign_in", "/out", "/account"):
        assert_unavailable(members.get(path))
    store.failing = set()
    assert members.get_cookie("remember_token")
    assert members.get("/account").text == "your account"
