"""The story of the leak is true: its output is that of the command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from example import create_app
from flask_safesession.admin.diagnosis import NAMES
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock
from tests.support.cli_kit import run
from tests.support.leaking import traffic

PAGE = (Path(__file__).parent / "diagnosis.md").read_text("utf-8")
MEMORY = re.compile(r"(Memory of this process, the command:) \S+ \S+\n")


def test_the_output_in_the_story_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_LEAK", "1")
    monkeypatch.setenv("SECRET_KEY", "a secret that only these tests know")
    clock = FakeClock()
    app = create_app(store=MemoryStore(clock), check_interval=None)
    run(app, "diagnose")
    traffic(app, clock, 20)
    [shown] = re.findall(r"\$ flask safesession diagnose\n(.*?)```", PAGE, re.DOTALL)
    assert MEMORY.sub(r"\1", run(app, "diagnose").out) == MEMORY.sub(r"\1", shown)


def test_every_finding_is_on_the_page() -> None:
    assert tuple(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)) == NAMES
