"""Every store keeps the contract."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_safesession.model.tokens import new_id, new_stamp, user_tag
from flask_safesession.stores.base import Gone, Live, Taken, Terms
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.sharded import Shard, Sharded, shard_of
from flask_safesession.stores.sql.servers.connections import Attempts, attempts_of_call
from flask_safesession.stores.sql.sqlite.store import SqliteStore
from flask_safesession.testing import FakeClock, StoreContract, StoreKit, make_draft, make_rules
from flask_safesession.testing.end_all import EndAllContract
from flask_safesession.testing.moves import MovesContract
from flask_safesession.testing.overrides import OverridesContract
from flask_safesession.testing.repeating import RepeatedCallsContract
from flask_safesession.testing.single import SingleSessionContract
from flask_safesession.testing.users import UsersContract

RULES = make_rules()


@pytest.mark.every_store
class TestEveryStore(StoreContract):
    """The fixture ``kit`` of conftest.py gives each store in turn."""

    @pytest.fixture(autouse=True)
    def call(self) -> Iterator[None]:
        """Let the backends of SQL servers be used as in a call of their store."""
        token = attempts_of_call.set(Attempts())
        yield
        attempts_of_call.reset(token)


def ignore(event: object) -> None:
    """What is not of interest."""


class TestShardsInMemory(
    SingleSessionContract,
    MovesContract,
    UsersContract,
    EndAllContract,
    OverridesContract,
    RepeatedCallsContract,
):
    """A store in shards keeps the contract, but for the caps: each shard has a share of them."""

    @pytest.fixture
    def kit(self) -> StoreKit:
        clock = FakeClock()
        shards = [MemoryStore(clock) for _ in range(4)]
        return StoreKit(Sharded(shards, ignore), clock.advance)

    def test_a_rotation_never_takes_a_key_in_use(self, kit: StoreKit) -> None:
        """A logout that keeps data ends the old session first, whatever becomes of the rest."""
        for reason, left in (("rotated", b"one"), ("logout", None)):
            one, two = new_id("A").key, new_id("B").key
            for key, data in ((one, b"one"), (two, b"two")):
                self.live(kit.store.create(key, make_draft(data), RULES))
            answer = kit.store.rotate(one, two, make_draft(), RULES, Terms(None, False, reason))
            assert answer == Taken()
            records = [self.read(kit, key, RULES) for key in (one, two)]
            assert [record and record.payload for record in records] == [left, b"two"]


@pytest.fixture(params=["memory", "sqlite"])
def four(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sharded]:
    """Stores of one kind, as the shards of one store."""
    clock, shards = FakeClock(), list[Shard]()
    for number in range(4):
        path = tmp_path / f"{number}.sqlite3"
        make: dict[str, Callable[[], Any]] = {
            "memory": lambda: MemoryStore(clock),
            "sqlite": lambda path=path: SqliteStore(path, clock=clock),  # type: ignore[misc]
        }
        shards.append(make[request.param]())
    yield (store := Sharded(shards, ignore))
    store.close()


def test_a_session_moves_between_shards_of_any_kind_and_is_followed(four: Sharded) -> None:
    first, second, third = (new_id(letter).key for letter in "ABC")
    assert len({shard_of(key, 4) for key in (first, second, third)}) == 3
    draft = make_draft(b"1")
    assert isinstance(four.create(first, draft, RULES), Live)
    for old, new in ((first, second), (first, third)):
        terms = Terms(None, False, "rotated")
        assert isinstance(four.rotate(old, new, make_draft(user="ann"), RULES, terms), Live)
    moved = Gone("rotated", has_tombstone=True, successor=second, user=user_tag("ann"))
    assert four.load(first, RULES, slide=True) == moved
    looked = four.peek(first)
    assert looked is not None
    assert looked.key == third
    ended = four.end(first, new_stamp(), "logout", None)
    assert isinstance(ended, Live)
    assert ended.key == third
    assert four.end(first, new_stamp(), "logout", None) == Gone("logout", has_tombstone=True)
    assert four.count(RULES).total == 0


def test_a_sign_in_into_another_shard_is_not_followed(four: Sharded) -> None:
    key, new, draft = new_id("A").key, new_id("B").key, make_draft()
    four.create(key, draft, RULES)
    answer = four.rotate(key, new, make_draft(user=7), RULES, Terms(draft.stamp, True, "rotated"))
    assert isinstance(answer, Live)
    assert four.end(key, new_stamp(), "logout", None) == Gone(
        "rotated", has_tombstone=True, successor=new, user=user_tag(7)
    )
    assert isinstance(four.load(new, RULES, slide=False), Live)
