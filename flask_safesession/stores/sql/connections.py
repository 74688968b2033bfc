"""What the tables need of the connections to a database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..base import Cap
from ..direct import Single
from ..tables import Scope

#: A statement and its parameters.
Call: TypeAlias = "tuple[str, tuple[Any, ...]]"


#: Below this cap, creations lock all sessions.
SMALL = 2000
#: Seconds for which a full store is taken for full: creations lock everything at once.
FULL = 1.0


def has_quotas(cap: Cap) -> bool:
    """Returns whether creations lock one part, as long as its quota has room."""
    return cap.total >= SMALL


class Place(NamedTuple):
    """What a transaction locks.

    :param parts: of the sessions, see :mod:`.servers.locks`.
    :param part: the one in which it counts.
    :param whole: it locks all parts.
    """

    parts: frozenset[int] = frozenset()
    part: int = 0
    whole: bool = True


class Connections(Single, Protocol):
    """The connections to a database, and its transactions.

    :ivar generation: what it was in the last answer; ``None``: it is not known yet.
    """

    generation: int | None

    def place(self, scope: Scope) -> Place:
        """Returns what a transaction that writes will lock."""
        ...

    def transaction(
        self, place: Place, ahead: Sequence[Call], *, writes: bool, durable: bool
    ) -> AbstractContextManager[object]:
        """Returns a ``with`` block: see :meth:`..tables.Tables.transaction`.

        :param ahead: what will probably be read.
        """
        ...

    def seats(self) -> list[Any]:
        """Returns the rows of ``seats`` that the transaction of this thread has locked."""
        ...

    def read(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """Returns the rows of a query in the transaction of this thread."""
        ...

    def fetch(self, calls: Sequence[Call]) -> None:
        """Read all this at once, for :meth:`read`."""
        ...

    def write(self, statement: str, parameters: tuple[Any, ...]) -> None:
        """Run a statement in the transaction of this thread, before its next query or its end."""
        ...

    def insert(self, part: int, calls: Sequence[Call]) -> bool:
        """Run statements that add a session to a part, as a transaction of their own.

        :returns: whether the last one, which counts the session, changed a row.
        """
        ...

    def may_have_room(self, cap: Cap) -> bool:
        """Returns whether nothing speaks against an attempt within the quota of one part."""
        ...

    def note(self, generation: int, now: int) -> None:
        """Take these for the current generation and the time, which were just read."""
        ...

    def share(self, cap: Cap) -> Cap:
        """See :meth:`..tables.Tables.share`."""
        ...

    def need(self, keys: Collection[str]) -> None:
        """Check that other transactions do not add or remove the sessions under *keys*.

        :raises TooNarrow: the parts of these keys are not locked.
        """
        ...
