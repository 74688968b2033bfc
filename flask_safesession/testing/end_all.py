"""The contract: all sessions end at once, for stores with an index."""

from __future__ import annotations

from ..model.policy import DEFAULT_TIER
from ..model.tokens import new_stamp, tier_tag, user_tag
from ..stores.base import Gone, Removed
from .base import RULES, ContractBase
from .kit import StoreKit, make_draft, make_rules

ANN = user_tag("ann")


class EndAllContract(ContractBase):
    """What was there is over in one step, and stays over."""

    def test_everything_there_is_ends_in_one_step(self, kit: StoreKit) -> None:
        store = kit.users
        ann, anonymous = self.add(kit, user="ann"), self.add(kit)
        stamp = self.record(kit, ann).stamps[0]
        store.end_all(new_stamp())
        assert kit.index.count(RULES).total == 0
        assert store.sessions_of(ANN) == []
        draft = make_draft(user="ann")
        assert isinstance(kit.store.commit(ann, draft, stamp, touch=0), Gone)
        answer = self.gone(kit.store.load(ann, RULES, slide=True))
        assert (answer.reason, answer.for_visitor) == ("revoked", True)
        assert self.read(kit, anonymous) is None
        later = self.add(kit, user="ann")
        assert self.read(kit, later)
        assert [one.key for one in store.sessions_of(ANN)] == [later]

    def test_what_is_made_after_an_end_of_all_is_of_the_next_generation(
        self, kit: StoreKit
    ) -> None:
        """No times are compared: a clock that is set back neither saves nor ends a session."""
        store = kit.users
        old = self.record(kit, self.add(kit, user="ann"))
        for number in (1, 2):
            store.end_all(new_stamp())
            key = self.add(kit, user="ann")
            kit.advance(1000)
            self.slide(kit, key)
            self.commit(kit, key)
            rotated = self.record(kit, self.moved(kit, key, restart=False))
            assert rotated.generation == old.generation + number

    def test_nothing_that_ended_at_once_is_used_in_any_way(self, kit: StoreKit) -> None:
        store = kit.index
        keys = [self.add(kit, user=f"user {number}") for number in range(5)]
        stamps = [self.record(kit, key).stamps[0] for key in keys]
        store.end_all(new_stamp())
        draft = make_draft(user="user 0")
        answers = [
            kit.store.commit(keys[0], draft, stamps[0], touch=0),
            kit.store.refile(keys[1], make_draft(), stamps[1]),
            self.rotate(kit, keys[2], expected=stamps[2])[1],
            kit.store.end(keys[3], new_stamp(), "logout", None),
        ]
        for answer in map(self.gone, answers):
            assert (answer.reason, answer.reason_for_visitor) == ("revoked", "revoked")
        assert store.peek(keys[4]) is None
        assert store.end_user(user_tag("user 4"), new_stamp(), "revoked", "") == []
        assert self.walk(store, DEFAULT_TIER, 2) == []
        assert kit.index.count(RULES).total == 0

    def test_what_ended_at_once_is_purged_in_steps(self, kit: StoreKit) -> None:
        store = kit.users
        keys = {self.add(kit, user=f"user {n}") for n in range(5)}
        keys |= {self.add(kit) for _ in range(4)}
        store.end_all(new_stamp())
        later = self.add(kit, user="ann")
        removed: list[Removed] = []
        for _ in range(9):
            step = kit.index.purge(RULES, 2)
            removed += step.removed
        assert {gone.key for gone in removed} == keys
        assert {gone.reason for gone in removed} == {"revoked"}
        assert self.read(kit, later)
        assert kit.index.purge(RULES, 10).removed == ()

    def test_caps_hold_after_an_end_of_all(self, kit: StoreKit) -> None:
        rules = make_rules(total=10, per_user=2)
        for _ in range(2):
            self.add(kit, rules, user="ann")
        kit.store.end_all(new_stamp())
        for number in range(10):
            self.add(kit, rules, user=f"user {number}")
            assert kit.index.count(rules).total <= 10
        self.add(kit, rules, user="ann")
        assert kit.index.count(rules).total <= 10

    def test_an_end_of_all_that_a_request_found_is_not_reported_by_the_purge(
        self, kit: StoreKit
    ) -> None:
        store = kit.index
        keys = [self.add(kit, user=f"user {number}") for number in range(5)]
        store.end_all(new_stamp())
        assert kit.store.load(keys[2], RULES, slide=True) == Gone(
            "revoked", tier=tier_tag(DEFAULT_TIER), for_visitor=True
        )
        reported = []
        for _ in range(10):
            step = store.purge(RULES, 2)
            assert len(step.removed) <= 2
            reported += [removed.key for removed in step.removed]
            if not step.more:
                break
        assert sorted(reported) == sorted(set(keys) - {keys[2]})
