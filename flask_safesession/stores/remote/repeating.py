"""Passes the operations of a store through one method, which bounds their time and repeats them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type[Any])

_OPERATIONS = (
    *("load", "create", "commit", "refile", "rotate", "end", "end_all", "resolve"),
    *("adopt", "point", "follow", "close_adoption", "adoptions"),
    *("peek", "sessions_of", "end_user", "page", "count", "purge", "audit"),
    *("lease", "document", "keep"),
)


def repeating(store: _Class) -> _Class:
    """Decorates a store: the operations that it inherits are calls of its method ``_call``.

    Those that the class defines itself call that method themselves.
    """
    for name in _OPERATIONS:
        if name not in vars(store):
            setattr(store, name, _called(getattr(store, name)))
    return store


def _called(operation: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(operation)
    def run(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._call(partial(operation, self, *args, **kwargs))

    return run
