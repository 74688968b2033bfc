"""The example leaks when it is asked to, and ``diagnose`` finds it."""

from __future__ import annotations

import os

import pytest
from flask import Flask

from example import create_app
from flask_safesession.admin.stats import Snapshots
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import FakeClock

from ..support.cli_kit import run
from ..support.leaking import traffic


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SAFESESSION_", "FLASK_", "EXAMPLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SECRET_KEY", "a secret that only these tests know")


def app_on(store: MemoryStore) -> Flask:
    return create_app(store=store, check_interval=None)


def names(app: Flask) -> list[str]:
    return [one["name"] for one in run(app, "diagnose", "--json").json["findings"]]


def test_the_leaking_example_has_its_two_mistakes_found(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLE_LEAK", "1")
    app = app_on(store)
    traffic(app, clock, 15)
    [check, history] = run(app, "diagnose", "--json").json["findings"]
    assert check["name"] == "never-used-again"
    assert check["seen"].startswith("/health (health) creates an anonymous session")
    assert history["name"] == "growing-key"
    assert history["seen"].startswith("'history' grows with use")


@pytest.mark.parametrize("switch", [None, "", "0"])
def test_the_example_as_it_is_has_none(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, switch: str | None
) -> None:
    if switch is not None:
        monkeypatch.setenv("EXAMPLE_LEAK", switch)
    app = app_on(store)
    traffic(app, clock, 15)
    assert names(app) == []


def test_the_alert_before_the_cap_fires(
    store: MemoryStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXAMPLE_LEAK", "1")
    monkeypatch.setenv("SAFESESSION_MAX_SESSIONS", "400")
    app = app_on(store)
    snapshots = Snapshots(app, clock=lambda: clock() / 1000)
    snapshots.now()
    traffic(app, clock, 10)
    full_in = snapshots.now().full_in  # exported as safesession_full_seconds
    assert full_in is not None
    assert full_in < 3600  # the limit of SafeSessionFullSoon
    assert names(app)[0] == "never-used-again"
