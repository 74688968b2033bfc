"""Two requests at once: both stories told in every order that matters.

A request is interrupted just before one of its store calls, and another runs from start to end
there: the interleavings are chosen, not hoped for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_safesession import session
from flask_safesession.events import (
    SessionEnded,
    SessionMerged,
    session_created,
    session_ended,
    session_lost,
    session_merged,
)
from flask_safesession.model import tokens
from flask_safesession.model.codec import encode
from flask_safesession.model.record import Draft
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Live
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import StoreKit, make_rules
from flask_safesession.web.data import merge, own_changes

from ..support.counting import CountingStore
from ..support.security_kit import overwrite, raw
from ..support.views import do

MakeApp = Callable[..., Flask]
# What the store answers to the second request decides.
pytestmark = pytest.mark.every_store


class World:
    """An app, its store, and as many browsers as a story needs, all with one cookie."""

    def __init__(self, app: Flask, store: CountingStore, kit: StoreKit) -> None:
        self.app, self.store, self.kit = app, store, kit
        self.one = app.test_client()
        self.one.get("/do?set=seed:0")

    def sibling(self) -> FlaskClient:
        """Another request of the same browser, with the cookie as it is now."""
        client = self.app.test_client()
        client.set_cookie("session", self.cookie(self.one))
        return client

    @staticmethod
    def cookie(client: FlaskClient) -> str:
        cookie = client.get_cookie("session")
        return cookie.value if cookie else ""

    def meanwhile(self, operation: str, path: str) -> FlaskClient:
        """Before the next *operation*, let a sibling do *path*; that sibling."""
        client = self.sibling()
        self.store.before(operation, lambda: client.get(path))
        return client

    def data(self, client: FlaskClient) -> Any:
        return client.get("/read").json


@pytest.fixture
def world(make_app: MakeApp, kit: StoreKit) -> World:
    store = CountingStore(kit.store)
    app = make_app(store=store, store_timeout="5s", lifetime="12h")

    @app.get("/read")
    def read() -> dict[str, Any]:
        return dict(session)

    app.add_url_rule("/do", "do", do, methods=["GET", "POST"])
    return World(app, store, kit)


def heard(signal: Any, app: Flask) -> list[Any]:
    events: list[Any] = []

    def note(sender: Flask, event: Any) -> None:
        events.append(event)

    signal.connect(note, app, weak=False)
    return events


def test_changes_to_different_keys_both_survive(world: World) -> None:
    merged = heard(session_merged, world.app)
    world.meanwhile("commit", "/do?set=theirs:1")
    world.one.get("/do?set=mine:1")
    assert world.data(world.one) == {"seed": "0", "theirs": "1", "mine": "1"}
    assert [type(event) for event in merged] == [SessionMerged]
    assert merged[0].conflicts == 1


def test_of_changes_to_one_key_the_later_save_counts(world: World) -> None:
    world.meanwhile("commit", "/do?set=seed:theirs")
    world.one.get("/do?set=seed:mine")
    assert world.data(world.one) == {"seed": "mine"}


def test_a_removal_and_a_change_elsewhere_both_survive(world: World) -> None:
    world.meanwhile("commit", "/do?drop=seed&set=b:1")
    world.one.get("/do?set=mine:1")
    assert world.data(world.one) == {"b": "1", "mine": "1"}


def test_a_logout_wins_over_a_save_that_came_first(world: World) -> None:
    world.meanwhile("end", "/do?set=theirs:1")
    world.one.get("/do?clear=1")
    assert world.app.extensions["tested.safe"].count() == 0


def test_a_logout_that_keeps_a_cart_wins_over_a_save_that_came_first(world: World) -> None:
    world.one.get("/do?set=user_id:1")
    world.meanwhile("rotate", "/do?set=private:1")
    world.one.get("/do?drop=user_id")
    assert world.data(world.one) == {"seed": "0"}


def test_a_sibling_with_the_old_id_cannot_overwrite_the_cookie_of_a_login(world: World) -> None:
    sibling = world.sibling()
    world.one.get("/do?set=user_id:1")
    response = sibling.get("/do?set=stranger:1")
    assert response.status_code == 200
    assert "Set-Cookie" not in response.headers
    assert world.data(sibling) == {"stranger": "1"}  # a stand-in: nothing of the user's
    assert world.data(world.one) == {"seed": "0", "user_id": "1"}


def test_a_save_that_meets_a_login_is_not_stored(world: World) -> None:
    lost = heard(session_lost, world.app)
    other = world.meanwhile("commit", "/do?set=user_id:1")
    response = world.one.get("/do?set=mine:1")
    assert "Set-Cookie" not in response.headers
    assert world.data(other) == {"seed": "0", "user_id": "1"}
    assert [event.reason for event in lost] == ["rotated"]


def test_a_login_that_meets_a_change_keeps_both(world: World) -> None:
    world.meanwhile("rotate", "/do?set=theirs:1")
    world.one.get("/do?set=user_id:1")
    assert world.data(world.one) == {"seed": "0", "theirs": "1", "user_id": "1"}


def test_of_two_logins_at_once_both_are_signed_in_and_the_old_id_is_not(world: World) -> None:
    old = world.sibling()
    other = world.meanwhile("rotate", "/do?set=user_id:1")
    world.one.get("/do?set=user_id:2")
    # The second becomes a session of its own, with what that request itself had set.
    assert world.data(world.one) == {"user_id": "2"}
    assert world.data(other) == {"seed": "0", "user_id": "1"}
    assert world.data(old) == {}


def test_the_second_click_of_a_login_goes_on_with_the_session_of_the_first(world: World) -> None:
    created = heard(session_created, world.app)
    lost = heard(session_lost, world.app)
    other = world.meanwhile("rotate", "/do?set=user_id:1&set=theirs:1")
    response = world.one.get("/do?set=user_id:1&set=mine:1")
    # Which response the browser receives last is unknown, and it may drop the first: both do.
    assert "Set-Cookie" in response.headers
    assert world.cookie(world.one) != world.cookie(other)
    assert world.data(world.one) == world.data(other)
    assert world.data(other) == {"seed": "0", "user_id": "1", "theirs": "1", "mine": "1"}
    assert world.app.extensions["tested.safe"].count() == 1
    assert created == lost == []


@pytest.mark.parametrize("kept", ["first", "second"])
def test_of_a_double_click_either_response_may_be_dropped(world: World, kept: str) -> None:
    other = world.meanwhile("rotate", "/do?set=user_id:1")
    world.one.get("/do?set=user_id:1")
    client = other if kept == "first" else world.one
    for _ in range(4):
        world.kit.advance(20 * 60_000)
        assert world.data(client) == {"seed": "0", "user_id": "1"}
    assert len(world.app.extensions["tested.safe"].sessions_of(1)) == 1


def test_a_second_click_that_finds_the_first_one_done_goes_on_with_its_session(
    world: World,
) -> None:
    second, third = world.sibling(), world.sibling()
    world.one.get("/do?set=user_id:1&set=cart:1")
    second.get("/do?set=user_id:1&set=mine:1")
    assert world.data(second) == {"seed": "0", "user_id": "1", "cart": "1", "mine": "1"}
    assert len(world.app.extensions["tested.safe"].sessions_of(1)) == 1
    world.kit.advance(60_000)
    third.get("/do?set=user_id:1")
    assert world.data(third) == {"user_id": "1"}


@pytest.mark.parametrize("path", ["/do?set=user_id:2", "/do?set=mine:1", "/do?clear=1", "/read"])
def test_only_the_same_users_sign_in_leads_from_an_old_id_to_the_session(
    world: World, path: str
) -> None:
    late = world.sibling()
    world.one.get("/do?set=user_id:1&set=cart:1")
    late.get(path)
    assert "cart" not in world.data(late)
    assert world.data(world.one) == {"seed": "0", "user_id": "1", "cart": "1"}


def test_a_second_click_that_meets_the_end_of_the_first_ones_session_begins_anew(
    world: World,
) -> None:
    late = world.sibling()
    world.one.get("/do?set=user_id:1&set=cart:1")
    world.one.get("/do?clear=1")
    late.get("/do?set=user_id:1")
    assert world.data(late) == {"user_id": "1"}


def test_parallel_requests_of_a_re_login_keep_their_changes(world: World) -> None:
    world.one.post("/do?set=user_id:1")
    world.kit.advance(60_000)
    relogin = world.sibling()
    world.store.before("commit", lambda: relogin.post("/do?set=user_id:1"))
    assert "Set-Cookie" not in world.one.get("/do?set=mine:1").headers
    assert world.cookie(relogin) != world.cookie(world.one)
    assert world.data(relogin) == {"seed": "0", "user_id": "1", "mine": "1"}
    assert world.data(world.one) == {}


def test_a_change_that_meets_two_new_ids_goes_on_under_the_second(world: World) -> None:
    late = world.sibling()
    world.store.before(
        "commit", lambda: [world.one.get("/do?renew=1"), world.one.get("/do?renew=1")]
    )
    assert "Set-Cookie" not in late.get("/do?set=mine:1").headers
    assert world.data(world.one) == {"seed": "0", "mine": "1"}


def test_a_change_that_meets_a_new_id_and_a_logout_brings_nothing_back(world: World) -> None:
    lost, late = heard(session_lost, world.app), world.sibling()
    world.store.before(
        "commit", lambda: [world.one.get("/do?renew=1"), world.one.get("/do?clear=1")]
    )
    assert "Set-Cookie" not in late.get("/do?set=mine:1").headers
    assert world.app.extensions["tested.safe"].count() == 0
    assert len(lost) == 1


def test_a_login_of_another_user_that_meets_a_login_joins_nothing(world: World) -> None:
    """What the request assigned is all that the second user has, the same values, too."""
    other = world.meanwhile("rotate", "/do?set=user_id:1&set=seed:0")
    world.one.get("/do?set=user_id:2&set=seed:0")
    assert world.data(other) == {"seed": "0", "user_id": "1"}
    assert world.data(world.one) == {"user_id": "2", "seed": "0"}


def test_a_login_that_meets_a_logout_is_a_new_session_without_the_old_data(world: World) -> None:
    world.one.get("/do?set=private:1")
    world.meanwhile("rotate", "/do?clear=1")
    world.one.get("/do?set=user_id:2")
    assert world.data(world.one) == {"user_id": "2"}


def test_a_login_whose_session_timed_out_meanwhile_goes_through(world: World) -> None:
    ended = heard(session_ended, world.app)
    world.store.before("rotate", lambda: world.kit.advance(31 * 60_000))
    world.one.get("/do?set=user_id:2")
    assert world.data(world.one) == {"user_id": "2"}
    assert [(type(event), event.reason) for event in ended] == [(SessionEnded, "idle")]


def test_a_change_whose_session_timed_out_meanwhile_is_not_stored(world: World) -> None:
    world.store.before("commit", lambda: world.kit.advance(31 * 60_000))
    response = world.one.get("/do?set=mine:2")
    assert "Set-Cookie" not in response.headers
    assert world.data(world.one) == {}


def test_a_view_that_assigns_no_user_is_no_login_where_the_session_timed_out(world: World) -> None:
    world.store.before("commit", lambda: world.kit.advance(31 * 60_000))
    response = world.one.post("/do?set=user_id:")
    assert "Set-Cookie" not in response.headers
    assert world.data(world.one) == {}


def test_an_emptied_session_gives_way_to_a_change(world: World) -> None:
    world.meanwhile("commit", "/do?set=theirs:1")
    response = world.one.get("/do?drop=seed")
    assert "Set-Cookie" not in response.headers
    assert world.data(world.one) == {"theirs": "1"}


def test_a_change_that_meets_an_emptied_session_merges_and_sets_the_cookie_again(
    world: World,
) -> None:
    created = heard(session_created, world.app)
    before = world.cookie(world.one)
    world.meanwhile("commit", "/do?drop=seed")
    response = world.one.get("/do?set=mine:1")
    assert response.headers["Set-Cookie"].startswith(f"session={before};")
    assert world.data(world.one) == {"mine": "1"}
    world.kit.advance(2 * 60_000)  # it has its usual time again
    assert world.data(world.one) == {"mine": "1"}
    assert created == []


def test_two_that_empty_it_at_once_leave_nothing(world: World) -> None:
    world.meanwhile("commit", "/do?drop=seed")
    world.one.get("/do?drop=seed")
    world.kit.advance(60_000)
    assert world.app.extensions["tested.safe"].count() == 0


def test_a_request_that_only_reads_an_emptied_session_does_not_set_its_cookie_again(
    world: World,
) -> None:
    late = world.sibling()
    world.one.get("/do?drop=seed")
    assert "Set-Cookie" not in late.get("/read").headers
    world.kit.advance(60_000)
    assert world.app.extensions["tested.safe"].count() == 0


def test_two_changes_that_meet_an_emptied_session_both_survive(world: World) -> None:
    """A page that showed the last flash ended nothing, whatever else was under way."""
    lost = heard(session_lost, world.app)
    world.one.get("/do?drop=seed&set=_flashes:hello")
    first, second = world.sibling(), world.sibling()

    def interrupt() -> None:
        world.store.before("commit", lambda: second.get("/do?drop=_flashes"))
        first.get("/do?set=first:1")

    world.store.before("commit", interrupt)
    world.one.get("/do?set=mine:1")
    assert world.data(world.one) == {"first": "1", "mine": "1"}
    assert lost == []


def test_a_logout_that_meets_a_new_id_ends_the_session_there(world: World) -> None:
    ended = heard(session_ended, world.app)
    world.one.get("/do?set=user_id:1")
    other = world.meanwhile("end", "/do?renew=1")
    world.one.get("/do?clear=1")
    assert world.data(other) == {}
    assert world.app.extensions["tested.safe"].count() == 0
    assert [event.reason for event in ended] == ["logout"]


def test_a_logout_that_keeps_a_cart_ends_the_session_under_its_new_id(world: World) -> None:
    world.one.get("/do?set=user_id:1")
    other = world.meanwhile("rotate", "/do?renew=1")
    world.one.get("/do?drop=user_id")
    assert world.data(world.one) == {"seed": "0"}
    assert world.data(other) == {}
    assert world.app.extensions["tested.safe"].count() == 1


def test_a_logout_with_the_id_before_a_login_ends_nothing(world: World) -> None:
    late = world.sibling()
    world.one.get("/do?set=user_id:1")
    assert "Set-Cookie" not in late.get("/do?clear=1").headers
    assert world.data(world.one) == {"seed": "0", "user_id": "1"}


def test_a_logout_holds_also_when_what_is_left_cannot_be_stored(world: World) -> None:
    world.one.get("/do?set=user_id:1")
    world.store.failing = {"rotate"}
    old = world.sibling()
    assert world.one.get("/do?drop=user_id").status_code == 503
    world.store.failing = set()
    assert world.data(old) == {}
    assert world.app.extensions["tested.safe"].count() == 0


def test_a_double_logout_is_a_logout(world: World) -> None:
    world.meanwhile("end", "/do?clear=1")
    response = world.one.get("/do?clear=1")
    assert response.status_code == 200
    assert world.app.extensions["tested.safe"].count() == 0


def test_a_logout_whose_reply_was_lost_is_reported_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store repeats the call, and finds that it has done it."""
    ended, end = heard(session_ended, world.app), world.kit.store.end

    def twice(*args: Any) -> Any:
        end(*args)
        return end(*args)

    monkeypatch.setattr(world.kit.store, "end", twice)
    response = world.one.get("/do?clear=1")
    assert "Max-Age=0" in response.headers["Set-Cookie"]
    assert [event.reason for event in ended] == ["logout"]


