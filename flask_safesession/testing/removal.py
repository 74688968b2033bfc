"""The contract: due sessions are removed and counted, for stores with an index."""

from __future__ import annotations

from ..model.policy import ANONYMOUS_TIER, DEFAULT_TIER, Limits
from .base import RULES, ContractBase
from .kit import MINUTE, StoreKit, make_rules


class RemovalContract(ContractBase):
    """Purge and counts."""

    def test_a_purge_removes_what_is_due_and_nothing_else(self, kit: StoreKit) -> None:
        old = [self.add(kit, user=n % 3 or None) for n in range(10)]
        kit.advance(20 * MINUTE)
        touched, young = old[0], self.add(kit)
        kit.store.load(touched, RULES, slide=True)
        kit.advance(10 * MINUTE)
        assert kit.index.count(RULES).due == 9
        step = kit.index.purge(RULES, 100)
        assert (step.due, step.trimmed, step.more) == (9, 0, False)
        assert {gone.key for gone in step.removed} == set(old[1:])
        assert {gone.reason for gone in step.removed} == {"idle"}
        assert self.read(kit, touched)
        assert self.read(kit, young)
        assert kit.index.count(RULES).due == 0

    def test_a_purge_works_in_bounded_steps(self, kit: StoreKit) -> None:
        for _ in range(10):
            self.add(kit)
        kit.advance(30 * MINUTE)
        steps = [kit.index.purge(RULES, 4) for _ in range(3)]
        assert [(step.due, step.more) for step in steps] == [(4, True), (4, True), (2, False)]

    def test_a_purge_reports_whether_idle_time_or_lifetime_ended(self, kit: StoreKit) -> None:
        rules = make_rules(lifetime=30 * MINUTE)
        self.add(kit, rules)
        kit.advance(30 * MINUTE)
        assert kit.index.purge(rules, 10).removed[0].reason == "lifetime"

    def test_a_lowered_cap_is_trimmed_by_the_purge(self, kit: StoreKit) -> None:
        before, after = make_rules(total=40), make_rules(total=20)
        users = [self.add(kit, before, user=n) for n in range(10)]
        for _ in range(20):
            self.add(kit, before)
        steps = [kit.index.purge(after, 6) for _ in range(2)]
        assert [step.trimmed for step in steps] == [6, 4]
        assert kit.index.count(after).total == 20
        assert all(self.read(kit, key, after) for key in users)

    def test_a_lowered_cap_is_not_trimmed_when_nothing_may_be_evicted(self, kit: StoreKit) -> None:
        before, after = make_rules(total=40), make_rules(total=20, evict=False)
        for _ in range(30):
            self.add(kit, before)
        assert kit.index.purge(after, 100).trimmed == 0
        assert kit.index.count(after).total == 30

    def test_each_create_removes_a_few_that_are_due(self, kit: StoreKit) -> None:
        for _ in range(10):
            self.add(kit)
        kit.advance(30 * MINUTE)
        for _ in range(10):
            self.add(kit)
        assert kit.index.count(RULES).due == 0

    def test_sessions_are_counted_by_tier(self, kit: StoreKit) -> None:
        limits = Limits(30 * MINUTE, 720 * MINUTE, 0)
        rules = make_rules(tiers={"admin": limits})
        self.add(kit, rules)
        self.add(kit, rules, user=1)
        self.add(kit, rules, user=2, tier="admin")
        live = kit.index.count(rules).live
        assert (live[ANONYMOUS_TIER], live[DEFAULT_TIER], live["admin"]) == (1, 1, 1)
