"""The contract: one session is created, loaded and changed, and expires."""

from __future__ import annotations

from ..model.policy import DEFAULT_TIER, Limits
from ..model.tokens import new_stamp, tier_tag, user_tag
from ..stores.base import Conflict, Gone, Live, Taken
from .base import RULES, ContractBase, used_after
from .kit import MINUTE, StoreKit, make_draft, make_rules, new_key, together


class SingleSessionContract(ContractBase):
    """Create, load and commit, and when a session expires."""

    # -- load and create ------------------------------------------------------------------------

    def test_what_was_created_is_loaded(self, kit: StoreKit) -> None:
        key = self.add(kit, payload=b"\x00\xff payload", user=7)
        record = self.record(kit, key)
        assert record.payload == b"\x00\xff payload"
        assert record.user == user_tag(7)
        assert record.tier == tier_tag(DEFAULT_TIER)
        assert record.absolute == record.created + 720 * MINUTE
        assert record.idle == 30 * MINUTE

    def test_a_note_is_stored_with_the_data(self, kit: StoreKit) -> None:
        key = new_key()
        drafts = [make_draft(b"one", note=b"\x00\xff note"), make_draft(b"two", note=b"n" * 0xFFF)]
        self.live(kit.store.create(key, drafts[0], RULES))
        first = self.record(kit, key)
        kit.store.commit(key, drafts[1], first.stamps[0], touch=0)
        second = self.record(kit, key)
        assert (first.note, first.payload) == (drafts[0].note, b"one")
        assert (second.note, second.payload) == (drafts[1].note, b"two")

    def test_an_unknown_key_is_gone_and_leaves_no_trace(self, kit: StoreKit) -> None:
        for _ in range(100):
            assert kit.store.load(new_key(), RULES, slide=True) == Gone("unknown")
        assert self.holds(kit, 0)

    def test_a_taken_key_is_refused_and_not_overwritten(self, kit: StoreKit) -> None:
        key = self.add(kit, payload=b"first")
        assert kit.store.create(key, make_draft(b"second"), RULES) == Taken()
        assert self.record(kit, key).payload == b"first"

    def test_a_key_that_has_ended_is_never_used_again(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.store.end(key, new_stamp(), "logout", None)
        assert kit.store.create(key, make_draft(), RULES) == Taken()

    def test_a_large_payload_keeps_every_byte(self, kit: StoreKit) -> None:
        payload = bytes(range(256)) * 1024
        key = self.add(kit, payload=payload)
        first = self.record(kit, key)
        kit.store.commit(key, make_draft(payload[::-1]), first.stamps[0], touch=0)
        second = self.record(kit, key)
        assert (first.payload, second.payload) == (payload, payload[::-1])

    def test_a_closed_store_can_be_used_again(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.store.close()
        assert self.read(kit, key) is not None

    # -- expiry ---------------------------------------------------------------------------------

    def test_an_idle_session_ends_at_its_timeout_and_not_before(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.advance(30 * MINUTE - kit.tolerance)
        assert self.read(kit, key) is not None
        kit.advance(kit.tolerance)
        assert self.gone(kit.store.load(key, RULES, slide=True)).reason == "idle"
        assert kit.store.load(key, RULES, slide=True) == Gone("unknown")

    def test_use_slides_the_end_but_never_over_the_lifetime(self, kit: StoreKit) -> None:
        rules = make_rules(lifetime=60 * MINUTE)
        key = self.add(kit, rules)
        for _ in range(4):
            kit.advance(14 * MINUTE)
            self.slide(kit, key, rules)
        kit.advance(4 * MINUTE - kit.tolerance)
        assert self.read(kit, key, rules) is not None
        kit.advance(kit.tolerance)
        assert self.gone(kit.store.load(key, rules, slide=True)).reason == "lifetime"

    def test_a_passive_load_does_not_slide(self, kit: StoreKit) -> None:
        key = self.add(kit)
        for _ in range(2):
            kit.advance(15 * MINUTE - kit.tolerance)
            self.record(kit, key)
        kit.advance(2 * kit.tolerance)
        assert self.read(kit, key) is None

    def test_a_use_is_recorded_once_in_a_touch_interval(self, kit: StoreKit) -> None:
        rules = make_rules(touch=MINUTE)
        key = self.used(kit, rules)
        first = used_after(self.record(kit, key, rules))
        kit.advance(MINUTE - kit.tolerance)
        early = self.slide(kit, key, rules)
        assert used_after(early) == first
        kit.advance(kit.tolerance)
        late = self.slide(kit, key, rules)
        assert used_after(late) >= first + MINUTE

    def test_neither_reads_nor_commits_move_the_end_within_a_touch_interval(
        self, kit: StoreKit
    ) -> None:
        rules = make_rules(touch=10 * MINUTE)
        key = self.used(kit, rules)
        first = used_after(self.record(kit, key, rules))
        for _ in range(3):
            kit.advance(3 * MINUTE)
            self.slide(kit, key, rules)
            record = self.commit(kit, key, rules, touch=10 * MINUTE)
            assert used_after(record) == first
        kit.advance(21 * MINUTE)
        assert kit.index.count(rules).due == 1
        assert self.read(kit, key, rules) is None

    def test_a_commit_records_the_use_when_the_touch_interval_is_over(self, kit: StoreKit) -> None:
        rules = make_rules(touch=10 * MINUTE)
        key = self.used(kit, rules)
        first = used_after(self.record(kit, key, rules))
        kit.advance(10 * MINUTE)
        record = self.commit(kit, key, rules, touch=10 * MINUTE)
        assert used_after(record) >= first + 10 * MINUTE
        kit.advance(29 * MINUTE)
        assert kit.index.count(rules).due == 0
        assert self.read(kit, key, rules) is not None

    def test_the_first_use_after_the_creation_is_always_recorded(self, kit: StoreKit) -> None:
        """It shows that the cookie has come back. A passive view does not count."""
        rules = make_rules(touch=10 * MINUTE)
        loaded, committed = self.add(kit, rules), self.add(kit, rules)
        kit.advance(MINUTE)
        self.commit(kit, committed, rules, touch=None)
        assert not self.record(kit, loaded, rules).is_used
        assert not self.record(kit, committed, rules).is_used
        self.slide(kit, loaded, rules)
        self.commit(kit, committed, rules, touch=10 * MINUTE)
        for key in (loaded, committed):
            record = self.record(kit, key, rules)
            assert record.is_used
            assert record.last_active >= record.created + MINUTE

    def test_shorter_limits_hold_at_once_and_longer_ones_do_not(self, kit: StoreKit) -> None:
        shorter = make_rules(idle=10 * MINUTE, lifetime=20 * MINUTE)
        key = self.add(kit)
        assert self.record(kit, key, shorter).idle == 10 * MINUTE
        record = self.record(kit, key)
        assert (record.idle, record.absolute - record.created) == (10 * MINUTE, 20 * MINUTE)
        kit.advance(10 * MINUTE)
        assert self.read(kit, key) is None

    def test_a_load_under_shorter_limits_ends_what_they_do_not_allow(self, kit: StoreKit) -> None:
        shorter = make_rules(idle=10 * MINUTE)
        key = self.add(kit)
        kit.advance(11 * MINUTE)
        assert self.gone(kit.store.load(key, shorter, slide=True)).reason == "idle"
        assert self.holds(kit, 0)

    def test_a_commit_may_extend_the_limits(self, kit: StoreKit) -> None:
        short = make_rules(idle=10 * MINUTE, lifetime=20 * MINUTE)
        key = self.add(kit, short)
        stamp = self.record(kit, key, short).stamps[0]
        self.live(kit.store.commit(key, make_draft(), stamp, touch=0))
        kit.advance(29 * MINUTE)
        assert self.read(kit, key) is not None

    # -- commit ---------------------------------------------------------------------------------

    def test_a_commit_replaces_the_data_and_keeps_the_age(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.advance(MINUTE)
        before = self.record(kit, key)
        draft = make_draft(b"changed")
        after = self.live(kit.store.commit(key, draft, before.stamps[0], touch=0)).record
        assert (after.payload, after.created) == (b"changed", before.created)
        assert after.stamps[:2] == (draft.stamp, before.stamps[0])
        assert after.last_active >= before.last_active + MINUTE
        assert self.read(kit, key) == after

    def test_a_passive_commit_does_not_slide(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.advance(20 * MINUTE)
        stamp = self.record(kit, key).stamps[0]
        self.live(kit.store.commit(key, make_draft(), stamp, touch=None))
        kit.advance(10 * MINUTE)
        assert self.read(kit, key) is None

    def test_a_commit_on_old_data_is_a_conflict_with_the_new(self, kit: StoreKit) -> None:
        key = self.add(kit)
        old = self.record(kit, key)
        stamp = old.stamps[0]
        kit.store.commit(key, make_draft(b"theirs"), stamp, touch=0)
        for loaded in (None, old):
            answer = kit.store.commit(key, make_draft(b"mine"), stamp, touch=0, loaded=loaded)
            assert self.conflict(answer).payload == b"theirs"
            assert self.record(kit, key).payload == b"theirs"

    def test_of_concurrent_commits_on_one_stamp_exactly_one_wins(self, kit: StoreKit) -> None:
        key = self.add(kit)
        old = self.record(kit, key)
        stamp, drafts = old.stamps[0], [make_draft(bytes([n])) for n in range(8)]

        def commit(number: int) -> object:
            loaded = old if number % 4 else None
            return kit.store.commit(key, drafts[number], stamp, touch=0, loaded=loaded)

        winners = [n for n, answer in enumerate(together(8, commit)) if isinstance(answer, Live)]
        assert len(winners) == 1
        assert self.record(kit, key).payload == bytes(winners)

    def test_a_commit_after_the_end_writes_nothing(self, kit: StoreKit) -> None:
        for reason in ("logout", "revoked"):
            key = self.add(kit, user=1)
            stamp = self.record(kit, key).stamps[0]
            kit.store.end(key, new_stamp(), reason, None)
            answer = kit.store.commit(key, make_draft(), stamp, touch=0)
            assert answer == Gone(reason, has_tombstone=True)
        assert self.holds(kit, 0)

    def test_a_commit_after_the_timeout_writes_nothing(self, kit: StoreKit) -> None:
        key = self.add(kit)
        stamp = self.record(kit, key).stamps[0]
        kit.advance(30 * MINUTE)
        assert isinstance(kit.store.commit(key, make_draft(), stamp, touch=0), Gone)
        assert self.read(kit, key) is None

    def test_a_commit_never_changes_whose_session_it_is(self, kit: StoreKit) -> None:
        """The session was refiled since it was loaded: the request has to load it again."""
        tiers = {"admin": Limits(30 * MINUTE, 720 * MINUTE, 0)}
        rules = make_rules(tiers=tiers)
        key = self.add(kit, rules, user=1)
        before = self.record(kit, key, rules)
        for user, tier in ((2, DEFAULT_TIER), (None, DEFAULT_TIER), (1, "admin")):
            draft = make_draft(b"mine", rules=rules, user=user, tier=tier)
            assert kit.store.commit(key, draft, before.stamps[0], touch=0) == Conflict(before)
        assert self.record(kit, key, rules) == before
