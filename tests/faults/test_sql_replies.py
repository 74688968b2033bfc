"""Replies of SQL servers that are lost: a proxy cuts the connection before or after the COMMIT."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from flask_safesession.errors import StoreUnavailable
from flask_safesession.model.record import Record
from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores.base import Conflict, Gone, Live, Terms
from flask_safesession.stores.sql.servers import connections
from flask_safesession.testing import make_draft, make_rules

from ..support import proxy as proxies
from ..support.databases import Database
from ..support.hammering_servers import open_store

pytestmark = pytest.mark.faults
RULES = make_rules(total=1_000_000)
ANN = user_tag("ann")


class Way:
    """A store behind a proxy, and another one that sees what is stored."""

    def __init__(self, database: Database, proxy: proxies.Proxy, prefix: str) -> None:
        self.proxy = proxy
        url = database.url().replace(f":{database.port}/", f":{proxy.port}/")
        self.store, self.other = (open_store(u, prefix) for u in (url, database.url()))
        self.key = new_id(ANN[0]).key
        self.other.create(self.key, make_draft(b"old", user="ann", rules=RULES), RULES)
        loaded = self.store.load(self.key, RULES, slide=True)  # connected, and the first use
        assert isinstance(loaded, Live)
        self.record: Record = loaded.record

    @property
    def stamp(self) -> str:
        return self.record.stamps[0]

    def live(self, key: str | None = None) -> Record | None:
        found = self.other.load(key or self.key, RULES, slide=False)
        return found.record if isinstance(found, Live) else None

    def close(self) -> None:
        self.store.close()
        self.other.close()


@pytest.fixture
def way(database: Database, prefix: str) -> Iterator[Way]:
    with proxies.before(database.port) as proxy, closing(Way(database, proxy, prefix)) as made:
        yield made


@pytest.fixture(params=["before", "after"])
def cut(request: pytest.FixtureRequest, way: Way, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cuts the connection once, before or after the server has got the COMMIT."""
    done: list[str] = []

    def once(work: Callable[..., Any]) -> Callable[..., Any]:
        def cutting(self: Any, *args: Any) -> Any:
            if not done and getattr(self, "_line", None) is not None:
                return lose(work, self, *args)
            return work(self, *args)

        return cutting

    def lose(work: Callable[..., Any], *args: Any) -> Any:
        done.append(request.param)
        if request.param == "before":
            way.proxy.cut_all()
        else:
            way.proxy.cut_replies = 1
        return work(*args)

    def lossy(work: Callable[..., bool]) -> Callable[..., bool]:
        def losing(self: Any, *args: Any) -> bool:
            if done or self is not way.store._connections:
                return work(self, *args)
            return bool(lose(work, self, *args))

        return losing

    monkeypatch.setattr(connections.Transaction, "commit", once(connections.Transaction.commit))
    for name in ("change", "insert"):
        work = getattr(connections.Connections, name)
        monkeypatch.setattr(connections.Connections, name, lossy(work))
    return done


def commit(way: Way) -> None:
    draft = make_draft(b"new", user="ann", rules=RULES)
    answer = way.store.commit(way.key, draft, way.stamp, touch=0, loaded=way.record)
    assert isinstance(answer, Live)
    record = way.live()
    assert record is not None
    assert (record.payload, record.stamps[:2]) == (b"new", (draft.stamp, way.stamp))


def commit_by_the_engine(way: Way) -> None:
    draft = make_draft(b"new", user="ann", rules=RULES)
    assert isinstance(way.store.commit(way.key, draft, way.stamp, touch=0), Live)
    assert way.live() is not None
    other = make_draft(b"late", user="ann", rules=RULES)
    assert isinstance(way.store.commit(way.key, other, way.stamp, touch=0), Conflict)


def use(way: Way) -> None:
    assert isinstance(way.store.load(way.key, make_rules(touch=0), slide=True), Live)


def rotate(way: Way) -> None:
    new, draft = new_id(ANN[0]).key, make_draft(b"new", user="ann", rules=RULES)
    answer = way.store.rotate(way.key, new, draft, RULES, Terms(way.stamp, True, "rotated"))
    assert isinstance(answer, Live)
    assert way.live(new) is not None
    assert way.live() is None


def end(way: Way) -> None:
    stamp = new_stamp()
    answer = way.store.end(way.key, stamp, "logout", None)
    assert isinstance(answer, Live) or (isinstance(answer, Gone) and answer.repeated)
    assert way.live() is None


def end_user(way: Way) -> None:
    way.store.end_user(ANN, new_stamp(), "revoked", "")
    assert way.live() is None


def end_all(way: Way) -> None:
    way.store.end_all(new_stamp())
    assert way.live() is None
    [(generation,)] = sql(way, "SELECT generation FROM {}_meta")
    assert generation == 1


def refile(way: Way) -> None:
    draft = make_draft(user="bob", rules=RULES)
    answer = way.store.refile(way.key, draft, way.stamp)
    assert isinstance(answer, Live)
    assert answer.record.user == user_tag("bob")


def purge(way: Way) -> None:
    sql(way, "UPDATE {}_sessions SET deadline = 1")
    way.store.purge(RULES, 100)
    assert sql(way, "SELECT COUNT(*) FROM {}_sessions") == [(0,)]


def keep(way: Way) -> None:
    assert way.store.keep("overrides", b"new", b"")
    assert way.other.document("overrides").document == b"new"


def lease(way: Way) -> None:
    way.store.lease("purge", 60_000)  # if the reply was lost, nobody has it
    assert not way.other.lease("purge", 60_000)


