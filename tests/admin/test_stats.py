"""Snapshots of a store: seldom, never an error, and with a look ahead."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from math import inf, isclose
from typing import Any

import pytest
from flask import Flask

from flask_safesession.admin.stats import FRESH_FOR, TREND_OVER, Snapshots, full_in
from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.base import Counts, Rules
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import make_draft, new_key

MakeApp = Callable[..., Flask]


class Counted(MemoryStore):
    """Counts how often it was asked, and says or raises what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.error: Exception | None = None
        self.meanwhile: Callable[[], object] = int

    def count(self, rules: Rules) -> Counts:
        self.asked += 1
        self.meanwhile()
        if self.error is not None:
            raise self.error
        return super().count(rules)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Counted:
    return Counted()


@pytest.fixture
def app(make_app: MakeApp, store: Counted) -> Flask:
    return make_app(store=store, max_sessions=100)


def fill(app: Flask, count: int) -> None:
    state = app.extensions["safesession"]
    for _ in range(count):
        state.store.create(new_key(), make_draft(rules=state.settings.rules), state.settings.rules)


def test_the_store_is_asked_once_however_many_ask_in_five_seconds(
    app: Flask, store: Counted
) -> None:
    clock = Clock()
    snapshots = Snapshots(app, clock)
    first = snapshots.now()
    fill(app, 1)
    clock.now = FRESH_FOR - 0.001
    assert snapshots.now() is first
    assert store.asked == 1
    clock.now = FRESH_FOR
    found = snapshots.now().stats
    assert found is not None
    assert found.sessions == 1
    assert store.asked == 2


def test_one_that_asks_while_another_is_at_it_gets_the_last_snapshot(
    app: Flask, store: Counted
) -> None:
    clock = Clock()
    snapshots = Snapshots(app, clock)
    first = snapshots.now()
    seen = []
    store.meanwhile = lambda: seen.append(snapshots.now())
    clock.now = FRESH_FOR
    snapshots.now()
    assert seen == [first]
    assert seen[0] is first


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), ZeroDivisionError("a mistake")])
def test_a_store_that_fails_is_no_error_and_is_not_asked_more_often(
    app: Flask, store: Counted, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    clock = Clock()
    snapshots = Snapshots(app, clock)
    assert snapshots.now().stats is not None
    store.error = error
    for second in range(20):
        clock.now = FRESH_FOR + second
        assert snapshots.now().stats is None
    assert store.asked == 1 + 20 / FRESH_FOR
    [record] = caplog.records  # once, not each time
    assert str(error) in record.getMessage()
    assert record.levelno == logging.WARNING
    store.error = None
    clock.now += FRESH_FOR
    assert snapshots.now().stats is not None


def test_the_app_is_not_held_and_nothing_is_asked_when_it_is_gone(
    make_app: MakeApp, store: Counted
) -> None:
    snapshots = Snapshots(make_app(store=store))
    gc.collect()
    assert snapshots.app is None
    assert snapshots.now().stats is None
    assert store.asked == 0


def test_how_soon_the_store_is_full_is_known_after_a_minute(app: Flask) -> None:
    clock = Clock()
    snapshots = Snapshots(app, clock)
    seen: list[float | None] = []
    for _ in range(5):
        seen.append(snapshots.now().full_in)
        fill(app, 10)
        clock.now += 20
    assert seen[:3] == [None] * 3
    # Thirty of a hundred after a minute, one every two seconds.
    assert [round(seconds or 0) for seconds in seen[3:]] == [140, 120]


def test_what_is_long_ago_is_no_trend_any_more(app: Flask) -> None:
    clock = Clock()
    snapshots = Snapshots(app, clock)
    for _ in range(5):
        snapshots.now()
        fill(app, 10)
        clock.now += 20
    for _ in range(5):
        clock.now += TREND_OVER[1] / 4
        found = snapshots.now()
    assert found.full_in == inf


def line(*counts: int, every: float = 30.0) -> list[tuple[float, int]]:
    return [(number * every, count) for number, count in enumerate(counts)]


@pytest.mark.parametrize(
    ("totals", "seconds"),
    [
        (line(), None),
        (line(10), None),
        (line(10, 20), None),
        (line(10, 20, 30, every=29.9), None),
        (line(10, 20, 30), 210),
        (line(10, 12, 30), 210),
        (line(10, 10, 10), inf),
        (line(30, 20, 10), inf),
        (line(100), 0),
        (line(90, 120), 0),
    ],
    ids=str,
)
def test_the_cap_is_reached_where_the_growth_since_the_first_count_goes(
    totals: list[tuple[float, int]], seconds: float | None
) -> None:
    found: Any = full_in(totals, 100)
    assert found == seconds or isclose(found, seconds or 0)
