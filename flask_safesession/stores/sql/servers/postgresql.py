"""Connections to PostgreSQL, by libpq's pipeline mode (psycopg's module ``pq``).

Statements are prepared once a connection. A pooler that gives each transaction another connection
to the server (pgbouncer before 1.21) does not know them there: then they are sent in full.
"""

from __future__ import annotations

import math
import select
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from hashlib import sha256
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from ...remote.deadline import remaining
from ..connections import Call
from ..dialect import Dialect
from .lines import Access, Driver, Lost, Refused, Result, TimedOut, check_idle

DIALECT = Dialect(
    "PostgreSQL",
    identity="BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    integer="BIGINT",
    text='TEXT COLLATE "C"',
    blob="BYTEA",
    clock="CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS BIGINT)",
    # Not settings of the connection, which may be a pooler's.
    limit="".join(
        f" AND set_config('{name}', '{value}', true) <> ''"
        for name, value in (
            ("lock_timeout", "{wait}ms"),
            # A worker that stands still, or is cut off, does not keep its locks.
            ("idle_in_transaction_session_timeout", "{milliseconds}ms"),
        )
    ),
    parameter="${n}",
)
# The pooler has given another connection to the server, with other prepared statements.
_POOLED = ("26000", "42P05")
# The server ends the connection: it shuts down, has crashed, or is starting; or a transaction stood
# still for too long.
_ENDED = ("25P03", "57P01", "57P02", "57P03", "08000", "08003", "08006")
_FIXES = {
    "42P01": "the tables are missing: let the user make them, or make them with the statements"
    " that 'flask safesession schema' prints",
    "42501": "let the user read, write and make the tables, or make them with the statements that"
    " 'flask safesession schema' prints",
    "53100": "make room on the server's disk",
    "25006": "this is a read-only replica: name the primary in SAFESESSION_STORE, or add"
    " target_session_attrs=read-write",
    "55P03": "another program has locked the tables",
}
# A connection that is refused has no code.
_CONNECTING = {
    "authentication failed": "correct the user name or password in SAFESESSION_STORE",
    "no password supplied": "give the password in SAFESESSION_STORE",
    "pg_hba.conf": "let the user connect: see the server's pg_hba.conf",
    "too many clients": "raise the server's max_connections, or lower max_connections in"
    " SAFESESSION_STORE",
    "does not exist": "make it, or correct SAFESESSION_STORE",
}
# Whatever waits for a lock sees afterwards what others have done.
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
_BINARY = 1
_INTEGERS, _BYTES = (20, 21, 23), 17
_READ, _WRITE = select.POLLIN, select.POLLOUT


class _Modes:
    """What the connections of a store have found out about the server."""

    prepares: bool = True


