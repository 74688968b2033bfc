"""The contract, part three: whose sessions are whose, for stores that know."""

from __future__ import annotations

import pytest

from ..errors import TooManySessions
from ..expiry import DEFAULT_TIER, Limits
from ..stores.base import Conflict, Gone, Live, Owning, Removed, Rules, Terms
from ..tokens import new_id, new_stamp, tier_tag, user_tag
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules, together

DEFAULT = tier_tag(DEFAULT_TIER)
ANN, BOB = user_tag("ann"), user_tag("bob")


class OwningContract(ContractBase):
    """Lists and ends of users' sessions, ends that are told, and renewed keys."""

    # -- lists ----------------------------------------------------------------------------------

    def test_a_users_sessions_are_listed_newest_first(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        keys = []
        for _ in range(3):
            keys.append(self.sign_in(kit, rules, payload=b"p" * 2000))
            kit.advance(MINUTE)
        self.sign_in(kit, rules, "bob")
        self.add(kit, rules)
        listed = store.sessions_of(ANN)
        assert [one.key for one in listed] == keys[::-1]
        assert {len(one.record.payload) for one in listed} == {512 - 88}
        assert all(one.record.user == ANN for one in listed)

    def test_what_is_due_is_not_listed(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        self.sign_in(kit, rules)
        kit.advance(30 * MINUTE)
        assert store.sessions_of(ANN) == []
        assert store.page(DEFAULT_TIER, "", 10).sessions == ()
        assert store.end_user(ANN, new_stamp(), "revoked", "") == []

    def test_pages_show_every_session_once(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        keys = [self.sign_in(kit, rules, f"user {n}") for n in range(7)]
        strangers = [self.add(kit, rules) for _ in range(3)]
        assert sorted(self.walk(store, DEFAULT_TIER, 2)) == sorted(keys)
        assert sorted(self.walk(store, "anonymous", 2)) == sorted(strangers)
        assert self.walk(store, "no such tier", 2) == []

    # -- ends -----------------------------------------------------------------------------------

    def test_all_sessions_of_a_user_end_at_once_but_for_one(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        keys = [self.sign_in(kit, rules) for _ in range(4)]
        others = [self.sign_in(kit, rules, "bob"), self.add(kit, rules)]
        ended = store.end_user(ANN, new_stamp(), "revoked", keys[1])
        assert {one.key for one in ended} == {keys[0], keys[2], keys[3]}
        assert [one.key for one in store.sessions_of(ANN)] == [keys[1]]
        assert all(self.look(kit, key, rules) for key in others)
        assert kit.store.load(keys[0], rules, slide=True) == Gone("revoked", buried=True)
        assert store.end_user(ANN, new_stamp(), "revoked", "")[0].key == keys[1]

    def test_the_one_that_stays_stays_also_under_its_next_key(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        key = self.sign_in(kit, rules)
        other = self.sign_in(kit, rules)
        new = new_id(ANN[:1]).key
        draft = make_draft(rules=rules, user="ann")
        kit.store.rotate(key, new, draft, rules, Terms(None, False, "rotated"))
        assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", key)] == [other]
        assert self.look(kit, new, rules)

    def test_an_end_of_all_beats_a_save_that_is_in_flight(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        key = self.sign_in(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        store.end_user(ANN, new_stamp(), "revoked", "")
        draft = make_draft(rules=rules, user="ann")
        assert isinstance(kit.store.commit(key, draft, stamp, slide=True), Gone)
        assert store.sessions_of(ANN) == []

    def test_a_login_that_races_with_the_end_of_all_is_whole(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()

        def act(number: int) -> object:
            if number % 2:
                return store.end_user(ANN, new_stamp(), "revoked", "")
            return self.sign_in(kit, rules)

        keys = [key for key in together(8, act) if isinstance(key, str)]
        listed = {one.key for one in store.sessions_of(ANN)}
        assert {key for key in keys if self.look(kit, key, rules)} == listed
        assert kit.store.census(rules).total == len(listed)

    def test_everything_there_is_ends_in_one_step(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        ann, stranger = self.sign_in(kit, rules), self.add(kit, rules)
        stamp = self.record(kit, ann, rules).stamps[0]
        kit.advance(1)
        store.end_all(new_stamp())
        assert kit.store.census(rules).total == 0
        assert store.sessions_of(ANN) == []
        draft = make_draft(rules=rules, user="ann")
        assert isinstance(kit.store.commit(ann, draft, stamp, slide=True), Gone)
        answer = kit.store.load(ann, rules, slide=True)
        assert isinstance(answer, Gone)
        assert (answer.reason, answer.told) == ("revoked", True)
        assert self.look(kit, stranger, rules) is None
        later = self.sign_in(kit, rules)
        assert self.look(kit, later, rules)
        assert [one.key for one in store.sessions_of(ANN)] == [later]

    def test_what_ended_at_once_is_purged_in_steps(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        keys = {self.sign_in(kit, rules, f"user {n}") for n in range(5)}
        keys |= {self.add(kit, rules) for _ in range(4)}
        kit.advance(1)
        store.end_all(new_stamp())
        later = self.sign_in(kit, rules)
        removed: list[Removed] = []
        for _ in range(9):
            step = kit.store.purge(rules, 2)
            removed += step.removed
        assert {gone.key for gone in removed} == keys
        assert {gone.reason for gone in removed} == {"revoked"}
        assert self.look(kit, later, rules)
        assert kit.store.purge(rules, 10).removed == ()

    # -- how it ended ---------------------------------------------------------------------------

    def test_how_a_users_session_ended_is_told_for_a_day(self, kit: StoreKit) -> None:
        self.owning(kit)
        rules = make_rules(per_user=1)
        evicted, newer = self.sign_in(kit, rules), self.sign_in(kit, rules)
        assert kit.store.load(evicted, rules, slide=True) == Gone("evicted", told=True)
        kit.advance(30 * MINUTE)
        kit.store.purge(rules, 100)
        for _ in range(2):
            assert kit.store.load(newer, rules, slide=True) == Gone("idle", told=True)
        kit.advance(24 * 60 * MINUTE + kit.tolerance)
        assert kit.store.load(newer, rules, slide=True) == Gone("unknown")

    def test_how_a_strangers_session_ended_is_never_told(self, kit: StoreKit) -> None:
        self.owning(kit)
        rules = make_rules()
        purged, found, revoked = (self.add(kit, rules) for _ in range(3))
        kit.store.end(revoked, new_stamp(), "revoked", None)
        answer = kit.store.load(revoked, rules, slide=True)
        assert isinstance(answer, Gone)
        assert answer.to_be_told is None
        kit.advance(30 * MINUTE)
        answer = kit.store.load(found, rules, slide=True)
        assert isinstance(answer, Gone)
        assert answer.to_be_told is None
        kit.store.purge(rules, 100)
        for key in (purged, found, revoked):
            assert kit.store.load(key, rules, slide=True) == Gone("unknown")

    # -- a user's cap ---------------------------------------------------------------------------

    def test_a_user_who_has_enough_is_refused_if_the_rules_say_so(self, kit: StoreKit) -> None:
        self.owning(kit)
        rules = make_rules(per_user=2)
        rules = rules._replace(cap=rules.cap._replace(refuse=True))
        keys = [self.sign_in(kit, rules) for _ in range(2)]
        stranger = self.add(kit, rules)
        draft = make_draft(rules=rules, user="ann")
        with pytest.raises(TooManySessions):
            kit.store.create(new_id(ANN[:1]).key, draft, rules)
        with pytest.raises(TooManySessions):
            kit.store.rotate(
                stranger, new_id(ANN[:1]).key, draft, rules, Terms(None, True, "rotated")
            )
        assert all(self.look(kit, key, rules) for key in (*keys, stranger))
        self.sign_in(kit, rules, "bob")
        kit.store.end(keys[0], new_stamp(), "logout", None)
        self.sign_in(kit, rules)

    def test_of_logins_at_once_no_more_get_in_than_may(self, kit: StoreKit) -> None:
        self.owning(kit)
        rules = make_rules(per_user=3)
        rules = rules._replace(cap=rules.cap._replace(refuse=True))

        def attempt(_: int) -> bool:
            try:
                return bool(self.sign_in(kit, rules))
            except TooManySessions:
                return False

        assert sum(together(8, attempt)) == 3

    def test_each_tier_may_have_a_number_of_its_own(self, kit: StoreKit) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        self.owning(kit)
        rules = make_rules(tiers={"admin": long})
        rules = rules._replace(cap=rules.cap._replace(per_user=2, per_tier={"admin": 1}))
        plain = []
        first = self.sign_in(kit, rules, tier="admin")
        for _ in range(2):
            plain.append(self.sign_in(kit, rules))
            kit.advance(1000)
        second = self.sign_in(kit, rules, tier="admin")
        assert self.look(kit, first, rules) is None
        assert all(self.look(kit, key, rules) for key in (*plain, second))
        third = self.sign_in(kit, rules)
        assert self.look(kit, plain[0], rules) is None
        assert all(self.look(kit, key, rules) for key in (plain[1], second, third))

    # -- renewed keys ---------------------------------------------------------------------------

    def test_a_renewed_key_leads_to_the_session_during_its_grace(self, kit: StoreKit) -> None:
        rules = make_rules()
        key, new = self.renewed(kit, rules)
        kit.advance(9_000)
        answer = self.live(kit.store.load(key, rules, slide=True))
        assert answer.key == new
        assert answer.record == self.record(kit, new, rules)
        kit.store.end(key, new_stamp(), "logout", None)
        assert self.look(kit, new, rules) is None

    def test_a_look_changes_nothing(self, kit: StoreKit) -> None:
        store, rules = self.owning(kit), make_rules()
        key, new = self.renewed(kit, rules)
        before = self.record(kit, new, rules)
        kit.advance(10_001)
        for asked in (key, new):
            looked = store.look(asked)
            assert looked is not None
            assert (looked.key, looked.record.payload) == (new, before.payload)
        kit.advance(30 * MINUTE)
        assert store.look(new) is None
        assert kit.store.purge(rules, 10).due == 1

    def test_a_renewed_key_that_comes_back_later_ends_the_session(self, kit: StoreKit) -> None:
        rules = make_rules()
        key, new = self.renewed(kit, rules)
        kit.advance(10_001)
        assert self.look(kit, new, rules)
        answer = kit.store.load(key, rules, slide=True)
        assert isinstance(answer, Gone)
        assert (answer.reason, answer.buried, answer.key) == ("replayed", True, new)
        for ended in (key, new):
            answer = kit.store.load(ended, rules, slide=True)
            assert isinstance(answer, Gone)
            assert (answer.reason, answer.key) == ("replayed", "")
        assert kit.store.census(rules).total == 0

    def test_a_write_under_a_renewed_key_is_told_to_go_on(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.sign_in(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        _, new = self.renewed(kit, rules, key)
        kit.advance(MINUTE)  # however late: it began before the key was renewed
        draft = make_draft(rules=rules, user="ann")
        told = Gone("renewed", buried=True, successor=new)
        assert kit.store.commit(key, draft, stamp, slide=True) == told
        terms = Terms(stamp, False, "renewed", grace=10_000)
        assert kit.store.rotate(key, new_id(ANN[:1]).key, draft, rules, terms) == told
        assert kit.store.end(key, new_stamp(), "emptied", stamp) == told
        assert isinstance(kit.store.commit(new, draft, stamp, slide=True), Conflict)

    def test_of_two_renewals_at_once_one_is_done(self, kit: StoreKit) -> None:
        rules = make_rules()
        key = self.sign_in(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        draft = [make_draft(rules=rules, user="ann") for _ in range(4)]
        terms = Terms(stamp, False, "renewed", grace=10_000)

        def renew(number: int) -> bool:
            new = new_id(ANN[:1]).key
            return isinstance(kit.store.rotate(key, new, draft[number], rules, terms), Live)

        assert sum(together(4, renew)) == 1
        assert kit.store.census(rules).total == 1

    # -- ends of all, and caps ------------------------------------------------------------------

    def test_caps_hold_after_an_end_of_all(self, kit: StoreKit) -> None:
        rules = make_rules(total=10, per_user=2)
        for _ in range(2):
            self.sign_in(kit, rules)
        self.owning(kit).end_all(new_stamp())
        for number in range(10):
            self.sign_in(kit, rules, f"user {number}")
            assert kit.store.census(rules).total <= 10
        self.sign_in(kit, rules)
        assert kit.store.census(rules).total <= 10

    def test_an_end_of_all_that_was_noticed_is_not_told_again_by_the_purge(
        self, kit: StoreKit
    ) -> None:
        rules = make_rules()
        keys = [self.sign_in(kit, rules, f"user {number}") for number in range(5)]
        self.owning(kit).end_all(new_stamp())
        assert kit.store.load(keys[2], rules, slide=True) == Gone(
            "revoked", tier=DEFAULT, told=True
        )
        told = []
        for _ in range(10):
            step = kit.store.purge(rules, 2)
            assert len(step.removed) <= 2
            told += [removed.key for removed in step.removed]
            if not step.more:
                break
        assert sorted(told) == sorted(set(keys) - {keys[2]})

    # -- help -----------------------------------------------------------------------------------

    def owning(self, kit: StoreKit) -> Owning:
        """The store, if it knows whose sessions are whose."""
        if not isinstance(kit.store, Owning):
            pytest.skip("the store does not know whose sessions are whose")
        return kit.store

    def sign_in(
        self,
        kit: StoreKit,
        rules: Rules,
        user: str = "ann",
        *,
        tier: str = DEFAULT_TIER,
        payload: bytes = b"data",
    ) -> str:
        """Create a session of *user*, where a user's sessions are; its key."""
        draft = make_draft(payload, rules=rules, user=user, tier=tier)
        key = new_id(draft.user[:1]).key
        self.live(kit.store.create(key, draft, rules))
        return key

    def renewed(self, kit: StoreKit, rules: Rules, key: str = "") -> tuple[str, str]:
        """A session whose key was renewed with ten seconds of grace: the old and the new one."""
        self.owning(kit)
        key, new = key or self.sign_in(kit, rules), new_id(ANN[:1]).key
        terms = Terms(None, False, "renewed", grace=10_000)
        draft = make_draft(rules=rules, user="ann")
        self.live(kit.store.rotate(key, new, draft, rules, terms))
        return key, new

    def walk(self, store: Owning, tier: str, limit: int) -> list[str]:
        """The keys of all pages."""
        found: list[str] = []
        after = ""
        while True:
            page = store.page(tier, after, limit)
            assert len(page.sessions) <= limit
            found += [one.key for one in page.sessions]
            after = page.next
            if not after:
                return found
