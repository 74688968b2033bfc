"""A model of the whole, driven at random over every store: what a store may answer, and no more.

The model keeps each session as a few numbers. Sessions are made by strangers and users of two
tiers under small caps, used, changed, filed anew, rotated, ended and purged, while time passes; and
calls are repeated, as if a reply had been lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from flask_safesession.errors import StoreFull
from flask_safesession.model.policy import ANONYMOUS_TIER, DEFAULT_TIER, Limits
from flask_safesession.model.record import Draft, Record
from flask_safesession.model.tokens import new_stamp, tier_tag, user_tag
from flask_safesession.stores.base import (
    TOMBSTONE_TTL,
    VISITOR_REASON_TTL,
    VISITOR_REASONS,
    AuditStep,
    Conflict,
    Gone,
    Live,
    Removed,
    Taken,
    Terms,
)
from flask_safesession.stores.memory import MemoryStore
from flask_safesession.stores.opening import Opened
from flask_safesession.stores.sql import connections
from flask_safesession.stores.sql.servers import locks
from flask_safesession.testing import (
    StoreKit,
    make_draft,
    make_rules,
    new_key,
)
from flask_safesession.testing.tampering import clock_of

from ..support.databases import STARTS
from ..support.kits import STORES, WORKER, memory_kit, redis_kit, sqlite_kit
from ..support.mongodb import mongodb_kit

MINUTE = 60_000
# Time that passes before each use, so that no two are at the same moment, and a use is never at the
# moment of the creation. Half a minute is a multiple of it: no limit is missed by less.
TICK = 6_000
TOUCH = 5 * MINUTE
TIERS = {"staff": Limits(10 * MINUTE, 60 * MINUTE, 2 * MINUTE)}
ORDER = [DEFAULT_TIER, "staff"]
TOTAL, PER_USER = 8, 3
RULES = make_rules(total=TOTAL, per_user=PER_USER, touch=TOUCH, tiers=TIERS)
STRICT = make_rules(total=TOTAL, per_user=PER_USER, touch=TOUCH, tiers=TIERS, evict=False)
USERS_CAP = RULES.cap.users
EXAMPLES = {"memory": 100, "sqlite": 50, "mongodb": 5}  # SecantusDB is slow

_prefixes = count()
_folder = TemporaryDirectory(prefix="safesession-")


@dataclass
class Modelled:
    """A session as the model knows it; times by the model's clock."""

    key: str
    user: int | None
    tier: str
    created: int
    last: int
    payload: bytes
    generation: int
    stamp: str

    @property
    def limits(self) -> Limits:
        return RULES.policy.limits(self.tier)

    @property
    def end(self) -> int:
        return self.created + self.limits.lifetime

    @property
    def deadline(self) -> int:
        return min(self.end, self.last + self.limits.idle)

    @property
    def is_used(self) -> bool:
        return self.last > self.created

    @property
    def rank(self) -> tuple[bool, int]:
        """Among its user's: which is evicted first."""
        return self.is_used, self.last if self.is_used else self.created

    def use(self, now: int) -> None:
        if not self.is_used or now - self.last >= self.limits.touch:
            self.last = now

    def over(self) -> Gone:
        """What is answered where it is found to be due."""
        reason = "lifetime" if self.end <= self.last + self.limits.idle else "idle"
        return Gone(reason, tier=tier_tag(self.tier), for_visitor=self.user is not None)


class Buried(NamedTuple):
    """A tombstone."""

    until: int
    gone: Gone
    sign_in: bool = False


