"""The dashboard in a browser, as the example mounts it: by keyboard, on a phone, in the dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, BrowserContext, Page, expect

from flask_safesession.dashboard import pages
from flask_safesession.events import StorePurged, emit
from flask_safesession.model.policy import as_datetime
from flask_safesession.testing import FakeClock

from ..support.looking import DESKTOP, PHONE, cards_fit, fits, note_hosts, same_visitor, violations

pytestmark = pytest.mark.browser

Later = Callable[..., None]
SignIn = Callable[[Page, str], None]
OpenBrowser = Callable[..., BrowserContext]


@pytest.fixture(autouse=True)
def _one_clock(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "now", lambda: as_datetime(clock()))


@pytest.fixture
def ada(page: Page, sign_in: SignIn, shop_url: str) -> Page:
    """The admin, at the dashboard."""
    sign_in(page, "ada")
    page.get_by_role("link", name="Watch and end sessions").click()
    page.wait_for_url(f"{shop_url}/control/")
    return page


@pytest.fixture
def carl(open_browser: OpenBrowser, sign_in: SignIn) -> Page:
    """Somebody who is signed in elsewhere."""
    page = open_browser().new_page()
    sign_in(page, "carl")
    return page


def live(page: Page) -> Any:
    return page.get_by_role("region", name="Live now").locator(".figure")


def is_signed_in(page: Page) -> bool:
    page.reload()
    return page.get_by_role("button", name="Sign out").is_visible()


def press_until(page: Page, name: str) -> None:
    """Press Tab until the link, field or button of that name has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        label = focused.evaluate("e => e.labels?.[0]?.textContent ?? e.textContent")
        if label.strip() == name:
            return
    pytest.fail(f"no way by keyboard to {name!r}")


def test_it_asks_no_other_host(context: BrowserContext, page: Page, sign_in: SignIn) -> None:
    hosts = note_hosts(context)
    sign_in(page, "ada")
    for path in ("/control/", "/control/?q=ada", "/control/end-user?user=ada"):
        page.goto(page.url.partition("/desk")[0].partition("/control")[0] + path)
        expect(page.get_by_role("main")).to_be_visible()
    assert len(hosts) == 1


def test_the_figures_move_while_the_rest_of_the_page_stays(
    ada: Page, carl: Page, later: Later
) -> None:
    expect(live(ada)).to_have_text("1")
    ada.get_by_label("User or handle").fill("half a na")
    ada.get_by_text("The minutes as a table").click()
    later(10)
    expect(live(ada)).to_have_text("2")
    expect(ada.get_by_label("User or handle")).to_have_value("half a na")
    expect(ada.get_by_role("columnheader", name="Minute (UTC)")).to_be_visible()


def test_who_reads_can_let_the_figures_stand_still(ada: Page, carl: Page, later: Later) -> None:
    ada.get_by_role("button", name="Pause").click()
    later(60)
    expect(live(ada)).to_have_text("1")
    expect(ada.get_by_role("status")).to_have_text("Paused.")
    ada.get_by_role("button", name="Resume").click()
    expect(live(ada)).to_have_text("2")


def test_watching_keeps_nobody_signed_in_and_the_page_says_when_it_is_over(
    ada: Page, later: Later, complaints: list[str]
) -> None:
    later(400)
    expect(ada.get_by_role("status")).to_be_empty()
    later(201)
    expect(ada.get_by_role("status")).to_contain_text("Please sign in again")
    expect(ada.get_by_role("button", name="Pause")).to_be_hidden()
    assert complaints == []


def test_a_session_is_found_and_ended_by_keyboard_alone(carl: Page, ada: Page) -> None:
    ada.keyboard.press("Tab")
    expect(ada.locator(":focus")).to_have_text("Skip to the page")
    press_until(ada, "User or handle")
    ada.keyboard.type("carl")
    ada.keyboard.press("Enter")
    expect(ada.get_by_role("heading", name="Sessions of “Carl Usk (carl)”")).to_be_visible()
    handle = ada.get_by_role("table").locator("code").text_content()
    press_until(ada, f"End session {handle}")
    ada.keyboard.press("Enter")
    expect(ada.get_by_role("status").filter(has_text="The session has ended.")).to_be_visible()
    assert not is_signed_in(carl)


