"""The contract: what the operations of a store do not show of a backend of the engine."""

from __future__ import annotations

from ..model.policy import ANONYMOUS_TIER
from ..model.record import Record, record_from
from ..model.tokens import NO_USER, new_stamp, tier_tag, user_tag
from ..stores.base import LISTED
from ..stores.tables import ALL_KINDS, Ending, Scope, Tables
from .base import ContractBase
from .kit import MINUTE, StoreKit, make_draft, new_key

_ALL = Scope(task="all")


class TablesContract(ContractBase):
    """The primitives of a backend. Skipped for stores that are not on the engine."""

    def put(self, t: Tables, minutes: float, user: object = None, tier: str = "default") -> str:
        """Store a session that is due in so many minutes, in a block; returns its key."""
        now, key = t.now(), new_key()
        draft = make_draft(user=user, tier=tier)._replace(idle=60 * MINUTE)
        used = now + int(minutes * MINUTE) - draft.idle
        t.put(
            key,
            record_from(
                draft, created=used, last_active=used, stamps=(), generation=t.generation()
            ),
            None,
        )
        return key

    def test_a_list_continues_after_an_entry_in_both_directions(self, kit: StoreKit) -> None:
        t, group = kit.tables, ANONYMOUS_TIER
        with t.transaction(_ALL):
            due, *keys = [self.put(t, minutes) for minutes in (-1, 3, 4, 4, 5)]
        with t.transaction(_ALL):
            now, entries = t.now(), list(t.nearest(group, 9))
            assert [entry.key for entry in entries[:2]] == [due, keys[0]]
            assert {entry.key for entry in entries} == {due, *keys}
            assert list(t.nearest(group, 2)) == entries[:2]
            live = entries[1:]
            assert list(t.latest(group, now, 9, None)) == live[::-1]
            assert list(t.latest(group, now, 2, None)) == live[:1:-1]
            for n, entry in enumerate(entries):
                assert list(t.nearest(group, 9, entry)) == entries[n + 1 :]
            for n, entry in enumerate(live):
                assert list(t.latest(group, now, 9, entry)) == live[:n][::-1]
            assert list(t.nearest("none", 9)) == list(t.latest("none", now, 9, None)) == []
            assert [t.count_due(group, now), t.count_due("none", now)] == [1, 0]

    def test_a_users_sessions_are_listed_up_to_a_limit(self, kit: StoreKit) -> None:
        t, user, tier = kit.tables, user_tag(1), tier_tag("admin")
        with t.transaction(_ALL):
            third, first = self.put(t, 9, 1), self.put(t, 5, 1, "admin")
            second, _ = self.put(t, 7, 1), self.put(t, 1, 2)
        with t.transaction(_ALL):
            keys = [key for key, _ in t.of_user(user)]
            assert keys == [first, second, third]
            assert [key for key, _ in t.of_user(user, "", 2)] == [first, second]
            assert [key for key, _ in t.of_user(user, tier)] == [first]
            assert [t.count_of(user), t.count_of(user, tier)] == [3, 1]
            assert [t.belongs(key, user) for key in keys] == [True, True, True]
            assert [t.belongs(key, user, tier) for key in keys] == [True, False, False]
            assert not t.belongs(first, user_tag(2))
            heads = t.heads([third, new_key(), first])
            assert [key for key, _ in heads] == [third, first]
            assert {len(head) <= LISTED for _, head in heads} == {True}

    def test_nothing_of_an_older_generation_is_listed(self, kit: StoreKit) -> None:
        t, user = kit.tables, user_tag(1)
        with t.transaction(_ALL):
            keys = [self.put(t, 5, 1), self.put(t, 5)]
        with t.transaction(_ALL):
            t.begin_generation(new_stamp())
        with t.transaction(_ALL):
            assert not t.of_user(user)
            assert not t.count_of(user)
            assert not t.belongs(keys[0], user)
            assert not any(t.counts().values())
            assert not [*t.nearest(ANONYMOUS_TIER, 9), *t.latest(ANONYMOUS_TIER, 0, 9, None)]
            assert all(isinstance(t.read(key), Record) for key in keys)

    def test_what_is_over_is_taken_over_in_bounded_steps(self, kit: StoreKit) -> None:
        t = kit.tables
        with t.transaction(_ALL):
            revoked = [self.put(t, 5, user) for user in (1, 2, None)]
        with t.transaction(_ALL):
            t.begin_generation(new_stamp())
        with t.transaction(_ALL):
            idle, live = [self.put(t, minutes) for minutes in (-1, -2)], self.put(t, 5)
        found = []
        for limit in (2, 2, 9, 9):
            with t.transaction(Scope(task="purge", limit=limit)):
                found.append([removed for removed, _ in t.take_over(t.now(), limit)])
        assert [len(some) for some in found] == [2, 2, 1, 0]
        reasons = [removed.reason for some in found for removed in some]
        assert reasons == ["revoked"] * 3 + ["idle"] * 2
        keys = [removed.key for some in found for removed in some]
        assert [set(keys[:3]), keys[3:]] == [set(revoked), idle[::-1]]
        with t.transaction(_ALL):
            assert [key for key in (*keys, live) if t.read(key)] == [live]

    def test_endings_of_all_kinds_are_kept_and_forgotten(self, kit: StoreKit) -> None:
        t, key, ending = kit.tables, new_key(), Ending("logout", new_stamp(), new_key())
        with t.transaction(_ALL):
            until = t.now() + MINUTE
            for kind in ALL_KINDS:
                t.put_ending(kind, key, NO_USER, ending._replace(reason=kind), until)
        with t.transaction(_ALL):
            for kind in ALL_KINDS:
                assert t.ending(kind, key, t.now()) == ending._replace(reason=kind)
                assert t.ending(kind, key, until) is None
                assert t.count_endings(kind) == 1
        kit.advance(2 * MINUTE)
        with t.transaction(Scope(task="purge")):
            for kind in ALL_KINDS:
                t.forget_endings(kind, t.now())
        with t.transaction(_ALL):
            assert [t.count_endings(kind) for kind in ALL_KINDS] == [0] * len(ALL_KINDS)

    def test_documents_keep_their_time_and_are_replaced(self, kit: StoreKit) -> None:
        t, name = kit.tables, "a name: of 40 characters".ljust(40, ".")
        for document, time in ((b"one", 1), (b"\0two", 1 << 42)):
            with t.transaction(Scope(task="documents", document=name)):
                t.put_document(name, document, time)
            with t.transaction(Scope(task="documents", document=name)):
                assert t.document(name) == (document, time)
                assert t.document("another") == (b"", 0)

    def test_nothing_is_repaired_where_nothing_differs(self, kit: StoreKit) -> None:
        t = kit.tables
        with t.transaction(_ALL):
            for user in (1, 2, None):
                self.put(t, 5, user)
        assert t.repair() == 0
