"""The operations of the store; see the package for the items and for what can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from pymemcache.exceptions import MemcacheServerError

from ...errors import ConfigError, StoreUnavailable, TooManySessions
from ...events import Event, Once
from ...model.reason import Reason
from ...model.record import GENERATIONS, Draft, Record, dumps, loads, touched
from ...model.tokens import NO_USER
from .. import base
from ..base import Conflict, Gone, Listed, Live, Rules, Taken, Terms
from ..remote.breaker import Listener
from ..rules import begun, is_filed, moved, refiled, successor, used
from ..sharded import LETTERS, on_each, shard_of
from ..tables import Ending
from .items import Held, Session
from .lines import Server
from .operation import operation
from .turn import Changed, Turn
from .url import read_url

# Bytes of a prefix at most: a name on a server has 250.
_LONGEST_PREFIX = 200
_EVICTS = (
    "which signs visitors out: raise its memory (-m), keep caches off it, or let it refuse new"
    " sessions (-M)"
)
_SHARED = (
    "sessions are on Memcached: give them servers of their own. A cache on the same server pushes"
    " sessions out, and flush_all signs everybody out"
)
_warn = Once()


class MemcachedStore:
    """The store behind ``memcached://``: a :class:`..base.UserStore` without an index.

    :param url: names the servers; the same ones in the same order in all processes.
    :param prefix: what the names of items begin with. Apps with the same prefix share sessions.
    :param timeout: seconds that one call may take, connecting and retries included.
    :raises ConfigError: the prefix is too long.
    :raises ValueError: the URL is malformed, with the fix.
    """

    shared: bool = True
    #: Why it is no :class:`..base.IndexedStore`.
    no_index: str = (
        "Memcached has no list of its sessions: it cannot count, list or purge them, and no"
        " settings can be changed while it runs. Sessions on sqlite:// or redis:// can"
    )

    def __init__(self, url: str, *, prefix: str = "safesession", timeout: float = 1.0) -> None:
        addresses = read_url(url)
        #: What the names of items begin with.
        self.prefix: bytes = prefix.encode()
        if len(self.prefix) > _LONGEST_PREFIX:
            raise ConfigError(["SAFESESSION_KEY_PREFIX is too long for Memcached: shorten it"])
        #: Receives the events of the servers.
        self.notify: Listener = Listener()
        #: The servers, in the order of the URL.
        self.servers: Sequence[Server] = [Server(address, self.notify) for address in addresses]
        #: A letter for each server, with which keys of its sessions may begin.
        self.letters: str = LETTERS[: len(addresses)]
        #: Seconds that one call may take.
        self.timeout: float = timeout

    # -- one session ----------------------------------------------------------------------------

    @operation
    def load(self, turn: Turn, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`..base.Store.load`."""
        held = turn.find(key)
        if isinstance(held, Gone):
            return held
        fresh = used(held.record, rules, held.now, slide=slide)
        if fresh.deadline <= held.now:
            return turn.over(held, fresh.end_reason)
        if fresh is not held.record:
            with suppress(MemcacheServerError):  # its memory is full: it can be read
                turn.replace(held, held.session._replace(record=fresh))
        return Live(fresh, held.now)

    @operation
    def create(self, turn: Turn, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`..base.Store.create`."""
        epoch, now, _ = turn.epoch(key)
        record = begun(draft, epoch.generation, now)
        session = Session(epoch.name, record)
        if not turn.add(key, session, now):
            there = _in_the_way(turn.find(key), draft)
            if there is not None or not turn.add(key, session, now):
                return there or Taken()
        removed = turn.enrol(key, record, rules) if draft.user != NO_USER else ()
        return Live(record, now, removed or ())

    @operation
    def commit(
        self,
        turn: Turn,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> base.Answer:
        """See :meth:`..base.Store.commit`."""
        del loaded  # the token for compare-and-set has to be read on the same connection
        held = turn.find(key, user=draft.user)
        if isinstance(held, Gone):
            return held
        if draft.stamp in held.record.stamps:
            return Live(held.record, held.now)
        if held.record.stamps[0] != expected or not is_filed(held.record, draft):
            if turn.lost and expected not in held.record.stamps:
                # Later writes may have pushed its stamp out of the record.
                raise StoreUnavailable("a reply was lost: whether the call was done is unknown")
            return Conflict(held.record)
        fresh = touched(successor(held.record, draft), held.now, touch)
        turn.replace(held, held.session._replace(record=fresh))
        return Live(fresh, held.now)

    @operation
    def refile(self, turn: Turn, key: str, draft: Draft, expected: str) -> base.Answer | None:
        """See :meth:`..base.Store.refile`."""
        count, user = len(self.servers), draft.user
        if user != NO_USER and shard_of(user, count) != shard_of(key, count):
            return None
        held = turn.find(key)
        if isinstance(held, Gone):
            return held
        record = held.record
        if is_filed(record, draft):
            return Live(record, held.now)
        if record.stamps[0] != expected:
            return Conflict(record)
        fresh = refiled(record, draft)
        if fresh.deadline <= held.now:
            return turn.over(held, fresh.end_reason)
        if user not in (NO_USER, record.user):
            turn.enrol(key, fresh)
        # Provisional until it is sure that it has not ended under its old user meanwhile.
        mark = (key, record.user) if record.user != NO_USER else ()
        turn.replace(held, Session(held.session.epoch, fresh, *mark))
        found = turn.find(key)
        return found if isinstance(found, Gone) else Live(found.record, found.now)

    @operation
    def rotate(
        self, turn: Turn, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> base.Answer | Taken:
        """See :meth:`..base.Store.rotate`, and the package for the steps."""
        there = _in_the_way(turn.find(new), draft)
        if there is not None:
            return there
        held = turn.find(turn.resolve(key) if terms.expected is None else key)
        if isinstance(held, Gone):
            return held
        old = held.record
        if terms.expected not in (None, old.stamps[0]):
            return Conflict(old)
        epoch, now, _ = turn.epoch(new)
        ahead = now - held.now  # each server has its own time
        old = old._replace(created=old.created + ahead, last_active=old.last_active + ahead)
        fresh = moved(old, draft, terms, now)._replace(generation=epoch.generation)
        session = Session(epoch.name, fresh, held.key, old.user)
        is_new = turn.add(new, session, now, base.TOMBSTONE_TTL // 1000)
        if not is_new and not turn.mine(new, draft.stamp):
            return Taken()
        try:
            removed = None
            if draft.user != NO_USER and not is_filed(old, draft):
                leaving = held.key if old.user == draft.user else ""
                removed = turn.enrol(new, fresh, rules, leaving=leaving)
            onward = terms.onward(new, draft.user) or ()
            turn.finish(held, Ending(terms.reason, draft.stamp, *onward))
        except (Changed, TooManySessions):
            turn.withdraw(new, fresh, held.key)
            raise
        is_over = not turn.complete(new, draft.stamp)
        return Gone(Reason.UNKNOWN) if is_over else Live(fresh, now, removed or ())

    @operation
    def end(
        self, turn: Turn, key: str, stamp: str, reason: str, expected: str | None
    ) -> base.Answer:
        """See :meth:`..base.Store.end`."""
        held = turn.find(turn.resolve(key) if expected is None else key, stamp)
        if isinstance(held, Gone):
            return held
        if expected not in (None, held.record.stamps[0]):
            return Conflict(held.record)
        turn.finish(held, _ending(held.record, reason, stamp))
        if held.record.user != NO_USER:
            turn.leave(held.record.user, held.key)
        return Live(held.record, held.now, key=held.key)

    # -- sessions of users ----------------------------------------------------------------------

    @operation
    def peek(self, turn: Turn, key: str) -> Listed | None:
        """See :meth:`..base.UserStore.peek`."""
        held = turn.find(turn.resolve(key))
        return None if isinstance(held, Gone) else _listed(held)

    @operation
    def sessions_of(self, turn: Turn, user: str) -> list[Listed]:
        """See :meth:`..base.UserStore.sessions_of`."""
        found = turn.live(user, turn.members(user)[0], provisional=False)
        return base.newest_first(map(_listed, found))

    @operation
    def end_user(self, turn: Turn, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`..base.UserStore.end_user`. One step: the item of the user is replaced."""
        kept = {keep, turn.resolve(keep)} if keep else set[str]()
        members, item = turn.members(user)
        left = {key: tier for key, tier in members.items() if key in kept}
        held = turn.live(user, members.keys() - kept, provisional=False)
        if len(left) < len(members) and not turn.put_members(user, left, item):
            raise Changed
        for one in held:
            with suppress(Changed):  # it is over all the same
                turn.finish(one, _ending(one.record, reason, stamp))
        return base.newest_first(map(_listed, held))

    # -- all sessions, and the servers ----------------------------------------------------------

    def end_all(self, stamp: str) -> None:
        """See :meth:`..base.Store.end_all`."""
        on_each(self.letters, lambda letter: self._end_all(letter, stamp))

    @operation
    def _end_all(self, turn: Turn, letter: str, stamp: str) -> None:
        epoch, now, item = turn.epoch(letter)
        raised = epoch._replace(generation=(epoch.generation + 1) % GENERATIONS, stamp=stamp)
        if epoch.stamp != stamp and not turn.put_epoch(letter, raised, now, item):
            raise Changed

    def prepare(self) -> None:
        """See :meth:`..base.RemoteStore.prepare`."""
        _warn("shared", _SHARED)
        with suppress(StoreUnavailable):
            self._stats()
        self.close()  # the process may fork after this

    @operation
    def _stats(self, turn: Turn) -> list[Mapping[bytes, int]]:
        """Returns the statistics of each server, after a look at its epoch."""
        for letter in self.letters:
            turn.epoch(letter)
        return [turn.line(letter).ask() for letter in self.letters]

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """See :meth:`..base.RemoteStore.report_to`."""
        self.notify.listener = listener

    def states(self) -> Mapping[str, str]:
        """See :meth:`..base.RemoteStore.states`."""
        return {server.name: server.breaker.state for server in self.servers}

    def inspect(self) -> list[base.Finding]:
        """See :meth:`..base.Store.inspect`."""
        counts = [stats[b"evictions"] for stats in self._stats()]
        return [
            base.Finding("eviction-policy", f"{server.name} has evicted {count} items, {_EVICTS}")
            for server, count in zip(self.servers, counts, strict=True)
            if count
        ]

    def close(self) -> None:
        """See :meth:`..base.Store.close`."""
        for server in self.servers:
            server.close()


def _in_the_way(there: Held | Gone, draft: Draft) -> Live | Taken | None:
    """Returns the answer if a key is in use; a call that is repeated finds its own session."""
    if isinstance(there, Held):
        is_mine = draft.stamp in there.record.stamps
        return Live(there.record, there.now) if is_mine else Taken()
    return Taken() if there.has_tombstone or there.reason == Reason.CORRUPT else None


def _ending(record: Record, reason: str, stamp: str) -> Ending:
    # Reasons are not shown to visitors of anonymous sessions.
    is_hidden = record.user == NO_USER and reason in base.VISITOR_REASONS
    return Ending("ended" if is_hidden else reason, stamp)


def _listed(held: Held) -> Listed:
    return Listed(held.key, loads(dumps(held.record)[: base.LISTED]))
