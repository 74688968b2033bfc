"""The store on a real Memcached server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from flask_safesession.errors import ConfigError, StoreUnavailable, TooManySessions
from flask_safesession.model.policy import Limits
from flask_safesession.model.record import Record
from flask_safesession.model.tokens import new_stamp, user_tag
from flask_safesession.stores.base import Gone, Live, Removed, Rules, Terms
from flask_safesession.stores.memcached.items import Epoch, dumps
from flask_safesession.stores.memcached.store import MemcachedStore
from flask_safesession.stores.memcached.url import read_url
from flask_safesession.stores.remote.breaker import FAILURES
from flask_safesession.stores.sharded import shard_of
from flask_safesession.testing import StoreContract, StoreKit, make_draft, make_rules, new_key
from flask_safesession.testing.base import ContractBase
from flask_safesession.testing.kit import MINUTE

from ...support import memcached
from ...support.memcached import memcached_kit, needs_memcached, seconds_left

pytestmark = needs_memcached
DAY = 24 * 60 * MINUTE
RULES = make_rules()
ANN = user_tag("ann")


@pytest.fixture(scope="module")
def server() -> Iterator[memcached.Server]:
    with memcached.running() as made:
        yield made


@pytest.fixture
def kit(server: memcached.Server, prefix: str) -> Iterator[StoreKit]:
    made = memcached_kit(server, prefix)
    yield made
    made.store.close()


class TestMemcached(StoreContract):
    """Tests of what needs an index are skipped."""

    @pytest.mark.skip("the server's memory bounds what is kept of ended sessions")
    def test_one_user_pushes_out_no_tombstones_and_reasons_of_others(self, kit: StoreKit) -> None:
        """Each key has its own item, which expires."""


class Ann(ContractBase):
    """Sessions of one user, on one store."""

    def __init__(self, kit: StoreKit, rules: Rules = RULES) -> None:
        self.kit, self.rules = kit, rules

    def sign_in(self, tier: str = "default") -> str:
        return self.add(self.kit, self.rules, user="ann", tier=tier)

    def use(self, key: str) -> None:
        self.live(self.kit.store.load(key, self.rules, slide=True))

    def lives(self, *keys: str) -> list[bool]:
        return [self.read(self.kit, key, self.rules) is not None for key in keys]


# -- a user's cap: the contract has these for stores with an index --------------------------------


def test_at_the_cap_the_session_that_was_never_used_again_is_evicted_first(kit: StoreKit) -> None:
    ann = Ann(kit, make_rules(per_user=3))
    used, unused, latest = ann.sign_in(), ann.sign_in(), ann.sign_in()
    kit.advance(2000)
    for key in (latest, used):
        ann.use(key)
    draft = make_draft(user="ann")
    answer = ann.live(kit.store.create(ann.key_of("ann"), draft, ann.rules))
    assert answer.removed == (Removed(unused, draft.tier, "evicted"),)
    assert ann.lives(used, unused, latest) == [True, False, True]
    assert kit.store.load(unused, ann.rules, slide=True) == Gone("evicted", for_visitor=True)


def test_sessions_that_are_over_do_not_count_against_their_user(kit: StoreKit) -> None:
    rules = make_rules(per_user=2)
    ann = Ann(kit, rules._replace(cap=rules.cap._replace(refuse=True)))
    ended, idle = ann.sign_in(), ann.sign_in()
    with pytest.raises(TooManySessions):
        ann.sign_in()
    kit.store.end(ended, new_stamp(), "logout", None)
    kit.advance(29 * MINUTE)
    third = ann.sign_in()
    kit.advance(2 * MINUTE)
    assert ann.lives(idle, third, ann.sign_in()) == [False, True, True]


def test_a_rotation_takes_the_place_of_its_own_session(kit: StoreKit) -> None:
    ann = Ann(kit, make_rules(per_user=2))
    first, second = ann.sign_in(), ann.sign_in()
    new, answer = ann.rotate(kit, second, ann.rules, user="ann", restart=True)
    assert ann.live(answer).removed == ()
    assert ann.lives(first, second, new) == [True, False, True]


def test_a_change_of_tier_is_refused_before_anything_is_changed(kit: StoreKit) -> None:
    rules = make_rules(tiers={"admin": Limits(30 * MINUTE, 720 * MINUTE, 0)})
    cap = rules.cap._replace(per_tier={"admin": 1}, refuse=True)
    ann = Ann(kit, rules._replace(cap=cap))
    admin, plain = ann.sign_in("admin"), ann.sign_in()
    with pytest.raises(TooManySessions):
        ann.rotate(kit, plain, ann.rules, user="ann", tier="admin")
    assert ann.lives(admin, plain) == [True, True]
    ann = Ann(kit, ann.rules._replace(cap=cap._replace(refuse=False)))
    new, answer = ann.rotate(kit, plain, ann.rules, user="ann", tier="admin")
    assert [gone.key for gone in ann.live(answer).removed] == [admin]
    assert ann.lives(admin, plain, new) == [False, False, True]


def test_a_sign_in_moves_a_session_from_user_to_user(kit: StoreKit) -> None:
    ann, users = Ann(kit), kit.users
    key = ann.sign_in()
    new, answer = ann.rotate(kit, key, RULES, user="bob", restart=True)
    ann.live(answer)
    assert users.sessions_of(ANN) == []
    assert [one.key for one in users.sessions_of(user_tag("bob"))] == [new]
    last, answer = ann.rotate(kit, new, RULES)
    assert ann.live(answer).record.user == ""
    assert users.sessions_of(user_tag("bob")) == []
    assert ann.lives(key, new, last) == [False, False, True]


# -- an operation that is interrupted -------------------------------------------------------------


class Interrupted(Exception):
    """The process is killed here."""


@pytest.mark.parametrize("user", [None, "ann", "bob"])
@pytest.mark.parametrize("old_user", [None, "ann"])
def test_whenever_a_rotation_is_interrupted_one_session_is_left_and_never_two(
    kit: StoreKit, old_user: str | None, user: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flask_safesession.stores.memcached.lines import Line

    ann, write, left, steps = Ann(kit), Line.write, 0, 0

    def interrupted(line: Line, *args: object) -> bool:
        nonlocal left
        if left == 0:
            raise Interrupted
        left -= 1
        return write(line, *args)  # type: ignore[arg-type]

    for steps in range(12):
        key = ann.add(kit, RULES, user=old_user)
        new = ann.key_of(user) if user else new_key()
        left, draft, terms = steps, make_draft(user=user), Terms(None, True, "rotated")
        with monkeypatch.context() as patch, suppress(Interrupted):
            patch.setattr(Line, "write", interrupted)
            kit.store.rotate(key, new, draft, RULES, terms)
        if left > 0:
            break
        assert sum(ann.lives(key, new)) == 1
        for one in (old_user, user):
            if one:
                kit.users.end_user(user_tag(one), new_stamp(), "revoked", "")
                assert kit.users.sessions_of(user_tag(one)) == []
    assert steps >= 3
    assert ann.lives(key, new) == [False, True]


def test_sessions_of_a_user_that_end_during_a_rotation_are_not_completed(
    kit: StoreKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flask_safesession.stores.memcached.turn import Turn

    ann = Ann(kit)
    finish = Turn.finish

    def end_meanwhile(turn: Turn, *args: object) -> None:
        finish(turn, *args)  # type: ignore[arg-type]
        monkeypatch.setattr(Turn, "finish", finish)
        kit.users.end_user(ANN, new_stamp(), "revoked", "")

    for user in ("ann", None):
        key = ann.sign_in()
        monkeypatch.setattr(Turn, "finish", end_meanwhile)
        new, answer = ann.rotate(kit, key, RULES, user=user)
        assert isinstance(answer, Gone)
        assert ann.lives(key, new) == [False, False]


def test_a_session_that_ended_while_it_was_refiled_stays_ended(
    kit: StoreKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flask_safesession.stores.memcached.turn import Turn

    ann, enrol = Ann(kit), Turn.enrol
    key = ann.sign_in()
    stamp = ann.record(kit, key, RULES).stamps[0]
    other = next(name for name in map(str, range(999)) if user_tag(name)[0] == key[0])

    def end_meanwhile(*args: object) -> object:
        monkeypatch.setattr(Turn, "enrol", enrol)
        kit.users.end_user(ANN, new_stamp(), "revoked", "")
        monkeypatch.setattr(Turn, "finish", lambda *args: None)  # that process is killed
        return enrol(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Turn, "enrol", end_meanwhile)
    monkeypatch.setattr(Turn, "finish", lambda *args: None)
    assert isinstance(kit.store.refile(key, make_draft(user=other), stamp), Gone)
    assert ann.lives(key) == [False]


# -- time and expiry ------------------------------------------------------------------------------


def stored_for(server: memcached.Server, prefix: str, name: str) -> int:
    with server.client() as client:
        return seconds_left(client, f"{prefix}:{name}")


def test_items_expire_with_their_sessions(
    kit: StoreKit, server: memcached.Server, prefix: str
) -> None:
    ann, rules = Ann(kit), make_rules(idle=100 * DAY, lifetime=200 * DAY)
    short, long = ann.add(kit, RULES), ann.add(kit, rules)
    assert 1795 <= stored_for(server, prefix, f"s:{short}") <= 1800
    kit.advance(10 * MINUTE)
    assert isinstance(kit.store.load(short, RULES, slide=True), Live)
    assert 1795 <= stored_for(server, prefix, f"s:{short}") <= 1800
    assert 0 < 30 * 86_400 - stored_for(server, prefix, f"s:{long}") + 1 < 10  # never a date
    kit.store.end(short, new_stamp(), "logout", None)
    assert 55 <= stored_for(server, prefix, f"s:{short}") <= 60


def test_what_sessions_depend_on_is_kept_while_it_is_used(
    kit: StoreKit, server: memcached.Server, prefix: str
) -> None:
    ann = Ann(kit)
    key = ann.sign_in()
    before = ann.record(kit, key, RULES)
    with server.client() as client:
        epoch = Epoch.loads(client.get(f"{prefix}:epoch"))
        late = dumps(epoch._replace(expires=epoch.expires - 20 * DAY))
        assert client.set(f"{prefix}:epoch", late, 10 * 86_400, noreply=False)
        assert client.touch(f"{prefix}:u:{ANN}", 10 * 86_400, noreply=False)
    answer = kit.store.load(key, RULES, slide=False)
    assert isinstance(answer, Live)
    assert 0 <= answer.now - before.created <= 5000  # the clock goes on
    for name in ("epoch", f"u:{ANN}"):
        assert stored_for(server, prefix, name) > 29 * 86_400
    again = kit.store.load(key, RULES, slide=False)
    assert isinstance(again, Live)
    assert 0 <= again.now - answer.now <= 5000


def test_a_session_without_its_epoch_stays_over_in_the_next_one(
    kit: StoreKit, server: memcached.Server, prefix: str
) -> None:
    ann = Ann(kit)
    key = ann.sign_in()
    for _ in range(3):
        with server.client() as client:
            assert client.delete(f"{prefix}:epoch", noreply=False)
        later = ann.sign_in()
        assert ann.lives(key, later) == [False, True]
        key = later


# -- settings -------------------------------------------------------------------------------------


def test_processes_that_name_other_servers_are_refused(
    kit: StoreKit, server: memcached.Server, prefix: str
) -> None:
    Ann(kit).sign_in()
    longer = MemcachedStore(f"{server.url},localhost:{server.port}", prefix=prefix)
    with pytest.raises(ConfigError, match=r"number 1/1 .* number 1/2 .* same servers in the same"):
        longer.prepare()
    with pytest.raises(ConfigError, match="same servers"):
        longer.load("A" * 18, RULES, slide=False)
    longer.close()


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("memcached://one", (("one", 11211),)),
        ("memcached://one:1,two.example:65535/", (("one", 1), ("two.example", 65535))),
        ("memcached://[::1]:11212", (("::1", 11212),)),
    ],
)
def test_a_url_names_servers(text: str, addresses: object) -> None:
    assert read_url(text) == addresses


@pytest.mark.parametrize(
    "rest",
    ["", "one,,two", "one:0", "one:65536", "a@one", "one/0", "one one", "one,one", "one?x=1"],
)
def test_other_urls_are_refused(rest: str) -> None:
    with pytest.raises(ValueError, match=r"write memcached://|each server once|no parameters"):
        read_url(f"memcached://{rest}")


def test_a_key_that_would_be_another_command_is_refused(kit: StoreKit) -> None:
    for key in ("A\r\nflush_all\r\n", "A b", "A" * 300):
        with pytest.raises(Exception, match=r"white space|line format"):
            kit.store.load(key, RULES, slide=False)


def test_values_may_hold_any_bytes(kit: StoreKit) -> None:
    ann = Ann(kit)
    for payload in (b"EN\r\nVA 1 c1 t1\r\nx\r\n", b"\r\nEND\r\n", b""):
        assert ann.record(kit, ann.add(kit, RULES, payload), RULES).payload == payload


def test_an_error_names_the_server_once(server: memcached.Server, prefix: str) -> None:
    store = MemcachedStore(f"{server.url},127.0.0.1:1", prefix=prefix)
    user = next(user for user in map(user_tag, range(99)) if shard_of(user, 2) == 1)
    said = list[str]()
    for _ in range(FAILURES):
        with pytest.raises(StoreUnavailable) as caught:
            store.sessions_of(user)
        said.append(str(caught.value))
    refused = "[Errno 111] Connection refused"
    assert said[0] == f"127.0.0.1:1: ConnectionRefusedError: {refused}"
    assert said[-1] == f"127.0.0.1:1 is not asked again yet: {refused}"
    assert isinstance(store.load("A" * 18, RULES, slide=False), Gone)
    store.close()


def test_a_session_that_is_too_large_is_an_error_and_loses_nothing(kit: StoreKit) -> None:
    ann = Ann(kit)
    key = ann.add(kit, RULES, b"before")
    before: Record = ann.record(kit, key, RULES)
    with pytest.raises(StoreUnavailable, match="lower SAFESESSION_MAX_SESSION_SIZE"):
        kit.store.commit(key, make_draft(b"x" * 2_000_000), before.stamps[0], touch=0)
    assert ann.record(kit, key, RULES).payload == b"before"


def test_what_is_no_item_of_this_store_is_gone(
    kit: StoreKit, server: memcached.Server, prefix: str
) -> None:
    key = Ann(kit).add(kit, RULES)
    with server.client() as client:
        for raw in (b"", b"1", b"[]", b"null", b'["x"]\nSS1', b"\xff\x00"):
            client.set(f"{prefix}:s:{key}", raw, noreply=False)
            assert kit.store.load(key, RULES, slide=True) == Gone("corrupt")
