"""Reports an app's store calls to metrics and traces.

A hook is called with the operation's name when a call begins. It returns a function that is called
with the :class:`StoreCall` when the call has ended. An :class:`ObservedStore` replaces the store of
an app with hooks; without hooks there is nothing around the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from ..config.overrides import Overrides
from ..errors import StoreFull, StoreUnavailable, TooManySessions
from ..stores.base import Conflict, Gone, Moved, Store, Taken
from ..stores.opening import Opened


class StoreCall(NamedTuple):
    """A call that has ended.

    :param operation: one of :data:`OPERATIONS`.
    :param outcome: one of :data:`OUTCOMES`.
    :param seconds: its duration.
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

#: The observed operations, by protocol. Left out are those that call no server, and those that an
#: operator runs by hand.
_OF_ONE = ("load", "create", "commit", "refile", "rotate", "end", "end_all")
_OF_USERS = ("peek", "sessions_of", "end_user")
_OF_ALL = ("page", "count", "purge", "audit", "lease", "document", "keep")
_OF_OLD_PLACES = ("adopt", "follow", "close_adoption", "adoptions")
OPERATIONS: tuple[str, ...] = (*_OF_ONE, *_OF_USERS, *_OF_ALL, *_OF_OLD_PLACES)

#: All outcomes of an operation, as metrics and traces name them.
OUTCOMES = ("ok", "gone", "conflict", "taken", "full", "unavailable", "error")
_ANSWERS: dict[type, str] = {Gone: "gone", Conflict: "conflict", Taken: "taken", Moved: "taken"}


def outcome_of(answer: object) -> str:
    """Returns the outcome of an operation that returned *answer*."""
    return _ANSWERS.get(type(answer), "ok")


def outcome_of_error(error: BaseException) -> str:
    """Returns the outcome of an operation that raised *error*."""
    if isinstance(error, StoreUnavailable):
        return "unavailable"
    return "full" if isinstance(error, (StoreFull, TooManySessions)) else "error"


def observe(overrides: Overrides, hook: Hook, key: object) -> None:
    """Call *hook* around each store call of an app, from the next call on.

    An app can have several hooks; the one added last is called first.

    :param key: identifies the hook: the same key is not added again.
    """
    if all(key is not known for known in overrides.opened.hooks):
        overrides.opened = observed(overrides.opened, hook, key)


def observed(opened: Opened, hook: Hook, key: object) -> Opened:
    """Returns *opened* with a hook around the operations of the store and of its shards."""
    names: tuple[str, ...] = _OF_ONE
    if opened.users is not None:
        names += _OF_USERS
    if opened.index is not None:
        names += _OF_ALL
    if opened.adopting is not None:
        names += _OF_OLD_PLACES
    store: Any = ObservedStore(opened.store, names, hook)
    is_whole = opened.shards == (opened.store,)
    shards: Any = [ObservedStore(part, OPERATIONS, hook) for part in opened.shards]
    return replace(
        opened,
        store=store,
        users=store if opened.users else None,
        index=store if opened.index else None,
        adopting=store if opened.adopting else None,
        shards=(store,) if is_whole else tuple(shards),
        hooks=(*opened.hooks, key),
    )


class ObservedStore:
    """A store whose operations are reported to a hook.

    :param names: its operations.
    """

    def __init__(self, store: Store, names: Iterable[str], hook: Hook) -> None:
        self.shared: bool = store.shared
        self.inspect: Callable[..., Any] = store.inspect
        self.close: Callable[..., Any] = store.close
        for name in names:
            setattr(self, name, _observed(store, name, hook))


def _observed(store: Store, name: str, hook: Hook) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        ended, start = hook(name), perf_counter()
        try:
            # Looked up at each call: a test may have replaced the method.
            answer = getattr(store, name)(*args, **kwargs)
        except BaseException as error:
            seconds = perf_counter() - start
            ended(StoreCall(name, outcome_of_error(error), seconds, type(error).__name__))
            raise
        ended(StoreCall(name, outcome_of(answer), perf_counter() - start))
        return answer

    return call
