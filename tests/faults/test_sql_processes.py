"""Several processes on one SQL server: a hammer with a watcher, killed and stopped workers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flask_safesession.model.tokens import new_stamp, user_tag
from flask_safesession.stores.base import Live
from flask_safesession.testing import StoreContract, make_draft, make_rules, new_key

from ..support.databases import Database
from ..support.hammering import PER_USER, USERS
from ..support.hammering_servers import CAPS, open_store
from ..support.kits import SqlTables
from ..support.said import WELL, Said, file_of, find_wrong, heard
from ..support.servers import poll
from ..support.sites.running import (
    assert_each_process_has_its_own,
    browse,
    gunicorn,
    run_greenlets,
    share_one_session,
)

pytestmark = pytest.mark.faults
PROCESSES, ACTS = 8, 400
ROOT = Path(__file__).parents[2]
EVERY = 0.01  # seconds


class Hammering:
    """Processes of the hammer on the sessions under *prefix*."""

    def __init__(self, database: Database, url: str, prefix: str, caps: str, folder: Path) -> None:
        self.database, self.url, self.prefix, self.caps = database, url, prefix, caps
        self.folder = folder
        #: The most sessions that the watcher has seen.
        self.most = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        open_store(url, prefix).prepare()

    def start(self, acts: int = ACTS, patch: str = "") -> None:
        """Start the processes; *patch* is run in each before it begins."""
        code = f"{patch}\nfrom tests.support.hammering_servers import main\n"
        code += "import sys\nmain(*sys.argv[1:])"
        for number in range(PROCESSES):
            words = (self.url, self.prefix, str(number), str(acts), self.caps)
            with file_of(self.folder, number).open("w") as said:
                command = [sys.executable, "-c", code, *words]
                self.processes.append(subprocess.Popen(command, stdout=said, cwd=ROOT))

    def watch(self) -> list[str]:
        """Look at the caps until the first process is done. Returns what was wrong."""
        cap, looks, wrong = CAPS[self.caps].rules.cap, 0, []
        users = [user_tag(user) for user in USERS]
        query = f"""SELECT owner, COUNT(*) FROM {self.prefix}_sessions WHERE generation =
            (SELECT generation FROM {self.prefix}_meta) GROUP BY owner"""
        with closing(self.database.connect()) as line, line.cursor() as cursor:
            while all(one.poll() is None for one in self.processes):
                cursor.execute(query)
                held = dict(cursor.fetchall())
                self.most = max(self.most, sum(held.values()))
                if sum(held.values()) > cap.total:
                    wrong.append(f"{sum(held.values())} sessions")
                if any(held.get(user, 0) > PER_USER for user in users):
                    wrong.append(f"a user with {max(held.values())}")
                looks += 1
                time.sleep(EVERY)
        assert looks > 10
        return wrong

    def said(self) -> list[Said]:
        """What all of them said, in the order in which it was."""
        said = heard(self.folder, dict(enumerate(self.processes)), ends=WELL, patience=300)
        self.processes.clear()
        return said

    def audit(self) -> int:
        """Returns the differences between counters and rows."""
        with closing(open_store(self.url, self.prefix)) as store:
            return store.audit(CAPS[self.caps].rules, 1000).repaired


def deadlocks(database: Database) -> int:
    """How often the server has ended a transaction because two waited for each other."""
    if database.scheme == "postgresql":
        [(found,)] = database.ask("SELECT SUM(deadlocks) FROM pg_stat_database")
    else:
        [(found,)] = database.ask(
            "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'"
        )
    return int(found)


@pytest.mark.parametrize("caps", CAPS)
def test_no_cap_is_passed_and_nothing_is_lost_while_eight_processes_hammer_one_server(
    database: Database, prefix: str, tmp_path: Path, caps: str
) -> None:
    hammering = Hammering(database, database.url(), prefix, caps, tmp_path)
    before = deadlocks(database)
    hammering.start()
    wrong = hammering.watch()
    said = hammering.said()
    assert wrong == []
    assert find_wrong(said) == []
    assert hammering.most > 0.9 * CAPS[caps].rules.cap.total
    kinds = {what for _, what, _ in said}
    assert {"created", "seen", "won", "ended", "all"} <= kinds
    assert hammering.audit() == 0
    assert deadlocks(database) == before


# Each breaks one promise; the hammer has to notice, or it proves nothing.
MUTANTS = {
    "a commit without a look at the stamp": (
        "small",
        """
from flask_safesession.stores.sql.store import SqlStore
from flask_safesession.stores.sql.servers.store import SqlServerStore
commit = SqlServerStore.commit
def careless(self, key, draft, expected, *, touch, loaded=None):
    row = self._connections.look_up(key)
    if row:
        loaded = loads(row[0])
        expected = loaded.stamps[0]
    return commit(self, key, draft, expected, touch=touch, loaded=loaded)
from flask_safesession.model.record import loads
SqlServerStore.commit = careless
""",
    ),
    "a user's part that is not locked": (
        "quotas",
        """
from flask_safesession.stores.sql import statements
seats = statements._FOR_KEYS["seats"]
statements._FOR_KEYS["seats"] = seats.replace("{lock}", "")
""",
    ),
    "a rotation that leaves the old session": (
        "small",
        """
from flask_safesession.stores import engine
admit = engine.admit
def without(t, key, fresh, rules, now, over, leaving=None):
    remove = t.remove
    t.remove = lambda *keys: [] if keys == (leaving and leaving.key,) else remove(*keys)
    try:
        return admit(t, key, fresh, rules, now, over, leaving)
    finally:
        del t.remove
engine.admit = without
""",
    ),
    "a quota that is not checked": (
        "quotas",
        """
