"""docs/security.md: sessions that belong to users, ended by their owners and by others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask

from flask_safesession import NotFresh, SafeSession, session
from flask_safesession.events import session_replayed
from flask_safesession.model.tokens import new_id, new_stamp
from flask_safesession.stores.base import Gone, Live
from flask_safesession.testing import StoreKit, make_draft, make_rules

from ..support import servers
from ..support.concurrency import in_child
from ..support.kits import redis_kit
from ..support.security_kit import (
    KEY,
    MINUTE,
    SECOND,
    Answer,
    Site,
    dump,
    login,
    logout,
    read,
    write,
)


@pytest.fixture
def site(kit: StoreKit) -> Site:
    return Site(kit, max_sessions_per_user=20)


def others() -> int:
    return session.end_others()


# -- 7.4.2, 7.4.3, 7.4.5: ends by others ----------------------------------------------------------


def test_all_sessions_of_a_user_are_ended_and_nobody_elses(site: Site) -> None:
    anns = [site.visit(login("ann")).cookie for _ in range(5)]
    bobs, stranger = site.visit(login("bob")).cookie, site.visit(write("cart", 1)).cookie
    assert site.safe.end_user("ann") == 5
    assert [site.visit(read, cookie).value for cookie in anns] == [{}] * 5
    assert all(site.is_gone(cookie) for cookie in anns)
    assert site.visit(read, bobs).value == {"user_id": "bob"}
    assert site.visit(read, stranger).value == {"cart": 1}


@pytest.mark.every_store
def test_all_but_this_one_are_ended_by_their_owner(site: Site) -> None:
    anns = [site.visit(login("ann")).cookie for _ in range(4)]
    assert site.visit(others, anns[2]).value == 3
    expected = [{}, {}, {"user_id": "ann"}, {}]
    assert [site.visit(read, cookie).value for cookie in anns] == expected
    assert site.visit(others).value == 0  # a stranger ends nobody's


def test_everybodys_sessions_are_ended(site: Site) -> None:
    cookies = [site.visit(login(name)).cookie for name in ("ann", "bob", "eve")]
    cookies.append(site.visit(write("cart", 1)).cookie)
    site.kit.advance(1)
    site.safe.end_all()
    assert [site.visit(read, cookie).value for cookie in cookies] == [{}] * 4
    assert site.visit(read, site.visit(login("ann")).cookie).value == {"user_id": "ann"}


ENDS: dict[str, Callable[[SafeSession], object]] = {
    "the user's": lambda safe: safe.end_user("ann"),
    "all": lambda safe: safe.end_all(),
    "one": lambda safe: safe.end(str(safe.sessions_of("ann")[0].handle)),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_an_end_by_another_process_holds_at_once(
    server: servers.Server, prefix: str, end: Callable[[SafeSession], object]
) -> None:
    def elsewhere() -> None:
        app = Flask("elsewhere")
        app.secret_key = KEY
        safe = SafeSession(app, store=server.url, key_prefix=prefix, check_interval=None)
        with app.app_context():
            end(safe)

    kit = redis_kit(server.client(), prefix)
    site = Site(kit)
    cookie = site.visit(login("ann")).cookie
    assert site.visit(read, cookie).value == {"user_id": "ann"}
    in_child(elsewhere)
    assert site.visit(read, cookie).value == {}
    assert site.count() == 0
    kit.store.close()


@pytest.mark.every_store
@pytest.mark.parametrize("end", ["one", "user", "all"])
def test_an_end_by_somebody_else_stands_while_requests_are_in_flight(site: Site, end: str) -> None:
    """What they store afterwards brings nothing back: no record, no cookie, no new session."""
    cookie = site.visit(login("ann")).cookie
    site.kit.advance(1)

    def strike() -> None:
        session["late"] = True
        if end == "one":
            assert site.safe.end(site.sid(cookie).key)
        elif end == "user":
            assert site.safe.end_user("ann") == 1
        else:
            site.safe.end_all()

    answer = site.visit(strike, cookie)
    assert answer.morsel is None
    assert site.visit(read, cookie).value == {}
    assert site.count() == 0


@pytest.mark.every_store
def test_a_login_that_races_with_an_end_is_ended_or_came_after(site: Site) -> None:
    """Whatever comes first: the list and what the cookies can do never differ."""
    answers: list[Answer] = []
    start = threading.Barrier(5)

    def sign_in() -> None:
        start.wait()
        answers.append(site.visit(login("ann")))

    threads = [threading.Thread(target=sign_in) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    site.safe.end_user("ann")
    for thread in threads:
        thread.join()
    alive = {site.sid(one.cookie).key for one in answers if site.visit(read, one.cookie).value}
    assert alive == {info.handle for info in site.safe.sessions_of("ann")}
    assert len(alive) == site.count()


@pytest.mark.every_store
def test_two_ends_of_all_in_one_moment_spare_nobody_in_between(kit: StoreKit) -> None:
    """Whatever the clock says: a session that was made between them is over."""
    rules = make_rules()
    store: Any = kit.store
    for _ in range(100):
        draft = make_draft(rules=rules, user="ann")
        key = new_id(draft.user[:1]).key
        store.end_all(new_stamp())
        assert isinstance(store.create(key, draft, rules), Live)
        store.end_all(new_stamp())
        assert isinstance(store.load(key, rules, slide=True), Gone)
    assert store.count(rules).total == 0


# -- 7.5.2: a list of one's own -------------------------------------------------------------------


def test_a_user_lists_and_ends_sessions(site: Site) -> None:
    first, second = (site.visit(login("ann")).cookie for _ in range(2))

    def listed() -> list[Any]:
        found = site.safe.sessions_of(session["user_id"])
        return [info.handle for info in found if not info.current]

    (handle,) = site.visit(listed, first).value
    assert site.safe.end(handle)
    assert site.visit(read, second).value == {}
    assert site.visit(listed, first).value == []


def test_no_field_of_the_list_works_as_a_cookie(site: Site) -> None:
    cookie = site.visit(login("ann")).cookie
    (info,) = site.safe.sessions_of("ann")
    for field in info:
        for value in (str(field), f"{field}.{cookie.partition('.')[2]}"):
            assert site.visit(read, value).value == {}
    assert cookie not in repr(info)
    assert site.sid(cookie).reveal() not in repr(info)
    assert site.visit(read, cookie).value == {"user_id": "ann"}


@pytest.mark.every_store
def test_what_remembers_an_end_holds_no_cookie_value(site: Site) -> None:
    cookies = [site.visit(login(name)).cookie for name in ("ann", "bob")]
    site.safe.end_user("ann")
    site.kit.advance(1)
    site.safe.end_all()
    held = dump(site.kit.store)
    for sid in map(site.sid, cookies):
        assert sid.key.encode() in held
        assert sid.reveal().encode() not in held


# -- 7.5.1, 7.5.3: a recent sign-in ---------------------------------------------------------------


def test_use_alone_does_not_make_a_sign_in_fresh(site: Site) -> None:
    guarded = site.safe.fresh(within="10m")(read)

    def attempt() -> Any:
        try:
            return guarded()
        except NotFresh:
            return "again"

    cookie = site.visit(login("ann")).cookie
    for _ in range(2):
        site.kit.advance(5 * MINUTE - 10 * SECOND)
        assert site.visit(attempt, cookie).value == {"user_id": "ann"}
    site.visit(write("busy", 1), cookie)
    site.kit.advance(30 * SECOND)
    assert site.visit(attempt, cookie).value == "again"
    assert site.visit(attempt).value == "again"  # a stranger never signed in
    site.visit(login("ann"), cookie)  # assigned by a GET: nobody was asked for a password
    assert site.visit(attempt, cookie).value == "again"
    again = site.post(login("ann"), cookie).cookie
    assert site.visit(attempt, again).value == {"user_id": "ann", "busy": 1}


# -- renewed IDs ----------------------------------------------------------------------------------


@contextmanager
def replays(site: Site) -> Iterator[list[str]]:
    """The handles that ``session_replayed`` names meanwhile."""
    seen: list[str] = []

    def note(sender: Any, event: Any) -> None:
        seen.append(event.handle)

    with session_replayed.connected_to(note, site.app):
        yield seen


def renewed(site: Site) -> tuple[str, str]:
    """Sign ann in, and let the ID be renewed: the cookie before, and the one that she uses now."""
    old = site.visit(login("ann")).cookie
    site.kit.advance(11 * MINUTE)
    new = site.visit(read, old).cookie
    assert site.sid(old).key == site.sid(new).key  # the session keeps its place
    assert site.visit(read, new).value == {"user_id": "ann"}
    return old, new


@pytest.mark.every_store
def test_a_replaced_secret_that_comes_back_twice_after_its_grace_ends_the_session(
    kit: StoreKit,
) -> None:
    site = Site(kit, renew_interval="10m", renew_grace="10s")
    old, new = renewed(site)
    assert site.visit(read, old).value["user_id"] == "ann"  # a sibling, in the grace
    kit.advance(30 * SECOND)
    with replays(site) as seen:
        assert site.visit(read, old).value == {}  # a slow upload does that, too
        kit.advance(5 * SECOND)
        assert site.visit(read, old).value == {}
        assert site.visit(read, new).value == {"user_id": "ann"}
        assert seen == []
        kit.advance(30 * SECOND)
        assert site.visit(read, old).value == {}
    assert seen == [site.sid(new).key]
    assert site.visit(read, new).value == {}
    assert site.count() == 0


def test_the_holder_of_a_replaced_secret_who_signs_in_ends_the_session(kit: StoreKit) -> None:
    site = Site(kit, renew_interval="10m", renew_grace="10s")
    old, new = renewed(site)
    kit.advance(30 * SECOND)
    with replays(site) as seen:
        own = site.post(login("eve"), old).cookie
    assert seen == [site.sid(new).key]
    assert site.visit(read, new).value == {}
    assert site.visit(read, own).value == {"user_id": "eve"}


def test_a_visitor_whose_new_cookie_was_lost_is_not_reported_as_stolen(kit: StoreKit) -> None:
    site = Site(kit, renew_interval="10m", renew_grace="10s")
    old = site.visit(login("ann")).cookie
    kit.advance(11 * MINUTE)
    lost = site.visit(read, old).cookie
    kit.advance(30 * SECOND)
    with replays(site) as seen:
        new = site.visit(read, old).cookie
        assert new != lost
        assert site.visit(read, new).value == {"user_id": "ann"}
        kit.advance(30 * SECOND)
        assert site.visit(read, new).value == {"user_id": "ann"}
        assert site.visit(read, lost).value == {}
    assert seen == []


def test_a_logout_with_a_renewed_id_in_its_grace_ends_the_session(kit: StoreKit) -> None:
    site = Site(kit, renew_interval="10m", renew_grace="10s")
    old = site.visit(login("ann")).cookie
    kit.advance(11 * MINUTE)
    new = site.visit(read, old).cookie
    site.visit(logout, old)
    assert site.visit(read, new).value == {}
    assert site.count() == 0
