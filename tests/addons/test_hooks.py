"""What stands around store calls: all of them, once each, and nothing else changes."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flask import Flask

from flask_safesession import session
from flask_safesession.config.overrides import Overrides
from flask_safesession.errors import StoreFull, StoreUnavailable, TooManySessions
from flask_safesession.instrumentation.hooks import (
    OPERATIONS,
    OUTCOMES,
    Ended,
    StoreCall,
    observe,
    observed,
    outcome_of,
    outcome_of_error,
)
from flask_safesession.stores import base
from flask_safesession.stores.base import Conflict, Gone, Live, Taken
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.opening import Opened
from flask_safesession.testing import (
    FakeClock,
    StoreContract,
    StoreKit,
    make_draft,
    make_rules,
    new_key,
)

from ..support.counting import CountingStore

# What asks nobody, and what an operator runs by hand and watches.
NOT_OBSERVED = {"close", "inspect", "prepare", "report_to", "states"}
RULES = make_rules()

MakeApp = Callable[..., Flask]


def _is_protocol(kind: Any) -> bool:
    return getattr(kind, "_is_protocol", False) and kind.__module__ == base.__name__


PROTOCOLS = {found for _, found in inspect.getmembers(base, inspect.isclass) if _is_protocol(found)}


class Notes:
    """A hook that writes down which operations were begun, and how they ended."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[StoreCall] = []

    def __call__(self, operation: str) -> Ended:
        self.begun.append(operation)
        return self.ended.append


class TestAnObservedStore(StoreContract):
    """It keeps the contract as before, also with two hooks."""

    @pytest.fixture
    def kit(self) -> Iterator[StoreKit]:
        clock = FakeClock()
        opened, notes = Opened.of(MemoryStore(clock)), [Notes(), Notes()]
        for one in notes:
            opened = observed(opened, one, one)
        opened.need_index().document("none")  # those of a backend are skipped: they call nothing
        yield StoreKit(opened.store, clock.advance)
        assert notes[0].begun == notes[1].begun != []
        assert [call.operation for call in notes[0].ended] == notes[0].begun


def overrides_of(app: Flask) -> Overrides:
    return cast(Overrides, app.extensions["safesession"].overrides)


