"""The sessions of a history: which cookies were one session, what was written to it, when it ended.

A *life* is a session under one ID. A rotation begins another life of the same *story*: the same
data goes on. Nothing here trusts the application with more than who followed whom; the checker
finds out whether the data agrees.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from .history import (
    ENDING,
    FOLLOWING,
    LOGIN,
    REGENERATE,
    STRANGER,
    SWAP,
    TIER_KEY,
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


@dataclass
class Life:
    """One cookie's session.

    :param birth: the request that was answered with the cookie.
    :param clock: the login, or the creation, at which its lifetime began.
    :param uses: all requests that came with the cookie.
    :param successors: what rotations without a login made of it.
    :param over: when a client was first told that it has ended, and by which answer.
    """

    cookie: str
    birth: Exchange
    clock: Exchange
    tier: str
    story: Story
    predecessor: Life | None = None
    uses: list[Exchange] = field(default_factory=list)
    successors: list[Life] = field(default_factory=list)
    over: float = inf
    ended_by: Exchange | None = None

    def end(self, by: Exchange) -> None:
        """Note that a client was told of its end."""
        if by.end < self.over:
            self.over, self.ended_by = by.end, by


def lives_of(exchanges: Iterable[Exchange]) -> dict[str, Life]:
    """All lives, by their cookies."""
    ordered = sorted(exchanges, key=lambda x: x.end)
    lives: dict[str, Life] = {}
    for x in ordered:
        if x.done and x.got:
            lives[x.got] = _born(x, lives.get(x.sent or "") if x.rotated else None)
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


def _born(x: Exchange, parent: Life | None) -> Life:
    story = parent.story if parent else Story()
    goes_on = parent is not None and x.kind == REGENERATE
    clock, tier = (parent.clock, parent.tier) if parent and goes_on else (x, _tier(x))
    life = Life(x.got or "", x, clock, tier, story)
    story.lives.append(life)
    if parent and goes_on:
        life.predecessor = parent
        parent.successors.append(life)
    return life


def _tier(x: Exchange) -> str:
    return str(x.writes.get(TIER_KEY)) if x.kind == LOGIN else STRANGER


def _write_down(x: Exchange, lives: dict[str, Life]) -> None:
    """Add what *x* wrote, or may have written, to the story that it went to."""
    if x.lost:
        return
    if x.done and x.got:
        life = lives[x.got]
    elif x.sent in lives and x.kind != SWAP:
        life = lives[x.sent]
    else:
        return  # nobody was told of a cookie for it
    for key, value in x.writes.items():
        end = inf if x.status is None else x.end
        life.story.writes[key].append(Write(value, x.start, end, x.end if x.done else inf))


def _notice(x: Exchange, lives: dict[str, Life]) -> None:
    """What somebody has seen was stored by then, whatever its writer was told."""
    if not (x.served and x.sent in lives):
        return
    for key, value in (x.data or {}).items():
        for write in lives[x.sent].story.writes.get(key, ()):
            if write.value == value and key not in _NOT_UNIQUE:
                write.sure = min(write.sure, x.end)


_NOT_UNIQUE = (TIER_KEY, "user_id")


def _bury(life: Life) -> None:
    for x in life.uses:
        if x.done and (x.kind in ENDING or x.data == {}):
            life.end(x)
        if x.done and x.kind in FOLLOWING:
            _follow(life, x)


def _follow(life: Life, x: Exchange) -> None:
    for successor in life.successors:
        if successor.birth.start > x.start - FOLLOWED:
            successor.end(x)
            _follow(successor, x)