def sql(way: Way, statement: str) -> list[Any]:
    with way.other._pool.line() as line:
        [answer] = line.run([(statement.format(way.other._prefix), ())])
        return answer.rows


OPERATIONS = {
    work.__name__: work
    for work in (
        commit,
        commit_by_the_engine,
        use,
        rotate,
        end,
        end_user,
        end_all,
        refile,
        purge,
        keep,
        lease,
    )
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_fault_09_an_operation_whose_reply_is_lost_is_repeated_and_done_once(
    way: Way, cut: list[str], operation: str
) -> None:
    OPERATIONS[operation](way)
    assert len(cut) == 1
    assert way.other.audit(RULES, 100).repaired == 0


def test_fault_08_a_creation_whose_reply_is_lost_is_an_outage_and_one_orphan_at_most(
    way: Way, cut: list[str]
) -> None:
    with pytest.raises(StoreUnavailable):
        way.store.create(new_id(ANN[0]).key, make_draft(user="ann", rules=RULES), RULES)
    orphans = way.other.count(RULES).total - 1
    assert orphans == (0 if cut == ["before"] else 1)
    assert way.other.audit(RULES, 100).repaired == 0
    sql(way, "UPDATE {}_sessions SET deadline = 1")  # its idle timeout
    assert way.other.purge(RULES, 100).due == 1 + orphans
    assert way.other.count(RULES) == way.other.count(RULES)._replace(due=0)


def test_fault_08_a_creation_in_one_round_trip_is_sent_again_only_if_it_was_never_sent(
    way: Way, cut: list[str], request: pytest.FixtureRequest, database: Database
) -> None:
    """A connection that has ended is noticed before it is used."""
    key = new_id().key
    if request.node.callspec.params["cut"] == "before":
        assert isinstance(way.store.create(key, make_draft(rules=RULES), RULES), Live)
        assert way.live(key) is not None
        totals = [2]
    else:  # MariaDB may come to the COMMIT later, or notice before that the connection has ended
        with pytest.raises(StoreUnavailable):
            way.store.create(key, make_draft(rules=RULES), RULES)
        totals = [2] if database.scheme == "postgresql" else [1, 2]
    assert len(cut) == 1
    assert way.other.audit(RULES, 100).repaired == 0
    assert way.other.count(RULES).total in totals


def test_fault_40_a_commit_of_which_nothing_tells_whether_it_was_done_is_an_outage(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, done = connections.Connections.change, list[bool]()

    def lossy(self: Any, call: Any) -> bool:
        if done or self is not way.store._connections:
            return change(self, call)
        done.append(change(self, call))
        for _ in range(3):  # others push its stamp out of the record
            found = way.live()
            assert found is not None
            draft = make_draft(b"theirs", user="ann", rules=RULES)
            way.other.commit(way.key, draft, found.stamps[0], touch=0)
        way.proxy.cut_all()
        return change(self, call)

    monkeypatch.setattr(connections.Connections, "change", lossy)
    draft = make_draft(b"mine", user="ann", rules=RULES)
    with pytest.raises(StoreUnavailable, match="unknown"):
        way.store.commit(way.key, draft, way.stamp, touch=0, loaded=way.record)
    record = way.live()
    assert record is not None
    assert record.payload == b"theirs"


def test_fault_10_idle_connections_that_the_server_has_closed_are_not_noticed(way: Way) -> None:
    for work in (use, commit_by_the_engine, end):
        way.proxy.cut_all()
        work(way)


def test_fault_10_a_creation_is_repeated_on_a_new_connection(way: Way) -> None:
    way.proxy.cut_all()
    assert isinstance(way.store.create(new_id().key, make_draft(rules=RULES), RULES), Live)
    assert way.other.count(RULES).total == 2


def test_fault_10_a_creation_is_repeated_if_a_firewall_has_forgotten_its_connection(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is noticed of that until something is sent, which is answered by a reset."""
    forgotten, take = set(way.proxy._pairs), way.proxy.take

    def answer(connection: Any, data: bytes) -> None:
        if connection.pair in forgotten:
            connection.pair.cut()
        else:
            take(connection, data)

    way.proxy.reset = True
    monkeypatch.setattr(way.proxy, "take", answer)
    monkeypatch.setattr(connections, "TRUSTED", -1.0)
    assert isinstance(way.store.create(new_id().key, make_draft(rules=RULES), RULES), Live)
    assert way.other.count(RULES).total == 2


def test_fault_07_the_breaker_opens_probes_and_closes(way: Way) -> None:
    way.proxy.refuse = True
    way.proxy.cut_all()
    for _ in range(10):
        with pytest.raises(StoreUnavailable):
            way.store.load(way.key, RULES, slide=False)
    assert set(way.store.states().values()) == {"open"}
    before = way.proxy.connections
    with pytest.raises(StoreUnavailable, match="not asked again yet"):
        way.store.load(way.key, RULES, slide=False)
    assert way.proxy.connections == before
    way.proxy.fix()

    def is_back() -> bool:
        try:
            return isinstance(way.store.load(way.key, RULES, slide=False), Live)
        except StoreUnavailable:
            return False

    from ..support.servers import poll

    assert poll("the probe", is_back) < 5
    assert set(way.store.states().values()) == {"closed"}


def test_fault_09_a_reply_that_is_cut_in_the_middle_is_asked_for_again(way: Way) -> None:
    for size in (1, 3, 7, 40):
        way.proxy.truncate = size
        use(way)
