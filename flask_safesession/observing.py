"""The place where store calls can be observed: around each operation of one store.

Metrics and traces both stand here. An observer turns an operation into one that does the same and
takes note of it; the store is not asked to know. It costs nothing where nobody observes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from inspect import ismethod
from typing import Any, TypeAlias

from .errors import StoreFull, StoreUnavailable, TooManySessions
from .stores.base import Conflict, Gone, Sharded, Taken

Operation: TypeAlias = Callable[..., Any]
#: Given an operation's name and the operation; gives back what is called in its place.
Observer: TypeAlias = Callable[[str, Operation], Operation]

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


def observe(store: Any, observer: Observer, key: object) -> None:
    """Put *observer* around each operation of *store*, from the next call on.

    The operations are replaced on the object: whoever holds the store is observed. Several
    observers may stand around one store.

    :param key: one observer with this key is enough: a second time nothing happens.
    """
    observed = vars(store).setdefault("_observed_by", [])
    if any(key is other for other in observed):
        return
    observed.append(key)
    sharded = isinstance(store, Sharded)
    for name in OPERATIONS:
        # The whole of a store in parts purges by way of its parts: it would be counted twice.
        if hasattr(store, name) and not (sharded and name == "purge"):
            setattr(store, name, observer(name, _unbound(store, name)))
    if sharded:
        parts = _unbound(store, "parts")
        store.parts = lambda: [_ObservedPart(part, observer) for part in parts()]


class _ObservedPart:
    """A part of a store, with *observer* around what is asked of it."""

    def __init__(self, part: Any, observer: Observer) -> None:
        self._part = part
        for name in OPERATIONS:
            if hasattr(part, name):
                setattr(self, name, observer(name, getattr(part, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


def _unbound(store: Any, name: str) -> Operation:
    """The operation, without holding *store*: it will be held by it, and is to go when it goes."""
    method = getattr(store, name)
    if not ismethod(method) or method.__self__ is not store:
        return method  # type: ignore[no-any-return]
    function, itself = method.__func__, weakref.ref(store)

    def operation(*args: Any, **kwargs: Any) -> Any:
        return function(itself(), *args, **kwargs)

    return operation
