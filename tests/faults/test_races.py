"""Rows 34 and 35: two rotations of one session at once; a response that writes too late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from flask import Response, stream_with_context
from flask.testing import FlaskClient

from flask_safesession import session
from flask_safesession.events import SessionLost, StoreFailed
from flask_safesession.testing.kit import together

from ..support import servers
from ..support.faults_kit import ANN, OpenSite, Site, assert_whole, cookie_of, good, read, records

pytestmark = pytest.mark.faults
ROUNDS = 8


def both(sites: list[Site], clients: list[FlaskClient], paths: tuple[str, str]) -> None:
    """Two requests that have both loaded the session before either saves it."""
    loaded = threading.Barrier(2, timeout=20)
    for site in sites:
        site.during = loaded.wait
    together(2, lambda n: good(clients[n], paths[n]))
    for site in sites:
        site.during = bool


def pair(steady: servers.Server, open_site: OpenSite, shards: int) -> list[Site]:
    """Two processes, as far as the store can tell."""
    return [open_site(steady.url, shards=shards) for _ in range(2)]


# -- 34: two rotations of one session at once ---------------------------------------------------


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_34_of_two_rotations_one_wins_and_the_other_joins_it(
    steady: servers.Server, open_site: OpenSite, shards: int
) -> None:
    sites = pair(steady, open_site, shards)
    for _ in range(ROUNDS):
        steady.ask("FLUSHALL")
        member = sites[0].member()
        before = cookie_of(member)
        clients = [site.visitor(like=member) for site in sites]
        both(sites, clients, ("/renew", "/renew"))
        (winner,) = (client for client in clients if cookie_of(client) != before)
        (loser,) = (client for client in clients if cookie_of(client) == before)
        assert read(winner) == ANN
        assert read(loser) == {}
        assert cookie_of(loser) == before, "in one browser it must not undo the winner's"
        assert read(sites[0].visitor(like=member)) == {}
        assert len(records(steady)) == sites[0].safe.count() == 1
        assert [site.take_events(SessionLost) for site in sites] == [[], []], "nothing to lose"
        good(loser, "/login/ann")
    assert_whole(sites[0], steady)


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_34_of_two_logins_each_is_who_they_say_and_the_old_id_is_nobody(
    steady: servers.Server, open_site: OpenSite, shards: int
) -> None:
    """The second is not blocked by the first: it has a session of its own, with its own part."""
    sites, names = pair(steady, open_site, shards), ("ann", "bob")
    for _ in range(ROUNDS):
        steady.ask("FLUSHALL")
        stranger = sites[0].visitor()
        good(stranger, "/add/pear")
        before = cookie_of(stranger)
        clients = [site.visitor(like=stranger) for site in sites]
        both(sites, clients, (f"/login/{names[0]}", f"/login/{names[1]}"))
        found = [read(client) for client in clients]
        assert [data["user_id"] for data in found] == list(names)
        assert [data.get("cart") for data in found].count(["pear"]) == 1, "one has won"
        cookies = {cookie_of(client) for client in clients}
        assert len(cookies) == 2
        assert before not in cookies
        assert read(sites[0].visitor(like=stranger)) == {}
        assert len(records(steady)) == sites[0].safe.count() == 2
    assert_whole(sites[0], steady)


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_34_a_login_that_is_clicked_twice_leaves_one_session_with_the_cart(
    steady: servers.Server, open_site: OpenSite, shards: int
) -> None:
    sites = pair(steady, open_site, shards)
    for _ in range(ROUNDS):
        steady.ask("FLUSHALL")
        stranger = sites[0].visitor()
        good(stranger, "/add/pear")
        clients = [site.visitor(like=stranger) for site in sites]
        both(sites, clients, ("/login/ann", "/login/ann"))
        cookies = {cookie_of(client) for client in (stranger, *clients)}
        assert len(cookies) == 3, "each response has a cookie: the browser may drop either"
        assert [read(client) for client in clients] == [ANN, ANN]
        assert read(sites[0].visitor(like=stranger)) == {}
        assert len(records(steady)) == sites[0].safe.count() == 1
        assert [site.take_events(SessionLost) for site in sites] == [[], []]
    assert_whole(sites[0], steady)


@pytest.mark.parametrize("shards", [1, 4])
def test_fault_34_a_rotation_and_a_login_at_once_end_in_the_login(
    steady: servers.Server, open_site: OpenSite, shards: int
) -> None:
    sites = pair(steady, open_site, shards)
    for _ in range(ROUNDS):
        steady.ask("FLUSHALL")
        stranger = sites[0].visitor()
        good(stranger, "/add/pear")
        clients = [site.visitor(like=stranger) for site in sites]
        both(sites, clients, ("/renew", "/login/ann"))
        renewed, member = (read(client) for client in clients)
        assert member["user_id"] == "ann"
        assert renewed in ({}, {"cart": ["pear"]})
        assert ("cart" in member) != (renewed != {}), "the session is with one of them"
        assert read(sites[0].visitor(like=stranger)) == {}
        assert len(records(steady)) == sites[0].safe.count() == 1 + (renewed != {})
    assert_whole(sites[0], steady)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("first", [0, 1], ids=["rotated first", "logged out first"])
def test_fault_34_a_logout_is_not_outrun_by_a_rotation(
    steady: servers.Server, open_site: OpenSite, shards: int, first: int
) -> None:
    (site, other), paths = pair(steady, open_site, shards), ("/renew", "/logout")
    member = site.member()
    sibling = other.visitor(like=member)
    site.strike(lambda: good(sibling, paths[first]))  # the whole of it, before this one saves
    good(member, paths[1 - first])
    assert [read(client) for client in (member, sibling)] == [{}, {}]
    assert records(steady) == {}
    assert_whole(site, steady)


# -- 35: written after the headers --------------------------------------------------------------


def add_stream(site: Site, change: Callable[[], object], *, before: Callable[[], object]) -> None:
    def body() -> Iterator[str]:
        yield "begun, "
        change()
        yield "done"

    def view() -> Response:
        before()
        return site.app.response_class(stream_with_context(body()))

    site.app.add_url_rule("/stream", "stream", view)


WRITES: dict[str, Callable[[], object]] = {
    "assign": lambda: session.update(cart=["late"]),
    "sign in": lambda: session.update(user_id="eve"),
    "pop": lambda: session.pop("cart"),
    "clear": lambda: session.clear(),  # noqa: PLW0108  # outside a request there is none
}
BEFORE: dict[str, Callable[[], object]] = {
    "untouched": bool,
    "read": lambda: len(session),
    "written": lambda: session.update(seen=True),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_fault_35_a_write_after_the_headers_is_warned_of_and_not_stored(
    steady: servers.Server,
    open_site: OpenSite,
    caplog: pytest.LogCaptureFixture,
    write: Callable[[], object],
    before: Callable[[], object],
) -> None:
    site = open_site(steady.url)
    add_stream(site, write, before=before)
    member = site.member()
    cookie = cookie_of(member)
    response = good(member, "/stream")
    assert response.text == "begun, done"
    assert "before the stream begins" in caplog.text
    assert "Set-Cookie" not in response.headers
    assert cookie_of(member) == cookie
    expected = {**ANN, "seen": True} if before is BEFORE["written"] else ANN
    assert read(member) == expected
    assert_whole(site, steady)


def test_fault_35_a_stream_that_only_reads_is_not_warned_of(
    steady: servers.Server, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_site(steady.url)
    add_stream(site, lambda: session["cart"], before=lambda: session.update(seen=True))
    member = site.member()
    assert good(member, "/stream").text == "begun, done"
    assert "stream begins" not in caplog.text


def test_fault_35_a_server_that_dies_during_the_stream_is_noticed(
    kept: servers.Server, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = open_site(kept.url)

    def change() -> None:
        kept.kill()
        session["cart"] = ["late"]

    add_stream(site, change, before=lambda: len(session))
    member = site.member()
    assert good(member, "/stream").text == "begun, done"
    assert "before the stream begins" in caplog.text
    assert site.take_events(StoreFailed) == []
    kept.restart()
    assert read(member) == ANN
