"""Flask-SocketIO 5 and Flask-Sock 0.7, as they are: what they use of a session delivers no cookie.

Events by Flask-SocketIO's own test client, views by a server of werkzeug's or gunicorn's and a
client of simple-websocket's.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import flask
import flask_login
import pytest
import requests
import socketio
from flask import Flask, Response, request, send_file, stream_with_context
from flask_socketio import SocketIO
from simple_websocket import Client
from werkzeug.serving import make_server

from flask_safesession import session
from flask_safesession.errors import StoreUnavailable, UndeliverableSignIn
from flask_safesession.events import session_ended, session_lost, session_replayed, store_failed
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support import servers
from ..support.counting import CountingStore
from ..support.sites.sockets import make_app as make_site

MINUTE = 60_000
TIERS = {"admin": {"idle_timeout": "20m", "lifetime": "1h"}}
UPGRADE = {"Upgrade": "websocket"}
ROOT = Path(__file__).parents[2]
PATIENCE = 20.0

Work = Callable[[], Any]


class MakeApp(Protocol):
    def __call__(self, **settings: Any) -> Flask: ...


class Visitor:
    """A browser: pages and sockets with the same cookies; a view and an event do given work."""

    def __init__(self, app: Flask, sio: SocketIO) -> None:
        self.http = app.test_client()
        self._app = app
        self._sio = sio
        self._socket: Any = None

    def get(self, work: Work = lambda: dict(session), **options: Any) -> Any:
        """What the work returns in a page that is asked for."""
        return self.http.get("/", environ_overrides={"tested.work": work}, **options).json

    def post(self, work: Work, **options: Any) -> Any:
        return self.http.post("/", environ_overrides={"tested.work": work}, **options).json

    def connect(self, *, first: Work = lambda: dict(session)) -> None:
        """Open a socket; the work is its ``connect`` handler's."""
        self._app.extensions["tested.connect"] = first
        self._socket = self._sio.test_client(self._app, flask_test_client=self.http)

    def event(self, work: Work = lambda: dict(session)) -> Any:
        """What the work returns in an event of the socket."""
        self._app.extensions["tested.event"] = work
        return self._socket.emit("work", callback=True)

    @property
    def cookie(self) -> str | None:
        found = self.http.get_cookie("session")
        return found.value if found else None

    @cookie.setter
    def cookie(self, value: str | None) -> None:
        self.http.set_cookie("session", value or "")


def put(**values: Any) -> Work:
    return lambda: session.update(values)


def each(*works: Work) -> Work:
    """All of the works in turn; what the last one returns."""
    return lambda: [work() for work in works][-1]


def end() -> None:
    session.clear()


def append() -> None:
    session["cart"].append("fig")


def regenerate() -> None:
    session.regenerate()


def confirm() -> None:
    session.confirm_sign_in()
    session["x"] = 1  # Flask-SocketIO saves only then


def make_permanent() -> None:
    session.permanent = True


def force() -> None:
    session.modified = True


def save_by_hand(response: Response | None = None) -> None:
    app: Any = flask.current_app
    app.session_interface.save_session(app, session, response or Response())


def handle() -> str | None:
    return session.info.handle


def with_events(app: Flask, **options: Any) -> SocketIO:
    sio = SocketIO(app, async_mode="threading", **options)
    sio.on("connect")(lambda _auth: app.extensions["tested.connect"]() and None)
    sio.on("work")(lambda: app.extensions["tested.event"]())  # noqa: PLW0108  # another each time
    view = lambda: flask.jsonify(request.environ["tested.work"]())  # noqa: E731
    app.add_url_rule("/", "page", view, methods=["GET", "POST"])
    return sio


@pytest.fixture
def store(clock: FakeClock) -> CountingStore:
    return CountingStore(MemoryStore(clock))


@pytest.fixture
def app(make_app: MakeApp, store: CountingStore) -> Flask:
    return make_app(
        store=store, renew_interval="10m", expiry="tiered", tiers=TIERS, tier_key="role"
    )


