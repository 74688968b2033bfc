"""The example of ``writing-a-store.md``: a backend of the engine in three dicts, for reading.

Each call copies the dicts, and most calls walk all sessions: a database has indexes for that.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from flask_safesession.model.reason import Reason
from flask_safesession.model.record import GENERATIONS, Record, dumps
from flask_safesession.stores.base import LISTED, Cap, Removed
from flask_safesession.stores.engine import Engine
from flask_safesession.stores.tables import Ending, Entry, Scope, group_of


# data
@dataclass
class Data:
    """What a database would keep: three tables, and the generation."""

    records: dict[str, Record] = field(default_factory=dict)
    endings: dict[tuple[str, str], tuple[str, Ending, int]] = field(default_factory=dict)
    documents: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    generation: int = 0
    ended_by: str = ""

    def copy(self) -> Data:
        records, endings, documents = dict(self.records), dict(self.endings), dict(self.documents)
        return replace(self, records=records, endings=endings, documents=documents)


class ExampleTables:
    """The primitives, in the order of the table."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.now = clock
        self._lock = threading.Lock()
        self._data = Data()

    @contextmanager
    def transaction(
        self, scope: Scope, *, writes: bool = True, durable: bool = False
    ) -> Iterator[None]:
        del scope, writes, durable  # one lock for all, and nothing survives the process
        with self._lock:
            before = self._data.copy()
            try:
                yield
            except BaseException:
                self._data = before
                raise

    def share(self, cap: Cap) -> Cap:
        return cap  # all sessions are counted

    def generation(self) -> int:
        return self._data.generation

    def begin_generation(self, stamp: str) -> None:
        if stamp != self._data.ended_by:  # otherwise the call is repeated
            self._data.ended_by = stamp
            self._data.generation = (self._data.generation + 1) % GENERATIONS

    # sessions
    def read(self, key: str) -> Record | None:
        return self._data.records.get(key)

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        del old  # there is no index to be changed
        self._data.records[key] = fresh

    def remove(self, *keys: str) -> list[tuple[str, Record]]:
        found = ((key, self._data.records.pop(key, None)) for key in keys)
        return [(key, record) for key, record in found if record]

    def take_over(self, now: int, limit: int) -> list[tuple[Removed, str]]:
        current, everything = self._current(), self._data.records.items()
        over = [(key, record, Reason.REVOKED) for key, record in everything if key not in current]
        due = [(key, record) for key, record in current.items() if record.deadline <= now]
        due.sort(key=lambda session: session[1].deadline)
        over += [(key, record, record.end_reason) for key, record in due]
        for key, _, _ in over[:limit]:
            self.remove(key)
        return [(Removed(key, gone.tier, why), gone.user) for key, gone, why in over[:limit]]

    def heads(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        found = ((key, self.read(key)) for key in keys)
        return [(key, dumps(record)[:LISTED]) for key, record in found if record]

    # lists
    def counts(self) -> dict[str, int]:
        return Counter(map(group_of, self._current().values()))

    def count_due(self, group: str, now: int) -> int:
        return sum(entry.deadline <= now for entry in self._entries(group))

    def nearest(self, group: str, limit: int, after: Entry | None = None) -> list[Entry]:
        entries = self._entries(group)
        return [entry for entry in entries if after is None or entry > after][:limit]

    def latest(self, group: str, now: int, limit: int, before: Entry | None) -> list[Entry]:
        live = [entry for entry in reversed(self._entries(group)) if entry.deadline > now]
        return [entry for entry in live if before is None or entry < before][:limit]

    def of_user(self, user: str, tier: str = "", limit: int = -1) -> list[tuple[str, bytes]]:
        keys = self._keys_of(user, tier)
        return self.heads(keys if limit < 0 else keys[:limit])

    def count_of(self, user: str, tier: str = "") -> int:
        return len(self._keys_of(user, tier))

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        return key in self._keys_of(user, tier)

    def repair(self) -> int:
        return 0  # there is no index that could differ from the records

    # endings
    def ending(self, kind: str, key: str, now: int) -> Ending | None:
        _, ending, until = self._data.endings.get((kind, key), ("", None, 0))
        return ending if until > now else None

    def put_ending(self, kind: str, key: str, owner: str, ending: Ending, until: int) -> None:
        self._data.endings.pop((kind, key), None)  # it is the newest now
        self._data.endings[kind, key] = owner, ending, until

    def trim_endings(self, kind: str, most: int, owner: str = "") -> None:
        for name in self._endings(kind, owner)[:-most]:
            del self._data.endings[name]

    def forget_endings(self, kind: str, now: int) -> None:
        for name in self._endings(kind):
            if self._data.endings[name][2] <= now:
                del self._data.endings[name]

    def count_endings(self, kind: str, *, exact: bool = True) -> int:
        del exact
        return len(self._endings(kind))

    def document(self, name: str) -> tuple[bytes, int]:
        return self._data.documents.get(name, (b"", 0))

    def put_document(self, name: str, document: bytes, time: int) -> None:
        self._data.documents[name] = document, time

    # help
    def _current(self) -> dict[str, Record]:
        everything, generation = self._data.records.items(), self._data.generation
        return {key: record for key, record in everything if record.generation == generation}

    def _entries(self, group: str) -> list[Entry]:
        sessions = self._current().items()
        return sorted(
            Entry(made.deadline, key) for key, made in sessions if group_of(made) == group
        )

    def _keys_of(self, user: str, tier: str) -> list[str]:
        sessions = self._current().items()
        ours = {
            key: made for key, made in sessions if made.user == user and tier in ("", made.tier)
        }
        return sorted(ours, key=lambda key: ours[key].place)  # of one place: as they were made

    def _endings(self, kind: str, owner: str = "") -> list[tuple[str, str]]:
        kept = self._data.endings.items()
        return [name for name, (of, _, _) in kept if name[0] == kind and owner in ("", of)]


# store
class ExampleStore(Engine):
    """Sessions in dicts."""

    shared = False

    def __init__(self, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        super().__init__(ExampleTables(clock))
