"""Rows 36 and 37: a visitor never gets the answer to a login, a logout or a renewal.

The browser goes on with the cookie that it had. Whatever has become of that session, the form with
which one signs in works at once, and nobody is taken for somebody who has stolen a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from flask import request
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_safesession import session
from flask_safesession.events import SessionReplayed

from ..support import proxy as proxies
from ..support import servers
from ..support.faults_kit import (
    BOUND,
    MINUTE,
    TIMEOUT,
    OpenSite,
    Site,
    age,
    assert_whole,
    cookie_of,
    good,
    read,
    scripts_run,
    unavailable,
    within,
)

pytestmark = pytest.mark.faults
RENEWALS = {"renew_interval": "10m", "renew_grace": "1m"}


class Deed(NamedTuple):
    """What is asked for: whether by a member, at which address, by which method."""

    by_member: bool
    path: str
    method: str


DEEDS = {
    "login": Deed(False, "/in", "POST"),
    "logout": Deed(True, "/logout", "GET"),
    "renewal": Deed(True, "/page", "GET"),
}


def add_form(site: Site) -> None:
    """A form that is protected by a token in the session, and a page that only reads."""

    def form() -> str:
        return str(session.setdefault("token", "secret"))

    def sign_in() -> tuple[str, int]:
        if request.form["token"] != session.get("token"):
            return "the token is not this session's", 400
        site.during()
        session["user_id"] = "ann"
        return "done", 200

    def page() -> str:
        found = str(session.get("user_id"))
        site.during()
        return found

    site.app.add_url_rule("/form", "form", form)
    site.app.add_url_rule("/in", "in", sign_in, methods=["POST"])
    site.app.add_url_rule("/page", "page", page)


def signs_in(client: FlaskClient) -> None:
    """The form works at once, and what it leads to is there to stay."""
    before = cookie_of(client)
    assert submit(client).status_code == 200
    assert read(client)["user_id"] == "ann"
    assert cookie_of(client) not in (None, before)


def submit(client: FlaskClient) -> TestResponse:
    return client.post("/in", data={"token": good(client, "/form").text})


def begin(site: Site, server: servers.Server, deed: Deed) -> FlaskClient:
    """Somebody for whom *deed* is the next thing to do."""
    client = site.visitor()
    good(client, "/form")
    if deed.by_member:
        signs_in(client)
        age(server, 11 * MINUTE)  # the secret is to be renewed, and a sign-in counts again
    site.take_events()
    return client


def ask(client: FlaskClient, deed: Deed) -> TestResponse:
    return client.open(deed.path, method=deed.method, data={"token": "secret"})


def is_left_in_peace(site: Site, server: servers.Server, client: FlaskClient) -> None:
    """An hour of use changes nothing."""
    for _ in range(6):
        for _ in range(3):
            assert read(client)["user_id"] == "ann"
        age(server, 11 * MINUTE)
    assert site.take_events(SessionReplayed) == []
    assert_whole(site, server)


# -- 36: lost on the network --------------------------------------------------------------------

Lose = Callable[[Site, FlaskClient, Deed, proxies.Proxy], Any]


def lose_response(site: Site, client: FlaskClient, deed: Deed, _: proxies.Proxy) -> None:
    """The site has done it all; only the browser was not reached."""
    response = ask(site.visitor(like=client), deed)
    assert response.status_code == 200
    assert "Set-Cookie" in response.headers


def lose_reply(site: Site, client: FlaskClient, deed: Deed, proxy: proxies.Proxy) -> None:
    """The store has done it; neither its reply nor that to the repetition reached the site."""
    site.strike(lambda: setattr(proxy, "cut_replies", 2))
    response = ask(client, deed)
    assert "Set-Cookie" not in response.headers
    if deed is DEEDS["renewal"]:
        assert (response.status_code, response.text) == (200, "ann")
    else:
        unavailable(response)
    proxy.fix()


@pytest.mark.parametrize("lose", [lose_response, lose_reply])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("deed", DEEDS)
def test_fault_36_whoever_missed_an_answer_can_sign_in_at_once_and_has_stolen_nothing(
    steady: servers.Server,
    proxy: proxies.Proxy,
    open_site: OpenSite,
    deed: str,
    times: int,
    lose: Lose,
) -> None:
    site = open_site(proxy.url, **RENEWALS)
    add_form(site)
    client = begin(site, steady, DEEDS[deed])
    for _ in range(times):
        before = cookie_of(client)
        lose(site, client, DEEDS[deed], proxy)
        assert cookie_of(client) == before
        assert ("user_id" in read(client)) == (deed == "renewal")
        signs_in(client)
        assert site.take_events(SessionReplayed) == []
        client, member = begin(site, steady, DEEDS[deed]), client
    is_left_in_peace(site, steady, member)


@pytest.mark.parametrize("lose", [lose_response, lose_reply])
@pytest.mark.parametrize("times", [1, 3])
def test_fault_36_whoever_missed_a_renewal_stays_signed_in(
    steady: servers.Server,
    proxy: proxies.Proxy,
    open_site: OpenSite,
    times: int,
    lose: Lose,
) -> None:
    site = open_site(proxy.url, **RENEWALS)
    add_form(site)
    client = begin(site, steady, DEEDS["renewal"])
    before = cookie_of(client)
    for _ in range(times):
        lose(site, client, DEEDS["renewal"], proxy)
        assert read(client)["user_id"] == "ann"  # within the grace
        assert cookie_of(client) == before
        age(steady, 2 * MINUTE)
    assert read(client)["user_id"] == "ann"
    assert cookie_of(client) != before
    is_left_in_peace(site, steady, client)


# -- 37: the store stands still -----------------------------------------------------------------


@pytest.mark.parametrize("deed", DEEDS)
def test_fault_37_whoever_met_a_store_that_stood_still_can_sign_in_at_once_and_has_stolen_nothing(
    own: servers.Server, open_site: OpenSite, deed: str
) -> None:
    patient = open_site(own.url, **RENEWALS)
    site = open_site(own.url, store_timeout=TIMEOUT, **RENEWALS)
    for one in (patient, site):
        add_form(one)
    ask(begin(patient, own, DEEDS[deed]), DEEDS[deed])  # the server knows the scripts
    good(site.visitor(), "/form")
    client = site.visitor(like=begin(patient, own, DEEDS[deed]))
    cookie, before = cookie_of(client), scripts_run(own)
    site.strike(own.pause)
    with within(BOUND + TIMEOUT):  # the load and what is to be saved
        response = ask(client, DEEDS[deed])
    assert "Set-Cookie" not in response.headers
    if deed == "renewal":
        assert (response.status_code, response.text) == (200, "ann")
    else:
        unavailable(response)
    own.resume()
    servers.poll("what was under way", lambda: scripts_run(own) >= before + 2)
    assert cookie_of(client) == cookie
    if deed == "renewal":
        assert read(client)["user_id"] == "ann"
        age(own, 2 * MINUTE)
        assert read(client)["user_id"] == "ann"
    else:
        assert "user_id" not in read(client)
    signs_in(client)
    is_left_in_peace(patient, own, client)
    assert site.take_events(SessionReplayed) == []
