"""How cookies are read."""

from __future__ import annotations

from flask import Request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from flask_safesession.web import transport

_PIECES = [
    "session",
    "session=",
    "a",
    "b=",
    "=",
    ";",
    "; ",
    '"',
    "\\",
    "\\056",
    " ",
    "\t",
    ",",
    "\x0b",
]


@given(st.lists(st.sampled_from(_PIECES), max_size=30).map("".join))
def test_a_cookie_header_is_read_as_werkzeug_reads_it(header: str) -> None:
    """Except for values with blanks, of which none verifies."""
    request = Request(EnvironBuilder(environ_overrides={"HTTP_COOKIE": header}).get_environ())
    ours, werkzeugs = transport.values(request, "session"), request.cookies.getlist("session")
    assert _without_blanks(ours) == _without_blanks(werkzeugs)


def _without_blanks(values: list[str]) -> list[str]:
    return [value for value in values if not {" ", "\t"} & {*value}]
