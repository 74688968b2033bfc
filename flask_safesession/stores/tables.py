"""What the engine needs of a backend: 25 steps of a transaction.

A *group* is a tier's tag; all anonymous sessions are in the group ``anonymous``. Lists and counts
are of the current generation. The rules are in :mod:`.engine`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple, Protocol

from ..model.policy import ANONYMOUS_TIER
from ..model.reason import Reason
from ..model.record import Record, loads
from ..model.tokens import NO_USER
from .base import Cap, Listed, Removed

#: The kinds of endings: tombstones of anonymous sessions and of users' sessions, and the reasons
#: that are shown to visitors.
ANONYMOUS_TOMBSTONES, USER_TOMBSTONES, REASONS = "anonymous", "users", "reasons"
#: Links of adopted sessions, and those that only lead into another shard; users for whom adoption
#: is closed.
LINKS, POINTERS, CLOSED = "links", "pointers", "closed"
#: Those of each operation, and all of them.
KINDS: tuple[str, ...] = (ANONYMOUS_TOMBSTONES, USER_TOMBSTONES, REASONS)
ALL_KINDS: tuple[str, ...] = (*KINDS, LINKS, POINTERS, CLOSED)


class Ending(NamedTuple):
    """Why a session ended, and where it continues.

    :param stamp: of the call that ended it.
    :param successor: the key under which the session continues, if it was rotated.
    :param user: the user tag of that successor.
    :param sign_in: a sign-in rotated it: an end does not follow.
    """

    reason: str
    stamp: str = ""
    successor: str = ""
    user: str = ""
    sign_in: bool = False


class Entry(NamedTuple):
    """A session in the index of deadlines, ordered by deadline, then key.

    :param number: of its row: a backend that numbers them may order by it instead of the key.
    """

    deadline: int
    key: str
    number: int = 0

    @property
    def cursor(self) -> str:
        """The entry as text, for the next page of a list."""
        return f"{self.deadline:011x}{self.number:015x}{self.key}"

    @classmethod
    def at(cls, cursor: str) -> Entry:
        """Returns the entry of a cursor.

        :raises ValueError: it is not one.
        """
        return cls(int(cursor[:11], 16), cursor[26:], int(cursor[11:26], 16))


class Scope(NamedTuple):
    """What a transaction will be about, for backends that lock and read it ahead.

    :param keys: of sessions that it may read, add or remove; others may turn out to be needed.
    :param user: the tag of a user whose sessions it may list, add or remove.
    :param cap: it may add a session under these caps.
    :param task: ``all``: it may change every session; ``purge``: those that are due; or
        ``documents``.
    :param document: the name of one.
    :param limit: the most sessions that a purge removes.
    """

    keys: tuple[str, ...] = ()
    user: str = NO_USER
    cap: Cap | None = None
    task: str = ""
    document: str = ""
    limit: int = 0


class TooNarrow(Exception):
    """A transaction turned out to need more than its scope: the backend repeats the operation.

    :param keys: that must be in its scope, too; ``None``: all sessions.
    """

    def __init__(self, keys: Collection[str] | None = None) -> None:
        super().__init__("the transaction has locked too little")
        self.keys: Collection[str] | None = keys


# Used since it was made; 2 to this power is over every time in milliseconds.
_USED = 1 << 52


def place_of(record: Record) -> int:
    """Returns the place of *record* among its user's sessions as one number."""
    used, at = record.place
    return _USED * used + at


def group_of(record: Record) -> str:
    """Returns the group of *record*."""
    return ANONYMOUS_TIER if record.user == NO_USER else record.tier


def read_heads(heads: Iterable[tuple[str, bytes]]) -> list[Listed]:
    """Returns the sessions in *heads*, without those that are not a record."""
    found = []
    for key, raw in heads:
        with suppress(ValueError):
            found.append(Listed(key, loads(raw)))
    return found


def taken(key: str, raw: bytes, reason: str | None) -> tuple[Removed, str]:
    """Returns what was removed, and the tag of its user; without a *reason*, it was due."""
    try:
        record = loads(raw)
    except ValueError:
        return Removed(key, "", reason or Reason.CORRUPT), NO_USER
    return Removed(key, record.tier, reason or record.end_reason), record.user


