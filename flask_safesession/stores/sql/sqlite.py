"""Sessions in a SQLite file: for several processes on one machine, without a server.

The clock is the machine's, since all processes are on one machine: SQLite's own functions for the
time read the same one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ...errors import ConfigError
from ...model.reason import Reason
from ...model.record import Draft, Record, loads, touched
from ..base import Answer, Finding, Gone, Live, PurgeStep, Rules
from ..engine import Engine
from ..rules import is_filed, successor, used
from ..tombstones import absent
from .connections import Connections
from .inspecting import findings
from .tables import SqlTables

#: Sessions that one step of the purge removes at most.
PURGE_STEP = 100
# The pause after a step, as a multiple of its time: writers wait for each other, and the purge is
# not to be the one that they wait for.
_PAUSE = 4


def wall_clock() -> int:
    """Returns milliseconds since 1970 by the machine's clock."""
    return time.time_ns() // 1_000_000


class SqliteStore(Engine):
    """The store behind ``sqlite://``.

    :param path: of the file; it is made on first use, readable by its owner alone.
    :param prefix: what the names of the tables begin with.
    :param timeout: seconds for which a call waits for other writers.
    :param clock: gives the time in milliseconds; tests inject one that they can turn.
    :raises ConfigError: the folder is not there, or cannot be written to.
    """

    shared = True

    _tables: SqlTables

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prefix: str = "safesession",
        timeout: float = 1.0,
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        if str(path) == ":memory:":
            raise ConfigError(["SQLite's :memory: is another store in each thread: use memory://"])
        #: The file.
        self.path: Path = Path(path).absolute()
        _check_folder(self.path)
        self._connections = Connections(self.path, prefix, timeout)
        super().__init__(SqlTables(self._connections, prefix, clock))

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`..base.Store.load`. Where nothing has to be written, one query answers."""
        row = self._connections.look_up(key)
        if row is None:
            return self._absent(key)
        now = self._tables.now()
        try:
            record = loads(row[0])
        except ValueError:
            return Gone(Reason.CORRUPT)
        is_live = record.generation == row[1] and record.deadline > now
        if is_live and used(record, rules, now, slide=slide) is record:
            return Live(record, now)
        return super().load(key, rules, slide=slide)

    def commit(
        self,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> Answer:
        """See :meth:`..base.Store.commit`. One statement, if the record is still what was loaded.

        Otherwise, and where that alone does not say whether it is live, the engine decides.
        """
        now = self._tables.now()
        is_live = loaded is not None and loaded.deadline > now
        if loaded and is_live and loaded.stamps[0] == expected and is_filed(loaded, draft):
            fresh = touched(successor(loaded, draft), now, touch)
            if self._connections.change(*self._tables.replacement(key, fresh, loaded)):
                return Live(fresh, now)
        return super().commit(key, draft, expected, touch=touch)

    def _absent(self, key: str) -> Gone:
        """Returns the answer for a session that is not stored, without the lock of writers.

        If the session is made between the query and this, the answer is that of the query.
        """
        t = self._tables
        with t.transaction(writes=False):
            return absent(t, key, t.now(), "")

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`..base.IndexedStore.purge`. Between two steps others have time to write."""
        before = time.monotonic()
        step = super().purge(rules, min(limit, PURGE_STEP))
        if step.more:
            time.sleep(_PAUSE * (time.monotonic() - before))
        else:
            self._connections.checkpoint()
        return step

    def inspect(self) -> list[Finding]:
        """See :meth:`..base.Store.inspect`."""
        return findings(self.path)

    def close(self) -> None:
        """See :meth:`..base.Store.close`."""
        self._connections.close()


def _check_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError([f"the folder of {str(path)!r} is not there: make {str(folder)!r}"])
    if not os.access(folder, os.W_OK | os.X_OK):
        problem = (
            f"the folder {str(folder)!r} cannot be written to, and SQLite keeps three files in it:"
            " let the app's user own it, or name another in SAFESESSION_STORE, as in"
            " 'sqlite:////var/lib/myapp/sessions.sqlite3'"
        )
        raise ConfigError([problem])
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError([f"{str(path)!r} cannot be written to: let the app's user own it"])
