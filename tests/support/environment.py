"""What the shell has set decides about no test: neither the app's settings nor its terminal's."""

from __future__ import annotations

import os

_OURS = "SAFESESSION_TEST_"  # which servers to test with
_PREFIXES = ("FLASK_", "SAFESESSION_")
_NAMES = (
    "COLUMNS",
    "EXAMPLE_LEAK",
    "FORCE_COLOR",
    "LINES",
    "NO_COLOR",
    "PYTHONDONTWRITEBYTECODE",  # each process would compile the package anew
    "SECRET_KEY",
    "TTY_COMPATIBLE",
    "TTY_INTERACTIVE",
    "WEB_CONCURRENCY",
)


def forget() -> None:
    """Drop such variables, for this process and those that it starts."""
    for name in list(os.environ):
        if name.startswith(_OURS):
            continue
        if name.startswith(_PREFIXES) or name in _NAMES:
            del os.environ[name]
