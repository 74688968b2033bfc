"""What a test does to a store: it turns its clock, and takes it down."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

from ..errors import StoreUnavailable
from ..stores.base import Networked, Store
from ..stores.memory import MemoryStore
from ..stores.sql.sqlite import SqliteStore
from .kit import FakeClock, age_redis

# Of a store's methods, those that go on without its server.
_LOCAL = frozenset({"close", "from_url", "part_count", "part_of", "prepare", "report_to", "states"})
# Of the tables of a MemoryStore, what is not its content.
_KEPT = frozenset({"lock", "clock"})
# A server's own expiry is a net under the purge, a little later. A leap in time would land beyond
# it, and nobody would be told how a session ended.
_NO_NET = """
for _, name in ipairs(redis.call('KEYS', ARGV[1])) do
  if redis.call('GETRANGE', name, 0, 1) == 'SS' then redis.call('PERSIST', name) end
end
return 1
"""


class Clock(NamedTuple):
    """A store's clock in the hands of a test.

    :param advance: called with milliseconds: that much time passes for the store.
    :param restore: puts back what was changed, as far as that can be done.
    """

    advance: Callable[[int], None]
    restore: Callable[[], None]


def clock_of(store: Store, advance: Callable[[int], None] | None) -> Clock:
    """The clock of *store*; *advance* is for one that is not ours."""
    if isinstance(store, MemoryStore):
        return _borrowed(store)
    if advance is not None:
        return Clock(advance, _nothing)
    # Imported here: apps on memory do not pay for redis-py.
    from ..stores.redis.store import RedisStore

    if isinstance(store, RedisStore):
        return Clock(partial(_age, store), _nothing)
    if isinstance(store, SqliteStore):
        return _ahead(store)
    return Clock(_cannot, _nothing)


@contextmanager
def down(store: Store, only: Collection[str] = ()) -> Iterator[None]:
    """Take *store* down for a ``with`` block, or *only* some of its operations.

    They are replaced on the object, so that whoever holds the store meets it.

    :raises ValueError: the store has no such operation.
    """
    names = (name for name in dir(type(store)) if not name.startswith("_"))
    known = [name for name in names if name not in _LOCAL and callable(getattr(store, name))]
    if unknown := sorted({*only} - {*known}):
        raise ValueError(f"the store has no {', '.join(unknown)}; it has {', '.join(known)}")
    replaced: dict[str, Any] = dict.fromkeys(only or known, _fail)
    if isinstance(store, Networked) and not only:
        replaced["states"] = partial(dict.fromkeys, store.states(), "open")
    mine = vars(store)
    before = {name: mine[name] for name in replaced if name in mine}
    mine.update(replaced)
    try:
        yield
    finally:
        for name in replaced:
            mine.pop(name, None)
        mine.update(before)


def _fail(*_: object, **__: object) -> None:
    raise StoreUnavailable("the test has taken the store down")


def _nothing() -> None:
    """What can be put back of a server."""


def _cannot(_: int) -> None:
    raise RuntimeError(
        "there is no way to turn the clock of this store: say how, with"
        " safesession_for(app, advance=...), which is called with milliseconds"
    )


def _borrowed(store: MemoryStore) -> Clock:
    """The clock of *store*, stopped. What is in the store is put back, too."""
    tables = store._tables
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


def _ahead(store: SqliteStore) -> Clock:
    """The clock of *store*, which goes on; what time that passes does to sessions stays done."""
    tables, theirs, ahead = store._tables, store._tables.now, 0

    def advance(milliseconds: int) -> None:
        nonlocal ahead
        ahead += milliseconds

    def restore() -> None:
        tables.now = theirs

    tables.now = lambda: theirs() + ahead
    return Clock(advance, restore)


class _Line:
    """What :func:`.kit.age_redis` asks of a client, by the store's own way to its servers."""

    def __init__(self, store: Any) -> None:
        self._caller = store._caller
        self.slots: list[str] = [shard.slot for shard in store._shards]

    def scan_iter(self, _: str) -> Iterator[str]:
        return (f"{slot}:tiers" for slot in self.slots)

    def eval(self, script: str, count: int, *args: object) -> None:
        exchange = self._caller.topology.route(args[0])
        send = partial(exchange, ("EVAL", script, count, *args))
        self._caller.call(send, repeatable=False)


def _age(store: Any, by: int) -> None:
    """Make all sessions of a RedisStore older, on whatever kind of server they are."""
    line = _Line(store)
    prefix = line.slots[0][1:].rpartition(":")[0]
    for slot in line.slots:
        line.eval(_NO_NET, 1, f"{slot}:tiers", f"{slot}:s:*")
    age_redis(line, by, prefix)
