"""The contract: settings for a whole fleet, and limits that become shorter."""

from __future__ import annotations

from ..model.policy import DEFAULT_TIER, Limits
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_rules, together

NAME, ONE, TWO = "tuning", b'{"one": 1}', b'{"two": "\xc3\xa9"}'


class OverridesContract(ContractBase):
    """Documents for all processes on the store, and shorter limits for old sessions."""

    # -- documents ------------------------------------------------------------------------------

    def test_there_is_no_document_at_first(self, kit: StoreKit) -> None:
        assert kit.index.document(NAME).document == b""

    def test_a_document_replaces_the_expected_one(self, kit: StoreKit) -> None:
        store = kit.index
        assert store.keep(NAME, ONE, b"")
        assert not store.keep(NAME, TWO, b"")
        assert store.document(NAME).document == ONE
        assert store.keep(NAME, TWO, ONE)
        assert store.document(NAME).document == TWO

    def test_documents_under_two_names_are_two(self, kit: StoreKit) -> None:
        store = kit.index
        assert store.keep(NAME, ONE, b"")
        assert store.keep("other", TWO, b"")
        assert [store.document(name).document for name in (NAME, "other")] == [ONE, TWO]

    def test_a_document_that_is_sent_again_is_kept_once(self, kit: StoreKit) -> None:
        """The reply to the first call was lost: the repetition is done, too."""
        store = kit.index
        assert store.keep(NAME, ONE, b"")
        written = store.document(NAME).written
        kit.advance(MINUTE)
        assert store.keep(NAME, ONE, b"")
        kept = store.document(NAME)
        assert kept.document == ONE
        assert kept.written <= written

    def test_a_document_has_the_time_of_its_writing(self, kit: StoreKit) -> None:
        store = kit.index
        before = store.document(NAME).now
        assert store.keep(NAME, ONE, b"")
        kept = store.document(NAME)
        assert before <= kept.written <= kept.now

    def test_of_many_writes_at_once_one_is_kept(self, kit: StoreKit) -> None:
        store = kit.index
        documents = [b"%d" % number for number in range(8)]
        kept = together(8, lambda number: store.keep(NAME, documents[number], b""))
        assert sum(kept) == 1
        assert store.document(NAME).document == documents[kept.index(True)]

    # -- shorter limits -------------------------------------------------------------------------

    def test_a_shorter_idle_timeout_holds_for_an_unused_session(self, kit: StoreKit) -> None:
        key = self.add(kit, user="ann")
        kit.advance(11 * MINUTE)
        self.audit(kit)
        assert self.read(kit, key) is not None
        shorter = make_rules(idle=10 * MINUTE)
        self.audit(kit, shorter)
        assert self.purged(kit, shorter) == 1
        assert kit.index.count(shorter).total == 0

    def test_a_shorter_lifetime_holds_for_a_session_in_use(self, kit: StoreKit) -> None:
        key = self.add(kit)
        for _ in range(3):
            kit.advance(20 * MINUTE)
            self.slide(kit, key)
        shorter = make_rules(lifetime=60 * MINUTE)
        self.audit(kit, shorter)
        assert self.purged(kit, shorter) == 1

    def test_longer_limits_bring_nothing_back_and_move_nothing(self, kit: StoreKit) -> None:
        key = self.add(kit)
        self.audit(kit)
        longer = make_rules(idle=120 * MINUTE, lifetime=2000 * MINUTE)
        self.audit(kit, longer)
        kit.advance(30 * MINUTE)
        assert self.read(kit, key, longer) is None

    def test_a_tiers_shorter_limits_leave_other_tiers_alone(self, kit: StoreKit) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        rules = make_rules(tiers={"admin": long})
        admin = self.add(kit, rules, user="root", tier="admin")
        user = self.add(kit, rules, user="ann", tier=DEFAULT_TIER)
        kit.advance(11 * MINUTE)
        shorter = make_rules(tiers={"admin": long._replace(idle=10 * MINUTE)})
        self.audit(kit, rules)
        self.audit(kit, shorter)
        assert self.purged(kit, shorter) == 1
        assert self.read(kit, admin, shorter) is None
        assert self.read(kit, user, shorter) is not None

    def test_many_sessions_are_seen_in_small_steps_each_once(self, kit: StoreKit) -> None:
        for number in range(25):
            self.add(kit, user="ann" if number % 2 else None)
        self.audit(kit)
        kit.advance(11 * MINUTE)
        shorter = make_rules(idle=10 * MINUTE)
        assert self.audit(kit, shorter, limit=4) == 25
        assert self.audit(kit, shorter, limit=4) == 0
        assert self.purged(kit, shorter) == 25
