"""Connections to MySQL and MariaDB, by PyMySQL: several statements are sent as one text.

PyMySQL limits the time of each read alone. Its connections get sockets of ours, which cut each wait
to what is left of the call.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT, CR, ER

from ...remote.deadline import remaining
from ..dialect import Dialect
from ..tables import Call
from .lines import Driver, Lost, Refused, Result, TimedOut

DIALECT = Dialect(
    "MySQL or MariaDB",
    identity="BIGINT AUTO_INCREMENT PRIMARY KEY",
    integer="BIGINT",
    cast="SIGNED",
    text="VARCHAR(40)",
    blob="LONGBLOB",
    # Not UNIX_TIMESTAMP(), which is ambiguous when a summer time ends.
    clock="TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000",
    skip=" FOR UPDATE SKIP LOCKED",
    join="STRAIGHT_JOIN",
    by_key=' FORCE INDEX ("key")',
    table=" ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin",
    partial=False,
    upsert="ON DUPLICATE KEY UPDATE",
    new="VALUES({column})",
    parameter="%s",
)
# The driver's own errors are about the connection; so are some of the server's.
_CLIENT_ERRORS = range(CR.CR_ERROR_FIRST, CR.CR_ERROR_LAST + 100)
_ENDED = (ER.SERVER_SHUTDOWN, ER.CON_COUNT_ERROR, ER.NORMAL_SHUTDOWN, 1927, 3169, 4031)
_FULL = (ER.DISK_FULL, ER.RECORD_FILE_FULL)
_FIXES = {
    ER.ACCESS_DENIED_ERROR: "correct the user name or password in SAFESESSION_STORE",
    ER.DBACCESS_DENIED_ERROR: "let the user use the database",
    ER.BAD_DB_ERROR: "make the database, or name another in SAFESESSION_STORE",
    ER.CON_COUNT_ERROR: "raise the server's max_connections, or lower max_connections in"
    " SAFESESSION_STORE",
    ER.NO_SUCH_TABLE: "the tables are missing: let the user make them, or make them with the"
    " statements that 'flask safesession schema' prints",
    ER.TABLEACCESS_DENIED_ERROR: "let the user read, write and make the tables, or make them with"
    " the statements that 'flask safesession schema' prints",
    **dict.fromkeys(_FULL, "make room on the server's disk"),
    ER.OPTION_PREVENTS_STATEMENT: "the server is read-only: name the primary in SAFESESSION_STORE",
}
_PORT = 3306
_PARAMETERS = {"unix_socket", "ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_identity"}
_SET_UP = (
    # ANSI_QUOTES: names in double quotes, as in the other databases.
    "SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
    " innodb_lock_wait_timeout = {seconds}"
    # A worker that stands still, or is cut off, does not keep its locks. MySQL has no such limit.
    " /*M!100300 , idle_transaction_timeout = {seconds} */"
)


class MySQLLine:
    """See :class:`.lines.Line`.

    :param options: arguments of :func:`pymysql.connect`.
    :param seconds: for which a statement may wait for a lock.
    """

    def __init__(self, options: Mapping[str, Any], seconds: float) -> None:
        with _translated():
            self._connection: Any = pymysql.connect(
                **options,
                defer_connect=True,
                autocommit=True,
                charset="utf8mb4",
                client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS,
                init_command=_SET_UP.format(seconds=max(1, round(seconds))),
            )
            self._connection.connect(_connected(options))
            self._cursor = self._connection.cursor()
            self._cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def run(self, calls: Sequence[Call]) -> list[Result]:
        """See :meth:`.lines.Line.run`."""
        try:
            with _translated():
                text = ";".join(self._cursor.mogrify(*call) for call in calls)
                self._cursor.execute(text)
                results = [self._result()]
                while self._cursor.nextset():
                    results.append(self._result())
                return results
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See :meth:`.lines.Line.close`."""
        with suppress(Exception):  # it says good-bye, where the connection still works
            self._connection.close()

    def _result(self) -> Result:
        rows = list(self._cursor.fetchall()) if self._cursor.description else []
        return Result(rows, self._cursor.rowcount)


