"""The sessions of a history: which cookies were one session, what was written to it, when it ended.

A *life* is a session under one ID. A rotation begins another life of the same *story*: the same
data goes on. When a life is over, what is written with its cookie goes to anonymous sessions that
*stand in* for it, without a cookie of their own. Nothing here trusts the application with more than
who followed whom; the checker finds out whether the data agrees.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf

from .history import (
    ENDING,
    FOLLOWING,
    LOGIN,
    REGENERATE,
    STRANGER,
    SWAP,
    TIER_KEY,
    USER_KEY,
    Exchange,
)

FOLLOWED = 50.0
"""Seconds for which a rotation surely leaves word of where the session went: a minute or so."""


@dataclass
class Write:
    """A value that was sent to a story. ``sure``: from then on it, or a later one, is there."""

    value: str | None
    start: float = -inf
    end: float = -inf
    sure: float = -inf


def _nothing() -> list[Write]:
    """What was written under a key before anything was."""
    return [Write(None)]


@dataclass
class Story:
    """One session's data through all its IDs: by key, all that was ever sent to it."""

    writes: dict[str, list[Write]] = field(default_factory=lambda: defaultdict(_nothing))
    lives: list[Life] = field(default_factory=list)


class Found(Enum):
    """What a request with a cookie has found."""

    OWN = "the session of the cookie"
    NOTHING = "no session, or an empty one"
    STAND_IN = "a session that stands in for it"
    EITHER = "only what failed requests have written, to the one or the other"


@dataclass
class StandIns:
    """The sessions that stand in for one cookie, one after the other.

    :param writes: what was written to them, or may have been.
    :param certain: the values of those writes that went nowhere else.
    """

    writes: dict[str, list[Write]] = field(default_factory=lambda: defaultdict(list))
    certain: set[str] = field(default_factory=set)

    def found(self, x: Exchange) -> Found:
        """Returns what *x* has found; what it does not say counts as the session itself."""
        if x.data == {}:
            return Found.NOTHING
        data = x.data or {}
        if (
            not data
            or USER_KEY in data
            or TIER_KEY in data
            or not all(map(self._is_known, data.items()))
        ):
            return Found.OWN
        return Found.STAND_IN if self.certain & set(data.values()) else Found.EITHER

    def _is_known(self, item: tuple[str, str]) -> bool:
        key, value = item
        return any(write.value == value for write in self.writes.get(key, ()))


@dataclass
class Life:
    """One cookie's session.

    :param birth: the request that was answered with the cookie.
    :param clock: the login, or the creation, at which its lifetime began.
    :param uses: all requests that came with the cookie.
    :param begun: when its lifetime began at the earliest.
    :param stand_ins: what stands in for it when it is over.
    :param successors: what rotations without a login made of it.
    :param over: when a client was first told that it has ended, and by which answer.
    :param clicked_twice: two logins have set its cookie, each with a secret of its own.
    """

    cookie: str
    birth: Exchange
    clock: Exchange
    tier: str
    story: Story
    begun: float
    stand_ins: StandIns = field(default_factory=StandIns)
    predecessor: Life | None = None
    uses: list[Exchange] = field(default_factory=list)
    successors: list[Life] = field(default_factory=list)
    over: float = inf
    ended_by: Exchange | None = None
    clicked_twice: bool = False

    def end(self, by: Exchange) -> None:
        """Note that a client was told of its end."""
        if by.end < self.over:
            self.over, self.ended_by = by.end, by


def lives_of(exchanges: Iterable[Exchange]) -> dict[str, Life]:
    """All lives, by their cookies."""
    ordered = sorted(exchanges, key=lambda x: x.end)
    stand_ins = _stand_ins_of(ordered)
    lives: dict[str, Life] = {}
    for x in ordered:
        if x.done and x.got:
            parent = lives.get(x.sent or "") if x.rotated else None
            if x.got in lives and not _found_own(x, parent):
                lives[x.got].clicked_twice = True  # and goes on in the first one's session
                continue
            clicked_twice = x.got in lives
            lives[x.got] = _born(x, parent)
            lives[x.got].clicked_twice = clicked_twice
            lives[x.got].stand_ins = stand_ins.get(x.got, StandIns())
    for x in ordered:
        if x.sent in lives:
            lives[x.sent].uses.append(x)
    for x in ordered:
        _write_down(x, lives)
    for x in ordered:
        _notice(x, lives)
    for life in list(lives.values()):
        _bury(life)
    return lives


def _stand_ins_of(exchanges: Iterable[Exchange]) -> dict[str, StandIns]:
    """What stands in for each cookie: what found nothing began it, and what found that went on."""
    writers: dict[str, list[Exchange]] = defaultdict(list)
    for x in exchanges:
        if x.sent and x.writes and not x.got and not x.lost:
            writers[x.sent].append(x)
    return {cookie: _stand_ins(uses) for cookie, uses in writers.items()}


