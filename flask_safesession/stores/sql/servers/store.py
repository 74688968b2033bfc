"""Sessions in a SQL database on a server: each call is bounded in time, and repeated where it may.

A call is repeated with a new connection if the old one was lost, since idle connections may be cut
at any time. All operations but a creation recognise their own repetition; a creation is repeated
only if its COMMIT was not sent. After a dead-lock nothing was done, and everything is repeated.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ....errors import ConfigError, StoreUnavailable, UnfitStore
from ....events import Event
from ....model.record import Draft, Record
from ...base import Answer, Conflict, Gone, Live, PurgeStep, Removed, Rules, Taken
from ...direct import paced
from ...remote.breaker import Listener
from ...remote.deadline import deadline, remaining
from ...remote.repeating import repeating
from ...tables import TooNarrow
from ..schema import SCHEMA_VERSION, schema
from ..statements import Statements
from ..store import SqlStore
from ..tables import SqlTables
from .connections import Attempts, Connections, attempts_of_call
from .lines import Access, Driver, Lost, Refused, TimedOut
from .pool import CircuitOpen, Pool
from .url import read_url

_T = TypeVar("_T")

#: Sessions that one step of the purge removes at most.
PURGE_STEP = 500
#: Each so-manieth ending of a user trims the user's: this costs a round trip.
TRIM_EVERY = 20
# Longer names of tables would be cut.
_PREFIX = re.compile(rb"[^\0\s?%{}]{1,40}")
_PREFIX_FIX = "in a SQL database give 1 to 40 bytes without spaces, '?', '%' and braces"
# Seconds before a repetition after a dead-lock.
_WAIT = 0.01


@repeating
class SqlServerStore(SqlStore):
    """The store behind the URLs of SQL servers.

    :param url: of the database.
    :param driver: for this kind of server.
    :param access: what the app gives for connections beside the URL.
    :param prefix: what the names of the tables begin with.
    :param timeout: seconds that one call may take, reconnects and repetitions included.
    :param clock: SQL for the time in milliseconds instead of the server's, for tests.
    :raises ConfigError: the URL cannot be used, with what to do instead.
    """

    def __init__(
        self,
        url: str,
        driver: Driver,
        access: Access = Access(),  # noqa: B008  # immutable
        *,
        prefix: str = "safesession",
        timeout: float = 1.0,
        clock: str = "",
    ) -> None:
        if not _PREFIX.fullmatch(prefix.encode()):
            raise ConfigError([f"SAFESESSION_KEY_PREFIX is {prefix!r}: {_PREFIX_FIX}"])
        place = read_url(url)
        #: Its name in traces.
        self.system: str = driver.system
        #: Receives the events of the server.
        self.notify: Listener = Listener()
        self._driver = driver
        times = {"milliseconds": round(timeout * 1000), "wait": round(timeout * 800)}
        self._dialect = driver.dialect._replace(
            clock=clock or driver.dialect.clock, limit=driver.dialect.limit.format(**times)
        )
        self._prefix = prefix
        self._timeout = timeout
        self._checked = False
        self._server = place.server
        connect = driver.open(place.url, timeout, access)
        self._pool = Pool(connect, place.server, place.most, self.notify)
        begin = [text.format(limit=self._dialect.limit) for text in driver.begin]
        statements = Statements(self._dialect, prefix)
        elapsed = (lambda: 0.0) if clock else time.monotonic  # a clock of tests stands still
        self._connections = Connections(
            self._pool, statements, begin, elapsed, implicit=driver.implicit
        )
        tables = SqlTables(self._connections, statements, trim_every=TRIM_EVERY)
        super().__init__(tables, self._connections)

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`...base.Store.load`. A server that takes no writes is read all the same."""
        try:
            return self._call(partial(super().load, key, rules, slide=slide))
        except StoreUnavailable as error:
            cause = error.__cause__
            if not isinstance(cause, Refused) or cause.code not in self._driver.read_only:
                raise
            return self._call(partial(self.read, key, rules))

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`...base.Store.create`."""
        with deadline(self._timeout):
            return super().create(key, draft, rules)

    def commit(
        self,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> Answer:
        """See :meth:`...base.Store.commit`."""
        commit = partial(super().commit, key, draft, expected, touch=touch, loaded=loaded)
        lost: list[Lost] = []
        answer = self._call(commit, lost=lost)
        if lost and isinstance(answer, Conflict) and expected not in answer.record.stamps:
            # Later writes may have pushed its stamp out of the record.
            raise StoreUnavailable("a reply was lost: whether the call was done is unknown")
        return answer

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`...base.IndexedStore.purge`. Between two steps others have time to write."""
        step = partial(super().purge, rules, min(limit, PURGE_STEP))
        return paced(partial(self._call, step))

    def close(self) -> None:
        """See :meth:`...base.Store.close`."""
        self._pool.close()

    def _create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        return self._call(partial(super()._create, key, draft, rules), repeatable=False)

    def _sweep(self, rules: Rules) -> tuple[tuple[Removed, ...], int]:
        return self._call(partial(super()._sweep, rules))

    # -- servers --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """See :meth:`...base.RemoteStore.prepare`."""
        with suppress(StoreUnavailable):  # then the first call checks it
            self._call(lambda: None)
        self.close()  # the process may fork after this

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """See :meth:`...base.RemoteStore.report_to`."""
        self.notify.listener = listener

    def states(self) -> Mapping[str, str]:
        """See :meth:`...base.RemoteStore.states`."""
        return {self._server: self._pool.state}

    # -- calls ----------------------------------------------------------------------------------

    def _call(
        self, work: Callable[[], _T], *, repeatable: bool = True, lost: list[Lost] | None = None
    ) -> _T:
        """Returns what *work* returns, within the time-out.

        :param repeatable: also after a commit whose reply was lost.
        :param lost: receives the error of a try that may be done all the same.
        :raises StoreUnavailable: the server did not answer, or with an error.
        """
        local, failures = Attempts(), 0
        outer = attempts_of_call.set(local)
        try:
            with deadline(self._timeout):
                while True:
                    try:
                        if not self._checked:
                            self._check()
                        return work()
                    except TooNarrow as error:
                        self._connections.widen(error.keys)
                    except Refused as error:
                        local.may_be_done = False  # an answer, too
                        if error.code not in self._driver.again:
                            raise StoreUnavailable(f"{self._server}: {error}") from error
                        remaining(TimedOut)
                        time.sleep(random.uniform(0, _WAIT))  # noqa: S311  # nosec B311  # no secret
                    except Lost as error:
                        failures += 1
                        is_last = failures > 1 or isinstance(error, (CircuitOpen, TimedOut))
                        if is_last or (local.may_be_done and not repeatable):
                            raise
                        if local.may_be_done and lost is not None:
                            lost.append(error)
                        remaining(TimedOut)
        except Lost as error:
            server = "" if isinstance(error, CircuitOpen) else f"{self._server}: "
            raise StoreUnavailable(f"{server}{error}") from error
        finally:
            attempts_of_call.reset(outer)

    def _check(self) -> None:
        """Make the tables if they are missing, and compare their version.

        :raises UnfitStore: they cannot be made, or are of another version, with the fix.
        """
        version = self._version()
        if version is None:
            self._make_tables()
            version = self._version()
        if version != SCHEMA_VERSION:
            tables, instead = f"the tables on {self._server}", "SAFESESSION_KEY_PREFIX"
            raise UnfitStore.of_version(tables, version, SCHEMA_VERSION, instead)
        self._checked = True

    def _version(self) -> int | None:
        try:
            with self._pool.line() as line:
                [answer] = line.run([(self._connections.statements["version"], ())])
        except Refused as error:
            if error.code != self._driver.missing:
                raise
            return None
        # Without a row they are being made right now, or that was interrupted.
        return answer.rows[0][0] if answer.rows else None

    def _make_tables(self) -> None:
        before, after = self._driver.alone
        texts = (*before, *schema(self._dialect, self._prefix), *after)
        try:
            with self._pool.line() as line:
                line.run([(text, ()) for text in texts])
        except Refused as error:
            if error.code in self._driver.again:
                raise
            raise UnfitStore([f"the tables cannot be made on {self._server}: {error}"]) from error
