"""Several processes on one SQL server: a hammer with a watcher, killed and stopped workers."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from flask_safesession.model.tokens import user_tag

from ..support.databases import Database
from ..support.hammering import PER_USER, USERS
from ..support.hammering_servers import CAPS, open_store

pytestmark = pytest.mark.faults
PROCESSES, ACTS = 8, 400
ROOT = Path(__file__).parents[2]
EVERY = 0.01  # seconds

# What a process said: when, what, and of which session or stamp.
Said = tuple[int, str, str]


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
            with (self.folder / f"said{number}").open("w") as said:  # a pipe would be full
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
        said: list[Said] = []
        for number, process in enumerate(self.processes):
            if process.wait(300):
                said.append((0, "failed", f"process {number}"))
            for line in (self.folder / f"said{number}").read_text().splitlines():
                when, what, of = line.split(" ", 2)
                said.append((int(when), what, of))
        self.processes.clear()
        return sorted(said)

    def audit(self) -> int:
        """Returns the differences between counters and rows."""
        with closing(open_store(self.url, self.prefix)) as store:
            return store.audit(CAPS[self.caps].rules, 1000).repaired


def find_wrong(said: list[Said]) -> list[str]:
    """What must not be: a session that was seen after its end, a stamp that two have won."""
    made: dict[str, int] = {}
    ended, won, wrong, ended_before = set(), set(), [], 0
    for when, what, of in said:
        if what == "failed":
            wrong.append(of)
        elif what == "created":
            made[of] = when
        elif what == "all":
            ended_before = max(ended_before, int(of))
        elif what == "ended":
            ended.add(of)
        elif what == "seen" and (of in ended or made.get(of, when) < ended_before):
            wrong.append(f"{of} came back")
        elif what == "won" and of in won:
            wrong.append(f"{of} was won twice")
        elif what == "won":
            won.add(of)
    return wrong


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
