"""A connection to a SQL server, whatever the driver: several statements in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ...remote.idle import is_stale
from ..connections import Call
from ..dialect import Dialect


class Result(NamedTuple):
    """The answer to one statement.

    :param rows: empty: it was no query.
    :param changed: the rows that it matched, if it was an ``UPDATE``.
    """

    rows: list[Any]
    changed: int


class Line(Protocol):
    """A connection. After an exception it is closed, and cannot be used again.

    :ivar idle_since: when it was last used, by the monotonic clock; ``inf``: it is new.
    """

    idle_since: float

    def run(self, calls: Sequence[Call]) -> list[Result]:
        """Run statements one by one, in one round trip, and return their answers.

        The first one that fails ends the sequence.

        :raises Lost: the server did not answer in time, or the connection has ended.
        :raises Refused: a statement has failed.
        """
        ...

    def check(self) -> None:
        """Check, without waiting, that the server has not ended the connection.

        :raises Lost: it has, or it has sent what nobody asked for.
        """
        ...

    def close(self) -> None:
        """Close the connection, without waiting for the server."""
        ...


class Lost(Exception):
    """The connection has ended, or could not be made."""


class TimedOut(Lost):
    """The server did not answer in time."""

    def __init__(self, *_: object) -> None:
        super().__init__(
            "it did not answer in time: it is overloaded or cut off, or another program has locked"
            " the tables"
        )


class Refused(Exception):
    """The server's error.

    :param code: an SQLSTATE, or the number of MySQL.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code: str = code


def check_idle(connection: Any) -> None:
    """See :meth:`Line.check`.

    :param connection: a socket, or its number.
    """
    if is_stale(connection):
        raise Lost("the server has ended the connection")


class Access(NamedTuple):
    """What an app gives for connections beside a URL: functions that are called for each new one.

    :param password: returns the password; ``None``: that of the URL.
    :param connect: returns a connection of the driver; ``None``: the store connects.
    """

    password: Callable[[], str] | None = None
    connect: Callable[[], Any] | None = None

    def new_password(self) -> str | None:
        """Returns the password for a new connection; ``None``: that of the URL.

        :raises Lost: there is none. The text has no more than the names of classes.
        """
        if self.password is None:
            return None
        try:
            found: object = self.password()
        except Exception as error:
            kind = type(error).__name__
            raise Lost(f"the function in SAFESESSION_STORE_PASSWORD raised {kind}") from error
        if not isinstance(found, str):
            kind = type(found).__name__
            raise Lost(f"the function in SAFESESSION_STORE_PASSWORD returned {kind}, not text")
        return found

    def new_connection(self) -> Any:
        """Returns a new connection of the driver; ``None``: the store has to connect.

        :raises Lost: there is none.
        """
        try:
            return None if self.connect is None else self.connect()
        except Exception as error:
            raise Lost(f"the app's engine cannot connect: {error}") from error


class Driver(NamedTuple):
    """A kind of server.

    :param system: its name in traces, as OpenTelemetry has it.
    :param dialect: of its SQL.
    :param check: raises :exc:`ValueError` for a URL that cannot be used, with the problem.
    :param open: returns a function that opens connections to a URL, with what the app gives for
        them. The number is that of the seconds for which a statement may wait.
    :param begin: the statements that begin a transaction; ``{limit}`` is that of the dialect.
    :param implicit: the statements of one round trip are a transaction without the first of these,
        and without a COMMIT.
    :param again: codes of errors after which nothing is done, and a repetition may succeed.
    :param missing: the code of the error for a table that is not there.
    :param read_only: codes of errors of a server that takes no writes, and can be read.
    :param alone: statements that exclude other processes while tables are made, and end that.
    """

    system: str
    dialect: Dialect
    check: Callable[[str], None]
    open: Callable[[str, float, Access], Callable[[], Line]]
    begin: tuple[str, ...]
    implicit: bool
    again: tuple[str, ...]
    missing: str
    read_only: tuple[str, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]
