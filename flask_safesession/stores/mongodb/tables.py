"""Documents of MongoDB as the engine's tables.

A transaction that writes begins with the one document of ``seats``: so any two conflict there, at
once, since MongoDB queues no transactions. The seat has the number of sessions of each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

from bson import ObjectId
from pymongo import ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from ...model.reason import Reason
from ...model.record import GENERATIONS, Record, dumps, loads
from ...model.tokens import NO_USER
from ..base import LISTED, Cap, Removed
from ..direct import ABOUT
from ..remote.time import ServerTime
from ..tables import KINDS, Ending, Entry, Scope, group_of, place_of, read_heads, taken
from .servers import SEAT, Servers

_Document: TypeAlias = "dict[str, Any]"
#: Returns MongoDB's expression for the time in milliseconds.
Clock: TypeAlias = Callable[[], object]

# At each so-manieth ending, those over the limit are removed.
_TIDY_EVERY = 100
# As the index has it.
_BY_DEADLINE = {"generation": 1, "group": 1, "deadline": 1, "_id": 1}
_LATEST_FIRST = dict.fromkeys(_BY_DEADLINE, -1)
_COUNT_GROUPS: _Document = {"$group": {"_id": "$group", "number": {"$sum": 1}}}


def server_clock() -> object:
    """Returns the time of the primary."""
    return {"$toLong": "$$NOW"}


@dataclass
class _Seen:
    """What a transaction has read, and will write at its end.

    :param tidies: it removes expired endings.
    :param seat: generation, sessions by group, time.
    :param found: sessions and endings by name; ``None``: there is none.
    :param endings: that are stored at its end, all together.
    :param trims: the most endings, by kind and owner.
    """

    session: ClientSession
    tidies: bool
    seat: _Document
    found: dict[str, _Document | None]
    endings: list[ReplaceOne[_Document]] = field(default_factory=list)
    trims: dict[tuple[str, str], int] = field(default_factory=dict)


# Of one thread or greenlet. Not a threading.local, which greenlets share if gevent patches late.
_current: ContextVar[_Seen] = ContextVar("seen")


class MongoDBTables:
    """See :class:`..tables.Tables` and :class:`..direct.Single`.

    :param servers: with the collections.
    :param clock: returns the expression for the time in milliseconds.
    """

    def __init__(self, servers: Servers, clock: Clock) -> None:
        self.clock: Clock = clock
        self._counted: dict[str, int] = {}
        self._servers = servers
        self._endings = count(1)
        self._time = ServerTime()
        #: See :meth:`..direct.Single.guess`.
        self.guess: Callable[[], int | None] = self._time.guess

    # -- one statement --------------------------------------------------------------------------

    def look_up(self, key: str) -> tuple[bytes, int, int] | None:
        """See :meth:`..direct.Single.look_up`."""
        seat, found = self._read([key], None)
        self._time.note(seat["now"])
        if (session := found[key]) is None:
            return None
        return session["head"] + session["rest"], seat["generation"], seat["now"]

    def change(self, call: tuple[_Document, _Document]) -> bool:
        """See :meth:`..direct.Single.change`.

        An update cannot look at the seat. The generation is read after it: if it is still that of
        the record, it was so at the update, too.
        """
        same, fields = call
        if not self._in("sessions").update_one(same, {"$set": fields}).matched_count:
            return False
        seat = self._in("seats").find_one(SEAT)
        return seat is not None and seat["generation"] == fields["generation"]

    def replacement(
        self, key: str, fresh: Record, old: Record, now: int
    ) -> tuple[_Document, _Document]:
        """See :meth:`..direct.Rows.replacement`. Returns the condition and the new fields."""
        clock, head = self.clock(), _fields(old)["head"]
        is_live = {"$gt": ["$deadline", clock]}
        is_now = {"$lte": [{"$abs": {"$subtract": [clock, now]}}, ABOUT]}
        return {"_id": key, "head": head, "$expr": {"$and": [is_live, is_now]}}, _fields(fresh)

    # -- transactions ---------------------------------------------------------------------------

    @contextmanager
    def transaction(
        self, scope: Scope, *, writes: bool = True, durable: bool = False
    ) -> Iterator[None]:
        """See :meth:`..tables.Tables.transaction`. The majority of servers has what it wrote."""
        del durable
        seats = self._in("seats")
        with self._servers.transaction() as session:
            if writes:
                # The turn makes it a change: a write that changes nothing would not conflict.
                seats.update_one({"_id": SEAT}, {"$inc": {"turn": 1}}, session=session)
            before, found = self._read(scope.keys, session)
            seen = _Seen(session, scope.task == "purge", {**before}, found)
            _current.set(seen)
            yield
            self._store_endings()
            if seen.seat != before:
                seats.replace_one({"_id": SEAT}, seen.seat, session=session)

    def _read(
        self, keys: Sequence[str], session: ClientSession | None
    ) -> tuple[_Document, dict[str, _Document | None]]:
        """Returns the seat, with the time, and what is stored under *keys*, by one query."""
        names = [f"{kind}:{key}" for kind in KINDS for key in keys]
        wanted = {"now": self.clock(), "sessions": [*keys], "endings": names}
        stages: list[_Document] = [{"$match": {"_id": SEAT}}, {"$set": wanted}]
        for name in ("sessions", "endings"):
            joined = {"localField": name, "foreignField": "_id", "as": name}
            stages.append({"$lookup": {"from": self._in(name).name, **joined}})
        seat = self._servers.need(next(self._in("seats").aggregate(stages, session=session), None))
        rows = seat.pop("sessions") + seat.pop("endings")
        return seat, {**dict.fromkeys([*keys, *names]), **{row["_id"]: row for row in rows}}

    def now(self) -> int:
        """See :meth:`..tables.Tables.now`."""
        return int(self._seen.seat["now"])

    def share(self, cap: Cap) -> Cap:
        """See :meth:`..tables.Tables.share`: the seat counts all sessions."""
        return cap

    def generation(self) -> int:
        """See :meth:`..tables.Tables.generation`."""
        return int(self._seen.seat["generation"])

    def begin_generation(self, stamp: str) -> None:
        """See :meth:`..tables.Tables.begin_generation`."""
        if self._seen.seat["ended_by"] != stamp:
            number = (self.generation() + 1) % GENERATIONS
            self._seen.seat |= {"generation": number, "ended_by": stamp, "held": {}}

    # -- sessions -------------------------------------------------------------------------------

    def read(self, key: str) -> Record | None:
        """See :meth:`..tables.Tables.read`."""
        found = self._find("sessions", key)
        return None if found is None else loads(found["head"] + found["rest"])

    def put(self, key: str, fresh: Record, old: Record | None) -> None:
        """See :meth:`..tables.Tables.put`."""
        self._seen.found[key] = fields = _fields(fresh)
        sessions, session = self._in("sessions"), self._seen.session
        if old is None:
            made = {"_id": key, "number": ObjectId(), **fields}
            sessions.insert_one(made, session=session)
        else:
            sessions.update_one({"_id": key}, {"$set": fields}, session=session)
            self._count(group_of(old), -1)
        self._count(group_of(fresh), 1)

    def remove(self, *keys: str) -> list[tuple[str, Record]]:
        """See :meth:`..tables.Tables.remove`."""
        rows = self._list({"_id": {"$in": keys}})
        self._drop(rows)
        return [*read_heads((row["_id"], row["head"]) for row in rows)]

    def take_over(self, now: int, limit: int) -> list[tuple[Removed, str]]:
        """See :meth:`..tables.Tables.take_over`."""
        older = {"generation": {"$ne": self.generation()}}
        over: list[_Document] = []
        for condition in (older, *(self._due(group, now) for group in self.counts())):
            if limit > len(over):
                over += self._list(condition, _BY_DEADLINE, limit - len(over))
        self._drop(over)
        generation = self.generation()
        reasons = [None if row["generation"] == generation else Reason.REVOKED for row in over]
        return [taken(row["_id"], row["head"], why) for row, why in zip(over, reasons, strict=True)]

    def heads(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """See :meth:`..tables.Tables.heads`."""
        keys = list(keys)
        found = {row["_id"]: row["head"] for row in self._list({"_id": {"$in": keys}})}
        return [(key, found[key]) for key in keys if key in found]

    # -- their index ----------------------------------------------------------------------------

    def counts(self) -> Mapping[str, int]:
        """See :meth:`..tables.Tables.counts`."""
        held: dict[str, int] = self._seen.seat["held"]
        return held

    def count_due(self, group: str, now: int) -> int:
        """See :meth:`..tables.Tables.count_due`."""
        return self._number(self._due(group, now))

    def nearest(self, group: str, limit: int, after: Entry | None = None) -> list[Entry]:
        """See :meth:`..tables.Tables.nearest`."""
        rows = self._list({**self._in_group(group), **_beyond("$gt", after)}, _BY_DEADLINE, limit)
        return [Entry(row["deadline"], row["_id"]) for row in rows]

    def latest(self, group: str, now: int, limit: int, before: Entry | None) -> list[Entry]:
        """See :meth:`..tables.Tables.latest`."""
        live = {**self._in_group(group), "deadline": {"$gt": now}, **_beyond("$lt", before)}
        rows = self._list(live, _LATEST_FIRST, limit)
        return [Entry(row["deadline"], row["_id"]) for row in rows]

    def of_user(self, user: str, tier: str = "", limit: int = -1) -> list[tuple[str, bytes]]:
        """See :meth:`..tables.Tables.of_user`."""
        rows = self._list(self._owned(user, tier), {"place": 1, "number": 1}, max(limit, 0))
        return [(row["_id"], row["head"]) for row in rows]

    def count_of(self, user: str, tier: str = "") -> int:
        """See :meth:`..tables.Tables.count_of`."""
        return self._number(self._owned(user, tier))

    def belongs(self, key: str, user: str, tier: str = "") -> bool:
        """See :meth:`..tables.Tables.belongs`."""
        return self._number({"_id": key, **self._owned(user, tier)}) > 0

    def repair(self) -> int:
        """See :meth:`..tables.Tables.repair`: counts again. The server keeps its indexes.

        If another transaction has changed the seat meanwhile, this one conflicts at its end.
        """
        with self.transaction(Scope(), writes=False):
            stages = [{"$match": {"generation": self.generation()}}, _COUNT_GROUPS]
            rows = self._in("sessions").aggregate(stages, session=self._seen.session)
            held, before = {row["_id"]: row["number"] for row in rows}, self.counts()
            self._seen.seat["held"] = held
            return sum(held.get(group) != before.get(group) for group in {*held, *before})

    # -- tombstones, reasons and documents ------------------------------------------------------

    def ending(self, kind: str, key: str, now: int) -> Ending | None:
        """See :meth:`..tables.Tables.ending`."""
        found = self._find("endings", f"{kind}:{key}")
        return Ending(*found["ending"]) if found and found["until"] > now else None

    def put_ending(self, kind: str, key: str, owner: str, ending: Ending, until: int) -> None:
        """See :meth:`..tables.Tables.put_ending`."""
        name, fields = f"{kind}:{key}", [str(ending.reason), *ending[1:]]
        made = {"owner": owner, "kind": kind, "number": ObjectId(), "until": until}
        self._seen.found[name] = made = made | {"ending": fields}
        self._seen.endings.append(ReplaceOne({"_id": name}, made, upsert=True))

    def trim_endings(self, kind: str, most: int, owner: str = NO_USER) -> None:
        """See :meth:`..tables.Tables.trim_endings`."""
        if owner != NO_USER or next(self._endings) % _TIDY_EVERY == 0:
            self._seen.trims[kind, owner] = most

    def forget_endings(self, kind: str, now: int) -> None:
        """See :meth:`..tables.Tables.forget_endings`. Only the purge does it."""
        if self._seen.tidies:
            expired = {"kind": kind, "until": {"$lt": now + 1}}
            self._in("endings").delete_many(expired, session=self._seen.session)

    def count_endings(self, kind: str, *, exact: bool = True) -> int:
        """See :meth:`..tables.Tables.count_endings`. Counting walks, so it is done rarely."""
        if exact or kind not in self._counted or next(self._endings) % _TIDY_EVERY == 0:
            session = self._seen.session
            self._counted[kind] = self._in("endings").count_documents(
                {"kind": kind}, session=session
            )
        return self._counted[kind]

    def document(self, name: str) -> tuple[bytes, int]:
        """See :meth:`..tables.Tables.document`."""
        found = self._in("documents").find_one({"_id": name}, session=self._seen.session)
        return (found["document"], found["written"]) if found else (b"", 0)

    def put_document(self, name: str, document: bytes, time: int) -> None:
        """See :meth:`..tables.Tables.put_document`."""
        made, session = {"document": document, "written": time}, self._seen.session
        self._in("documents").replace_one({"_id": name}, made, upsert=True, session=session)

    # -- help -----------------------------------------------------------------------------------

    @property
    def _seen(self) -> _Seen:
        return _current.get()

    def _in(self, name: str) -> Collection[_Document]:
        return self._servers.collection(name)

    def _store_endings(self) -> None:
        endings, session = self._in("endings"), self._seen.session
        if self._seen.endings:
            endings.bulk_write(self._seen.endings, session=session)
        for (kind, owner), most in self._seen.trims.items():
            ours = {"kind": kind} | ({"owner": owner} if owner else {})
            over = endings.find(ours, sort={"number": -1}, skip=most, limit=1, session=session)
            for newest in over:
                oldest = {**ours, "number": {"$lte": newest["number"]}}
                endings.delete_many(oldest, session=session)

    def _find(self, name: str, key: str) -> _Document | None:
        found = self._seen.found
        if key not in found:
            found[key] = self._in(name).find_one({"_id": key}, session=self._seen.session)
        return found[key]

    def _list(
        self, condition: _Document, order: Mapping[str, int] | None = None, limit: int = 0
    ) -> list[_Document]:
        """Returns sessions as lists have them; a *limit* of 0: all."""
        sessions, session = self._in("sessions"), self._seen.session
        return [*sessions.find(condition, {"rest": 0}, sort=order, limit=limit, session=session)]

    def _number(self, condition: _Document) -> int:
        return self._in("sessions").count_documents(condition, session=self._seen.session)

    def _drop(self, rows: Sequence[_Document]) -> None:
        keys = [row["_id"] for row in rows]
        self._seen.found |= dict.fromkeys(keys)
        for row in rows:
            if row["generation"] == self.generation():
                self._count(row["group"], -1)
        if keys:
            sessions = self._in("sessions")
            sessions.delete_many({"_id": {"$in": keys}}, session=self._seen.session)

    def _count(self, group: str, difference: int) -> None:
        held = {**self.counts(), group: self.counts().get(group, 0) + difference}
        self._seen.seat["held"] = {name: number for name, number in held.items() if number}

    def _in_group(self, group: str) -> _Document:
        return {"generation": self.generation(), "group": group}

    def _due(self, group: str, now: int) -> _Document:
        # Not $lte: SecantusDB, with which this is tested, leaves out equal ones within an index.
        return {**self._in_group(group), "deadline": {"$lt": now + 1}}

    def _owned(self, user: str, tier: str) -> _Document:
        group = {"group": tier} if tier else {}
        return {"owner": user, "generation": self.generation(), **group}


def _fields(record: Record) -> _Document:
    raw = dumps(record)
    return {
        "generation": record.generation,
        "group": group_of(record),
        "deadline": record.deadline,
        "owner": record.user,
        "place": place_of(record),
        "head": raw[:LISTED],
        "rest": raw[LISTED:],
    }


def _beyond(side: str, entry: Entry | None) -> _Document:
    """Returns the condition for sessions on one side of an entry."""
    if entry is None:
        return {}
    deadline, key, _ = entry
    return {"$or": [{"deadline": {side: deadline}}, {"deadline": deadline, "_id": {side: key}}]}
