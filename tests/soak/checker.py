"""Whether a history keeps the promises: no one else's data, nothing back, nothing lost.

Each request with a cookie had loaded its session somewhere between its start and its end. From the
other requests follows what it may have found, whatever the order in which the server did them. Only
what no order explains is a violation; so a client that was told nothing excuses much, and one that
was told something excuses nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

from .answers import check_answers
from .history import (
    ENDING,
    FAILOVER,
    FLOOD,
    FOLLOWING,
    LOGIN,
    PEEK,
    REGENERATE,
    STRANGER,
    TIER_KEY,
    Exchange,
    History,
    Violation,
)
from .lives import Found, Life, Write, ends, lives_of
from .state import check_samples

SERIES = 23
"""Characters of a cookie that name the session; its secret follows."""
STUCK = 5.0
"""Seconds that a command of a request which has failed may lie in a stopped server's socket."""
LAG = 2.0
"""Seconds of acknowledged writes that a failover may lose."""
ROUNDING = 0.05
"""Seconds by which the clocks of the store and of this process may run apart over a session."""


def check(history: History) -> list[Violation]:
    """All that must not be."""
    exchanges = [replace(x, sent=_session(x.sent), got=_session(x.got)) for x in history.exchanges]
    history = replace(history, exchanges=exchanges)
    sessions = _Sessions(history)
    answers = check_answers(history, sessions.is_over)
    return [*sessions.violations(), *answers, *check_samples(history)]


def _session(cookie: str | None) -> str | None:
    """What cookies of one session have in common: each answer to a double click has a secret."""
    return cookie and cookie[:SERIES]


