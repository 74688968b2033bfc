"""The Redis store on real servers: what is in them, what becomes of it when things go wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from flask_safesession import StoreUnavailable
from flask_safesession.model.tokens import new_stamp
from flask_safesession.stores.base import Gone, Live, Rules, Terms
from flask_safesession.stores.redis import RedisStore
from flask_safesession.testing import age_redis, make_draft, make_rules, new_key
from flask_safesession.testing.kit import together

from ...support import proxy as proxies
from ...support import servers
from ...support.sharding_kit import index_of

RULES = make_rules()


@pytest.fixture
def client(server: servers.Server) -> Iterator[redis.Redis]:
    made = server.client()
    yield made
    made.close()


@pytest.fixture
def store(client: redis.Redis, prefix: str) -> Iterator[RedisStore]:
    made = RedisStore(client, prefix=prefix, timeout=5)
    yield made
    made.close()


@pytest.fixture
def proxy(any_server: servers.Server) -> Iterator[proxies.Proxy]:
    with proxies.before(any_server.port) as made:
        yield made


@pytest.fixture
def far_store(proxy: proxies.Proxy, prefix: str) -> Iterator[RedisStore]:
    """A store behind the proxy."""
    made = RedisStore.from_url(proxy.url, prefix=prefix, timeout=2)
    yield made
    made.close()


def add(store: RedisStore, user: object = None, rules: Rules = RULES) -> tuple[str, str]:
    """A new session; its key and stamp."""
    key, draft = new_key(), make_draft(user=user)
    assert isinstance(store.create(key, draft, rules), Live)
    return key, draft.stamp


def name(prefix: str, key: str) -> str:
    return f"{{{prefix}:0}}:s:{key}"


# -- what is in the server ----------------------------------------------------------------------


def test_every_key_is_in_one_slot_under_the_prefix(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    add(store)
    add(store, user=1)
    names = {key.decode() for key in client.scan_iter(f"{{{prefix}:0}}:*")}
    kinds = sorted(key.removeprefix(f"{{{prefix}:0}}:")[:2] for key in names)
    assert kinds == ["s:", "s:", "sh", "t:", "t:", "ti", "u:"]


def test_redis_own_expiry_is_a_net_after_the_deadline(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    key, _ = add(store)
    ttl: Any = client.pttl(name(prefix, key))
    assert 30 * 60_000 < ttl <= 35 * 60_000


def test_a_passive_load_that_shortens_the_limits_is_no_use(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    key, _ = add(store)
    age_redis(client, 5 * 60_000, prefix)
    answer = store.load(key, make_rules(idle=20 * 60_000), slide=False)
    assert isinstance(answer, Live)
    assert (answer.record.idle, answer.record.last_active) == (20 * 60_000, answer.record.created)


def test_nothing_is_left_when_all_has_ended(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    for user in (None, 1, 2):
        store.end(add(store, user)[0], new_stamp(), "logout", None)
        store.end(add(store, user)[0], new_stamp(), "revoked", None)
    age_redis(client, 24 * 60 * 60_000, prefix)
    store.purge(RULES, 10)
    left = {key.decode().rpartition(":")[2] for key in client.scan_iter(f"{{{prefix}:0}}:*")}
    assert left == {"shards", "tiers"}


def test_the_names_of_tiers_that_are_gone_are_forgotten(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    limits = RULES.policy.default
    before = make_rules(tiers={"retired": limits})
    key = new_key()
    store.create(key, make_draft(rules=before, user=1, tier="retired"), before)
    store.purge(RULES, 10)
    assert store.count(RULES).live["retired"] == 1
    store.end(key, new_stamp(), "logout", None)
    store.purge(RULES, 10)
    assert "retired" not in store.count(RULES).live


def test_an_index_that_lost_a_live_session_gets_it_back(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    strangers, user = [add(store)[0] for _ in range(5)], add(store, user=1)[0]
    slot = f"{{{prefix}:0}}"
    client.zrem(f"{slot}:t:anonymous", strangers[0])
    client.delete(index_of(slot, 1))
    client.delete(name(prefix, strangers[1]))  # the other way round: a record that is gone
    client.zadd(index_of(slot, 1), {strangers[2]: 1})  # and somebody else's session
    repaired = 0
    while not (step := store.audit(RULES, 100)).done:
        repaired += step.repaired
    assert repaired + step.repaired == 4
    assert store.count(RULES).total == 5
    members: Any = client.zrange(index_of(slot, 1), 0, -1)
    assert members == [user.encode()]
    store.audit(RULES, 100)


def test_a_prefix_with_wildcards_audits_its_own_keys_only(client: redis.Redis, prefix: str) -> None:
    mine = RedisStore(client, prefix=f"{prefix}*", timeout=5)
    other = RedisStore(client, prefix=f"{prefix}x", timeout=5)
    add(mine)
    add(other)
    for store in (mine, other):
        while not (step := store.audit(RULES, 1000)).done:
            assert step.repaired == 0
        assert store.count(RULES).total == 1


class Interrupted(RedisStore):
    """After it has prepared rules for the scripts, another thread calls it with other rules."""

    others: Rules | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_wired" and (others := self.others) is not None:
            self.others = None
            self.load(new_key(), others, slide=True)


def test_a_call_keeps_its_rules_while_another_thread_uses_others(
    client: redis.Redis, prefix: str
) -> None:
    store = Interrupted(client, prefix=prefix, timeout=5)
    add(store, rules=make_rules(total=2))
    add(store, rules=make_rules(total=2))
    store.others = make_rules(total=2, evict=False)
    answer = store.create(new_key(), make_draft(), make_rules(total=2))
    assert isinstance(answer, Live)
    assert len(answer.removed) == 1
    store.close()


# -- what is not ours ---------------------------------------------------------------------------


def test_a_record_of_a_newer_version_is_unavailable_and_never_overwritten(
    store: RedisStore, client: redis.Redis, prefix: str
) -> None:
    key, stamp = add(store)
    newer = b"SS2" + b"?" * 300
    client.set(name(prefix, key), newer)
    calls: list[Callable[[], object]] = [
        lambda: store.load(key, RULES, slide=True),
        lambda: store.commit(key, make_draft(), stamp, touch=0),
        lambda: store.end(key, new_stamp(), "logout", None),
        lambda: store.rotate(key, new_key(), make_draft(), RULES, Terms(None, False, "x")),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="newer version"):
            call()
    assert client.get(name(prefix, key)) == newer


# -- lost replies -------------------------------------------------------------------------------


def test_a_commit_whose_reply_was_lost_is_done_once(
    far_store: RedisStore, proxy: proxies.Proxy
) -> None:
    key, stamp = add(far_store)
    draft = make_draft(b"changed")
    proxy.cut_replies = 1
    answer = far_store.commit(key, draft, stamp, touch=0)
    assert isinstance(answer, Live)
    assert answer.record.stamps[:2] == (draft.stamp, stamp)
    loaded = far_store.load(key, RULES, slide=False)
    assert isinstance(loaded, Live)
    assert loaded.record.payload == b"changed"


def test_a_create_whose_reply_was_lost_is_sent_once(
    far_store: RedisStore, proxy: proxies.Proxy
) -> None:
    add(far_store)
    proxy.cut_replies = 1
    with pytest.raises(StoreUnavailable):
        far_store.create(new_key(), make_draft(), RULES)
    assert far_store.count(RULES).total == 2  # the orphan, with its index entry


# -- time ---------------------------------------------------------------------------------------


def test_a_stopped_server_costs_one_timeout_and_not_more(tmp_path: Path) -> None:
    with servers.running(servers_first(), tmp_path) as server:
        patient = RedisStore.from_url(server.url, timeout=5)
        key, stamp = add(patient)
        patient.close()
        store = RedisStore.from_url(server.url, timeout=0.3)
        fresh = RedisStore.from_url(server.url, timeout=0.3)
        until_it_is_in_time(store, key)
        with server.paused():
            for call in (
                lambda: store.load(key, RULES, slide=True),
                lambda: fresh.load(key, RULES, slide=True),
                lambda: store.commit(key, make_draft(), stamp, touch=0),
                lambda: store.create(new_key(), make_draft(), RULES),
            ):
                started = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    call()
                assert time.monotonic() - started < 20  # far under redis-py's own minute
        until_it_is_in_time(store, key)
        store.close()
        fresh.close()


def until_it_is_in_time(hasty: RedisStore, key: str) -> None:
    """Load until a store that has little time has enough of it: the machine may be busy."""

    def is_loaded() -> bool:
        with suppress(StoreUnavailable):
            return isinstance(hasty.load(key, RULES, slide=True), Live)
        return False

    servers.poll("a load in time", is_loaded)


def servers_first() -> str:
    return min(servers.binaries())


def test_closing_the_store_leaves_a_call_that_is_under_way_alone(
    far_store: RedisStore, proxy: proxies.Proxy
) -> None:
    key, _ = add(far_store)
    proxy.delay = 0.1
    answers: list[object] = []
    waiting = threading.Thread(
        target=lambda: answers.append(far_store.load(key, RULES, slide=False))
    )
    waiting.start()
    servers.poll("the call", lambda: proxy.under_way, every=0.001)
    far_store.close()
    waiting.join(30)
    assert [type(answer) for answer in answers] == [Live]


def test_a_client_with_long_retries_and_timeouts_of_its_own_is_bounded_all_the_same() -> None:
    patient = redis.Redis(port=servers.free_port(), socket_timeout=60, socket_connect_timeout=60)
    store = RedisStore(patient, timeout=0.5)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="refused"):
        store.count(RULES)
    assert time.monotonic() - started < 20  # of the client's minute


def test_a_restart_and_a_script_flush_are_not_noticed(tmp_path: Path) -> None:
    with servers.running(servers_first(), tmp_path) as server:
        store = RedisStore.from_url(server.url, timeout=5)
        key, _ = add(store)
        with server.client() as client:
            client.script_flush()
            assert isinstance(store.load(key, RULES, slide=True), Live)
            client.client_kill_filter(_type="normal", skipme=True)  # idle connections are cut
        assert isinstance(store.load(key, RULES, slide=True), Live)
        server.stop()
        again = servers.start(server.name, tmp_path, port=server.port)
        try:
            assert store.load(key, RULES, slide=True) == Gone("unknown")  # no data was kept
            add(store)
        finally:
            again.stop()
            store.close()


# -- clients ------------------------------------------------------------------------------------


def test_a_client_that_decodes_replies_is_used_without_decoding(
    server: servers.Server, prefix: str
) -> None:
    with redis.Redis(port=server.port, decode_responses=True) as client:
        store = RedisStore(client, prefix=prefix, timeout=5)
        key = new_key()
        store.create(key, make_draft(b"\xff\x00"), RULES)
        answer = store.load(key, RULES, slide=True)
        assert isinstance(answer, Live)
        assert answer.record.payload == b"\xff\x00"
        assert client.get(f"{prefix}-nothing") is None
        store.close()


def test_a_blocking_pool_is_bounded_in_its_wait(proxy: proxies.Proxy, prefix: str) -> None:
    pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
        port=proxy.port, max_connections=1, timeout=60
    )
    with redis.Redis(connection_pool=pool) as client:
        store = RedisStore(client, prefix=prefix, timeout=0.3)
        proxy.silent = True

        def call(number: int) -> None:
            with pytest.raises(StoreUnavailable):
                store.count(RULES)

        started = time.monotonic()
        together(3, call)
        assert time.monotonic() - started < 20  # of the minute that the pool would wait
        servers.poll("the proxy", lambda: proxy.open <= 1)
        proxy.silent = False
        proxy.cut_all()
        assert store.count(RULES).total == 0
        store.close()
    pool.disconnect()


def test_credentials_and_database_of_a_client_are_kept(tmp_path: Path) -> None:
    with servers.running(servers_first(), tmp_path) as server:
        with server.client() as admin:
            admin.acl_setuser(
                "shop", enabled=True, passwords=["+pw"], keys=["*"], categories=["+@all"]
            )
        with redis.Redis(port=server.port, username="shop", password="pw", db=3) as client:
            store = RedisStore(client, timeout=5)
            add(store)
            assert (
                client.dbsize() == 3
            )  # a record, its index, the number of shards, nothing in another database
            store.close()
        wrong = RedisStore.from_url(f"redis://shop:no@127.0.0.1:{server.port}/3", timeout=5)
        with pytest.raises(StoreUnavailable) as caught:
            wrong.count(RULES)
        assert ":no@" not in str(caught.value)
