"""What the security tests share: a site whose view comes with the request; a look into stores."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from http.cookies import Morsel, SimpleCookie
from typing import Any

from flask import Flask, Response, make_response, request
from werkzeug.datastructures import Headers

from flask_safesession import SafeSession, session
from flask_safesession.model.record import header_length, loads
from flask_safesession.model.tokens import SessionID, unsign
from flask_safesession.stores.base import LISTED, Gone
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.mongodb.store import MongoDBStore
from flask_safesession.stores.opening import Opened
from flask_safesession.stores.remote.deadline import deadline
from flask_safesession.stores.sharded import shard_of
from flask_safesession.stores.sql.servers.store import SqlServerStore
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.stores.sql.store import SqlStore
from flask_safesession.testing import StoreKit

from .counting import CountingStore

KEY = "a key for tests that is long enough"
SECOND = 1000
MINUTE = 60 * SECOND
Work = Callable[[], Any]

_WORK = "tested.work"


class Answer:
    """A response, and what it did to the session cookie."""

    def __init__(self, response: Any, name: str) -> None:
        self.status: int = response.status_code
        self.headers: Headers = response.headers
        self.text: str = response.get_data(as_text=True)
        self._name = name
        response.close()

    @property
    def value(self) -> Any:
        """What the work in the view returned."""
        return json.loads(self.text)

    @property
    def morsel(self) -> Morsel[str] | None:
        """The session cookie that is set or deleted, with its attributes."""
        found = [v for v in self.headers.getlist("Set-Cookie") if v.startswith(self._name + "=")]
        assert len(found) < 2
        return SimpleCookie(found[0])[self._name] if found else None

    @property
    def cookie(self) -> str:
        """The value of the session cookie that is set."""
        assert self.morsel is not None
        return self.morsel.value


class Site:
    """An app with sessions in the store of *kit*; ``site.store.calls`` tells what it was asked."""

    def __init__(
        self, kit: StoreKit, *, config: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        self.kit = kit
        self.store = CountingStore(kit.store)
        self.app = Flask("tested")
        self.app.secret_key = KEY
        self.app.config.update(config or {})
        settings.setdefault("check_interval", None)
        self.safe = SafeSession(self.app, store=self.store, **settings)
        self.app.add_url_rule("/", view_func=_view, methods=["GET", "POST"])

    def post(self, work: Work, *cookies: str) -> Answer:
        """One request like a form's, in which the view does *work*."""
        return self.visit(work, *cookies, method="POST")

    def visit(
        self,
        work: Work | None,
        *cookies: str,
        header: str | None = None,
        path: str = "/",
        method: str = "GET",
    ) -> Answer:
        """One request, in which the view does *work*; *cookies* are sent as session cookies."""
        name = self.app.config["SESSION_COOKIE_NAME"]
        if header is None:
            header = "; ".join(f"{name}={value}" for value in cookies)
        environ = {_WORK: work} | ({"HTTP_COOKIE": header} if header else {})
        client = self.app.test_client(use_cookies=False)
        return Answer(client.open(path, method=method, environ_overrides=environ), name)

    def sid(self, cookie: str) -> SessionID:
        """The ID in a cookie of this site."""
        verified = unsign(cookie, self.app.secret_key or "")
        assert verified is not None
        return verified.sid

    def is_gone(self, cookie: str) -> bool:
        """Whether the store has no session behind *cookie*."""
        rules = self.app.extensions["safesession"].settings.rules
        answer = self.kit.store.load(self.sid(cookie).key, rules, slide=False)
        return isinstance(answer, Gone)

    def count(self) -> int:
        """Live sessions in the store."""
        with self.app.app_context():
            return self.safe.count()


def _view() -> Response:
    work: Work | None = request.environ[_WORK]
    made = None if work is None else work()
    return make_response(made if isinstance(made, Response) else json.dumps(made, default=str))


def read() -> dict[str, Any]:
    return dict(session)


def write(key: str, value: Any) -> Work:
    return lambda: session.__setitem__(key, value)


def login(user: Any) -> Work:
    return write("user_id", user)


def logout() -> None:
    session.clear()


def regenerate() -> None:
    session.regenerate()


