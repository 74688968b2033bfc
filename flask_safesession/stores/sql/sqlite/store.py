"""Sessions in a SQLite file: for several processes on one machine, without a server.

The clock is the machine's, since all processes are on one machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ....errors import ConfigError
from ...base import Finding, PurgeStep, Rules
from ...direct import paced
from ..store import SqlStore
from ..tables import SqlTables
from .connections import Connections
from .inspecting import findings

#: Sessions that one step of the purge removes at most.
PURGE_STEP = 100


class SqliteStore(SqlStore):
    """The store behind ``sqlite://``.

    :param path: of the file; it is made on first use, readable by its owner alone.
    :param prefix: what the names of the tables begin with.
    :param timeout: seconds for which a call waits for other writers.
    :param clock: returns the time in milliseconds instead of the machine's, in tests.
    :raises ConfigError: the folder is not there, or cannot be written to.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        prefix: str = "safesession",
        timeout: float = 1.0,
        clock: Callable[[], int] | None = None,
    ) -> None:
        if str(path) == ":memory:":
            raise ConfigError(["SQLite's :memory: is another store in each thread: use memory://"])
        #: The file.
        self.path: Path = Path(path).absolute()
        _check_folder(self.path)
        self._connections = Connections(self.path, prefix, timeout, clock)
        tables = SqlTables(self._connections, self._connections.statements)
        super().__init__(tables, self._connections)

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`...base.IndexedStore.purge`. Between two steps others have time to write."""
        step = paced(partial(super().purge, rules, min(limit, PURGE_STEP)))
        if not step.more:
            self._connections.checkpoint()
        return step

    def inspect(self) -> list[Finding]:
        """See :meth:`...base.Store.inspect`."""
        return findings(self.path)

    def close(self) -> None:
        """See :meth:`...base.Store.close`."""
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
