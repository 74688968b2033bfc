"""An ID that is over works on a session that stands in for it, without a cookie.

What this is for: forms with a CSRF token work at once after a revocation or a lost response, and
no late request overwrites the cookie of a newer sign-in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from flask_safesession import SafeSession, session
from flask_safesession.events import SessionLost, session_lost
from flask_safesession.model.tokens import new_id, sign, unsign
from flask_safesession.testing import StoreKit
from flask_safesession.web.state import MAX_STAND_INS

from ..support.counting import CountingStore
from ..support.security_kit import overwrite

MakeApp = Callable[..., Flask]
MINUTE = 60_000


class Site:
    """A site with a form that is protected by a token in the session."""

    def __init__(self, app: Flask, store: CountingStore, kit: StoreKit) -> None:
        self.app, self.store, self.kit = app, store, kit
        self.safe: SafeSession = app.extensions["tested.safe"]
        self.why_dead = ""

    def browser(self, cookie: str = "") -> FlaskClient:
        client = self.app.test_client()
        if cookie:
            client.set_cookie("session", cookie)
        return client

    def member(self, user: str = "ann") -> FlaskClient:
        client = self.browser()
        assert self.sign_in(client, user) == 200
        return client

    def sign_in(self, client: FlaskClient, user: str = "ann") -> int:
        token = client.get("/token").text
        return client.post("/in", data={"token": token, "user": user}).status_code

    def data(self, client: FlaskClient) -> Any:
        return client.get("/data").json

    def late(self, client: FlaskClient) -> FlaskClient:
        """A browser, or a request, with the cookie that *client* has now."""
        return self.browser(cookie_of(client))


def keep(key: str, value: object) -> str:
    session[key] = value
    return ""


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


@pytest.fixture
def site(make_app: MakeApp, kit: StoreKit) -> Site:
    store = CountingStore(kit.store)
    app = make_app(store=store, store_timeout="5s")

    @app.get("/token")
    def token() -> str:
        return str(session.setdefault("token", "t" + str(len(store.calls))))

    @app.post("/in")
    def sign_in() -> tuple[str, int]:
        if request.form["token"] != session.get("token"):
            return "the token is not this session's", 400
        session["user_id"] = request.form["user"]
        return "welcome", 200

    @app.get("/set/<key>")
    def put(key: str) -> str:
        session[key] = 1
        return ""

    @app.get("/out")
    def out() -> str:
        session.clear()
        return ""

    @app.get("/new")
    def regenerate() -> str:
        session.regenerate()
        return ""

    @app.get("/anew/<key>")
    def anew(key: str) -> str:
        session.clear()
        session[key] = 1
        return ""

    @app.get("/data")
    def data() -> dict[str, Any]:
        return dict(session)

    @app.get("/why")
    def why() -> str:
        return str(session.info.ended_reason)

    return Site(app, store, kit)


@pytest.fixture(params=["revoked", "logout", "idle", "unknown", "login"])
def dead(site: Site, request: pytest.FixtureRequest) -> FlaskClient:
    """A browser whose ID is over, for each of the reasons that there are."""
    site.why_dead = request.param
    client = site.member() if request.param != "login" else site.browser()
    client.get("/set/private")
    browser = site.late(client)
    if request.param == "revoked":
        site.safe.end_user("ann")
    elif request.param == "logout":
        client.get("/out")
    elif request.param == "idle":
        site.kit.advance(31 * MINUTE)
    elif request.param == "unknown":
        browser = site.browser(_signed_elsewhere(site))
    else:
        assert site.sign_in(client) == 200
    site.store.take()
    return browser


def _signed_elsewhere(site: Site) -> str:
    return sign(new_id(), site.app.secret_key or "")


@pytest.mark.every_store
def test_after_a_revocation_or_a_lost_answer_a_login_form_with_a_token_works_at_once(
    site: Site, dead: FlaskClient
) -> None:
    before = cookie_of(dead)
    assert site.sign_in(dead) == 200
    assert cookie_of(dead) not in ("", before)
    assert site.data(dead)["user_id"] == "ann"
    # Where the same user has just signed in from this ID, it is a second click: it goes on there.
    assert ("private" in site.data(dead)) == (site.why_dead == "login")


def test_a_sign_in_after_a_lost_new_id_is_a_session_whose_cookie_arrives(site: Site) -> None:
    client = site.member()
    browser = site.late(client)
    client.get("/new")  # of which the response is lost
    before = cookie_of(browser)
    assert site.sign_in(browser) == 200
    assert cookie_of(browser) != before
    assert site.data(browser)["user_id"] == "ann"


def test_nothing_of_the_old_session_is_seen_and_no_cookie_is_set(
    site: Site, dead: FlaskClient
) -> None:
    assert site.data(dead) == {}
    response = dead.get("/set/cart")
    assert "Set-Cookie" not in response.headers
    assert response.headers["Vary"] == "Cookie"
    assert site.data(dead) == {"cart": 1}


def test_it_costs_one_call_more(site: Site, dead: FlaskClient) -> None:
    dead.get("/data")
    assert site.store.take() == ["load", "load"]
    dead.get("/set/cart")
    assert site.store.take() == ["load", "load", "create"]
    dead.get("/set/more")
    assert site.store.take() == ["load", "load", "commit"]


def test_reading_alone_makes_no_session(site: Site, dead: FlaskClient) -> None:
    before = site.safe.count()
    for _ in range(3):
        dead.get("/data")
    assert site.safe.count() == before


def test_one_id_is_one_session_however_often_it_comes(site: Site, dead: FlaskClient) -> None:
    before = site.safe.count()
    for n in range(5):
        site.late(dead).get(f"/set/k{n}")
    assert site.safe.count() == before + 1
    assert site.data(dead) == {f"k{n}": 1 for n in range(5)}


def test_two_requests_that_make_it_at_once_share_it(site: Site, dead: FlaskClient) -> None:
    other = site.late(dead)
    before = site.safe.count()
    site.store.before("create", lambda: other.get("/set/theirs"))
    dead.get("/set/mine")
    assert site.data(dead) == {"mine": 1, "theirs": 1}
    assert site.safe.count() == before + 1


def test_after_a_minute_it_gets_an_id_of_its_own(site: Site, dead: FlaskClient) -> None:
    dead.get("/set/cart")
    site.kit.advance(MINUTE - site.kit.tolerance)
    assert "Set-Cookie" not in dead.get("/data").headers
    site.kit.advance(site.kit.tolerance)
    response = dead.get("/data")
    assert response.json == {"cart": 1}
    assert "Set-Cookie" in response.headers
    site.store.take()
    assert site.data(dead) == {"cart": 1}
    assert site.store.take() == ["load"]


def test_a_form_works_although_the_response_with_the_new_id_was_lost(
    site: Site, dead: FlaskClient
) -> None:
    token = dead.get("/token").text
    site.kit.advance(MINUTE)
    assert "Set-Cookie" in site.late(dead).get("/data").headers  # never reaches the browser
    assert dead.get("/token").text == token
    form = {"token": token, "user": "ann"}
    assert dead.post("/in", data=form).status_code == 200
    assert site.data(dead) == {"token": token, "user_id": "ann"}


def test_a_new_id_that_cannot_be_stored_is_no_failure(site: Site, dead: FlaskClient) -> None:
    dead.get("/set/cart")
    site.kit.advance(MINUTE)
    site.store.failing = {"rotate"}
    response = dead.get("/data")
    assert (response.status_code, response.json) == (200, {"cart": 1})
    assert "Set-Cookie" not in response.headers
    site.store.failing = set()
    assert "Set-Cookie" in dead.get("/data").headers


def test_a_change_that_meets_its_new_id_is_kept(site: Site, dead: FlaskClient) -> None:
    dead.get("/set/cart")
    site.kit.advance(MINUTE)
    other = site.late(dead)
    # The new ID comes while this request, which will write, is under way.
    site.store.before("rotate", lambda: other.get("/data"))
    assert "Set-Cookie" not in dead.get("/set/late").headers
    assert site.data(other) == {"cart": 1, "late": 1}


def test_a_sign_in_whose_answer_was_lost_can_be_repeated_at_once(
    site: Site, dead: FlaskClient
) -> None:
    for _ in range(MAX_STAND_INS + 2):
        lost = site.late(dead)  # its answer never reaches the browser
        assert site.sign_in(lost) == 200
    assert site.sign_in(dead) == 200
    assert site.data(dead)["user_id"] == "ann"


def test_a_late_request_does_not_overwrite_the_cookie_of_a_sign_in(
    site: Site, dead: FlaskClient
) -> None:
    late = site.late(dead)
    assert site.sign_in(dead) == 200
    for path in ("/set/late", "/out", "/set/again", "/data"):
        assert "Set-Cookie" not in late.get(path).headers
    assert "late" not in site.data(dead)


def test_a_logout_there_ends_what_was_there(site: Site, dead: FlaskClient) -> None:
    dead.get("/set/cart")
    before = site.safe.count()
    assert "Set-Cookie" not in dead.get("/out").headers
    assert site.safe.count() == before - 1
    assert site.data(dead) == {}
    assert site.sign_in(dead) == 200


def test_what_is_written_after_a_clear_there_begins_anew_without_a_cookie(
    site: Site, dead: FlaskClient
) -> None:
    dead.get("/set/cart")
    before = site.safe.count()
    assert "Set-Cookie" not in dead.get("/anew/later").headers
    assert site.data(dead) == {"later": 1}
    assert site.safe.count() == before


def test_a_logout_there_that_meets_another_is_a_logout(site: Site, dead: FlaskClient) -> None:
    dead.get("/set/cart")
    other = site.late(dead)
    site.store.before("end", lambda: other.get("/out"))
    assert dead.get("/out").status_code == 200
    assert site.data(dead) == {}


def test_of_two_that_make_it_at_once_one_may_have_ended_it_again(
    site: Site, dead: FlaskClient
) -> None:
    other = site.late(dead)

    def make_and_end() -> None:
        other.get("/set/theirs")
        other.get("/out")

    site.store.before("create", make_and_end)
    dead.get("/set/mine")
    assert site.data(dead) == {"mine": 1}


def test_one_whose_record_cannot_be_read_is_followed_by_another(
    site: Site, dead: FlaskClient
) -> None:
    known = unsign(cookie_of(dead), site.app.secret_key or "")
    assert known
    dead.get("/set/cart")
    overwrite(site.kit.store, known.sid.stand_in(0), b"no record")
    assert site.data(dead) == {}
    site.store.take()
    assert dead.get("/set/cart").status_code == 200
    assert site.store.take() == ["load", "load", "load", "create"]
    assert site.data(dead) == {"cart": 1}


def test_of_two_that_make_it_at_once_one_may_leave_what_cannot_be_read(
    site: Site, dead: FlaskClient
) -> None:
    known = unsign(cookie_of(dead), site.app.secret_key or "")
    assert known
    key = known.sid.stand_in(0)
    site.store.before("create", lambda: overwrite(site.kit.store, key, b"no record"))
    assert dead.get("/set/mine").status_code == 200
    assert site.data(dead) == {"mine": 1}


@pytest.mark.every_store
def test_a_change_in_flight_does_not_bring_back_what_a_logout_ended(
    site: Site, dead: FlaskClient
) -> None:
    lost: list[SessionLost] = []

    def note(sender: Any, event: SessionLost) -> None:
        lost.append(event)

    dead.get("/set/cart")
    other = site.late(dead)
    site.store.before("commit", lambda: other.get("/out"))
    with session_lost.connected_to(note, site.app):
        dead.get("/set/more")
    assert [event.reason for event in lost] == ["logout"]
    assert site.data(dead) == {}


@pytest.mark.every_store
def test_two_sign_ins_at_once_leave_one_session_with_its_cart(
    site: Site, dead: FlaskClient
) -> None:
    """A double click: both have loaded the stand-in, and name the same user."""
    token = dead.get("/token").text
    dead.get("/set/cart")
    other = site.late(dead)
    form = {"token": token, "user": "zoe"}
    site.store.before("rotate", lambda: other.post("/in", data=form))
    assert dead.post("/in", data=form).status_code == 200
    assert len(site.safe.sessions_of("zoe")) == 1
    assert site.data(other) == {"token": token, "cart": 1, "user_id": "zoe"}


def test_two_sign_ins_of_two_users_are_two_sessions(site: Site, dead: FlaskClient) -> None:
    token = dead.get("/token").text
    other = site.late(dead)
    site.store.before("rotate", lambda: other.post("/in", data={"token": token, "user": "bob"}))
    assert dead.post("/in", data={"token": token, "user": "zoe"}).status_code == 200
    assert site.data(other)["user_id"] == "bob"
    assert site.data(dead)["user_id"] == "zoe"


@pytest.mark.every_store
def test_why_the_old_session_ended_is_still_said(site: Site) -> None:
    client = site.member()
    site.safe.end_user("ann")
    client.get("/set/cart")
    assert client.get("/why").text == "revoked"
    assert client.get("/why").text == "revoked"


def test_it_is_an_anonymous_session_under_the_anonymous_cap(make_app: MakeApp) -> None:
    app = make_app(max_sessions=20)
    app.add_url_rule("/set", "put", lambda: keep("a", 1))
    app.add_url_rule("/in/<u>", "in", lambda u: keep("user_id", u))
    safe = app.extensions["tested.safe"]
    members = [app.test_client() for _ in range(19)]
    for n, member in enumerate(members):
        member.get(f"/in/{n}")
    for n in range(10):
        safe.end_user(n)
        members[n].get("/set")
    assert safe.count() <= 20
    assert all(len(safe.sessions_of(n)) == 1 for n in range(10, 19))


@pytest.mark.every_store
def test_two_people_with_two_secrets_of_one_session_do_not_share_it(
    site: Site, make_app: MakeApp, kit: StoreKit
) -> None:
    app = make_app(store=kit.store, renew_interval="10m", renew_grace="10s")
    app.add_url_rule("/set/<key>", "put", lambda key: keep(key, 1))
    app.add_url_rule("/data", "data", lambda: dict(session))
    first = app.test_client()
    first.get("/set/cart")
    thief = app.test_client()
    thief.set_cookie("session", cookie_of(first))
    kit.advance(11 * MINUTE)
    first.get("/data")
    first.get("/data")
    kit.advance(MINUTE)
    for _ in range(2):
        assert thief.get("/data").json == {}
        kit.advance(MINUTE)
    thief.get("/set/planted")
    assert thief.get("/data").json == {"planted": 1}
    assert first.get("/data").json == {}


def test_an_old_cookie_for_another_path_beside_the_newest_ends_nothing(
    make_app: MakeApp, kit: StoreKit
) -> None:
    app = make_app(store=kit.store, renew_interval="10m", renew_grace="10s")
    app.add_url_rule("/set", "put", lambda: keep("cart", 1))
    app.add_url_rule("/data", "data", lambda: dict(session))
    client = app.test_client()
    client.get("/set")
    old = cookie_of(client)
    for _ in range(4):
        kit.advance(11 * MINUTE)
        both = f"session={old}; session={cookie_of(client)}"
        response = client.get("/data", headers={"Cookie": both})
        assert response.json == {"cart": 1}


@pytest.mark.every_store
@pytest.mark.parametrize("before", [[], ["/set/late"]], ids=["nothing", "a stand-in"])
def test_a_late_logout_ends_the_session_that_goes_on_under_another_id(
    site: Site, before: list[str]
) -> None:
    client = site.member()
    late = site.late(client)
    client.get("/new")
    for path in [*before, "/out"]:
        late.get(path)
    assert site.data(client) == {}
    assert site.data(late) == {}
