"""A store that counts its calls, can be told to fail, and can be interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask_safesession.errors import StoreUnavailable
from flask_safesession.stores.base import Store
from flask_safesession.stores.memory import MemoryStore

CALLS = frozenset({"load", "create", "commit", "rotate", "end"})


class CountingStore:
    """Passes every call on to *store* and writes it down.

    ``failing`` names the operations that are out of order. ``before`` is called once, before the
    next call of the operation that it is for: whatever another request does just then.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.inner: Any = store or MemoryStore()
        self.shared = self.inner.shared
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self._before: dict[str, Callable[[], object]] = {}

    def before(self, operation: str, action: Callable[[], object]) -> None:
        self._before[operation] = action

    def take(self) -> list[str]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in CALLS:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if action := self._before.pop(name, None):
                action()
            self.calls.append(name)
            if name in self.failing:
                raise StoreUnavailable(f"{name} is out of order")
            return method(*args, **kwargs)

        return call


class PlainStore:
    """A store with no more than *protocol* demands: it passes that on to *store*."""

    shared = False

    def __init__(self, store: Store | None = None, protocol: type = Store) -> None:
        inner = store or MemoryStore()
        for name in dir(protocol):
            if name[0] != "_":
                setattr(self, name, getattr(inner, name))