class PostgresLine:
    """See :class:`.lines.Line`.

    :param conninfo: a URL or a connection string of libpq.
    :param access: what the app gives for this connection.
    :param modes: of all connections of a store.
    """

    idle_since: float = math.inf

    def __init__(self, conninfo: str, access: Access, modes: _Modes) -> None:
        self._names: dict[str, bytes] = {}
        self._modes = modes
        with _translated():
            self._pg = self._begin(conninfo, access)
        try:
            with _translated():
                self._connect()
            self._pg.nonblocking = 1
            self._readable = select.poll()
            self._readable.register(self._pg.socket, _READ)
            self._pg.enter_pipeline_mode()
        except BaseException:
            self.close()
            raise

    def run(self, calls: Sequence[Call]) -> list[Result]:
        """See :meth:`.lines.Line.run`."""
        try:
            with _translated():
                wanted = [part for call in calls for part in self._send(*call)]
                self._pg.pipeline_sync()
                self._flush()
                return list(self._answers(wanted))
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """See :meth:`.lines.Line.check`."""
        check_idle(self._pg.socket)

    def close(self) -> None:
        """See :meth:`.lines.Line.close`."""
        self._pg.finish()

    def _begin(self, conninfo: str, access: Access) -> Any:
        """Returns a connection of libpq that is being made, or the one that the app has made."""
        self._owner = access.new_connection()  # a psycopg.Connection, kept as it warns when freed
        if self._owner is not None:
            self._owner.commit()  # a listener may have begun a transaction
            return self._owner.pgconn
        if (password := access.new_password()) is not None:
            conninfo = make_conninfo(conninfo, password=password)
        return pq.PGconn.connect_start(conninfo.encode())

    def _connect(self) -> None:
        while (state := self._pg.connect_poll()) != pq.PollingStatus.OK:
            if state == pq.PollingStatus.FAILED:
                raise Lost(_explained(self._pg.get_error_message(), _CONNECTING))
            self._wait(_READ if state == pq.PollingStatus.READING else _WRITE)

    def _send(self, statement: str, parameters: Sequence[Any]) -> list[bool]:
        """Send a statement. Returns an entry for each answer: whether it is the statement's."""
        values = [value if isinstance(value, bytes) else _text(value) for value in parameters]
        formats = [int(isinstance(value, bytes)) for value in parameters]
        if not self._modes.prepares:
            self._pg.send_query_params(statement.encode(), values, None, formats, _BINARY)
            return [True]
        name = self._names.get(statement)
        if prepared := name is None:
            name = self._names[statement] = _name_of(statement)
            self._pg.send_prepare(name, statement.encode())
        self._pg.send_query_prepared(name, values, formats, _BINARY)
        return [False, True] if prepared else [True]

    def _flush(self) -> None:
        while self._pg.flush():
            if self._wait(_READ | _WRITE) & _READ:  # or both would wait, with full buffers
                self._pg.consume_input()

    def _answers(self, wanted: list[bool]) -> Iterator[Result]:
        """Returns the answers of statements; raises the first error when all are read."""
        failure: Refused | None = None
        for is_statement in wanted:
            while (answer := self._next()) is not None:
                if answer.status == pq.ExecStatus.FATAL_ERROR:
                    failure = failure or self._refused(answer)
                elif is_statement and failure is None:
                    yield _result(answer)
        # Without a COMMIT the end of the pipeline commits, which may fail, too.
        if (end := self._next()) is not None and end.status == pq.ExecStatus.FATAL_ERROR:
            failure = failure or self._refused(end)
        if failure is not None:
            raise failure

    def _next(self) -> Any:
        while self._pg.is_busy():
            if not self._readable.poll(remaining(TimedOut) * 1000):
                raise TimedOut
            self._pg.consume_input()
        return self._pg.get_result()

    def _refused(self, answer: Any) -> Refused:
        code = (answer.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (answer.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(
            errors="replace"  # it is in the encoding of the connection
        )
        if code in _ENDED or not code:
            raise Lost(text or answer.get_error_message())
        if code in _POOLED:
            self._modes.prepares = False
        return Refused(code, _explained(text, {code: _FIXES.get(code, "")}, code))

    def _wait(self, events: int) -> int:
        poll = select.poll()
        poll.register(self._pg.socket, events)
        ready = poll.poll(remaining(TimedOut) * 1000)
        if not ready:
            raise TimedOut
        return ready[0][1]


@contextmanager
def _translated() -> Iterator[None]:
    """Raises libpq's own errors, all about the connection, as :class:`.Lost`."""
    try:
        yield
    except psycopg.Error as error:
        raise Lost(str(error)) from error


def _explained(text: str, fixes: dict[str, str], code: str = "") -> str:
    fix = next((fix for sign, fix in fixes.items() if fix and (sign in text or sign == code)), "")
    lines = [line for line in text.splitlines() if not line.startswith("\t")]  # without advice
    return ": ".join(filter(None, ("; ".join(lines), fix)))


def _text(value: Any) -> bytes | None:
    return None if value is None else str(value).encode()


def _result(answer: Any) -> Result:
    if not answer.ntuples:
        return Result([], answer.command_tuples or 0)
    columns = range(answer.nfields)
    kinds = [answer.ftype(column) for column in columns]
    rows = [
        tuple(_value(answer.get_value(row, column), kinds[column]) for column in columns)
        for row in range(answer.ntuples)
    ]
    return Result(rows, answer.command_tuples or 0)


def _value(raw: Any, kind: int) -> Any:
    if raw is None:
        return None
    if kind in _INTEGERS:
        return int.from_bytes(raw, "big", signed=True)
    return bytes(raw) if kind == _BYTES else raw.decode()


@cache
def _name_of(statement: str) -> bytes:
    """Returns a name that no other statement has: a pooler may pass it on to other clients."""
    return b"safesession_" + sha256(statement.encode()).hexdigest()[:32].encode()


def _check(url: str) -> None:
    try:
        pq.Conninfo.parse(url.encode())
    except psycopg.Error as error:
        raise ValueError(str(error).strip()) from error


def _open(url: str, seconds: float, access: Access) -> Callable[[], PostgresLine]:
    del seconds  # each transaction sets its own: a pooler's connections are not only ours
    return partial(PostgresLine, url, access, _Modes())


DRIVER = Driver(
    "postgresql",
    DIALECT,
    _check,
    _open,
    # The limits have to be set before the statement that waits for them, perhaps for a whole table.
    begin=(_BEGIN, "SELECT 1 WHERE true{limit}"),
    implicit=True,
    again=("40P01", "40001", *_POOLED),
    missing="42P01",
    read_only=("25006", "53100"),
    alone=((_BEGIN, "SELECT pg_advisory_xact_lock(7235927)"), ("COMMIT",)),
)
