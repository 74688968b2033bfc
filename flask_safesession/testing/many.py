"""The contract: caps on the number of sessions, for stores with an index."""

from __future__ import annotations

import pytest

from ..errors import StoreFull
from ..model.policy import ANONYMOUS_TIER, Limits
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules, new_key, together


class ManySessionsContract(ContractBase):
    """Caps, of all sessions and of a user's, and eviction."""

    @pytest.fixture
    def indexed(self, kit: StoreKit) -> StoreKit:
        """Returns the kit if its store has an index; otherwise skips the test."""
        _ = kit.index
        return kit

    def test_the_cap_evicts_the_anonymous_session_nearest_its_end(self, indexed: StoreKit) -> None:
        rules = make_rules(total=4)
        keys = []
        for _ in range(4):
            keys.append(self.add(indexed, rules))
            indexed.advance(MINUTE)
        indexed.store.load(keys[0], rules, slide=True)  # now the second is nearest its end
        answer = self.create(indexed, new_key(), rules)
        assert [(gone.key, gone.reason) for gone in answer.removed] == [(keys[1], "evicted")]
        assert self.read(indexed, keys[1], rules) is None
        assert indexed.index.count(rules).total == answer.total == 4

    def test_due_sessions_are_removed_before_live_ones(self, indexed: StoreKit) -> None:
        tiers = {"short": Limits(MINUTE, 720 * MINUTE, 0)}
        rules = make_rules(total=3, tiers=tiers)
        due = self.add(indexed, rules, user=1, tier="short")
        anonymous = [self.add(indexed, rules) for _ in range(2)]
        indexed.advance(MINUTE)
        answer = self.create(indexed, new_key(), rules)
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
            answer = self.create(indexed, new_key(), rules, user=user, tier=tier)
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
        answer = self.create(indexed, new_key(), after, user=3, tier="kept")
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
        assert self.living(indexed, [browser, other], rules) == [browser, other]
        assert self.living(indexed, scripts, rules) == scripts[3:]

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
            self.slide(indexed, newest, rules)
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
        assert self.living(indexed, keys, rules) == keys[1:]

    def test_sessions_made_at_the_same_time_are_evicted_in_the_order_they_were_made(
        self, indexed: StoreKit
    ) -> None:
        rules = make_rules(per_user=5)
        keys = [self.add(indexed, rules, user="me") for _ in range(12)]
        assert self.living(indexed, keys, rules) == keys[7:]

    def test_a_rotated_session_is_evicted_by_its_last_use(self, indexed: StoreKit) -> None:
        rules = make_rules(per_user=2)
        first = self.used(indexed, rules, user="me")
        second = self.used(indexed, rules, user="me")
        indexed.advance(1000)
        moved, _ = self.rotate(indexed, first, rules, user="me")
        self.add(indexed, rules, user="me")
        assert self.living(indexed, [second, moved], rules) == [moved]

    def test_refiling_evicts_no_session(self, indexed: StoreKit) -> None:
        rules = make_rules(total=4, per_user=2)
        keys = [self.key_of("me") for _ in range(3)]
        self.create(indexed, keys[0], rules, b"refiled")
        for key in keys[1:]:
            self.create(indexed, key, rules, user="me")
        stamp = self.record(indexed, keys[0], rules).stamps[0]
        answer = self.live(indexed.store.refile(keys[0], make_draft(user="me"), stamp))
        assert answer.removed == ()
        assert self.living(indexed, keys, rules) == keys
        self.add(indexed, rules, user="me")
        assert len(self.living(indexed, keys, rules)) == 1

    def test_a_users_lowered_cap_is_reached_in_bounded_steps(self, indexed: StoreKit) -> None:
        """At most a hundred live sessions are evicted by one call, and the login is admitted."""
        before, after = make_rules(per_user=200), make_rules(per_user=5)
        keys = [self.add(indexed, before, user="me") for _ in range(130)]
        steps = []
        for _ in range(3):
            answer = self.create(indexed, new_key(), after, user="me")
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
            answer = self.create(indexed, new_key(), after, user=1000 + number)
            evicted.append(len(answer.removed))
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
            with pytest.raises(StoreFull) as full:
                self.add(indexed, rules, user=user)
            assert full.value.limit == 4
        assert all(self.read(indexed, key, rules) for key in keys)
        indexed.advance(30 * MINUTE)
        self.add(indexed, rules)  # what is due makes room

    def test_a_refused_rotation_leaves_the_session_as_it_was(self, indexed: StoreKit) -> None:
        rules = make_rules(total=4, evict=False)
        for n in range(3):
            self.add(indexed, rules, user=n)
        key = self.add(indexed, rules)
        before = self.record(indexed, key, rules)
        with pytest.raises(StoreFull):  # users do not get the share of anonymous sessions
            self.rotate(indexed, key, rules, user=9)
        assert self.record(indexed, key, rules) == before

    def test_the_cap_holds_under_concurrent_creates(self, indexed: StoreKit) -> None:
        rules = make_rules(total=20, per_user=3)
        together(8, lambda n: [self.add(indexed, rules, user=n % 2 or None) for _ in range(25)])
        counts = indexed.index.count(rules)
        assert counts.total <= 20
        assert sum(v for tier, v in counts.live.items() if tier != ANONYMOUS_TIER) == 3
