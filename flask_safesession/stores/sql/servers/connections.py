"""Transactions on a SQL server: two round trips each, whatever the engine asks for in between.

The first one begins the transaction, locks what it is about, and reads all that the engine will
probably ask for. The engine's writes are collected. The second one sends them, with the COMMIT. A
question whose answer was not read ahead, or may have changed by a write since, costs another.

The creation of an anonymous session is one round trip, where its part has room: it needs to know
nothing that a condition of its ``INSERT`` cannot check once the part is locked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ....errors import StoreFull, TooManySessions
from ...base import Cap
from ...remote.time import ServerTime
from ...tables import Scope, TooNarrow
from ..connections import FULL, Call, Place, has_quotas
from ..schema import PARTS
from ..seen import held_by_group
from ..statements import Statements
from .lines import Line
from .locks import part_of, place_of, quotas
from .pool import Pool

#: Seconds of idleness after which a connection may be lost unnoticed: firewalls drop it silently.
TRUSTED = 10.0
# After these the transaction is undone, and its connection is as good as before.
_HARMLESS = (TooNarrow, StoreFull, TooManySessions)


class Transaction:
    """A transaction of one thread: its answers until now, and the writes that were not yet sent."""

    def __init__(self, line: Line, place: Place) -> None:
        self.place = place
        self._line = line
        self._answers: dict[Call, list[Any]] = {}
        self._writes: list[Call] = []

    def fetch(self, calls: Sequence[Call]) -> None:
        """Send the writes until now, and read all this."""
        new = [call for call in calls if call not in self._answers]
        if new:
            answers = self._line.run([*self._writes, *new])[len(self._writes) :]
            self._writes.clear()
            self._answers |= {call: answer.rows for call, answer in zip(new, answers, strict=True)}

    def read(self, call: Call) -> list[Any]:
        """Returns the rows of a query, as they are after the writes until now."""
        self.fetch([call])
        return self._answers[call]

    def write(self, call: Call) -> None:
        """Note a statement. What has been read of its table is valid no longer."""
        self._writes.append(call)
        table = _TABLE.search(call[0])
        stale = [read for read in self._answers if table and table[0] in read[0]]
        for read in stale:
            del self._answers[read]

    def commit(self) -> None:
        """Send the writes that are left, and the end."""
        self._line.run([*self._writes, ("COMMIT", ())])


_TABLE = re.compile('"[^"]*"')


class Attempts:
    """What the tries of one call have found out."""

    def __init__(self) -> None:
        self.current: Transaction | None = None
        #: Keys that the transaction must lock, too; ``None``: everything.
        self.wider: set[str] | None = set()
        #: A commit was sent that was not answered.
        self.may_be_done = False


#: Of one thread or greenlet. Not a threading.local, which greenlets share if gevent patches late.
attempts_of_call: ContextVar[Attempts] = ContextVar("attempts")


class Connections:
    """See :class:`..connections.Connections`.

    :param begin: the statements that begin a transaction.
    :param elapsed: see :class:`...remote.time.ServerTime`.
    :param implicit: see :class:`.lines.Driver`.
    """

    def __init__(
        self,
        pool: Pool,
        statements: Statements,
        begin: Sequence[str],
        elapsed: Callable[[], float] = time.monotonic,
        *,
        implicit: bool = False,
    ) -> None:
        self.statements: Statements = statements
        self._pool = pool
        self._begin: list[Call] = [(statement, ()) for statement in begin]
        # Around the statements of a transaction in one round trip.
        self._first = self._begin[1:] if implicit else self._begin
        self._last: list[Call] = [] if implicit else [("COMMIT", ())]
        self._full_until = 0.0
        #: What it was in the last answer; ``None``: it is not known yet.
        self.generation: int | None = None
        self._time = ServerTime(elapsed)
        #: See :meth:`...direct.Single.guess`.
        self.guess: Callable[[], int | None] = self._time.guess

    @property
    def local(self) -> Attempts:
        """What concerns the call of this thread or greenlet."""
        return attempts_of_call.get()

    def widen(self, keys: Collection[str] | None) -> None:
        """Let the next try of this call lock more: *keys*, or everything."""
        wider = self.local.wider
        self.local.wider = None if keys is None or wider is None else {*wider, *keys}

    # -- one statement --------------------------------------------------------------------------

    def look_up(self, key: str) -> tuple[bytes, int, int] | None:
        """Returns the record under *key*, the current generation and the time, by one query."""
        with self._pool.line() as line:
            [answer] = line.run([(self.statements["load"], (key,))])
        if not answer.rows:
            return None
        found: tuple[bytes, int, int] = answer.rows[0]
        self.note(*found[1:])
        return found

    def change(self, call: Call) -> bool:
        """Run a statement that is a transaction of its own. Returns whether it changed a row."""
        with self._pool.line() as line, self._uncertain():
            return line.run([call])[0].changed > 0

    def insert(self, part: int, calls: Sequence[Call]) -> bool:
        """See :meth:`..connections.Connections.insert`. One round trip.

        It is not made on a connection that was idle for long: if that is lost, only a query can be
        repeated.

        :raises Lost: it is not known whether that was done, unless the connection had ended before.
        """
        lock: Call = self.statements["lock"], (part,)
        with self._pool.line() as line:
            if time.monotonic() - line.idle_since > TRUSTED:
                return False
            line.check()
            with self._uncertain():
                results = line.run([*self._first, lock, *calls, *self._last])
        return results[len(self._first) + len(calls)].changed > 0

    # -- transactions ---------------------------------------------------------------------------

    def place(self, scope: Scope) -> Place:
        """See :meth:`..connections.Connections.place`."""
        if scope.cap and self._is_full:
            self.local.wider = None  # the store was full a moment ago: a quota would not do
        return place_of(scope, self.local.wider)

    @contextmanager
    def transaction(
        self, place: Place, ahead: Sequence[Call], *, writes: bool, durable: bool
    ) -> Iterator[None]:
        """See :meth:`..connections.Connections.transaction`.

        The server's settings decide when it writes to its disk.
        """
        del durable
        local, failure = self.local, None
        with self._pool.line() as line:
            local.current = current = Transaction(line, place)
            try:
                current.fetch([*self._begin, self._locked(), *ahead] if writes else ahead)
                yield
                if writes:
                    with self._uncertain():
                        current.commit()
            except _HARMLESS as error:
                line.run([("ROLLBACK", ())])
                failure = error
            finally:
                local.current = None
        if failure is not None:
            raise failure

    def read(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """See :meth:`..connections.Connections.read`."""
        return self._current.read((statement, parameters))

    def fetch(self, calls: Sequence[Call]) -> None:
        """See :meth:`..connections.Connections.fetch`."""
        self._current.fetch(calls)

    def write(self, statement: str, parameters: tuple[Any, ...]) -> None:
        """See :meth:`..connections.Connections.write`."""
        self._current.write((statement, parameters))

    def seats(self) -> list[Any]:
        """See :meth:`..connections.Connections.seats`."""
        return self.read(*self._locked())

    def need(self, keys: Collection[str]) -> None:
        """See :meth:`..connections.Connections.need`."""
        locked = self._current.place.parts
        if locked and not locked.issuperset(map(part_of, keys)):
            raise TooNarrow(keys)

    def note(self, generation: int, now: int) -> None:
        """See :meth:`..connections.Connections.note`."""
        self.generation = generation
        self._time.note(now)

    def may_have_room(self, cap: Cap) -> bool:
        """See :meth:`..connections.Connections.may_have_room`."""
        return has_quotas(cap) and self.local.wider == set() and not self._is_full

    def share(self, cap: Cap) -> Cap:
        """See :meth:`..tables.Tables.share`: the quota of one part, where only this is locked."""
        place = self._current.place
        if place.part >= PARTS and not place.whole:
            return cap._replace()  # a copy: all are counted, but others may add some
        rows = {part: tuple(quota) for part, _, _, *quota in self.seats()}
        dealt, dealt_for_users, total, users = rows[place.part]
        is_dealt = (dealt, dealt_for_users) == (cap.total, cap.users)
        if place.whole:
            self._deal(cap, is_dealt=dealt > 0)
            return cap
        if not is_dealt:
            raise TooNarrow
        return cap._replace(total=total, users=users)

    def _deal(self, cap: Cap, *, is_dealt: bool) -> None:
        """Deal out the quotas anew; where there is no room, no quota is valid any longer."""
        held = {}
        for row in self.read(self.statements["held"]):
            groups = held_by_group(row)
            held[row[0]] = (row[1], row[1] - groups[""])
        dealt = quotas(cap, held)
        for part, (total, users) in dealt.items():
            self.write(self.statements["deal"], (cap.total, cap.users, total, users, part))
        if not dealt:
            self._full_until = time.monotonic() + FULL
            if is_dealt:
                self.write(self.statements["undeal"], ())

    @property
    def _is_full(self) -> bool:
        return time.monotonic() < self._full_until

    @contextmanager
    def _uncertain(self) -> Iterator[None]:
        """Marks the call as perhaps done until the block is over."""
        self.local.may_be_done = True
        yield
        self.local.may_be_done = False

    def _locked(self) -> Call:
        parts = tuple(sorted(self._current.place.parts))
        return self.statements.for_keys("seats", len(parts)), parts

    @property
    def _current(self) -> Transaction:
        current = self.local.current
        if current is None:
            raise RuntimeError("the engine reads and writes in transactions only")
        return current
