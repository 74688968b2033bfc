"""Whose sessions are whose: lists, ends, ends that are told, caps, renewed IDs, fresh sign-ins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient

from flask_safesession import NotFresh, SafeSession, TooManySessions, session
from flask_safesession.events import (
    session_ended,
    session_rejected,
    session_replayed,
)
from flask_safesession.testing import StoreKit

MakeApp = Callable[..., Flask]
MINUTE = 60_000


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


class Site:
    """An app whose visitors sign in, look, write and sign out; on any store."""

    def __init__(self, app: Flask, kit: StoreKit) -> None:
        self.app, self.kit = app, kit
        self.safe: SafeSession = app.extensions["tested.safe"]
        app.add_url_rule("/in/<user>", "sign_in", self._sign_in, methods=["GET", "POST"])
        app.add_url_rule("/out", "sign_out", lambda: f"{session.clear()}")  # type: ignore[func-returns-value]
        app.add_url_rule("/set/<key>", "set", self._set)
        app.add_url_rule("/read", "read", lambda: dict(session))
        app.add_url_rule("/info", "info", self._info)
        app.add_url_rule("/list", "list", self._list)
        app.add_url_rule("/quick", "quick", self.safe.fresh(within="10s")(lambda: "quick"))
        app.add_url_rule("/pay", "pay", self.safe.fresh(within="10m")(lambda: "paid"))

    @staticmethod
    def _sign_in(user: str) -> str:
        session["user_id"] = user
        if tier := request.args.get("tier"):
            session["_tier"] = tier
        return session.info.handle or ""

    @staticmethod
    def _set(key: str) -> str:
        session[key] = 1
        return ""

    @staticmethod
    def _info() -> dict[str, Any]:
        return {"reason": session.info.ended_reason, "handle": session.info.handle}

    def _list(self) -> list[Any]:
        found = self.safe.sessions_of(session["user_id"])
        return [[info.handle, info.current] for info in found]

    def member(self, user: str = "ann", tier: str = "") -> FlaskClient:
        client = self.app.test_client()
        assert client.get(f"/in/{user}?tier={tier}").status_code == 200
        return client

    def like(self, client: FlaskClient) -> FlaskClient:
        """Another browser with the same cookie."""
        other = self.app.test_client()
        other.set_cookie("session", cookie_of(client))
        return other

    def handle(self, client: FlaskClient) -> str:
        return str(self.get(client, "/info")["handle"])

    def reason(self, client: FlaskClient) -> Any:
        return self.get(client, "/info")["reason"]

    def get(self, client: FlaskClient, path: str) -> Any:
        return client.get(path).json


@pytest.fixture
def open_site(make_app: MakeApp, kit: StoreKit) -> Callable[..., Site]:
    def make(**settings: Any) -> Site:
        return Site(make_app(store=kit.store, store_timeout="5s", **settings), kit)

    return make


@pytest.fixture
def site(open_site: Callable[..., Site]) -> Site:
    return open_site()


# -- lists --------------------------------------------------------------------------------------


@pytest.mark.every_store
def test_a_user_sees_all_sessions_newest_first_and_which_is_this_one(site: Site) -> None:
    clients = []
    for _ in range(3):
        clients.append(site.member())
        site.kit.advance(MINUTE)
    site.member("bob")
    handles = [site.handle(client) for client in clients]
    assert site.get(clients[1], "/list") == [
        [handles[2], False],
        [handles[1], True],
        [handles[0], False],
    ]


def test_what_a_list_tells_is_what_the_session_says_itself(site: Site) -> None:
    client = site.member()
    with client:
        client.get("/info")
        own = session.info
    [listed] = site.safe.sessions_of("ann")
    assert listed.handle == own.handle
    assert listed.user == "ann"
    assert (listed.tier, listed.created_at, listed.expires_at) == (
        own.tier,
        own.created_at,
        own.expires_at,
    )
    assert own.current
    assert not listed.current
    assert site.safe.find(listed.handle or "") == listed._replace(user=None)
    assert site.safe.find("A" * 18) is None


@pytest.mark.every_store
def test_all_sessions_are_browsed_page_by_page(open_site: Callable[..., Site]) -> None:
    tiers = {"admin": {"idle_timeout": "5m", "lifetime": "1h"}}
    site = open_site(expiry="tiered", tiers=tiers)
    handles = {site.handle(site.member(f"user {n}")) for n in range(3)}
    handles |= {site.handle(site.member(f"admin {n}", "admin")) for n in range(2)}
    stranger = site.app.test_client()
    stranger.get("/set/x")
    handles.add(site.handle(stranger))
    found, after, pages = [], None, 0
    while after is not None or not pages:
        page = site.safe.browse(after=after, limit=2)
        found += [info.handle for info in page.sessions]
        after, pages = page.next, pages + 1
    assert sorted(found) == sorted(handles)  # type: ignore[type-var]
    assert pages <= 6
    assert [info.tier for info in site.safe.browse("admin").sessions] == ["admin", "admin"]
    with pytest.raises(ValueError, match="browse"):
        site.safe.browse(after="nonsense")


# -- ends ---------------------------------------------------------------------------------------


def test_an_ended_session_is_over_at_once_and_says_why(site: Site) -> None:
    ended: list[Any] = []

    def note(sender: Any, event: Any) -> None:
        ended.append((event.handle, event.reason, event.tier))

    client, other = site.member(), site.member()
    handle = site.handle(client)
    with session_ended.connected_to(note, site.app):
        assert site.safe.end(handle)
    assert ended == [(handle, "revoked", "default")]
    assert site.get(client, "/read") == {}
    assert site.reason(client) == "revoked"
    assert site.get(other, "/read") == {"user_id": "ann"}
    assert not site.safe.end(handle)


def test_a_sign_in_can_end_all_earlier_ones(site: Site) -> None:
    def sign_in_alone(user: str) -> str:
        session["user_id"] = user
        return str(session.end_others())

    site.app.add_url_rule("/alone/<user>", "alone", sign_in_alone)
    clients = [site.member() for _ in range(2)]
    newcomer = site.app.test_client()
    assert newcomer.get("/alone/ann").text == "2"
    assert [site.get(client, "/read") for client in clients] == [{}, {}]
    assert site.get(newcomer, "/read") == {"user_id": "ann"}


@pytest.mark.parametrize("handle", ["", "é" * 18, "A" * 17, "\ud800", "*" * 18])
def test_what_is_no_handle_names_no_session(site: Site, handle: str) -> None:
    site.member()
    assert site.safe.find(handle) is None
    assert not site.safe.end(handle)
    with pytest.raises(ValueError, match="not a handle"):
        site.safe.end_user("ann", keep=handle)
    assert len(site.safe.sessions_of("ann")) == 1


# -- how it ended -------------------------------------------------------------------------------


@pytest.mark.every_store
def test_a_user_is_told_that_the_session_was_idle_for_too_long(site: Site) -> None:
    client, stranger = site.member(), site.app.test_client()
    stranger.get("/set/x")
    site.kit.advance(31 * MINUTE)
    assert site.reason(stranger) is None
    site.safe.purge()
    for _ in range(2):
        assert site.reason(client) == "idle"
    client.get("/set/x")  # in a session that stands in for the one that ended
    assert site.reason(client) == "idle"
    client.get("/in/ann")
    assert site.reason(client) is None


@pytest.mark.every_store
def test_a_user_is_told_that_a_newer_login_took_the_place(open_site: Callable[..., Site]) -> None:
    site = open_site(max_sessions_per_user=1)
    first = site.member()
    site.member()
    assert site.reason(first) == "evicted"


@pytest.mark.parametrize("unknown_first", [True, False])
def test_of_several_cookies_the_one_that_knows_is_heard(site: Site, unknown_first: bool) -> None:
    client, gone = site.member(), site.member("bob")
    known, unknown = (f"session={cookie_of(one)}" for one in (client, gone))
    site.kit.advance(30 * MINUTE - site.kit.tolerance)
    gone.get("/out")
    site.kit.advance(site.kit.tolerance)
    both = [unknown, known] if unknown_first else [known, unknown]
    nobody = site.app.test_client(use_cookies=False)
    found = nobody.get("/info", headers={"Cookie": "; ".join(both)}).json
    assert found == {"reason": "idle", "handle": None}


def test_a_logout_of_ones_own_is_nothing_to_be_told(site: Site) -> None:
    client = site.member()
    other = site.like(client)
    client.get("/out")
    assert site.reason(client) is None
    assert site.reason(other) is None


# -- caps ---------------------------------------------------------------------------------------


def test_a_login_too_many_is_refused_and_can_be_answered(open_site: Callable[..., Site]) -> None:
    site = open_site(max_sessions_per_user=2, when_user_full="reject")
    rejected: list[str] = []

    def note(sender: Any, event: Any) -> None:
        rejected.append(event.reason)

    @site.app.errorhandler(TooManySessions)
    def offer(error: TooManySessions) -> tuple[list[str | None], int]:
        return [info.handle for info in site.safe.sessions_of(error.user)], 409

    clients = [site.member() for _ in range(2)]
    late = site.app.test_client()
    with session_rejected.connected_to(note, site.app):
        response = late.get("/in/ann")
    assert response.status_code == 409
    assert set(response.json or ()) == {site.handle(client) for client in clients}
    assert "Set-Cookie" not in response.headers
    assert rejected == ["user-full"]
    assert site.get(late, "/read") == {}
    site.safe.end((response.json or [""])[0])
    assert late.get("/in/ann").status_code == 200


def test_each_tier_may_have_its_own_number(open_site: Callable[..., Site]) -> None:
    site = open_site(
        expiry="tiered",
        tiers={"admin": {"idle_timeout": "5m", "lifetime": "1h"}},
        max_sessions_per_user={"default": 3, "admin": 1},
    )
    admin, plain = site.member("ann", "admin"), site.member()
    site.member("ann", "admin")
    assert site.get(admin, "/read") == {}
    assert site.get(plain, "/read") == {"user_id": "ann"}


# -- renewed IDs --------------------------------------------------------------------------------


def test_a_long_session_gets_a_new_secret_and_the_old_one_works_for_a_while(
    open_site: Callable[..., Site],
) -> None:
    site = open_site(renew_interval="10m", touch_interval="1m")
    client = site.member()
    old, handle = site.like(client), site.handle(client)
    assert site.handle(client) == handle
    site.kit.advance(11 * MINUTE)
    assert "Set-Cookie" in client.get("/read").headers
    assert cookie_of(client) != cookie_of(old)
    response = old.get("/set/fig")
    assert "Set-Cookie" not in response.headers
    assert site.handle(client) == site.handle(old) == handle
    assert "fig" in site.get(client, "/read")
    assert site.safe.count() == 1
    assert "Set-Cookie" not in client.get("/read").headers


@pytest.mark.parametrize("writes", [True, False])
def test_a_request_that_is_slower_than_the_grace_goes_on_under_the_new_id(
    open_site: Callable[..., Site], writes: bool
) -> None:
    """It began before the renewal: nobody came back with an old ID."""
    site = open_site(renew_interval="10m", renew_grace="10s")
    other = site.app.test_client()
    replayed: list[Any] = []

    def note(sender: Any, event: Any) -> None:
        replayed.append(event)

    @site.app.get("/slow")
    def slow() -> str:
        len(session)  # loaded
        site.kit.advance(1000)
        assert other.get("/read").status_code == 200  # renews
        site.kit.advance(MINUTE)
        if writes:
            session["report"] = 1
        return ""

    client = site.member()
    other.set_cookie("session", cookie_of(client))
    site.kit.advance(11 * MINUTE)
    with session_replayed.connected_to(note, site.app):
        assert client.get("/slow").status_code == 200
        assert "user_id" in site.get(other, "/read")
    assert ("report" in site.get(other, "/read")) == writes
    assert replayed == []


@pytest.mark.parametrize("path", ["/in/ann?tier=admin", "/renew"])
def test_what_has_no_grace_ends_the_grace_of_the_id_before_it(
    open_site: Callable[..., Site], path: str
) -> None:
    tiers = {"admin": {"lifetime": "1h"}}
    site = open_site(renew_interval="10m", expiry="tiered", tiers=tiers)
    site.app.add_url_rule("/renew", "renew", lambda: f"{session.regenerate()}")  # type: ignore[func-returns-value]
    client = site.member()
    first = site.like(client)
    site.kit.advance(11 * MINUTE)
    site.get(client, "/read")  # renews
    second = site.like(client)
    assert site.get(first, "/read")["user_id"] == "ann"
    client.get(path)
    assert site.get(client, "/read")["user_id"] == "ann"
    assert site.get(second, "/read") == site.get(first, "/read") == {}


LOWERED = [
    {"max_sessions_per_user": 1, "when_user_full": "reject"},
    {"max_sessions": 2, "when_full": "reject"},
    {"max_session_size": 20},
]


@pytest.mark.parametrize("lower", LOWERED, ids=lambda lower: next(iter(lower)))
def test_a_renewal_that_finds_no_room_is_no_failure(
    open_site: Callable[..., Site], lower: dict[str, Any]
) -> None:
    site = open_site(max_sessions=10)
    members = [site.member() for _ in range(3)]
    site.kit.advance(11 * MINUTE)
    low = open_site(renew_interval="10m", **lower)
    for member in members:
        client = low.like(member)
        for _ in range(2):
            assert low.get(client, "/read")["user_id"] == "ann"


def test_when_an_id_was_renewed_is_no_reason_to_keep_a_session(
    open_site: Callable[..., Site],
) -> None:
    site = open_site(renew_interval="10m")
    site.app.add_url_rule("/pop", "pop", lambda: session.pop("user_id"))
    client = site.member()
    site.kit.advance(11 * MINUTE)
    site.get(client, "/read")
    client.get("/pop")
    assert cookie_of(client) == ""
    with site.app.app_context():
        assert site.safe.count() == 0


def test_a_secret_of_many_renewals_ago_ends_the_session_at_its_second_return(
    open_site: Callable[..., Site],
) -> None:
    site = open_site(renew_interval="1m", renew_grace="10s", lifetime="2h")
    client = site.member()
    thief, handle = site.like(client), site.handle(client)
    for _ in range(25):
        site.kit.advance(MINUTE + 1000)
        site.get(client, "/read")
    found = site.safe.find(handle)
    assert found is not None
    assert found.handle == site.handle(client)
    for _ in range(2):
        site.kit.advance(11_000)
        assert site.get(thief, "/read") == {}
    assert site.get(client, "/read") == {}
    assert site.reason(client) == "replayed"


@pytest.mark.every_store
def test_of_two_requests_at_once_one_renews_and_the_changes_of_both_are_stored(
    open_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = open_site(renew_interval="10m", touch_interval="1m")
    client = site.member()
    sibling = site.like(client)
    site.kit.advance(11 * MINUTE)
    store, do = site.kit.store, type(site.kit.store).commit
    waiting = [True]

    def meanwhile(*args: Any, **more: Any) -> Any:
        if waiting:
            waiting.clear()
            client.get("/set/theirs")  # renews first
        return do(store, *args, **more)

    monkeypatch.setattr(store, "commit", meanwhile)
    response = sibling.get("/set/mine")
    assert "Set-Cookie" not in response.headers
    assert {"mine", "theirs"} <= set(site.get(client, "/read"))
    assert site.safe.count() == 1


# -- fresh sign-ins -----------------------------------------------------------------------------


def test_a_process_that_has_only_signed_somebody_in_knows_how_late_it_is(site: Site) -> None:
    client = site.member()
    site.kit.advance(4_000)
    assert client.get("/quick").text == "quick"
    site.kit.advance(7_000)
    assert client.get("/quick").status_code == 403


def test_a_mark_without_its_parentheses_is_refused(site: Site) -> None:
    with pytest.raises(TypeError, match="must be called"):
        site.safe.fresh(lambda: "")


def test_what_is_not_fresh_can_be_sent_to_the_sign_in_page(site: Site) -> None:
    @site.app.errorhandler(NotFresh)
    def again(error: NotFresh) -> str:
        return f"sign in again: {error.within:g}"

    assert site.app.test_client().get("/pay").text == "sign in again: 600"


# -- clients ------------------------------------------------------------------------------------


def test_from_where_users_come_is_noted_if_wanted(open_site: Callable[..., Site]) -> None:
    site = open_site(record_client=True)
    client = site.member()
    client.get("/set/x", environ_base={"REMOTE_ADDR": "10.1.2.3"})
    [listed] = site.safe.sessions_of("ann")
    assert listed.client
    assert listed.last_client
    assert (listed.client.address, listed.last_client.address) == ("127.0.0.1", "10.1.2.3")
    stranger = site.app.test_client()
    stranger.get("/set/x")
    assert site.get(stranger, "/read") == {"x": 1}


def test_from_where_users_come_is_not_noted_by_default(site: Site) -> None:
    assert site.get(site.member(), "/read") == {"user_id": "ann"}
    assert site.safe.sessions_of("ann")[0].client is None
