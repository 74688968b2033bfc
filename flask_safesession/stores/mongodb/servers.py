"""The connection of a process to MongoDB: time limits, repeated transactions, forks."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pymongo
from pymongo import MongoClient, ReadPreference
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from ...errors import ConfigError, StoreUnavailable, UnfitStore
from ..forks import leak
from ..remote.breaker import Breaker, Notify, watching
from ..remote.deadline import deadline, is_late, remaining
from .url import server_of

_T = TypeVar("_T")

#: The database where a URL names none.
DATABASE = "safesession"
#: The version of the collections. A store with a newer one is refused.
VERSION = 1
#: The key of the one document of its collection, see :class:`.tables.MongoDBTables`.
SEAT = "seat"
_MAJORITY = WriteConcern("majority")
# Seconds before a transaction is repeated after a conflict, at first and at most.
_WAIT, _LONGEST_WAIT, _GROWTH = 0.002, 0.05, 1.5
_INDEXES = {
    "sessions": (
        ("generation", "group", "deadline", "_id"),
        ("owner", "generation", "group", "place", "number"),
    ),
    "endings": (("kind", "number"), ("kind", "owner", "number"), ("kind", "until")),
}


# Where PyMongo's own settings, its view of the servers, or a whole reply begins in a message.
_DUMP = re.compile(r" \(configured timeouts:|, Timeout: |, full error: ")


class CircuitOpen(StoreUnavailable):
    """The circuit breaker refuses the call."""

    def __init__(self, reason: str) -> None:
        super().__init__(_brief(reason))


class Servers:
    """The client of a process, and the collections under a prefix.

    :param url: of the servers.
    :param prefix: what the names of the collections begin with.
    :param timeout: seconds that one call may take, repetitions included.
    :param notify: receives the events of the servers.
    """

    def __init__(self, url: str, prefix: str, timeout: float, notify: Notify) -> None:
        if "$" in prefix or prefix.startswith("system."):
            fix = "in MongoDB it has no '$' and does not begin with 'system.'"
            raise ConfigError([f"SAFESESSION_KEY_PREFIX is {prefix!r}: {fix}"])
        #: The hosts, for messages.
        self.name: str = server_of(url)
        self._prefix = prefix
        self._url = url
        self._timeout = timeout
        self._notify = notify
        self._is_checked = False
        self._begin()

    def collection(self, name: str) -> Collection[Any]:
        """Returns a collection. No server but the primary knows which sessions have ended."""
        database = self._client.get_default_database(DATABASE)
        return database.get_collection(
            f"{self._prefix}_{name}",
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=_MAJORITY,
        )

    def call(self, work: Callable[[], _T]) -> _T:
        """Returns what *work* returns, within the time-out.

        After a conflict, nothing was done, and it is repeated. Single writes and commits whose
        reply was lost are repeated by the driver; the server recognises them.

        :raises StoreUnavailable: the server did not answer, or with an error.
        """
        if self._process != os.getpid():
            # To close a copy of the parent's connections would end its transactions.
            leak([self._client])
            self._begin()
        longest = _WAIT
        with deadline(self._timeout), pymongo.timeout(self._timeout):
            while True:
                try:
                    with watching(self.breaker, late=is_late()):
                        self._check()
                        return work()
                except PyMongoError as error:
                    if not error.has_error_label("TransientTransactionError"):
                        text = _brief(str(error)).removeprefix(f"{self.name}: ")
                        raise StoreUnavailable(f"{self.name}: {text}") from error
                patience = min(longest, remaining(StoreUnavailable))
                time.sleep(random.uniform(0, patience))  # noqa: S311  # nosec B311  # no secret
                longest = min(longest * _GROWTH, _LONGEST_WAIT)

    @contextmanager
    def transaction(self) -> Iterator[ClientSession]:
        """Returns a session with a transaction for a ``with`` block."""
        self._release()
        with self._client.start_session(causal_consistency=False) as session:
            snapshot = ReadConcern("snapshot")
            begun = session.start_transaction(snapshot, _MAJORITY, ReadPreference.PRIMARY)
            try:
                with begun:
                    yield session
            except PyMongoError as error:
                if _has_failed(error, late=False):
                    self._abandoned.append(session.session_id)
                raise

    def need(self, seat: _T | None) -> _T:
        """Returns *seat*, which is missing if the collections were dropped.

        :raises StoreUnavailable: the next call makes them again.
        """
        if seat is None:
            self._is_checked = False
            raise StoreUnavailable(f"{self.name}: the collections {self._prefix}_* were dropped")
        return seat

    def close(self) -> None:
        """Close all connections. The next call opens others."""
        self._client.close()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self.breaker: Breaker = Breaker(self.name, self._notify, _has_failed, CircuitOpen)
        self._client: MongoClient[Any] = MongoClient(
            self._url, connect=False, retryReads=True, retryWrites=True, appname="safesession"
        )
        # Sessions whose transaction could not be ended.
        self._abandoned: list[Any] = []

    def _release(self) -> None:
        """End abandoned transactions: the server would keep their locks for a minute."""
        for abandoned in self._abandoned[:]:
            with suppress(OperationFailure):  # it has ended, or the user has no right to do this
                self._client.admin.command("killSessions", [abandoned])
            with suppress(ValueError):  # another thread has done it
                self._abandoned.remove(abandoned)

    def _check(self) -> None:
        """Make the collections if they are missing, and compare their version.

        :raises UnfitStore: they are of another version, or the server has no transactions.
        """
        if self._is_checked:
            return
        hello = self._client.admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            fix = "start mongod with --replSet and call rs.initiate() once; one member is enough"
            raise UnfitStore([f"{self.name} is not a replica set and has no transactions: {fix}"])
        seats = self.collection("seats")
        seat = seats.find_one() or self._make(seats)
        if seat["version"] != VERSION:
            collections, instead = f"the collections on {self.name}", "SAFESESSION_KEY_PREFIX"
            raise UnfitStore.of_version(collections, seat["version"], VERSION, instead)
        self._is_checked = True

    def _make(self, seats: Collection[Any]) -> dict[str, Any]:
        owned: dict[str, Any] = {"partialFilterExpression": {"owner": {"$gt": ""}}}
        for name, indexes in _INDEXES.items():
            for fields in indexes:
                # Anonymous sessions have no owner, and are not in the index of owners.
                self.collection(name).create_index(fields, **owned if "owner" in fields else {})
        seat = {"_id": SEAT, "version": VERSION, "generation": 0, "ended_by": "", "turn": 0}
        with suppress(DuplicateKeyError):  # another process was faster
            seats.insert_one({**seat, "held": {}})
        return seat


def _brief(text: str) -> str:
    """Returns an error of PyMongo without what follows its first sentence."""
    return _DUMP.split(text)[0]


def _has_failed(error: BaseException, late: bool) -> bool | None:
    """Returns whether *error* is the server's failure; ``None``: it says nothing about it."""
    if isinstance(error, CircuitOpen) or not isinstance(error, PyMongoError):
        return None
    if error.timeout and late:
        return None
    return error.timeout or isinstance(error, ConnectionFailure)
