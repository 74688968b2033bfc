"""The example's page "Your devices": see where one is signed in, and end it there."""

from __future__ import annotations

import os
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

import example.watch
from example import create_app
from example.guard import HEADERS
from example.people import DEMO_PASSWORDS
from example.sessions import safe
from flask_safesession.model.policy import as_datetime
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

pytestmark = pytest.mark.usefixtures("cheap_passwords")
MINUTE = 60_000
PHONE = {"User-Agent": "<b>a phone</b>"}


@pytest.fixture
def app(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Flask:
    for name in list(os.environ):
        if name.startswith(("SAFESESSION_", "FLASK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SECRET_KEY", "a secret that only these tests know")
    monkeypatch.setattr(example.watch, "clock", lambda: as_datetime(clock()))
    return create_app(store=MemoryStore(clock), check_interval=None)


def signed_in(app: Flask, username: str, **options: dict[str, str]) -> FlaskClient:
    client = app.test_client()
    form = {"username": username, "password": DEMO_PASSWORDS[username]}
    assert client.post("/sign-in", data=form, **options).status_code == 303
    return client


def show_oneself(client: FlaskClient, password: str) -> TestResponse:
    return client.post("/devices/again", data={"password": password}, follow_redirects=True)


def handles_on(page: TestResponse) -> list[str]:
    return re.findall(r'name="handle" value="([^"]+)"', page.text)


def is_signed_in(client: FlaskClient) -> bool:
    return client.get("/desk").status_code == 200


def test_a_stranger_is_asked_to_sign_in(app: Flask) -> None:
    for method, path in (
        ("GET", ""),
        ("POST", "/end"),
        ("POST", "/end-others"),
        ("POST", "/again"),
    ):
        answer = app.test_client().open(f"/devices{path}", method=method)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")


def test_all_of_ones_devices_are_listed_and_this_one_is_marked(
    app: Flask, clock: FakeClock
) -> None:
    laptop = signed_in(app, "carl")
    clock.advance(5 * MINUTE)
    signed_in(app, "carl", headers=PHONE)
    signed_in(app, "ada")
    page = laptop.get("/devices")
    assert page.text.count("<h2>") == 2
    assert page.text.count("this device") == 1
    assert len(handles_on(page)) == 1
    assert "5 minutes ago" in page.text
    assert "<b>a phone</b>" not in page.text


def test_no_device_can_be_taken_over_with_what_the_page_shows(app: Flask) -> None:
    laptop, phone = signed_in(app, "carl"), signed_in(app, "carl")
    cookie = phone.get_cookie("session")
    assert cookie is not None
    page = laptop.get("/devices")
    assert cookie.value.partition(".")[0] not in page.text
    thief = app.test_client()
    thief.set_cookie("session", handles_on(page)[0])
    assert not is_signed_in(thief)


def test_another_device_can_be_signed_out(app: Flask) -> None:
    laptop, phone, tablet = (signed_in(app, "carl") for _ in range(3))
    newest, _ = handles_on(laptop.get("/devices"))
    answer = laptop.post("/devices/end", data={"handle": newest}, follow_redirects=True)
    assert "That device is signed out." in answer.text
    assert is_signed_in(laptop)
    assert sorted([is_signed_in(phone), is_signed_in(tablet)]) == [False, True]
    again = laptop.post("/devices/end", data={"handle": newest}, follow_redirects=True)
    assert "signed out already" in again.text


def test_all_other_devices_can_be_signed_out(app: Flask) -> None:
    laptop, phone, tablet = (signed_in(app, "carl") for _ in range(3))
    ada = signed_in(app, "ada")
    answer = laptop.post("/devices/end-others", follow_redirects=True)
    assert "Other devices that are signed out now: 2." in answer.text
    assert "You are signed in nowhere else." in answer.text
    assert [is_signed_in(c) for c in (laptop, phone, tablet, ada)] == [True, False, False, True]


def test_nobody_can_sign_out_somebody_else(app: Flask) -> None:
    carl, ada, phone = signed_in(app, "carl"), signed_in(app, "ada"), signed_in(app, "ada")
    for handle in handles_on(ada.get("/devices")):
        carl.post("/devices/end", data={"handle": handle})
    assert is_signed_in(ada)
    assert is_signed_in(phone)


def test_who_signed_in_a_while_ago_is_asked_for_the_password_and_nothing_else_happens(
    app: Flask, clock: FakeClock
) -> None:
    laptop, phone = signed_in(app, "carl"), signed_in(app, "carl")
    [handle] = handles_on(laptop.get("/devices"))
    clock.advance(10 * MINUTE + 1)
    for answer in (
        laptop.get("/devices"),
        laptop.post("/devices/end", data={"handle": handle}),
        laptop.post("/devices/end-others"),
    ):
        assert answer.status_code == 403
        assert "Sign in again" in answer.text
        assert handles_on(answer) == []
    assert is_signed_in(phone)


def test_the_right_password_opens_the_page_under_a_new_id(app: Flask, clock: FakeClock) -> None:
    laptop = signed_in(app, "carl")
    before = laptop.get_cookie("session")
    clock.advance(11 * MINUTE)
    assert show_oneself(laptop, "not-my-password").status_code == 401
    assert laptop.get("/devices").status_code == 403
    assert "Your devices" in show_oneself(laptop, DEMO_PASSWORDS["carl"]).text
    assert laptop.get_cookie("session") != before


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (90_000, "1 day ago")],
)
def test_times_are_told_in_words(app: Flask, clock: FakeClock, seconds: int, words: str) -> None:
    moment = as_datetime(clock())
    clock.advance(seconds * 1000)
    assert app.jinja_env.filters["since"](moment) == words


# The dashboard, as the example has it


def test_the_admin_alone_sees_everybodys_sessions(app: Flask) -> None:
    answer = app.test_client().get("/control/")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")
    assert signed_in(app, "tess").get("/control/").status_code == 403
    ada = signed_in(app, "ada")
    assert 'href="/control/"' in ada.get("/desk").text
    assert ada.get("/control/").text.count('data-label="Handle"') == 2


@pytest.mark.parametrize("path", ["/control/", "/desk", "/", "/control/assets/dashboard.css"])
def test_security_headers_are_sent_once(app: Flask, path: str) -> None:
    with signed_in(app, "ada").get(path) as answer:
        for name in HEADERS:
            assert len(answer.headers.getlist(name)) == 1, name


def test_users_see_no_handles(app: Flask) -> None:
    carl = signed_in(app, "carl")
    with app.app_context():
        [handle] = [one.handle or "" for one in safe.sessions_of("carl")]
    for path in ("/desk", "/devices", "/session", "/session/watch"):
        assert handle not in carl.get(path).text
