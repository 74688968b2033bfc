"""One process of the hammer on a SQL server: does everything to sessions, and reports what.

Arguments: the URL, the prefix, a number, how many acts, and which :data:`CAPS`. Lines as those of
:mod:`.hammering`.
"""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.record import Record
from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores.base import Live, Rules, Terms
from flask_safesession.stores.sql import connections as sql_connections
from flask_safesession.stores.sql.servers import connections, locks, mysql, postgresql
from flask_safesession.stores.sql.servers.store import SqlServerStore
from flask_safesession.testing import make_draft, make_rules

from . import hammering
from .hammering import PER_USER, say

DRIVERS = {"postgresql": postgresql.DRIVER, "mysql": mysql.DRIVER}
#: Users whose anonymous sessions are re-filed: that evicts nobody, so their cap may be passed.
REFILED = (8, 9)


class Caps(NamedTuple):
    """How a hammer's caps are kept.

    :param by_quotas: as with caps of thousands.
    """

    rules: Rules
    by_quotas: bool


CAPS = {
    "small": Caps(make_rules(total=50, per_user=PER_USER, idle=3000), by_quotas=False),
    "quotas": Caps(make_rules(total=50, per_user=PER_USER, idle=3000), by_quotas=True),
}


class Hammer(hammering.Hammer):
    """Also ends everything, audits and re-files; a user's keys are in the user's part."""

    def act(self) -> None:
        dice = self.random.random()
        if dice < 0.002:
            before = time.monotonic_ns()
            self.store.end_all(new_stamp())
            say("all", str(before))
        elif dice < 0.02:
            self.store.audit(self.rules, 20)
        elif dice < 0.05:
            self.end_all_but_one()
        else:
            super().act()

    def end_all_but_one(self) -> None:
        user = user_tag(self.user())
        theirs = self.store.sessions_of(user)
        kept = self.random.choice(theirs).key if theirs else ""
        for ended in self.store.end_user(user, new_stamp(), "revoked", kept):
            say("ended", ended.key)

    def new_key(self, user: int | None) -> str:
        self.keys.append(new_id(user_tag(user)[0] if user else "").key)
        return self.keys[-1]

    def create(self) -> None:
        user = self.user() if self.random.random() < 0.5 else None
        draft = make_draft(b"0" * self.random.randint(1, 3000), rules=self.rules, user=user)
        self.note(self.store.create(self.new_key(user), draft, self.rules))

    def use(self, key: str) -> None:
        if self.random.random() < 0.05:
            self.refile(key)
        super().use(key)

    def refile(self, key: str) -> None:
        answer = self.store.load(key, self.rules, slide=False)
        if isinstance(answer, Live) and not answer.record.user:
            draft = make_draft(b"", rules=self.rules, user=self.random.choice(REFILED))
            self.store.refile(key, draft, answer.record.stamps[0])

    def rotate(self, key: str, record: Record) -> None:
        user = self.user()
        draft = make_draft(record.payload, rules=self.rules, user=user)
        expected = record.stamps[0] if self.random.random() < 0.8 else None
        terms = Terms(expected, True, "rotated")
        answer = self.store.rotate(key, self.new_key(user), draft, self.rules, terms)
        if isinstance(answer, Live):
            if expected:  # otherwise it may be another session that has ended
                say("won", key + expected)
            say("ended", key)
        self.note(answer)


def open_store(url: str, prefix: str, **options: Any) -> SqlServerStore:
    driver = DRIVERS[url.partition(":")[0]]
    return SqlServerStore(url, driver, prefix=prefix, **{"timeout": 20.0, **options})


def keep_by_quotas() -> None:
    """Keep also small caps by quotas, which are reached and dealt out again all the time."""
    sql_connections.SMALL, locks.LEAST = 0, 1
    connections.FULL = 0.01  # type: ignore[attr-defined]  # of its own module


def main(url: str, prefix: str, number: str, acts: str, caps: str) -> None:
    if CAPS[caps].by_quotas:
        keep_by_quotas()
    hammer = Hammer(open_store(url, prefix), int(number), CAPS[caps].rules)
    for _ in range(int(acts)):
        try:
            hammer.act()
        except StoreUnavailable as error:
            say("failed", str(error).replace(" ", "_").replace("\n", "_"))


if __name__ == "__main__":
    main(*sys.argv[1:])
