"""docs/security.md claims nothing that is not there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from flask import Flask

from flask_safesession import SafeSession

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text("utf-8")
HOUR = 3_600_000
LIMITS = {
    "AAL1": (720 * HOUR, 720 * HOUR),
    "AAL2": (24 * HOUR, HOUR),
    "AAL3": (12 * HOUR, HOUR // 4),
}


FILES = (
    "security/test_*.py",
    "web/test_sign_in.py",
    "web/test_dead_ids.py",
    "config/test_donor.py",
    "browser/test_*.py",
)


def _tests() -> Counter[str]:
    return Counter(
        node.name
        for path in (found for pattern in FILES for found in TESTS.glob(pattern))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_every_test_that_the_security_page_names_exists_once() -> None:
    named, tests = re.findall(r"`(test_\w+)`", PAGE), _tests()
    assert len(named) > 40
    assert {name: tests[name] for name in named if tests[name] != 1} == {}


def test_every_row_of_the_security_page_names_a_test_or_is_said_to_be_planned() -> None:
    before_settings = PAGE.partition("## Recommended settings")[0]
    rows = [line for line in before_settings.splitlines() if line.startswith("| ")]
    claims = [row for row in rows if not row.startswith(("| No. |", "| Advisory |"))]
    assert len(claims) > 25
    assert [row for row in claims if "`test_" not in row and "*Planned" not in row] == []


@pytest.mark.parametrize("level", LIMITS)
def test_the_recommended_settings_are_within_the_limits_of_nist(level: str) -> None:
    found = re.search(rf"^\| {level} \|.*`SafeSession\(app, (.*)\)` \|$", PAGE, re.MULTILINE)
    assert found is not None
    settings = dict(re.findall(r'(\w+)="(\w+)"', found[1]))
    app = Flask("tested")
    SafeSession(app, check_interval=None, **settings)
    given = app.extensions["safesession"].settings.rules.policy.default
    lifetime, idle = LIMITS[level]
    assert given.lifetime <= lifetime
    assert given.idle <= idle
