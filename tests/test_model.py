"""A model of the whole, driven at random over every store: what a store may answer, and no more.

The model keeps each session as a few numbers. Sessions are made by strangers and users of two
tiers under small caps, used, changed, rotated, ended and purged, while time passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import fakeredis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from flask_safesession.errors import StoreFull
from flask_safesession.expiry import ANONYMOUS_TIER, DEFAULT_TIER, Limits
from flask_safesession.stores.base import Conflict, Gone, Live, Taken, Terms
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.testing import (
    FakeClock,
    StoreKit,
    make_draft,
    make_rules,
    new_key,
)
from flask_safesession.tokens import new_stamp

from .conftest import SERVERS, redis_kit

MINUTE = 60_000
TIERS = {"staff": Limits(10 * MINUTE, 60 * MINUTE, 0)}
ORDER = [DEFAULT_TIER, "staff"]
TOTAL, PER_USER = 8, 3
RULES = make_rules(total=TOTAL, per_user=PER_USER, tiers=TIERS)
STRICT = make_rules(total=TOTAL, per_user=PER_USER, tiers=TIERS, evict=False)
USERS_CAP = RULES.cap.users
EXAMPLES = {"memory": 60, "fakeredis": 5}

_prefixes = count()


@dataclass
class Modelled:
    """A session as the model knows it; times by the model's clock."""

    key: str
    stamp: str
    user: int | None
    tier: str
    created: int
    last: int
    payload: bytes
    order: int

    @property
    def limits(self) -> Limits:
        return RULES.policy.limits(self.tier)

    @property
    def deadline(self) -> int:
        return min(self.created + self.limits.lifetime, self.last + self.limits.idle)


@dataclass
class World:
    now: int = 0
    live: dict[str, Modelled] = field(default_factory=dict)
    buried: dict[str, str] = field(default_factory=dict)
    successors: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)


identities = st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from(ORDER)).map(
    lambda pair: (pair[0], DEFAULT_TIER) if pair[0] is None else pair
)


