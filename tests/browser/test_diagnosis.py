"""What makes sessions grow, on the dashboard of the leaking example.

``PICTURES=1 pytest -m browser tests/browser/test_diagnosis.py`` makes the pictures of
``docs/diagnosis.md`` anew.
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

from ..support.cli_kit import run
from ..support.leaking import traffic
from ..support.looking import fits, same_visitor, violations

pytestmark = pytest.mark.browser

PICTURES = Path(__file__).parents[2] / "docs" / "_static"
WIDTHS = {"wide": 1200, "narrow": 380}
DRAWN = {("wide", "light"), ("narrow", "dark")}
FINDINGS = [
    "/health (health) creates an anonymous session for every visitor",
    "'history' grows with use",
]


@pytest.fixture
def _leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_LEAK", "1")


@pytest.fixture
def ada(  # the leak has to be on when the example is made
    _leak: None, shop: Flask, shop_url: str, clock: FakeClock, page: Page, request: Any
) -> Page:
    """The admin, at the dashboard of an example that has leaked for twenty minutes."""
    request.getfixturevalue("monkeypatch").setattr(pages, "now", lambda: as_datetime(clock()))
    sign_in: Callable[[Page, str], None] = request.getfixturevalue("sign_in")
    run(shop, "diagnose")  # remembers the count, from which the growth is computed
    traffic(shop, clock, 20)
    sign_in(page, "ada")
    page.goto(f"{shop_url}/control/")
    return page


def test_the_leak_is_found_with_cause_and_fix(ada: Page, shop_url: str) -> None:
    ada.get_by_role("link", name="What makes them grow?").click()
    ada.wait_for_url(f"{shop_url}/control/diagnosis")
    findings = ada.get_by_role("region", name="Findings").get_by_role("article")
    expect(findings).to_have_count(len(FINDINGS))
    for number, seen in enumerate(FINDINGS):
        one = findings.nth(number)
        expect(one.get_by_role("heading")).to_contain_text(seen)
        expect(one.get_by_text("Cause", exact=True)).to_be_visible()
        expect(one.get_by_text("Fix", exact=True)).to_be_visible()
    keys = ada.get_by_role("region", name="What is in them").get_by_role("row")
    expect(keys.nth(1)).to_contain_text("history")
    ada.get_by_role("link", name="All sessions").click()
    expect(ada.get_by_role("heading", name="All sessions")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_axe_finds_no_fault(
    ada: Page, browser: Browser, shop_url: str, scheme: Any, width: str
) -> None:
    viewport = {"width": WIDTHS[width], "height": 800}
    with same_visitor(browser, ada.context, color_scheme=scheme, viewport=viewport) as page:
        page.goto(f"{shop_url}/control/diagnosis")
        expect(page.get_by_text("sessions an hour, in the last 20m")).to_be_visible()
        assert fits(page)
        assert violations(page) == []
        if os.environ.get("PICTURES") and (width, scheme) in DRAWN:
            draw(page, f"diagnosis-{width}-{scheme}")


def draw(page: Page, name: str) -> None:
    """Make a picture for the documentation."""
    clip: Any = {"x": 0, "y": 0, **(page.viewport_size or {})}
    page.screenshot(path=PICTURES / f"{name}.png", clip=clip)


def test_the_documentation_has_its_pictures() -> None:
    text = (PICTURES.parent / "diagnosis.md").read_text("utf-8")
    for picture in PICTURES.glob("diagnosis-*.png"):
        assert f"_static/{picture.name}" in text
        assert picture.stat().st_size < 150_000
