"""The documentation, built and looked at: no page scrolls sideways."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from ..support.looking import fits, note_hosts

pytestmark = pytest.mark.browser

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page.stem for page in DOCS.glob("*.md"))
WIDTHS = {"wide": 1200, "narrow": 380}
# What sticks out at the side and is not in a part that scrolls by itself: the theme would cut it.
CUT = """() => [...document.querySelectorAll("article *")].filter(element =>
    element.getBoundingClientRect().right > innerWidth + 1
    && !element.closest(".table-wrapper, .highlight")).map(element => element.outerHTML)"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the HTML pages."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-E", str(DOCS), str(folder)]
    subprocess.run(command, check=True, timeout=300)
    return folder


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIDTHS)
def reader(browser: Browser, request: pytest.FixtureRequest, scheme: Any) -> Iterator[Page]:
    """A tab of one width and colour scheme, which asks no server for anything."""
    viewport: Any = {"width": WIDTHS[request.param], "height": 800}
    context = browser.new_context(color_scheme=scheme, viewport=viewport)
    hosts = note_hosts(context)
    yield context.new_page()
    context.close()
    assert hosts == {""}, "pages are files, and ask for nothing else"


def test_no_page_scrolls_sideways(built: Path, reader: Page, scheme: str) -> None:
    too_wide = []
    for name in PAGES:
        reader.goto((built / f"{name}.html").as_uri())
        if not fits(reader) or reader.evaluate(CUT):
            too_wide.append(name)
    assert too_wide == []


def test_the_colours_follow_the_scheme(built: Path, reader: Page, scheme: str) -> None:
    reader.goto((built / "index.html").as_uri())
    ground = reader.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
