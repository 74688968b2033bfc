"""The contract: a session is filed anew, ends, or continues under another key."""

from __future__ import annotations

from ..model.policy import Limits
from ..model.tokens import new_stamp, tier_tag, user_tag
from ..stores.base import Conflict, Gone, Live, Taken, Terms
from .base import RULES, ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules, new_key, together


class MovesContract(ContractBase):
    """Refile, end and rotate."""

    # -- refile ---------------------------------------------------------------------------------

    def test_a_refiled_session_keeps_all_but_tier_user_and_limits(self, kit: StoreKit) -> None:
        tiers = {"short": Limits(10 * MINUTE, 60 * MINUTE, 0)}
        rules, draft = make_rules(tiers=tiers), make_draft(b"data", note=b"note")
        key = self.key_of(7)
        self.live(kit.store.create(key, draft, rules))
        kit.advance(MINUTE)
        self.slide(kit, key, rules)
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
        key = self.key_of(7)
        self.create(kit, key, user=7)
        stamp = self.record(kit, key).stamps[0]
        after = self.live(kit.store.refile(key, make_draft(), stamp)).record
        assert after.user == ""
        assert kit.index.count(RULES).live["anonymous"] == 1

    def test_a_refiling_on_old_data_is_a_conflict(self, kit: StoreKit) -> None:
        key = self.key_of(7)
        self.create(kit, key)
        stamp = self.record(kit, key).stamps[0]
        theirs = self.commit(kit, key)
        assert kit.store.refile(key, make_draft(user=7), stamp) == Conflict(theirs)
        assert self.record(kit, key) == theirs

    def test_a_refiling_brings_nothing_back(self, kit: StoreKit) -> None:
        ended, idle = self.key_of(7), self.key_of(7)
        for key in (ended, idle):
            self.create(kit, key)
        stamps = {key: self.record(kit, key).stamps[0] for key in (ended, idle)}
        kit.store.end(ended, new_stamp(), "logout", None)
        draft = make_draft(user=7)
        assert kit.store.refile(ended, draft, stamps[ended]) == Gone("logout", has_tombstone=True)
        kit.advance(30 * MINUTE)
        assert self.gone(kit.store.refile(idle, draft, stamps[idle])).reason == "idle"
        assert kit.store.refile(self.key_of(7), draft, new_stamp()) == Gone("unknown")
        assert self.holds(kit, 0)

    def test_a_refiling_under_limits_that_it_is_over_ends_the_session(self, kit: StoreKit) -> None:
        key = self.key_of(7)
        self.create(kit, key)
        kit.advance(11 * MINUTE)
        stamp = self.record(kit, key).stamps[0]
        draft = make_draft(rules=make_rules(idle=10 * MINUTE), user=7)
        assert self.gone(kit.store.refile(key, draft, stamp)).reason == "idle"
        assert self.holds(kit, 0)

    def test_what_cannot_be_refiled_here_stays_as_it_is(self, kit: StoreKit) -> None:
        """All sessions of a user are in one shard."""
        for _ in range(8):
            key = self.add(kit)
            before = self.record(kit, key)
            answer = kit.store.refile(key, make_draft(user=7), before.stamps[0])
            if answer is None:
                assert self.record(kit, key) == before
            else:
                assert self.live(answer).record.user == user_tag(7)

    # -- end ------------------------------------------------------------------------------------

    def test_what_ended_stays_ended_and_its_reason_is_known(self, kit: StoreKit) -> None:
        key = self.add(kit, user=1)
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Live)
        assert kit.store.load(key, RULES, slide=True) == Gone("logout", has_tombstone=True)
        assert not self.gone(kit.store.end(key, new_stamp(), "logout", None)).repeated
        assert self.holds(kit, 0)

    def test_an_end_that_expects_a_stamp_gives_way_to_a_commit(self, kit: StoreKit) -> None:
        key = self.add(kit)
        stamp = self.record(kit, key).stamps[0]
        kit.store.commit(key, make_draft(b"theirs"), stamp, touch=0)
        answer = kit.store.end(key, new_stamp(), "logout", stamp)
        assert self.conflict(answer).payload == b"theirs"
        assert self.read(kit, key) is not None

    def test_an_end_follows_a_session_that_was_rotated_and_not_a_login(self, kit: StoreKit) -> None:
        for restart in (False, True):
            key = self.add(kit, user=1)
            middle, _ = self.rotate(kit, key, user=1)
            last, _ = self.rotate(kit, middle, user=1, restart=restart)
            answer = kit.store.end(key, new_stamp(), "logout", None)
            assert isinstance(answer, Gone if restart else Live)
            assert (self.read(kit, last) is not None) is restart
        for restart in (False, True):
            key = self.add(kit, user=1)
            last, _ = self.rotate(kit, key, user=1, restart=restart)
            _, rotated = self.rotate(kit, key)
            assert isinstance(rotated, Gone if restart else Live)
            assert (self.read(kit, last) is not None) is restart

    def test_an_end_that_expects_a_stamp_follows_no_rotation(self, kit: StoreKit) -> None:
        for restart in (False, True):
            key = self.add(kit, user=1)
            new, _ = self.rotate(kit, key, user=1, restart=restart)
            answer = kit.store.end(key, new_stamp(), "logout", "a stamp")
            moved = Gone("rotated", has_tombstone=True, successor=new, user=user_tag(1))
            assert answer == moved
            assert self.read(kit, new) is not None

    def test_an_unconditional_end_wins_over_any_commit(self, kit: StoreKit) -> None:
        key = self.add(kit)
        stamp = self.record(kit, key).stamps[0]
        kit.store.commit(key, make_draft(), stamp, touch=0)
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Live)
        assert self.read(kit, key) is None

    # -- rotate ---------------------------------------------------------------------------------

    def test_a_rotation_moves_the_session_and_leaves_a_tombstone(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.advance(MINUTE)
        old = self.record(kit, key)
        new, answer = self.rotate(kit, key, user=3, expected=old.stamps[0])
        record = self.live(answer).record
        assert (record.created, record.user) == (old.created, user_tag(3))
        assert self.read(kit, new) == record
        moved = Gone("rotated", has_tombstone=True, successor=new, user=user_tag(3))
        assert kit.store.load(key, RULES, slide=True) == moved
        assert self.holds(kit, 1)

    def test_the_tombstone_of_a_rotation_has_the_new_key_and_its_user(self, kit: StoreKit) -> None:
        """After a sign-in, too: its parallel requests of that user join the new session."""
        for user, restart in ((None, False), (3, False), (3, True)):
            key = self.add(kit)
            new, _ = self.rotate(kit, key, user=user, restart=restart)
            tag = "" if user is None else user_tag(user)
            moved = Gone("rotated", has_tombstone=True, successor=new, user=tag)
            assert kit.store.load(key, RULES, slide=False) == moved
            stamp = new_stamp()
            assert kit.store.commit(key, make_draft(), stamp, touch=0) == moved
            assert kit.store.refile(key, make_draft(), stamp) == moved
            assert self.rotate(kit, key, expected=stamp)[1] == moved

    def test_a_rotation_for_another_reason_leads_nowhere(self, kit: StoreKit) -> None:
        key = self.add(kit)
        new, answer = self.rotate(kit, key, reason="logout")
        self.live(answer)
        assert kit.store.load(key, RULES, slide=True) == Gone("logout", has_tombstone=True)
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Gone)
        assert self.read(kit, new) is not None

    def test_a_sign_in_for_another_reason_leads_on_and_no_end_follows_it(
        self, kit: StoreKit
    ) -> None:
        key = self.add(kit)
        new, answer = self.rotate(kit, key, user=3, restart=True, reason="logout")
        self.live(answer)
        moved = Gone("logout", has_tombstone=True, successor=new, user=user_tag(3))
        assert kit.store.load(key, RULES, slide=True) == moved
        assert isinstance(kit.store.end(key, new_stamp(), "logout", None), Gone)
        assert self.read(kit, new) is not None

    def test_a_restart_starts_both_clocks_anew(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.advance(20 * MINUTE)
        new, _ = self.rotate(kit, key, user=3, restart=True)
        kit.advance(29 * MINUTE)
        record = self.record(kit, new)
        assert record.created == record.last_active

    def test_a_passive_rotation_does_not_slide(self, kit: StoreKit) -> None:
        key, new = self.add(kit), new_key()
        kit.advance(20 * MINUTE)
        terms = Terms(None, restart=False, reason="rotated", slide=False)
        self.live(kit.store.rotate(key, new, make_draft(), RULES, terms))
        kit.advance(10 * MINUTE)
        assert self.read(kit, new) is None

    def test_a_rotation_on_old_data_is_a_conflict(self, kit: StoreKit) -> None:
        key = self.add(kit)
        stamp = self.record(kit, key).stamps[0]
        kit.store.commit(key, make_draft(b"theirs"), stamp, touch=0)
        new, answer = self.rotate(kit, key, user=3, expected=stamp)
        assert isinstance(answer, Conflict)
        assert self.read(kit, new) is None
        assert self.read(kit, key) is not None

    def test_a_rotation_of_what_is_gone_makes_nothing(self, kit: StoreKit) -> None:
        key = self.add(kit)
        kit.store.end(key, new_stamp(), "logout", None)
        new, answer = self.rotate(kit, key, user=3)
        assert answer == Gone("logout", has_tombstone=True)
        assert self.read(kit, new) is None

    def test_of_two_rotations_at_once_one_wins(self, kit: StoreKit) -> None:
        key = self.add(kit)
        stamp = self.record(kit, key).stamps[0]
        answers = together(4, lambda n: self.rotate(kit, key, user=n, expected=stamp))
        assert sum(isinstance(answer, Live) for _, answer in answers) == 1
        assert sum(self.read(kit, new) is not None for new, _ in answers) == 1
        assert self.holds(kit, 1)

    def test_a_rotation_never_takes_a_key_in_use(self, kit: StoreKit) -> None:
        one, two = self.add(kit, payload=b"one"), self.add(kit, payload=b"two")
        draft = make_draft(b"new")
        answer = kit.store.rotate(one, two, draft, RULES, Terms(None, restart=False, reason="x"))
        assert answer == Taken()
        assert self.record(kit, two).payload == b"two"
        assert self.record(kit, one).payload == b"one"
