"""The heartbeat in a browser: a warning in time, one key press, and an end that says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from flask import Flask, Response, render_template_string, request
from playwright.sync_api import APIResponse, BrowserContext, Locator, Page, Route, expect

from flask_safesession import StoreUnavailable, session
from flask_safesession.heartbeat import heartbeat
from flask_safesession.stores.memory import MemoryStore

from ..support.servers import poll
from .conftest import Visitors

pytestmark = pytest.mark.browser

Later = Callable[..., None]
SignIn = Callable[[Page, str], None]

MINUTE = 60
# What the example's customers, who are signed in for half an hour without use, are left of it when
# they are warned.
UNTIL_WARNED = 29 * MINUTE


@pytest.fixture
def calls(shop: Flask) -> list[str]:
    """The methods of the calls at the heartbeat, in their order."""
    noted: list[str] = []

    @shop.before_request
    def note() -> None:
        if request.path == "/heartbeat":
            noted.append(request.method)

    return noted


def warning(page: Page) -> Locator:
    """The open dialog: the warning, or the word that the session has ended."""
    words = re.compile("^(Your session is about to end|Session ended)$")
    return page.get_by_role("alertdialog", name=words)


def set_hidden(page: Page, hidden: bool) -> None:
    """Pages of a browser without a screen are all visible."""
    state = "hidden" if hidden else "visible"
    page.evaluate(
        """state => {
            const hidden = {value: state == "hidden", configurable: true};
            Object.defineProperty(document, "hidden", hidden);
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        state,
    )


# -- the warning --------------------------------------------------------------------------------


