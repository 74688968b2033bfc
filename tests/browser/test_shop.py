"""The example in a browser: signing in, the cart, the session's time running down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from ..support.looking import fits, same_visitor, violations

pytestmark = pytest.mark.browser

Later = Callable[..., None]
SignIn = Callable[[Page, str], None]


def test_a_strangers_cart_comes_along_when_they_sign_in(page: Page, shop_url: str) -> None:
    page.goto(shop_url)
    page.get_by_role("button", name="Add to cart: Enamel mug").click()
    page.get_by_role("button", name="One Enamel mug more").click()
    page.get_by_role("button", name="Sign in to order").click()
    page.get_by_label("Username").fill("carl")
    page.get_by_label("Password").fill("sliding-door")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Good to see you, Carl")
    page.get_by_role("link", name="Cart").click()
    expect(page.get_by_role("listitem").filter(has_text="Enamel mug")).to_contain_text("€29.00")
    page.get_by_role("button", name="Place the order").click()
    expect(page.get_by_role("status")).to_contain_text("Thank you")


def test_a_wrong_password_is_told_and_nobody_is_signed_in(
    page: Page, shop_url: str, complaints: list[str]
) -> None:
    page.goto(f"{shop_url}/sign-in")
    page.get_by_label("Username").fill("carl")
    page.get_by_label("Password").fill("open-sesame")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    assert ["401" in complaint for complaint in complaints] == [True]
    complaints.clear()


def test_the_time_runs_down_on_screen_until_the_session_ends(
    page: Page, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "tess")
    page.goto(f"{shop_url}/session")
    timer = page.get_by_label("Time left").get_by_role("timer")
    expect(timer).to_have_text("5:00")
    later(61)
    expect(timer).to_have_text("3:59")
    later(240)
    expect(page.get_by_role("heading", name="This session has ended")).to_be_visible()


def test_an_empty_cart_leads_to_the_shop(page: Page, shop_url: str) -> None:
    page.goto(f"{shop_url}/cart")
    expect(page.get_by_text("Your cart is empty.")).to_be_visible()
    page.get_by_role("link", name="Browse the shop").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Goods for the harbour")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1200])
def test_no_page_scrolls_sideways_and_axe_finds_no_fault(
    page: Page, sign_in: SignIn, browser: Browser, shop_url: str, scheme: Any, width: int
) -> None:
    page.goto(f"{shop_url}/sign-in")
    first = page.get_by_role("button", name="Sign in as").first
    expect(first).to_have_text("Sign in as Carl")
    sign_in(page, "ada")
    viewport: Any = {"width": width, "height": 800}
    with same_visitor(browser, page.context, color_scheme=scheme, viewport=viewport) as seen:
        for path in ("/", "/cart", "/sign-in", "/desk", "/session"):
            seen.goto(f"{shop_url}{path}")
            assert fits(seen), path
            assert violations(seen) == [], path