class _Timed:
    """A socket that cuts each wait to what is left of the call."""

    def settimeout(self, _: float | None) -> None:
        super().settimeout(remaining(TimedOut))  # type: ignore[misc]

    def recv_into(self, *given: Any) -> int:
        self.settimeout(None)
        received: int = super().recv_into(*given)  # type: ignore[misc]
        return received

    def sendall(self, *given: Any) -> None:
        self.settimeout(None)
        super().sendall(*given)  # type: ignore[misc]


class _TimedSocket(_Timed, socket.socket):
    """For a connection that is not encrypted."""


class _TimedTLS(_Timed, ssl.SSLSocket):
    """For one that is."""


def _connected(options: Mapping[str, Any]) -> _TimedSocket:
    """Returns a socket that is connected to the server."""
    if path := options.get("unix_socket"):
        return _connect(socket.AF_UNIX, path)
    where = socket.getaddrinfo(options["host"], options["port"], type=socket.SOCK_STREAM)
    for number, (family, *_, address) in enumerate(where, 1):
        try:
            made = _connect(family, address)
        except OSError:
            if number == len(where):
                raise
        else:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return made
    raise OSError("the name has no address")


def _connect(family: int, address: Any) -> _TimedSocket:
    made = _TimedSocket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(None)
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


@contextmanager
def _translated() -> Iterator[None]:
    """Raises the driver's errors as :class:`.Lost` or :class:`.Refused`."""
    try:
        yield
    except TimeoutError as error:
        raise TimedOut from error
    except OSError as error:
        raise Lost(str(error)) from error
    except pymysql.err.Error as error:
        if isinstance(error.__context__, TimeoutError):
            raise TimedOut from error
        code, text = (*error.args, 0, str(error))[:2] if len(error.args) > 1 else (0, str(error))
        text = f"{text}: {_FIXES[code]}" if code in _FIXES else str(text)
        if not code or code in _CLIENT_ERRORS or code in _ENDED:
            raise Lost(text) from error
        raise Refused(str(code), text) from error


def _options(url: str) -> dict[str, Any]:
    """Returns PyMySQL's arguments for *url*.

    :raises ValueError: with what to write instead.
    """
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(given.keys() - _PARAMETERS):
        raise ValueError(
            f"{unknown[0]} is no parameter; there are {', '.join(sorted(_PARAMETERS))}"
        )
    if not parts.path.strip("/"):
        raise ValueError("name the database after the host: mysql://user@host/database")
    options: dict[str, Any] = {
        "host": parts.hostname or "localhost",
        "port": parts.port or _PORT,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "database": unquote(parts.path.strip("/")),
    }
    if path := given.pop("unix_socket", ""):
        options["unix_socket"] = path
    if given:
        options["ssl"] = _context(given)
    else:
        options["ssl_disabled"] = True  # otherwise PyMySQL reads all authorities each time
    return options


def _context(given: Mapping[str, str]) -> ssl.SSLContext:
    """Returns how connections are encrypted: with the server's name checked, unless it says not."""
    context = ssl.create_default_context(cafile=given.get("ssl_ca"))
    context.check_hostname = given.get("ssl_verify_identity", "true") == "true"
    if not context.check_hostname and "ssl_ca" not in given:
        context.verify_mode = ssl.CERT_NONE
    if certificate := given.get("ssl_cert"):
        context.load_cert_chain(certificate, given.get("ssl_key"))
    context.sslsocket_class = _TimedTLS
    return context


def _check(url: str) -> None:
    _options(url)


def _open(url: str, seconds: float) -> Callable[[], MySQLLine]:
    return partial(MySQLLine, _options(url), seconds)


DRIVER = Driver(
    DIALECT,
    _check,
    _open,
    begin=("START TRANSACTION",),
    again=(str(ER.LOCK_DEADLOCK), str(ER.LOCK_WAIT_TIMEOUT)),
    missing=str(ER.NO_SUCH_TABLE),
    read_only=tuple(map(str, (ER.OPTION_PREVENTS_STATEMENT, *_FULL, 1792, 1836))),
    alone=(("DO GET_LOCK('safesession', 10)",), ("DO RELEASE_LOCK('safesession')",)),
)
