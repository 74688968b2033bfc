"""What stands around store calls: all of them, once each, and nothing else changes."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_safesession.errors import StoreFull, StoreUnavailable, TooManySessions
from flask_safesession.observing import (
    OPERATIONS,
    OUTCOMES,
    Operation,
    observe,
    outcome_of,
    outcome_of_error,
)
from flask_safesession.stores import base
from flask_safesession.stores.base import Auditing, Conflict, Gone, Leasing, Live, Relimiting, Taken
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import (
    FakeClock,
    StoreContract,
    StoreKit,
    make_draft,
    make_rules,
    new_key,
)

# What asks nobody, and what an operator runs by hand and watches.
NOT_OBSERVED = {"close", "inspect", "part_count", "part_of", "parts", "prepare"}
NOT_OBSERVED |= {"report_to", "states"}
RULES = make_rules()


class Notes:
    """An observer that writes down which operations were called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, name: str, operation: Operation) -> Operation:
        def noted(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            return operation(*args, **kwargs)

        return noted


class TestAnObservedStore(StoreContract):
    """It keeps the contract as before, also with two observers."""

    @pytest.fixture
    def kit(self) -> Iterator[StoreKit]:
        clock = FakeClock()
        store = MemoryStore(clock)
        notes = [Notes(), Notes()]
        for one in notes:
            observe(store, one, one)
        yield StoreKit(store, clock.advance)
        assert notes[0].calls == notes[1].calls != []


def test_every_operation_of_every_protocol_is_observed_or_has_a_reason_not_to_be() -> None:
    protocols = [
        found for _, found in inspect.getmembers(base, inspect.isclass) if _is_protocol(found)
    ]
    assert {base.Store, base.Part, base.Sharded} <= set(protocols)
    methods = {
        name
        for protocol in protocols
        for name, _ in inspect.getmembers(protocol, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods == set(OPERATIONS) | NOT_OBSERVED


def _is_protocol(kind: Any) -> bool:
    return getattr(kind, "_is_protocol", False) and kind.__module__ == base.__name__


def test_an_observer_with_the_same_key_stands_there_once() -> None:
    store, notes, key = MemoryStore(), Notes(), object()
    for _ in range(3):
        observe(store, notes, key)
    store.census(RULES)
    assert notes.calls == ["census"]


def test_another_store_is_not_observed() -> None:
    notes = Notes()
    observe(MemoryStore(), notes, notes)
    MemoryStore().census(RULES)
    assert notes.calls == []


def test_an_observed_store_goes_with_its_last_reference() -> None:
    gc.collect()
    gc.disable()
    try:
        store, notes = MemoryStore(), Notes()
        observe(store, notes, notes)
        store.census(RULES)
        left = weakref.ref(store)
        del store
        assert left() is None
    finally:
        gc.enable()


def test_the_parts_of_a_store_are_observed_and_the_whole_does_not_count_again(
    make_store: Callable[..., Any],
) -> None:
    store, notes = make_store(4), Notes()
    observe(store, notes, notes)
    store.purge(RULES, 10)
    assert notes.calls == ["purge"] * len(store.parts())
    notes.calls.clear()
    part: Any = store.parts()[0]
    assert all(isinstance(part, power) for power in (Leasing, Auditing, Relimiting))
    assert part.lease("task", 1000)
    part.audit(RULES, 10)
    part.relimit(RULES, 10)
    assert notes.calls == ["lease", "audit", "relimit"]
    assert part.shard.number == 0  # what else it has is there as before


def test_the_whole_of_a_store_in_one_piece_is_observed() -> None:
    store, notes = MemoryStore(), Notes()
    observe(store, notes, notes)
    store.purge(RULES, 10)
    store.audit(RULES, 10)
    assert notes.calls == ["purge", "audit"]


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
