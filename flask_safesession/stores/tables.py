"""What the engine asks of a place that keeps sessions: some twenty steps of one transaction.

A *group* is a tier's tag; all anonymous sessions are in one, ``anonymous``. Lists and counts are
about the current generation. Nothing here is a rule: those are in :mod:`.engine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import NamedTuple, Protocol

from ..model.policy import ANONYMOUS_TIER
from ..model.record import Record, loads
from ..model.tokens import NO_USER
from .base import Listed, Removed

#: Kinds of what is kept of sessions that are over: tombstones of anonymous and of users' sessions,
#: and the reasons that users are shown.
ANONYMOUS_TOMBSTONES, USER_TOMBSTONES, REASONS = "anonymous", "users", "reasons"
KINDS: tuple[str, ...] = (ANONYMOUS_TOMBSTONES, USER_TOMBSTONES, REASONS)


class Ending(NamedTuple):
    """Why a session ended, and where it went.

    :param stamp: of the call that ended it.
    :param successor: the key under which the session goes on, if it was rotated.
    :param user: the user tag of that successor.
    :param sign_in: a sign-in rotated it: an end does not follow.
    """

    reason: str
    stamp: str = ""
    successor: str = ""
    user: str = ""
    sign_in: bool = False


class Entry(NamedTuple):
    """A session in the index of deadlines, which is ordered by deadline, then key."""

    deadline: int
    key: str


def group_of(record: Record) -> str:
    """Returns the group in which *record* is counted."""
    return ANONYMOUS_TIER if record.user == NO_USER else record.tier


def read_heads(heads: Iterable[tuple[str, bytes]]) -> list[Listed]:
    """Returns the sessions of which these are the heads; what is no record is left out."""
    found = []
    for key, raw in heads:
        with suppress(ValueError):
            found.append(Listed(key, loads(raw)))
    return found


class Tables(Protocol):
    """One backend. All but :meth:`transaction` and :meth:`repair` are called in a transaction."""

    def transaction(
        self, *, writes: bool = True, durable: bool = False
    ) -> AbstractContextManager[object]:
        """Returns a ``with`` block in which the calls of this thread are one atomic step.

        No other writer comes between its first read and its last write. An exception undoes it
        where the backend can.

        :param writes: ``False``: the block only reads.
        :param durable: it must survive a power failure: a sign-in, or an end.
        """
        ...

    def now(self) -> int:
        """Returns the store's time in milliseconds.

        Asked before the index is used, and after a wait for a lock: no earlier time may be used.
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
        """Returns what is stored under *key*, of whatever generation.

        :raises ValueError: it is no record.
        """
        ...

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """Store *fresh* in the place of *old*, which is what :meth:`read` returned.

        ``None``: there is nothing yet.
        """
        ...

    def remove(self, key: str) -> Record | None:
        """Remove a session, of whatever generation, and return what it was.

        ``None``: it is not there, or was no record.
        """
        ...

    def take_over(self, now: int, limit: int) -> list[tuple[Removed, str]]:
        """Remove up to *limit* sessions that are over, each with its user's tag.

        Those of older generations first (``revoked``), then those past their deadline, of each
        group those first that ended first. What is no record has no tier and no user (``corrupt``).
        """
        ...

    def heads(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """Returns the keys, each with the first :data:`.base.LISTED` bytes of its record.

        Keys under which nothing is are left out.
        """
        ...

    # -- their index ----------------------------------------------------------------------------

    def counts(self) -> Mapping[str, int]:
        """Returns how many sessions each group has, due ones among them."""
        ...

    def count_due(self, group: str, now: int) -> int:
        """Returns how many sessions of a group are past their deadline."""
        ...

    def nearest(self, group: str, limit: int, after: Entry | None = None) -> Iterable[Entry]:
        """Returns up to *limit* sessions of a group from the one that ends first, also due ones.

        :param after: only those after this entry, which may be gone.
        """
        ...

    def latest(self, group: str, now: int, limit: int, before: Entry | None) -> list[Entry]:
        """Returns up to *limit* sessions that are not due from the one that ends last.

        :param before: only those before this entry, which may be gone.
        """
        ...

    def of_user(self, user: str, tier: str = "", limit: int = -1) -> list[tuple[str, bytes]]:
        """Returns a user's sessions as :meth:`heads` does, in the order of their eviction.

        Those whose cookie never came back come first, oldest first; then those that are unused for
        the longest; of one moment in the order in which they were made.

        :param tier: only those with this tag.
        :param limit: so many at most; -1: all.
        """
        ...

    def count_of(self, user: str, tier: str = "") -> int:
        """Returns how many sessions a user has, due ones among them."""
        ...

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        """Whether the session under *key* is one of those that :meth:`count_of` counts."""
        ...

    def repair(self) -> int:
        """Rebuild what differs between index and records; returns how much that was.

        It opens its own transactions.
        """
        ...

    # -- what is kept of sessions that are over, and documents ----------------------------------

    def ending(self, kind: str, key: str, now: int) -> Ending | None:
        """Returns what is kept under *key*, unless its time is over."""
        ...

    def put_ending(self, kind: str, key: str, owner: str, ending: Ending, until: int) -> None:
        """Keep *ending* under *key* as the newest of its kind, in the place of an older one.

        :param owner: the tag of the user whose it is; empty: an anonymous session's.
        """
        ...

    def count_endings(self, kind: str, owner: str = NO_USER) -> int:
        """Returns how many are kept; of one user if *owner* is given."""
        ...

    def drop_oldest_ending(self, kind: str, owner: str = NO_USER) -> None:
        """Remove the one that was kept first; of one user if *owner* is given."""
        ...

    def forget_endings(self, kind: str, now: int) -> None:
        """Remove those whose time is over, or at least some of them."""
        ...

    def document(self, name: str) -> tuple[bytes, int]:
        """Returns a document and its time; empty and 0 where there is none."""
        ...

    def put_document(self, name: str, document: bytes, time: int) -> None:
        """Keep a document in the place of an older one."""
        ...
