"""The contract, part one: operations on one session."""

from __future__ import annotations

from ..model.policy import DEFAULT_TIER, Limits
from ..model.tokens import new_stamp, tier_tag, user_tag
from ..stores.base import Conflict, Gone, Live, Taken, Terms
from .base import ContractBase, used_after
from .kit import MINUTE, StoreKit, make_draft, make_rules, new_key, together


class SingleSessionContract(ContractBase):
    """Load, create, expiry, commit, refile, end and rotate."""

    # -- load and create ------------------------------------------------------------------------

    def test_what_was_created_is_loaded(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules, b"\x00\xff payload", user=7)
        record = self.live(kit.store.load(key, rules, slide=False)).record
        assert record.payload == b"\x00\xff payload"
        assert record.user == user_tag(7)
        assert record.tier == tier_tag(DEFAULT_TIER)
        assert record.absolute == record.created + 720 * MINUTE
        assert record.idle == 30 * MINUTE

    def test_a_note_is_stored_with_the_data(self, kit: StoreKit) -> None:
        rules, key = make_rules(), new_key()
        drafts = [make_draft(b"one", note=b"\x00\xff note"), make_draft(b"two", note=b"n" * 0xFFF)]
        self.live(kit.store.create(key, drafts[0], rules))
        first = self.record(kit, key, rules)
        kit.store.commit(key, drafts[1], first.stamps[0], touch=0)
        second = self.record(kit, key, rules)
        assert (first.note, first.payload) == (drafts[0].note, b"one")
        assert (second.note, second.payload) == (drafts[1].note, b"two")

    def test_an_unknown_key_is_gone_and_leaves_no_trace(self, kit: StoreKit) -> None:
        rules = make_rules()
        for _ in range(100):
            assert kit.store.load(new_key(), rules, slide=True) == Gone("unknown")
        assert self.holds(kit, 0, rules)

    def test_a_taken_key_is_refused_and_not_overwritten(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules, b"first")
        assert kit.store.create(key, make_draft(b"second"), rules) == Taken()
        record = self.read(kit, key, rules)
        assert record is not None
        assert record.payload == b"first"

    def test_a_key_that_has_ended_is_never_used_again(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.store.end(key, new_stamp(), "logout", None)
        assert kit.store.create(key, make_draft(), rules) == Taken()

    def test_a_large_payload_keeps_every_byte(self, kit: StoreKit) -> None:
        rules, payload = make_rules(), bytes(range(256)) * 1024
        key = self.add(kit, rules, payload)
        first = self.read(kit, key, rules)
        assert first is not None
        draft = make_draft(payload[::-1])
        kit.store.commit(key, draft, first.stamps[0], touch=0)
        second = self.read(kit, key, rules)
        assert (first.payload, second and second.payload) == (payload, payload[::-1])

    # -- expiry ---------------------------------------------------------------------------------

    def test_an_idle_session_ends_at_its_timeout_and_not_before(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.advance(30 * MINUTE - kit.tolerance)
        assert self.read(kit, key, rules) is not None
        kit.advance(kit.tolerance)
        gone = kit.store.load(key, rules, slide=True)
        assert isinstance(gone, Gone)
        assert gone.reason == "idle"
        assert kit.store.load(key, rules, slide=True) == Gone("unknown")

    def test_use_slides_the_end_but_never_over_the_lifetime(self, kit: StoreKit) -> None:
        rules = make_rules(lifetime=60 * MINUTE)
        key = self.add(kit, rules)
        for _ in range(4):
            kit.advance(14 * MINUTE)
            self.live(kit.store.load(key, rules, slide=True))
        kit.advance(4 * MINUTE - kit.tolerance)
        assert self.read(kit, key, rules) is not None
        kit.advance(kit.tolerance)
        gone = kit.store.load(key, rules, slide=True)
        assert isinstance(gone, Gone)
        assert gone.reason == "lifetime"

    def test_a_passive_load_does_not_slide(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        for _ in range(2):
            kit.advance(15 * MINUTE - kit.tolerance)
            self.live(kit.store.load(key, rules, slide=False))
        kit.advance(2 * kit.tolerance)
        assert self.read(kit, key, rules) is None

    def test_a_use_is_recorded_once_in_a_touch_interval(self, kit: StoreKit) -> None:
        rules = make_rules(touch=MINUTE)
        key = self.used(kit, rules)
        first = used_after(self.record(kit, key, rules))
        kit.advance(MINUTE - kit.tolerance)
        early = self.live(kit.store.load(key, rules, slide=True)).record
        assert used_after(early) == first
        kit.advance(kit.tolerance)
        late = self.live(kit.store.load(key, rules, slide=True)).record
        assert used_after(late) >= first + MINUTE

    def test_neither_reads_nor_commits_move_the_end_within_a_touch_interval(
        self, kit: StoreKit
    ) -> None:
        rules = make_rules(touch=10 * MINUTE)
        key = self.used(kit, rules)
        first = used_after(self.record(kit, key, rules))
        for _ in range(3):
            kit.advance(3 * MINUTE)
            self.live(kit.store.load(key, rules, slide=True))
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
        self.live(kit.store.load(loaded, rules, slide=True))
        self.commit(kit, committed, rules, touch=10 * MINUTE)
        for key in (loaded, committed):
            record = self.record(kit, key, rules)
            assert record.is_used
            assert record.last_active >= record.created + MINUTE

    def test_shorter_limits_hold_at_once_and_longer_ones_do_not(self, kit: StoreKit) -> None:
        rules, shorter = make_rules(), make_rules(idle=10 * MINUTE, lifetime=20 * MINUTE)
        key = self.add(kit, rules)
        assert self.live(kit.store.load(key, shorter, slide=False)).record.idle == 10 * MINUTE
        record = self.live(kit.store.load(key, rules, slide=False)).record
        assert (record.idle, record.absolute - record.created) == (10 * MINUTE, 20 * MINUTE)
        kit.advance(10 * MINUTE)
        assert self.read(kit, key, rules) is None

    def test_a_load_under_shorter_limits_ends_what_they_do_not_allow(self, kit: StoreKit) -> None:
        rules, shorter = make_rules(), make_rules(idle=10 * MINUTE)
        key = self.add(kit, rules)
        kit.advance(11 * MINUTE)
        gone = kit.store.load(key, shorter, slide=True)
        assert isinstance(gone, Gone)
        assert gone.reason == "idle"
        assert self.holds(kit, 0, rules)

    def test_a_commit_may_extend_the_limits(self, kit: StoreKit) -> None:
        short, rules = make_rules(idle=10 * MINUTE, lifetime=20 * MINUTE), make_rules()
        key = self.add(kit, short)
        stamp = self.record(kit, key, short).stamps[0]
        self.live(kit.store.commit(key, make_draft(rules=rules), stamp, touch=0))
        kit.advance(29 * MINUTE)
        assert self.read(kit, key, rules) is not None

    # -- commit ---------------------------------------------------------------------------------

    def test_a_commit_replaces_the_data_and_keeps_the_age(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.advance(MINUTE)
        before = self.record(kit, key, rules)
        draft = make_draft(b"changed")
        after = self.live(kit.store.commit(key, draft, before.stamps[0], touch=0)).record
        assert (after.payload, after.created) == (b"changed", before.created)
        assert after.stamps[:2] == (draft.stamp, before.stamps[0])
        assert after.last_active >= before.last_active + MINUTE
        assert self.read(kit, key, rules) == after

    def test_a_passive_commit_does_not_slide(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.advance(20 * MINUTE)
        stamp = self.record(kit, key, rules).stamps[0]
        self.live(kit.store.commit(key, make_draft(), stamp, touch=None))
        kit.advance(10 * MINUTE)
        assert self.read(kit, key, rules) is None

    def test_a_commit_on_old_data_is_a_conflict_with_the_new(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        old = self.record(kit, key, rules)
        stamp = old.stamps[0]
        kit.store.commit(key, make_draft(b"theirs"), stamp, touch=0)
        for loaded in (None, old):
            answer = kit.store.commit(key, make_draft(b"mine"), stamp, touch=0, loaded=loaded)
            assert isinstance(answer, Conflict)
            assert answer.record.payload == b"theirs"
            assert self.record(kit, key, rules).payload == b"theirs"

    def test_of_concurrent_commits_on_one_stamp_exactly_one_wins(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        old = self.record(kit, key, rules)
        stamp, drafts = old.stamps[0], [make_draft(bytes([n])) for n in range(8)]

        def commit(number: int) -> object:
            loaded = old if number % 4 else None
            return kit.store.commit(key, drafts[number], stamp, touch=0, loaded=loaded)

        winners = [n for n, answer in enumerate(together(8, commit)) if isinstance(answer, Live)]
        assert len(winners) == 1
        assert self.record(kit, key, rules).payload == bytes(winners)

    def test_a_commit_after_the_end_writes_nothing(self, kit: StoreKit) -> None:
        rules = make_rules()
        for reason in ("logout", "revoked"):
            key = self.add(kit, rules, user=1)
            stamp = self.record(kit, key, rules).stamps[0]
            kit.store.end(key, new_stamp(), reason, None)
            answer = kit.store.commit(key, make_draft(), stamp, touch=0)
            assert answer == Gone(reason, has_tombstone=True)
        assert self.holds(kit, 0, rules)

    def test_a_commit_after_the_timeout_writes_nothing(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        kit.advance(30 * MINUTE)
        assert isinstance(kit.store.commit(key, make_draft(), stamp, touch=0), Gone)
        assert self.read(kit, key, rules) is None

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

    # -- refile ---------------------------------------------------------------------------------

    def test_a_refiled_session_keeps_all_but_tier_user_and_limits(self, kit: StoreKit) -> None:
        tiers = {"short": Limits(10 * MINUTE, 60 * MINUTE, 0)}
        rules, draft = make_rules(tiers=tiers), make_draft(b"data", note=b"note")
        key = self.key_of(7)
        self.live(kit.store.create(key, draft, rules))
        kit.advance(MINUTE)
        self.live(kit.store.load(key, rules, slide=True))
        before = self.record(kit, key, rules)
        draft = make_draft(b"not stored", rules=rules, user=7, tier="short", note=b"neither")
        after = self.live(kit.store.refile(key, draft, before.stamps[0])).record
        assert after == self.record(kit, key, rules)
        assert after == before._replace(
            tier=tier_tag("short"),
            user=user_tag(7),
            idle=10 * MINUTE,
            absolute=before.created + 60 * MINUTE,
        )
        counts = kit.index.count(rules)
        assert (counts.live["anonymous"], counts.live["short"]) == (0, 1)
        kit.advance(10 * MINUTE)
        assert [gone.key for gone in kit.index.purge(rules, 10).removed] == [key]

    def test_a_session_can_be_refiled_as_anonymous(self, kit: StoreKit) -> None:
        rules, key = make_rules(), self.key_of(7)
        self.live(kit.store.create(key, make_draft(user=7), rules))
        stamp = self.record(kit, key, rules).stamps[0]
        after = self.live(kit.store.refile(key, make_draft(), stamp)).record
        assert after.user == ""
        assert kit.index.count(rules).live["anonymous"] == 1

    def test_a_refiling_on_old_data_is_a_conflict(self, kit: StoreKit) -> None:
        rules, key = make_rules(), self.key_of(7)
        self.live(kit.store.create(key, make_draft(), rules))
        stamp = self.record(kit, key, rules).stamps[0]
        theirs = self.commit(kit, key, rules)
        assert kit.store.refile(key, make_draft(user=7), stamp) == Conflict(theirs)
        assert self.record(kit, key, rules) == theirs

    def test_a_refiling_brings_nothing_back(self, kit: StoreKit) -> None:
        rules = make_rules()
        ended, idle = self.key_of(7), self.key_of(7)
        for key in (ended, idle):
            self.live(kit.store.create(key, make_draft(), rules))
        stamps = {key: self.record(kit, key, rules).stamps[0] for key in (ended, idle)}
        kit.store.end(ended, new_stamp(), "logout", None)
        draft = make_draft(user=7)
        assert kit.store.refile(ended, draft, stamps[ended]) == Gone("logout", has_tombstone=True)
        kit.advance(30 * MINUTE)
        gone = kit.store.refile(idle, draft, stamps[idle])
        assert isinstance(gone, Gone)
        assert gone.reason == "idle"
        assert kit.store.refile(self.key_of(7), draft, new_stamp()) == Gone("unknown")
        assert self.holds(kit, 0, rules)

    def test_a_refiling_under_limits_that_it_is_over_ends_the_session(self, kit: StoreKit) -> None:
        rules, key = make_rules(), self.key_of(7)
        self.live(kit.store.create(key, make_draft(), rules))
        kit.advance(11 * MINUTE)
        stamp = self.record(kit, key, rules).stamps[0]
        draft = make_draft(rules=make_rules(idle=10 * MINUTE), user=7)
        gone = kit.store.refile(key, draft, stamp)
        assert isinstance(gone, Gone)
        assert gone.reason == "idle"
        assert self.holds(kit, 0, rules)

    def test_what_cannot_be_refiled_here_stays_as_it_is(self, kit: StoreKit) -> None:
        """All sessions of a user are in one shard."""
        rules = make_rules()
        for _ in range(8):
            key = self.add(kit, rules)
            before = self.record(kit, key, rules)
            answer = kit.store.refile(key, make_draft(user=7), before.stamps[0])
            if answer is None:
                assert self.record(kit, key, rules) == before
            else:
                assert self.live(answer).record.user == user_tag(7)

    # -- end ------------------------------------------------------------------------------------

    def test_what_ended_stays_ended_and_its_reason_is_known(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules, user=1)
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Live)
        assert kit.store.load(key, rules, slide=True) == Gone("logout", has_tombstone=True)
        again = kit.store.end(key, new_stamp(), "logout", None)
        assert isinstance(again, Gone)
        assert not again.repeated
        assert self.holds(kit, 0, rules)

    def test_an_end_that_expects_a_stamp_gives_way_to_a_commit(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        kit.store.commit(key, make_draft(b"theirs"), stamp, touch=0)
        answer = kit.store.end(key, new_stamp(), "logout", stamp)
        assert isinstance(answer, Conflict)
        assert answer.record.payload == b"theirs"
        assert self.read(kit, key, rules) is not None

    def test_an_end_follows_a_session_that_was_rotated_and_not_a_login(self, kit: StoreKit) -> None:
        rules = make_rules()
        for restart in (False, True):
            key = self.add(kit, rules, user=1)
            middle, _ = self.rotate(kit, key, rules, user=1)
            last, _ = self.rotate(kit, middle, rules, user=1, restart=restart)
            answer = kit.store.end(key, new_stamp(), "logout", None)
            assert isinstance(answer, Gone if restart else Live)
            assert (self.read(kit, last, rules) is not None) is restart
        for restart in (False, True):
            key = self.add(kit, rules, user=1)
            last, _ = self.rotate(kit, key, rules, user=1, restart=restart)
            _, rotated = self.rotate(kit, key, rules)
            assert isinstance(rotated, Gone if restart else Live)
            assert (self.read(kit, last, rules) is not None) is restart

    def test_an_end_that_expects_a_stamp_follows_no_rotation(self, kit: StoreKit) -> None:
        rules = make_rules()
        for restart in (False, True):
            key = self.add(kit, rules, user=1)
            new, _ = self.rotate(kit, key, rules, user=1, restart=restart)
            answer = kit.store.end(key, new_stamp(), "logout", "a stamp")
            moved = Gone("rotated", has_tombstone=True, successor=new, user=user_tag(1))
            assert answer == moved
            assert self.read(kit, new, rules) is not None

    def test_an_unconditional_end_wins_over_any_commit(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        kit.store.commit(key, make_draft(), stamp, touch=0)
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Live)
        assert self.read(kit, key, rules) is None

    # -- rotate ---------------------------------------------------------------------------------

    def test_a_rotation_moves_the_session_and_leaves_a_tombstone(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.advance(MINUTE)
        old = self.record(kit, key, rules)
        new, answer = self.rotate(kit, key, rules, user=3, expected=old.stamps[0])
        record = self.live(answer).record
        assert (record.created, record.user) == (old.created, user_tag(3))
        assert self.read(kit, new, rules) == record
        moved = Gone("rotated", has_tombstone=True, successor=new, user=user_tag(3))
        assert kit.store.load(key, rules, slide=True) == moved
        assert self.holds(kit, 1, rules)

    def test_the_tombstone_of_a_rotation_has_the_new_key_and_its_user(self, kit: StoreKit) -> None:
        """After a sign-in, too: its parallel requests of that user join the new session."""
        rules = make_rules()
        for user, restart in ((None, False), (3, False), (3, True)):
            key = self.add(kit, rules)
            new, _ = self.rotate(kit, key, rules, user=user, restart=restart)
            tag = "" if user is None else user_tag(user)
            moved = Gone("rotated", has_tombstone=True, successor=new, user=tag)
            assert kit.store.load(key, rules, slide=False) == moved
            stamp = new_stamp()
            assert kit.store.commit(key, make_draft(), stamp, touch=0) == moved
            assert kit.store.refile(key, make_draft(), stamp) == moved
            assert self.rotate(kit, key, rules, expected=stamp)[1] == moved

    def test_a_rotation_for_another_reason_leads_nowhere(self, kit: StoreKit) -> None:
        rules, new = make_rules(), new_key()
        key = self.add(kit, rules)
        terms = Terms(None, restart=False, reason="logout")
        self.live(kit.store.rotate(key, new, make_draft(rules=rules), rules, terms))
        assert kit.store.load(key, rules, slide=True) == Gone("logout", has_tombstone=True)
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Gone)
        assert self.read(kit, new, rules) is not None

    def test_a_sign_in_for_another_reason_leads_on_and_no_end_follows_it(
        self, kit: StoreKit
    ) -> None:
        rules, new = make_rules(), new_key()
        key = self.add(kit, rules)
        draft, terms = make_draft(user=3, rules=rules), Terms(None, restart=True, reason="logout")
        self.live(kit.store.rotate(key, new, draft, rules, terms))
        moved = Gone("logout", has_tombstone=True, successor=new, user=user_tag(3))
        assert kit.store.load(key, rules, slide=True) == moved
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Gone)
        assert self.read(kit, new, rules) is not None

    def test_a_restart_starts_both_clocks_anew(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.advance(20 * MINUTE)
        new, _ = self.rotate(kit, key, rules, user=3, restart=True)
        kit.advance(29 * MINUTE)
        record = self.record(kit, new, rules)
        assert record.created == record.last_active

    def test_a_passive_rotation_does_not_slide(self, kit: StoreKit) -> None:
        rules = make_rules()
        key, new = self.add(kit, rules), new_key()
        kit.advance(20 * MINUTE)
        terms = Terms(None, restart=False, reason="rotated", slide=False)
        self.live(kit.store.rotate(key, new, make_draft(rules=rules), rules, terms))
        kit.advance(10 * MINUTE)
        assert self.read(kit, new, rules) is None

    def test_a_rotation_on_old_data_is_a_conflict(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        kit.store.commit(key, make_draft(b"theirs"), stamp, touch=0)
        new, answer = self.rotate(kit, key, rules, user=3, expected=stamp)
        assert isinstance(answer, Conflict)
        assert self.read(kit, new, rules) is None
        assert self.read(kit, key, rules) is not None

    def test_a_rotation_of_what_is_gone_makes_nothing(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        kit.store.end(key, new_stamp(), "logout", None)
        new, answer = self.rotate(kit, key, rules, user=3)
        assert answer == Gone("logout", has_tombstone=True)
        assert self.read(kit, new, rules) is None

    def test_of_two_rotations_at_once_one_wins(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.add(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        answers = together(4, lambda n: self.rotate(kit, key, rules, user=n, expected=stamp))
        assert sum(isinstance(answer, Live) for _, answer in answers) == 1
        assert sum(self.read(kit, new, rules) is not None for new, _ in answers) == 1
        assert self.holds(kit, 1, rules)

    def test_a_rotation_never_takes_a_key_in_use(self, kit: StoreKit) -> None:
        rules = make_rules()
        one, two = self.add(kit, rules, b"one"), self.add(kit, rules, b"two")
        draft = make_draft(b"new")
        answer = kit.store.rotate(one, two, draft, rules, Terms(None, restart=False, reason="x"))
        assert answer == Taken()
        assert self.record(kit, two, rules).payload == b"two"
        assert self.record(kit, one, rules).payload == b"one"
