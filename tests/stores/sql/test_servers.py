"""PostgreSQL and MariaDB: round trips, what is locked, and what a worker keeps to itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.record import Record
from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores import forks
from flask_safesession.stores.base import Gone, Live, Taken, Terms
from flask_safesession.stores.sql import store as sql
from flask_safesession.stores.sql.schema import PARTS, PURGE
from flask_safesession.stores.sql.servers import locks, pool
from flask_safesession.stores.sql.servers.connections import Connections
from flask_safesession.stores.sql.servers.lines import Lost, Refused
from flask_safesession.stores.sql.servers.mysql import MySQLLine
from flask_safesession.stores.sql.servers.pool import Pool
from flask_safesession.stores.sql.servers.postgresql import PostgresLine
from flask_safesession.stores.sql.servers.store import SqlServerStore
from flask_safesession.testing import make_draft, make_rules, new_key

from ...support.databases import Database
from ...support.kits import sql_store
from ...support.servers import poll

RULES = make_rules(total=1_000_000)
SMALL = make_rules(total=10, per_user=3)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of statements of each round trip."""
    made: list[int] = []
    for kind in (PostgresLine, MySQLLine):
        run: Any = kind.run

        def counting(self: Any, calls: Any, run: Any = run) -> Any:
            made.append(len(calls))
            return run(self, calls)

        monkeypatch.setattr(kind, "run", counting)
    return made


@pytest.fixture
def made(database: Database, prefix: str) -> Iterator[SqlServerStore]:
    with closing(sql_store(database, prefix)) as opened:
        opened.prepare()
        yield opened


def key_for(user: object = None) -> str:
    return new_id(user_tag(user)[0] if user is not None else "").key


def add(made: SqlServerStore, user: object = None, rules: Any = RULES) -> tuple[str, Record]:
    key = key_for(user)
    answer = made.create(key, make_draft(user=user, rules=rules), rules)
    assert isinstance(answer, Live)
    return key, answer.record


def seats_of(prefix: str, part: int) -> str:
    return f"SELECT part FROM {prefix}_seats WHERE part = {part} FOR UPDATE"


# -- round trips --------------------------------------------------------------------------------


def test_what_each_operation_costs(made: SqlServerStore, trips: list[int]) -> None:
    def cost(work: Callable[[], object]) -> int:
        trips.clear()
        work()
        return len(trips)

    key, _ = add(made, "ann")  # deals out the quotas
    loaded = made.load(key, RULES, slide=True)  # the first use is recorded
    assert isinstance(loaded, Live)
    stamp, record = loaded.record.stamps[0], loaded.record
    draft, sign_in = make_draft(b"new", user="ann"), make_draft(user="ann")
    new, terms = key_for("ann"), Terms(None, True, "rotated")
    costs = {
        "load": cost(lambda: made.load(key, make_rules(touch=60_000), slide=True)),
        "commit": cost(lambda: made.commit(key, draft, stamp, touch=60_000, loaded=record)),
        "create": cost(lambda: add(made)),
        "create, of a user": cost(lambda: add(made, "bob")),
        "login": cost(lambda: made.rotate(key, new, sign_in, RULES, terms)),
        "end": cost(lambda: made.end(new, new_stamp(), "logout", None)),
        "purge": cost(lambda: made.purge(RULES, 1000)),
        "lease": cost(lambda: made.lease("purge", 1000)),
        "a key that is unknown": cost(lambda: made.load(key_for(), RULES, slide=True)),
    }
    assert costs == {
        "load": 1,
        "commit": 1,
        "create": 1,
        "create, of a user": 2,
        "login": 2,
        "end": 2,
        "purge": 2,
        "lease": 2,
        "a key that is unknown": 2,
    }


def test_what_a_full_store_costs(made: SqlServerStore, trips: list[int]) -> None:
    for user in range(10):
        add(made, user if user < 9 else None, SMALL)
    trips.clear()
    add(made, rules=SMALL)
    assert len(trips) == 3, "the one that is evicted is read by its key"


def test_the_end_of_many_sessions_of_a_user_costs_no_trip_for_each(
    made: SqlServerStore, trips: list[int]
) -> None:
    for _ in range(15):
        add(made, "ann")
    trips.clear()
    assert len(made.end_user(user_tag("ann"), new_stamp(), "revoked", "")) == 15
    assert len(trips) <= 4