def dump(store: Any) -> bytes:
    """Everything that *store* holds: keys, records, indexes."""
    if isinstance(store, MemoryStore):
        endings = [vars(kept) for kept in store.tables._endings.values()]
        return repr([vars(store), vars(store.tables), endings]).encode()
    if isinstance(store, SqlStore):
        return repr([sql(store, f'SELECT * FROM "{{p}}_{name}"') for name in TABLES]).encode()
    if isinstance(store, MongoDBStore):
        names = ("sessions", "endings", "seats", "documents")
        return repr([[*store._servers.collection(name).find()] for name in names]).encode()
    found = []
    every_shard = shards_of(store)[0].slot.replace(":0}", ":*}")
    for name in sorted(ask(store, "KEYS", f"{every_shard}*")):  # in no order of its own
        command, *rest = _READERS[ask(store, "TYPE", name)]
        found.append(repr([name, ask(store, command, name, *rest)]))
    return "".join(found).encode()


_READERS: dict[bytes, tuple[str, ...]] = {
    b"string": ("GET",),
    b"list": ("LRANGE", "0", "-1"),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", "0", "-1"),
    b"hash": ("HGETALL",),
}


def shards_of(store: Any) -> Any:
    """The parts of a store on Redis."""
    return Opened.of(store).shards


def ask(store: Any, *command: Any) -> Any:
    """One command to the one server that a store on Redis has, on a connection of the store."""
    [reply] = shards_of(store)[0]._caller.topology.route("")(command)
    return reply


TABLES = ("sessions", "endings", "seats", "documents", "meta")


def sql(store: SqlStore, statement: str, *parameters: Any) -> list[Any]:
    """What the database of *store* answers to another program; ``{p}``: the tables' prefix."""
    if isinstance(store, SqlServerStore):
        statement = store._dialect.render(statement, store._prefix)
        with deadline(10), store._pool.line() as line:
            return line.run([(statement, parameters)])[0].rows
    assert isinstance(store, SqliteStore)
    with closing(sqlite3.connect(store.path)) as other, other:
        return other.execute(statement.replace("{p}", "safesession"), parameters).fetchall()


def name_of(store: Any, key: str) -> str:
    """Under which name a store on Redis keeps the session."""
    shards = shards_of(store)
    name: str = shards[shard_of(key, len(shards))]._name(key)
    return name


def raw(store: Any, key: str) -> bytes:
    """The bytes of a record."""
    found: bytes
    if isinstance(store, MemoryStore):
        found = store.tables.records[key]
    elif isinstance(store, SqlStore):
        [(found,)] = sql(store, 'SELECT record FROM "{p}_sessions" WHERE "key" = ?', key)
    elif isinstance(store, MongoDBStore):
        session = store._servers.collection("sessions").find_one({"_id": key})
        assert session is not None
        found = session["head"] + session["rest"]
    else:
        found = ask(store, "GET", name_of(store, key))
    return found


def before_payload(record: bytes) -> bytes:
    """A record's header and note: what stands before its payload."""
    return record[: header_length(record) + len(loads(record).note)]


def overwrite(store: Any, key: str, value: bytes) -> None:
    """Put *value* in the place of a record, as another program could."""
    if isinstance(store, MemoryStore):
        store.tables.records[key] = value
    elif isinstance(store, SqlStore):
        sql(store, 'UPDATE "{p}_sessions" SET record = ? WHERE "key" = ?', value, key)
    elif isinstance(store, MongoDBStore):
        fields = {"head": value[:LISTED], "rest": value[LISTED:]}
        store._servers.collection("sessions").update_one({"_id": key}, {"$set": fields})
    else:
        ask(store, "SET", name_of(store, key), value)


def forget(store: Any, key: str) -> None:
    """Take a record out of the store, behind its back."""
    if isinstance(store, MemoryStore):
        store.tables.remove(key)
    elif isinstance(store, SqlStore):
        sql(store, 'DELETE FROM "{p}_sessions" WHERE "key" = ?', key)
    elif isinstance(store, MongoDBStore):
        store._servers.collection("sessions").delete_one({"_id": key})
    else:
        ask(store, "DEL", name_of(store, key))
