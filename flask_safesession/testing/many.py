"""The contract, part two: how many sessions there may be, and how they are removed."""

from __future__ import annotations

from ..errors import StoreFull
from ..expiry import ANONYMOUS_TIER, DEFAULT_TIER, Limits
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules, new_key, together


class ManySessionsContract(ContractBase):
    """Caps, eviction, purge and census."""

    # -- the cap --------------------------------------------------------------------------------

    def test_at_the_cap_the_stranger_nearest_its_end_goes(self, kit: StoreKit) -> None:
        rules = make_rules(total=4)
        keys = []
        for _ in range(4):
            keys.append(self.add(kit, rules))
            kit.advance(MINUTE)
        kit.store.load(keys[0], rules, slide=True)  # now the second is nearest its end
        answer = self.live(kit.store.create(new_key(), make_draft(), rules))
        assert [(gone.key, gone.reason) for gone in answer.removed] == [(keys[1], "evicted")]
        assert self.look(kit, keys[1], rules) is None
        assert kit.store.census(rules).total == answer.total == 4

    def test_what_is_due_goes_before_what_is_live(self, kit: StoreKit) -> None:
        tiers = {"short": Limits(MINUTE, 720 * MINUTE, 0)}
        rules = make_rules(total=3, tiers=tiers)
        due = self.add(kit, rules, user=1, tier="short")
        strangers = [self.add(kit, rules) for _ in range(2)]
        kit.advance(MINUTE)
        answer = self.live(kit.store.create(new_key(), make_draft(), rules))
        assert [(gone.key, gone.reason) for gone in answer.removed] == [(due, "idle")]
        assert all(self.look(kit, key, rules) for key in strangers)

    def test_strangers_never_evict_users(self, kit: StoreKit) -> None:
        rules = make_rules(total=20)
        users = [self.add(kit, rules, user=n) for n in range(19)]
        for _ in range(50):
            self.add(kit, rules)
        assert all(self.look(kit, key, rules) for key in users)
        assert kit.store.census(rules).live[ANONYMOUS_TIER] == 1

    def test_users_leave_a_twentieth_to_strangers(self, kit: StoreKit) -> None:
        rules = make_rules(total=20)
        for n in range(40):
            self.add(kit, rules, user=n)
        assert kit.store.census(rules).total == 19
        self.add(kit, rules)
        assert kit.store.census(rules).total == 20

    def test_users_evict_strangers_first_and_then_tier_by_tier(self, kit: StoreKit) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        rules = make_rules(total=4, tiers={"free": long, "paid": long})
        paid = self.add(kit, rules, user=1, tier="paid")
        kit.advance(MINUTE)
        free = self.add(kit, rules, user=2, tier="free")
        stranger = self.add(kit, rules)
        kit.advance(MINUTE)
        self.add(kit, rules)

        def evicted(user: int, tier: str) -> list[str]:
            draft = make_draft(rules=rules, user=user, tier=tier)
            answer = self.live(kit.store.create(new_key(), draft, rules))
            return [gone.key for gone in answer.removed]

        assert evicted(3, "paid") == [stranger]
        assert evicted(4, "paid") == [free]
        assert evicted(5, "paid") == [paid]

    def test_tiers_no_longer_configured_are_evicted_before_those_that_are(
        self, kit: StoreKit
    ) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        before = make_rules(total=3, tiers={"kept": long, "retired": long})
        after = make_rules(total=3, tiers={"kept": long})
        kept = self.add(kit, before, user=1, tier="kept")
        kit.advance(MINUTE)
        retired = self.add(kit, before, user=2, tier="retired")
        draft = make_draft(rules=after, user=3, tier="kept")
        answer = self.live(kit.store.create(new_key(), draft, after))
        assert [gone.key for gone in answer.removed] == [retired]
        assert self.look(kit, kept, after) is not None

    def test_a_user_over_the_users_own_cap_loses_that_users_oldest(self, kit: StoreKit) -> None:
        rules = make_rules(per_user=2)
        other = self.add(kit, rules, user="other")
        keys = []
        for _ in range(3):
            keys.append(self.add(kit, rules, user="me"))
            kit.advance(MINUTE)
            kit.store.load(keys[0], rules, slide=True)  # use does not make it younger
        assert self.look(kit, keys[0], rules) is None
        assert self.look(kit, keys[1], rules)
        assert self.look(kit, keys[2], rules)
        assert self.look(kit, other, rules)

    def test_due_sessions_of_a_user_do_not_count_against_the_user(self, kit: StoreKit) -> None:
        tiers = {"short": Limits(MINUTE, 720 * MINUTE, 0)}
        rules = make_rules(per_user=5, tiers=tiers)
        oldest = self.add(kit, rules, user="me")
        for _ in range(4):
            self.add(kit, rules, user="me", tier="short")
        kit.advance(MINUTE)
        self.add(kit, rules, user="me")
        assert self.look(kit, oldest, rules) is not None

    def test_a_new_login_of_a_user_at_the_cap_replaces_its_own_session(self, kit: StoreKit) -> None:
        rules = make_rules(per_user=2)
        one = self.add(kit, rules, user="me")
        kit.advance(1)
        two = self.add(kit, rules, user="me")
        self.rotate(kit, two, rules, user="me", restart=True)
        assert self.look(kit, one, rules) is not None
        assert kit.store.census(rules).total == 2

    def test_a_login_at_the_cap_takes_the_place_of_its_own_stranger(self, kit: StoreKit) -> None:
        rules = make_rules(total=4)
        keys = [self.add(kit, rules) for _ in range(4)]
        _, answer = self.rotate(kit, keys[3], rules, user=1, restart=True)
        assert self.live(answer).removed == ()
        assert kit.store.census(rules).total == 4

    def test_a_full_store_refuses_when_told_to_and_keeps_everybody(self, kit: StoreKit) -> None:
        rules = make_rules(total=4, evict=False)
        keys = [self.add(kit, rules) for _ in range(4)]
        for user in (None, 1):
            try:
                kit.store.create(new_key(), make_draft(user=user), rules)
            except StoreFull as full:
                assert full.limit == 4
            else:
                raise AssertionError("a full store took one more")
        assert all(self.look(kit, key, rules) for key in keys)
        kit.advance(30 * MINUTE)
        self.add(kit, rules)  # what is due makes room

    def test_a_refused_rotation_leaves_the_session_as_it_was(self, kit: StoreKit) -> None:
        rules = make_rules(total=4, evict=False)
        for n in range(3):
            self.add(kit, rules, user=n)
        key = self.add(kit, rules)
        before = self.record(kit, key, rules)
        try:
            self.rotate(kit, key, rules, user=9)
        except StoreFull:
            pass
        else:
            raise AssertionError("users took the strangers' share")
        assert self.record(kit, key, rules) == before

    def test_the_cap_holds_under_concurrent_creates(self, kit: StoreKit) -> None:
        rules = make_rules(total=20, per_user=3)
        together(8, lambda n: [self.add(kit, rules, user=n % 2 or None) for _ in range(25)])
        census = kit.store.census(rules)
        assert census.total <= 20
        assert sum(v for tier, v in census.live.items() if tier != ANONYMOUS_TIER) == 3

    # -- removal --------------------------------------------------------------------------------

    def test_a_purge_removes_what_is_due_and_nothing_else(self, kit: StoreKit) -> None:
        rules = make_rules()
        old = [self.add(kit, rules, user=n % 3 or None) for n in range(10)]
        kit.advance(20 * MINUTE)
        touched, young = old[0], self.add(kit, rules)
        kit.store.load(touched, rules, slide=True)
        kit.advance(10 * MINUTE)
        assert kit.store.census(rules).due == 9
        step = kit.store.purge(rules, 100)
        assert (step.due, step.trimmed, step.more) == (9, 0, False)
        assert {gone.key for gone in step.removed} == set(old[1:])
        assert {gone.reason for gone in step.removed} == {"idle"}
        assert self.look(kit, touched, rules)
        assert self.look(kit, young, rules)
        assert kit.store.census(rules).due == 0

    def test_a_purge_goes_in_bounded_steps(self, kit: StoreKit) -> None:
        rules = make_rules()
        for _ in range(10):
            self.add(kit, rules)
        kit.advance(30 * MINUTE)
        steps = [kit.store.purge(rules, 4) for _ in range(3)]
        assert [(step.due, step.more) for step in steps] == [(4, True), (4, True), (2, False)]

    def test_a_purge_says_whether_idleness_or_age_was_the_end(self, kit: StoreKit) -> None:
        rules = make_rules(lifetime=30 * MINUTE)
        self.add(kit, rules)
        kit.advance(30 * MINUTE)
        assert kit.store.purge(rules, 10).removed[0].reason == "lifetime"

    def test_a_lowered_cap_is_trimmed_by_the_purge(self, kit: StoreKit) -> None:
        before, after = make_rules(total=40), make_rules(total=20)
        users = [self.add(kit, before, user=n) for n in range(10)]
        for _ in range(20):
            self.add(kit, before)
        steps = [kit.store.purge(after, 6) for _ in range(2)]
        assert [step.trimmed for step in steps] == [6, 4]
        assert kit.store.census(after).total == 20
        assert all(self.look(kit, key, after) for key in users)

    def test_a_lowered_cap_is_not_trimmed_when_nothing_may_be_evicted(self, kit: StoreKit) -> None:
        before, after = make_rules(total=40), make_rules(total=20, evict=False)
        for _ in range(30):
            self.add(kit, before)
        assert kit.store.purge(after, 100).trimmed == 0
        assert kit.store.census(after).total == 30

    def test_each_create_removes_a_few_that_are_due(self, kit: StoreKit) -> None:
        rules = make_rules()
        for _ in range(10):
            self.add(kit, rules)
        kit.advance(30 * MINUTE)
        for _ in range(10):
            self.add(kit, rules)
        assert kit.store.census(rules).due == 0

    def test_the_census_counts_by_tier(self, kit: StoreKit) -> None:
        limits = Limits(30 * MINUTE, 720 * MINUTE, 0)
        rules = make_rules(tiers={"admin": limits})
        self.add(kit, rules)
        self.add(kit, rules, user=1)
        self.add(kit, rules, user=2, tier="admin")
        live = kit.store.census(rules).live
        assert (live[ANONYMOUS_TIER], live[DEFAULT_TIER], live["admin"]) == (1, 1, 1)

    def test_a_closed_store_can_be_used_again(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.store.close()
        assert self.look(kit, key, rules) is not None