def _stand_ins(writers: list[Exchange]) -> StandIns:
    made, waiting = StandIns(), writers
    while True:
        found = {id(x): made.found(x) if x.done else Found.EITHER for x in waiting}
        ready = [x for x in waiting if found[id(x)] is not Found.OWN]
        if not ready:
            return made
        for x in ready:
            for key, value in x.writes.items():
                if key not in (USER_KEY, TIER_KEY):
                    made.writes[key].append(_write(x, value))
            if found[id(x)] is not Found.EITHER:
                made.certain.update(filter(None, x.writes.values()))
        waiting = [x for x in waiting if found[id(x)] is Found.OWN]


def _write(x: Exchange, value: str | None) -> Write:
    """That *x* wrote this, or may have."""
    return Write(value, x.start, inf if x.status is None else x.end, x.end if x.done else inf)


def _found_own(x: Exchange, parent: Life | None) -> bool:
    return parent is not None and parent.stand_ins.found(x) is Found.OWN


def _born(x: Exchange, parent: Life | None) -> Life:
    if parent and (found := parent.stand_ins.found(x)) is not Found.OWN:
        return _born_of_stand_in(x, parent, found)
    story = parent.story if parent else Story()
    goes_on = parent is not None and x.kind == REGENERATE
    clock, tier = (parent.clock, parent.tier) if parent and goes_on else (x, _tier(x))
    life = Life(x.got or "", x, clock, tier, story, clock.start)
    story.lives.append(life)
    if parent and goes_on:
        life.begun = parent.begun
        life.predecessor = parent
        parent.successors.append(life)
    return life


def _born_of_stand_in(x: Exchange, parent: Life, found: Found) -> Life:
    """What stood in for *parent* has got a cookie of its own, with what was in it."""
    story = Story()
    sources = [parent.stand_ins.writes, parent.story.writes if found is Found.EITHER else {}]
    for key, writes in ((key, writes) for source in sources for key, writes in source.items()):
        for write in writes:
            is_there = (x.data or {}).get(key) == write.value
            story.writes[key].append(replace(write, sure=x.end if is_there else inf))
    starts = [write.start for writes in story.writes.values() for write in writes[1:]]
    begun = x.start if x.kind == LOGIN else min([x.start, *starts])
    life = Life(x.got or "", x, x, _tier(x), story, begun)
    story.lives.append(life)
    return life


def _tier(x: Exchange) -> str:
    return str(x.writes.get(TIER_KEY)) if x.kind == LOGIN else STRANGER


def _write_down(x: Exchange, lives: dict[str, Life]) -> None:
    """Add what *x* wrote, or may have written, to the story that it went to."""
    if x.lost:
        return
    found = Found.OWN
    if x.done and x.got:
        life = lives[x.got]
    elif x.sent in lives and x.kind != SWAP:
        life = lives[x.sent]
        found = life.stand_ins.found(x)
    else:
        return  # nobody was told of a cookie for it
    if found in (Found.STAND_IN, Found.NOTHING):
        return
    for key, value in x.writes.items():
        write = _write(x, value)
        write.sure = write.sure if found is Found.OWN else inf
        life.story.writes[key].append(write)


def _notice(x: Exchange, lives: dict[str, Life]) -> None:
    """What somebody has seen was stored by then, whatever its writer was told."""
    if not (x.served and x.sent in lives):
        return
    life = lives[x.sent]
    if life.stand_ins.found(x) is not Found.OWN:
        return
    for key, value in (x.data or {}).items():
        for write in life.story.writes.get(key, ()):
            if write.value == value and key not in _NOT_UNIQUE:
                write.sure = min(write.sure, x.end)


_NOT_UNIQUE = (TIER_KEY, "user_id")


def _bury(life: Life) -> None:
    for x in life.uses:
        found = life.stand_ins.found(x)
        if x.done and (ends(x) or found in (Found.NOTHING, Found.STAND_IN)):
            life.end(x)
        if x.done and x.kind in FOLLOWING:
            _follow(life, x)


def ends(x: Exchange) -> bool:
    """Whether *x* ends the session of its cookie, or takes it to another.

    A login of the same user within a minute of the last one, and one that joins another, is
    answered without a cookie: it ends nothing itself.
    """
    return x.kind in ENDING and not (x.kind == LOGIN and x.done and x.got is None)


def _follow(life: Life, x: Exchange) -> None:
    for successor in life.successors:
        if successor.birth.start > x.start - FOLLOWED:
            successor.end(x)
            _follow(successor, x)