def test_an_audit_reads_the_sessions_that_it_shortens_at_once(
    made: SqlServerStore, trips: list[int]
) -> None:
    keys = [add(made, user)[0] for user in range(20)]
    trips.clear()
    rules = make_rules(total=1_000_000, idle=60_000)
    assert made.audit(rules, 100).limited == len(keys)
    assert len(trips) <= 8


# -- locks --------------------------------------------------------------------------------------


def test_a_creation_waits_for_its_own_part_and_for_no_other(
    database: Database, prefix: str, made: SqlServerStore
) -> None:
    key, _ = add(made, "ann")
    part = locks.part_of(key)
    other = next(user for user in range(99) if locks.part_of(user_tag(user)) != part)
    hurried = sql_store(database, prefix, timeout=0.3)
    with closing(database.connect()) as line, line.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(seats_of(prefix, part))
        add(made, other)
        assert isinstance(made.load(key, RULES, slide=True), Live)
        with pytest.raises(StoreUnavailable):
            add(hurried, "ann")
        cursor.execute("ROLLBACK")
    hurried.close()
    add(made, "ann")


def test_what_only_reads_waits_for_nobody(
    database: Database, prefix: str, made: SqlServerStore
) -> None:
    key, _ = add(made, "ann")
    with closing(database.connect()) as line, line.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT * FROM {prefix}_sessions FOR UPDATE")
        for part in range(PARTS):
            cursor.execute(seats_of(prefix, part))
        assert isinstance(made.load(key, make_rules(touch=10**6), slide=False), Live)
        assert made.peek(key) is not None
        assert made.resolve(key) == key
        assert len(made.sessions_of(user_tag("ann"))) == 1
        assert made.load(key_for(), RULES, slide=True) == Gone("unknown")
        assert made.count(RULES).total == 1
        cursor.execute("ROLLBACK")


def test_the_purge_leaves_what_others_have_locked_for_the_next_time(
    database: Database, prefix: str, made: SqlServerStore
) -> None:
    keys = [add(made)[0] for _ in range(3)]
    database.ask(f"UPDATE {prefix}_sessions SET deadline = 1")
    column = '"key"' if database.scheme == "postgresql" else "`key`"
    with closing(database.connect()) as line, line.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(
            f"SELECT 1 FROM {prefix}_sessions WHERE {column} = %s FOR UPDATE",
            (keys[0],),
        )
        assert {gone.key for gone in made.purge(RULES, 100).removed} == set(keys[1:])
        cursor.execute("ROLLBACK")
    assert [gone.key for gone in made.purge(RULES, 100).removed] == keys[:1]
    assert made.audit(RULES, 100).repaired == 0


def test_the_purge_leaves_an_ending_that_is_renewed_after_it_was_seen_expired(
    postgresql: Database, prefix: str
) -> None:
    """The statement waits at its clock, between its snapshot and its locks."""
    link, clock = key_for(), f"{prefix}_clock()"
    postgresql.ask(
        f"CREATE FUNCTION {clock} RETURNS BIGINT LANGUAGE sql AS 'SELECT pg_advisory_xact_lock(7);"
        " SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)'"
    )
    waiting = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with (
        closing(sql_store(postgresql, prefix)) as made,
        closing(sql_store(postgresql, prefix, clock=clock)) as slow,
    ):
        made.point(link, "old", 0)
        postgresql.ask(f"UPDATE {prefix}_endings SET expires = 1")
        purge = threading.Thread(target=slow.purge, args=(RULES, 100))
        with closing(postgresql.connect()) as other:
            other.execute("SELECT pg_advisory_lock(7)")
            purge.start()
            poll("the purge", lambda: bool(postgresql.ask(waiting)[0][0]))
            made.point(link, "new", 0)
        purge.join(20)
        assert made.follow(link) == "new"
    postgresql.ask(f"DROP FUNCTION {clock}")


# -- creations in one round trip ----------------------------------------------------------------


def end_all(other: SqlServerStore, key: str) -> None:
    del key
    other.end_all(new_stamp())


def take(other: SqlServerStore, key: str) -> None:
    assert isinstance(other.create(key, make_draft(b"theirs"), RULES), Live)


def take_and_end(other: SqlServerStore, key: str) -> None:
    take(other, key)
    other.end(key, new_stamp(), "logout", None)