@pytest.fixture
def sio(app: Flask) -> SocketIO:
    return with_events(app, manage_session=False)


@pytest.fixture
def visitor(app: Flask, sio: SocketIO) -> Visitor:
    return Visitor(app, sio)


@pytest.fixture
def user(visitor: Visitor) -> Visitor:
    """One who has signed in and then opened a socket."""
    visitor.post(put(user_id=7, cart=["pear"]))
    visitor.connect()
    return visitor


@pytest.fixture
def stolen(app: Flask) -> Iterator[list[Any]]:
    found: list[Any] = []

    def note(sender: Flask, event: Any) -> None:
        found.append(event)

    with session_replayed.connected_to(note, app):
        yield found


def count(app: Flask) -> int:
    return int(app.extensions["tested.safe"].count())


# -- events of Flask-SocketIO -------------------------------------------------------------------


def test_fault_41_what_an_event_writes_is_kept_under_the_same_id(user: Visitor) -> None:
    before, cookie = user.get(handle), user.cookie
    user.event(each(append, put(typed=True)))
    assert user.event() == {"user_id": 7, "cart": ["pear", "fig"], "typed": True}
    assert user.get() == {"user_id": 7, "cart": ["pear", "fig"], "typed": True}
    assert (user.get(handle), user.cookie) == (before, cookie)


def test_events_and_pages_that_change_one_session_at_once_both_keep_their_changes(
    user: Visitor,
) -> None:
    user.event(each(put(mine=1), lambda: user.get(put(theirs=2))))
    assert user.get().items() >= {"mine": 1, "theirs": 2}.items()


def test_fault_41_an_event_renews_nothing_and_the_next_page_does(
    user: Visitor, clock: FakeClock, stolen: list[Any]
) -> None:
    cookie = user.cookie
    user.get()
    clock.advance(11 * MINUTE)
    user.event(put(typed=True))
    assert user.get()["typed"] is True
    assert user.cookie != cookie
    clock.advance(11 * MINUTE)
    assert user.get()["user_id"] == 7
    assert stolen == []


def test_a_change_of_tier_in_an_event_gives_a_new_id_with_the_next_page(user: Visitor) -> None:
    before, cookie = user.get(handle), user.cookie
    user.event(put(role="admin"))
    assert user.event(lambda: session.info.tier) == "admin"
    assert user.event(handle) == before
    assert user.cookie == cookie
    user.get()
    assert user.cookie != cookie
    assert user.get(handle) != before
    assert user.get() == {"user_id": 7, "cart": ["pear"], "role": "admin"}


def test_a_new_id_that_an_event_asked_for_comes_with_the_next_page_once(user: Visitor) -> None:
    before = user.get(handle)
    user.event(each(put(typed=1), regenerate))
    assert user.event(handle) == before
    user.get()
    new = user.get(handle)
    assert new not in (before, None)
    assert user.get() == {"user_id": 7, "cart": ["pear"], "typed": 1}
    assert user.get(handle) == new


def test_permanence_that_an_event_chose_reaches_the_browser_with_the_next_page(
    user: Visitor,
) -> None:
    user.event(each(put(typed=1), make_permanent))
    assert user.http.get_cookie("session").expires is None  # type: ignore[union-attr]
    user.get()
    assert user.http.get_cookie("session").expires is not None  # type: ignore[union-attr]


