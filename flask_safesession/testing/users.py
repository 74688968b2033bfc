"""The contract, part three: the sessions of one user, for stores that can list them."""

from __future__ import annotations

import pytest

from ..errors import TooManySessions
from ..model.policy import DEFAULT_TIER, Limits
from ..model.tokens import new_stamp, tier_tag, user_tag
from ..stores.base import LISTED, Gone, IndexedStore, Removed, Rules, Terms
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_draft, make_rules, together

DEFAULT = tier_tag(DEFAULT_TIER)
ANN, BOB = user_tag("ann"), user_tag("bob")


class UsersContract(ContractBase):
    """Lists and ends of users' sessions, and reasons for the visitor."""

    # -- lists ----------------------------------------------------------------------------------

    def test_a_users_sessions_are_listed_newest_first(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        keys = []
        for _ in range(3):
            keys.append(self.sign_in(kit, rules, payload=b"p" * 2000))
            kit.advance(MINUTE)
        self.sign_in(kit, rules, "bob")
        self.add(kit, rules)
        listed = store.sessions_of(ANN)
        assert [one.key for one in listed] == keys[::-1]
        assert {len(one.record.payload) for one in listed} == {LISTED - 96}
        assert all(one.record.user == ANN for one in listed)

    def test_lists_have_the_note_without_the_payload(self, kit: StoreKit) -> None:
        store, rules = kit.index, make_rules()
        draft = make_draft(b"p" * 2000, rules=rules, user="ann", note=b"n" * 900)
        key = self.key_of("ann")
        self.live(kit.store.create(key, draft, rules))
        shown = [
            store.peek(key),
            *store.sessions_of(ANN),
            *store.page(DEFAULT_TIER, "", 9).sessions,
        ]
        assert [one.record.note if one else None for one in shown] == [draft.note] * 3

    def test_a_refiled_session_is_listed_as_its_new_users(self, kit: StoreKit) -> None:
        store, rules, key = kit.users, make_rules(), self.key_of("ann")
        self.live(kit.store.create(key, make_draft(rules=rules), rules))
        assert store.sessions_of(ANN) == []
        stamp = self.record(kit, key, rules).stamps[0]
        self.live(kit.store.refile(key, make_draft(rules=rules, user="ann"), stamp))
        assert [one.key for one in store.sessions_of(ANN)] == [key]
        assert self.walk(kit.index, "anonymous", 2) == []
        assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", "")] == [key]
        assert self.read(kit, key, rules) is None

    def test_what_is_due_is_not_listed(self, kit: StoreKit) -> None:
        store, rules = kit.index, make_rules()
        self.sign_in(kit, rules)
        kit.advance(30 * MINUTE)
        assert store.sessions_of(ANN) == []
        assert store.page(DEFAULT_TIER, "", 10).sessions == ()
        assert store.end_user(ANN, new_stamp(), "revoked", "") == []

    def test_pages_show_every_session_once(self, kit: StoreKit) -> None:
        store, rules = kit.index, make_rules()
        keys = [self.sign_in(kit, rules, f"user {n}") for n in range(7)]
        anonymous = [self.add(kit, rules) for _ in range(3)]
        assert sorted(self.walk(store, DEFAULT_TIER, 2)) == sorted(keys)
        assert sorted(self.walk(store, "anonymous", 2)) == sorted(anonymous)
        assert self.walk(store, "no such tier", 2) == []

    def test_a_page_can_begin_at_a_deadline(self, kit: StoreKit) -> None:
        store, rules = kit.index, make_rules()
        keys = []
        for _ in range(3):
            keys.append(self.sign_in(kit, rules))
            kit.advance(MINUTE)
        listed = store.page(DEFAULT_TIER, "", 9).sessions
        assert [one.key for one in listed] == keys[::-1]
        last, middle, _ = (one.record.deadline for one in listed)
        for before, expected in ((last + 1, keys), (last, keys[:2]), (middle, keys[:1])):
            page = store.page(DEFAULT_TIER, "", 9, before)
            assert sorted(one.key for one in page.sessions) == sorted(expected)

    # -- ends -----------------------------------------------------------------------------------

    def test_all_sessions_of_a_user_end_at_once_but_for_one(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        keys = [self.sign_in(kit, rules) for _ in range(4)]
        others = [self.sign_in(kit, rules, "bob"), self.add(kit, rules)]
        ended = store.end_user(ANN, new_stamp(), "revoked", keys[1])
        assert {one.key for one in ended} == {keys[0], keys[2], keys[3]}
        assert [one.key for one in store.sessions_of(ANN)] == [keys[1]]
        assert all(self.read(kit, key, rules) for key in others)
        assert kit.store.load(keys[0], rules, slide=True) == Gone("revoked", has_tombstone=True)
        assert store.end_user(ANN, new_stamp(), "revoked", "")[0].key == keys[1]

    def test_the_one_that_stays_stays_also_under_its_next_key(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        key, other = self.sign_in(kit, rules), self.sign_in(kit, rules)
        new = self.go_on(kit, rules, key, restart=False)
        assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", key)] == [other]
        assert self.read(kit, new, rules)

    def test_the_one_that_stays_does_not_stay_under_the_key_of_a_sign_in(
        self, kit: StoreKit
    ) -> None:
        store, rules = kit.users, make_rules()
        key = self.sign_in(kit, rules)
        new = self.go_on(kit, rules, key, restart=True)
        assert [one.key for one in store.end_user(ANN, new_stamp(), "revoked", key)] == [new]

    def test_an_end_of_all_beats_a_save_that_is_in_flight(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        key = self.sign_in(kit, rules)
        stamp = self.record(kit, key, rules).stamps[0]
        store.end_user(ANN, new_stamp(), "revoked", "")
        draft = make_draft(rules=rules, user="ann")
        assert isinstance(kit.store.commit(key, draft, stamp, touch=0), Gone)
        assert store.sessions_of(ANN) == []

    def test_a_login_that_races_with_the_end_of_all_is_whole(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()

        def act(number: int) -> object:
            if number % 2:
                return store.end_user(ANN, new_stamp(), "revoked", "")
            return self.sign_in(kit, rules)

        keys = [key for key in together(8, act) if isinstance(key, str)]
        listed = {one.key for one in store.sessions_of(ANN)}
        assert {key for key in keys if self.read(kit, key, rules)} == listed
        assert kit.index.count(rules).total == len(listed)

    def test_everything_there_is_ends_in_one_step(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        ann, anonymous = self.sign_in(kit, rules), self.add(kit, rules)
        stamp = self.record(kit, ann, rules).stamps[0]
        store.end_all(new_stamp())
        assert kit.index.count(rules).total == 0
        assert store.sessions_of(ANN) == []
        draft = make_draft(rules=rules, user="ann")
        assert isinstance(kit.store.commit(ann, draft, stamp, touch=0), Gone)
        answer = kit.store.load(ann, rules, slide=True)
        assert isinstance(answer, Gone)
        assert (answer.reason, answer.for_visitor) == ("revoked", True)
        assert self.read(kit, anonymous, rules) is None
        later = self.sign_in(kit, rules)
        assert self.read(kit, later, rules)
        assert [one.key for one in store.sessions_of(ANN)] == [later]

    def test_what_is_made_after_an_end_of_all_is_of_the_next_generation(
        self, kit: StoreKit
    ) -> None:
        """No times are compared: a clock that is set back neither saves nor ends a session."""
        store, rules = kit.users, make_rules()
        old = self.record(kit, self.sign_in(kit, rules), rules)
        for number in (1, 2):
            store.end_all(new_stamp())
            key = self.sign_in(kit, rules)
            kit.advance(1000)
            self.live(kit.store.load(key, rules, slide=True))
            self.commit(kit, key, rules)
            rotated = self.record(kit, self.go_on(kit, rules, key, restart=False), rules)
            assert rotated.generation == old.generation + number

    def test_nothing_that_ended_at_once_is_used_in_any_way(self, kit: StoreKit) -> None:
        store, rules = kit.index, make_rules()
        keys = [self.sign_in(kit, rules, f"user {number}") for number in range(5)]
        stamps = [self.record(kit, key, rules).stamps[0] for key in keys]
        store.end_all(new_stamp())
        draft = make_draft(rules=rules, user="user 0")
        answers = [
            kit.store.commit(keys[0], draft, stamps[0], touch=0),
            kit.store.refile(keys[1], make_draft(rules=rules), stamps[1]),
            self.rotate(kit, keys[2], rules, expected=stamps[2])[1],
            kit.store.end(keys[3], new_stamp(), "logout", None),
        ]
        for answer in answers:
            assert isinstance(answer, Gone)
            assert (answer.reason, answer.reason_for_visitor) == ("revoked", "revoked")
        assert store.peek(keys[4]) is None
        assert store.end_user(user_tag("user 4"), new_stamp(), "revoked", "") == []
        assert self.walk(store, DEFAULT_TIER, 2) == []
        assert kit.index.count(rules).total == 0

    def test_what_ended_at_once_is_purged_in_steps(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        keys = {self.sign_in(kit, rules, f"user {n}") for n in range(5)}
        keys |= {self.add(kit, rules) for _ in range(4)}
        store.end_all(new_stamp())
        later = self.sign_in(kit, rules)
        removed: list[Removed] = []
        for _ in range(9):
            step = kit.index.purge(rules, 2)
            removed += step.removed
        assert {gone.key for gone in removed} == keys
        assert {gone.reason for gone in removed} == {"revoked"}
        assert self.read(kit, later, rules)
        assert kit.index.purge(rules, 10).removed == ()

    # -- reasons for the visitor ----------------------------------------------------------------

    def test_why_a_users_session_ended_is_shown_for_a_day(self, kit: StoreKit) -> None:
        _ = kit.users
        rules = make_rules(per_user=1)
        evicted, newer = self.sign_in(kit, rules), self.sign_in(kit, rules)
        assert kit.store.load(evicted, rules, slide=True) == Gone("evicted", for_visitor=True)
        kit.advance(30 * MINUTE)
        kit.index.purge(rules, 100)
        for _ in range(2):
            assert kit.store.load(newer, rules, slide=True) == Gone("idle", for_visitor=True)
        kit.advance(24 * 60 * MINUTE + kit.tolerance)
        assert kit.store.load(newer, rules, slide=True) == Gone("unknown")

    def test_why_an_anonymous_session_ended_is_never_shown(self, kit: StoreKit) -> None:
        _ = kit.users
        rules = make_rules()
        purged, found, revoked = (self.add(kit, rules) for _ in range(3))
        kit.store.end(revoked, new_stamp(), "revoked", None)
        answer = kit.store.load(revoked, rules, slide=True)
        assert isinstance(answer, Gone)
        assert answer.reason_for_visitor is None
        kit.advance(30 * MINUTE)
        answer = kit.store.load(found, rules, slide=True)
        assert isinstance(answer, Gone)
        assert answer.reason_for_visitor is None
        kit.index.purge(rules, 100)
        for key in (purged, found, revoked):
            assert kit.store.load(key, rules, slide=True) == Gone("unknown")

    def test_one_user_pushes_out_no_tombstones_and_reasons_of_others(self, kit: StoreKit) -> None:
        """A store keeps at most a hundred tombstones of one user, and as many reasons."""
        _ = kit.users
        rules = make_rules(per_user=1)
        evicted = self.sign_in(kit, rules, "bob")
        revoked = self.sign_in(kit, rules, "bob")
        kit.store.end(revoked, new_stamp(), "revoked", None)
        keys, ended = [], []
        for _ in range(110):
            keys.append(self.sign_in(kit, rules))
            ended.append(self.sign_in(kit, rules, "eve"))
            kit.store.end(ended[-1], new_stamp(), "revoked", None)
        assert self.reasons(kit, rules, keys).count("evicted") <= 100
        assert self.reasons(kit, rules, ended).count("revoked") <= 100
        assert self.reasons(kit, rules, [keys[-2]]) == ["evicted"]
        assert self.reasons(kit, rules, [ended[-1]]) == ["revoked"]
        assert self.reasons(kit, rules, [evicted, revoked]) == ["evicted", "revoked"]
        assert kit.store.load(revoked, rules, slide=True) == Gone("revoked", has_tombstone=True)
        kit.advance(2 * MINUTE)  # the tombstones are gone, the reasons are not
        assert self.reasons(kit, rules, ended).count("revoked") <= 100
        expected = ["revoked", "evicted", "revoked"]
        assert self.reasons(kit, rules, [ended[-1], evicted, revoked]) == expected

    # -- a user's cap ---------------------------------------------------------------------------

    def test_a_user_at_the_cap_is_refused_if_the_rules_say_so(self, kit: StoreKit) -> None:
        _ = kit.users
        rules = make_rules(per_user=2)
        rules = rules._replace(cap=rules.cap._replace(refuse=True))
        keys = [self.sign_in(kit, rules) for _ in range(2)]
        anonymous = self.add(kit, rules)
        draft = make_draft(rules=rules, user="ann")
        with pytest.raises(TooManySessions):
            kit.store.create(self.key_of("ann"), draft, rules)
        with pytest.raises(TooManySessions):
            kit.store.rotate(
                anonymous, self.key_of("ann"), draft, rules, Terms(None, True, "rotated")
            )
        assert all(self.read(kit, key, rules) for key in (*keys, anonymous))
        self.sign_in(kit, rules, "bob")
        kit.store.end(keys[0], new_stamp(), "logout", None)
        self.sign_in(kit, rules)

    def test_of_logins_at_once_no_more_succeed_than_the_cap_allows(self, kit: StoreKit) -> None:
        _ = kit.users
        rules = make_rules(per_user=3)
        rules = rules._replace(cap=rules.cap._replace(refuse=True))

        def attempt(_: int) -> bool:
            try:
                return bool(self.sign_in(kit, rules))
            except TooManySessions:
                return False

        assert sum(together(8, attempt)) == 3

    def test_each_tier_may_have_its_own_cap(self, kit: StoreKit) -> None:
        long = Limits(30 * MINUTE, 720 * MINUTE, 0)
        _ = kit.users
        rules = make_rules(tiers={"admin": long})
        rules = rules._replace(cap=rules.cap._replace(per_user=2, per_tier={"admin": 1}))
        plain = []
        first = self.sign_in(kit, rules, tier="admin")
        for _ in range(2):
            plain.append(self.sign_in(kit, rules))
            kit.advance(1000)
        second = self.sign_in(kit, rules, tier="admin")
        assert self.read(kit, first, rules) is None
        assert all(self.read(kit, key, rules) for key in (*plain, second))
        third = self.sign_in(kit, rules)
        assert self.read(kit, plain[0], rules) is None
        assert all(self.read(kit, key, rules) for key in (plain[1], second, third))

    # -- peek -----------------------------------------------------------------------------------

    def test_a_peek_changes_nothing(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        key = self.sign_in(kit, rules)
        kit.advance(MINUTE)
        self.record(kit, key, rules)
        peeked = store.peek(key)
        assert peeked is not None
        assert (peeked.key, peeked.record) == (key, self.record(kit, key, rules))
        assert not peeked.record.is_used
        kit.advance(29 * MINUTE)
        assert store.peek(key) is None
        assert kit.index.purge(rules, 10).due == 1

    def test_a_peek_follows_a_rotation_but_not_a_sign_in(self, kit: StoreKit) -> None:
        store, rules = kit.users, make_rules()
        for restart in (False, True):
            key = self.sign_in(kit, rules)
            new = self.go_on(kit, rules, key, restart=restart)
            peeked = store.peek(key)
            assert (peeked.key if peeked else None) == (None if restart else new)

    # -- ends of all, and caps ------------------------------------------------------------------

    def test_caps_hold_after_an_end_of_all(self, kit: StoreKit) -> None:
        rules = make_rules(total=10, per_user=2)
        for _ in range(2):
            self.sign_in(kit, rules)
        kit.store.end_all(new_stamp())
        for number in range(10):
            self.sign_in(kit, rules, f"user {number}")
            assert kit.index.count(rules).total <= 10
        self.sign_in(kit, rules)
        assert kit.index.count(rules).total <= 10

    def test_an_end_of_all_that_a_request_found_is_not_reported_by_the_purge(
        self, kit: StoreKit
    ) -> None:
        store, rules = kit.index, make_rules()
        keys = [self.sign_in(kit, rules, f"user {number}") for number in range(5)]
        store.end_all(new_stamp())
        assert kit.store.load(keys[2], rules, slide=True) == Gone(
            "revoked", tier=DEFAULT, for_visitor=True
        )
        reported = []
        for _ in range(10):
            step = store.purge(rules, 2)
            assert len(step.removed) <= 2
            reported += [removed.key for removed in step.removed]
            if not step.more:
                break
        assert sorted(reported) == sorted(set(keys) - {keys[2]})

    # -- help -----------------------------------------------------------------------------------

    def sign_in(
        self,
        kit: StoreKit,
        rules: Rules,
        user: str = "ann",
        *,
        tier: str = DEFAULT_TIER,
        payload: bytes = b"data",
    ) -> str:
        """Create a session of *user*, in the user's shard; returns its key."""
        draft = make_draft(payload, rules=rules, user=user, tier=tier)
        key = self.key_of(user)
        self.live(kit.store.create(key, draft, rules))
        return key

    def reasons(self, kit: StoreKit, rules: Rules, keys: list[str]) -> list[str]:
        """Returns why these sessions ended, without those that are live."""
        answers = [kit.store.load(key, rules, slide=False) for key in keys]
        return [answer.reason for answer in answers if isinstance(answer, Gone)]

    def go_on(self, kit: StoreKit, rules: Rules, key: str, *, restart: bool) -> str:
        """Rotate ann's session, by a sign-in if *restart*; returns its new key."""
        new = self.key_of("ann")
        draft = make_draft(rules=rules, user="ann")
        self.live(kit.store.rotate(key, new, draft, rules, Terms(None, restart, "rotated")))
        return new

    def walk(self, store: IndexedStore, tier: str, limit: int) -> list[str]:
        """Returns the keys of all pages."""
        found: list[str] = []
        after = ""
        while True:
            page = store.page(tier, after, limit)
            assert len(page.sessions) <= limit
            found += [one.key for one in page.sessions]
            after = page.next
            if not after:
                return found
