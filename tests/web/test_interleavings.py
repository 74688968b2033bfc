"""Requests of one browser that meet at every store call there is.

One request is stopped before each of its calls in turn, and another one runs from start to end
there. What must hold does not depend on where they met.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_safesession import SafeSession, session
from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock, StoreKit

from ..support.views import do

MakeApp = Callable[..., Flask]
MINUTE = 60_000
_CALLS = frozenset({"load", "create", "commit", "refile", "rotate", "end"})


class MeetingStore:
    """Passes calls on to *store*; before the call with the number *at* it lets *meet* happen.

    With *lost* the reply to that call is lost instead.
    """

    def __init__(self, store: Any) -> None:
        self.inner, self.shared = store, store.shared
        self.plan(0)

    def plan(
        self, at: int, meet: Callable[[], object] | None = None, *, lost: bool = False
    ) -> None:
        self.calls, self.at, self.meet, self.lost = 0, at, meet, lost

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in _CALLS:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            meets = self.calls == self.at
            if meets and self.meet is not None:
                meet, self.meet = self.meet, None
                meet()
            answer = method(*args, **kwargs)
            if meets and self.lost:
                raise StoreUnavailable("the reply was lost")
            return answer

        return call


class Site:
    """An app, its store, and the clock of that store."""

    def __init__(self, make_app: MakeApp, kit: StoreKit) -> None:
        self.store, self.kit = MeetingStore(kit.store), kit
        self.app = make_app(store=self.store, lifetime="12h", store_timeout="5s")
        self.safe: SafeSession = self.app.extensions["tested.safe"]
        self.app.add_url_rule("/do", "do", do, methods=["GET", "POST"])
        self.app.add_url_rule("/read", "read", lambda: dict(session))

    def browser(self, before: str, age: int = 1000) -> FlaskClient:
        """A browser that has a session in which *before* was done, *age* milliseconds ago."""
        client = self.app.test_client()
        for query in before.split():
            client.post(f"/do?{query}")
        self.kit.advance(age)
        return client

    def sibling(self, client: FlaskClient) -> FlaskClient:
        """Another request of the same browser, with the cookie as it is now."""
        twin, cookie = self.app.test_client(), client.get_cookie("session")
        twin.set_cookie("session", cookie.value if cookie else "")
        return twin

    def meetings(self, before: str, one: str, two: str, age: int = 1000) -> Any:
        """Both requests' browsers, for each call of *one* before which *two* runs."""
        for at in count(2):  # before the first one neither has loaded anything
            first = self.browser(before, age)
            second = self.sibling(first)
            self.store.plan(at, partial(second.post, f"/do?{two}"))
            assert first.post(f"/do?{one}").status_code == 200
            if self.store.meet is not None:
                return
            yield first, second
            self.safe.end_all()


def data(client: FlaskClient) -> Any:
    return client.get("/read").json


@pytest.fixture
def site(make_app: MakeApp, kit: StoreKit) -> Site:
    return Site(make_app, kit)


_LOGINS = ["set=user_id:1&set={}:1", "clear=1&set=user_id:1&set={}:1"]


@pytest.mark.every_store
@pytest.mark.parametrize("one", _LOGINS)
@pytest.mark.parametrize("two", _LOGINS)
@pytest.mark.parametrize("before", ["set=cart:1", "set=user_id:1"])
def test_a_double_clicked_login_leaves_one_session_also_where_it_clears(
    site: Site, before: str, one: str, two: str
) -> None:
    met = 0
    for first, second in site.meetings(before, one.format("mine"), two.format("theirs"), MINUTE):
        assert len(site.safe.sessions_of(1)) == 1
        found = data(first) if "user_id" in data(first) else data(second)
        assert found.items() >= {"user_id": "1", "mine": "1", "theirs": "1"}.items()
        met += 1
    assert met


def test_a_sign_in_that_meets_another_new_id_is_still_a_sign_in(site: Site) -> None:
    met = 0
    login = "set=user_id:1&set=mine:1"
    for first, _ in site.meetings("set=user_id:1", login, "renew=1", MINUTE):
        (listed,) = site.safe.sessions_of(1)
        assert data(first)["mine"] == "1"
        assert listed.created_at == listed.last_active  # both clocks began anew
        met += 1
    assert met


@pytest.mark.every_store
@pytest.mark.parametrize("end", ["clear=1", "drop=user_id"])
def test_a_login_repeated_within_a_minute_survives_the_logout_that_it_meets(
    site: Site, end: str
) -> None:
    for first, _ in site.meetings("set=user_id:1", "set=user_id:1&set=mine:1", end):
        assert data(first) == {"user_id": "1", "mine": "1"}


@pytest.mark.every_store
@pytest.mark.parametrize("end", ["clear=1", "clear=1&set=user_id:1", "drop=user_id"])
def test_what_does_not_sign_in_brings_nothing_into_what_follows_an_end(
    site: Site, end: str
) -> None:
    for first, second in site.meetings("set=user_id:1&set=old:1", "set=mine:1", end):
        assert data(first) == {}
        assert "mine" not in data(second)


@pytest.mark.parametrize("wish", ["renew=1", "set=_tier:vip"])
def test_what_stands_in_for_an_old_id_gets_a_cookie_from_nothing_but_a_sign_in_at_first(
    make_app: MakeApp, clock: FakeClock, wish: str
) -> None:
    """A late request of the browser would overwrite the cookie of its newer sign-in."""
    limits = {"idle_timeout": "1h", "lifetime": "12h"}
    app = make_app(
        store=MemoryStore(clock), expiry="tiered", tiers={"plain": limits, "vip": limits}
    )
    app.add_url_rule("/do", "do", do, methods=["GET", "POST"])
    client = app.test_client()
    client.post("/do?set=user_id:1")
    app.extensions["tested.safe"].end_user(1)
    client.post("/do?set=cart:1")
    late = client.post(f"/do?set=mine:1&{wish}")
    assert "Set-Cookie" not in late.headers
    assert "Set-Cookie" not in client.post("/do?set=mine:2").headers
    clock.advance(MINUTE)
    assert "Set-Cookie" in client.post("/do?set=mine:3").headers


def test_a_new_id_that_was_owed_reaches_the_browser_though_the_stores_reply_was_lost(
    make_app: MakeApp, clock: FakeClock
) -> None:
    site = Site(make_app, StoreKit(MemoryStore(clock), clock.advance))
    browser = site.browser("set=user_id:1")
    site.safe.end_user(1)
    browser.post("/do?set=cart:1")  # into the stand-in
    clock.advance(MINUTE)
    site.store.plan(3, lost=True)
    assert browser.post("/do?set=mine:1").status_code == 200
    assert data(browser) == {"cart": "1", "mine": "1"}


def test_a_function_for_the_user_that_fails_is_reported_once_and_finds_nobody(
    make_app: MakeApp, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_app(store=store)
    first.add_url_rule("/do", "do", do)
    client = first.test_client()
    client.get("/do?set=user_id:1")
    app = make_app(store=store, user_key=lambda data: data["userinfo"]["sub"])
    app.add_url_rule("/read", "read", lambda: dict(session))
    second = app.test_client()
    cookie = client.get_cookie("session")
    second.set_cookie("session", cookie.value if cookie else "")
    assert data(second) == data(second) == {"user_id": "1"}
    assert len(first.extensions["tested.safe"].sessions_of(1)) == 1  # filed as it was
    said = [r.getMessage() for r in caplog.records if "failed with KeyError" in r.getMessage()]
    assert len(said) == 1
    assert "must return None for a session without a user" in said[0]