def test_events_of_a_visitor_without_a_cookie_make_no_session(
    app: Flask, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    visitor.connect()
    for number in range(5):
        visitor.event(put(typed=number))
    assert count(app) == 0
    assert visitor.event() == {}
    [said] = caplog.records
    assert "Use the session in an HTTP request first" in said.getMessage()


@pytest.mark.parametrize("is_known", [True, False], ids=["with a session", "without one"])
def test_fault_41_a_sign_in_in_an_event_is_an_error_that_says_what_to_do(
    visitor: Visitor, app: Flask, *, is_known: bool
) -> None:
    if is_known:
        visitor.get(put(cart=["pear"]))
    visitor.connect()
    with pytest.raises(UndeliverableSignIn, match=r"by an HTTP request, and reconnect the socket"):
        visitor.event(put(user_id=7))
    assert visitor.get() == ({"cart": ["pear"]} if is_known else {})
    assert count(app) == is_known


@pytest.mark.parametrize(
    "sign_in",
    [put(user_id=8), confirm],
    ids=["another user", "the same one again"],
)
def test_who_has_signed_in_is_signed_in_by_no_event(user: Visitor, sign_in: Work) -> None:
    before = user.get(handle)
    with pytest.raises(UndeliverableSignIn):
        user.event(sign_in)
    assert user.get() == {"user_id": 7, "cart": ["pear"]}
    assert user.get(handle) == before


def test_fault_41_a_logout_in_an_event_ends_the_session_at_once(app: Flask, user: Visitor) -> None:
    user.event(lambda: session.pop("user_id") and put(left="over")())
    assert count(app) == 0
    assert user.event() == {}
    assert user.get() == {}


def test_a_session_cleared_in_an_event_takes_what_is_written_afterwards_with_it(
    app: Flask, user: Visitor
) -> None:
    user.event(each(end, put(theme="dark")))
    assert count(app) == 0
    assert user.get() == {}


def test_a_session_that_an_event_emptied_is_filled_by_the_next_page(visitor: Visitor) -> None:
    visitor.get(put(cart=1))
    visitor.connect()
    visitor.event(lambda: session.pop("cart"))
    assert visitor.get() == {}
    visitor.get(put(cart=2))
    assert visitor.get() == {"cart": 2}


def test_fault_41_a_socket_lives_longer_than_renewals_and_nobody_is_reported(
    app: Flask, user: Visitor, clock: FakeClock, stolen: list[Any]
) -> None:
    cookies = set()
    for turn in range(5):
        clock.advance(11 * MINUTE)
        assert user.event(lambda: session.get("turn", -1)) == turn - 1
        user.event(put(turn=turn))
        user.get()
        assert user.get()["turn"] == turn
        cookies.add(user.cookie)
    assert len(cookies) == 5
    assert stolen == []
    assert count(app) == 1


def test_a_socket_that_looks_too_late_gets_nothing_and_reports_nobody(
    user: Visitor, clock: FakeClock, stolen: list[Any]
) -> None:
    user.connect(first=lambda: None)
    for _ in range(2):
        user.get()
        clock.advance(11 * MINUTE)
    user.get()
    for _ in range(3):
        clock.advance(MINUTE)
        user.event(put(typed=1))
        assert user.event() == {}
    assert stolen == []
    assert user.get() == {"user_id": 7, "cart": ["pear"]}


def test_a_socket_whose_session_ended_writes_nothing(app: Flask, user: Visitor) -> None:
    user.post(end)
    user.event(put(typed=1))
    assert user.event() == {}
    assert count(app) == 0
    assert user.get() == {}


def test_a_session_that_ends_during_an_event_is_not_written(app: Flask, user: Visitor) -> None:
    user.event(each(put(typed=1), lambda: user.post(end)))
    assert count(app) == 0
    assert user.get() == {}


def test_a_socket_of_before_the_sign_in_sees_nothing_of_the_users_session(
    visitor: Visitor,
) -> None:
    visitor.get(put(cart=1))
    visitor.connect()
    visitor.post(put(user_id=7))
    assert visitor.event() == {}
    visitor.event(put(cart=2))
    assert visitor.get() == {"cart": 1, "user_id": 7}
    visitor.connect()
    assert visitor.event() == {"cart": 1, "user_id": 7}


def test_an_event_knows_whose_session_it_has(user: Visitor) -> None:
    info = user.event(lambda: [session.info.user, session.info.tier, session.info.new])
    assert info == [7, "default", False]


def test_the_end_that_an_event_finds_is_reported_though_it_saves_nothing(
    app: Flask, user: Visitor, clock: FakeClock
) -> None:
    reasons: list[str] = []

    def note(sender: Flask, event: Any) -> None:
        reasons.append(event.reason)

    with session_ended.connected_to(note, app):
        clock.advance(24 * 60 * MINUTE)
        assert user.event() == {}
        assert user.event(lambda: session.info.ended_reason) == "idle"
    assert reasons == ["idle"]


@pytest.mark.parametrize(("failing", "operation"), [("load", "load"), ("commit", "save")])
def test_an_event_whose_change_cannot_be_stored_is_an_error(
    app: Flask, user: Visitor, store: CountingStore, failing: str, operation: str
) -> None:
    failed: list[str] = []

    def note(sender: Flask, event: Any) -> None:
        failed.append(event.operation)

    store.failing = {failing}
    with store_failed.connected_to(note, app), pytest.raises(StoreUnavailable):
        user.event(put(typed=1))
    assert failed == [operation]
    store.failing = set()
    assert user.get() == {"user_id": 7, "cart": ["pear"]}


def test_no_socket_goes_on_in_the_name_of_nobody_while_the_store_is_down(
    make_app: MakeApp, store: CountingStore
) -> None:
    app = make_app(store=store, on_outage="readonly-anonymous")
    visitor = Visitor(app, with_events(app, manage_session=False))
    visitor.post(put(user_id=7))
    visitor.connect()
    store.failing = {"load"}
    assert visitor.get() == {}
    with pytest.raises(StoreUnavailable):
        visitor.event()
    options: Any = {"environ_overrides": {"tested.work": lambda: dict(session)}}
    assert visitor.http.get("/", headers=UPGRADE, **options).status_code == 503


def test_an_event_goes_by_no_mark_of_the_view_that_has_its_address(
    app: Flask, user: Visitor
) -> None:
    exempt = app.extensions["tested.safe"].exempt(lambda path: "the single page")
    app._got_first_request = False
    app.add_url_rule("/<path:path>", "spa", exempt)
    user.event(put(typed=1))
    assert user.get()["typed"] == 1


def test_flask_socketio_saves_only_what_counts_as_modified(user: Visitor) -> None:
    user.event(append)
    assert user.get()["cart"] == ["pear"]
    user.event(each(append, force))
    assert user.get()["cart"] == ["pear", "fig"]


# -- manage_session=True ------------------------------------------------------------------------


def test_a_copy_of_flask_socketios_own_is_neither_stored_nor_kept_up_to_date(app: Flask) -> None:
    visitor = Visitor(app, with_events(app))
    visitor.post(put(user_id=7))
    visitor.connect()
    before = visitor.get(handle), visitor.cookie
    visitor.event(put(typed=1))
    visitor.get(put(cart=1))
    assert visitor.event() == {"user_id": 7, "typed": 1}
    assert visitor.get() == {"user_id": 7, "cart": 1}
    visitor.event(end)
    visitor.event(put(user_id=8))
    assert visitor.get() == {"user_id": 7, "cart": 1}
    assert (visitor.get(handle), visitor.cookie) == before


# -- Flask-Login --------------------------------------------------------------------------------


class User(flask_login.UserMixin):  # type: ignore[misc]  # Flask-Login has no types
    def __init__(self, name: str) -> None:
        self.id = name


def who() -> str | None:
    found: str | None = flask_login.current_user.get_id()
    return found


@pytest.fixture(params=["the usual key", "a function"])
def remembered(request: pytest.FixtureRequest, make_app: MakeApp) -> Visitor:
    """Has a remember-me cookie, and an anonymous session with a cart."""
    keys = ["_user_id"] if request.param == "the usual key" else lambda data: data.get("_user_id")
    app = make_app(user_key=keys)
    flask_login.LoginManager(app).user_loader(User)
    visitor = Visitor(app, with_events(app, manage_session=False))
    visitor.post(lambda: flask_login.login_user(User("ann"), remember=True))
    visitor.http.delete_cookie("session")
    with visitor.http.session_transaction() as data:
        data["cart"] = 1
    return visitor


def test_fault_41_an_event_that_only_restores_a_user_keeps_its_other_changes(
    remembered: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    remembered.connect()
    assert remembered.event(each(put(typed=1), who)) == "ann"
    with remembered.http.session_transaction() as data:
        assert dict(data) == {"cart": 1, "typed": 1}
    assert remembered.get(who) == "ann"
    assert remembered.get().items() >= {"cart": 1, "typed": 1, "_user_id": "ann"}.items()
    assert caplog.records == []


def test_an_event_that_restores_a_user_without_a_session_is_dropped_silently(
    remembered: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    remembered.http.delete_cookie("session")
    remembered.connect()
    assert remembered.event(who) == "ann"
    assert remembered.cookie is None
    assert caplog.records == []


# -- saves by hand ------------------------------------------------------------------------------


def test_a_save_by_hand_commits_and_the_response_delivers_what_is_due(
    visitor: Visitor, clock: FakeClock, store: CountingStore
) -> None:
    visitor.get(put(cart=1))
    visitor.get()
    cookie = visitor.cookie
    clock.advance(11 * MINUTE)
    store.take()
    assert visitor.get(each(put(typed=1), save_by_hand, store.take)) == [
        "load",
        "commit",
    ]
    assert store.take() == ["commit"]
    assert visitor.cookie != cookie
    assert visitor.get() == {"cart": 1, "typed": 1}


@pytest.mark.parametrize("first", [put(cart=1), put(user_id=7)], ids=["a visitor", "a sign-in"])
def test_a_save_by_hand_of_a_new_session_is_made_once_by_the_response(
    app: Flask, visitor: Visitor, first: Work
) -> None:
    made: list[int] = []
    response = Response()
    visitor.post(each(first, lambda: save_by_hand(response), lambda: made.append(count(app))))
    assert made == [0]
    assert "Set-Cookie" not in response.headers
    assert count(app) == 1
    assert visitor.get(handle) is not None


def test_a_sign_in_and_a_logout_that_are_saved_by_hand_are_the_responses(
    app: Flask, visitor: Visitor
) -> None:
    visitor.get(put(cart=1))
    before = visitor.get(handle)
    visitor.post(each(put(user_id=7), save_by_hand, put(late=1)))
    assert visitor.get() == {"cart": 1, "user_id": 7, "late": 1}
    assert visitor.get(handle) != before
    visitor.post(each(end, save_by_hand))
    assert visitor.cookie is None
    assert count(app) == 0


def test_a_save_by_hand_that_fails_in_a_view_is_the_responses_to_admit(
    visitor: Visitor, store: CountingStore
) -> None:
    visitor.get(put(cart=1))
    went_on: list[bool] = []
    fail: Work = lambda: store.failing.add("commit")  # noqa: E731
    work = each(save_by_hand, put(cart=2), fail, save_by_hand, lambda: went_on.append(True))
    response = visitor.http.get("/", environ_overrides={"tested.work": work})
    assert response.status_code == 503
    assert went_on
    store.failing = set()
    assert visitor.get() == {"cart": 1}


@pytest.mark.parametrize("is_known", [True, False], ids=["with a session", "without one"])
def test_a_save_by_hand_in_a_stream_makes_no_session_and_no_new_id(
    app: Flask, visitor: Visitor, *, is_known: bool
) -> None:
    def stream() -> Response:
        def body() -> Iterator[str]:
            yield str(session.get("cart"))
            session["user_id"] = 7
            save_by_hand()

        return Response(stream_with_context(body()))

    app.add_url_rule("/stream", "stream", stream)
    if is_known:
        visitor.get(put(cart=1))
    before = visitor.get()
    visitor.http.get("/stream").get_data()
    assert visitor.get() == before
    assert count(app) == is_known


def test_what_is_written_after_the_end_of_a_sockets_view_is_noticed(
    app: Flask, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    def stream() -> Response:
        def body() -> Iterator[str]:
            session["late"] = 1
            yield "written"

        session["cart"] = 2
        return Response(stream_with_context(body()))

    app.add_url_rule("/stream", "stream", stream)
    visitor.get(put(cart=1))
    assert visitor.http.get("/stream", headers=UPGRADE).text == "written"
    assert "written after its response was built" in caplog.text


def test_an_error_page_in_place_of_a_response_sets_no_cookie_for_a_stand_in(
    app: Flask, visitor: Visitor, sio: SocketIO
) -> None:
    def fail(sender: Flask, response: Response) -> None:
        raise ZeroDivisionError

    visitor.post(put(user_id=7))
    late = Visitor(app, sio)
    late.cookie = visitor.cookie
    visitor.post(end)
    options: Any = {"environ_overrides": {"tested.work": each(put(cart=1), make_permanent)}}
    with flask.request_finished.connected_to(fail, app):
        response = late.http.post("/", **options)
    assert response.status_code == 500
    assert "Set-Cookie" not in response.headers
    assert late.get() == {"_permanent": True, "cart": 1}


def test_streams_and_files_deliver_cookies(app: Flask, visitor: Visitor) -> None:
    def stream() -> Response:
        session["user_id"] = 7
        return Response(stream_with_context(str(session[key]) for key in ("cart", "user_id")))

    def file() -> Response:
        session.regenerate()
        return send_file(BytesIO(b"a file"), "text/plain")

    app.add_url_rule("/stream", "stream", stream, methods=["POST"])
    app.add_url_rule("/file", "file", file)
    visitor.get(put(cart=1))
    handles = {visitor.get(handle)}
    assert visitor.http.post("/stream").text == "17"
    handles.add(visitor.get(handle))
    assert visitor.http.get("/file").text == "a file"
    handles.add(visitor.get(handle))
    assert len(handles) == 3
    assert visitor.get() == {"cart": 1, "user_id": 7}


# -- requests that claim to be sockets -----------------------------------------------------------


def test_a_request_that_claims_to_be_a_socket_signs_nobody_in(app: Flask, visitor: Visitor) -> None:
    visitor.get(put(cart=1))
    options: Any = {"environ_overrides": {"tested.work": put(user_id=7)}, "headers": UPGRADE}
    assert visitor.http.post("/", **options).status_code == 500
    assert visitor.get() == {"cart": 1}
    assert count(app) == 1


def test_fault_41_a_claim_to_be_a_socket_neither_steals_nor_escapes_from_being_judged(
    app: Flask, user: Visitor, clock: FakeClock, sio: SocketIO, stolen: list[Any]
) -> None:
    thief = Visitor(app, sio)
    thief.cookie = user.cookie
    user.get()
    clock.advance(11 * MINUTE)
    user.get()
    user.get()
    clock.advance(MINUTE)
    for _ in range(3):
        assert thief.get(headers=UPGRADE) == {}
        thief.get(put(theirs=1), headers=UPGRADE)
        clock.advance(MINUTE)
    assert stolen == []
    assert user.get() == {"user_id": 7, "cart": ["pear"]}
    assert thief.get() == {}
    clock.advance(MINUTE)
    assert thief.get() == {}
    assert len(stolen) == 1
    assert user.get() == {}


# -- real servers -------------------------------------------------------------------------------


class Browser:
    """Pages, WebSockets and Socket.IO of a site that runs at *url*, with the same cookies."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pages = requests.Session()

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self._pages.cookies.items())

    def get(self, path: str) -> Any:
        return self._pages.get(self._url + path, timeout=PATIENCE).json()

    def post(self, path: str) -> Any:
        return self._pages.post(self._url + path, timeout=PATIENCE).json()

    @contextlib.contextmanager
    def socket(self) -> Iterator[Callable[..., Any]]:
        """A WebSocket to the view of Flask-Sock; what it gives sends a message for its answer."""
        client = Client.connect(
            self._url.replace("http", "ws") + "/ws", headers={"Cookie": self.cookie}
        )

        def ask(*message: Any) -> Any:
            client.send(flask.json.dumps(message))
            return flask.json.loads(client.receive(timeout=PATIENCE))

        try:
            yield ask
        finally:
            client.close()
            client.thread.join(PATIENCE)

    @contextlib.contextmanager
    def events(self, transport: str) -> Iterator[Callable[..., Any]]:
        """A connection of Socket.IO's; what it gives sends an event for its answer."""
        client = socketio.Client(reconnection=False)
        client.connect(self._url, headers={"Cookie": self.cookie}, transports=[transport])
        try:
            yield lambda name, *arguments: client.call(name, arguments, timeout=PATIENCE)
        finally:
            if transport == "websocket":  # it would wait three seconds for a goodbye
                client.eio.ws.close = client.eio.ws.shutdown
            client.disconnect()
            client.eio.wait()

    def close(self) -> None:
        self._pages.close()


@contextlib.contextmanager
def threaded(app: Flask) -> Iterator[str]:
    """Werkzeug's server, in threads of this process."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextlib.contextmanager
def under_gunicorn(store: servers.Server, prefix: str, folder: Path) -> Iterator[str]:
    """The site in a worker of gunicorn's with threads."""
    (folder / "gunicorn.conf.py").write_text("control_socket_disable = True")
    url = f"127.0.0.1:{servers.free_port()}"
    command = [sys.executable, "-m", "gunicorn", "tests.support.sites.sockets:app", "--bind", url]
    command += ["--chdir", str(ROOT), "--config", str(folder / "gunicorn.conf.py")]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.setenv("SITE_STORE", store.url)
        environment.setenv("SITE_PREFIX", prefix)
        master = servers.spawn([*command, "--threads", "8"], folder / "log")

    def answers() -> bool:
        assert master.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"http://{url}/look", timeout=PATIENCE).ok
        return False

    try:
        servers.poll("the site", answers)
        yield f"http://{url}"
    finally:
        master.terminate()
        master.wait(PATIENCE)
        servers.end(master)


@pytest.fixture
def site(store: CountingStore) -> Flask:
    return make_site(store=store, renew_interval="10m")


@pytest.fixture
def url(site: Flask) -> Iterator[str]:
    with threaded(site) as found:
        yield found


@pytest.fixture
def browser(url: str) -> Iterator[Browser]:
    """Has signed in, and has a cart."""
    made = Browser(url)
    made.get("/put/cart/pear")
    made.post("/put/user_id/7")
    yield made
    made.close()


TRANSPORTS = pytest.mark.parametrize("transport", ["polling", "websocket"])


@TRANSPORTS
def test_fault_41_events_over_a_connection_change_the_session_and_no_id(
    browser: Browser, transport: str
) -> None:
    before, cookie = browser.get("/look"), browser.cookie
    with browser.events(transport) as event:
        assert event("look") == before
        event("put", "typed", 1)
        assert browser.get("/look") == {**before, "typed": 1}
        browser.get("/put/cart/fig")
        assert event("look") == {**before, "typed": 1, "cart": "fig"}
    assert browser.cookie == cookie


@TRANSPORTS
def test_fault_41_a_connection_lives_longer_than_renewals(
    browser: Browser, clock: FakeClock, site: Flask, transport: str
) -> None:
    replayed: list[Any] = []

    def note(sender: Flask, event: Any) -> None:
        replayed.append(event)

    with session_replayed.connected_to(note, site), browser.events(transport) as event:
        for turn in range(3):
            cookie = browser.cookie
            clock.advance(11 * MINUTE)
            event("put", "turn", turn)
            assert browser.get("/look")["turn"] == turn
            assert browser.cookie != cookie
            browser.get("/look")
        assert event("look") == browser.get("/look")
    assert replayed == []


def test_fault_41_what_a_socket_writes_is_stored_when_it_closes_under_the_same_id(
    browser: Browser,
) -> None:
    before, cookie = browser.get("/look"), browser.cookie
    with browser.socket() as ask:
        assert ask("put", "typed", 1) == {**before, "typed": 1}
        browser.get("/put/cart/fig")
    servers.poll("the save", lambda: "typed" in browser.get("/look"))
    assert browser.get("/look") == {**before, "typed": 1, "cart": "fig"}
    assert browser.cookie == cookie


def test_a_socket_can_store_what_it_wrote_while_it_is_open(browser: Browser) -> None:
    with browser.socket() as ask:
        for number in range(3):
            ask("put", "typed", number)
            assert ask("save") == {"saved": True}
            assert browser.get("/look")["typed"] == number


def test_a_socket_learns_that_its_change_could_not_be_stored(
    browser: Browser, store: CountingStore
) -> None:
    with browser.socket() as ask:
        ask("put", "typed", 1)
        store.failing = {"commit"}
        assert ask("save") == {"saved": False}


def test_a_socket_that_saves_by_force_sees_what_pages_have_changed_and_ended(
    browser: Browser,
) -> None:
    with browser.socket() as ask:
        before = ask("look")
        browser.get("/put/cart/fig")
        assert ask("look") == before
        assert ask("refresh") == {**before, "cart": "fig"}
        browser.post("/out")
        assert ask("refresh") == {"handle": None}


def test_fault_41_a_socket_renews_nothing_and_nobody_is_reported(
    browser: Browser, clock: FakeClock, site: Flask
) -> None:
    replayed: list[Any] = []

    def note(sender: Flask, event: Any) -> None:
        replayed.append(event)

    cookie = browser.cookie
    clock.advance(11 * MINUTE)
    with session_replayed.connected_to(note, site), browser.socket() as ask:
        ask("put", "typed", 1)
        for _ in range(3):
            clock.advance(11 * MINUTE)
            assert browser.get("/look")["user_id"] == "7"
        assert ask("save") == {"saved": True}
        assert browser.get("/look")["typed"] == 1
        assert browser.cookie != cookie
    assert replayed == []


def test_fault_41_a_sign_in_over_a_socket_is_an_error(
    browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    before = browser.get("/look")
    with browser.socket() as ask:
        ask("put", "user_id", 8)
        assert ask("save") == {"saved": False}
    servers.poll("the end of the view", lambda: "Exception on /ws" in caplog.text)
    assert "reconnect the socket after it" in caplog.text
    assert browser.get("/look") == before


def test_a_socket_whose_session_was_ended_writes_nothing_when_it_closes(
    browser: Browser, site: Flask
) -> None:
    lost: list[Any] = []

    def note(sender: Flask, event: Any) -> None:
        lost.append(event)

    with session_lost.connected_to(note, site):
        with browser.socket() as ask:
            ask("put", "typed", 1)
            browser.post("/out")
        servers.poll("the save", lambda: lost)
    assert browser.get("/look") == {"handle": None}


def test_sockets_work_under_gunicorn_with_redis(
    any_server: servers.Server, prefix: str, tmp_path: Path
) -> None:
    with under_gunicorn(any_server, prefix, tmp_path) as url:
        browser = Browser(url)
        browser.post("/put/user_id/7")
        before = browser.get("/look"), browser.cookie
        with browser.socket() as ask, browser.events("websocket") as event:
            ask("put", "socket", 1)
            assert ask("save") == {"saved": True}
            event("put", "event", 1)
            assert browser.get("/look") == {**before[0], "socket": 1, "event": 1}
            assert ask("put", "late", 1)["socket"] == 1
        servers.poll("the save", lambda: "late" in browser.get("/look"))
        assert browser.cookie == before[1]
        with browser.events("polling") as event:
            event("out")
        assert browser.get("/look") == {"handle": None}
        browser.close()
