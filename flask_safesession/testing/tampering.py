"""Moves the clock of a store, or takes it down, for a test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

from ..errors import StoreUnavailable
from ..stores.memory import MemoryStore
from ..stores.opening import Opened
from ..stores.sql.store import SqlStore
from .kit import FakeClock, age_redis

# Methods of a store that work without its server.
_LOCAL = frozenset({"close", "from_url", "in_slot", "prepare", "report_to", "states"})
# Attributes of a MemoryStore's tables that are not its content.
_KEPT = frozenset({"lock", "clock"})
# A server expires records a little after their deadline. A leap in time would pass that, too, and
# the reason of an end would be lost.
_NO_NET = """
for _, name in ipairs(redis.call('KEYS', ARGV[1])) do
  if redis.call('GETRANGE', name, 0, 1) == 'SS' then redis.call('PERSIST', name) end
end
return 1
"""


class Clock(NamedTuple):
    """A store's clock, for a test.

    :param advance: called with milliseconds: that much time passes for the store.
    :param restore: undoes changes, as far as possible.
    """

    advance: Callable[[int], None]
    restore: Callable[[], None]


def clock_of(opened: Opened, advance: Callable[[int], None] | None) -> Clock:
    """Returns the clock of a store; *advance*: of a store that is not ours."""
    store = opened.store
    if isinstance(store, MemoryStore):
        return _borrowed(store)
    if advance is not None:
        return Clock(advance, _nothing)
    if opened.system == "mongodb" or isinstance(store, SqlStore):  # pymongo may not be installed
        return _ahead(store) if isinstance(store, SqlStore) else _later(store)
    if hasattr(store, "no_index"):  # not by its class: pymemcache may not be installed
        return Clock(partial(postpone, store), _nothing)
    # Imported here: apps on memory do not need redis-py.
    from ..stores.redis.store import RedisStore

    if opened.shards and isinstance(opened.shards[0], RedisStore):
        return Clock(partial(_age, opened.shards), _nothing)
    return Clock(_cannot, _nothing)


@contextmanager
def down(opened: Opened, only: Collection[str] = ()) -> Iterator[None]:
    """Take a store down for a ``with`` block, or *only* some of its operations.

    Replaces them on the object, so that every reference to the store has them.

    :raises ValueError: the store has no such operation.
    """
    known = _operations(opened.store)
    if unknown := sorted({*only} - {*known}):
        raise ValueError(f"the store has no {', '.join(unknown)}; it has {', '.join(known)}")
    with ExitStack() as stack:
        for store in {id(one): one for one in (opened.store, *opened.shards)}.values():
            failing = dict.fromkeys(only or _operations(store), _fail)
            stack.enter_context(_replaced(store, failing))
        if opened.remote is not None and not only:
            states = partial(dict.fromkeys, opened.remote.states(), "open")
            stack.enter_context(_replaced(opened.remote, {"states": states}))
        yield


def _operations(store: object) -> list[str]:
    """Returns the names of the operations for which *store* needs its server."""
    names = (name for name in dir(type(store)) if not name.startswith("_"))
    return [name for name in names if name not in _LOCAL and callable(getattr(store, name))]


@contextmanager
def _replaced(store: object, methods: Mapping[str, Any]) -> Iterator[None]:
    mine = vars(store)
    before = {name: mine[name] for name in methods if name in mine}
    mine.update(methods)
    try:
        yield
    finally:
        for name in methods:
            mine.pop(name, None)
        mine.update(before)


def _fail(*_: object, **__: object) -> None:
    raise StoreUnavailable("the test has taken the store down")


def _nothing() -> None:
    """Restore nothing: a server's clock was not changed."""


def _cannot(_: int) -> None:
    raise RuntimeError(
        "the clock of this store cannot be moved: give safesession_for(app, advance=...) a"
        " function that is called with milliseconds"
    )


def _borrowed(store: MemoryStore) -> Clock:
    """Returns the clock of *store*, stopped; restores the content of the store, too."""
    tables = store.tables
    with tables.lock:
        theirs = tables.clock
        before = deepcopy({name: of for name, of in vars(tables).items() if name not in _KEPT})
        clock = theirs if isinstance(theirs, FakeClock) else FakeClock(theirs())
        tables.clock, then = clock, clock.now

    def restore() -> None:
        with tables.lock:
            vars(tables).update(before)
            tables.clock, clock.now = theirs, then

    return Clock(clock.advance, restore)


def _ahead(store: SqlStore) -> Clock:
    """Returns the clock of *store*, which runs on; what expired in the test stays so."""
    statements = store.tables.statements
    before, ahead = dict(statements), 0

    def advance(milliseconds: int) -> None:
        nonlocal ahead
        ahead += milliseconds
        later = f"({statements.clock} + {ahead})"
        moved = {name: text.replace(statements.clock, later) for name, text in before.items()}
        statements.update(moved)

    return Clock(advance, partial(statements.update, before))


def _later(store: Any) -> Clock:
    """Returns the clock of *store* in MongoDB, which runs on; what expired in the test stays so."""
    tables = store.tables
    before, ahead = tables.clock, 0

    def advance(milliseconds: int) -> None:
        nonlocal ahead
        ahead += milliseconds
        tables.clock = lambda: {"$add": [before(), ahead]}

    return Clock(advance, partial(setattr, tables, "clock", before))


def postpone(store: Any, milliseconds: int) -> None:
    """Set the clocks of Memcached servers ahead, for all processes."""
    from ..stores.memcached.items import dumps
    from ..stores.memcached.turn import Turn

    turn = Turn(store.servers, store.prefix)
    with turn:
        for letter in store.letters:
            epoch, _, item = turn.epoch(letter)
            later = dumps(epoch._replace(expires=epoch.expires + milliseconds))
            turn.line(letter).write(turn.name("epoch"), later, item.seconds, item)


class _Line:
    """A client for :func:`.kit.age_redis` on the store's own connections."""

    def __init__(self, shards: Sequence[Any]) -> None:
        self._caller = shards[0]._caller
        self.slots: list[str] = [shard.slot for shard in shards]

    def scan_iter(self, _: str) -> Iterator[str]:
        return (f"{slot}:tiers" for slot in self.slots)

    def eval(self, script: str, count: int, *args: object) -> None:
        exchange = self._caller.topology.route(args[0])
        send = partial(exchange, ("EVAL", script, count, *args))
        self._caller.call(send, repeatable=False)


def _age(shards: Sequence[Any], by: int) -> None:
    """Make all sessions on Redis older, on every kind of server."""
    line = _Line(shards)
    prefix = line.slots[0][1:].rpartition(":")[0]
    for slot in line.slots:
        line.eval(_NO_NET, 1, f"{slot}:tiers", f"{slot}:s:*")
    age_redis(line, by, prefix)
