"""Rows 6, 8 and 9: connections that are slow, and connections that are cut."""

from __future__ import annotations

import pytest

from flask_safesession.events import StoreFailed
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.testing.kit import together

from ..support import proxy as proxies
from ..support import servers
from ..support.faults_kit import (
    AFTER,
    ANN,
    BOUND,
    CHANGES,
    FIRSTS,
    IDLE,
    TIMEOUT,
    OpenSite,
    age,
    assert_whole,
    entries,
    good,
    outage,
    read,
    records,
    scripts_run,
)

pytestmark = pytest.mark.faults


# -- 6: latency ---------------------------------------------------------------------------------


def test_fault_06_latency_under_the_timeout_changes_nothing(
    proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    site = open_site(proxy.url)
    members = [site.member() for _ in AFTER]
    proxy.delay = 0.1  # each way
    together(len(AFTER), lambda n: good(members[n], list(AFTER)[n]))
    proxy.delay = 0
    assert [read(member) for member in members] == list(AFTER.values())


def test_fault_06_latency_over_the_timeout_is_a_503_in_time(
    proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    sites = [open_site(proxy.url, store_timeout=TIMEOUT) for _ in AFTER]
    members = [site.member() for site in sites]
    proxy.delay = TIMEOUT
    together(len(AFTER), lambda n: outage(members[n], list(AFTER)[n], BOUND))
    proxy.delay = 0
    assert [read(member) for member in members] == [ANN] * len(AFTER)


def test_fault_06_a_late_reply_is_given_to_nobody(
    proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    """It comes when others ask on what were the same connections."""
    site = open_site(proxy.url, store_timeout=TIMEOUT)
    members = [site.member(f"user {n}", f"thing {n}") for n in range(FAILURES - 1)]
    expected = [{"user_id": f"user {n}", "cart": [f"thing {n}"]} for n in range(len(members))]
    proxy.delay = TIMEOUT / 2 + 0.05
    together(len(members), lambda n: outage(members[n], "/read", BOUND))
    proxy.delay = 0
    while proxy.under_way:
        assert [read(member) for member in members] == expected
    assert [read(member) for member in members] == expected


# -- 8: the reply to a create is lost -----------------------------------------------------------


@pytest.mark.parametrize("path", FIRSTS)
def test_fault_08_a_create_whose_reply_was_lost_leaves_one_session_that_ends_as_idle(
    steady: servers.Server, proxy: proxies.Proxy, open_site: OpenSite, path: str
) -> None:
    site = open_site(proxy.url)
    good(site.visitor(), path)
    stranger, before = site.visitor(), scripts_run(steady)
    site.take()
    proxy.reset, proxy.cut_replies = True, 1
    outage(stranger, path)
    assert site.take() == ["create"]
    assert scripts_run(steady) == before + 1, "it must not be sent twice"
    assert len(site.take_events(StoreFailed)) == 1
    assert len(records(steady)) == len(entries(steady)) == 2
    assert_whole(site, steady)
    assert read(stranger) == {}
    age(steady, IDLE - 10_000)
    assert site.safe.purge().due == 0
    age(steady, 10_000)
    assert site.safe.purge().due == 2
    assert_whole(site, steady)


@pytest.mark.parametrize("path", FIRSTS)
def test_fault_08_a_create_that_could_not_connect_leaves_nothing(
    steady: servers.Server, proxy: proxies.Proxy, open_site: OpenSite, path: str
) -> None:
    site = open_site(proxy.url)
    proxy.reset, proxy.cut_replies = True, 1  # the first reply is one of the handshake
    outage(site.visitor(), path)
    assert records(steady) == {}
    good(site.visitor(), path)
    assert_whole(site, steady)


@pytest.mark.parametrize("path", [*CHANGES, "/read"])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_fault_08_all_else_is_asked_again_and_done_once(
    steady: servers.Server, proxy: proxies.Proxy, open_site: OpenSite, path: str, reset: bool
) -> None:
    site = open_site(proxy.url)
    member = site.member()
    proxy.reset = reset

    def cut() -> None:
        proxy.cut_replies = 1

    if path == "/read":
        cut()
    site.strike(cut)
    good(member, path)
    assert site.take_events(StoreFailed) == []
    assert proxy.cut_replies == 0
    assert read(member) == AFTER[path]
    assert_whole(site, steady)


def test_fault_08_a_login_whose_replies_were_all_lost_ends_the_old_id_and_can_be_repeated(
    steady: servers.Server, proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    site = open_site(proxy.url)
    member = site.member()

    def cut() -> None:
        proxy.cut_replies = 2

    site.strike(cut)
    outage(member, "/login/eve")
    assert read(member) == {}, "the one exception that the docs own up to"
    good(member, "/login/eve")
    assert read(member) == {"cart": ["pear"], "user_id": "eve"}, "it goes on there, within a minute"
    assert_whole(site, steady)


# -- 9: reset in the middle of a reply ----------------------------------------------------------


@pytest.mark.parametrize("path", AFTER)
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_fault_09_a_reply_that_is_cut_anywhere_is_never_taken_for_a_whole_one(
    steady: servers.Server, proxy: proxies.Proxy, open_site: OpenSite, path: str, reset: bool
) -> None:
    site = open_site(proxy.url)
    proxy.reset = reset
    for size in (1, 2, 5, 6, 30, 79, 80, 95, 100, 105):
        member = site.member()

        def truncate(size: int = size) -> None:
            proxy.truncate = size

        site.strike(truncate)
        if path == "/read":
            truncate()
        good(member, path)
        assert read(member) == AFTER[path]
        proxy.truncate = None  # the reply may have been that short
        good(member, "/logout")
    assert_whole(site, steady)


@pytest.mark.parametrize("path", FIRSTS)
def test_fault_09_a_create_whose_reply_is_cut_is_a_503_or_done(
    steady: servers.Server, proxy: proxies.Proxy, open_site: OpenSite, path: str
) -> None:
    site = open_site(proxy.url)
    good(site.visitor(), "/add/fig")
    for size in (1, 5, 30, 100):
        good(site.visitor(), "/add/fig")  # else the circuit opens
        stranger = site.visitor()
        proxy.truncate = size
        outage(stranger, path)
        assert read(stranger) == {}
    assert_whole(site, steady)


def test_fault_09_a_reply_that_comes_in_pieces_for_too_long_is_a_503_and_nobody_elses(
    proxy: proxies.Proxy, open_site: OpenSite
) -> None:
    site = open_site(proxy.url, store_timeout=TIMEOUT)
    ann, bob = site.member("ann", "A" * 900), site.member("bob", "B" * 900)
    proxy.piece = 40  # ten a second
    outage(ann, "/read", BOUND)
    proxy.piece = None
    while proxy.under_way:
        assert read(bob) == {"user_id": "bob", "cart": ["B" * 900]}
    assert read(ann) == {"user_id": "ann", "cart": ["A" * 900]}
