"""What the memory store remembers of sessions that are over: where they went, and why."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import Any, NamedTuple

from ..tokens import NO_USER
from .base import RENEWED, ROTATED, TOLD, TOLD_FOR, TOMBSTONE_TTL, UNKNOWN

#: Tombstones are kept in order of time; a flood of logouts pushes out the oldest.
MAX_TOMBSTONES = 10_000
#: And so are the ends of users' sessions that visitors are told of.
MAX_TOLD = 10_000


class Tombstone(NamedTuple):
    """``successor``: under which key the session goes on; ``good``: until when the old works."""

    until: int
    reason: str
    successor: str = ""
    good: int = 0


#: What is found where there is none.
NO_TOMBSTONE = Tombstone(0, UNKNOWN)


class Endings:
    """Tombstones of a minute, those of renewed keys, and ends that are told for a day."""

    def __init__(self) -> None:
        self.tombstones: OrderedDict[str, Tombstone] = OrderedDict()
        # Of renewed keys: they live as long as the session may.
        self.renewed: OrderedDict[str, Tombstone] = OrderedDict()
        # How users' sessions have ended, and when.
        self.told: OrderedDict[str, tuple[int, str]] = OrderedDict()

    def bury(self, key: str, reason: str, now: int, successor: str = "") -> None:
        """Leave a tombstone; a *successor* is where the session goes on."""
        self.forget(now)
        self.renewed.pop(key, None)
        self.tombstones[key] = Tombstone(now + TOMBSTONE_TTL, reason, successor)

    def renew(self, key: str, successor: str, good: int, until: int) -> None:
        """Let *key* lead to its *successor*: until *good* for loads, until *until* for ends."""
        self.renewed[key] = Tombstone(until, RENEWED, successor, good)
        _shorten(self.renewed, MAX_TOMBSTONES)

    def tombstone(self, key: str, now: int) -> Tombstone:
        """The tombstone of *key*, or :data:`NO_TOMBSTONE`."""
        found = self.tombstones.get(key) or self.renewed.get(key) or NO_TOMBSTONE
        return found if found.until > now else NO_TOMBSTONE

    def where_it_is(self, key: str, now: int, links: Container[str] = (ROTATED, RENEWED)) -> str:
        """The key under which the session goes on, by *links* that were left for these reasons."""
        while (found := self.tombstone(key, now)).successor and found.reason in links:
            key = found.successor
        return key

    def tell(self, key: str, user: str, reason: str, now: int) -> None:
        """Remember how a user's session has ended; of strangers' nothing is."""
        if user != NO_USER and reason in TOLD:
            self.told[key] = (now, reason)
            _shorten(self.told, MAX_TOLD)

    def reason(self, key: str, now: int) -> str:
        """How the user's session with *key* has ended, if it is still told."""
        when, reason = self.told.get(key, (0, UNKNOWN))
        return reason if when > now - TOLD_FOR else UNKNOWN

    def forget(self, now: int) -> None:
        """Drop what has had its time, and what is too much."""
        while self.tombstones and next(iter(self.tombstones.values())).until <= now:
            self.tombstones.popitem(last=False)
        _shorten(self.tombstones, MAX_TOMBSTONES - 1)
        while self.renewed and next(iter(self.renewed.values())).until <= now:
            self.renewed.popitem(last=False)
        while self.told and next(iter(self.told.values()))[0] <= now - TOLD_FOR:
            self.told.popitem(last=False)


def _shorten(kept: OrderedDict[str, Any], limit: int) -> None:
    while len(kept) > limit:
        kept.popitem(last=False)
