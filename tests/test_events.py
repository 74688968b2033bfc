"""Signals and log records: what they carry, and that a bad receiver harms nobody."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import Any, get_args

import pytest
from flask import Flask

from flask_safesession import events
from flask_safesession.events import (
    Event,
    ReplicasMissing,
    SessionCreated,
    SessionEnded,
    SessionLost,
    SessionMerged,
    SessionRejected,
    SessionReplayed,
    SessionRotated,
    SettingsTuned,
    StoreFailed,
    StorePurged,
    StoreStateChanged,
    as_extra,
    emit,
    store_failed,
)

EXAMPLES: list[Any] = [
    SessionCreated("handle", "default"),
    SessionRotated("handle", "old handle", "admin"),
    SessionReplayed("handle", "admin"),
    SessionEnded("handle", "idle", "default"),
    SessionMerged("handle", 2),
    SessionLost("handle", "logout"),
    SessionRejected("full", "anonymous"),
    StoreFailed("load", "no answer"),
    StoreStateChanged("localhost:6379", "open"),
    ReplicasMissing("end", "handle", 2, 1),
    StorePurged(3, 1, 0, 0.25),
    SettingsTuned(1, "ada", 'idle_timeout="5m"'),
]
each = pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, object]] = []

    def __call__(self, sender: object, event: object) -> None:
        self.heard.append((sender, event))


def fail(sender: object, event: object) -> None:
    raise LookupError("a receiver's own mistake")


@contextmanager
def listening(signal: Any, *receivers: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for receiver in receivers:
            stack.enter_context(signal.connected_to(receiver))
        yield


@pytest.fixture
def app() -> Flask:
    return Flask("tested")


def test_there_is_an_example_of_every_event() -> None:
    assert {type(event) for event in EXAMPLES} == set(get_args(Event))


@each
def test_a_receiver_gets_the_app_and_the_event(app: Flask, event: Event) -> None:
    listener = Listener()
    with listening(event.signal, listener):
        emit(app, event)
    assert listener.heard == [(app, event)]


def test_only_the_receivers_of_this_app_hear_of_it(app: Flask) -> None:
    mine, others = Listener(), Listener()
    event = SessionEnded("handle", "idle", "default")
    with event.signal.connected_to(mine, app), event.signal.connected_to(others, Flask("other")):
        emit(app, event)
    assert (len(mine.heard), len(others.heard)) == (1, 0)


@each
def test_an_event_is_frozen(event: Event) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(event, fields(event)[0].name, "changed")


@each
def test_an_event_is_logged_with_its_fields(
    app: Flask, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="flask_safesession"):
        emit(app, event)
    [record] = caplog.records
    assert record.name == "flask_safesession"
    assert record.levelno == event.level
    assert as_extra(event).items() <= vars(record).items()
    assert record.getMessage().startswith(event.signal.name)
    assert all(str(value) in record.getMessage() for value in as_extra(event).values())


def test_only_what_an_operator_must_know_is_over_debug() -> None:
    assert {
        type(event).__name__: event.level for event in EXAMPLES if event.level > logging.DEBUG
    } == {
        "SessionReplayed": logging.WARNING,
        "SessionLost": logging.WARNING,
        "SessionRejected": logging.WARNING,
        "StoreFailed": logging.ERROR,
        "StoreStateChanged": logging.ERROR,
        "ReplicasMissing": logging.WARNING,
        "SettingsTuned": logging.INFO,
    }


def test_a_quiet_logger_is_left_alone(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="flask_safesession"):
        emit(app, SessionCreated("handle", "default"))
    assert caplog.records == []


def test_a_receiver_that_fails_is_logged(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    with listening(store_failed, fail):
        emit(app, StoreFailed("save", "no answer"))
    record = caplog.records[-1]
    assert "store-failed" in record.getMessage()
    assert record.exc_info
    assert record.exc_info[0] is LookupError


def test_a_receiver_that_fails_does_not_keep_the_event_from_the_others(app: Flask) -> None:
    # Blinker calls them in no order that one could rely on, so there are several of each.
    bad, good = [partial(fail) for _ in range(5)], [Listener() for _ in range(10)]
    event = SessionEnded("handle", "evicted", "default")
    with listening(event.signal, *bad, *good):
        emit(app, event)
    assert [len(listener.heard) for listener in good] == [1] * 10


def test_the_signals_have_the_names_of_the_documentation() -> None:
    names = {type(event).__name__: event.signal for event in EXAMPLES}
    assert names == {
        "SessionCreated": events.session_created,
        "SessionRotated": events.session_rotated,
        "SessionEnded": events.session_ended,
        "SessionReplayed": events.session_replayed,
        "SessionMerged": events.session_merged,
        "SessionLost": events.session_lost,
        "SessionRejected": events.session_rejected,
        "StoreFailed": events.store_failed,
        "StoreStateChanged": events.store_state_changed,
        "ReplicasMissing": events.replicas_missing,
        "StorePurged": events.store_purged,
        "SettingsTuned": events.settings_tuned,
    }
