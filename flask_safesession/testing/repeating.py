"""The contract: calls that are repeated because the reply was lost."""

from __future__ import annotations

from ..model.tokens import new_stamp, user_tag
from ..stores.base import Conflict, Gone, Terms
from .base import RULES, ContractBase, used_after
from .kit import MINUTE, StoreKit, make_draft, new_key


class RepeatedCallsContract(ContractBase):
    """Repeats each operation with the same arguments: it is done, and changes nothing."""

    def test_a_create_that_is_repeated_is_done(self, kit: StoreKit) -> None:
        key, draft = new_key(), make_draft()
        first = self.live(kit.store.create(key, draft, RULES))
        again = self.live(kit.store.create(key, draft, RULES))
        assert (again.record, again.removed) == (first.record, ())
        assert self.holds(kit, 1)

    def test_a_commit_that_is_repeated_is_done(self, kit: StoreKit) -> None:
        key = self.used(kit)
        stamp, draft = self.record(kit, key).stamps[0], make_draft(b"mine")
        self.live(kit.store.commit(key, draft, stamp, touch=0))
        kit.advance(MINUTE)
        first = self.record(kit, key)
        again = self.live(kit.store.commit(key, draft, stamp, touch=0)).record
        assert again == self.record(kit, key)
        assert (again.stamps, again.payload) == (first.stamps, b"mine")
        assert used_after(again) == used_after(first)

    def test_a_commit_that_is_repeated_after_other_writes_keeps_them(self, kit: StoreKit) -> None:
        """Otherwise a one-time token that another request has used up would come back."""
        key = self.used(kit)
        stamp, draft = self.record(kit, key).stamps[0], make_draft(b"mine")
        self.live(kit.store.commit(key, draft, stamp, touch=0))
        for theirs in (b"theirs", b"theirs, too"):
            latest = self.commit(kit, key, payload=theirs)
            assert self.live(kit.store.commit(key, draft, stamp, touch=0)).record == latest
            assert self.record(kit, key) == latest
        latest = self.commit(kit, key, payload=b"a third")
        # The last three stamps are kept. As far as the record shows, it was not carried out.
        assert kit.store.commit(key, draft, stamp, touch=0) == Conflict(latest)

    def test_a_refiling_that_is_repeated_is_done(self, kit: StoreKit) -> None:
        key, draft = self.key_of(7), make_draft(user=7)
        self.create(kit, key)
        stamp = self.record(kit, key).stamps[0]
        first = self.live(kit.store.refile(key, draft, stamp)).record
        assert self.live(kit.store.refile(key, draft, stamp)).record == first
        latest = self.commit(kit, key)
        assert self.live(kit.store.refile(key, draft, stamp)).record == latest
        assert self.record(kit, key) == latest

    def test_a_rotation_that_is_repeated_is_done(self, kit: StoreKit) -> None:
        for restart in (False, True):
            key, new = self.add(kit), self.key_of(7)
            stamp = self.record(kit, key).stamps[0]
            draft = make_draft(b"rotated", user=7)
            terms = Terms(stamp, restart, "rotated")
            first = self.live(kit.store.rotate(key, new, draft, RULES, terms)).record
            again = self.live(kit.store.rotate(key, new, draft, RULES, terms))
            assert (again.record, again.removed) == (first, ())
            latest = self.commit(kit, new)
            assert self.live(kit.store.rotate(key, new, draft, RULES, terms)).record == latest
            moved = Gone("rotated", has_tombstone=True, successor=new, user=user_tag(7))
            assert kit.store.load(key, RULES, slide=True) == moved
        assert self.holds(kit, 2)

    def test_an_end_that_is_repeated_is_done(self, kit: StoreKit) -> None:
        for expected in (False, True):
            key, call = self.add(kit, user=7), new_stamp()
            stamp = self.record(kit, key).stamps[0] if expected else None
            assert self.live(kit.store.end(key, call, "logout", stamp)).key == key
            done = Gone("logout", has_tombstone=True, repeated=True)
            for _ in range(2):
                assert kit.store.end(key, call, "logout", stamp) == done
            other = kit.store.end(key, new_stamp(), "logout", stamp)
            assert other == Gone("logout", has_tombstone=True)

    def test_an_end_that_followed_a_rotation_is_done_when_it_is_repeated(
        self, kit: StoreKit
    ) -> None:
        call = new_stamp()
        key = self.add(kit, user=7)
        new, _ = self.rotate(kit, key, user=7)
        assert self.live(kit.store.end(key, call, "logout", None)).key == new
        done = Gone("logout", has_tombstone=True, repeated=True)
        assert kit.store.end(key, call, "logout", None) == done

    def test_the_end_of_all_of_a_user_that_is_repeated_ends_what_came_meanwhile(
        self, kit: StoreKit
    ) -> None:
        store, call = kit.users, new_stamp()
        first, kept, second = (self.key_of(7) for _ in range(3))
        for key in (first, kept):
            self.create(kit, key, user=7)
        ended = store.end_user(user_tag(7), call, "revoked", kept)
        assert [listed.key for listed in ended] == [first]
        self.create(kit, second, user=7)
        ended = store.end_user(user_tag(7), call, "revoked", kept)
        assert [listed.key for listed in ended] == [second]
        assert store.end_user(user_tag(7), call, "revoked", kept) == []
        assert self.read(kit, kept) is not None

    def test_an_end_of_everything_that_is_repeated_spares_what_came_meanwhile(
        self, kit: StoreKit
    ) -> None:
        call = new_stamp()
        before = self.add(kit)
        kit.store.end_all(call)
        after = self.add(kit)
        kit.store.end_all(call)
        assert self.read(kit, before) is None
        assert self.read(kit, after) is not None