from flask_safesession.stores.sql.servers.connections import Connections
share = Connections.share
def generous(self, cap):
    found = share(self, cap)
    return found if found is cap else found._replace(total=10**6, users=10**6)
Connections.share = generous
""",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_hammer_notices_a_store_that_is_wrong(
    database: Database, prefix: str, tmp_path: Path, mutant: str
) -> None:
    caps, patch = MUTANTS[mutant]
    hammering = Hammering(database, database.url(), prefix, caps, tmp_path)
    hammering.start(patch=patch)
    wrong = [*hammering.watch(), *find_wrong(hammering.said())]
    assert wrong or hammering.audit()


def test_the_hammer_finds_nothing_behind_a_pooler(
    pgbouncer: Database, postgresql: Database, prefix: str, tmp_path: Path
) -> None:
    """Each transaction may have another connection to the server."""
    hammering = Hammering(postgresql, pgbouncer.url(), prefix, "quotas", tmp_path)
    before = deadlocks(postgresql)
    hammering.start(ACTS // 2)
    assert hammering.watch() == []
    assert find_wrong(hammering.said()) == []
    assert hammering.audit() == 0
    assert deadlocks(postgresql) == before


def test_a_pooler_is_used_by_all_operations(pgbouncer: Database, prefix: str) -> None:
    contract = StoreContract()
    with closing(SqlTables(pgbouncer, prefix)) as tables, closing((kit := tables.kit()).store):
        for name in SMOKE:
            getattr(contract, name)(kit)
            kit.store.end_all(new_stamp())


SMOKE = (
    "test_what_was_created_is_loaded",
    "test_a_commit_on_old_data_is_a_conflict_with_the_new",
    "test_a_rotation_that_is_repeated_is_done",
    "test_an_end_that_is_repeated_is_done",
    "test_a_large_payload_keeps_every_byte",
    "test_an_idle_session_ends_at_its_timeout_and_not_before",
)

# -- workers that end or stand still in the middle ------------------------------------------------

# Begins a creation, says so, and stands still between its two round trips.
STUCK = """
import sys, time
from contextlib import suppress
from flask_safesession import StoreUnavailable
from flask_safesession.stores.sql.servers.connections import Transaction
from flask_safesession.testing import make_draft, make_rules, new_key
from tests.support.hammering_servers import open_store
def stop(self):
    print("in a transaction", flush=True)
    time.sleep(60)
Transaction.commit = stop
store = open_store(sys.argv[1], sys.argv[2], timeout=float(sys.argv[3]))
for _ in range(30):  # to connect may take longer than the time-out, where the machine is busy
    with suppress(StoreUnavailable):
        store.create(new_key(), make_draft(), make_rules(total=50))
"""


@contextmanager
def stuck(database: Database, prefix: str, timeout: float) -> Iterator[subprocess.Popen[str]]:
    """A worker in a transaction that has locked all parts."""
    command = [sys.executable, "-c", STUCK, database.url(), prefix, str(timeout)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert worker.stdout is not None
    try:
        assert worker.stdout.readline() == "in a transaction\n"
        yield worker
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


def test_a_worker_that_is_killed_in_a_transaction_leaves_no_lock_and_no_half(
    database: Database, prefix: str
) -> None:
    rules = make_rules(total=50)
    with closing(open_store(database.url(), prefix, timeout=10)) as store:
        store.prepare()
        with stuck(database, prefix, 60) as worker:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            assert isinstance(store.create(new_key(), make_draft(), rules), Live)
        assert store.count(rules).total == 1
        assert store.audit(rules, 100).repaired == 0


def test_a_worker_that_stands_still_in_a_transaction_loses_its_locks(
    database: Database, prefix: str
) -> None:
    rules = make_rules(total=50)
    with closing(open_store(database.url(), prefix, timeout=15)) as store:
        store.prepare()
        with stuck(database, prefix, 1) as worker:
            worker.send_signal(signal.SIGSTOP)
            assert isinstance(store.create(new_key(), make_draft(), rules), Live)
        assert store.count(rules).total == 1


# -- servers of apps ----------------------------------------------------------------------------


def no_transaction(database: Database) -> bool:
    """Whether no process that is suspended now keeps others from the store."""
    if database.scheme == "postgresql":
        query = "SELECT COUNT(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    else:
        query = "SELECT COUNT(*) FROM information_schema.innodb_trx"
    return not database.ask(query)[0][0]


@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
@pytest.mark.parametrize("preload", [True, False])
def test_fault_25_three_workers_share_sessions_and_no_connection(
    database: Database, prefix: str, tmp_path: Path, kind: str, preload: bool
) -> None:
    options = ["--workers", "3", "--worker-class", kind, *(["--preload"] if preload else [])]
    where: Any = SimpleNamespace(url=database.url(), port=database.port)
    with gunicorn(where, prefix, tmp_path, *options, used=preload) as site:
        poll("three workers", lambda: len(site.workers()) == 3)
        site.is_free = lambda: no_transaction(database)
        browse(site, 5)
        share_one_session(site)
        if kind == "sync" and not preload:  # a copy of the master's is open, and never used
            assert_each_process_has_its_own(site)
        site.stop()
        log = site.log.read_text()
    assert "Traceback" not in log


@pytest.mark.parametrize("when", ["early", "late"])
def test_fault_28_greenlets_that_are_cut_short_never_see_the_data_of_others(
    database: Database, when: str
) -> None:
    seen = run_greenlets(database.url(), when, 20, 20)
    assert seen["wrong"] == []
    # PyMySQL's sockets were there before gevent patched late: they let nobody else run, so that few
    # are cut or none.
    if when == "early" or database.scheme == "postgresql":
        assert seen["cut"] > 0
    database.drop_tables("greenlets")