class StoreMachine(RuleBasedStateMachine):
    """Rules are what requests do; invariants are the promises."""

    make_kit: Callable[[], StoreKit]
    keys: Bundle[str] = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.kit = type(self).make_kit()
        self.store = self.kit.store
        self.world = World()
        self.numbers = count()

    def teardown(self) -> None:
        self.store.close()

    # -- help -----------------------------------------------------------------------------------

    def draft(self, user: int | None, tier: str) -> Any:
        payload = f"payload {next(self.numbers)}".encode()
        return make_draft(payload, rules=RULES, user=user, tier=tier)

    def settle(self, removed: tuple[Any, ...]) -> None:
        """Take over what the store says it removed, after a look whether it was allowed to."""
        for gone in removed:
            session = self.world.live.pop(gone.key, None)
            if gone.reason == "evicted":
                assert session is not None, "evicted what was not there"
                assert session.deadline > self.world.now, "called the due evicted"
            elif session is not None:
                assert session.deadline <= self.world.now, "removed the living as due"
            self.world.ended.add(gone.key)

    def check_victims(
        self, before: dict[str, Modelled], user: int | None, answer: Live, leaving: str | None
    ) -> None:
        evicted = [before[gone.key] for gone in answer.removed if gone.reason == "evicted"]
        own = [victim for victim in evicted if user is not None and victim.user == user]
        others = [victim for victim in evicted if victim not in own]
        if user is None:
            assert all(victim.user is None for victim in evicted), "a stranger evicted a user"
        for victim in others:
            # Of those who share its bucket, nobody nearer their end may have been spared.
            peers = [
                s
                for s in before.values()
                if (s.user is None, s.tier) == (victim.user is None, victim.tier)
                and s.key != leaving
                and s not in evicted
            ]
            # Less than there is between any two waits.
            slack = 0 if self.kit.exact_clock else MINUTE // 2 - 1
            assert all(victim.deadline <= peer.deadline + slack for peer in peers)

    def remember(self, key: str, draft: Any, user: int | None, tier: str, created: int) -> None:
        self.world.live[key] = Modelled(
            key,
            draft.stamp,
            user,
            tier,
            created,
            self.world.now,
            draft.payload,
            next(self.numbers),
        )

    def expect(self, key: str, answer: object) -> bool:
        """Whether *key* is live; that *answer* is right if it is not."""
        session = self.world.live.get(key)
        if session is not None and session.deadline > self.world.now:
            return True
        assert isinstance(answer, Gone), answer
        if session is not None:
            # A server's own expiry may have been there before: then nothing tells why.
            assert answer.reason in ("idle", "lifetime", "unknown")
            assert answer.reason != "unknown" or not self.kit.exact_clock
            del self.world.live[key]
            self.world.ended.add(key)
        elif answer.buried:
            assert self.world.buried[key] == answer.reason
        return False

    # -- rules ----------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        assert self.store.census(RULES).total == 0

    @rule(target=keys, who=identities, strict=st.booleans())
    def create(self, who: tuple[int | None, str], strict: bool) -> str:
        user, tier = who
        key, draft, before = new_key(), self.draft(user, tier), dict(self.world.live)
        try:
            answer = self.store.create(key, draft, STRICT if strict else RULES)
        except StoreFull:
            self.check_refusal(user, strict)
            return key
        assert isinstance(answer, Live)
        if strict:
            own = {k for k, s in before.items() if s.user == user and user is not None}
            evicted = {gone.key for gone in answer.removed if gone.reason == "evicted"}
            assert evicted <= own, "a store that refuses evicted somebody"
        self.check_victims(before, user, answer, None)
        self.settle(answer.removed)
        self.remember(key, draft, user, tier, self.world.now)
        return key

    def check_refusal(self, user: int | None, strict: bool) -> None:
        users = sum(s.user is not None for s in self.world.live.values())
        full = len(self.world.live) >= TOTAL
        if user is None:
            assert full
            assert strict or users == len(self.world.live)
        else:
            assert strict
            assert full or users >= USERS_CAP

    @rule(key=keys, slide=st.booleans())
    def load(self, key: str, slide: bool) -> None:
        answer = self.store.load(key, RULES, slide=slide)
        if not self.expect(key, answer):
            return
        session = self.world.live[key]
        assert isinstance(answer, Live)
        assert answer.record.payload == session.payload
        assert answer.record.stamps[0] == session.stamp
        if slide:
            session.last = self.world.now

    @rule(key=keys, stale=st.booleans(), slide=st.booleans())
    def commit(self, key: str, stale: bool, slide: bool) -> None:
        session = self.world.live.get(key)
        user, tier = (session.user, session.tier) if session else (None, DEFAULT_TIER)
        expected = new_stamp() if stale or session is None else session.stamp
        draft = self.draft(user, tier)
        answer = self.store.commit(key, draft, expected, slide=slide)
        if not self.expect(key, answer) or session is None:
            return
        if stale:
            assert isinstance(answer, Conflict)
            assert answer.record.payload == session.payload
            return
        assert isinstance(answer, Live)
        session.stamp, session.payload = draft.stamp, draft.payload
        session.last = self.world.now if slide else session.last

    @rule(target=keys, key=keys, who=identities, restart=st.booleans(), force=st.booleans())
    def rotate(self, key: str, who: tuple[int | None, str], restart: bool, force: bool) -> str:
        user, tier = who
        asked, first = key, self.world.live.get(key)
        expected = None if force or first is None else first.stamp
        while expected is None and key in self.world.successors:
            key = self.world.successors[key]
        session, before = self.world.live.get(key), dict(self.world.live)
        new, draft = new_key(), self.draft(user, tier)
        terms = Terms(expected, restart, "rotated")
        try:
            answer = self.store.rotate(asked, new, draft, RULES, terms)
        except StoreFull:
            assert user is None  # users make room among users; strangers may find none of theirs
            return new
        if not self.expect(key, answer) or session is None:
            return new
        assert isinstance(answer, Live)
        self.check_victims(before, user, answer, key)
        self.settle(answer.removed)
        del self.world.live[key]
        self.bury(key, "rotated")
        if not restart:
            self.world.successors[key] = new
        self.remember(new, draft, user, tier, self.world.now if restart else session.created)
        return new

    @rule(key=keys, stale=st.booleans())
    def end(self, key: str, stale: bool) -> None:
        expected = new_stamp() if stale else None
        answer = self.store.end(key, new_stamp(), "logout", expected)
        while not stale and key in self.world.successors:
            key = self.world.successors[key]
        session = self.world.live.get(key)
        if not self.expect(key, answer) or session is None:
            return
        if stale:
            assert isinstance(answer, Conflict)
            return
        assert isinstance(answer, Live)
        del self.world.live[key]
        self.bury(key, "logout")

    def bury(self, key: str, reason: str) -> None:
        self.world.buried[key] = reason
        self.world.ended.add(key)

    @rule(key=keys)
    def take_a_key_again(self, key: str) -> None:
        session = self.world.live.get(key)
        if session is not None and session.deadline > self.world.now:
            answer = self.store.create(key, self.draft(None, DEFAULT_TIER), RULES)
            assert answer == Taken()

    @rule(minutes=st.sampled_from([1, 4, 9, 29, 61]))
    def wait(self, minutes: int) -> None:
        # Half a minute aside, so that no deadline of the model is ever met to the millisecond:
        # a real server's clock runs on meanwhile.
        milliseconds = minutes * MINUTE + MINUTE // 2
        self.kit.advance(milliseconds)
        self.world.now += milliseconds
        self.world.buried.clear()
        self.world.successors.clear()

    @rule(limit=st.sampled_from([1, 3, 100]))
    def purge(self, limit: int) -> None:
        due = [k for k, s in self.world.live.items() if s.deadline <= self.world.now]
        step = self.store.purge(RULES, limit)
        assert step.trimmed == 0
        assert step.due <= limit
        assert step.due >= min(limit, len(due))
        self.settle(step.removed)

    @rule(key=consumes(keys))
    def forget(self, key: str) -> None:
        """The browser loses its cookie."""

    # -- promises -------------------------------------------------------------------------------

    @invariant()
    def the_census_is_exact_and_the_caps_hold(self) -> None:
        census = self.store.census(RULES)
        live = [s for s in self.world.live.values() if s.deadline > self.world.now]
        users = [s for s in live if s.user is not None]
        assert census.live.get(ANONYMOUS_TIER, 0) == len(live) - len(users)
        for tier in ORDER:
            assert census.live.get(tier, 0) == sum(s.tier == tier for s in users)
        assert census.total + census.due <= TOTAL
        assert len(users) <= USERS_CAP
        for user in (1, 2):
            assert sum(s.user == user for s in users) <= PER_USER

    @invariant()
    def what_ended_stays_ended(self) -> None:
        for key in sorted(self.world.ended)[:3]:
            assert isinstance(self.store.load(key, RULES, slide=False), Gone)