def test_every_operation_of_every_protocol_is_observed_or_has_a_reason_not_to_be() -> None:
    known = {base.Store, base.UserStore, base.IndexedStore, base.AdoptingStore, base.RemoteStore}
    assert known == PROTOCOLS
    methods = {
        name
        for protocol in PROTOCOLS
        for name, _ in inspect.getmembers(protocol, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods == set(OPERATIONS) | NOT_OBSERVED


def test_a_hook_with_the_same_key_is_called_once(make_app: MakeApp) -> None:
    overrides, notes, others, key = overrides_of(make_app()), Notes(), Notes(), object()
    observe(overrides, notes, key)
    observe(overrides, others, others)
    observe(overrides, notes, key)
    overrides.opened.need_index().count(RULES)
    assert notes.begun == others.begun == ["count"]


def test_of_two_apps_on_one_store_only_the_one_with_a_hook_is_observed(make_app: MakeApp) -> None:
    store, notes = MemoryStore(), Notes()
    apps = [make_app(store=store), make_app(store=store)]
    before = set(vars(store))
    observe(overrides_of(apps[0]), notes, notes)
    for app in apps:
        app.extensions["tested.safe"].count()
    assert notes.begun == ["count"]
    assert set(vars(store)) == before


def test_without_a_hook_nothing_stands_around_the_store(make_app: MakeApp) -> None:
    store = MemoryStore()
    assert overrides_of(make_app(store=store)).store is store


def test_requests_the_purge_job_and_commands_are_observed(make_app: MakeApp) -> None:
    app, notes = make_app(check_interval="1m"), Notes()
    observe(overrides_of(app), notes, notes)
    app.add_url_rule("/", "write", lambda: str(session.setdefault("cart", 3)))
    app.test_client().get("/")
    assert notes.begun == ["create"]
    notes.begun.clear()
    app.extensions["safesession"].job.run()
    assert {"document", "purge", "audit"} <= {*notes.begun}
    notes.begun.clear()
    app.test_cli_runner().invoke(args=["safesession", "stats"])
    assert "count" in notes.begun


def test_an_observed_store_goes_with_its_last_reference() -> None:
    gc.collect()
    gc.disable()
    try:
        notes = Notes()
        opened = observed(Opened.of(inner := MemoryStore()), notes, notes)
        opened.need_index().count(RULES)
        left = weakref.ref(inner)
        del opened, inner
        assert left() is None
    finally:
        gc.enable()


def test_the_parts_of_a_store_are_observed_and_its_whole_counts_once(
    make_store: Callable[..., Any],
) -> None:
    notes = Notes()
    opened = observed(Opened.of(make_store(4)), notes, notes)
    opened.need_index().purge(RULES, 10)
    assert notes.begun == ["purge"]
    notes.begun.clear()
    for one in opened.shards:
        one.purge(RULES, 10)
    assert notes.begun == ["purge"] * 4
    notes.begun.clear()
    opened.shards[0].lease("task", 1000)
    opened.shards[0].audit(RULES, 10)
    assert notes.begun == ["lease", "audit"]


def test_a_store_can_do_the_same_when_it_is_observed(make_store: Callable[..., Any]) -> None:
    names = [name for name in dir(base.Store) if name[0] != "_"]
    plain: Any = SimpleNamespace(**dict.fromkeys(names, print), shared=True)
    for store in (MemoryStore(), make_store(4), plain):
        opened, notes = Opened.of(store), Notes()
        seen = observed(opened, notes, notes)
        assert seen.store.shared == opened.store.shared
        assert seen.remote is opened.remote
        for before, after in ((opened.users, seen.users), (opened.index, seen.index)):
            assert after is (None if before is None else seen.store)
        assert len(seen.shards) == len(opened.shards)


def test_the_whole_of_a_store_in_one_piece_is_observed() -> None:
    notes = Notes()
    opened = observed(Opened.of(MemoryStore()), notes, notes)
    assert opened.shards == (opened.store,)
    opened.shards[0].purge(RULES, 10)
    opened.shards[0].audit(RULES, 10)
    assert notes.begun == ["purge", "audit"]


def test_a_call_is_reported_with_its_outcome_its_time_and_the_class_of_its_error() -> None:
    inner, notes = CountingStore(), Notes()
    store = observed(Opened.of(inner), notes, notes).store
    store.load(new_key(), RULES, slide=True)
    inner.failing = {"load"}
    with pytest.raises(StoreUnavailable):
        store.load(new_key(), RULES, slide=True)
    gone, failed = notes.ended
    assert gone._replace(seconds=0.0) == StoreCall("load", "gone", 0.0)
    assert failed._replace(seconds=0.0) == StoreCall("load", "unavailable", 0.0, "StoreUnavailable")
    assert 0 < gone.seconds < 60


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Gone("idle"), "gone"),
        (Taken(), "taken"),
        (None, "ok"),
        (True, "ok"),
        ([], "ok"),
    ],
)
def test_an_answer_is_put_into_a_word(answer: object, outcome: str) -> None:
    assert outcome_of(answer) == outcome
    assert outcome in OUTCOMES


def test_a_record_is_ok_and_a_conflict_is_not() -> None:
    store, key = MemoryStore(), new_key()
    live = store.create(key, make_draft(), RULES)
    assert isinstance(live, Live)
    assert outcome_of(live) == "ok"
    stale = store.commit(key, make_draft(), "0" * 7, touch=None)
    assert isinstance(stale, Conflict)
    assert outcome_of(stale) == "conflict"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (StoreUnavailable("no answer"), "unavailable"),
        (StoreFull(3), "full"),
        (TooManySessions(), "full"),
        (TypeError("a mistake"), "error"),
        (KeyboardInterrupt(), "error"),
    ],
)
def test_an_error_is_put_into_a_word(error: BaseException, outcome: str) -> None:
    assert outcome_of_error(error) == outcome
    assert outcome in OUTCOMES
