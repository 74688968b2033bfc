"""Ways in to SQL servers: passwords by functions, TLS, sockets, and users who may not do all."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask import Flask, session

from flask_safesession import ConfigError
from flask_safesession.stores.sql.schema import SCHEMA_VERSION

from ...support import databases
from ...support.cli_kit import run
from ...support.databases import Database
from ...support.servers import Certificates

MakeApp = Callable[..., Flask]
Start = Callable[..., Database]


@pytest.fixture(params=databases.STARTS)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a database of each kind, for this test alone."""
    with contextlib.ExitStack() as stack:

        def make(**ways: Any) -> Database:
            made: Database = databases.STARTS[request.param](**ways)
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture
def visit(make_app: MakeApp) -> Iterator[Callable[..., int]]:
    """Returns the status of a sign-in in a new app with these settings."""
    apps: list[Flask] = []

    def visit(**settings: Any) -> int:
        app = make_app(**settings)
        apps.append(app)
        app.add_url_rule("/", "sign_in", lambda: str(session.update(user_id=7)))
        return app.test_client().get("/").status_code

    yield visit
    for app in apps:
        app.extensions["safesession"].store.close()


# -- passwords ------------------------------------------------------------------------------------


def test_a_password_comes_from_a_function_for_each_new_connection(
    start: Start, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    server = start(password="first/@: ")
    url = server.url().replace(f":{quote('first/@: ', safe='')}@", "@")
    answers: list[Any] = ["first/@: "]
    app = make_app(store=url, store_password=lambda: answers[0], store_timeout="5s")
    app.add_url_rule("/", "sign_in", lambda: str(session.update(user_id=7)))
    client, store = app.test_client(), app.extensions["safesession"].store
    assert client.get("/").status_code == 200

    user = "postgres" if server.scheme == "postgresql" else "'root'@'127.0.0.1'"
    change = (
        "ALTER USER {} PASSWORD '{}'" if user == "postgres" else "ALTER USER {} IDENTIFIED BY '{}'"
    )
    server.ask(change.format(user, "second"))
    assert client.get("/").status_code == 200  # on the connection that there is
    store.close()
    assert client.get("/").status_code == 503  # the old password
    answers[0] = "second"
    assert (
        make_app(store=url, store_password="second").extensions["safesession"].store.lease("a", 1)
    )
    for wrong in (None, b"hunter2"):
        answers[0] = wrong
        caplog.clear()
        failing = make_app(store=url, store_password=lambda: answers[0])
        assert f"returned {type(wrong).__name__}, not text" in caplog.text
        said = run(failing, "check").out
        assert "[store-unavailable]" in said
        assert "hunter2" not in caplog.text + said + repr(failing.extensions["safesession"])


def test_a_function_that_fails_is_an_outage_without_its_words(
    database: Database, visit: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str:
        raise LookupError("hunter2")

    assert visit(store=database.url(), store_password=fail) == 503
    assert "the function in SAFESESSION_STORE_PASSWORD raised LookupError" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("store", ["memory://", "sqlite://", "redis://localhost"])
def test_a_password_for_another_store_is_refused(make_app: MakeApp, store: str) -> None:
    with pytest.raises(
        ConfigError, match="begins with postgresql:// or mysql://: remove"
    ) as caught:
        make_app(store=store, store_password="hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("wrong", [b"hunter2", "", 7])
def test_a_password_that_is_no_text_is_refused_without_showing_it(
    make_app: MakeApp, wrong: Any
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_app(store="mysql://u@localhost/d", store_password=wrong)
    assert f"SAFESESSION_STORE_PASSWORD is of class {type(wrong).__name__}: give" in str(
        caught.value
    )
    assert "hunter2" not in str(caught.value)


# -- TLS and sockets ------------------------------------------------------------------------------


def test_a_certificate_is_verified_unless_a_word_says_not_to(
    start: Start, tmp_path: Path, visit: Callable[..., int]
) -> None:
    certificates = Certificates.make(tmp_path)
    server = start(tls=certificates)
    assert visit(store=server.url()) == 200  # by the authority in the URL
    bare = server.url().partition("?")[0]
    words = {
        "postgresql": ("sslmode=verify-full", "sslmode=require"),
        "mysql": ("ssl=true", "ssl_verify_cert=false"),
    }
    by_the_systems_authorities, unverified = words[server.scheme]
    assert visit(store=f"{bare}?{by_the_systems_authorities}") == 503
    assert visit(store=f"{bare}?{unverified}") == 200
    assert visit(store=server.url(socket=True)) == 200


def test_another_authority_and_another_name_are_refused(
    tmp_path: Path, visit: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates.make(tmp_path)
    (tmp_path / "other").mkdir()
    other = Certificates.make(tmp_path / "other")
    server = databases.start_mysql(tls=certificates)
    try:
        bare = server.url().partition("?")[0]
        assert visit(store=f"{bare}?ssl_ca={other.folder / 'ca.pem'}") == 503
        named = bare.replace("127.0.0.1", "127.1")  # the same, but not in the certificate
        ours = f"ssl_ca={certificates.folder / 'ca.pem'}"
        assert visit(store=f"{named}?{ours}") == 503
        assert visit(store=bare) == 503
        assert "if the server requires TLS, add ssl=true" in caplog.text
        # The name alone need not be verified; the authority still is.
        assert visit(store=f"{bare}?{ours}&ssl_verify_identity=false") == 200
        assert (
            visit(store=f"{bare}?ssl_ca={other.folder / 'ca.pem'}&ssl_verify_identity=false") == 503
        )
        assert visit(store=f"{bare}?ssl_verify_identity=false") == 503
    finally:
        server.stop()


def test_a_server_without_tls_gets_no_password_when_tls_is_wanted(
    database: Database, visit: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    word = {"postgresql": "sslmode=require", "mysql": "ssl=true"}[database.scheme]
    assert visit(store=f"{database.url()}?{word}") == 503
    assert "server does" in caplog.text  # … not support SSL, in the driver's words


@pytest.mark.parametrize(
    ("query", "fix"),
    [
        ("ssl_verify_identity=flase", "ssl_verify_identity is 'flase': give true or false"),
        ("ssl=on", "ssl is 'on': give true or false"),
        ("ssl=false&ssl_ca=/ca.pem", "ssl=false contradicts ssl_ca: remove one of them"),
        ("ssl_ca=/nowhere/ca.pem", "a file of ssl_ca, ssl_cert or ssl_key is of no use"),
        ("ssl_mode=REQUIRED", "ssl_mode is no parameter; there are ssl, ssl_ca, "),
    ],
)
def test_a_wrong_parameter_of_mysql_is_refused(make_app: MakeApp, query: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_app(store=f"mysql://u:hunter2@localhost/d?{query}")
    assert fix in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_unix_socket_needs_no_host(database: Database, visit: Callable[..., int]) -> None:
    assert visit(store=database.url(socket=True)) == 200


def test_a_server_that_stops_holds_up_the_engines_connections_only_for_a_while(
    start: Start, make_app: MakeApp
) -> None:
    server = start()
    driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}[server.scheme]
    engine = sa.create_engine(server.url().replace(server.scheme, driver, 1))
    sa.event.listen(engine, "do_connect", lambda *given: None)
    app = make_app(store=engine, store_timeout="1s")
    app.add_url_rule("/", "sign_in", lambda: str(session.update(user_id=7)))
    client = app.test_client()
    assert client.get("/").status_code == 200
    with server.paused():
        before = time.monotonic()
        assert client.get("/").status_code == 503
        assert time.monotonic() - before < 5
    app.extensions["safesession"].store.close()
    engine.dispose()


# -- rights, and tables of another version --------------------------------------------------------


class Restricted:
    """A user who may read and write, but make no tables, in a database of the test's."""

    def __init__(self, database: Database, name: str) -> None:
        self.name, self.server = name, database
        self.ask(f"CREATE DATABASE {name}", within=None)
        if database.scheme == "postgresql":
            self.ask(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2'")
            self.ask("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        else:
            self.ask(f"CREATE USER {name} IDENTIFIED BY 'hunter2'")
            self.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}.* TO {name}")
        self.url = database.url(name, name, "hunter2")

    def ask(self, statement: str, within: str | None = "") -> None:
        self.server.ask(statement, database=self.name if within == "" else within)

    def drop(self) -> None:
        for kind in ("DATABASE", "ROLE" if self.server.scheme == "postgresql" else "USER"):
            self.ask(f"DROP {kind} {self.name}", within=None)


@pytest.fixture
def visitor(database: Database, prefix: str) -> Iterator[Restricted]:
    made = Restricted(database, f"{prefix}_visitor")
    yield made
    made.drop()


def test_tables_that_may_not_be_made_are_made_by_the_printed_statements(
    make_app: MakeApp,
    visitor: Restricted,
    prefix: str,
    visit: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="the tables cannot be made") as caught:
        make_app(store=visitor.url, key_prefix=prefix)
    fix = "make them with the statements that 'flask safesession schema' prints"
    assert fix in str(caught.value)
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    app = make_app(store=visitor.url, key_prefix=prefix)
    said = run(app, "check").out
    assert fix in said
    assert "[store-layout]" in said

    for statement in run(app, "schema", "--json").json["statements"]:
        visitor.ask(statement)
    if visitor.server.scheme == "postgresql":
        said = run(app, "check").out
        assert "permission denied" in said
        assert "let the user read, write" in said
        assert "[store-unavailable]" in said
        right = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO"
        visitor.ask(f"{right} {visitor.name}")
    assert "store-" not in run(app, "check").out
    app.extensions["safesession"].store.close()
    assert visit(store=visitor.url, key_prefix=prefix) == 200
    assert "hunter2" not in said + str(caught.value)


def test_a_wrong_password_or_no_right_at_all_is_an_outage_with_the_fix(
    make_app: MakeApp, database: Database, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(store=database.url(user="nobody_here", password="hunter2"), key_prefix=prefix)
    assert "SAFESESSION_STORE" in caplog.text
    said = run(app, "check").out
    assert re.search(r"correct .*SAFESESSION_STORE.* \[store-unavailable\]", said)
    assert "hunter2" not in said + caplog.text


def test_tables_of_a_newer_version_are_refused_with_the_fix(
    make_app: MakeApp, database: Database, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_app(store=database.url(), key_prefix=prefix).extensions["safesession"].store.close()
    database.ask(f"UPDATE {prefix}_meta SET version = {SCHEMA_VERSION + 1}")
    text = (
        f"are of version {SCHEMA_VERSION + 1}, and this is version {SCHEMA_VERSION}: use the newer"
    )
    with pytest.raises(ConfigError, match=text):
        make_app(store=database.url(), key_prefix=prefix)
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    said = run(make_app(store=database.url(), key_prefix=prefix), "check").out
    assert text in said
    assert "[store-layout]" in said
