"""``schema`` prints the SQL of the tables, without a server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_safesession.stores.sql.schema import SCHEMA_VERSION

from ...support.cli_kit import run

MakeApp = Callable[..., Flask]
UNREACHABLE = {
    "postgresql": "postgresql://u:hunter2@127.0.0.1:1/d",
    "mysql": "mysql://u:hunter2@127.0.0.1:1/d",
}


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the flask command sets it: an app starts without asking its store."""
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")


def tables(file: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(file)) as line:
        return line.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_the_printed_statements_make_what_the_store_makes(
    make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app(store=f"sqlite:///{tmp_path / 'made.sqlite3'}", key_prefix='a"b')
    printed = run(app, "schema").out
    with closing(sqlite3.connect(tmp_path / "printed.sqlite3")) as line:
        line.executescript(printed)
    app.extensions["tested.safe"].count()
    app.extensions["safesession"].store.close()
    assert tables(tmp_path / "printed.sqlite3") == tables(tmp_path / "made.sqlite3")


@pytest.mark.parametrize(
    ("kind", "table"),
    [
        ("postgresql", 'CREATE TABLE IF NOT EXISTS "se""ss_sessions" ('),
        ("mysql", 'CREATE TABLE IF NOT EXISTS `se"ss_sessions` ('),
    ],
)
def test_no_server_is_needed_and_names_are_quoted_as_it_takes_them(
    make_app: MakeApp, kind: str, table: str
) -> None:
    said = run(make_app(store=UNREACHABLE[kind], key_prefix='se"ss'), "schema")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(table)
    assert said.out.endswith(");\n") or said.out.endswith(";\n")
    assert "hunter2" not in said.out


def test_the_database_of_the_app_may_be_set_up_later(make_app: MakeApp) -> None:
    db = SQLAlchemy()
    app = make_app(store=db)
    app.config["SQLALCHEMY_DATABASE_URI"] = "mysql+pymysql://u@127.0.0.1:1/d"
    db.init_app(app)
    assert "`safesession_sessions`" in run(app, "schema").out


def test_from_the_only_version_there_is_nothing_to_do(make_app: MakeApp) -> None:
    app = make_app(store=UNREACHABLE["mysql"])
    said = run(app, "schema", "--from", str(SCHEMA_VERSION))
    assert said.out == "-- Nothing to do: tables of version 1 are up to date.\n"
    assert run(app, "schema", "--from", "1", "--json").json == {"version": 1, "statements": []}
    wrong = run(app, "schema", "--from", "2")
    assert wrong.code == 2
    assert "there is no version 2 of the tables: the only one is 1" in wrong.err


def test_a_store_without_tables_says_so(make_app: MakeApp) -> None:
    said = run(make_app(), "schema")
    assert said.code == 1
    assert "SAFESESSION_STORE is not in a SQL database: it has no tables" in said.err
