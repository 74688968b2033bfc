"""What the memory store remembers of sessions that are over: where they went, and why."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

from ..model.tokens import NO_USER
from .base import MAX_TOMBSTONES, MAX_TOMBSTONES_OF_USER, TOLD, TOLD_FOR, TOMBSTONE_TTL, UNKNOWN

Kept = TypeVar("Kept")


class Tombstone(NamedTuple):
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


class Endings:
    """Tombstones, kept for a minute, and the reasons that users are shown, kept for a day.

    Each table has a limit, and one user a share of it: neither a flood of anonymous logouts nor one
    account pushes out what is kept of others.
    """

    def __init__(self) -> None:
        self.anonymous: Table[Tombstone] = Table(TOMBSTONE_TTL)
        self.users: Table[Tombstone] = Table(TOMBSTONE_TTL)
        self.told: Table[str] = Table(TOLD_FOR)

    def bury(self, key: str, user: str, tombstone: Tombstone, now: int) -> None:
        """Keep a tombstone of *user*, or of an anonymous session."""
        table = self.anonymous if user == NO_USER else self.users
        table.add(key, user, tombstone, now)

    def tombstone(self, key: str, now: int) -> Tombstone | None:
        """Returns the tombstone of *key*."""
        return self.users.get(key, now) or self.anonymous.get(key, now)

    def where_it_is(self, key: str, now: int) -> str:
        """Returns the key under which the session goes on, unless a sign-in made it another one."""
        while (found := self.tombstone(key, now)) and found.successor and not found.sign_in:
            key = found.successor
        return key

    def tell(self, key: str, user: str, reason: str, now: int) -> None:
        """Keep how a user's session ended; of anonymous ones nothing is kept."""
        if user != NO_USER and reason in TOLD:
            self.told.add(key, user, reason, now)

    def reason(self, key: str, now: int) -> str:
        """Returns how the user's session with *key* ended."""
        return self.told.get(key, now) or UNKNOWN

    def forget(self, now: int) -> None:
        """Remove what is over its time."""
        for table in (self.anonymous, self.users, self.told):
            table.forget(now)


class Table(Generic[Kept]):
    """Values by key, the oldest first. Each has an owner, and is kept for *ttl* milliseconds."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._rows: OrderedDict[str, tuple[int, str, Kept]] = OrderedDict()
        self._keys_of: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, owner: str, value: Kept, now: int) -> None:
        """Keep *value*; the oldest make room where there are too many."""
        self.forget(now)
        self._remove(key)
        self._rows[key] = (now + self._ttl, owner, value)
        if owner != NO_USER:
            keys = self._keys_of.setdefault(owner, {})
            keys[key] = None
            if len(keys) > MAX_TOMBSTONES_OF_USER:
                self._remove(next(iter(keys)), owner)
        if len(self._rows) > MAX_TOMBSTONES:
            self._remove(next(iter(self._rows)))

    def get(self, key: str, now: int) -> Kept | None:
        """Returns the value that is kept under *key*."""
        until, _, value = self._rows.get(key, (0, "", None))
        return value if until > now else None

    def forget(self, now: int) -> None:
        """Remove what is over its time."""
        while self._rows and next(iter(self._rows.values()))[0] <= now:
            self._remove(next(iter(self._rows)))

    def _remove(self, key: str, owner: str = NO_USER) -> None:
        _, found, _ = self._rows.pop(key, (0, owner, None))
        keys = self._keys_of.get(found, {})
        keys.pop(key, None)
        if not keys:
            self._keys_of.pop(found, None)
