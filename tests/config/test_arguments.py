"""Type checkers know the settings: those of the table, and no others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from flask_safesession import SettingsDict
from flask_safesession.config.settings import SETTINGS

ROOT = Path(__file__).parents[2]
TYPES: dict[str, Any] = get_type_hints(SettingsDict)
CHECKERS = {
    "mypy": ["mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}
START = """
from datetime import timedelta

from flask import Flask

from flask_safesession import SafeSession

app = Flask(__name__)
safe = SafeSession()
"""


def test_each_setting_is_an_argument_with_a_type_and_there_are_no_others() -> None:
    missing_or_unknown = {name.lower() for name in SETTINGS} ^ set(TYPES)
    assert not missing_or_unknown, "SETTINGS and SettingsDict (config/arguments.py) differ"


def test_the_arguments_stand_in_the_order_of_the_table() -> None:
    assert list(TYPES) == [name.lower() for name in SETTINGS]


def test_a_choice_lists_the_words_that_the_setting_accepts() -> None:
    choices = {name.lower(): row for name, row in SETTINGS.items() if row.unit == "a name"}
    assert choices.keys() == {name for name, kind in TYPES.items() if get_origin(kind) is Literal}
    for name, row in choices.items():
        assert list(get_args(TYPES[name])) == re.findall(r"'(.+?)'", row.fix)


@pytest.fixture(params=CHECKERS)
def checker(request: pytest.FixtureRequest) -> list[str]:
    return CHECKERS[request.param]


@pytest.mark.types
def test_a_checker_accepts_all_that_the_settings_accept(checker: list[str], tmp_path: Path) -> None:
    given = [f"{name.lower()}={row.default!r}" for name, row in SETTINGS.items()]
    written = [
        f"SafeSession(app, {', '.join(given)})",
        'SafeSession(app, store="sqlite://", idle_timeout=timedelta(hours=1), lifetime=7200)',
        'safe.init_app(app, max_sessions="5000", check_interval=None, touch_interval=0.5)',
        'safe.init_app(app, expiry="tiered", tiers={"admin": {"lifetime": timedelta(hours=1)}})',
        'safe.init_app(app, user_key=lambda session: session.get("id"), scheduler=object())',
    ]
    done = check(checker, tmp_path, written)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.types
def test_a_checker_rejects_what_is_misspelt_or_of_another_type(
    checker: list[str], tmp_path: Path
) -> None:
    wrong = [
        'SafeSession(app, idle_timout="10m")',
        'safe.init_app(app, max_session="5000")',
        "SafeSession(app, idle_timeout=None)",
        'SafeSession(app, when_full="refuse")',
        'SafeSession(app, tiers={"admin": {"lifetime": None}})',
    ]
    done = check(checker, tmp_path, wrong)
    first = START.count("\n") + 1
    found = {int(line) for line in re.findall(r"app\.py:(\d+):.*error", done.stdout)}
    assert found == set(range(first, first + len(wrong))), done.stdout + done.stderr


def check(checker: list[str], folder: Path, written: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a type checker on an app with these lines, from the root, where its cache is."""
    path = folder / "app.py"
    path.write_text(START + "\n".join(written) + "\n")
    command = [sys.executable, "-m", *checker, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
