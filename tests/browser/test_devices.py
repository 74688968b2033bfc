""" "Your devices" in a browser: two visitors of one account, by keyboard, on a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ..support.looking import DESKTOP, PHONE, fits, same_visitor, violations

pytestmark = pytest.mark.browser

Later = Callable[..., None]
SignIn = Callable[[Page, str], None]
OpenBrowser = Callable[..., BrowserContext]


@pytest.fixture
def laptop(page: Page, sign_in: SignIn) -> Page:
    """Carl's, where the test looks."""
    sign_in(page, "carl")
    return page


@pytest.fixture
def phone(open_browser: OpenBrowser, sign_in: SignIn) -> Page:
    """Carl's, too."""
    page = open_browser(viewport=PHONE, has_touch=True, is_mobile=True).new_page()
    sign_in(page, "carl")
    return page


def is_signed_in(page: Page) -> bool:
    page.reload()
    return page.get_by_role("button", name="Sign out").first.is_visible()


def open_devices(page: Page) -> None:
    page.get_by_role("link", name="Devices").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your devices")


def test_another_device_is_signed_out_and_this_one_stays(laptop: Page, phone: Page) -> None:
    open_devices(laptop)
    expect(laptop.get_by_text("this device")).to_have_count(1)
    laptop.get_by_role("button", name="Sign out there").click()
    expect(laptop.get_by_role("status")).to_have_text("That device is signed out.")
    expect(laptop.get_by_text("You are signed in nowhere else.")).to_be_visible()
    assert not is_signed_in(phone)
    assert is_signed_in(laptop)


def test_all_other_devices_are_signed_out_on_a_phone(laptop: Page, phone: Page) -> None:
    open_devices(phone)
    assert fits(phone)
    phone.get_by_role("button", name="Sign out all other devices").tap()
    expect(phone.get_by_role("status")).to_contain_text("signed out now: 1.")
    assert fits(phone)
    assert not is_signed_in(laptop)
    assert is_signed_in(phone)


def test_who_signed_in_a_while_ago_shows_the_password_by_keyboard_first(
    laptop: Page, later: Later, complaints: list[str]
) -> None:
    later(601, asleep=True)
    laptop.reload()
    laptop.get_by_role("link", name="Devices").focus()
    laptop.keyboard.press("Enter")
    expect(laptop.get_by_role("heading", level=1)).to_have_text("Sign in again")
    laptop.get_by_label("Password").focus()
    laptop.keyboard.type("not my password")
    laptop.keyboard.press("Enter")
    expect(laptop.get_by_role("alert")).to_have_text("That is not your password.")
    laptop.get_by_label("Password").focus()
    laptop.keyboard.type("sliding-door")
    laptop.keyboard.press("Enter")
    expect(laptop.get_by_role("heading", level=1)).to_have_text("Your devices")
    assert [code for line in complaints for code in ("403", "401") if code in line] == [
        "403",
        "401",
    ]
    complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_fault(
    laptop: Page, phone: Page, browser: Browser, shop_url: str, scheme: Any, viewport: Any
) -> None:
    with same_visitor(browser, laptop.context, color_scheme=scheme, viewport=viewport) as page:
        page.goto(f"{shop_url}/devices")
        expect(page.get_by_role("heading", level=1)).to_have_text("Your devices")
        assert violations(page) == []
