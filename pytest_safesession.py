"""The pytest plugin of Flask-SafeSession: two fixtures for tests of apps that use it.

pytest loads this module in every run where the extension is installed. So it is outside the
package, whose import takes longer than pytest's own, and imports that only for a test that uses one
of the fixtures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flask import Flask

    from flask_safesession.testing import AppKit


@pytest.fixture
def safesession(request: pytest.FixtureRequest) -> Iterator[AppKit]:
    """Yields an AppKit for your fixture ``app``: signs users in, moves time, shows sessions."""
    try:
        app = request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":
            raise
        pytest.fail(
            "safesession needs a fixture named 'app': write one that returns your"
            " Flask app, or use safesession_for(app)",
            pytrace=False,
        )
    from flask_safesession.testing import AppKit

    with AppKit(app) as kit:
        yield kit


@pytest.fixture
def safesession_for() -> Iterator[Callable[..., AppKit]]:
    """Yields a function that returns an AppKit for the app it is given; arguments as AppKit's."""
    from flask_safesession.testing import AppKit

    with ExitStack() as kits:

        def make(app: Flask, *, advance: Callable[[int], None] | None = None) -> AppKit:
            return kits.enter_context(AppKit(app, advance=advance))

        yield make
