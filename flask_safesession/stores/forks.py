"""What connections do when the process forks: those to a file before it, others after it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol


class Watched(Protocol):
    """What is told, in this order: once in the parent before, then in each of the two."""

    def before_fork(self) -> None:
        """Close what the child must not have."""
        ...

    def after_fork_in_parent(self) -> None:
        """Continue."""
        ...

    def after_fork_in_child(self) -> None:
        """Begin without what is the parent's."""
        ...


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
_leaked: list[object] = []


def watch(connections: Watched) -> None:
    """Tell *connections* of each fork for as long as they live."""
    _watched.add(connections)


def leak(connections: Iterable[object]) -> None:
    """Keep the parent's connections in a child: closing one would drop the parent's locks."""
    _leaked.extend(connections)


def _for_all(step: Callable[[Watched], None]) -> Callable[[], None]:
    def run() -> None:
        for connections in list(_watched):
            step(connections)

    return run


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_for_all(lambda connections: connections.before_fork()),
        after_in_parent=_for_all(lambda connections: connections.after_fork_in_parent()),
        after_in_child=_for_all(lambda connections: connections.after_fork_in_child()),
    )
