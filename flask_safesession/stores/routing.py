"""Where a session is: which shard to ask, what to do when the number of shards is being changed.

The layout is learned once, and from answers: a shard that a session does not belong to says so. Who
meets a session on its way to another shard sends it on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ..errors import ConfigError, StoreUnavailable
from .base import UNKNOWN, Gone, Live, Rules, Taken
from .connections import deadline
from .layout import NONE, Layout
from .shard import Shard
from .wire import LEAVING, Elsewhere, Successor, Theirs

# How often a session, or the layout, is followed before the call gives up.
_HOPS = 20
_T = TypeVar("_T")


class Router:
    """Finds the shard for a key.

    :param shards: all that there can be, in order.
    :param asked: how many the settings say.
    :param timeout: seconds that one operation may take, however many shards it asks.
    """

    def __init__(self, shards: list[Shard], asked: int, timeout: float) -> None:
        self.shards = shards
        self._asked = asked
        self._timeout = timeout
        # One shard is what a store is that says nothing else; others have to be looked up.
        self._layout = NONE if asked == 1 else None
        self._verified = False
        self._shared: tuple[Rules | None, int, Any] = (None, 0, None)

    def in_use(self) -> list[Shard]:
        """The shards that may hold sessions: as the store says, or as is known if it is down.

        :raises StoreUnavailable: it is down, and nothing is known yet.
        """
        with suppress(StoreUnavailable):
            self.look_up()
        return self.shards[: self.known().shards]

    def known(self) -> Layout:
        """The layout as this process knows it; the store is asked if it does not."""
        return self._layout or self.look_up()

    def look_up(self) -> Layout:
        """The layout as the store has it.

        :raises ConfigError: this process was started for another number of shards.
        """
        known = self._layout if self._verified and self._layout else None
        if known and known.shards > 1:  # put back what a server has lost
            return self._learn(self.shards[0].layout(known.dumps(), "sure") or known)
        wanted = Layout.of(self._asked).dumps() if self._asked > 1 else ""
        return self._learn(self.shards[0].layout(wanted) or NONE)

    def _learn(self, layout: Layout) -> Layout:
        """Go by *layout* from here on, if it is newer than what is known.

        :raises ConfigError: this process was started for another number of shards.
        """
        if not self._verified and self._asked not in (layout.before, layout.after):
            mend = (
                "run `flask safesession reshard`, which moves them while the others go on, or set"
                f" it to {layout.before}"
            )
            where = f"SAFESESSION_SHARDS is {self._asked}, but the sessions are in {layout.before}"
            raise ConfigError([f"{where}: {mend}"])
        self._verified = True
        if self._layout is None or layout.epoch > self._layout.epoch:
            self._layout = layout
        return self._layout

    def share(self, rules: Rules, layout: Layout) -> Rules:
        """*rules* for one shard."""
        if layout.shares == 1:
            return rules
        known, shares, share = self._shared
        if known is not rules or shares != layout.shares:
            share = rules._replace(cap=rules.cap.share(layout.shares))
            self._shared = (rules, layout.shares, share)
        return share  # type: ignore[no-any-return]

    def where_it_is(self, key: str, ask: Callable[[Shard], _T | Elsewhere]) -> _T | Gone:
        """What the shard answers that has the session; ``Gone`` if none has."""
        begun = time.monotonic()
        if self._layout is not None and self._layout.shards == 1:
            # The usual case, without a look at the key; the one call there is has a deadline.
            answer = ask(self.shards[0])
            if not isinstance(answer, Elsewhere):
                return answer
        with deadline(self._timeout + begun - time.monotonic()):
            for _ in range(_HOPS):
                found = self._in_turn(self.known(), key, ask)
                if found is not None:
                    return found
        raise StoreUnavailable("the number of shards keeps changing")

    def wherever_it_is(
        self, key: str, ask: Callable[[Shard, str], _T | Elsewhere | Successor]
    ) -> _T | Gone:
        """As above, and where it was taken by rotations that were no login."""
        first: Successor | None = None
        with deadline(self._timeout):
            for _ in range(_HOPS):
                answer: Any = self.where_it_is(key, partial(_swapped, ask, key))
                if not isinstance(answer, Successor):
                    if first is not None and _is_absent(answer):
                        answer = first.answer
                    return answer  # type: ignore[no-any-return]
                first, key = answer, answer.key
        raise StoreUnavailable("the session keeps moving")

    def of_user(self, user: str, ask: Callable[[Shard], Theirs]) -> list[Theirs]:
        """What the shards say that may have sessions of the user with that tag, all of them."""
        found: list[Theirs] = []
        with deadline(self._timeout):
            for _ in range(_HOPS):
                layout = self.known()
                for number in layout.places(user):
                    found.append(ask(self.shards[number]))
                    self._learn(found[-1].layout or NONE)
                if self._layout is layout:
                    return found
        raise StoreUnavailable("the number of shards keeps changing")

    def _in_turn(
        self, layout: Layout, key: str, ask: Callable[[Shard], _T | Elsewhere]
    ) -> _T | Gone | None:
        """As above; ``None``: the layout is another one by now."""
        for number in layout.places(key):
            answer = ask(self.shards[number])
            if isinstance(answer, Elsewhere):
                if self._learn(answer.layout or self._layout_at(number)) is not layout:
                    return None
                if answer.layout is None and not self._send_on(key, layout):
                    return None
            elif not _is_absent(answer):
                return answer
        return Gone(UNKNOWN)

    def at_home(
        self, key: str, create: Callable[[Shard, Rules], Live | Taken | Elsewhere], rules: Rules
    ) -> Live | Taken:
        """What the shard answers in which a new session with *key* belongs."""
        with deadline(self._timeout):
            for _ in range(_HOPS):
                layout = self.known()
                answer = create(self.shards[layout.home(key)], self.share(rules, layout))
                if isinstance(answer, Live):
                    return answer._replace(total=answer.total * layout.shares)
                if isinstance(answer, Taken):
                    return answer
                self._learn(answer.layout or layout)
        raise StoreUnavailable("the number of shards keeps changing")

    def _send_on(self, key: str, layout: Layout) -> bool:
        """Finish a move whose mover is slow, or gone; whether the layout was the right one."""
        old, new = (self.shards[number] for number in layout.places(key))
        raw = old.record(key)
        if not raw.startswith(LEAVING):
            return True  # it has just been done
        if not new.arrive(layout.epoch, "", [(key, raw)]):
            self._learn(new.layout(layout.dumps()) or layout)  # put back, if a server has lost it
            return False
        old.forget(layout.epoch, [key])
        return True

    def _layout_at(self, number: int) -> Layout:
        return self.shards[number].layout() or NONE


def _swapped(ask: Callable[[Shard, str], _T], key: str, shard: Shard) -> _T:
    return ask(shard, key)


def _is_absent(answer: object) -> bool:
    return isinstance(answer, Gone) and answer.reason == UNKNOWN and not answer.buried
