"""The pictures of the README and of the pages on the dashboard, devices and the heartbeat.

``PICTURES=1 pytest -m browser tests/browser/test_pictures.py`` makes them anew.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from math import sin
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, expect

from example.people import PEOPLE
from example.sessions import safe
from flask_safesession.dashboard import pages, views
from flask_safesession.dashboard.minutes import SPAN
from flask_safesession.model.policy import as_datetime
from flask_safesession.testing import FakeClock

from ..support.leaking import BROWSER, visit
from ..support.looking import same_visitor

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "_static"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
SignIn = Callable[[Page, str], None]
NAMES = ["Bea Lund", "Emil Roth", "Ines Paz", "Jon Vale", "Mira Osei", "Noor Haddad", "Olga Tan"]
CUSTOMERS = [(name.split()[0].lower(), "customer") for name in NAMES]
STAY = 6  # minutes after which a visitor comes back, or signs out
WHERE = {
    "dashboard-wide-light": ("README.md", "docs/dashboard.md"),
    "dashboard-narrow-dark": ("docs/dashboard.md",),
    "devices-wide-light": ("docs/users.md",),
    "warning-narrow-light": ("docs/heartbeat.md",),
}


def draw(page: Page, name: str) -> None:
    """Make a picture for the documentation, if that is asked for."""
    if os.environ.get("PICTURES"):
        page.screenshot(path=PICTURES / f"{name}.png")


@pytest.fixture
def check_interval() -> str:
    """The dashboard shows a purge job: its runs are made by ``a_busy_hour``."""
    return "1m"


def a_busy_hour(shop: Flask, clock: FakeClock) -> None:
    """Fill each of the last 60 minutes of the dashboard, with more and fewer visitors in waves.

    It begins half an hour before, so that sessions end in each of these minutes, too. Every third
    visitor signs in; every other one of these signs out.
    """
    visitors: deque[list[FlaskClient]] = deque(maxlen=STAY)
    for minute in range(90):
        clock.advance(60_000)
        safe.purge()  # before others come: each new session removes some that are due
        arrivals = [shop.test_client() for _ in range(round(6 + 3 * sin(minute / 7) + minute % 3))]
        for number, visitor in enumerate(arrivals):
            visit(visitor, "POST", "/cart/mug")
            if number % 3 == 0:
                enter(visitor, *CUSTOMERS[(minute + number) % len(CUSTOMERS)])
        for number, visitor in enumerate(visitors[0] if len(visitors) == STAY else ()):
            visit(visitor, *(("POST", "/sign-out") if number % 6 == 0 else ("GET", "/cart")))
        visitors.append(arrivals)
        if minute % 8 == 0:
            enter(shop.test_client(), "tess", "teller")
    clock.advance(20_000)
    safe.end_user(CUSTOMERS[0][0])


def enter(visitor: FlaskClient, user: str, tier: str) -> None:
    with visitor.session_transaction() as session:
        session["user_id"] = user
        session["_tier"] = tier
    visit(visitor, "GET", "/cart")  # a request with a browser's name, for the list


@pytest.fixture
def dashboard(
    shop: Flask,
    shop_url: str,
    sign_in: SignIn,
    page: Page,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The address of a dashboard that has something to show; ``page`` may see it."""
    monkeypatch.setattr(pages, "now", lambda: as_datetime(clock()))
    monkeypatch.setattr(shop.extensions[views.WATCHED], "_clock", lambda: clock() / 1000)
    with shop.app_context():
        a_busy_hour(shop, clock)
    sign_in(page, "ada")
    for (user, _), name in zip(CUSTOMERS, NAMES, strict=True):
        monkeypatch.setitem(PEOPLE, user, replace(PEOPLE["carl"], username=user, name=name))
    return f"{shop_url}/control/"


@pytest.mark.parametrize(
    ("name", "width", "height", "scheme"),
    [
        ("dashboard-wide-light", 1200, 1260, "light"),
        ("dashboard-narrow-dark", 380, 800, "dark"),
    ],
)
def test_the_dashboard(
    dashboard: str, page: Page, browser: Browser, name: str, width: int, height: int, scheme: Any
) -> None:
    viewport = {"width": width, "height": height}
    with same_visitor(browser, page.context, color_scheme=scheme, viewport=viewport) as other:
        other.goto(dashboard)
        expect(other.get_by_role("region", name="Live now")).to_be_visible()
        columns = other.get_by_role("region", name="Created and ended").locator("svg[role=img] > g")
        expect(columns).to_have_count(SPAN)
        draw(other, name)


def test_the_devices_of_a_user(
    open_browser: Callable[..., Any], sign_in: SignIn, shop_url: str
) -> None:
    for agent in (IPHONE, BROWSER):
        page = open_browser(user_agent=agent, viewport={"width": 1000, "height": 700}).new_page()
        sign_in(page, "carl")
    page.goto(f"{shop_url}/devices")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    draw(page, "devices-wide-light")


def test_the_warning_before_the_end(
    open_browser: Callable[..., Any], sign_in: SignIn, later: Callable[..., None]
) -> None:
    page = open_browser(viewport={"width": 380, "height": 700}).new_page()
    sign_in(page, "carl")
    later(29 * 60 + 10, asleep=True)
    expect(page.get_by_role("alertdialog")).to_be_visible()
    draw(page, "warning-narrow-light")


@pytest.mark.parametrize("name", WHERE)
def test_the_documentation_shows_its_pictures(name: str) -> None:
    assert (PICTURES / f"{name}.png").stat().st_size < 150_000
    for page in WHERE[name]:
        assert f"_static/{name}.png" in (ROOT / page).read_text("utf-8")
