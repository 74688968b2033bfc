"""The contract: extended sessions, whose own limits are longer than their tier's."""

from __future__ import annotations

from ..model.policy import DEFAULT_TIER, Limits, OwnLimits
from ..model.record import Draft, Record
from ..stores.base import Rules, Terms
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules

USUAL = Limits(30 * MINUTE, 120 * MINUTE, 0)
RULES = make_rules(idle=30 * MINUTE, lifetime=120 * MINUTE, longest=600 * MINUTE)
OWN = OwnLimits(600 * MINUTE, 300 * MINUTE)


class ExtendedContract(ContractBase):
    """The most that the settings allow holds for an extended session, not its tier's limits."""

    def test_an_extended_session_outlives_its_tier(self, kit: StoreKit) -> None:
        key = self.extended(kit)
        kit.advance(130 * MINUTE)
        found = self.slide(kit, key, RULES)
        assert limits_of(found) == (300 * MINUTE, 600 * MINUTE, True)
        assert limits_of(self.record(kit, key, RULES)) == (300 * MINUTE, 600 * MINUTE, True)
        kit.advance(310 * MINUTE)
        assert self.read(kit, key, RULES) is None

    def test_the_same_limits_without_the_mark_are_cut(self, kit: StoreKit) -> None:
        key = self.key_of("ann")
        draft = self.draft()._replace(extended=False)
        self.live(kit.store.create(key, draft, RULES))
        assert limits_of(self.record(kit, key, RULES)) == (30 * MINUTE, 120 * MINUTE, False)

    def test_a_shorter_longest_lifetime_cuts_an_extended_session(self, kit: StoreKit) -> None:
        key = self.extended(kit)
        kit.advance(40 * MINUTE)
        less = make_rules(idle=30 * MINUTE, lifetime=120 * MINUTE, longest=200 * MINUTE)
        found = self.live(kit.store.load(key, less, slide=False)).record
        assert limits_of(found) == (200 * MINUTE, 200 * MINUTE, True)
        none = make_rules(idle=30 * MINUTE, lifetime=120 * MINUTE)
        assert self.read(kit, key, none) is None

    def test_shorter_limits_of_the_tier_leave_an_extended_session_alone(
        self, kit: StoreKit
    ) -> None:
        key = self.extended(kit)
        kit.advance(20 * MINUTE)
        less = make_rules(idle=10 * MINUTE, lifetime=15 * MINUTE, longest=600 * MINUTE)
        assert self.read(kit, key, less) is not None

    def test_a_commit_extends_a_session_and_ends_that(self, kit: StoreKit) -> None:
        key = self.add(kit, RULES, user="ann")
        stamp = self.record(kit, key, RULES).stamps[0]
        draft = self.draft()
        after = self.live(kit.store.commit(key, draft, stamp, touch=0)).record
        assert limits_of(after) == (300 * MINUTE, 600 * MINUTE, True)
        kit.advance(40 * MINUTE)
        self.slide(kit, key, RULES)
        usual = make_draft(rules=RULES, user="ann")
        after = self.live(kit.store.commit(key, usual, draft.stamp, touch=0)).record
        assert limits_of(after) == (30 * MINUTE, 120 * MINUTE, False)
        assert self.record(kit, key, RULES) == after
        kit.advance(31 * MINUTE)
        assert self.read(kit, key, RULES) is None

    def test_a_rotation_extends_a_session(self, kit: StoreKit) -> None:
        old, new = self.add(kit, RULES, user="ann"), self.key_of("ann")
        terms = Terms(None, restart=True, reason="rotated")
        self.live(kit.store.rotate(old, new, self.draft(), RULES, terms))
        kit.advance(130 * MINUTE)
        assert limits_of(self.record(kit, new, RULES)) == (300 * MINUTE, 600 * MINUTE, True)

    def test_a_refiling_takes_the_limits_of_its_draft(self, kit: StoreKit) -> None:
        """A tier that allows no longer limits takes them away, and the session keeps its age."""
        rules = make_rules(
            idle=30 * MINUTE, lifetime=120 * MINUTE, longest=600 * MINUTE, tiers={"admin": USUAL}
        )
        key = self.extended(kit)
        kit.advance(10 * MINUTE)
        stamp = self.record(kit, key, rules).stamps[0]
        draft = make_draft(rules=rules, user="ann", tier="admin")
        after = self.live(kit.store.refile(key, draft, stamp)).record
        assert limits_of(after) == (30 * MINUTE, 120 * MINUTE, False)
        assert self.record(kit, key, rules) == after
        draft = make_draft(user="ann")._replace(idle=OWN.idle, lifetime=OWN.lifetime, extended=True)
        after = self.live(kit.store.refile(key, draft, stamp)).record
        assert limits_of(after) == (300 * MINUTE, 600 * MINUTE, True)
        assert self.record(kit, key, rules) == after

    def test_an_extended_session_of_a_tier_has_the_most_of_that_tier(self, kit: StoreKit) -> None:
        tiers = {"shop": USUAL._replace(longest=400 * MINUTE), "admin": USUAL}
        rules = make_rules(longest=600 * MINUTE, tiers=tiers)
        shop, admin = (
            self.extended(kit, user=tier, tier=tier, rules=rules) for tier in ("shop", "admin")
        )
        assert limits_of(self.record(kit, shop, rules)) == (300 * MINUTE, 400 * MINUTE, True)
        assert limits_of(self.record(kit, admin, rules)) == (30 * MINUTE, 120 * MINUTE, True)

    def test_an_audit_cuts_an_extended_session_by_the_most_only(self, kit: StoreKit) -> None:
        self.extended(kit)
        self.audit(kit, RULES)
        kit.advance(40 * MINUTE)
        tier = make_rules(idle=10 * MINUTE, lifetime=120 * MINUTE, longest=600 * MINUTE)
        assert self.audit(kit, tier) == 0
        less = make_rules(idle=10 * MINUTE, lifetime=120 * MINUTE, longest=200 * MINUTE)
        assert self.audit(kit, less) == 1
        assert self.purged(kit, less) == 0
        none = make_rules(idle=10 * MINUTE, lifetime=120 * MINUTE)
        assert self.audit(kit, none) == 1
        assert self.purged(kit, none) == 1

    # -- help -----------------------------------------------------------------------------------

    def draft(self, user: str = "ann", tier: str = DEFAULT_TIER, rules: Rules = RULES) -> Draft:
        """Returns a draft with limits that only an extended session may have."""
        draft = make_draft(rules=rules, user=user, tier=tier)
        return draft._replace(idle=OWN.idle, lifetime=OWN.lifetime, extended=True)

    def extended(
        self, kit: StoreKit, user: str = "ann", tier: str = DEFAULT_TIER, rules: Rules = RULES
    ) -> str:
        """Create an extended session; returns its key."""
        key = self.key_of(user)
        self.live(kit.store.create(key, self.draft(user, tier, rules), rules))
        return key


def limits_of(record: Record) -> tuple[int, int, bool]:
    """Returns idle timeout and lifetime of *record*, and whether it is extended."""
    return record.idle, record.absolute - record.created, record.extended
