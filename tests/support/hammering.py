"""One process of the hammer: does everything to sessions in one store, and reports what.

Arguments: a SQLite file or the URL of a store, a number, seconds. Each line that it prints is an
act that was answered: what was done, and to which key or by which stamp.
"""

from __future__ import annotations

import random
import sys
import time
from typing import Any

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.record import Record
from flask_safesession.model.tokens import new_id, user_tag
from flask_safesession.stores.base import Listed, Live, Rules, Terms
from flask_safesession.stores.opening import Opened, open_store
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.testing import make_draft, make_rules

USERS = (1, 2, 3, 4)
TOTAL, PER_USER = 60, 4
RULES = make_rules(total=TOTAL, per_user=PER_USER, idle=1500)


def store_at(place: str) -> Any:
    """The store in a file, or behind a URL."""
    if "://" not in place:
        return SqliteStore(place, timeout=20)
    opened = open_store(place, "", prefix="safesession", timeout=20, shards=1)
    return opened.store


class Hammer:
    """Remembers keys that it has met, and says what was done to them."""

    def __init__(self, store: Any, number: int, rules: Rules = RULES) -> None:
        self.store = store
        self.rules = rules
        self.can_purge = Opened.of(self.store).index is not None
        self.random = random.Random(number)
        self.keys: list[str] = []
        self.loaded: dict[str, Record] = {}

    def act(self) -> None:
        """Does one thing, whichever."""
        dice = self.random.random()
        if dice < 0.3 or not self.keys:
            self.create()
        elif dice < 0.33 and self.can_purge:
            self.store.purge(self.rules, 20)
        elif dice < 0.36:
            for ended in self.store.end_user(user_tag(self.user()), "stamp--", "revoked", ""):
                say("ended", ended.key)
        else:
            self.use(self.some_key())

    def some_key(self) -> str:
        """A session of this process's, or one that all processes use."""
        theirs: list[Listed]
        theirs = self.store.sessions_of(user_tag(self.user())) if self.random.random() < 0.7 else []
        return self.random.choice([one.key for one in theirs] or self.keys[-20:])

    def user(self) -> int:
        return self.random.choice(USERS)

    def create(self) -> None:
        user = self.user() if self.random.random() < 0.5 else None
        self.keys.append(new_key(user))
        draft = make_draft(b"0" * self.random.randint(1, 3000), rules=self.rules, user=user)
        self.note(self.store.create(self.keys[-1], draft, self.rules))

    def use(self, key: str) -> None:
        before = time.monotonic_ns()  # it may be ended while the answer is on its way
        answer = self.store.load(key, self.rules, slide=True)
        if not isinstance(answer, Live):
            return
        say("seen", key, before)
        dice = self.random.random()
        if dice < 0.4:
            self.commit(key, answer.record)
        elif dice < 0.6:
            self.rotate(key, answer.record)
        elif dice < 0.7 and isinstance(self.store.end(key, "stamp--", "logout", None), Live):
            say("ended", key)

    def commit(self, key: str, record: Record) -> None:
        before = self.loaded.pop(key, record)  # perhaps long ago, and others were faster
        draft = make_draft(record.payload[::-1])._replace(tier=record.tier, user=record.user)
        answer = self.store.commit(key, draft, before.stamps[0], touch=0, loaded=before)
        if isinstance(answer, Live) and answer.record.stamps[0] == draft.stamp:
            say("won", key + before.stamps[0])
            self.loaded[key] = answer.record

    def rotate(self, key: str, record: Record) -> None:
        user = self.user()
        self.keys.append(new_key(user))
        draft = make_draft(record.payload, rules=self.rules, user=user)
        terms = Terms(record.stamps[0], True, "rotated")
        answer = self.store.rotate(key, self.keys[-1], draft, self.rules, terms)
        if isinstance(answer, Live):
            say("won", key + record.stamps[0])
            say("ended", key)
        self.note(answer)

    def note(self, answer: object) -> None:
        if isinstance(answer, Live):
            say("created", self.keys[-1])
            for gone in answer.removed:
                say("ended", gone.key)


def new_key(user: int | None) -> str:
    """A new key on the server of the user's sessions."""
    return new_id(user_tag(user)[0] if user else "x").key


def say(what: str, of: str, when: int = 0) -> None:
    sys.stdout.write(f"{when or time.monotonic_ns()} {what} {of}\n")
    sys.stdout.flush()


def main(path: str, number: str, seconds: str) -> None:
    hammer = Hammer(store_at(path), int(number))
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        try:
            hammer.act()
        except StoreUnavailable as error:
            say("failed", str(error).replace(" ", "_"))


if __name__ == "__main__":
    main(*sys.argv[1:])
