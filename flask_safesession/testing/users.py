"""The contract: the sessions of one user, for stores that can list them."""

from __future__ import annotations

import pytest

from ..errors import TooManySessions
from ..model.policy import DEFAULT_TIER, Limits
from ..model.tokens import new_stamp, user_tag
from ..stores.base import LISTED, Gone, Rules, Terms
from .base import RULES, ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules, together

ANN = user_tag("ann")


class UsersContract(ContractBase):
    """Lists and ends of users' sessions, and reasons for the visitor."""

    # -- lists ----------------------------------------------------------------------------------

    def test_a_users_sessions_are_listed_newest_first(self, kit: StoreKit) -> None:
        store = kit.users
        keys = []
        for _ in range(3):
            keys.append(self.add(kit, user="ann", payload=b"p" * 2000))
            kit.advance(MINUTE)
        self.add(kit, user="bob")
        self.add(kit)
        listed = store.sessions_of(ANN)
        assert [one.key for one in listed] == keys[::-1]
        assert {len(one.record.payload) for one in listed} == {LISTED - 96}
        assert all(one.record.user == ANN for one in listed)

    def test_lists_have_the_note_without_the_payload(self, kit: StoreKit) -> None:
        store = kit.index
        draft = make_draft(b"p" * 2000, user="ann", note=b"n" * 900)
        key = self.key_of("ann")
        self.live(kit.store.create(key, draft, RULES))
        shown = [
            store.peek(key),
            *store.sessions_of(ANN),
            *store.page(DEFAULT_TIER, "", 9).sessions,
        ]
        assert [one.record.note if one else None for one in shown] == [draft.note] * 3

    def test_a_refiled_session_is_listed_as_its_new_users(self, kit: StoreKit) -> None:
        store, key = kit.users, self.key_of("ann")
        self.create(kit, key)
        assert store.sessions_of(ANN) == []
        stamp = self.record(kit, key).stamps[0]
        self.live(kit.store.refile(key, make_draft(user="ann"), stamp))
        assert [one.key for one in store.sessions_of(ANN)] == [key]
        assert self.walk(kit.index, "anonymous", 2) == []
        assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", "")] == [key]
        assert self.read(kit, key) is None

    def test_what_is_due_is_not_listed(self, kit: StoreKit) -> None:
        store = kit.index
        self.add(kit, user="ann")
        kit.advance(30 * MINUTE)
        assert store.sessions_of(ANN) == []
        assert store.page(DEFAULT_TIER, "", 10).sessions == ()
        assert store.end_user(ANN, new_stamp(), "revoked", "") == []

    def test_pages_show_every_session_once(self, kit: StoreKit) -> None:
        store = kit.index
        keys = [self.add(kit, user=f"user {n}") for n in range(7)]
        anonymous = [self.add(kit) for _ in range(3)]
        assert sorted(self.walk(store, DEFAULT_TIER, 2)) == sorted(keys)
        assert sorted(self.walk(store, "anonymous", 2)) == sorted(anonymous)
        assert self.walk(store, "no such tier", 2) == []

    def test_a_page_can_begin_at_a_deadline(self, kit: StoreKit) -> None:
        store = kit.index
        keys = []
        for _ in range(3):
            keys.append(self.add(kit, user="ann"))
            kit.advance(MINUTE)
        listed = store.page(DEFAULT_TIER, "", 9).sessions
        assert [one.key for one in listed] == keys[::-1]
        last, middle, _ = (one.record.deadline for one in listed)
        for before, expected in ((last + 1, keys), (last, keys[:2]), (middle, keys[:1])):
            page = store.page(DEFAULT_TIER, "", 9, before)
            assert sorted(one.key for one in page.sessions) == sorted(expected)

    # -- ends -----------------------------------------------------------------------------------

    def test_all_sessions_of_a_user_end_at_once_but_for_one(self, kit: StoreKit) -> None:
        store = kit.users
        keys = [self.add(kit, user="ann") for _ in range(4)]
        others = [self.add(kit, user="bob"), self.add(kit)]
        ended = store.end_user(ANN, new_stamp(), "revoked", keys[1])
        assert {one.key for one in ended} == {keys[0], keys[2], keys[3]}
        assert [one.key for one in store.sessions_of(ANN)] == [keys[1]]
        assert all(self.read(kit, key) for key in others)
        assert kit.store.load(keys[0], RULES, slide=True) == Gone("revoked", has_tombstone=True)
        assert store.end_user(ANN, new_stamp(), "revoked", "")[0].key == keys[1]

    def test_the_one_that_stays_stays_also_under_its_next_key(self, kit: StoreKit) -> None:
        store = kit.users
        key, other = self.add(kit, user="ann"), self.add(kit, user="ann")
        new = self.moved(kit, key, restart=False)
        assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", key)] == [other]
        assert self.read(kit, new)

    def test_the_one_that_stays_does_not_stay_under_the_key_of_a_sign_in(
        self, kit: StoreKit
    ) -> None:
        store = kit.users
        key = self.add(kit, user="ann")
        new = self.moved(kit, key, restart=True)
        assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", key)] == [new]

    def test_an_end_of_all_beats_a_save_that_is_in_flight(self, kit: StoreKit) -> None:
        store = kit.users
        key = self.add(kit, user="ann")
        stamp = self.record(kit, key).stamps[0]
        store.end_user(ANN, new_stamp(), "revoked", "")
        draft = make_draft(user="ann")
        assert isinstance(kit.store.commit(key, draft, stamp, touch=0), Gone)
        assert store.sessions_of(ANN) == []

    def test_a_login_that_races_with_the_end_of_all_is_whole(self, kit: StoreKit) -> None:
        store = kit.users

        def act(number: int) -> object:
            if number % 2:
                return store.end_user(ANN, new_stamp(), "revoked", "")
            return self.add(kit, user="ann")

        keys = [key for key in together(8, act) if isinstance(key, str)]
        listed = {one.key for one in store.sessions_of(ANN)}
        assert {key for key in keys if self.read(kit, key)} == listed
        assert kit.index.count(RULES).total == len(listed)

    # -- reasons for the visitor ----------------------------------------------------------------

    def test_why_a_users_session_ended_is_shown_for_a_day(self, kit: StoreKit) -> None:
        _ = kit.users
        rules = make_rules(per_user=1)
        evicted, newer = self.add(kit, rules, user="ann"), self.add(kit, rules, user="ann")
        assert kit.store.load(evicted, rules, slide=True) == Gone("evicted", for_visitor=True)
        kit.advance(30 * MINUTE)
        kit.index.purge(rules, 100)
        for _ in range(2):
            assert kit.store.load(newer, rules, slide=True) == Gone("idle", for_visitor=True)
        kit.advance(24 * 60 * MINUTE + kit.tolerance)
        assert kit.store.load(newer, rules, slide=True) == Gone("unknown")

    def test_why_an_anonymous_session_ended_is_never_shown(self, kit: StoreKit) -> None:
        _ = kit.users
        purged, found, revoked = (self.add(kit) for _ in range(3))
        kit.store.end(revoked, new_stamp(), "revoked", None)
        assert self.gone(kit.store.load(revoked, RULES, slide=True)).reason_for_visitor is None
        kit.advance(30 * MINUTE)
        assert self.gone(kit.store.load(found, RULES, slide=True)).reason_for_visitor is None
        kit.index.purge(RULES, 100)
        for key in (purged, found, revoked):
            assert kit.store.load(key, RULES, slide=True) == Gone("unknown")

    def test_one_user_pushes_out_no_tombstones_and_reasons_of_others(self, kit: StoreKit) -> None:
        """A store keeps at most a hundred tombstones of one user, and as many reasons."""
        _ = kit.users
        rules = make_rules(per_user=1)
        evicted = self.add(kit, rules, user="bob")
        revoked = self.add(kit, rules, user="bob")
        kit.store.end(revoked, new_stamp(), "revoked", None)
        keys, ended = [], []
        for _ in range(110):
            keys.append(self.add(kit, rules, user="ann"))
            ended.append(self.add(kit, rules, user="eve"))
            kit.store.end(ended[-1], new_stamp(), "revoked", None)
        assert self.reasons(kit, keys, rules).count("evicted") <= 100
        assert self.reasons(kit, ended, rules).count("revoked") <= 100
        assert self.reasons(kit, [keys[-2]], rules) == ["evicted"]
        assert self.reasons(kit, [ended[-1]], rules) == ["revoked"]
        assert self.reasons(kit, [evicted, revoked], rules) == ["evicted", "revoked"]
        assert kit.store.load(revoked, rules, slide=True) == Gone("revoked", has_tombstone=True)
        kit.advance(2 * MINUTE)  # the tombstones are gone, the reasons are not
        assert self.reasons(kit, ended, rules).count("revoked") <= 100
        expected = ["revoked", "evicted", "revoked"]
        assert self.reasons(kit, [ended[-1], evicted, revoked], rules) == expected

    # -- a user's cap ---------------------------------------------------------------------------

    def test_a_user_at_the_cap_is_refused_if_the_rules_say_so(self, kit: StoreKit) -> None:
        _ = kit.users
        rules = make_rules(per_user=2)
        rules = rules._replace(cap=rules.cap._replace(refuse=True))
        keys = [self.add(kit, rules, user="ann") for _ in range(2)]
        anonymous = self.add(kit, rules)
        draft = make_draft(rules=rules, user="ann")
        with pytest.raises(TooManySessions):
            kit.store.create(self.key_of("ann"), draft, rules)
        with pytest.raises(TooManySessions):
            kit.store.rotate(
                anonymous, self.key_of("ann"), draft, rules, Terms(None, True, "rotated")
            )
        assert all(self.read(kit, key, rules) for key in (*keys, anonymous))
        self.add(kit, rules, user="bob")
        kit.store.end(keys[0], new_stamp(), "logout", None)
        self.add(kit, rules, user="ann")

    def test_of_logins_at_once_no_more_succeed_than_the_cap_allows(self, kit: StoreKit) -> None:
        _ = kit.users
        rules = make_rules(per_user=3)
        rules = rules._replace(cap=rules.cap._replace(refuse=True))

        def attempt(_: int) -> bool:
            try:
                return bool(self.add(kit, rules, user="ann"))
            except TooManySessions:
                return False

        assert sum(together(8, attempt)) == 3

    def test_each_tier_may_have_its_own_cap(self, kit: StoreKit) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        _ = kit.users
        rules = make_rules(tiers={"admin": long})
        rules = rules._replace(cap=rules.cap._replace(per_user=2, per_tier={"admin": 1}))
        plain = []
        first = self.add(kit, rules, user="ann", tier="admin")
        for _ in range(2):
            plain.append(self.add(kit, rules, user="ann"))
            kit.advance(1000)
        second = self.add(kit, rules, user="ann", tier="admin")
        assert self.read(kit, first, rules) is None
        assert all(self.read(kit, key, rules) for key in (*plain, second))
        third = self.add(kit, rules, user="ann")
        assert self.read(kit, plain[0], rules) is None
        assert all(self.read(kit, key, rules) for key in (plain[1], second, third))

    # -- peek -----------------------------------------------------------------------------------

    def test_a_peek_changes_nothing(self, kit: StoreKit) -> None:
        store = kit.users
        key = self.add(kit, user="ann")
        kit.advance(MINUTE)
        self.record(kit, key)
        peeked = store.peek(key)
        assert peeked is not None
        assert (peeked.key, peeked.record) == (key, self.record(kit, key))
        assert not peeked.record.is_used
        kit.advance(29 * MINUTE)
        assert store.peek(key) is None
        assert kit.index.purge(RULES, 10).due == 1

    def test_a_peek_follows_a_rotation_but_not_a_sign_in(self, kit: StoreKit) -> None:
        store = kit.users
        for restart in (False, True):
            key = self.add(kit, user="ann")
            new = self.moved(kit, key, restart=restart)
            peeked = store.peek(key)
            assert (peeked.key if peeked else None) == (None if restart else new)

    # -- help -----------------------------------------------------------------------------------

    def reasons(self, kit: StoreKit, keys: list[str], rules: Rules) -> list[str]:
        """Returns why these sessions ended, without those that are live."""
        answers = [kit.store.load(key, rules, slide=False) for key in keys]
        return [answer.reason for answer in answers if isinstance(answer, Gone)]
