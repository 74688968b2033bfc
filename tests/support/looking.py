"""What tests of several pages look at: whether a page fits, and what axe says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}


def note_hosts(context: BrowserContext) -> set[str]:
    """The hosts that pages ask from now on."""
    hosts: set[str] = set()
    context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    return hosts


def fits(page: Page) -> bool:
    """Whether nothing sticks out at the side: nobody scrolls both ways (WCAG 1.4.10)."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def cards_fit(page: Page) -> bool:
    """Whether each table is inside the padding of the card that it is in."""
    script = """[...document.querySelectorAll('.card table')].every(table => {
        const card = table.closest('.card').getBoundingClientRect()
        return card.right - table.getBoundingClientRect().right >= 10
    })"""
    return bool(page.evaluate(script))


def violations(page: Page) -> list[str]:
    """What axe-core finds at *page*; it needs a context whose time passes."""
    found: Any = Axe().run(page)
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found.response["violations"]]


@contextmanager
def same_visitor(browser: Browser, context: BrowserContext, **options: Any) -> Iterator[Page]:
    """A page for the visitor of *context*, in a browser whose time passes by itself."""
    other = browser.new_context(**options)
    other.add_cookies(context.cookies())  # type: ignore[arg-type]
    yield other.new_page()
    other.close()
