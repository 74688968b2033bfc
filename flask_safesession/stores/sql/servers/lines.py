"""A connection to a SQL server, whatever the driver: several statements in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from ..dialect import Dialect
from ..tables import Call


class Result(NamedTuple):
    """The answer to one statement.

    :param rows: empty: it was no query.
    :param changed: the rows that it matched, if it was an ``UPDATE``.
    """

    rows: list[Any]
    changed: int


class Line(Protocol):
    """A connection. After an exception it is closed, and cannot be used again."""

    def run(self, calls: Sequence[Call]) -> list[Result]:
        """Run statements one by one, in one round trip, and return their answers.

        The first one that fails ends the sequence.

        :raises Lost: the server did not answer in time, or the connection has ended.
        :raises Refused: a statement has failed.
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


class Driver(NamedTuple):
    """A kind of server.

    :param dialect: of its SQL.
    :param check: raises :exc:`ValueError` for a URL that cannot be used, with the problem.
    :param open: returns a function that opens connections to a URL. The number is that of the
        seconds for which a statement may wait.
    :param begin: the statements that begin a transaction; ``{milliseconds}``: its time-out;
        ``{wait}``: that of a lock, a little less, so that the server says what it waited for.
    :param again: codes of errors after which nothing is done, and a repetition may succeed.
    :param missing: the code of the error for a table that is not there.
    :param read_only: codes of errors of a server that takes no writes, and can be read.
    :param alone: statements that exclude other processes while tables are made, and end that.
    """

    dialect: Dialect
    check: Callable[[str], None]
    open: Callable[[str, float], Callable[[], Line]]
    begin: tuple[str, ...]
    again: tuple[str, ...]
    missing: str
    read_only: tuple[str, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]
