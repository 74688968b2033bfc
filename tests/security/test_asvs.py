"""OWASP ASVS 5.0, V7 and V3.3, the library's part: docs/security.md names these tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask

from flask_safesession import ConfigError, SafeSession, session
from flask_safesession.events import SessionEnded, session_ended
from flask_safesession.testing import StoreKit

from ..support.kits import memory_kit
from ..support.security_kit import (
    KEY,
    MINUTE,
    SECOND,
    Site,
    Work,
    forget,
    login,
    logout,
    read,
    regenerate,
    write,
)


@pytest.fixture
def site(kit: StoreKit) -> Site:
    return Site(kit)


@contextmanager
def endings(site: Site) -> Iterator[list[SessionEnded]]:
    """What ``session_ended`` says of this site meanwhile."""
    seen: list[SessionEnded] = []

    def note(sender: Flask, event: SessionEnded) -> None:
        seen.append(event)

    with session_ended.connected_to(note, site.app):
        yield seen


# -- 7.1.1, 7.3.1, 7.3.2: both limits -------------------------------------------------------------


def test_by_default_a_session_ends_after_half_an_hour_without_use(
    site: Site, kit: StoreKit
) -> None:
    cookie = site.visit(login(1)).cookie
    kit.advance(30 * MINUTE - kit.tolerance)
    assert site.visit(read, cookie).value == {"user_id": 1}
    kit.advance(30 * MINUTE + SECOND)
    assert site.visit(read, cookie).value == {}


def test_a_client_that_polls_every_half_idle_time_ends_exactly_at_the_absolute_deadline(
    site: Site, kit: StoreKit
) -> None:
    cookie = site.visit(login(1)).cookie
    for _ in range(47):
        kit.advance(15 * MINUTE)
        assert site.visit(read, cookie).value == {"user_id": 1}
    kit.advance(15 * MINUTE - 20 * SECOND)  # on a real server, seconds have passed
    assert site.visit(read, cookie).value == {"user_id": 1}
    kit.advance(20 * SECOND)
    with endings(site) as seen:
        assert site.visit(read, cookie).value == {}
    assert [event.reason for event in seen] == ["lifetime"]


@pytest.mark.parametrize("value", [None, 0, -1, "", "never", False, True, float("inf"), "100y"])
@pytest.mark.parametrize("key", ["idle_timeout", "lifetime"])
def test_neither_limit_can_be_switched_off(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"SAFESESSION_{key.upper()}"):
        SafeSession(Flask("tested"), **{key: value})


def test_a_tier_without_limits_is_refused() -> None:
    tiers: list[dict[str, Any]] = [{}, {"lifetime": None}, {"idle_timeout": 0}]
    for tier in tiers:
        with pytest.raises(ConfigError, match=r"SAFESESSION_TIERS\['admin'\]"):
            SafeSession(Flask("tested"), expiry="tiered", tiers={"admin": tier})


# -- 7.1.2: how many ------------------------------------------------------------------------------


@pytest.mark.every_store
def test_one_session_more_than_a_user_may_have_ends_one_of_that_user_whose_cookie_never_came_back(
    kit: StoreKit,
) -> None:
    site = Site(kit, max_sessions_per_user=3, touch_interval=0)
    other = site.visit(login("other")).cookie
    cookies = []
    for _ in range(3):
        cookies.append(site.visit(login("user")).cookie)
        kit.advance(SECOND)
    assert site.visit(read, cookies[0]).value
    with endings(site) as seen:
        cookies.append(site.visit(login("user")).cookie)
    # Not the oldest, which is in use: the oldest of those that nobody has used.
    assert [(e.handle, e.reason) for e in seen] == [(site.sid(cookies[1]).key, "evicted")]
    assert [bool(site.visit(read, c).value) for c in cookies] == [True, False, True, True]
    assert site.visit(read, other).value == {"user_id": "other"}


@pytest.mark.every_store
def test_of_sessions_that_are_all_used_the_one_unused_for_the_longest_ends(kit: StoreKit) -> None:
    site = Site(kit, max_sessions_per_user=3, touch_interval=0)
    cookies = [site.visit(login("user")).cookie for _ in range(3)]
    for used in (2, 0, 1):
        kit.advance(SECOND)
        assert site.visit(read, cookies[used]).value
    with endings(site) as seen:
        site.visit(login("user"))
    assert [(e.handle, e.reason) for e in seen] == [(site.sid(cookies[2]).key, "evicted")]


# -- 7.2.1: the server decides --------------------------------------------------------------------


@pytest.mark.every_store
def test_a_signed_cookie_whose_record_was_deleted_is_a_strangers(site: Site, kit: StoreKit) -> None:
    cookie = site.visit(login(1)).cookie
    forget(kit.store, site.sid(cookie).key)
    assert site.visit(read, cookie).value == {}
    assert site.visit(write("a", 1), cookie).morsel is None
    assert site.visit(read, cookie).value == {"a": 1}  # an anonymous session that stands in for it
    assert site.is_gone(cookie)
    answer = site.visit(login(1), cookie)
    assert answer.cookie != cookie
    assert site.visit(read, cookie).value == {}


# -- 7.2.4: new IDs -------------------------------------------------------------------------------


def _again() -> None:
    session["user_id"] = session["user_id"]


def _clear_and_login() -> None:
    session.clear()
    session["user_id"] = 1


def _confirm() -> None:
    session.confirm_sign_in()


@pytest.mark.parametrize(
    ("before", "change"),
    [
        pytest.param(write("cart", 1), login(1), id="login"),
        pytest.param(login(1), _confirm, id="confirmed"),
        pytest.param(login(1), _clear_and_login, id="cleared before"),
        pytest.param(login(1), login(2), id="another user"),
        pytest.param(login(1), lambda: session.pop("user_id") and write("a", 1)(), id="logout"),
        pytest.param(login(1), regenerate, id="regenerate"),
        pytest.param(write("cart", 1), lambda: session.update(user_id=1), id="update"),
        pytest.param(write("cart", 1), lambda: session.setdefault("user_id", 1), id="setdefault"),
    ],
)
def test_a_login_or_a_re_login_gives_a_new_id_and_the_old_one_is_gone_from_the_store(
    site: Site, before: Work, change: Work
) -> None:
    old = site.visit(before).cookie
    new = site.visit(change, old).cookie
    assert new != old
    assert site.is_gone(old)
    assert not site.is_gone(new)
    assert site.count() == 1


@pytest.mark.parametrize("again", [login(1), _again], ids=["re-login", "the same value"])
def test_a_re_login_that_is_posted_gives_a_new_id_and_the_old_one_is_gone_from_the_store(
    site: Site, again: Work
) -> None:
    old = site.visit(login(1)).cookie
    site.kit.advance(MINUTE)
    assert site.visit(again, old).morsel is None  # a GET that assigns the same user is no sign-in
    new = site.post(again, old).cookie
    assert new != old
    assert site.is_gone(old)
    assert not site.is_gone(new)
    assert site.count() == 1


def test_a_change_of_tier_gives_a_new_id_and_the_old_one_is_gone_from_the_store(
    kit: StoreKit,
) -> None:
    site = Site(kit, expiry="tiered", tiers={"admin": {"idle_timeout": "5m"}})
    old = site.visit(login(1)).cookie
    new = site.visit(write("_tier", "admin"), old).cookie
    assert new != old
    assert site.is_gone(old)


def test_an_id_that_an_attacker_planted_before_the_login_is_worth_nothing_after_it(
    site: Site,
) -> None:
    planted = site.visit(write("csrf", "attacker's")).cookie
    site.visit(login("victim"), planted)
    assert site.visit(read, planted).value == {}
    assert site.visit(write("cart", 1), planted).morsel is None
    assert site.visit(read, planted).value == {"cart": 1}  # nothing of the victim's
    assert site.is_gone(planted)


# -- 7.4.1: ended is ended ------------------------------------------------------------------------


def _by_logout(site: Site, cookie: str) -> None:
    site.visit(logout, cookie)


def _by_losing_the_user(site: Site, cookie: str) -> None:
    site.visit(lambda: session.pop("user_id"), cookie)


def _by_rotation(site: Site, cookie: str) -> None:
    site.visit(regenerate, cookie)


def _by_idle_time(site: Site, cookie: str) -> None:
    site.kit.advance(30 * MINUTE + SECOND)


def _by_eviction(site: Site, cookie: str) -> None:
    for _ in range(2):
        site.kit.advance(SECOND)  # so that it is the oldest
        site.visit(login(1))


def _by_revocation(site: Site, cookie: str) -> None:
    site.kit.store.end(site.sid(cookie).key, "stamp--1", "revoked", None)


@pytest.mark.every_store
@pytest.mark.parametrize(
    "end",
    [
        _by_logout,
        _by_losing_the_user,
        _by_rotation,
        _by_idle_time,
        _by_eviction,
        _by_revocation,
    ],
)
def test_an_ended_session_cannot_be_replayed(kit: StoreKit, end: Any) -> None:
    site = Site(kit, max_sessions_per_user=2)
    cookie = site.visit(login(1)).cookie
    end(site, cookie)
    assert site.visit(read, cookie).value == {}
    assert site.visit(write("cart", 1), cookie).morsel is None
    assert site.visit(read, cookie).value == {"cart": 1}  # of the stand-in: nothing that ended
    assert site.visit(lambda: session.info.user, cookie).value is None
    assert site.is_gone(cookie)


@pytest.mark.every_store
@pytest.mark.parametrize(
    "late",
    [
        pytest.param(write("cart", 1), id="write"),
        pytest.param(lambda: setattr(session, "modified", True), id="forced"),
        pytest.param(regenerate, id="regenerate"),
        pytest.param(lambda: setattr(session, "permanent", True), id="permanent"),
        pytest.param(lambda: session.pop("user_id"), id="second logout"),
    ],
)
def test_a_logout_stands_while_another_request_is_in_flight(site: Site, late: Work) -> None:
    cookie = site.visit(login(1)).cookie

    def slow() -> None:
        assert session["user_id"] == 1
        site.visit(logout, cookie)
        late()

    answer = site.visit(slow, cookie)
    assert answer.status == 200
    assert answer.morsel is None
    assert site.visit(read, cookie).value == {}
    assert site.count() == 0


def test_a_login_again_as_the_same_user_survives_a_logout_in_flight(site: Site) -> None:
    # DESIGN 3: a login becomes a new session, so that nothing that is in flight can block it.
    cookie = site.visit(login(1)).cookie
    site.kit.advance(MINUTE)

    def slow() -> None:
        assert session["user_id"] == 1
        site.visit(logout, cookie)
        session["user_id"] = 1

    answer = site.post(slow, cookie)
    assert answer.morsel is not None
    assert answer.cookie != cookie
    assert site.visit(read, answer.cookie).value == {"user_id": 1}
    assert site.is_gone(cookie)


def test_a_logout_deletes_the_cookie_and_the_record(site: Site) -> None:
    cookie = site.visit(login(1)).cookie
    answer = site.visit(logout, cookie)
    assert answer.morsel is not None
    assert (answer.morsel.value, answer.morsel["max-age"]) == ("", "0")
    assert site.count() == 0


# -- 7.6.2: reading never creates -----------------------------------------------------------------


def test_a_thousand_reads_create_no_record() -> None:
    site = Site(memory_kit())
    for _ in range(250):
        for work in (read, lambda: "user_id" in session, lambda: len(session), logout):
            answer = site.visit(work)
            assert answer.morsel is None
    assert site.store.calls == []
    assert site.count() == 0


# -- 3.3.1, 3.3.3: names with a promise -----------------------------------------------------------

_HOST = {"SESSION_COOKIE_NAME": "__Host-session", "SESSION_COOKIE_SECURE": True}


def _keeps_host_promise(answer: Any) -> bool:
    cookie = answer.morsel
    return bool(cookie and cookie["secure"] and cookie["path"] == "/" and not cookie["domain"])


def test_host_names_work_on_set_refresh_and_delete(kit: StoreKit) -> None:
    site = Site(kit, config=_HOST)
    made = site.visit(login(1))
    assert _keeps_host_promise(made)

    def stay() -> None:
        session.permanent = True
        session["stay"] = True

    refreshed = site.visit(stay, made.cookie)
    assert _keeps_host_promise(refreshed)
    assert refreshed.cookie == made.cookie

    site.app.config.update(SECRET_KEY="another key of some length", SECRET_KEY_FALLBACKS=[KEY])
    signed_anew = site.visit(write("a", 1), made.cookie)
    assert _keeps_host_promise(signed_anew)
    assert signed_anew.cookie != made.cookie

    ended = site.visit(logout, signed_anew.cookie)
    assert _keeps_host_promise(ended)
    assert ended.cookie == ""


@pytest.mark.parametrize("name", ["__Host-session", "__host-session", "__HOST-session"])
@pytest.mark.parametrize(
    "contradiction",
    [
        {"SESSION_COOKIE_SECURE": False},
        {"SESSION_COOKIE_DOMAIN": "example.org"},
        {"SESSION_COOKIE_PATH": "/app"},
        {"APPLICATION_ROOT": "/app"},
    ],
)
def test_contradictions_of_a_host_name_are_refused(
    name: str, contradiction: dict[str, Any]
) -> None:
    app = Flask("tested")
    app.config.update(_HOST | {"SESSION_COOKIE_NAME": name} | contradiction)
    with pytest.raises(ConfigError, match=name):
        SafeSession(app)


def test_a_secure_name_without_the_secure_flag_is_refused() -> None:
    app = Flask("tested")
    app.config["SESSION_COOKIE_NAME"] = "__Secure-session"
    with pytest.raises(ConfigError, match="__Secure-session"):
        SafeSession(app)


# -- 3.3.2, 3.3.4, 3.3.5: attributes and length ---------------------------------------------------


@pytest.mark.parametrize("samesite", ["Lax", "Strict", "None"])
@pytest.mark.parametrize("httponly", [True, False])
def test_samesite_and_httponly_are_as_configured_on_set_and_delete(
    samesite: str, httponly: bool
) -> None:
    config = {
        "SESSION_COOKIE_SAMESITE": samesite,
        "SESSION_COOKIE_HTTPONLY": httponly,
        "SESSION_COOKIE_SECURE": True,
    }
    site = Site(memory_kit(), config=config)
    made = site.visit(login(1))
    ended = site.visit(logout, made.cookie)
    for cookie in (made.morsel, ended.morsel):
        assert cookie is not None
        assert cookie["samesite"] == samesite
        assert bool(cookie["httponly"]) is httponly


def test_the_cookie_is_httponly_by_default() -> None:
    cookie = Site(memory_kit()).visit(login(1)).morsel
    assert cookie is not None
    assert cookie["httponly"]


def test_name_and_value_stay_under_4096_bytes_at_the_longest_settings() -> None:
    config = {
        "SESSION_COOKIE_NAME": "n" * 256,
        "SECRET_KEY": "k" * 10_000,
        "PERMANENT_SESSION_LIFETIME": 3650 * 86_400,
    }
    site = Site(memory_kit(), config=config, max_session_size=1_000_000)

    def much() -> None:
        session.permanent = True
        session["data"] = "x" * 500_000

    answer = site.visit(much)
    assert len("n" * 256 + answer.cookie) < 4096
    assert len(answer.headers["Set-Cookie"]) < 4096


def test_a_cookie_name_that_browsers_would_drop_is_refused() -> None:
    app = Flask("tested")
    app.config["SESSION_COOKIE_NAME"] = "n" * 257
    with pytest.raises(ConfigError, match="SESSION_COOKIE_NAME"):
        SafeSession(app)
