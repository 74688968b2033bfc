"""The steps of one operation: each is one command, or may be done again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from secrets import token_urlsafe
from typing import TypeAlias

from ...errors import SafeSessionError, TooManySessions, UnfitStore
from ...model.reason import Reason
from ...model.record import Record
from ...model.tokens import NO_USER
from ..base import MAX_EVICTIONS, TOMBSTONE_TTL, Gone, Removed, Rules
from ..sharded import shard_of
from ..tables import Ending
from .items import LONGEST, Epoch, Held, Item, Session, Tombstone, dumps, loads
from .lines import Line, Server

#: Sessions that were evicted for another one.
Evicted: TypeAlias = "tuple[Removed, ...]"

# Items that are read with one round trip.
_BATCH = 100


class Changed(Exception):
    """Another request has written what this one has read: the operation has to begin again."""


class Turn:
    """One operation, with one connection to each server that it needs.

    ``lost``: the reply of an earlier try was lost. ``asked``: the server that was used last.
    """

    def __init__(self, servers: Sequence[Server], prefix: bytes) -> None:
        self.lost = False
        self.asked: str = ""
        self._servers = servers
        self._prefix = prefix
        self._lines: dict[int, Line] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        while self._lines:
            number, line = self._lines.popitem()
            if error is None or isinstance(error, (Changed, SafeSessionError)):
                self._servers[number].give(line)
            else:
                line.close()

    def line(self, key: str) -> Line:
        """Returns the connection to the server of a key or of a user's tag."""
        number = shard_of(key, len(self._servers))
        self.asked = self._servers[number].name
        if number not in self._lines:
            self._lines[number] = self._servers[number].take()
        return self._lines[number]

    # -- epochs ---------------------------------------------------------------------------------

    def epoch(self, key: str, item: Item | None = None) -> tuple[Epoch, int, Item]:
        """Returns the epoch of a key's server, the server's time, and the item.

        Begins one if needed.

        :param item: if it was read already.
        """
        count = len(self._servers)
        place = f"{shard_of(key, count) + 1}/{count}"
        line, name = self.line(key), self.name("epoch")
        while (item := item or line.read(name)[0]) is None:
            expires = (int(line.ask()[b"time"]) + LONGEST) * 1000
            line.write(name, dumps(Epoch(place, token_urlsafe(6), 0, expires)), LONGEST, None)
        epoch = Epoch.loads(item.value)
        if epoch.place != place:
            problem = (
                f"a Memcached server is number {epoch.place} in the SAFESESSION_STORE of another"
                f" process, and number {place} here: name the same servers in the same order"
                " everywhere; to change them, restart all of them, which signs everybody out"
            )
            raise UnfitStore([problem])
        now = epoch.expires - item.seconds * 1000
        if item.seconds < LONGEST // 2:
            self.put_epoch(key, epoch, now, item)
        return epoch, now, item

    def put_epoch(self, key: str, epoch: Epoch, now: int, old: Item) -> bool:
        """Replace an epoch, and keep it for the longest time from now on."""
        fresh = epoch._replace(expires=now + LONGEST * 1000)
        return self.line(key).write(self.name("epoch"), dumps(fresh), LONGEST, old)

    # -- sessions -------------------------------------------------------------------------------

    def find(self, key: str, stamp: str = "", user: str = NO_USER) -> Held | Gone:
        """Returns the live session under *key*.

        :param stamp: of a call that may be repeated.
        :param user: the tag of its user, if it is known: saves a round trip.
        """
        names = [self.name("epoch"), self._of_key(key), *([self._of_user(user)] if user else [])]
        current, item, *members = self.line(key).read(*names)
        if current is None:
            return Gone(Reason.UNKNOWN)
        epoch, now, _ = self.epoch(key, current)
        session = loads(item)
        if item is None or session is None:
            return Gone(Reason.CORRUPT if item else Reason.UNKNOWN)
        if isinstance(session, Tombstone):
            return session.gone(now, stamp)
        held = Held(key, item, session, epoch, now)
        if reason := held.reason:
            return self.over(held, reason)
        if session.old:
            return self._find_provisional(held, stamp)
        of = session.record.user
        is_live = of == NO_USER or self._is_member(key, of, *(members if of == user else ()))
        return held if is_live else Gone(Reason.UNKNOWN)  # it was ended, or is not complete yet

    def write(
        self, key: str, fresh: Session | Tombstone | None, seconds: int, old: Item | None
    ) -> bool:
        """Replace the item of a session, if it is still what was read; ``None``: remove it."""
        value = dumps(fresh) if fresh else b""
        return self.line(key).write(self._of_key(key), value, seconds, old)

    def add(self, key: str, session: Session, now: int, longest: int = LONGEST) -> bool:
        """Store a new session, for *longest* seconds at most. Returns whether the key was free."""
        return self.write(key, session, min(longest, session.seconds(now)), None)

    def replace(self, held: Held, fresh: Session | Tombstone | None) -> None:
        """Replace a session; ``None``: remove it.

        :raises Changed: another request was faster.
        """
        if not self.write(held.key, fresh, fresh.seconds(held.now) if fresh else -1, held.item):
            raise Changed

    def finish(self, held: Held, ending: Ending) -> None:
        """Replace a session by a tombstone."""
        self.replace(held, Tombstone(held.now + TOMBSTONE_TTL, ending))

    def over(self, held: Held, reason: str) -> Gone:
        """Remove a session that this call found ended; keep the reason for its user."""
        grave, is_users = Tombstone(0, Ending(reason)), held.record.user != NO_USER
        self.replace(held, grave if is_users and grave.is_shown else None)
        if reason == Reason.UNKNOWN:
            return Gone(reason)
        return Gone(reason, tier=held.record.tier, for_visitor=is_users)

    def resolve(self, key: str) -> str:
        """Returns the key under which the session continues, following rotations, no sign-ins."""
        while (grave := self._grave(key)) and grave.successor and not grave.sign_in:
            key = grave.successor
        return key

    def live(self, user: str, keys: Iterable[str], *, provisional: bool) -> list[Held]:
        """Returns those of *keys* that are live sessions of *user*.

        :param provisional: also those that are not complete yet.
        """
        theirs = (held for held in self._held(user, keys) if held.record.user == user)
        complete = (held for held in theirs if provisional or not held.session.old)
        return [held for held in complete if not held.reason]

    def _held(self, place: str, keys: Iterable[str]) -> Iterator[Held]:
        """Yields those of *keys* that are sessions, live or not, on the server of *place*."""
        rest = list(keys)
        while batch := rest[:_BATCH]:
            rest = rest[_BATCH:]
            current, *items = self.line(place).read(self.name("epoch"), *map(self._of_key, batch))
            if current is None:
                return
            epoch, now, _ = self.epoch(place, current)
            for key, item in zip(batch, items, strict=True):
                session = loads(item)
                if item and isinstance(session, Session):
                    yield Held(key, item, session, epoch, now)

    # -- the sessions of a user -----------------------------------------------------------------

    def members(self, user: str) -> tuple[dict[str, str], Item | None]:
        """Returns the keys in the item of a user, each with the tag of its tier, and the item."""
        [item] = self.line(user).read(self._of_user(user))
        return (json.loads(item.value) if item else {}), item

    def put_members(self, user: str, members: dict[str, str], old: Item | None) -> bool:
        """Replace the item of a user, if it is still what was read."""
        seconds = LONGEST if members else -1
        return self.line(user).write(self._of_user(user), dumps(members), seconds, old)

    def enrol(
        self,
        key: str,
        record: Record,
        rules: Rules | None = None,
        *,
        instead: str = "",
        leaving: str = "",
    ) -> Evicted | None:
        """Enter a session in the item of its user. Returns those that were evicted for it.

        :param rules: with the user's cap; ``None``: nothing is evicted.
        :param instead: the key that it replaces. ``None`` is returned if that has ended.
        :param leaving: the key that it will replace: it stays, and is not counted.
        :raises TooManySessions: the user has as many as allowed, and none may be evicted.
        """
        user, tier = record.user, record.tier
        while True:
            members, item = self.members(user)
            if members.get(key) == tier:
                return ()
            if instead and instead not in members:
                return None
            others = {at: of for at, of in members.items() if at not in (key, instead)}
            counted = {at: of for at, of in others.items() if at != leaving}
            dead, victims = self._room(user, counted, tier, rules) if rules else (set(), [])
            kept = {at: of for at, of in others.items() if at not in dead}
            if self.put_members(user, {**kept, key: tier}, item):
                break
        for held in victims:
            with suppress(Changed):  # it is over all the same: its key is not in the item any more
                self.over(held, Reason.EVICTED)
        return tuple(Removed(one.key, one.record.tier, Reason.EVICTED) for one in victims)

    def _room(
        self, user: str, members: dict[str, str], tier: str, rules: Rules
    ) -> tuple[set[str], list[Held]]:
        """Returns keys to remove for one more session, and those of them that are live."""
        cap = rules.cap
        allowed = cap.per_tier.get(rules.policy.name_of(tier), cap.per_user)
        same = [key for key, of in members.items() if not cap.per_tier or of == tier]
        if len(same) < allowed:
            return set(), []
        live = self.live(user, same, provisional=True)
        excess = len(live) + 1 - allowed
        if excess > 0 and cap.refuse:
            raise TooManySessions
        live.sort(key=lambda one: one.record.place)
        victims = live[: max(0, min(excess, MAX_EVICTIONS))]
        return {*same} - {one.key for one in live[len(victims) :]}, victims

    def leave(self, user: str, key: str) -> None:
        """Remove a key from the item of a user."""
        while True:
            members, item = self.members(user)
            if members.pop(key, None) is None or self.put_members(user, members, item):
                return

    def _is_member(self, key: str, user: str, *given: Item | None) -> bool:
        name = self._of_user(user)
        item = given[0] if given else self.line(user).read(name)[0]
        if item is not None and item.seconds < LONGEST // 2:
            self.line(user).touch(name, LONGEST)
        return item is not None and f'"{key}"'.encode() in item.value

    # -- rotations ------------------------------------------------------------------------------

    def mine(self, key: str, stamp: str) -> Held | None:
        """Returns the session under *key*, if an earlier step of this call has stored it."""
        found = self._held(key, [key])
        return next((held for held in found if held.record.stamps[0] == stamp), None)

    def withdraw(self, key: str, record: Record, old: str) -> None:
        """Remove a session that this call has stored, unless it has replaced the *old* one."""
        stamp = record.stamps[0]
        if (grave := self._grave(old)) and grave.stamp == stamp:
            return
        if held := self.mine(key, stamp):
            self.write(key, None, -1, held.item)
        if record.user != NO_USER:
            self.leave(record.user, key)

    def complete(self, key: str, stamp: str) -> bool:
        """Complete the rotation of this call. Returns whether the old session had not ended.

        If another request has completed it, or evicted the new session, nothing is left to do.
        """
        while (held := self.mine(key, stamp)) and held.session.old:
            with suppress(Changed):
                return self._settle(held)
        return True

    def _settle(self, held: Held) -> bool:
        """Complete a rotation after its decision. Returns whether the old session had not ended."""
        (name, record, old, user), key = held.session, held.key
        if user != NO_USER and user == record.user:
            is_live = self.enrol(key, record, instead=old) is not None
        else:
            is_live = user == NO_USER or self._is_member(old, user)
        self.replace(held, Session(name, record) if is_live else None)
        if is_live and user != NO_USER and (user != record.user or old != key):
            self.leave(user, old)
        return is_live

    def _find_provisional(self, held: Held, stamp: str) -> Held | Gone:
        """Returns a session that a rotation has left provisional, if its decision was made."""
        old = held.session.old
        grave = None if old == held.key else self._grave(old)
        is_decided = old == held.key or (grave and grave.stamp == held.record.stamps[0])
        if not is_decided or not self._settle(held):
            return Gone(Reason.UNKNOWN)
        return self.find(held.key, stamp)

    def _grave(self, key: str) -> Ending | None:
        found = loads(self.line(key).read(self._of_key(key))[0])
        return found.ending if isinstance(found, Tombstone) else None

    # -- names ----------------------------------------------------------------------------------

    def name(self, of: str) -> bytes:
        """Returns the name of an item on its server."""
        return b"%b:%b" % (self._prefix, of.encode())

    def _of_key(self, key: str) -> bytes:
        return self.name(f"s:{key}")

    def _of_user(self, user: str) -> bytes:
        return self.name(f"u:{user}")
