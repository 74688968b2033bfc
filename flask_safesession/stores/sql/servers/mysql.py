"""Connections to MySQL and MariaDB, by PyMySQL: several statements are sent as one text.

PyMySQL limits the time of each read alone. Its connections get sockets of ours, which cut each wait
to what is left of the call.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT, COMMAND, CR, ER

from ....errors import ConfigError
from ...remote.deadline import remaining
from ...remote.names import addresses
from ..connections import Call
from ..dialect import Dialect
from .lines import Access, Driver, Lost, Refused, Result, TimedOut, check_idle

DIALECT = Dialect(
    "MySQL or MariaDB",
    identity="BIGINT AUTO_INCREMENT PRIMARY KEY",
    integer="BIGINT",
    text="VARCHAR(40)",
    blob="LONGBLOB",
    # Not UNIX_TIMESTAMP(), which is ambiguous when a summer time ends.
    clock="TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) DIV 1000",
    skip=" FOR UPDATE SKIP LOCKED",
    join="STRAIGHT_JOIN",
    of='"{p}_sessions" ',
    by_key=' FORCE INDEX ("key")',
    table=" ENGINE=InnoDB DEFAULT CHARACTER SET ascii COLLATE ascii_bin",
    partial=False,
    upsert="ON DUPLICATE KEY UPDATE",
    new="VALUES({column})",
    # Not ROW_COUNT(), which is wrong after an answer that could not be sent.
    first="LAST_INSERT_ID(0)",
    then=("<insert>", "<count>"),
    inserted="LAST_INSERT_ID() > 0",
    parameter="%s",
    quote="`",
)
# The driver's own errors are about the connection; so are some of the server's.
_CLIENT_ERRORS = range(CR.CR_ERROR_FIRST, CR.CR_ERROR_LAST + 100)
_ENDED = (ER.SERVER_SHUTDOWN, ER.CON_COUNT_ERROR, ER.NORMAL_SHUTDOWN, 1927, 3169, 4031)
_FULL = (ER.DISK_FULL, ER.RECORD_FILE_FULL)
_FIXES = {
    ER.ACCESS_DENIED_ERROR: "correct the user name or password in SAFESESSION_STORE; if the server"
    " requires TLS, add ssl=true (or to an app's engine connect_args={'ssl': {'ca': FILE}})",
    ER.DBACCESS_DENIED_ERROR: "let the user use the database",
    ER.BAD_DB_ERROR: "make the database, or name another in SAFESESSION_STORE",
    ER.CON_COUNT_ERROR: "raise the server's max_connections, or lower max_connections in"
    " SAFESESSION_STORE",
    ER.NO_SUCH_TABLE: "the tables are missing: let the user make them, or make them with the"
    " statements that 'flask safesession schema' prints",
    ER.TABLEACCESS_DENIED_ERROR: "let the user read, write and make the tables, or make them with"
    " the statements that 'flask safesession schema' prints",
    **dict.fromkeys(_FULL, "make room on the server's disk"),
    1665: "let the server's binlog_format be MIXED or ROW",
    3159: "add ssl=true to SAFESESSION_STORE, with ssl_ca= if the authority is your own",
    ER.OPTION_PREVENTS_STATEMENT: "the server is read-only: name the primary in SAFESESSION_STORE",
}
_PORT = 3306
# Parameters that are true or false: true, if any of TLS is given.
_SWITCHES = {"ssl", "ssl_verify_cert", "ssl_verify_identity"}
_PARAMETERS = {"unix_socket", "ssl_ca", "ssl_cert", "ssl_key", *_SWITCHES}
_SET_UP = (
    # ANSI_QUOTES: names in double quotes, as in the other databases.
    "SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
    " innodb_lock_wait_timeout = {seconds},"
    # Otherwise a COMMIT may begin another transaction, an UPDATE may be refused, and a query may
    # leave out rows.
    " completion_type = NO_CHAIN, sql_safe_updates = 0, sql_select_limit = 18446744073709551615"
    # A worker that stands still, or is cut off, does not keep its locks. MySQL has no such limit.
    " /*M!100300 , idle_transaction_timeout = {seconds} */"
)


class MySQLLine:
    """See :class:`.lines.Line`.

    :param connect: returns a connection.
    :param seconds: for which a statement may wait for a lock.
    """

    idle_since: float = math.inf

    def __init__(self, connect: Callable[[], Any], seconds: float) -> None:
        with _translated():
            self._connection = connect()
            self._cursor = self._connection.cursor()
            self._cursor.execute(_SET_UP.format(seconds=max(1, round(seconds))))
            self._cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def run(self, calls: Sequence[Call]) -> list[Result]:
        """See :meth:`.lines.Line.run`."""
        try:
            with _translated():
                # For sockets that are not ours: each wait is cut to what is left now.
                left = self._connection._read_timeout = remaining(TimedOut)
                self._connection._write_timeout = left
                text = ";".join(self._cursor.mogrify(*call) for call in calls)
                self._cursor.execute(text)
                results = [self._result()]
                while self._cursor.nextset():
                    results.append(self._result())
                return results
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """See :meth:`.lines.Line.check`."""
        check_idle(self._connection._sock)

    def close(self) -> None:
        """See :meth:`.lines.Line.close`."""
        with suppress(Exception):  # it says good-bye, where the connection still works
            self._connection.close()

    def _result(self) -> Result:
        rows = list(self._cursor.fetchall()) if self._cursor.description else []
        return Result(rows, self._cursor.rowcount)


def _connect(options: Mapping[str, Any], access: Access) -> Any:
    """Returns a new connection of ours."""
    if (password := access.new_password()) is not None:
        options = {**options, "password": password}
    connection = pymysql.connect(
        **options,
        defer_connect=True,
        autocommit=True,
        charset="utf8mb4",
        client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS,
    )
    connection.connect(_connected(options))
    return connection


def _take(access: Access) -> Any:
    """Returns a new connection that the app's engine has made, set up as ours are.

    :raises ConfigError: it counts rows in another way, which cannot be changed any more.
    """
    connection = access.new_connection()
    if not connection.client_flag & CLIENT.FOUND_ROWS:
        problem = "the creator of the app's engine connects without client_flag=CLIENT.FOUND_ROWS"
        raise ConfigError([f"{problem}: add that, or give SAFESESSION_STORE a mysql:// URL"])
    connection.autocommit(True)
    connection.set_character_set("utf8mb4")
    connection._execute_command(COMMAND.COM_SET_OPTION, b"\0\0")  # several statements at once
    connection._read_packet()
    return connection


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
        return _reach(socket.AF_UNIX, path)
    refusal = OSError("the name has no address")
    for address in addresses(options["host"], TimedOut):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            made = _reach(family, (address, options["port"]))
        except OSError as error:
            refusal = error
        else:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return made
    raise refusal


def _reach(family: int, address: Any) -> _TimedSocket:
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
    if context := _context(given):
        options["ssl"] = context
    else:
        options["ssl_disabled"] = True  # otherwise PyMySQL reads all authorities each time
    return options


def _context(given: Mapping[str, str]) -> ssl.SSLContext | None:
    """Returns how connections are encrypted; ``None``: they are not.

    The server's certificate and its name are verified, unless a parameter says not to.
    """
    on = {name: given.get(name, "true").lower() for name in _SWITCHES}
    if wrong := [name for name, value in on.items() if value not in ("true", "false")]:
        raise ValueError(f"{wrong[0]} is {given[wrong[0]]!r}: give true or false")
    if not given or on["ssl"] == "false":
        if other := sorted(given.keys() - {"ssl"}):
            raise ValueError(f"ssl=false contradicts {other[0]}: remove one of them")
        return None
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca"))
        if certificate := given.get("ssl_cert"):
            context.load_cert_chain(certificate, given.get("ssl_key"))
    except OSError as error:
        raise ValueError(f"a file of ssl_ca, ssl_cert or ssl_key is of no use: {error}") from error
    if on["ssl_verify_cert"] == "false":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif on["ssl_verify_identity"] == "false":
        context.check_hostname = False
    context.sslsocket_class = _TimedTLS
    return context


def _check(url: str) -> None:
    _options(url)


def _open(url: str, seconds: float, access: Access) -> Callable[[], MySQLLine]:
    if access.connect is not None:
        return partial(MySQLLine, partial(_take, access), seconds)
    return partial(MySQLLine, partial(_connect, _options(url), access), seconds)


DRIVER = Driver(
    "mysql",
    DIALECT,
    _check,
    _open,
    begin=("START TRANSACTION",),
    implicit=False,
    again=(str(ER.LOCK_DEADLOCK), str(ER.LOCK_WAIT_TIMEOUT)),
    missing=str(ER.NO_SUCH_TABLE),
    read_only=tuple(map(str, (ER.OPTION_PREVENTS_STATEMENT, *_FULL, 1792, 1836))),
    alone=(("DO GET_LOCK('safesession', 10)",), ("DO RELEASE_LOCK('safesession')",)),
)
