"""Servers, and connections to them, that have other defaults than usual."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from flask_safesession.errors import ConfigError, StoreUnavailable
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Live
from flask_safesession.stores.sql.servers.postgresql import DRIVER
from flask_safesession.stores.sql.servers.store import SqlServerStore
from flask_safesession.testing import make_draft, make_rules, new_key

from ...support.databases import Database
from ...support.kits import sql_store
from ...support.servers import poll

RULES = make_rules(total=1_000_000)
OF_MYSQL = {
    "completion_type": ("CHAIN", "RELEASE"),  # a COMMIT begins a transaction, or disconnects
    "sql_safe_updates": (1,),
    "sql_select_limit": (3,),
}


@pytest.fixture(params=[(name, value) for name, values in OF_MYSQL.items() for value in values])
def unusual(request: pytest.FixtureRequest, mysql: Database) -> Iterator[Database]:
    name, value = request.param
    [(before,)] = mysql.ask(f"SELECT @@GLOBAL.{name}")
    mysql.ask(f"SET GLOBAL {name} = %s", value)
    yield mysql
    mysql.ask(f"SET GLOBAL {name} = %s", before)


def add(made: SqlServerStore) -> str:
    key = new_key()
    assert isinstance(made.create(key, make_draft(), RULES), Live)
    return key


def test_what_a_mysql_server_does_by_default_changes_no_answer(
    unusual: Database, prefix: str
) -> None:
    with closing(sql_store(unusual, prefix)) as made, closing(sql_store(unusual, prefix)) as other:
        key, *_ = (add(made) for _ in range(10))
        loaded = made.load(key, RULES, slide=False)
        assert isinstance(loaded, Live)
        record, new = loaded.record, make_draft(b"new")
        made.commit(key, new, record.stamps[0], touch=None, loaded=record)
        found = other.load(key, RULES, slide=False)
        assert isinstance(found, Live)
        assert found.record.payload == b"new"
        assert other.count(RULES).total == 10
        assert made.audit(RULES, 100).repaired == 0
        made.end_all(new_stamp())
        assert other.count(RULES).total == 0


def with_parameter(database: Database, name: str, value: str) -> Database:
    """The same server, with a parameter more in its URL."""
    return replace(database, parameters={**database.parameters, name: value})


def test_tables_are_made_once_also_where_transactions_are_serializable_by_default(
    postgresql: Database, prefix: str
) -> None:
    """A process that has waited for another one sees what that one has made."""
    option = "-cdefault_transaction_isolation=serializable"
    waiting = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    begin, end = DRIVER.alone
    with (
        closing(sql_store(with_parameter(postgresql, "options", option), prefix)) as made,
        closing(postgresql.connect()) as other,
        ThreadPoolExecutor(1) as executor,
    ):
        for statement in begin:
            other.execute(statement)
        prepared = executor.submit(made.prepare)
        poll("the second process", lambda: bool(postgresql.ask(waiting)[0][0]))
        for statement in (*made.schema(), *end):
            other.execute(statement)
        prepared.result(20)


def test_an_error_in_another_encoding_is_an_outage_like_any_other(
    postgresql: Database, prefix: str
) -> None:
    """As from a server in German, in a database that is not in UTF-8."""
    german = with_parameter(postgresql, "client_encoding", "latin1")
    with closing(sql_store(german, prefix)) as made:
        made.prepare()
        postgresql.ask(
            f"CREATE FUNCTION {prefix}_fail() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE 'für'; END $$"
        )
        postgresql.ask(
            f"CREATE TRIGGER fail BEFORE INSERT ON {prefix}_sessions"
            f" FOR EACH ROW EXECUTE FUNCTION {prefix}_fail()"
        )
        with pytest.raises(StoreUnavailable, match=r"f.r"):
            made.create(new_key(), make_draft(), RULES)
        postgresql.ask(f"DROP FUNCTION {prefix}_fail CASCADE")


def test_names_that_postgresql_would_cut_are_refused(postgresql: Database) -> None:
    """It cuts them after 63 bytes, so that two tables or indexes had the same."""
    with pytest.raises(ConfigError, match="give 1 to 40 bytes"):
        sql_store(postgresql, 21 * "ü")
    sql_store(postgresql, 20 * "ü").close()