def test_all_sessions_of_a_user_are_ended_on_a_phone(
    open_browser: OpenBrowser, sign_in: SignIn, shop_url: str, carl: Page
) -> None:
    page = open_browser(viewport=PHONE, has_touch=True, is_mobile=True).new_page()
    sign_in(page, "ada")
    page.goto(f"{shop_url}/control/")
    assert fits(page)
    page.get_by_label("User or handle").fill("carl")
    page.get_by_role("button", name="Search").tap()
    expect(page.get_by_role("heading", name="Sessions of “Carl Usk (carl)”")).to_be_visible()
    assert fits(page)
    page.get_by_role("link", name="End all of this user…").tap()
    question = "End all sessions of “Carl Usk (carl)”?"
    expect(page.get_by_role("heading", level=1)).to_have_text(question)
    assert fits(page)
    assert is_signed_in(carl)
    page.get_by_role("button", name="End 1 session").tap()
    expect(page.get_by_text("Sessions ended: 1.")).to_be_visible()
    assert not is_signed_in(carl)


def test_it_can_be_used_without_javascript(
    ada: Page, carl: Page, browser: Browser, shop_url: str
) -> None:
    with same_visitor(browser, ada.context, java_script_enabled=False) as page:
        page.goto(f"{shop_url}/control/")
        expect(page.get_by_role("button", name="Pause")).to_be_hidden()
        page.get_by_label("User or handle").fill("carl")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("button", name="End").click()
        expect(page.get_by_text("The session has ended.")).to_be_visible()
    assert not is_signed_in(carl)


def test_it_follows_the_readers_wish_for_light_or_dark(ada: Page) -> None:
    def ground() -> str:
        return str(ada.evaluate("getComputedStyle(document.body).backgroundColor"))

    ada.emulate_media(color_scheme="light")
    light = ground()
    ada.emulate_media(color_scheme="dark")
    assert (light, ground()) == ("rgb(244, 245, 247)", "rgb(14, 17, 22)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_fault(
    ada: Page, carl: Page, browser: Browser, shop_url: str, scheme: Any, viewport: Any
) -> None:
    with same_visitor(browser, ada.context, color_scheme=scheme, viewport=viewport) as page:
        for path in ("/", "/?q=carl", "/?q=nobody", "/end-user?user=ada"):
            page.goto(f"{shop_url}/control{path}")
            assert violations(page) == [], path
            for width in (380, 1200):
                page.set_viewport_size({"width": width, "height": 800})
                assert fits(page), (path, width)


@pytest.mark.parametrize("width", [1200, 380, 320])
def test_no_table_leaves_its_card(
    ada: Page, shop: Flask, shop_url: str, clock: FakeClock, width: int
) -> None:
    ada.set_viewport_size({"width": width, "height": 800})
    for event in (StorePurged(1_234_567, 54_321, 12, 123.456), StorePurged(0, 0, 0, 0.001)):
        emit(shop, event)
    ada.reload()
    clock.advance(599_000)
    ada.reload()
    expect(ada.get_by_text("9 min 59 s ago").first).to_be_visible()
    assert cards_fit(ada)
    assert fits(ada)
    ada.goto(f"{shop_url}/control/diagnosis")
    assert cards_fit(ada)


@pytest.mark.parametrize("width", [1200, 980, 380, 320])
def test_times_and_handles_are_on_one_line_each(ada: Page, clock: FakeClock, width: int) -> None:
    clock.advance(599_000)
    ada.set_viewport_size({"width": width, "height": 800})
    ada.reload()
    expect(ada.get_by_text("9 min 59 s ago").first).to_be_visible()
    found = ada.locator("table.compact").locator("time, code")
    assert set(found.evaluate_all("all => all.map(e => e.getClientRects().length)")) == {1}
    assert cards_fit(ada)
    assert fits(ada)


def test_it_says_whose_sessions_they_are_and_leads_back(ada: Page, carl: Page) -> None:
    ada.reload()
    table = ada.get_by_role("table").filter(has_text="Expires in")
    expect(table.get_by_role("link", name="Carl Usk (carl)")).to_be_visible()
    expect(ada.get_by_text("Signed in as Ada Minh (ada)")).to_be_visible()
    color = "e => getComputedStyle(e).color"
    assert ada.get_by_role("button", name="End session").evaluate(color) == "rgb(163, 36, 28)"
    ada.get_by_role("link", name="Back to the app").click()
    expect(ada.get_by_role("heading", level=1)).to_have_text("Control room")