def change_the_cap(other: SqlServerStore, key: str) -> None:
    assert isinstance(other.create(new_key(), make_draft(), make_rules(total=5000)), Live)


MEANWHILE: dict[Callable[[SqlServerStore, str], None], type] = {
    end_all: Live,  # of the new generation
    take: Taken,
    take_and_end: Taken,
    change_the_cap: Live,
}


@pytest.mark.parametrize("other_does", MEANWHILE)
def test_a_creation_in_one_round_trip_sees_what_others_have_done_meanwhile(
    database: Database,
    prefix: str,
    made: SqlServerStore,
    monkeypatch: pytest.MonkeyPatch,
    other_does: Callable[[SqlServerStore, str], None],
) -> None:
    """Also what they do after the store has looked, up to the lock of the part."""
    add(made)  # deals out the quotas
    key, draft = key_for(), make_draft(b"mine")
    insert = Connections.insert

    def late(self: Connections, *args: Any) -> bool:
        monkeypatch.setattr(Connections, "insert", insert)
        with closing(sql_store(database, prefix)) as other:
            other_does(other, key)
        return insert(self, *args)

    monkeypatch.setattr(Connections, "insert", late)
    answer = made.create(key, draft, RULES)
    assert isinstance(answer, MEANWHILE[other_does])
    assert Connections.insert is insert, "it was not tried"
    found = made.load(key, RULES, slide=False)
    is_mine = isinstance(found, Live) and found.record.payload == b"mine"
    assert is_mine == isinstance(answer, Live)
    assert made.audit(RULES, 100).repaired == 0


def test_a_quota_without_room_is_not_passed_in_one_round_trip(
    database: Database, prefix: str, made: SqlServerStore, trips: list[int]
) -> None:
    add(made)  # deals out the quotas
    database.ask(f"UPDATE {prefix}_seats SET total = 0")
    trips.clear()
    add(made)
    assert len(trips) > 1
    [(least,)] = database.ask(f"SELECT MIN(total) FROM {prefix}_seats WHERE part < {PARTS}")
    assert least > 0, "they were dealt out anew"
    assert made.audit(RULES, 100).repaired == 0


def test_a_creation_in_one_round_trip_that_is_repeated_is_counted_once(
    made: SqlServerStore,
) -> None:
    add(made)
    key, draft = key_for(), make_draft()
    assert isinstance(made.create(key, draft, RULES), Live)
    assert isinstance(made.create(key, draft, RULES), Live)
    assert made.count(RULES).total == 2
    assert made.audit(RULES, 100).repaired == 0