def kit_for(name: str, pool: Any) -> Callable[[], StoreKit]:
    def memory() -> StoreKit:
        clock = FakeClock()
        return StoreKit(MemoryStore(clock), clock.advance)

    def fake() -> StoreKit:
        return redis_kit(fakeredis.FakeRedis(), f"model{next(_prefixes)}")

    def real() -> StoreKit:
        return redis_kit(pool.get(name).client(), f"model{next(_prefixes)}")

    return {"memory": memory, "fakeredis": fake}.get(name, real)


def run_stories(make_kit: Callable[[], StoreKit], examples: int) -> None:
    """Drive the model over the stores that *make_kit* makes, one for each story."""
    run_state_machine_as_test(
        type("Machine", (StoreMachine,), {"make_kit": staticmethod(make_kit)}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # a failure is told as it was found, at once
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("name", ["memory", "fakeredis", *SERVERS])
def test_no_story_breaks_a_promise(name: str, pool: Any) -> None:
    run_stories(kit_for(name, pool), EXAMPLES.get(name, 15))


def test_the_model_notices_a_store_that_forgets_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finds nothing proves nothing: here is a store that is wrong."""
    from flask_safesession.stores import memory

    generous = replace(RULES.policy)
    original = memory.MemoryStore.create

    def create(self: MemoryStore, key: str, draft: Any, rules: Any) -> Any:
        cap = rules.cap._replace(total=100, users=100)
        return original(self, key, draft, rules._replace(cap=cap, policy=generous))

    monkeypatch.setattr(memory.MemoryStore, "create", create)
    with pytest.raises(AssertionError):
        test_no_story_breaks_a_promise("memory", None)
