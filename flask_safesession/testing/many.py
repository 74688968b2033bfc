"""The contract, part two: how many sessions there may be, and how they are removed."""

from __future__ import annotations

from ..errors import StoreFull
from ..model.policy import ANONYMOUS_TIER, DEFAULT_TIER, Limits
from ..stores.base import Rules
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

    def test_of_one_users_sessions_those_that_were_never_used_again_are_evicted_first(
        self, kit: StoreKit
    ) -> None:
        """A script that signs in at each call does not throw its owner out of the browser."""
        rules = make_rules(per_user=3)
        other = self.add(kit, rules, user="other")
        browser = self.used(kit, rules, user="me")
        scripts = []
        for _ in range(5):
            kit.advance(1000)
            scripts.append(self.add(kit, rules, user="me"))
        assert self.living(kit, rules, [browser, other]) == [browser, other]
        assert self.living(kit, rules, scripts) == scripts[3:]

    def test_of_one_users_sessions_that_were_used_the_one_unused_for_the_longest_is_evicted(
        self, kit: StoreKit
    ) -> None:
        rules = make_rules(per_user=3)
        keys = [self.used(kit, rules, user="me") for _ in range(3)]
        for key in (keys[1], keys[0]):
            kit.advance(1000)
            kit.store.load(key, rules, slide=True)
        kit.advance(1000)
        self.commit(kit, keys[1], rules)
        for evicted in (keys[2], keys[0]):
            newest = self.add(kit, rules, user="me")
            assert self.look(kit, evicted, rules) is None
            kit.advance(1000)
            self.live(kit.store.load(newest, rules, slide=True))
        assert self.look(kit, keys[1], rules) is not None

    def test_a_passive_view_does_not_save_a_session_from_its_eviction(self, kit: StoreKit) -> None:
        rules = make_rules(per_user=2)
        keys = [self.add(kit, rules, user="me") for _ in range(2)]
        kit.advance(1000)
        kit.store.load(keys[0], rules, slide=False)
        self.commit(kit, keys[0], rules, touch=None)
        self.add(kit, rules, user="me")
        assert self.living(kit, rules, keys) == keys[1:]

    def test_sessions_made_at_the_same_time_are_evicted_in_the_order_they_were_made(
        self, kit: StoreKit
    ) -> None:
        rules = make_rules(per_user=5)
        keys = [self.add(kit, rules, user="me") for _ in range(12)]
        assert self.living(kit, rules, keys) == keys[7:]

    def test_a_rotated_session_stands_where_its_last_use_puts_it(self, kit: StoreKit) -> None:
        rules = make_rules(per_user=2)
        first = self.used(kit, rules, user="me")
        second = self.used(kit, rules, user="me")
        kit.advance(1000)
        moved, _ = self.rotate(kit, first, rules, user="me")
        self.add(kit, rules, user="me")
        assert self.living(kit, rules, [second, moved]) == [moved]

    def test_refiling_evicts_nobody(self, kit: StoreKit) -> None:
        rules = make_rules(total=4, per_user=2)
        keys = [self.key_of("me") for _ in range(3)]
        self.live(kit.store.create(keys[0], make_draft(b"refiled"), rules))
        for key in keys[1:]:
            self.live(kit.store.create(key, make_draft(user="me"), rules))
        stamp = self.record(kit, keys[0], rules).stamps[0]
        answer = self.live(kit.store.refile(keys[0], make_draft(user="me"), stamp))
        assert answer.removed == ()
        assert self.living(kit, rules, keys) == keys
        self.add(kit, rules, user="me")
        assert len(self.living(kit, rules, keys)) == 1

    def test_a_users_lowered_cap_is_reached_in_bounded_steps(self, kit: StoreKit) -> None:
        """At most a hundred live sessions are evicted by one call, and the login is admitted."""
        before, after = make_rules(per_user=200), make_rules(per_user=5)
        keys = [self.add(kit, before, user="me") for _ in range(130)]
        steps = []
        for _ in range(3):
            draft = make_draft(rules=after, user="me")
            answer = self.live(kit.store.create(new_key(), draft, after))
            steps.append([gone.key for gone in answer.removed])
            assert {gone.reason for gone in answer.removed} == {"evicted"}
        assert [len(step) for step in steps] == [100, 27, 1]
        assert [set(step) for step in steps] == [set(keys[:100]), set(keys[100:127]), {keys[127]}]

    def test_the_lowered_cap_of_the_store_is_reached_in_bounded_steps(self, kit: StoreKit) -> None:
        before, after = make_rules(total=400), make_rules(total=20)
        for number in range(130):
            self.add(kit, before, user=number if number % 2 else None)
        evicted = []
        for number in range(3):
            draft = make_draft(rules=after, user=1000 + number)
            evicted.append(len(self.live(kit.store.create(new_key(), draft, after)).removed))
        assert evicted == [100, 12, 1]
        assert kit.store.census(after).total == 20

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

    def living(self, kit: StoreKit, rules: Rules, keys: list[str]) -> list[str]:
        """Those of *keys* whose sessions are live."""
        return [key for key in keys if self.look(kit, key, rules) is not None]

    def test_a_closed_store_can_be_used_again(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.store.close()
        assert self.look(kit, key, rules) is not None