def test_the_warning_comes_a_minute_before_the_end_and_counts_down(
    page: Page, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    later(UNTIL_WARNED - 5, asleep=True)
    expect(warning(page)).to_be_hidden()
    later(5)
    expect(warning(page)).to_be_visible()
    expect(warning(page).get_by_role("timer")).to_have_text(re.compile("1:00|0:59"))
    later(15)
    expect(warning(page).get_by_role("timer")).to_have_text(re.compile("0:4[45]"))


def test_nobody_is_warned_before_the_server_was_asked(
    context: BrowserContext, page: Page, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    later(UNTIL_WARNED - 110, asleep=True)
    later(62)
    assert context.request.get(f"{shop_url}/desk").ok  # a use that no page hears of
    later(50)
    expect(warning(page)).to_be_hidden()


@pytest.mark.parametrize("key", ["Space", "Enter", "Escape", "ArrowDown", "x"])
def test_one_key_press_keeps_the_session(
    page: Page, sign_in: SignIn, later: Later, calls: list[str], key: str
) -> None:
    sign_in(page, "carl")
    later(UNTIL_WARNED + 30, asleep=True)
    expect(warning(page)).to_be_visible()
    with page.expect_response("**/heartbeat"):  # Escape takes the warning away before it
        page.keyboard.press(key)
    expect(warning(page)).to_be_hidden()
    assert calls.count("POST") == 1
    assert page.evaluate("fetch('/heartbeat').then(told => told.json())")["left"] == 30 * MINUTE
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_click_keeps_the_session(page: Page, sign_in: SignIn, later: Later) -> None:
    sign_in(page, "carl")
    later(UNTIL_WARNED + 50, asleep=True)
    warning(page).get_by_role("button", name="Stay signed in").click()
    expect(warning(page)).to_be_hidden()
    later(5 * MINUTE)
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Good to see you, Carl")


def test_a_screen_reader_hears_what_it_is_about_and_the_focus_comes_back(
    page: Page, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    cart = page.get_by_role("link", name="Cart")
    cart.focus()
    later(UNTIL_WARNED, asleep=True)
    expect(warning(page)).to_have_accessible_description(
        "Press any key, or click, to stay signed in."
    )
    expect(warning(page).get_by_role("button", name="Stay signed in")).to_be_focused()
    expect(warning(page).get_by_role("timer")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(warning(page)).to_be_hidden()
    expect(cart).to_be_focused()


def test_what_cannot_be_extended_is_said_and_keys_leave_the_word_on_screen(
    page: Page, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    sign_in(page, "tess")
    later(4 * MINUTE)
    expect(warning(page)).to_contain_text("cannot be made longer")
    page.keyboard.press("x")
    later(1)
    expect(warning(page)).to_be_visible()
    warning(page).get_by_role("button", name="OK").click()
    later(5)
    expect(warning(page)).to_be_hidden()
    assert "POST" not in calls


# -- the end ------------------------------------------------------------------------------------


def test_the_end_takes_the_page_off_the_screen_and_says_why(
    page: Page, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    later(UNTIL_WARNED, asleep=True)
    later(MINUTE + 10)
    expect(warning(page)).to_contain_text("because it was not used for a while")
    expect(page.get_by_text("Current account")).to_be_hidden()
    expect(warning(page).get_by_role("button", name="Sign in again")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{shop_url}/sign-in")


def test_the_end_also_takes_a_page_in_the_background_off_the_screen(
    page: Page, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    sign_in(page, "carl")
    set_hidden(page, True)
    later(30 * MINUTE + 5, asleep=True)
    expect(page.get_by_text("Current account")).to_be_hidden()
    assert calls == ["GET"]


def test_a_lifetime_that_is_over_is_told_as_such(page: Page, sign_in: SignIn, later: Later) -> None:
    sign_in(page, "tess")
    later(5 * MINUTE + 10)
    expect(warning(page)).to_contain_text("because its time was up")


def test_a_session_that_is_ended_elsewhere_ends_on_screen_within_a_minute(
    page: Page, shop: Flask, sign_in: SignIn, later: Later
) -> None:
    from example.sessions import safe

    sign_in(page, "carl")
    with shop.app_context():
        assert safe.end_user("carl") == 1
    later(MINUTE + 2)
    expect(warning(page)).to_contain_text("ended from another device, or by an administrator")
    page.keyboard.press("Escape")
    page.wait_for_url("**/sign-in")


def test_a_page_of_a_stranger_is_left_alone(
    page: Page, shop_url: str, later: Later, calls: list[str]
) -> None:
    page.goto(shop_url)
    later(10 * MINUTE)
    later(60 * MINUTE, asleep=True)
    expect(warning(page)).to_be_hidden()
    assert calls == []


def test_a_page_that_says_it_itself_is_left_to_it(
    page: Page, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    page.goto(f"{shop_url}/session")
    later(UNTIL_WARNED - 10, asleep=True)
    later(MINUTE + 20)
    expect(page.get_by_role("heading", name="This session has ended")).to_be_visible()
    expect(warning(page)).to_be_hidden()
    assert page.url == f"{shop_url}/session"


@pytest.mark.parametrize("sign_in", [None, "login"])
def test_the_button_after_the_end_stays_on_the_site_where_the_path_begins_with_two_slashes(
    make_app: Callable[..., Flask],
    store: MemoryStore,
    serve: Callable[[Flask], str],
    page: Page,
    later: Later,
    sign_in: str | None,
) -> None:
    app, elsewhere = make_app(store=store), Flask("elsewhere")
    app.register_blueprint(heartbeat(app.extensions["tested.safe"], sign_in=sign_in))

    @app.get("/login")
    def login() -> str:
        session["user_id"] = "u"
        return "welcome"

    @app.errorhandler(404)
    def show_missing(_: object) -> str:
        return render_template_string("<!doctype html><head>{{ heartbeat() }}</head>Not here.")

    ours, host = serve(app), urlsplit(serve(elsewhere)).netloc
    page.goto(f"{ours}/login")
    page.goto(f"{ours}//{host}/page?a=1#part")
    later(31 * MINUTE, asleep=True)
    with page.expect_navigation():
        warning(page).get_by_role("button", name="Sign in again").click()
    assert page.url == (f"{ours}/login" if sign_in else f"{ours}//{host}/page?a=1")


# -- another user -------------------------------------------------------------------------------


def test_another_user_in_the_same_browser_ends_the_first_users_page(
    context: BrowserContext, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    sign_in(one, "carl")
    set_hidden(one, True)
    sign_in(other, "ada")
    later(2)
    expect(warning(one)).to_contain_text("another account signed in with this browser")
    expect(one.get_by_text("Current account")).to_be_hidden()
    expect(warning(other)).to_be_hidden()
    expect(other.get_by_role("heading", level=1)).to_have_text("Control room")


def test_a_page_that_says_it_itself_is_given_the_end_also_when_another_user_signs_in(
    context: BrowserContext, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    sign_in(one, "carl")
    one.goto(f"{shop_url}/session")
    sign_in(other, "ada")
    later(2)
    expect(one.get_by_role("heading", name="This session has ended")).to_be_visible()
    expect(one.get_by_text("another account signed in with this browser")).to_be_visible()
    expect(warning(one)).to_be_hidden()


def test_the_same_user_who_signs_in_again_ends_no_page(
    context: BrowserContext, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    sign_in(one, "carl")
    sign_in(other, "carl")
    later(2 * MINUTE + 5)
    expect(one.get_by_text("Current account")).to_be_visible()
    expect(warning(one)).to_be_hidden()


def test_a_visitor_who_signs_in_ends_no_page_of_before(
    context: BrowserContext, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    one.goto(shop_url)
    one.get_by_role("button", name="Add to cart: Enamel mug").click()
    sign_in(other, "carl")
    later(20 * MINUTE, asleep=True)  # longer than an anonymous session lasts
    later(2)
    expect(one.get_by_text("Enamel mug").first).to_be_visible()
    expect(warning(one)).to_be_hidden()


def test_an_answer_of_before_the_sign_in_does_not_keep_the_first_users_page(
    context: BrowserContext, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    held: list[tuple[Route, APIResponse]] = []

    def hold_the_first(route: Route) -> None:
        route.continue_() if held else held.append((route, route.fetch()))

    def is_held() -> bool:
        one.wait_for_timeout(1)
        return bool(held)

    sign_in(one, "carl")
    one.route("**/heartbeat", hold_the_first)
    context.clock.run_for((MINUTE + 1) * 1000)
    poll("an answer of before", is_held)
    sign_in(other, "ada")
    other.close()
    ((route, answer),) = held
    route.fulfill(response=answer)
    later(2)
    expect(warning(one)).to_contain_text("another account signed in with this browser")


def test_the_first_users_page_does_not_come_back_from_the_browsers_memory(
    open_browser: Visitors, shop_url: str, sign_in: SignIn
) -> None:
    page = open_browser(stopped=False).new_page()  # a stopped clock knows of no navigation
    sign_in(page, "carl")
    remembered = page.content()
    sign_in(page, "ada")
    page.goto(f"{shop_url}/cart")
    page.route("**/desk", lambda route: route.fulfill(body=remembered, content_type="text/html"))
    page.go_back()
    expect(warning(page)).to_contain_text("another account signed in with this browser")
    expect(page.get_by_text("Current account")).to_be_hidden()


# -- what it costs ------------------------------------------------------------------------------


def test_who_reads_costs_one_passive_call_a_minute(
    page: Page, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    sign_in(page, "carl")
    for _ in range(20):
        later(30)
    assert set(calls) == {"GET"}
    assert 9 <= len(calls) <= 10


def test_who_is_active_is_kept_signed_in_at_one_call_a_minute(
    page: Page, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    sign_in(page, "carl")
    for _ in range(70):
        page.keyboard.press("x")
        later(30)
    expect(warning(page)).to_be_hidden()
    assert set(calls) == {"POST"}
    assert 33 <= len(calls) <= 35


def test_one_key_press_counts_once(
    page: Page, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    sign_in(page, "carl")
    page.keyboard.press("x")
    later(2 * MINUTE + 5)
    assert calls == ["POST", "GET"]


def test_what_a_script_presses_is_no_activity(
    page: Page, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    sign_in(page, "carl")
    page.evaluate("document.body.click()")
    later(MINUTE + 2)
    assert calls == ["GET"]


def test_a_tab_in_the_background_asks_nothing_until_it_is_looked_at(
    page: Page, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    sign_in(page, "carl")
    set_hidden(page, True)
    later(10 * MINUTE)
    assert calls == []
    with page.expect_response("**/heartbeat"):
        set_hidden(page, False)
    assert calls == ["GET"]


# -- several tabs -------------------------------------------------------------------------------


def test_one_tab_asks_for_all(
    context: BrowserContext, shop_url: str, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    tabs = [context.new_page() for _ in range(3)]
    sign_in(tabs[0], "carl")
    for tab in tabs[1:]:
        tab.goto(f"{shop_url}/desk")
    for _ in range(10):
        later(MINUTE)
    assert 9 <= len(calls) <= 10


def test_a_key_press_in_one_tab_takes_the_warning_off_the_others(
    context: BrowserContext, shop_url: str, sign_in: SignIn, later: Later, calls: list[str]
) -> None:
    one, other = context.new_page(), context.new_page()
    sign_in(one, "carl")
    other.goto(f"{shop_url}/cart")
    later(UNTIL_WARNED, asleep=True)
    for tab in (one, other):
        expect(warning(tab)).to_be_visible()
    one.keyboard.press("Space")
    for tab in (one, other):
        expect(warning(tab)).to_be_hidden()
    assert calls.count("POST") == 1


def test_a_tab_warns_at_once_that_hears_from_another_one_before_it_gets_no_lock(
    context: BrowserContext, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    sign_in(one, "carl")
    other.goto(f"{shop_url}/cart")
    one.evaluate(
        """() => {
            LockManager.prototype.request = (name, options, callback) => new Promise(done => {
                const tabs = new BroadcastChannel(name);
                tabs.onmessage = () => { tabs.close(); done(callback(null)); };
            });
        }"""
    )
    later(UNTIL_WARNED, asleep=True)
    for tab in (other, one):
        expect(warning(tab)).to_be_visible()


def test_a_page_that_is_opened_in_one_tab_counts_for_the_others(
    context: BrowserContext, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    sign_in(one, "carl")
    later(UNTIL_WARNED + 5, asleep=True)
    expect(warning(one)).to_be_visible()
    other.goto(f"{shop_url}/cart")
    expect(warning(one)).to_be_hidden()


def test_signing_out_in_one_tab_ends_the_others(
    context: BrowserContext, shop_url: str, sign_in: SignIn, later: Later
) -> None:
    one, other = context.new_page(), context.new_page()
    sign_in(one, "carl")
    other.goto(f"{shop_url}/cart")
    set_hidden(one, True)
    other.get_by_role("button", name="Sign out").click()
    other.wait_for_url("**/session?ended=signed-out")
    later(2)
    expect(warning(one)).to_contain_text("Your session has ended.")
    expect(one.get_by_text("Current account")).to_be_hidden()


# -- a rough world ------------------------------------------------------------------------------


def test_a_laptop_that_slept_past_the_end_shows_it_at_once(
    page: Page, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    # In some systems this clock stands still meanwhile.
    page.evaluate("const slept = performance.now(); performance.now = () => slept")
    later(8 * 60 * MINUTE, asleep=True)
    later(1)
    expect(warning(page)).to_contain_text("because it was not used for a while")


def test_a_laptop_that_slept_into_the_last_minute_warns_at_once(
    page: Page, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    later(UNTIL_WARNED + 20, asleep=True)
    later(1)
    expect(warning(page)).to_be_visible()
    page.keyboard.press("Space")
    expect(warning(page)).to_be_hidden()


def test_a_clock_that_is_set_back_does_not_put_the_warning_off(
    page: Page, sign_in: SignIn, later: Later
) -> None:
    sign_in(page, "carl")
    page.evaluate("const right = Date.now; Date.now = () => right() - 3_600_000")
    later(UNTIL_WARNED + 20, asleep=True)
    expect(warning(page)).to_be_visible()


def test_an_outage_is_no_end_and_an_extension_is_tried_again(
    page: Page,
    store: MemoryStore,
    sign_in: SignIn,
    later: Later,
    complaints: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise StoreUnavailable("unplugged by a test")

    sign_in(page, "carl")
    later(UNTIL_WARNED, asleep=True)
    with monkeypatch.context() as outage:
        outage.setattr(store, "load", refuse)
        page.keyboard.press("Space")
        later(10)
        expect(warning(page).get_by_role("timer")).to_have_text("0:50")
        assert complaints
        assert all("503" in complaint for complaint in complaints)
        complaints.clear()
    later(6)
    expect(warning(page)).to_be_hidden()
    expect(page.get_by_text("Current account")).to_be_visible()


def test_an_error_is_no_end_whatever_it_says(
    page: Page, sign_in: SignIn, later: Later, complaints: list[str]
) -> None:
    sign_in(page, "carl")
    page.route("**/heartbeat", lambda route: route.fulfill(status=500, json={"left": None}))
    later(MINUTE + 2)
    expect(page.get_by_text("Current account")).to_be_visible()
    assert ["500" in complaint for complaint in complaints] == [True]
    complaints.clear()


def test_without_a_network_the_page_stays_and_asks_again(
    context: BrowserContext, page: Page, sign_in: SignIn, later: Later, complaints: list[str]
) -> None:
    sign_in(page, "tess")
    context.set_offline(True)
    later(6 * MINUTE)
    expect(warning(page).get_by_role("timer")).to_have_text("0:00")
    context.set_offline(False)
    later(6)
    expect(warning(page)).to_contain_text("because its time was up")
    assert all("ERR_INTERNET_DISCONNECTED" in complaint for complaint in complaints)
    complaints.clear()


def test_a_page_from_the_browsers_memory_asks_at_once(
    open_browser: Visitors,
    shop: Flask,
    shop_url: str,
    sign_in: SignIn,
    calls: list[str],
) -> None:
    @shop.after_request
    def let_it_be_remembered(response: Response) -> Response:
        response.headers["Cache-Control"] = "private"
        return response

    page = open_browser(stopped=False).new_page()  # a stopped clock knows of no navigation
    sign_in(page, "carl")
    page.goto(f"{shop_url}/cart")
    assert calls == []
    with page.expect_response("**/heartbeat"):
        page.go_back()
