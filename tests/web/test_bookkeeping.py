"""What the library notes for itself fails no request, and what a response owed is made up for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_safesession import session
from flask_safesession.events import session_lost
from flask_safesession.testing import StoreKit, age_redis

from ..support import servers
from ..support.counting import CountingStore
from ..support.kits import SERVERS

MakeApp = Callable[..., Flask]
MINUTE = 60_000
PHONE = {"User-Agent": "phone/1", "X-Address": "10.1.2.3"}
LONG = {"User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:128.0) Firefox/128.0"}


class Site:
    """An app with renewals and client notes, on a store that may take no writes."""

    def __init__(self, app: Flask, store: CountingStore, kit: StoreKit) -> None:
        self.app, self.store, self.kit = app, store, kit
        add_views(app)

    def member(self) -> FlaskClient:
        client = self.app.test_client()
        client.get("/in", headers=PHONE)
        return client

    def like(self, client: FlaskClient) -> FlaskClient:
        other = self.app.test_client()
        other.set_cookie("session", cookie_of(client))
        return other

    def renewed(self, client: FlaskClient) -> None:
        """Let the secret be renewed, and presented."""
        before = cookie_of(client)
        self.kit.advance(11 * MINUTE)
        client.get("/read", headers=PHONE)
        assert cookie_of(client) != before
        client.get("/read", headers=PHONE)


def add_views(app: Flask) -> None:
    app.add_url_rule("/in", "in", lambda: f"{session.update(user_id='ann')}")
    app.add_url_rule("/add/<key>", "add", lambda key: f"{session.update({key: 1})}")
    app.add_url_rule("/read", "read", lambda: dict(session))
    app.add_url_rule("/out", "out", lambda: f"{session.clear()}")  # type: ignore[func-returns-value]

    @app.get("/stay/<int:stay>")
    def stay(stay: int) -> str:
        session.permanent = bool(stay)
        return str(session.get("user_id"))

    @app.get("/fill/<int:size>")
    def fill(size: int) -> str:
        session["fill"] = "x" * size
        return "filled"


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return cookie.value if cookie else ""


def set_cookie(response: Any) -> str:
    return str(response.headers.get("Set-Cookie", ""))


@pytest.fixture
def open_site(make_app: MakeApp, kit: StoreKit) -> Callable[..., Site]:
    def make(**settings: Any) -> Site:
        store = CountingStore(kit.store)
        given: dict[str, Any] = {"renew_interval": "10m", "renew_grace": "10s"}
        return Site(make_app(store=store, store_timeout="5s", **(given | settings)), store, kit)

    return make


@pytest.fixture
def site(open_site: Callable[..., Site]) -> Site:
    return open_site()


# -- what a response owed -----------------------------------------------------------------------


def test_permanence_set_with_a_secret_in_its_grace_reaches_the_browser_with_the_next_response(
    site: Site,
) -> None:
    client = site.member()
    late = site.like(client)
    site.kit.advance(11 * MINUTE)
    client.get("/read")  # renewed; the other request was under way
    assert not set_cookie(late.get("/stay/1"))
    response = client.get("/read")
    assert "Max-Age" in set_cookie(response)
    assert response.json == {"user_id": "ann", "_permanent": True}
    assert not set_cookie(client.get("/read"))


def test_permanence_taken_back_with_a_secret_in_its_grace_reaches_the_browser_too(
    site: Site,
) -> None:
    client = site.member()
    client.get("/stay/1")
    late = site.like(client)
    site.kit.advance(11 * MINUTE)
    client.get("/read")
    late.get("/stay/0")
    [line] = client.get("/read").headers.getlist("Set-Cookie")
    assert "Max-Age" not in line
    assert not set_cookie(client.get("/read"))


def test_permanence_set_by_hand_inside_a_view_reaches_the_browser_with_its_response(
    site: Site,
) -> None:
    app = site.app

    @app.get("/by-hand")
    def by_hand() -> str:
        session.permanent = bool(session)
        app.session_interface.save_session(app, session, app.response_class())
        return "saved"

    client = site.member()
    assert "Max-Age" in set_cookie(client.get("/by-hand"))


def test_permanence_whose_cookie_the_store_did_not_confirm_is_tried_again(site: Site) -> None:
    client = site.member()
    late = site.like(client)
    site.kit.advance(11 * MINUTE)
    client.get("/read")
    late.get("/stay/1")
    site.store.failing = {"commit"}
    response = client.get("/read")
    assert (response.status_code, set_cookie(response)) == (200, "")
    site.store.failing = set()
    assert "Max-Age" in set_cookie(client.get("/read"))


def test_a_save_by_hand_changes_no_cookie_whichever_way_the_session_is_given(site: Site) -> None:
    app, by_hand = site.app, []

    def save(given: Any) -> str:
        session.regenerate()
        response = app.response_class()
        app.session_interface.save_session(app, given, response)
        by_hand.append(response.headers.getlist("Set-Cookie"))
        return "saved"

    current: Any = flask.session
    app.add_url_rule("/proxy", "proxy", lambda: save(current))
    app.add_url_rule("/itself", "itself", lambda: save(current._get_current_object()))
    client = site.member()
    for path in ("/proxy", "/itself"):
        before = cookie_of(client)
        assert set_cookie(client.get(path))
        assert cookie_of(client) != before
    assert by_hand == [[], []]


# -- others at the same time --------------------------------------------------------------------


@pytest.mark.every_store
def test_a_read_whose_note_meets_a_logout_has_lost_nothing(site: Site) -> None:
    lost: list[Any] = []

    def note(sender: Any, event: Any) -> None:
        lost.append(event)

    client = site.member()
    other = site.like(client)
    site.kit.advance(11 * MINUTE)
    site.store.before("commit", lambda: other.get("/out"))
    with session_lost.connected_to(note, site.app):
        response = client.get("/read")
    assert (response.status_code, set_cookie(response)) == (200, "")
    assert lost == []


@pytest.mark.every_store
def test_a_read_is_served_while_the_session_changes_all_the_time(site: Site) -> None:
    client = site.member()
    other = site.like(client)
    site.kit.advance(11 * MINUTE)
    site.store.before("commit", lambda: other.get("/add/theirs"))
    site.store.take()
    assert client.get("/read").status_code == 200
    assert site.store.take().count("commit") == 2  # theirs, and one try of its own
    assert client.get("/read").json == {"user_id": "ann", "theirs": 1}


def test_a_new_id_that_a_socket_asked_for_is_owed_or_the_failure_is_reported(site: Site) -> None:
    site.app.add_url_rule("/renew", "renew", lambda: f"{session.regenerate()}")  # type: ignore[func-returns-value]
    client = site.member()
    before = cookie_of(client)
    site.store.failing = {"commit"}
    assert client.get("/renew", headers={"Upgrade": "websocket"}).status_code == 503
    site.store.failing = set()
    assert client.get("/renew", headers={"Upgrade": "websocket"}).status_code == 200
    assert cookie_of(client) == before
    client.get("/read")
    assert cookie_of(client) != before


# -- a store that takes no writes ---------------------------------------------------------------


@pytest.mark.parametrize("added", ["", "cart"])
def test_a_renewal_that_cannot_be_stored_fails_no_page_that_only_reads(
    site: Site, added: str
) -> None:
    client = site.member()
    site.renewed(client)
    if added:
        client.get(f"/add/{added}")
    before = cookie_of(client)
    site.kit.advance(11 * MINUTE)
    site.store.failing = {"commit", "rotate", "create"}
    for _ in range(3):
        response = client.get("/read")
        assert (response.status_code, set_cookie(response)) == (200, "")
        assert (response.json or {})["user_id"] == "ann"
    site.store.failing = set()
    client.get("/read")
    assert cookie_of(client) != before


def test_a_secret_that_cannot_be_noted_as_presented_is_served_and_nobody_is_reported(
    site: Site,
) -> None:
    client = site.member()
    old = site.like(client)
    site.kit.advance(11 * MINUTE)
    client.get("/read")
    site.store.failing = {"commit", "end"}
    assert client.get("/read").json == {"user_id": "ann"}
    site.kit.advance(MINUTE)
    # The newest secret is not known to be presented: whoever has the one before is served.
    assert old.get("/read").json == {"user_id": "ann"}
    site.store.failing = set()
    assert client.get("/read").json == {"user_id": "ann"}


def test_a_strike_that_cannot_be_noted_ends_nothing(site: Site) -> None:
    client = site.member()
    old = site.like(client)
    site.renewed(client)
    site.kit.advance(MINUTE)
    site.store.failing = {"commit"}
    for _ in range(3):
        assert old.get("/read").json == {}
        site.kit.advance(MINUTE)
    site.store.failing = set()
    assert client.get("/read").json == {"user_id": "ann"}
    assert old.get("/read").json == {}
    assert client.get("/read").json == {"user_id": "ann"}


def test_an_end_of_a_stolen_session_that_the_store_does_not_answer_is_tried_again(
    site: Site,
) -> None:
    client = site.member()
    old = site.like(client)
    site.renewed(client)
    for failing in (set(), {"end"}, set()):
        assert client.get("/read").json == {"user_id": "ann"}
        site.kit.advance(MINUTE)
        site.store.failing = failing
        assert old.get("/read").status_code == 200
    assert client.get("/read").json == {}


def test_a_client_that_cannot_be_noted_fails_no_page_that_only_reads(
    open_site: Callable[..., Site],
) -> None:
    site = open_site(record_client=True, renew_interval=None)
    client = site.member()
    site.store.failing = {"commit"}
    response = client.get("/read", headers=LONG)
    assert (response.status_code, response.json) == (200, {"user_id": "ann"})
    assert client.get("/add/cart", headers=LONG).status_code == 503  # that is no bookkeeping


def test_a_client_is_not_counted_as_a_part_of_what_the_app_has_stored(
    open_site: Callable[..., Site],
) -> None:
    site = open_site(record_client=True, max_session_size=100)
    client = site.member()
    full = next(n for n in range(99, 0, -1) if client.get(f"/fill/{n}").status_code == 200)
    assert full > 50
    for headers in (PHONE, LONG, {"User-Agent": "é" * 500}):
        assert client.get("/read", headers=headers).status_code == 200
    [info] = site.app.extensions["tested.safe"].sessions_of("ann")
    assert info.last_client
    assert info.last_client.agent


def test_a_session_over_a_limit_that_was_lowered_is_read_and_renewed(
    open_site: Callable[..., Site],
) -> None:
    wide = open_site(record_client=True)
    client = wide.member()
    client.get("/fill/90")
    low = open_site(record_client=True, max_session_size=50)
    other = low.like(client)
    low.kit.advance(11 * MINUTE)
    response = other.get("/read", headers=LONG)
    assert response.status_code == 200
    assert (response.json or {})["user_id"] == "ann"


# -- a real server that takes no writes ---------------------------------------------------------


REFUSING = [
    servers.no_memory,
    servers.no_replicas,
    servers.a_replica,
    servers.no_snapshots,
]


@pytest.mark.parametrize("refusing", REFUSING)
def test_fault_38_pages_that_only_read_are_served_while_the_store_takes_no_writes(
    make_app: MakeApp, tmp_path: Path, refusing: Any
) -> None:
    with servers.running(SERVERS[0], tmp_path) as server:
        settings: dict[str, Any] = {"renew_interval": "10m", "record_client": True}
        app = make_app(store=server.url, store_timeout="10s", **settings)
        add_views(app)
        clients = [app.test_client() for _ in range(3)]
        for client in clients:
            client.get("/in", headers=PHONE)
        with server.client() as own:
            age_redis(own, 11 * MINUTE, "safesession")
        clients[1].get("/read", headers=PHONE)  # renewed
        clients[2].get("/read", headers=PHONE)  # renewed, presented, and with more in it
        clients[2].get("/add/cart", headers=PHONE)
        before = [cookie_of(client) for client in clients]
        with refusing(server):
            for client in clients * 2:
                response = client.get("/read", headers=LONG)
                assert response.status_code == 200
                assert (response.json or {})["user_id"] == "ann"
                assert not set_cookie(response)
            assert clients[0].get("/add/cart").status_code == 503
        assert [cookie_of(client) for client in clients] == before
        clients[0].get("/read", headers=PHONE)
        assert cookie_of(clients[0]) != before[0]
        app.extensions["safesession"].store.close()
