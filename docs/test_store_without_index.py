"""A store that is a ``Store`` and nothing more keeps its part of the contract."""

import secrets

import pytest
from flask import Flask, session

from docs.example_store import ExampleStore
from flask_safesession import SafeSession
from flask_safesession.stores.base import Store
from flask_safesession.stores.opening import Opened
from flask_safesession.testing import FakeClock, StoreContract, StoreKit


class Plain:
    """The nine operations of another store, without its lists."""

    def __init__(self, store: Store) -> None:
        self.shared = store.shared
        self.load, self.create, self.commit = store.load, store.create, store.commit
        self.refile, self.rotate, self.end = store.refile, store.rotate, store.end
        self.end_all, self.inspect, self.close = store.end_all, store.inspect, store.close


class TestAStoreWithoutAnIndex(StoreContract):
    @pytest.fixture
    def kit(self) -> StoreKit:
        clock = FakeClock()
        return StoreKit(Plain(ExampleStore(clock)), clock.advance)


def test_it_has_no_lists() -> None:
    opened = Opened.of(Plain(ExampleStore()))
    assert (opened.users, opened.index, opened.remote) == (None, None, None)


@pytest.mark.parametrize("store", [ExampleStore(), Plain(ExampleStore())])
def test_an_app_runs_on_it(store: Store) -> None:
    app = Flask("app")
    app.secret_key = secrets.token_hex()
    SafeSession(app, store=store)

    @app.route("/")
    def count() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return str(session["visits"])

    client = app.test_client()
    assert [client.get("/").text for _ in range(2)] == ["1", "2"]
