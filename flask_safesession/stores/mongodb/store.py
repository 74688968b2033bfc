"""Sessions in MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ...errors import StoreUnavailable
from ...events import Event
from ..base import AuditStep, PurgeStep, Rules
from ..direct import DirectStore, paced
from ..remote.breaker import Listener
from ..remote.repeating import repeating
from .servers import Servers
from .tables import Clock, MongoDBTables, server_clock

_T = TypeVar("_T")

#: Sessions that one step of the purge or the audit changes at most: others cannot write meanwhile.
STEP = 100


@repeating
class MongoDBStore(DirectStore):
    """The store behind ``mongodb://``.

    :param url: of a replica set.
    :param prefix: what the names of the collections begin with.
    :param timeout: seconds that one call may take, repetitions included.
    :param clock: see :class:`.tables.MongoDBTables`, for tests.
    """

    tables: MongoDBTables

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "safesession",
        timeout: float = 1.0,
        clock: Clock = server_clock,
    ) -> None:
        #: Receives the events of the servers.
        self.notify: Listener = Listener()
        self._servers = Servers(url, prefix, timeout, self.notify)
        tables = MongoDBTables(self._servers, clock)
        super().__init__(tables, tables)

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`..base.IndexedStore.purge`. Between two steps others have time to write."""
        step = partial(super().purge, rules, min(limit, STEP))
        return paced(partial(self._call, step))

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """See :meth:`..base.IndexedStore.audit`."""
        return self._call(partial(super().audit, rules, min(limit, STEP)))

    def close(self) -> None:
        """See :meth:`..base.Store.close`."""
        self._servers.close()

    def _call(self, work: Callable[[], _T]) -> _T:
        return self._servers.call(work)

    # -- servers --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """See :meth:`..base.RemoteStore.prepare`."""
        with suppress(StoreUnavailable):  # then the first call checks it
            self._call(lambda: None)
        self.close()  # the process may fork after this

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """See :meth:`..base.RemoteStore.report_to`."""
        self.notify.listener = listener

    def states(self) -> Mapping[str, str]:
        """See :meth:`..base.RemoteStore.states`."""
        return {self._servers.name: self._servers.breaker.state}
