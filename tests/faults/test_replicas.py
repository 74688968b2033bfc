"""What replicas have heard of when the master is lost: ends of sessions, confirmed or reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_safesession import session
from flask_safesession.events import ReplicasMissing, replicas_missing
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Gone, Live, Terms
from flask_safesession.stores.redis import RedisStore
from flask_safesession.testing import make_draft, make_rules, new_key

from ..support import proxy as proxies
from ..support import servers
from ..support.kits import REAL

pytestmark = pytest.mark.faults
RULES = make_rules()


class Pair:
    """A master, and a replica that hears of it through a proxy."""

    def __init__(self, master: servers.Server, replica: servers.Server, way: proxies.Proxy) -> None:
        self.master, self.replica, self.way = master, replica, way

    def cut_off(self) -> None:
        """Nothing reaches the replica any more, and the master has not noticed."""
        self.way.silent = True

    def promote(self) -> servers.Server:
        """The master is lost; the replica takes its place, with what it has heard."""
        self.replica.ask("REPLICAOF", "NO", "ONE")
        self.master.kill()
        return self.replica


@pytest.fixture(params=REAL)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    for name in ("master", "replica"):
        (tmp_path / name).mkdir()
    kind = request.param
    with (
        servers.running(kind, tmp_path / "master", "--repl-diskless-sync-delay", "0") as master,
        proxies.before(master.port) as way,
        servers.running(
            kind, tmp_path / "replica", "--replicaof", f"127.0.0.1 {way.port}"
        ) as replica,
    ):
        made = Pair(master, replica, way)
        servers.poll("the replica", lambda: master.is_copied(1))
        yield made


@pytest.fixture
def told() -> Iterator[list[ReplicasMissing]]:
    found: list[ReplicasMissing] = []

    def note(sender: Any, event: ReplicasMissing) -> None:
        found.append(event)

    replicas_missing.connect(note)
    yield found
    replicas_missing.disconnect(note)


@pytest.fixture
def store(pair: Pair) -> Iterator[RedisStore]:
    made = RedisStore(pair.master.url, timeout=1, wait_replicas=1)
    yield made
    made.close()


@pytest.fixture
def patient(pair: Pair) -> Iterator[RedisStore]:
    """The same, for what the replica is to confirm, however busy the machine is."""
    made = RedisStore(pair.master.url, timeout=20, wait_replicas=1)
    yield made
    made.close()


def add(store: RedisStore) -> tuple[str, str]:
    key, draft = new_key(), make_draft()
    assert isinstance(store.create(key, draft, RULES), Live)
    return key, draft.stamp


def at(server: servers.Server, key: str) -> object:
    store = RedisStore(server.url, timeout=1)
    try:
        return store.load(key, RULES, slide=False)
    finally:
        store.close()


def test_fault_13_a_confirmed_end_stays_an_end_when_the_replica_is_promoted(
    pair: Pair, patient: RedisStore, told: list[ReplicasMissing]
) -> None:
    key, _ = add(patient)
    rotated, _ = add(patient)
    assert isinstance(patient.end(key, new_stamp(), "logout", None), Live)
    new = new_key()
    terms, draft = Terms(None, True, "rotated"), make_draft(user=1)
    assert isinstance(patient.rotate(rotated, new, draft, RULES, terms), Live)
    assert told == []
    pair.cut_off()
    promoted = pair.promote()
    assert at(promoted, key) == Gone("logout", has_tombstone=True)
    assert at(promoted, rotated) == Gone(
        "rotated", has_tombstone=True, successor=new, user=draft.user
    )
    assert isinstance(at(promoted, new), Live)


def test_fault_13_an_end_that_no_replica_confirmed_is_reported_and_may_be_lost(
    pair: Pair, store: RedisStore, patient: RedisStore, told: list[ReplicasMissing]
) -> None:
    key, _ = add(store)
    rotated, _ = add(store)
    patient.end(add(patient)[0], new_stamp(), "logout", None)  # with it, all of the above is there
    pair.cut_off()
    assert isinstance(store.end(key, new_stamp(), "logout", None), Live)
    terms = Terms(None, True, "rotated")
    assert isinstance(store.rotate(rotated, new_key(), make_draft(user=1), RULES, terms), Live)
    assert told == [ReplicasMissing("end", key, 1, 0), ReplicasMissing("rotate", rotated, 1, 0)]
    assert isinstance(at(pair.promote(), key), Live)  # that is why


def test_fault_13_a_repeated_end_is_not_confirmed_by_the_write_of_another_connection(
    pair: Pair, patient: RedisStore, told: list[ReplicasMissing]
) -> None:
    """The reply was lost; the second call finds its own work done, and must still wait for it."""
    with proxies.before(pair.master.port) as proxy:
        store = RedisStore(proxy.url, timeout=1, wait_replicas=1)
        key, _ = add(store)
        patient.end(add(patient)[0], new_stamp(), "logout", None)
        pair.cut_off()
        proxy.cut_replies = 1
        answer = store.end(key, new_stamp(), "logout", None)
        assert answer == Gone("logout", has_tombstone=True, repeated=True)
        assert told == [ReplicasMissing("end", key, 1, 0)]
        store.close()


def test_fault_13_the_wait_is_bounded_and_the_visitor_is_signed_out(
    pair: Pair, make_app: Callable[..., Flask], told: list[ReplicasMissing]
) -> None:
    app = make_app(store=pair.master.url, wait_replicas=1, store_timeout="2s")

    @app.get("/in")
    def sign_in() -> str:
        session["user_id"] = 1
        return ""

    @app.get("/out")
    def sign_out() -> str:
        session.clear()
        return ""

    client = app.test_client()
    assert client.get("/in").status_code == 200
    pair.cut_off()
    response = client.get("/out")
    assert response.status_code == 200
    assert "Max-Age=0" in response.headers["Set-Cookie"]
    assert [event.operation for event in told] == ["end"]
    app.extensions["safesession"].store.close()
