"""What a store that adopts sessions from older places does; see :class:`.base.AdoptingStore`."""

from __future__ import annotations

from ..errors import StoreFull
from ..model.record import Draft
from ..model.tokens import new_id, user_tag
from ..stores.base import LINK_TTL, Gone, Live, Moved
from .base import RULES, ContractBase, used_after
from .kit import MINUTE, StoreKit, make_draft, make_rules, new_key, together

DAY = 86_400_000


class AdoptionContract(ContractBase):
    """Each old session is adopted once, and not after it was closed."""

    def test_an_old_session_is_adopted_once_and_its_link_leads_to_it(self, kit: StoreKit) -> None:
        store, link = kit.adopting, new_key()
        key, other = new_key(), new_key()
        made = store.adopt(link, key, make_draft(b"old"), RULES, 0)
        assert self.live(made).record.payload == b"old"
        again = store.adopt(link, other, make_draft(b"again"), RULES, 0)
        assert again == Moved(key)
        assert store.follow(link) == key
        assert self.record(kit, key).payload == b"old"
        assert self.read(kit, other) is None
        assert store.follow(new_key()) == ""
        assert self.holds(kit, 1)

    def test_of_many_at_once_one_is_adopted(self, kit: StoreKit) -> None:
        store, link = kit.adopting, new_key()
        keys = [self.key_of("ada") for _ in range(8)]

        def adopt(number: int) -> object:
            draft = make_draft(user="ada")
            return store.adopt(link, keys[number], draft, RULES, 0)

        answers = together(8, adopt)
        [won] = [key for key, answer in zip(keys, answers, strict=True) if isinstance(answer, Live)]
        assert answers.count(Moved(won)) == 7
        assert [listed.key for listed in kit.users.sessions_of(user_tag("ada"))] == [won]

    def test_a_link_outlasts_its_session(self, kit: StoreKit) -> None:
        store, link, key = kit.adopting, new_key(), new_key()
        store.adopt(link, key, make_draft(), RULES, 0)
        kit.advance(31 * DAY)
        assert isinstance(kit.store.load(key, RULES, slide=False), Gone)
        assert store.adopt(link, new_key(), make_draft(), RULES, 0) == Moved(key)
        kit.index.purge(RULES, 100)
        assert store.follow(link) == key
        kit.advance(LINK_TTL)
        assert store.follow(link) == ""

    def test_an_old_session_keeps_its_age(self, kit: StoreKit) -> None:
        store, now = kit.adopting, self._now(kit)
        draft = make_draft()
        draft = draft._replace(created=now - 60 * MINUTE, last_active=now - 10 * MINUTE)
        live = self.live(store.adopt(new_key(), new_key(), draft, RULES, 0))
        assert live.record.absolute - live.record.created == 720 * MINUTE
        assert used_after(live.record) == 50 * MINUTE
        assert abs(live.now - live.record.created - 60 * MINUTE) < kit.tolerance

    def test_what_is_over_by_the_rules_here_is_not_adopted(self, kit: StoreKit) -> None:
        store, now = kit.adopting, self._now(kit)
        for created, used in ((now - 721 * MINUTE, now), (now - 60 * MINUTE, now - 31 * MINUTE)):
            draft = make_draft()._replace(created=created, last_active=used)
            link, key = new_key(), new_key()
            assert isinstance(store.adopt(link, key, draft, RULES, 0), Gone)
            assert store.follow(link) == ""

    def test_nothing_is_from_the_future(self, kit: StoreKit) -> None:
        store, now = kit.adopting, self._now(kit)
        draft = make_draft()._replace(created=now + DAY, last_active=now + DAY)
        live = self.live(store.adopt(new_key(), new_key(), draft, RULES, 0))
        assert live.record.created == live.record.last_active <= live.now

    def test_it_ends_at_its_date(self, kit: StoreKit) -> None:
        store, link = kit.adopting, new_key()
        until = self._now(kit) + 10 * MINUTE
        self.live(store.adopt(link, new_key(), make_draft(), RULES, until))
        kit.advance(11 * MINUTE)
        draft = make_draft()
        # Where a test ages records in place of moving a clock, the date is as long ago.
        until = min(until, self._now(kit) - 1)
        assert isinstance(store.adopt(new_key(), new_key(), draft, RULES, until), Gone)

    def test_a_later_date_brings_nothing_back(self, kit: StoreKit) -> None:
        store, link, key = kit.adopting, new_key(), new_key()
        until = self._now(kit) + 10 * MINUTE
        store.adopt(link, key, make_draft(), RULES, until)
        store.close_adoption(user_tag("ada"), until)
        kit.advance(2 * DAY)
        kit.index.purge(RULES, 100)
        later = self._now(kit) + DAY
        assert store.adopt(link, new_key(), make_draft(), RULES, later) == Moved(key)
        assert isinstance(self._adopt(kit, "ada", until=later), Gone)

    def test_it_is_closed_for_a_user_and_for_nobody_else(self, kit: StoreKit) -> None:
        store = kit.adopting
        store.close_adoption(user_tag("ada"), 0)
        assert isinstance(self._adopt(kit, "ada"), Gone)
        assert isinstance(self._adopt(kit, "bob"), Live)
        assert isinstance(self._adopt(kit, None), Live)
        kit.advance(LINK_TTL + MINUTE)
        assert isinstance(self._adopt(kit, "ada"), Live)
        assert self.holds(kit, 1)

    def test_it_is_closed_for_all(self, kit: StoreKit) -> None:
        kit.adopting.close_adoption("", 0)
        assert {type(self._adopt(kit, user)) for user in ("ada", None)} == {Gone}

    def test_it_is_admitted_as_any_other_session(self, kit: StoreKit) -> None:
        rules = make_rules(total=2, evict=False)
        store = kit.adopting
        for _ in range(2):
            self.add(kit, rules)
        link = new_key()
        try:
            store.adopt(link, new_key(), make_draft(rules=rules), rules, 0)
        except StoreFull:
            assert store.follow(link) == ""
        else:
            raise AssertionError("the store admits more than its cap")

    def test_a_sessions_user_has_it_in_the_list_and_ends_it(self, kit: StoreKit) -> None:
        self.live(self._adopt(kit, "ada"))
        assert len(kit.users.sessions_of(user_tag("ada"))) == 1
        assert len(kit.users.end_user(user_tag("ada"), "stamp00", "revoked", "")) == 1

    def test_it_counts_what_came(self, kit: StoreKit) -> None:
        before = kit.adopting.adoptions()
        assert (before.total, before.last) == (0, 0)
        for user in ("ada", "bob", None):
            self._adopt(kit, user)
        found = kit.adopting.adoptions()
        assert found.total == 3
        assert 0 <= found.now - found.last < MINUTE

    def _adopt(self, kit: StoreKit, user: object, *, until: int = 0) -> object:
        key = new_key() if user is None else self.key_of(user)
        draft: Draft = make_draft(user=user)
        return kit.adopting.adopt(new_id().key, key, draft, RULES, until)

    def _now(self, kit: StoreKit) -> int:
        return kit.adopting.adoptions().now