@dataclass
class World:
    now: int = 0
    generation: int = 0
    live: dict[str, Modelled] = field(default_factory=dict)
    revoked: dict[str, Modelled] = field(default_factory=dict)  # all at once
    buried: dict[str, Buried] = field(default_factory=dict)
    told: dict[str, tuple[int, str]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def where(self, key: str) -> str:
        """The key under which a session goes on."""
        while (found := self.buried.get(key)) and found.until > self.now and not found.sign_in:
            if not found.gone.successor:
                break
            key = found.gone.successor
        return key

    def gone(self, key: str) -> Gone:
        """What is answered for a key under which nothing is."""
        found = self.buried.get(key)
        if found is not None and found.until > self.now:
            return found.gone
        when, reason = self.told.get(key, (0, ""))
        told = reason != "" and when > self.now - VISITOR_REASON_TTL
        return Gone(reason, for_visitor=True) if told else Gone("unknown")

    def tell(self, session: Modelled, reason: str) -> None:
        self.ended.add(session.key)
        if session.user is not None and reason in VISITOR_REASONS:
            self.told[session.key] = (self.now, reason)

    def of(self, user: int | None) -> list[Modelled]:
        return [s for s in self.live.values() if s.user == user and s.deadline > self.now]


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
        self.store = self.kit.index
        # Without a server's own expiry: it comes before the purge where time leaps, and hides what
        # would be answered.
        exact = self.kit.exact_clock
        self.advance = self.kit.advance if exact else clock_of(Opened.of(self.store), None).advance
        self.world = World()
        # What a request may have loaded, a moment or long ago.
        self.loaded: dict[str, Record] = {}
        self.numbers = count()

    def teardown(self) -> None:
        self.store.close()

    # -- help -----------------------------------------------------------------------------------

    def draft(self, user: int | None, tier: str) -> Draft:
        payload = f"payload {next(self.numbers)}".encode()
        return make_draft(payload, rules=RULES, user=user, tier=tier)

    def tick(self) -> None:
        self.advance(TICK)
        self.world.now += TICK

    def settle(self, removed: tuple[Removed, ...]) -> None:
        """Take over what the store says it removed, after a look whether it was allowed to."""
        for gone in removed:
            session = self.world.live.pop(gone.key, None) or self.world.revoked.pop(gone.key, None)
            self.world.ended.add(gone.key)
            assert session is not None, "removed what was not there"
            if gone.reason == "evicted":
                assert session.generation == self.world.generation
                assert session.deadline > self.world.now, "called the due evicted"
            elif gone.reason == "revoked":
                assert session.generation < self.world.generation
            else:
                assert session.deadline <= self.world.now, "removed the living as due"
                assert gone.reason == session.over().reason
            assert gone.tier == tier_tag(session.tier)
            self.world.tell(session, gone.reason)

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
            slack = 0 if self.kit.exact_clock else 2000
            assert all(victim.deadline <= peer.deadline + slack for peer in peers)
        self.check_own(before, own, leaving, others=bool(others))

    def check_own(
        self, before: dict[str, Modelled], own: list[Modelled], leaving: str | None, *, others: bool
    ) -> None:
        """Of one user, nobody who is to be evicted before a victim may have been spared."""
        now = self.world.now
        held = [s for s in before.values() if own and s.user == own[0].user and s.deadline > now]
        spared = [s for s in held if s not in own and s.key != leaving]
        users = sum(s.user is not None for s in before.values())
        if others or users >= USERS_CAP or len(before) >= TOTAL:
            return  # some may have been evicted for the store's cap, by their deadlines
        assert all(victim.rank <= peer.rank for victim in own for peer in spared)

    def check_caps(self, user: int | None) -> None:
        """After an admission; filing a session anew may go beyond a cap, and evicts nobody."""
        if user is not None:
            assert len(self.world.of(user)) <= PER_USER
            live = [s for s in self.world.live.values() if s.deadline > self.world.now]
            assert sum(s.user is not None for s in live) <= USERS_CAP

    def remember(
        self, key: str, draft: Draft, who: tuple[int | None, str], created: int, last: int
    ) -> None:
        generation = self.world.generation
        self.world.live[key] = Modelled(
            key, *who, created, last, draft.payload, generation, draft.stamp
        )

    def bury(self, session: Modelled, gone: Gone, *, sign_in: bool = False) -> None:
        reason = gone.reason
        if session.user is None and reason in VISITOR_REASONS:
            gone = gone._replace(reason="ended")
        self.world.buried[session.key] = Buried(self.world.now + TOMBSTONE_TTL, gone, sign_in)
        self.world.tell(session, reason)

    def expect(self, key: str, answer: object) -> bool:
        """Whether *key* is live; that *answer* is right in every part if it is not."""
        session, now = self.world.live.get(key), self.world.now
        if session is not None and session.deadline > now:
            return True
        assert isinstance(answer, Gone), answer
        if session is not None:
            del self.world.live[key]
            right = [session.over()]
        elif (session := self.world.revoked.pop(key, None)) is not None:
            tag = tier_tag(session.tier)
            right = [Gone("revoked", tier=tag, for_visitor=session.user is not None)]
            right += [session.over()] * (session.deadline <= now)
        else:
            assert answer == self.world.gone(key)
            return False
        assert answer in right
        self.world.tell(session, answer.reason)
        return False

    def assert_is(self, session: Modelled, answer: object) -> None:
        """*answer* is this session, as it is by now."""
        assert isinstance(answer, Live)
        record = answer.record
        assert (record.payload, record.stamps[0]) == (session.payload, session.stamp)
        tag = "" if session.user is None else user_tag(session.user)
        assert (record.tier, record.user) == (tier_tag(session.tier), tag)
        assert (record.idle, record.absolute - record.created) == session.limits[:2]
        slack = 0 if self.kit.exact_clock else 5000
        ages = (record.last_active - record.created) - (session.last - session.created)
        assert abs(ages) <= slack
        assert record.is_used == session.is_used
        self.loaded[session.key] = record

    # -- rules ----------------------------------------------------------------------------------

    @initialize(target=keys, identities=st.lists(identities, min_size=4, max_size=8))
    def begin(self, identities: list[tuple[int | None, str]]) -> MultipleResults[str]:
        # Most rules need a key, and Hypothesis leaves some rules out of each story.
        assert self.store.count(RULES).total == 0
        return self.create(identities, strict=False, twice=False)

    @rule(
        target=keys,
        identities=st.lists(identities, min_size=1, max_size=5),
        strict=st.booleans(),
        twice=st.booleans(),
    )
    def create_some(
        self, identities: list[tuple[int | None, str]], strict: bool, twice: bool
    ) -> MultipleResults[str]:
        return self.create(identities, strict=strict, twice=twice)

    def create(
        self, identities: list[tuple[int | None, str]], *, strict: bool, twice: bool
    ) -> MultipleResults[str]:
        return multiple(*[self.create_one(who, strict, twice) for who in identities])

    def create_one(self, who: tuple[int | None, str], strict: bool, twice: bool) -> str:
        user, tier = who
        key, draft, before = new_key(), self.draft(user, tier), dict(self.world.live)
        rules = STRICT if strict else RULES
        try:
            answer = self.store.create(key, draft, rules)
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
        self.remember(key, draft, who, self.world.now, self.world.now)
        self.check_caps(user)
        if twice:
            again = self.store.create(key, draft, rules)
            assert isinstance(again, Live)
            assert (again.record, again.removed) == (answer.record, ())
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
        self.tick()
        answer = self.store.load(key, RULES, slide=slide)
        if not self.expect(key, answer):
            return
        session = self.world.live[key]
        if slide:
            session.use(self.world.now)
        self.assert_is(session, answer)

    @rule(
        key=keys,
        slide=st.booleans(),
        wrong=st.sampled_from(["", "", "", "stamp", "user", "tier"]),
        others=st.sampled_from([None, 0, 1, 2, 3]),
    )
    def commit(self, key: str, slide: bool, wrong: str, others: int | None) -> None:
        """Write; then once more, as if the reply had been lost, after so many writes of others."""
        self.tick()
        session = self.world.live.get(key)
        user, tier = (session.user, session.tier) if session else (None, DEFAULT_TIER)
        user = 3 if wrong == "user" else user
        tier = "gone" if wrong == "tier" else tier
        expected = new_stamp() if wrong == "stamp" or session is None else session.stamp
        draft = self.draft(user, tier)
        touch = RULES.policy.limits(tier).touch if slide else None
        loaded = self.loaded.get(key)
        answer = self.store.commit(key, draft, expected, touch=touch, loaded=loaded)
        if not self.expect(key, answer) or session is None:
            return
        if wrong:
            assert isinstance(answer, Conflict)
            assert answer.record.payload == session.payload
            return
        self.take_over(session, draft, slide, answer)
        if others is None:
            return
        for _ in range(others):
            theirs = self.draft(user, tier)
            self.take_over(
                session, theirs, slide, self.store.commit(key, theirs, session.stamp, touch=touch)
            )
        again = self.store.commit(key, draft, expected, touch=touch, loaded=loaded)
        if others < 3:
            self.assert_is(session, again)
        else:
            assert isinstance(again, Conflict)

    def take_over(self, session: Modelled, draft: Draft, slide: bool, answer: object) -> None:
        session.stamp, session.payload = draft.stamp, draft.payload
        if slide:
            session.use(self.world.now)
        self.assert_is(session, answer)

    @rule(key=keys, who=identities, stale=st.booleans(), twice=st.booleans())
    def refile(self, key: str, who: tuple[int | None, str], stale: bool, twice: bool) -> None:
        session = self.world.live.get(key)
        expected = new_stamp() if stale or session is None else session.stamp
        filed = session is not None and (session.user, session.tier) == who
        if session is not None and session.deadline > self.world.now:
            after = replace(session, user=who[0], tier=who[1])
            if after.deadline <= self.world.now:
                return  # over under its new limits: the contract has it
        draft = self.draft(*who)
        for _ in range(1 + twice):
            answer = self.store.refile(key, draft, expected)
            if answer is None:
                return  # in a store of several parts
            if not self.expect(key, answer) or session is None:
                return
            if stale and not filed:
                assert isinstance(answer, Conflict)
                return
            session.user, session.tier = who
            self.assert_is(session, answer)

    @rule(
        target=keys,
        key=keys,
        who=identities,
        restart=st.booleans(),
        force=st.booleans(),
        slide=st.booleans(),
        twice=st.booleans(),
    )
    def rotate(
        self,
        key: str,
        who: tuple[int | None, str],
        restart: bool,
        force: bool,
        slide: bool,
        twice: bool,
    ) -> str:
        self.tick()
        user, _ = who
        first, before = self.world.live.get(key), dict(self.world.live)
        expected = None if force or first is None else first.stamp
        new, draft, now = new_key(), self.draft(*who), self.world.now
        call = partial(
            self.store.rotate, key, new, draft, RULES, Terms(expected, restart, "rotated", slide)
        )
        old = self.world.where(key) if expected is None else key
        try:
            answer = call()
        except StoreFull:
            assert user is None  # users make room among users; strangers may find none of theirs
            return new
        session = self.world.live.get(old)
        if not self.expect(old, answer) or session is None:
            return new
        assert isinstance(answer, Live)
        self.check_victims(before, user, answer, old)
        self.settle(answer.removed)
        del self.world.live[old]
        gone = Gone("rotated", has_tombstone=True, successor=new, user=draft.user)
        self.bury(session, gone, sign_in=restart)
        created = now if restart else session.created
        self.remember(new, draft, who, created, now if slide or restart else session.last)
        self.assert_is(self.world.live[new], answer)
        if (session.user, session.tier) != who:
            self.check_caps(user)
        if twice:
            again = call()
            assert isinstance(again, Live)
            assert (again.record, again.removed) == (answer.record, ())
        return new

    @rule(
        key=keys,
        kind=st.sampled_from(["any", "expected", "stale"]),
        reason=st.sampled_from(["logout", "revoked", "replayed"]),
    )
    def end(self, key: str, kind: str, reason: str) -> None:
        call, first = new_stamp(), self.world.live.get(key)
        expected = None if kind == "any" else new_stamp()
        if kind == "expected" and first is not None:
            expected = first.stamp
        answer = self.store.end(key, call, reason, expected)
        where = key if expected else self.world.where(key)
        session = self.world.live.get(where)
        if not self.expect(where, answer) or session is None:
            return
        if kind == "stale":
            assert isinstance(answer, Conflict)
            return
        assert isinstance(answer, Live)
        assert answer.key == where
        self.assert_is(session, answer)
        del self.world.live[where]
        self.bury(session, Gone(reason, has_tombstone=True))
        again = self.store.end(key, call, reason, expected)
        assert again == self.world.gone(where)._replace(repeated=True)

    @rule(user=st.sampled_from([1, 2]), keep=keys, keeps=st.booleans())
    def end_user(self, user: int, keep: str, keeps: bool) -> None:
        call, keep = new_stamp(), keep if keeps else ""
        kept = self.world.where(keep)
        ours = {s.key: s for s in self.world.of(user) if s.key != kept}
        ended = self.store.end_user(user_tag(user), call, "revoked", keep)
        assert {listed.key for listed in ended} == ours.keys()
        for key, session in ours.items():
            del self.world.live[key]
            self.bury(session, Gone("revoked", has_tombstone=True))
        assert self.store.end_user(user_tag(user), call, "revoked", keep) == []

    @rule(sure=st.sampled_from([True, False, False, False]))
    def end_all(self, sure: bool) -> None:
        if not sure:
            return  # or hardly any session grows old
        call = new_stamp()
        for _ in range(2):
            self.store.end_all(call)
        self.world.generation += 1
        self.world.revoked.update(self.world.live)
        self.world.ended.update(self.world.live)
        self.world.live.clear()

    @rule(key=keys)
    def take_a_key_again(self, key: str) -> None:
        session, found = self.world.live.get(key), self.world.buried.get(key)
        live = session is not None and session.deadline > self.world.now
        if live or (found is not None and found.until > self.world.now):
            answer = self.store.create(key, self.draft(None, DEFAULT_TIER), RULES)
            assert answer == Taken()

    @rule(key=keys)
    def look(self, key: str) -> None:
        session = self.world.live.get(self.world.where(key))
        looked = self.store.peek(key)
        if session is None or session.deadline <= self.world.now:
            assert looked is None
        else:
            assert looked is not None
            assert (looked.key, looked.record.payload) == (session.key, session.payload)

    @rule(minutes=st.sampled_from([1, 4, 9, 29, 61]))
    def wait(self, minutes: int) -> None:
        # Half a minute aside, so that hardly any deadline of the model is met to the millisecond:
        # a real server's clock runs on meanwhile.
        milliseconds = minutes * MINUTE + MINUTE // 2
        self.advance(milliseconds)
        self.world.now += milliseconds

    @rule(limit=st.sampled_from([1, 3, 100]))
    def purge(self, limit: int) -> None:
        due = [k for k, s in self.world.live.items() if s.deadline <= self.world.now]
        due += self.world.revoked
        users = sum(s.user is not None for s in self.world.live.values())
        step = self.store.purge(RULES, limit)
        assert step.trimmed <= max(0, users - USERS_CAP)  # what was filed anew
        assert step.due + step.trimmed <= limit
        # What ended all at once may be set aside with entries of what had ended before.
        assert step.due >= min(limit, len(due)) or (self.world.generation and step.more)
        self.settle(step.removed)

    @rule(limit=st.sampled_from([2, 100]))
    def audit(self, limit: int) -> None:
        step = AuditStep(0, done=False)
        while not step.done:
            step = self.store.audit(RULES, limit)
            assert (step.repaired, step.limited) == (0, 0)

    @rule(key=consumes(keys))
    def forget(self, key: str) -> None:
        """The browser loses its cookie."""

    # -- promises -------------------------------------------------------------------------------

    @invariant()
    def the_counts_are_exact_and_the_caps_hold(self) -> None:
        counts = self.store.count(RULES)
        live = [s for s in self.world.live.values() if s.deadline > self.world.now]
        users = [s for s in live if s.user is not None]
        assert counts.live.get(ANONYMOUS_TIER, 0) == len(live) - len(users)
        for tier in ORDER:
            assert counts.live.get(tier, 0) == sum(s.tier == tier for s in users)
        assert counts.total <= TOTAL

    @invariant()
    def every_users_sessions_are_listed(self) -> None:
        for user in (1, 2):
            listed = {one.key for one in self.store.sessions_of(user_tag(user))}
            assert listed == {s.key for s in self.world.of(user)}

    @invariant()
    def what_ended_stays_ended(self) -> None:
        for key in sorted(self.world.ended)[:3]:
            assert not self.expect(key, self.store.load(key, RULES, slide=False))


def kit_for(name: str, pool: Any) -> Callable[[], StoreKit]:
    def real() -> StoreKit:
        return redis_kit(pool.get(name).client(), f"{WORKER}model{next(_prefixes)}")

    def sqlite() -> StoreKit:
        return sqlite_kit(Path(_folder.name), next(_prefixes))

    def database() -> StoreKit:
        made: StoreKit = pool.sql_kit(name)
        return made

    def mongodb() -> StoreKit:
        return mongodb_kit(pool.mongodb(), f"{WORKER}model{next(_prefixes)}")

    made = {"memory": memory_kit, "sqlite": sqlite, "mongodb": mongodb}
    made |= dict.fromkeys(STARTS, database)
    return made.get(name, real)


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


@pytest.mark.parametrize("name", STORES)
def test_no_story_breaks_a_promise(name: str, pool: Any) -> None:
    run_stories(kit_for(name, pool), EXAMPLES.get(name, 15))


@pytest.mark.parametrize("name", [*STARTS, "sqlite"])
def test_no_story_breaks_a_promise_where_each_part_has_a_quota(
    name: str, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with caps of thousands: creations have a short way, and another try locks everything."""
    monkeypatch.setattr(connections, "SMALL", 0)
    monkeypatch.setattr(locks, "LEAST", 1)
    monkeypatch.setattr(locks, "PARTS", 2)  # so that there are quotas with a cap of eight
    monkeypatch.setattr(locks, "EVERYTHING", frozenset({0, 1}))
    run_stories(kit_for(name, pool), 15)


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
