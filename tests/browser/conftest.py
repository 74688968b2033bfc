"""A browser, sites to visit, and time that passes for both at once.

Sites run in a thread of this process, on a store whose clock stands still until a test says
``later(seconds)``; that moves the clocks of all the pages, too. So no test waits for time to pass:
waiting is for what a page shows (Playwright's ``expect``), and never for a number of seconds.

A test fails when one of its pages complains in the console: of a script's error, of a breach of the
content security policy, of a file that is missing. A test that makes pages complain asks for
``complaints``, looks at them, and clears them.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)
from werkzeug.serving import make_server

import example.watch
from example import create_app
from flask_safesession.model.policy import as_datetime
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support.servers import poll

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 10_000  # milliseconds, for what a page is to show
# Seconds in which time passes for the store, and then for the pages; up to A_FEW it is one.
STEP, A_FEW = 5, 15


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """*app* on a port of its own, in threads of this process; its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        # localhost, and not a number: what browsers keep for secure pages, they allow there, too
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, for all the tests of this folder."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        expect.set_options(timeout=PATIENCE)
        running = driver.chromium.launch(executable_path=path)
        yield running
        running.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Flask], str]]:
    """Runs an app until the end of the test; gives its address."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serving(app))


@pytest.fixture
def check_interval() -> str | None:
    """No purge job runs in the example, unless a module says otherwise."""
    return None


@pytest.fixture
def shop(
    store: MemoryStore,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    check_interval: str | None,
) -> Flask:
    """The example, with its sessions in ``store``."""
    for name in list(os.environ):
        if name.startswith(("SAFESESSION_", "FLASK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SECRET_KEY", "a secret that only these tests know")
    monkeypatch.setattr(example.watch, "clock", lambda: as_datetime(clock()))
    return create_app(store=store, check_interval=check_interval)


@pytest.fixture
def shop_url(shop: Flask, serve: Callable[[Flask], str]) -> str:
    """Where the example runs."""
    return serve(shop)


@pytest.fixture
def complaints() -> list[str]:
    """What pages complained of in the console."""
    return []


class Visitors:
    """Opens browsers with cookies of their own, whose clocks stand still at the store's time."""

    def __init__(self, browser: Browser, clock: FakeClock, complaints: list[str]) -> None:
        self._browser = browser
        self._clock = clock
        self._complaints = complaints
        self.opened: list[BrowserContext] = []
        self._asked: set[Request] = set()

    def __call__(self, *, stopped: bool = True, **options: Any) -> BrowserContext:
        """One more visitor; *options* are those of ``Browser.new_context``.

        :param stopped: the browser's clock stands still until ``later``.
        """
        context = self._browser.new_context(**options)
        self.opened.append(context)
        context.set_default_timeout(PATIENCE)
        context.on("request", self._note_request)
        context.on("response", self._note_response)
        context.on("requestfinished", self._note_end)
        context.on("requestfailed", self._note_end)
        context.on("console", self._note)
        context.on("weberror", lambda error: self._complaints.append(str(error.error)))
        now = as_datetime(self._clock())
        if stopped:
            context.clock.install(time=now)
            context.clock.pause_at(now)
        return context

    def settle(self) -> None:
        """Wait until all that pages have asked for is answered."""
        self._take_in()
        poll("the answers to what pages have asked for", self._are_answered)

    def _are_answered(self) -> bool:
        self._take_in()
        return not self._asked

    def _take_in(self) -> None:
        """Hear what browsers have said: Playwright's handlers are called within its own calls."""
        for context in self.opened:
            for page in context.pages[:1]:
                page.wait_for_timeout(1)

    def _note_request(self, request: Request) -> None:
        if request.resource_type == "fetch":
            self._asked.add(request)

    def _note_response(self, response: Response) -> None:
        if not response.ok:  # nobody reads on, so that it may never be finished
            self._asked.discard(response.request)

    def _note_end(self, request: Request) -> None:
        self._asked.discard(request)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._complaints.append(f"{message.type}: {message.text}")


@pytest.fixture
def open_browser(
    browser: Browser, clock: FakeClock, complaints: list[str], serve: Callable[[Flask], str]
) -> Iterator[Visitors]:
    """For tests with several visitors: each call is one more. They leave before ``serve`` ends."""
    visitors = Visitors(browser, clock, complaints)
    yield visitors
    for context in visitors.opened:
        context.close()
    assert complaints == []


@pytest.fixture
def context(open_browser: Visitors) -> BrowserContext:
    """A visitor's browser. Each ``context.new_page()`` is a tab of it."""
    return open_browser()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab of the visitor's browser."""
    return context.new_page()


@pytest.fixture
def later(clock: FakeClock, open_browser: Visitors) -> Callable[..., None]:
    """Lets seconds pass, for the store and for every page; what pages ask meanwhile is answered.

    ``later(60)``: in steps, so that timers fire as they would. ``later(3600, asleep=True)``: in
    one, as if the machine was suspended: each timer that is due fires once. That is quick.
    """

    def pass_(seconds: int, *, asleep: bool = False) -> None:
        step = seconds if asleep else 1 if seconds <= A_FEW else STEP
        for passed in range(0, seconds, step or 1):
            now = min(step, seconds - passed) * 1000
            clock.advance(now)
            for context in open_browser.opened:
                (context.clock.fast_forward if asleep else context.clock.run_for)(now)
            open_browser.settle()

    return pass_


@pytest.fixture
def sign_in(shop_url: str) -> Callable[[Page, str], None]:
    """Signs somebody in through the example's form: ``sign_in(page, "carl")``."""

    def sign(page: Page, username: str) -> None:
        page.goto(f"{shop_url}/sign-in")
        page.get_by_role("button", name=f"Sign in as {username.capitalize()}").click()
        page.wait_for_url(f"{shop_url}/desk")

    return sign
