"""The calls that an app makes to its store, reported to metrics and traces.

A hook is called with an operation's name when a call begins, and returns what is called with the
:class:`StoreCall` when it has ended. An app with hooks has an :class:`ObservedStore` in the place
of its store; without hooks nothing stands around the store.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias, cast

from ..config.overrides import Steering
from ..errors import StoreFull, StoreUnavailable, TooManySessions
from ..stores.base import Conflict, Gone, Store, Taken


class StoreCall(NamedTuple):
    """A call that has ended.

    :param operation: one of :data:`OPERATIONS`.
    :param outcome: one of :data:`OUTCOMES`.
    :param seconds: how long it took.
    :param error: the class name of the exception; empty without one.
    """

    operation: str
    outcome: str
    seconds: float
    error: str = ""


#: Called when a call has ended.
Ended: TypeAlias = Callable[[StoreCall], object]
#: Called with the operation's name when a call begins, in the same thread.
Hook: TypeAlias = Callable[[str], Ended]

#: The operations that go to where the sessions are. Not among them is what only this process
#: knows, and what an operator runs by hand.
OPERATIONS = (
    "load",
    "create",
    "commit",
    "refile",
    "rotate",
    "end",
    "look",
    "sessions_of",
    "end_user",
    "end_all",
    "page",
    "purge",
    "census",
    "audit",
    "relimit",
    "lease",
    "document",
    "keep",
)

# What else protocols have.
_OTHERS = ("close", "inspect", "part_count", "part_of", "prepare", "report_to", "states")

#: How an operation can end, in the words of metrics and traces. There are no others.
OUTCOMES = ("ok", "gone", "conflict", "taken", "full", "unavailable", "error")
_ANSWERS: dict[type, str] = {Gone: "gone", Conflict: "conflict", Taken: "taken"}


def outcome_of(answer: object) -> str:
    """The outcome of an operation that gave *answer*."""
    return _ANSWERS.get(type(answer), "ok")


def outcome_of_error(error: BaseException) -> str:
    """The outcome of an operation that raised *error*."""
    if isinstance(error, StoreUnavailable):
        return "unavailable"
    return "full" if isinstance(error, (StoreFull, TooManySessions)) else "error"


def observe(steering: Steering, hook: Hook, key: object) -> None:
    """Call *hook* around each store call of an app, from the next call on.

    Several hooks may be called for one app; the one that came last is called first.

    :param key: a hook with a key that is there already is not added.
    """
    found: Any = steering.store
    while isinstance(found, ObservedStore):
        if found._key is key:
            return
        found = found._store
    steering.store = cast(Store, ObservedStore(steering.store, hook, key))


class ObservedStore:
    """A store, or a part of one, whose operations are reported to a hook.

    What the store can do, this can do, and nothing else: protocols recognise both alike.
    """

    def __init__(self, store: Any, hook: Hook, key: object) -> None:
        self._store = store
        self._key = key
        for name in _OTHERS:  # since Python 3.12 protocols do not look at __getattr__
            if hasattr(store, name):
                setattr(self, name, _late(store, name))
        for name in OPERATIONS:
            if hasattr(store, name):
                setattr(self, name, _observed(store, name, hook))
        if hasattr(store, "parts"):
            self.parts: Callable[[], list[ObservedStore]] = lambda: [
                ObservedStore(part, hook, None) for part in store.parts()
            ]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _late(store: Any, name: str) -> Callable[..., Any]:
    """A method that is looked up at each call: a test may have put another in its place."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(store, name)(*args, **kwargs)

    return call


def _observed(store: Any, name: str, hook: Hook) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        ended, start = hook(name), perf_counter()
        try:
            answer = getattr(store, name)(*args, **kwargs)
        except BaseException as error:
            seconds = perf_counter() - start
            ended(StoreCall(name, outcome_of_error(error), seconds, type(error).__name__))
            raise
        ended(StoreCall(name, outcome_of(answer), perf_counter() - start))
        return answer

    return call