class Tables(Protocol):
    """One backend. All but :meth:`transaction` and :meth:`repair` are called in a transaction."""

    def transaction(
        self, scope: Scope, *, writes: bool = True, durable: bool = False
    ) -> AbstractContextManager[object]:
        """Returns a context manager in which the calls of this thread are one atomic step.

        No other writer comes between its first read and its last write. An exception rolls it
        back where the backend can.

        :param scope: what the block is about, for backends that do not lock everything.
        :param writes: ``False``: the block only reads.
        :param durable: it must survive a power failure: a sign-in, or an end.
        """
        ...

    def now(self) -> int:
        """Returns the store's time in milliseconds.

        Called before the index is used, and after a wait for a lock: no earlier time may be used.
        """
        ...

    def share(self, cap: Cap) -> Cap:
        """Returns the part of *cap* that :meth:`counts` has to keep in this transaction.

        A backend that counts all sessions returns *cap* itself. Any other object says that
        :meth:`counts` is of some sessions only: then the engine evicts nothing for the cap, and
        raises :exc:`TooNarrow` where it would have to.
        """
        ...

    def generation(self) -> int:
        """Returns the current generation."""
        ...

    def begin_generation(self, stamp: str) -> None:
        """Raise the generation by one, unless the call with *stamp* was the last to do so."""
        ...

    # -- sessions -------------------------------------------------------------------------------

    def read(self, key: str) -> Record | None:
        """Returns the record under *key*, of any generation; ``None``: there is none.

        :raises ValueError: it is not a record.
        """
        ...

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """Store *fresh* in place of *old*, which :meth:`read` returned; ``None``: there is none."""
        ...

    def remove(self, *keys: str) -> list[tuple[str, Record]]:
        """Remove sessions of any generation. Returns key and record of those that were there.

        A value that is not a record is removed, too, and not returned.
        """
        ...

    def take_over(self, now: int, limit: int) -> list[tuple[Removed, str]]:
        """Remove up to *limit* ended sessions, and return each with its user's tag.

        Those of older generations first (``revoked``), then due ones, in each group by deadline.
        A value that is not a record has no tier and no user; if it is due, it is ``corrupt``.
        """
        ...

    def heads(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """Returns existing keys, each with the first :data:`.base.LISTED` bytes of its record."""
        ...

    # -- their index ----------------------------------------------------------------------------

    def counts(self) -> Mapping[str, int]:
        """Returns the number of sessions of each group, due ones included."""
        ...

    def count_due(self, group: str, now: int) -> int:
        """Returns the number of due sessions of a group."""
        ...

    def nearest(self, group: str, limit: int, after: Entry | None = None) -> Iterable[Entry]:
        """Returns up to *limit* sessions of a group, also due ones, by deadline.

        :param after: only those after this entry, which may be gone.
        """
        ...

    def latest(self, group: str, now: int, limit: int, before: Entry | None) -> list[Entry]:
        """Returns up to *limit* live sessions of a group, latest deadline first.

        :param before: only those before this entry, which may be gone.
        """
        ...

    def of_user(self, user: str, tier: str = "", limit: int = -1) -> list[tuple[str, bytes]]:
        """Returns a user's sessions as :meth:`heads` does, in the order of eviction.

        First those that were never used, oldest first; then those that are unused for the longest.
        Those of one millisecond are in the order of creation.

        :param tier: only those with this tag; empty: all.
        :param limit: the largest number; -1: all.
        """
        ...

    def count_of(self, user: str, tier: str = "") -> int:
        """Returns the number of a user's sessions, due ones included."""
        ...

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        """Returns whether :meth:`count_of` counts the session under *key*."""
        ...

    def repair(self) -> int:
        """Fix differences between index and records. Returns their number.

        Opens its own transactions.
        """
        ...

    # -- tombstones, reasons and documents ------------------------------------------------------

    def ending(self, kind: str, key: str, now: int) -> Ending | None:
        """Returns the ending under *key*; ``None``: there is none, or it has expired."""
        ...

    def put_ending(self, kind: str, key: str, owner: str, ending: Ending, until: int) -> None:
        """Keep *ending* under *key*, in place of an older one, as the newest of its kind.

        :param owner: the user's tag; empty: of an anonymous session.
        :param until: the time at which it expires.
        """
        ...

    def trim_endings(self, kind: str, most: int, owner: str = NO_USER) -> None:
        """Remove the oldest endings over *most*: exactly of one *owner*, roughly of all."""
        ...

    def forget_endings(self, kind: str, now: int) -> None:
        """Remove expired endings, or at least some of them."""
        ...

    def count_endings(self, kind: str, *, exact: bool = True) -> int:
        """Returns the number of endings of a kind, expired ones included.

        :param exact: ``False``: an earlier result will do.
        """
        ...

    def document(self, name: str) -> tuple[bytes, int]:
        """Returns a document and its time; empty and 0: there is none."""
        ...

    def put_document(self, name: str, document: bytes, time: int) -> None:
        """Store a document in place of an older one."""
        ...