class _Sessions:
    """The checks that look at several requests at once."""

    def __init__(self, history: History) -> None:
        self._limits = history.limits
        self._lives = lives_of(history.exchanges)
        self._exchanges = [x for x in history.exchanges if x.done]
        self._crowds = [fault for fault in history.faults if fault.kind == FLOOD]
        self._failovers = [fault for fault in history.faults if fault.kind == FAILOVER]
        self._logins: dict[str, list[Exchange]] = defaultdict(list)
        self._owners: dict[str, str] = {}
        for x in history.exchanges:
            self._owners.update({v: x.user for v in x.writes.values() if v})
            if x.kind == LOGIN:
                self._logins[x.user].append(x)
        self._told: set[tuple[object, ...]] = set()

    def _first(self, *what: object) -> bool:
        """Whether this was not told before: what is lost once is missing ever after."""
        new = what not in self._told
        self._told.add(what)
        return new

    def violations(self) -> Iterator[Violation]:
        for x in self._exchanges:
            life = self._lives.get(x.sent or "")
            if x.data:
                yield from self._whose(x, life)
            if life is not None:
                yield from self._found(x, life)

    def _found(self, x: Exchange, life: Life) -> Iterator[Violation]:
        found = life.stand_ins.found(x)
        if found is Found.OWN and x.served:
            yield from self._ended(x, life)
            yield from self._values(x, life)
        elif found in (Found.NOTHING, Found.STAND_IN):
            yield from self._gone(x, life, "signed out", "it was not there any more")
            yield from self._stood_in(x, life)
        if found is Found.OWN and x.lost:
            yield from self._gone(x, life, "dropped", "a change was dropped")

    def is_over(self, x: Exchange) -> bool:
        """Whether *x* came with the cookie of a session that is, or may be, over: it costs more.

        So does the first use after a double click, which notes the secret that has arrived.
        """
        life = self._lives.get(x.sent or "")
        if life and life.clicked_twice and not self._came_back(x, life):
            return True
        found = life.stand_ins.found(x) if life else Found.NOTHING
        return bool(x.sent) and (found is not Found.OWN or not x.done)

    # -- whose data it is -----------------------------------------------------------------------

    def _whose(self, x: Exchange, life: Life | None) -> Iterator[Violation]:
        known = (life.story.writes, life.stand_ins.writes) if life else ()
        for key, value in (x.data or {}).items():
            if key == TIER_KEY or any(w.value == value for of in known for w in of.get(key, ())):
                continue
            owner = self._owners.get(value)
            if owner is None:
                yield Violation("made-up data", f"{key} = {value!r}, which nobody wrote: {x}")
            elif owner != x.user:
                yield Violation("another user's data", f"{key} is {owner}'s: {x}")
            else:
                yield Violation("another session's data", f"{key} = {value!r}: {x}")

    # -- what has ended -------------------------------------------------------------------------

    def _ended(self, x: Exchange, life: Life) -> Iterator[Violation]:
        if x.start > life.over and self._first("ended", life.cookie):
            text = f"over since {life.over:.3f}: {x}"
            lost = self._lost_by_failover(life, x) and not self._was_confirmed(life.ended_by)
            yield Violation("ended came back", text, lost)
        why = self._outlived(x, life)
        if why and self._first("outlived", life.cookie):
            yield Violation("outlived", f"{why}: {x}")

    def _outlived(self, x: Exchange, life: Life) -> str:
        """Which limit the session must have reached before *x* began; or nothing."""
        limits, tier = self._limits, life.tier
        if x.start > life.clock.end + limits.lifetime[tier] + ROUNDING:
            return f"its lifetime of {limits.lifetime[tier]} s was over"
        sliding = (u for u in life.uses if u is not x and u.kind != PEEK and u.start < x.end)
        last = max((_latest(u) for u in sliding), default=life.birth.end)
        if x.start > max(last, life.birth.end) + limits.idle[tier] + ROUNDING:
            return f"it was idle for more than {limits.idle[tier]} s"
        return ""

    # -- what was written -----------------------------------------------------------------------

    def _values(self, x: Exchange, life: Life) -> Iterator[Violation]:
        data = x.data or {}
        for key, writes in life.story.writes.items():
            found = [w for w in writes if w.value == data.get(key)]
            if not found:
                continue  # not its own: see _whose
            later = [_overwriting(w, writes, x) for w in found]
            if all(later) and self._first("lost", id(later[-1])):
                text = f"{key} = {data.get(key)!r}, but {later[-1]} was there before: {x}"
                yield Violation("lost write", text, self._lost_by_failover(life, x))

    def _stood_in(self, x: Exchange, life: Life) -> Iterator[Violation]:
        """What stands in for a session loses nothing, and what it has lost does not come back."""
        stand_ins, data = life.stand_ins, x.data or {}
        for key, writes in stand_ins.writes.items():
            for write in (w for w in writes if w.value in stand_ins.certain):
                is_there = data.get(key) == write.value
                if is_there and (by := self._missed(x, life, key, write)):
                    yield Violation("ended came back", f"{write} was gone for {by}: {x}")
                if is_there or write.sure >= x.start or self._is_past(x, life, write, writes):
                    continue
                if self._first("lost", id(write)):
                    text = f"{key}: {write} was there: {x}"
                    yield Violation("lost write", text, self._lost_by_failover(life, x))

    def _missed(self, x: Exchange, life: Life, key: str, write: Write) -> Exchange | None:
        """A request before *x* that did not find what was there already."""
        before = (u for u in life.uses if u.done and write.sure < u.start and u.end < x.start)
        told = (u for u in before if life.stand_ins.found(u) in (Found.NOTHING, Found.STAND_IN))
        return next((u for u in told if (u.data or {}).get(key) != write.value), None)

    def _is_past(self, x: Exchange, life: Life, write: Write, writes: list[Write]) -> bool:
        """Whether *write* may have been overwritten, or what it went to may have ended."""
        uses = [u for u in life.uses if u is not x and u.start < x.end]
        if any(w is not write and w.end > write.start and w.start < x.end for w in writes):
            return True
        if any((ends(u) or u.got) and _latest(u) > write.start for u in uses):
            return True
        found = (u for u in uses if u.end <= x.start and u.served and u.kind != PEEK)
        seen = max(
            [write.start, *(u.start for u in found if write.value in (u.data or {}).values())]
        )
        stays = self._limits.idle[STRANGER] - self._limits.touch[STRANGER]
        return x.end + ROUNDING > seen + stays or self._is_crowded(seen, x)

    # -- what is not there ----------------------------------------------------------------------

    def _gone(self, x: Exchange, life: Life, kind: str, what: str) -> Iterator[Violation]:
        excuses: tuple[Callable[[Exchange, Life], bool], ...] = (
            self._someone_ended_it,
            self._timed_out,
            self._made_room_for_the_same_user,
            self._made_room_for_a_crowd,
        )
        if x.end > life.over or any(excuse(x, life) for excuse in excuses):
            return
        yield Violation(kind, f"{what}, without a reason: {x}", self._lost_by_failover(life, x))

    def _someone_ended_it(self, x: Exchange, life: Life) -> bool:
        if any(u is not x and ends(u) and u.start < x.end for u in life.uses):
            return True
        before = life.predecessor
        while before is not None:
            if any(u.kind in FOLLOWING and u.start < x.end for u in before.uses):
                return True
            before = before.predecessor
        return False

    def _timed_out(self, x: Exchange, life: Life) -> bool:
        idle, touch = self._limits.idle[life.tier], self._limits.touch[life.tier]
        by_age = life.begun + self._limits.lifetime[life.tier]
        return x.end + ROUNDING > min(by_age, self._seen(x, life) + idle - touch)

    def _seen(self, x: Exchange, life: Life) -> float:
        """When a request that surely was before *x* began, and found the session."""
        return max(self._came_back(x, life), default=life.birth.start)

    def _came_back(self, x: Exchange, life: Life) -> list[float]:
        """When requests began that surely were before *x*, and used the session."""
        before = (u for u in life.uses if u.end <= x.start and u.served and u.kind != PEEK)
        return [u.start for u in before if life.stand_ins.found(u) is Found.OWN]

    def _made_room_for_the_same_user(self, x: Exchange, life: Life) -> bool:
        """Whether the user may have had too many sessions that stay for longer than this one."""
        if life.tier == STRANGER:
            return False
        seen = self._seen(x, life)
        others = (y for y in self._logins[x.user] if y is not life.clock and y.start < x.end)
        stay = (y for y in others if self._stays_longer(y, x, life))
        return sum(not self._is_over(y, seen) for y in stay) >= self._limits.per_user

    def _stays_longer(self, login: Exchange, x: Exchange, life: Life) -> bool:
        """Whether that session may be evicted after *life*.

        Those whose cookie never came back go first, the oldest of them before the others; then
        the one that was not used for the longest.
        """
        its = self._lives.get(login.got or "")
        lives = [one for one in its.story.lives if one.clock is login] if its else []
        uses = [u for one in lives for u in (one.birth, *one.uses)]
        never_back = not self._came_back(x, life)
        noted = self._seen(x, life) - self._limits.touch[life.tier]
        used_later = max((_latest(u) for u in (login, *uses)), default=login.end) > noted
        return used_later or (never_back and any(one.uses for one in lives))

    def _is_over(self, login: Exchange, at: float) -> bool:
        """Whether no session of *login* can have been left at that time."""
        life = self._lives.get(login.got or "")
        if login.done and life is None:
            return True  # it has made none
        if life is None:
            return _latest(login) + max(self._limits.idle.values()) < at
        return all(self._is_dead(one, at) for one in life.story.lives if one.clock is login)

    def _is_dead(self, life: Life, at: float) -> bool:
        idle = self._limits.idle[life.tier]
        if any(u.kind == REGENERATE and not u.done and _latest(u) + idle > at for u in life.uses):
            return False  # it may go on under an ID that nobody was told
        return life.over <= at or max(_latest(u) for u in (life.birth, *life.uses)) + idle < at

    def _made_room_for_a_crowd(self, x: Exchange, life: Life) -> bool:
        """Strangers are evicted for others while the store is full."""
        if life.tier != STRANGER:
            return False
        return self._is_crowded(self._seen(x, life), x)

    def _is_crowded(self, seen: float, x: Exchange) -> bool:
        """Whether anonymous sessions were evicted between then and *x*."""
        stays = self._limits.idle[STRANGER] + STUCK
        return any(crowd.start < x.end and crowd.end + stays > seen for crowd in self._crowds)

    def _lost_by_failover(self, life: Life, x: Exchange) -> bool:
        """Whether something of the story was acknowledged shortly before a failover."""
        uses = [u for one in life.story.lives for u in (one.birth, *one.uses) if u is not x]
        return any(
            failover.start < x.end and failover.start - LAG < u.end and u.start < failover.end
            for failover in self._failovers
            for u in uses
        )

    def _was_confirmed(self, end: Exchange | None) -> bool:
        """Whether the replicas knew of this end, so that no failover can excuse its undoing."""
        waited = self._limits.wait_replicas > 0
        return waited and end is not None and end.kind in ENDING and not end.unconfirmed


def _latest(x: Exchange) -> float:
    """Until when *x* may have had an effect on the store."""
    return x.end if x.done else x.end + STUCK


def _overwriting(write: Write, writes: list[Write], x: Exchange) -> Write | None:
    """What came after *write*, and was there before *x* began."""
    later = (w for w in writes if w.start > write.end and w.sure < x.start)
    return next(later, None)
