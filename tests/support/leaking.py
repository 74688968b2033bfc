"""Traffic for the example: what a leak needs in order to show."""

from __future__ import annotations

from flask import Flask
from flask.testing import FlaskClient

from flask_safesession.testing import FakeClock

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
# Seconds between two health checks, and between two pages of a visitor.
CHECK, PAGE = 6, 12


def traffic(app: Flask, clock: FakeClock, minutes: int) -> None:
    """Let so many minutes pass: health checks, and each minute one more visitor, who stays."""
    visitors: list[FlaskClient] = []
    for second in range(0, 60 * minutes, CHECK):
        if second % 60 == 0:
            visitors.append(app.test_client())
            visit(visitors[-1], "POST", "/cart/mug")
        assert app.test_client().get("/health").status_code == 200
        for number, visitor in enumerate(visitors if second % PAGE == 0 else ()):
            visit(visitor, "GET", "/" if number % 2 else "/cart")
        clock.advance(CHECK * 1000)


def visit(client: FlaskClient, method: str, path: str) -> None:
    response = client.open(path, method=method, headers={"User-Agent": BROWSER})
    assert response.status_code in (200, 303)