def test_a_session_that_cannot_be_read_is_reported_once(world: World) -> None:
    ended, store = heard(session_ended, world.app), world.kit.store
    verified = tokens.unsign(world.cookie(world.one), world.app.secret_key or "")
    assert verified
    overwrite(store, verified.sid.key, raw(store, verified.sid.key) + b"\xc1\xc1")
    for _ in range(3):
        assert world.data(world.one) == {}
    world.one.get("/do?set=mine:1")
    assert world.data(world.one) == {"mine": "1"}
    assert [(e.handle, e.reason) for e in ended] == [(verified.sid.key, "corrupt")]


def test_conflicts_without_end_are_a_503_and_the_others_changes_stay(make_app: MakeApp) -> None:
    memory = MemoryStore()
    store = CountingStore(memory)
    app = make_app(store=store, store_timeout="50ms")

    @app.get("/add")
    def add() -> str:
        session.setdefault("cart", []).append(1)
        return "done"

    def restless(key: str, draft: Draft, expected: str, *, touch: int | None, loaded: Any) -> Any:
        theirs = memory.load(key, make_rules(), slide=False)
        assert isinstance(theirs, Live)
        theirs_now = draft._replace(stamp=new_stamp(), payload=encode({"theirs": 1}))
        memory.commit(key, theirs_now, theirs.record.stamps[0], touch=touch)
        return memory.commit(key, draft, expected, touch=touch, loaded=loaded)

    client = app.test_client()
    client.get("/add")
    store.commit = restless  # type: ignore[attr-defined]  # in the place of the counted one
    response = client.get("/add")
    assert response.status_code == 503
    assert "Set-Cookie" not in response.headers
    with client.session_transaction() as after:
        assert dict(after) == {"theirs": 1}


# -- the merge itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, {"a": 1, "c": 3}, {"a": 1, "b": 2, "c": 3}),
        ({"a": 1}, {}, {"a": 1, "c": 3}, {"c": 3}),
        ({"a": 1}, {"a": True}, {"a": 1, "c": 3}, {"a": True, "c": 3}),
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": 3}, {}, {"a": 3}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1], "b": 1}, {"a": [1, 2], "b": 1}),
    ],
    ids=[
        "both added",
        "mine removed",
        "one is not true",
        "theirs",
        "changed and removed",
        "inside",
    ],
)
def test_a_merge_takes_mine_where_i_changed_and_theirs_elsewhere(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any], merged: dict[str, Any]
) -> None:
    result = merge(encode(base), mine, encode(theirs))
    assert encode(dict(sorted(result.items()))) == encode(merged)


def test_not_a_number_is_no_change() -> None:
    nan = float("nan")
    assert merge(encode({"a": nan}), {"a": nan}, encode({"a": 5})) == {"a": 5}
    assert own_changes(encode({"a": nan}), {"a": nan, "b": 1}) == {"b": 1}
