"""What a store can do is found out when it is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from flask import Flask

from flask_safesession import ConfigError, session
from flask_safesession.stores.engine import Engine
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.opening import CannotDo, Opened, open_store, shown_place
from flask_safesession.stores.sharded import Sharded

from ..support.counting import PlainStore

MakeApp = Callable[..., Flask]


class WithUsers(PlainStore):
    """A store that knows whose sessions are whose."""

    def __init__(self) -> None:
        super().__init__(inner := MemoryStore())
        self.peek, self.sessions_of = inner.peek, inner.sessions_of
        self.end_user = inner.end_user


def ignore(event: object) -> None:
    """What is not of interest."""


def test_a_store_of_each_protocol_is_recognised() -> None:
    plain, users, whole = (Opened.of(kind()) for kind in (PlainStore, WithUsers, MemoryStore))
    assert [opened.users is not None for opened in (plain, users, whole)] == [False, True, True]
    assert [opened.index is not None for opened in (plain, users, whole)] == [False, False, True]
    assert [len(opened.shards) for opened in (plain, users, whole)] == [0, 0, 1]
    assert (plain.remote, whole.system) == (None, "memory")


def test_what_a_store_cannot_do_is_refused_with_the_methods_that_it_needs() -> None:
    with pytest.raises(CannotDo, match=r"PlainStore cannot list .* give it end_user, "):
        Opened.of(PlainStore()).need_users()
    with pytest.raises(CannotDo, match=r"WithUsers has no index .* give it audit, .*Indexed"):
        Opened.of(WithUsers()).need_index()


def test_an_app_on_a_store_without_an_index_serves_signs_in_and_signs_out(
    make_app: MakeApp,
) -> None:
    app = make_app(store=PlainStore(), check_interval="1m")

    @app.get("/<user>")
    def sign_in(user: str) -> str:
        session["user_id"] = user
        return session.info.handle or ""

    @app.get("/out")
    def sign_out() -> str:
        user: str = session["user_id"]
        session.clear()
        return user

    safe, client = app.extensions["tested.safe"], app.test_client()
    client.get("/ann")
    assert client.get("/out").text == "ann"
    for refused in (safe.count, safe.purge, safe.stats, safe.browse):
        with pytest.raises(TypeError, match="has no index of its sessions"):
            refused()
    client.get("/ben")
    safe.end_all()
    assert client.get("/out").status_code == 500  # nobody is signed in
    assert app.test_cli_runner().invoke(args=["safesession", "check"]).exit_code == 1


def test_a_user_store_lists_and_ends_sessions_of_a_user(make_app: MakeApp) -> None:
    app = make_app(store=WithUsers())

    @app.get("/")
    def sign_in() -> str:
        session["user_id"] = "ann"
        return ""

    safe = app.extensions["tested.safe"]
    app.test_client().get("/")
    [one] = safe.sessions_of("ann")
    assert safe.find(one.handle) is not None
    assert safe.end_user("ann") == 1
    assert safe.sessions_of("ann") == []


def test_a_store_that_lacks_an_operation_does_not_start(make_app: MakeApp) -> None:
    half: Any = SimpleNamespace(shared=True, load=print, create=print)
    with pytest.raises(ConfigError, match="give it the methods of a Store: close, commit, end, "):
        make_app(store=half)


def test_a_store_has_to_say_whether_processes_share_it(make_app: MakeApp) -> None:
    class Undecided(Engine):
        """A backend's store, as its author may begin."""

    with pytest.raises(ConfigError, match="give its class 'shared': whether processes share"):
        make_app(store=Undecided(MemoryStore().tables))
    with pytest.raises(ConfigError, match="give an instance of this class"):
        make_app(store=MemoryStore)


def test_a_ready_store_in_shards_is_used_with_their_number(make_app: MakeApp) -> None:
    store = Sharded([MemoryStore(), MemoryStore()], ignore)
    with pytest.raises(ConfigError, match="SAFESESSION_SHARDS is 1, but the store has 2"):
        make_app(store=store)
    app = make_app(store=store, shards=2)
    app.add_url_rule("/", view_func=lambda: str(session.setdefault("cart", 3)))
    assert app.test_client().get("/").text == "3"
    assert app.extensions["tested.safe"].count() == 1
    with pytest.raises(ConfigError, match="SHARDS is 2, but the store is in memory: remove it"):
        make_app(store=MemoryStore(), shards=2)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/2", "redis://localhost:6379/2"),
        ("rediss://ada:pa:ss@cache:6379/0", "rediss://ada:***@cache:6379/0"),
        ("redis://:secret@cache/0", "redis://:***@cache/0"),
        ("postgresql://ada@db:5432/shop", "postgresql://ada@db:5432/shop"),
        ("postgresql://ada:se@cret@db/shop", "postgresql://ada:***@db/shop"),
        (
            "redis+sentinel://a:b@one:1,two:2/x?sentinel_password=c",
            "redis+sentinel://a:***@one:1,two:2/x?sentinel_password=***",
        ),
    ],
)
def test_operators_see_where_a_store_is_but_no_password(url: str, shown: str) -> None:
    assert shown_place(Opened.of(MemoryStore()), url) == shown


def test_operators_see_where_a_file_and_a_client_are(tmp_path: Path) -> None:
    opened = open_store("sqlite://", str(tmp_path), shards=1, prefix="p", timeout=1)
    assert shown_place(opened, "sqlite://").startswith(f"sqlite:///{tmp_path}/")
    client = redis.Redis(host="cache", port=1, db=3, password="secret")
    assert shown_place(Opened.of(MemoryStore()), client) == "redis.client.Redis at cache:1/3"
    store = MemoryStore()
    assert "MemoryStore" in shown_place(Opened.of(store), store)