def test_a_time_that_was_guessed_wrong_is_not_used(
    made: SqlServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was asleep has clocks that have stood still."""
    _, record = add(made)
    monkeypatch.setattr(made._connections, "guess", lambda: record.created - 3_600_000)
    _, late = add(made)
    assert late.created >= record.created


# -- what else may go wrong ---------------------------------------------------------------------


def test_a_creation_is_done_also_if_the_sweep_after_it_fails(
    made: SqlServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(made)  # deals out the quotas
    monkeypatch.setattr(sql, "SWEEP_EVERY", 1)
    call = made._call

    def failing(work: Any, **more: Any) -> Any:
        if not more:  # the sweep
            raise StoreUnavailable("it did not answer in time")
        return call(work, **more)

    monkeypatch.setattr(made, "_call", failing)
    key, _ = add(made)
    monkeypatch.undo()
    assert isinstance(made.load(key, RULES, slide=True), Live)


def test_wrong_counts_are_fixed_and_their_quotas_are_not_used_any_more(
    database: Database, prefix: str, made: SqlServerStore
) -> None:
    for _ in range(3):
        add(made)
    assert database.ask(f"SELECT MAX(cap) FROM {prefix}_seats")[0][0] > 0
    database.ask(f"UPDATE {prefix}_seats SET held = held - 1")
    assert made.audit(RULES, 100).repaired == 1
    assert database.ask(f"SELECT MAX(cap) FROM {prefix}_seats") in ([(0,)], ((0,),))
    assert made.count(RULES).total == 3
    add(made)
    assert made.count(RULES).total == 4


def test_no_quota_is_left_after_the_end_of_all_sessions(
    database: Database, prefix: str, made: SqlServerStore
) -> None:
    """They have room for what the purge has removed, which is no longer subtracted then."""
    rules = make_rules(total=2000, evict=False)
    add(made, rules=rules)  # deals out the quotas
    held = f"CASE WHEN part = {PURGE} THEN -1600 WHEN part < {PARTS} THEN 100 ELSE 0 END"
    database.ask(f"UPDATE {prefix}_seats SET held = {held}, total = total + 100")
    made.end_all(new_stamp())
    add(made, rules=rules)
    [(quotas,)] = database.ask(f"SELECT SUM(total) FROM {prefix}_seats WHERE part < {PARTS}")
    assert quotas <= 2000


FAILURES = ("RAISE 'no'", "PERFORM pg_terminate_backend(pg_backend_pid())")


@pytest.mark.parametrize("failure", FAILURES)
def test_a_commit_that_fails_at_the_end_of_a_pipeline_is_no_success(
    postgresql: Database, prefix: str, failure: str
) -> None:
    """As with SERIALIZABLE by default, or when the server is shut down."""
    with closing(sql_store(postgresql, prefix)) as made:
        add(made)  # deals out the quotas
        key, record = add(made)
        postgresql.ask(
            f"CREATE FUNCTION {prefix}_fail() RETURNS trigger LANGUAGE plpgsql"
            f" AS $$ BEGIN {failure}; RETURN NULL; END $$"
        )
        postgresql.ask(
            f"CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE ON {prefix}_sessions"
            f" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {prefix}_fail()"
        )
        stamp, draft = record.stamps[0], make_draft(b"new")
        with pytest.raises(StoreUnavailable):
            add(made)
        with pytest.raises(StoreUnavailable):
            made.commit(key, draft, stamp, touch=None, loaded=record)
        postgresql.ask(f"DROP FUNCTION {prefix}_fail CASCADE")
        assert made.count(RULES).total == 2
        found = made.load(key, RULES, slide=False)
        assert isinstance(found, Live)
        assert found.record.payload == record.payload


class FakeLine:
    """A connection that goes nowhere."""

    idle_since = 0.0

    def run(self, calls: Any) -> list[Any]:
        return []

    def check(self) -> None:
        """It cannot end."""

    def close(self) -> None:
        """Nothing is open."""


def test_no_thread_of_a_child_gets_a_connection_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also not one that comes while another one notices the fork."""
    monkeypatch.setattr(forks, "_leaked", [])
    made = Pool(FakeLine, "server", 5, lambda _: None)
    with made.line() as inherited:
        pass
    taken: list[Any] = []

    def take() -> None:
        with made.line() as line:
            taken.append(line)

    breaker: Any = vars(pool)["Breaker"]

    def between(*args: Any) -> Any:
        monkeypatch.setattr(pool, "Breaker", breaker)
        other = threading.Thread(target=take)
        other.start()
        other.join()
        return breaker(*args)

    parent = os.getpid()
    monkeypatch.setattr(pool, "Breaker", between)
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    take()
    assert len(taken) == 2
    assert inherited not in taken


@pytest.mark.parametrize("error", [Lost("reset by peer"), Refused("1", "no")])
def test_a_connection_that_has_failed_is_not_used_again(error: Exception) -> None:
    made = Pool(FakeLine, "server", 5, lambda _: None)
    with pytest.raises(type(error)), made.line() as first:
        raise error
    with made.line() as second:
        assert second is not first


def test_a_transaction_that_stands_still_loses_its_locks(
    postgresql: Database, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may be stopped, or its machine cut off, between its two round trips."""
    stopped, other = (sql_store(postgresql, prefix, timeout=t) for t in (0.3, 10))
    add(other, "ann")
    end = connections_end(monkeypatch, lambda: add(other, "ann"))
    with pytest.raises(StoreUnavailable):
        add(stopped, "ann")
    assert end == ["once"]
    assert other.count(RULES).total == 2
    for one in (stopped, other):
        one.close()


def connections_end(monkeypatch: pytest.MonkeyPatch, between: Callable[[], object]) -> list[str]:
    """Do something once, between the first and the second round trip of a transaction."""
    from flask_safesession.stores.sql.servers.connections import Transaction

    commit, done = Transaction.commit, list[str]()

    def stop(self: Transaction) -> None:
        if not done:
            done.append("once")
            thread = threading.Thread(target=between)
            thread.start()
            thread.join()
        commit(self)

    monkeypatch.setattr(Transaction, "commit", stop)
    return done
