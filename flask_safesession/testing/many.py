"""The contract, part two: caps on the number of sessions, and their removal."""

from __future__ import annotations

import pytest

from ..errors import StoreFull
from ..model.policy import ANONYMOUS_TIER, DEFAULT_TIER, Limits
from ..stores.base import Rules
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules, new_key, together


class ManySessionsContract(ContractBase):
    """Caps, eviction, purge and counts."""

    @pytest.fixture
    def indexed(self, kit: StoreKit) -> StoreKit:
        """Returns the kit if its store has an index; otherwise skips the test."""
        _ = kit.index
        return kit

    # -- the cap --------------------------------------------------------------------------------

    def test_the_cap_evicts_the_anonymous_session_nearest_its_end(self, indexed: StoreKit) -> None:
        rules = make_rules(total=4)
        keys = []
        for _ in range(4):
            keys.append(self.add(indexed, rules))
            indexed.advance(MINUTE)
        indexed.store.load(keys[0], rules, slide=True)  # now the second is nearest its end
        answer = self.live(indexed.store.create(new_key(), make_draft(), rules))
        assert [(gone.key, gone.reason) for gone in answer.removed] == [(keys[1], "evicted")]
        assert self.read(indexed, keys[1], rules) is None
        assert indexed.index.count(rules).total == answer.total == 4

    def test_due_sessions_are_removed_before_live_ones(self, indexed: StoreKit) -> None:
        tiers = {"short": Limits(MINUTE, 720 * MINUTE, 0)}
        rules = make_rules(total=3, tiers=tiers)
        due = self.add(indexed, rules, user=1, tier="short")
        anonymous = [self.add(indexed, rules) for _ in range(2)]
        indexed.advance(MINUTE)
        answer = self.live(indexed.store.create(new_key(), make_draft(), rules))
        assert [(gone.key, gone.reason) for gone in answer.removed] == [(due, "idle")]
        assert all(self.read(indexed, key, rules) for key in anonymous)

    def test_anonymous_sessions_never_evict_users(self, indexed: StoreKit) -> None:
        rules = make_rules(total=20)
        users = [self.add(indexed, rules, user=n) for n in range(19)]
        for _ in range(50):
            self.add(indexed, rules)
        assert all(self.read(indexed, key, rules) for key in users)
        assert indexed.index.count(rules).live[ANONYMOUS_TIER] == 1

    def test_users_leave_a_twentieth_to_anonymous_sessions(self, indexed: StoreKit) -> None:
        rules = make_rules(total=20)
        for n in range(40):
            self.add(indexed, rules, user=n)
        assert indexed.index.count(rules).total == 19
        self.add(indexed, rules)
        assert indexed.index.count(rules).total == 20

    def test_users_evict_anonymous_sessions_and_then_tier_by_tier(self, indexed: StoreKit) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        rules = make_rules(total=4, tiers={"free": long, "paid": long})
        paid = self.add(indexed, rules, user=1, tier="paid")
        indexed.advance(MINUTE)
        free = self.add(indexed, rules, user=2, tier="free")
        anonymous = self.add(indexed, rules)
        indexed.advance(MINUTE)
        self.add(indexed, rules)

        def evicted(user: int, tier: str) -> list[str]:
            draft = make_draft(rules=rules, user=user, tier=tier)
            answer = self.live(indexed.store.create(new_key(), draft, rules))
            return [gone.key for gone in answer.removed]

        assert evicted(3, "paid") == [anonymous]
        assert evicted(4, "paid") == [free]
        assert evicted(5, "paid") == [paid]

    def test_tiers_no_longer_configured_are_evicted_before_those_that_are(
        self, indexed: StoreKit
    ) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        before = make_rules(total=3, tiers={"kept": long, "retired": long})
        after = make_rules(total=3, tiers={"kept": long})
        kept = self.add(indexed, before, user=1, tier="kept")
        indexed.advance(MINUTE)
        retired = self.add(indexed, before, user=2, tier="retired")
        draft = make_draft(rules=after, user=3, tier="kept")
        answer = self.live(indexed.store.create(new_key(), draft, after))
        assert [gone.key for gone in answer.removed] == [retired]
        assert self.read(indexed, kept, after) is not None

    def test_of_one_users_sessions_those_that_were_never_used_again_are_evicted_first(
        self, indexed: StoreKit
    ) -> None:
        """A script that signs in at each call does not sign its owner out of the browser."""
        rules = make_rules(per_user=3)
        other = self.add(indexed, rules, user="other")
        browser = self.used(indexed, rules, user="me")
        scripts = []
        for _ in range(5):
            indexed.advance(1000)
            scripts.append(self.add(indexed, rules, user="me"))
        assert self.living(indexed, rules, [browser, other]) == [browser, other]
        assert self.living(indexed, rules, scripts) == scripts[3:]

    def test_of_one_users_sessions_that_were_used_the_one_unused_for_the_longest_is_evicted(
        self, indexed: StoreKit
    ) -> None:
        rules = make_rules(per_user=3)
        keys = [self.used(indexed, rules, user="me") for _ in range(3)]
        for key in (keys[1], keys[0]):
            indexed.advance(1000)
            indexed.store.load(key, rules, slide=True)
        indexed.advance(1000)
        self.commit(indexed, keys[1], rules)
        for evicted in (keys[2], keys[0]):
            newest = self.add(indexed, rules, user="me")
            assert self.read(indexed, evicted, rules) is None
            indexed.advance(1000)
            self.live(indexed.store.load(newest, rules, slide=True))
        assert self.read(indexed, keys[1], rules) is not None

    def test_a_passive_view_does_not_save_a_session_from_its_eviction(
        self, indexed: StoreKit
    ) -> None:
        rules = make_rules(per_user=2)
        keys = [self.add(indexed, rules, user="me") for _ in range(2)]
        indexed.advance(1000)
        indexed.store.load(keys[0], rules, slide=False)
        self.commit(indexed, keys[0], rules, touch=None)
        self.add(indexed, rules, user="me")
        assert self.living(indexed, rules, keys) == keys[1:]

    def test_sessions_made_at_the_same_time_are_evicted_in_the_order_they_were_made(
        self, indexed: StoreKit
    ) -> None:
        rules = make_rules(per_user=5)
        keys = [self.add(indexed, rules, user="me") for _ in range(12)]
        assert self.living(indexed, rules, keys) == keys[7:]

    def test_a_rotated_session_is_evicted_by_its_last_use(self, indexed: StoreKit) -> None:
        rules = make_rules(per_user=2)
        first = self.used(indexed, rules, user="me")
        second = self.used(indexed, rules, user="me")
        indexed.advance(1000)
        moved, _ = self.rotate(indexed, first, rules, user="me")
        self.add(indexed, rules, user="me")
        assert self.living(indexed, rules, [second, moved]) == [moved]

    def test_refiling_evicts_no_session(self, indexed: StoreKit) -> None:
        rules = make_rules(total=4, per_user=2)
        keys = [self.key_of("me") for _ in range(3)]
        self.live(indexed.store.create(keys[0], make_draft(b"refiled"), rules))
        for key in keys[1:]:
            self.live(indexed.store.create(key, make_draft(user="me"), rules))
        stamp = self.record(indexed, keys[0], rules).stamps[0]
        answer = self.live(indexed.store.refile(keys[0], make_draft(user="me"), stamp))
        assert answer.removed == ()
        assert self.living(indexed, rules, keys) == keys
        self.add(indexed, rules, user="me")
        assert len(self.living(indexed, rules, keys)) == 1

    def test_a_users_lowered_cap_is_reached_in_bounded_steps(self, indexed: StoreKit) -> None:
        """At most a hundred live sessions are evicted by one call, and the login is admitted."""
        before, after = make_rules(per_user=200), make_rules(per_user=5)
        keys = [self.add(indexed, before, user="me") for _ in range(130)]
        steps = []
        for _ in range(3):
            draft = make_draft(rules=after, user="me")
            answer = self.live(indexed.store.create(new_key(), draft, after))
            steps.append([gone.key for gone in answer.removed])
            assert {gone.reason for gone in answer.removed} == {"evicted"}
        assert [len(step) for step in steps] == [100, 27, 1]
        assert [set(step) for step in steps] == [set(keys[:100]), set(keys[100:127]), {keys[127]}]

    def test_the_lowered_cap_of_the_store_is_reached_in_bounded_steps(
        self, indexed: StoreKit
    ) -> None:
        before, after = make_rules(total=400), make_rules(total=20)
        for number in range(130):
            self.add(indexed, before, user=number if number % 2 else None)
        evicted = []
        for number in range(3):
            draft = make_draft(rules=after, user=1000 + number)
            evicted.append(len(self.live(indexed.store.create(new_key(), draft, after)).removed))
        assert evicted == [100, 12, 1]
        assert indexed.index.count(after).total == 20

    def test_due_sessions_of_a_user_do_not_count_against_the_user(self, indexed: StoreKit) -> None:
        tiers = {"short": Limits(MINUTE, 720 * MINUTE, 0)}
        rules = make_rules(per_user=5, tiers=tiers)
        oldest = self.add(indexed, rules, user="me")
        for _ in range(4):
            self.add(indexed, rules, user="me", tier="short")
        indexed.advance(MINUTE)
        self.add(indexed, rules, user="me")
        assert self.read(indexed, oldest, rules) is not None

    def test_a_new_login_of_a_user_at_the_cap_replaces_its_own_session(
        self, indexed: StoreKit
    ) -> None:
        rules = make_rules(per_user=2)
        one = self.add(indexed, rules, user="me")
        indexed.advance(1)
        two = self.add(indexed, rules, user="me")
        self.rotate(indexed, two, rules, user="me", restart=True)
        assert self.read(indexed, one, rules) is not None
        assert indexed.index.count(rules).total == 2

    def test_a_login_at_the_cap_takes_the_place_of_its_anonymous_session(
        self, indexed: StoreKit
    ) -> None:
        rules = make_rules(total=4)
        keys = [self.add(indexed, rules) for _ in range(4)]
        _, answer = self.rotate(indexed, keys[3], rules, user=1, restart=True)
        assert self.live(answer).removed == ()
        assert indexed.index.count(rules).total == 4

    def test_a_full_store_that_may_not_evict_refuses_and_keeps_all(self, indexed: StoreKit) -> None:
        rules = make_rules(total=4, evict=False)
        keys = [self.add(indexed, rules) for _ in range(4)]
        for user in (None, 1):
            try:
                indexed.store.create(new_key(), make_draft(user=user), rules)
            except StoreFull as full:
                assert full.limit == 4
            else:
                raise AssertionError("a full store took one more")
        assert all(self.read(indexed, key, rules) for key in keys)
        indexed.advance(30 * MINUTE)
        self.add(indexed, rules)  # what is due makes room

    def test_a_refused_rotation_leaves_the_session_as_it_was(self, indexed: StoreKit) -> None:
        rules = make_rules(total=4, evict=False)
        for n in range(3):
            self.add(indexed, rules, user=n)
        key = self.add(indexed, rules)
        before = self.record(indexed, key, rules)
        try:
            self.rotate(indexed, key, rules, user=9)
        except StoreFull:
            pass
        else:
            raise AssertionError("users took the share of anonymous sessions")
        assert self.record(indexed, key, rules) == before

    def test_the_cap_holds_under_concurrent_creates(self, indexed: StoreKit) -> None:
        rules = make_rules(total=20, per_user=3)
        together(8, lambda n: [self.add(indexed, rules, user=n % 2 or None) for _ in range(25)])
        counts = indexed.index.count(rules)
        assert counts.total <= 20
        assert sum(v for tier, v in counts.live.items() if tier != ANONYMOUS_TIER) == 3

    # -- removal --------------------------------------------------------------------------------

    def test_a_purge_removes_what_is_due_and_nothing_else(self, indexed: StoreKit) -> None:
        rules = make_rules()
        old = [self.add(indexed, rules, user=n % 3 or None) for n in range(10)]
        indexed.advance(20 * MINUTE)
        touched, young = old[0], self.add(indexed, rules)
        indexed.store.load(touched, rules, slide=True)
        indexed.advance(10 * MINUTE)
        assert indexed.index.count(rules).due == 9
        step = indexed.index.purge(rules, 100)
        assert (step.due, step.trimmed, step.more) == (9, 0, False)
        assert {gone.key for gone in step.removed} == set(old[1:])
        assert {gone.reason for gone in step.removed} == {"idle"}
        assert self.read(indexed, touched, rules)
        assert self.read(indexed, young, rules)
        assert indexed.index.count(rules).due == 0

    def test_a_purge_works_in_bounded_steps(self, indexed: StoreKit) -> None:
        rules = make_rules()
        for _ in range(10):
            self.add(indexed, rules)
        indexed.advance(30 * MINUTE)
        steps = [indexed.index.purge(rules, 4) for _ in range(3)]
        assert [(step.due, step.more) for step in steps] == [(4, True), (4, True), (2, False)]

    def test_a_purge_reports_whether_idle_time_or_lifetime_ended(self, indexed: StoreKit) -> None:
        rules = make_rules(lifetime=30 * MINUTE)
        self.add(indexed, rules)
        indexed.advance(30 * MINUTE)
        assert indexed.index.purge(rules, 10).removed[0].reason == "lifetime"

    def test_a_lowered_cap_is_trimmed_by_the_purge(self, indexed: StoreKit) -> None:
        before, after = make_rules(total=40), make_rules(total=20)
        users = [self.add(indexed, before, user=n) for n in range(10)]
        for _ in range(20):
            self.add(indexed, before)
        steps = [indexed.index.purge(after, 6) for _ in range(2)]
        assert [step.trimmed for step in steps] == [6, 4]
        assert indexed.index.count(after).total == 20
        assert all(self.read(indexed, key, after) for key in users)

    def test_a_lowered_cap_is_not_trimmed_when_nothing_may_be_evicted(
        self, indexed: StoreKit
    ) -> None:
        before, after = make_rules(total=40), make_rules(total=20, evict=False)
        for _ in range(30):
            self.add(indexed, before)
        assert indexed.index.purge(after, 100).trimmed == 0
        assert indexed.index.count(after).total == 30

    def test_each_create_removes_a_few_that_are_due(self, indexed: StoreKit) -> None:
        rules = make_rules()
        for _ in range(10):
            self.add(indexed, rules)
        indexed.advance(30 * MINUTE)
        for _ in range(10):
            self.add(indexed, rules)
        assert indexed.index.count(rules).due == 0

    def test_sessions_are_counted_by_tier(self, indexed: StoreKit) -> None:
        limits = Limits(30 * MINUTE, 720 * MINUTE, 0)
        rules = make_rules(tiers={"admin": limits})
        self.add(indexed, rules)
        self.add(indexed, rules, user=1)
        self.add(indexed, rules, user=2, tier="admin")
        live = indexed.index.count(rules).live
        assert (live[ANONYMOUS_TIER], live[DEFAULT_TIER], live["admin"]) == (1, 1, 1)

    def living(self, indexed: StoreKit, rules: Rules, keys: list[str]) -> list[str]:
        """Returns those of *keys* whose sessions are live."""
        return [key for key in keys if self.read(indexed, key, rules) is not None]

    def test_a_closed_store_can_be_used_again(self, indexed: StoreKit) -> None:
        rules = make_rules()
        key = self.add(indexed, rules)
        indexed.store.close()
        assert self.read(indexed, key, rules) is not None
