"""The items of the store and their wire forms.

================  =========================================================================
``PREFIX:epoch``  an :class:`Epoch`: words
``PREFIX:u:TAG``  keys of a user's sessions, each with the tag of its tier: JSON
``PREFIX:s:KEY``  a :class:`Session`: words, a line feed and the record
..                or a :class:`Tombstone`: JSON
================  =========================================================================
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NamedTuple

from ...model import record as records
from ...model.reason import Reason
from ...model.record import Record
from ...model.tokens import NO_USER
from ..base import TOMBSTONE_TTL, VISITOR_REASON_TTL, VISITOR_REASONS, Gone
from ..tables import Ending

#: The longest time for which an item is kept, in seconds: a larger number would be a date.
LONGEST = 30 * 86_400


class Item(NamedTuple):
    """What a server has under a name.

    :param token: for compare-and-set, on the connection that it was read on.
    :param seconds: until it expires.
    """

    value: bytes
    token: bytes
    seconds: int


class Epoch(NamedTuple):
    """The item that all sessions of a server depend on.

    :param place: the server's number in the list of servers, and their number.
    :param name: random; sessions of another epoch are over.
    :param expires: when this item expires, in milliseconds of the server's time.
    :param stamp: of the call that raised the generation last.
    """

    place: str
    name: str
    generation: int
    expires: int
    stamp: str = ""

    @classmethod
    def loads(cls, raw: bytes) -> Epoch:
        """Returns the epoch in *raw*."""
        place, name, generation, expires, stamp = raw.decode().split(" ")
        return cls(place, name, int(generation), int(expires), stamp)


class Session(NamedTuple):
    """A session.

    :param epoch: the name of its epoch.
    :param old: of a provisional session: the key that it replaces.
    :param old_user: the user tag of that one.
    """

    epoch: str
    record: Record
    old: str = ""
    old_user: str = NO_USER

    def seconds(self, now: int) -> int:
        """Returns for how long the item is kept: until the deadline of the record."""
        return max(1, min(LONGEST, -((now - self.record.deadline) // 1000)))


class Tombstone(NamedTuple):
    """Why a session ended; after *until* (ms) only the reason of a user's session is left."""

    until: int
    ending: Ending

    @property
    def is_shown(self) -> bool:
        """Whether the reason is kept for the user."""
        return self.ending.reason in VISITOR_REASONS

    def seconds(self, _: int) -> int:
        """Returns for how long the item is kept, whatever the time is."""
        return (VISITOR_REASON_TTL if self.is_shown else TOMBSTONE_TTL) // 1000

    def gone(self, now: int, stamp: str) -> Gone:
        """Returns the answer of the store; *stamp*: of a call that may be repeated."""
        reason, by, successor, user, _ = self.ending
        if now < self.until:
            repeated = by == stamp != ""
            return Gone(reason, True, repeated=repeated, successor=successor, user=user)
        return Gone(reason, for_visitor=True) if self.is_shown else Gone(Reason.UNKNOWN)


class Held(NamedTuple):
    """A session as it was read.

    :param now: the time of its server, in milliseconds.
    """

    key: str
    item: Item
    session: Session
    epoch: Epoch
    now: int

    @property
    def record(self) -> Record:
        """The session's record."""
        return self.session.record

    @property
    def reason(self) -> Reason | None:
        """Why the session is over, apart from what the item of its user says."""
        if self.session.epoch != self.epoch.name:
            return Reason.UNKNOWN
        if self.record.generation != self.epoch.generation:
            return Reason.REVOKED
        return self.record.end_reason if self.record.deadline <= self.now else None


def dumps(item: Epoch | Session | Tombstone | dict[str, str]) -> bytes:
    """Returns the wire form of an item."""
    if isinstance(item, Session):
        head = f"{item.epoch} {item.old} {item.old_user}\n".encode()
        return head + records.dumps(item.record)
    if isinstance(item, Epoch):
        return " ".join(map(str, item)).encode()
    return json.dumps(item).encode()


def loads(item: Item | None) -> Session | Tombstone | None:
    """Returns the session or the tombstone in *item*; ``None``: it is neither."""
    with suppress(ValueError, TypeError, LookupError):
        head, separator, record = item.value.partition(b"\n") if item else (b"", b"", b"")
        if separator:
            epoch, old, old_user = head.decode().split(" ")
            return Session(epoch, records.loads(record), old, old_user)
        until, ending = json.loads(head)
        return Tombstone(until, Ending(*ending))
    return None
