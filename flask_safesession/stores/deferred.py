"""A store that cannot be opened yet when the app is set up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..events import Event
from .base import AdoptingStore, RemoteStore
from .opening import Opened

_METHODS = {"schema", *dir(AdoptingStore), *dir(RemoteStore)}


class DeferredStore:
    """A store in a SQL database that is opened by its first call.

    :param open_now: opens it.
    """

    shared = True

    def __init__(self, open_now: Callable[[], Opened]) -> None:
        self._open_now = open_now
        self._opened: Opened | None = None
        self._listener: Callable[[Event], None] | None = None

    def __getattr__(self, name: str) -> Any:
        """Returns a method that calls that of the store."""
        if name.startswith("_") or name not in _METHODS:
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._open(), name)(*args, **kwargs)

        return call

    def prepare(self) -> None:
        """See :meth:`.base.RemoteStore.prepare`: the first call checks it."""

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """See :meth:`.base.RemoteStore.report_to`."""
        self._listener = listener

    def states(self) -> Mapping[str, str]:
        """See :meth:`.base.RemoteStore.states`."""
        return self._opened.states() if self._opened else {}

    def close(self) -> None:
        """See :meth:`.base.Store.close`."""
        if self._opened:
            self._opened.store.close()

    def _open(self) -> Any:
        if self._opened is None:
            opened = self._open_now()
            if opened.remote and self._listener:
                opened.remote.report_to(self._listener)
            self._opened = opened
        return self._opened.store
