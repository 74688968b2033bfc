"""The pictures of the README and of the pages on the dashboard, devices and the heartbeat.

``PICTURES=1 pytest -m browser tests/browser/test_pictures.py`` makes them anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, Page, expect

from flask_safesession.dashboard import pages
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


def half_an_hour(shop: Flask, clock: FakeClock) -> None:
    """A new visitor each minute; every third one leaves a cart, and signs in as Carl."""
    for minute in range(30):
        visitor = shop.test_client()
        visit(visitor, "POST", "/cart/mug")
        if minute % 3 == 0:
            with visitor.session_transaction() as session:
                session["user_id"] = "carl"
                session["_tier"] = "customer"
        clock.advance(60_000)


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
    half_an_hour(shop, clock)
    sign_in(page, "ada")
    return f"{shop_url}/control/"


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [("dashboard-wide-light", 1200, "light"), ("dashboard-narrow-dark", 380, "dark")],
)
def test_the_dashboard(
    dashboard: str, page: Page, browser: Browser, name: str, width: int, scheme: Any
) -> None:
    viewport = {"width": width, "height": 800}
    with same_visitor(browser, page.context, color_scheme=scheme, viewport=viewport) as other:
        other.goto(dashboard)
        expect(other.get_by_role("region", name="Live now")).to_be_visible()
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
