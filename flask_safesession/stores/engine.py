"""The rules of a store, over the :class:`.tables.Tables` of a backend.

Each ``with`` block is one atomic step. Memory and SQL are backends. The Redis store has the same
rules in Lua; the contract and the model test that both agree.
"""

from __future__ import annotations

from ..model.policy import ANONYMOUS_TIER
from ..model.record import Draft, Record, touched
from ..model.tokens import NO_USER, tier_tag
from . import adoption, audit
from .admission import Leaving, over_the_cap
from .base import (
    Adoptions,
    Answer,
    AuditStep,
    Conflict,
    Counts,
    Document,
    Finding,
    Gone,
    Listed,
    Live,
    Moved,
    Onward,
    Page,
    PurgeStep,
    Rules,
    Taken,
    Terms,
)
from .rules import (
    admit,
    begun,
    dismiss,
    find,
    is_filed,
    live_ones,
    make_way,
    moved,
    refiled,
    replace,
    successor,
    used,
)
from .tables import Ending, Entry, Scope, Tables, read_heads
from .tombstones import (
    finish,
    forget,
    keep_end,
    keep_reason,
    leave_tombstone,
    resolve,
)

# Before the names of documents, distinct from the engine's own.
_DOCUMENT = "doc:"


class Engine:
    """The operations of a store; see :mod:`.base` for each, and :class:`.sharded.Shard`.

    :param tables: the backend.
    """

    def __init__(self, tables: Tables) -> None:
        #: The backend.
        self.tables: Tables = tables

    # -- one session ----------------------------------------------------------------------------

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        t = self.tables
        with t.transaction(Scope((key,))):
            now = t.now()
            record = find(t, key, now)
            if isinstance(record, Gone):
                return record
            return replace(t, key, used(record, rules, now, slide=slide), record, now)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        t = self.tables
        with t.transaction(Scope((key,), draft.user, rules.cap), durable=draft.user != NO_USER):
            now = t.now()
            there = make_way(t, key, draft, now)
            if isinstance(there, (Live, Taken)):
                return there
            return admit(t, key, begun(draft, t.generation(), now), rules, now, there)

    def commit(
        self,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> Answer:
        """See :meth:`.base.Store.commit`."""
        del loaded  # the record is read in the same transaction
        t = self.tables
        with t.transaction(Scope((key,))):
            now = t.now()
            record = find(t, key, now)
            if isinstance(record, Gone):
                return record
            if draft.stamp in record.stamps:
                return Live(record, now)
            if record.stamps[0] != expected or not is_filed(record, draft):
                return Conflict(record)
            fresh = touched(successor(record, draft), now, touch)
            t.put(key, fresh, record)
            return Live(fresh, now)

    def refile(self, key: str, draft: Draft, expected: str) -> Answer:
        """See :meth:`.base.Store.refile`. Never returns ``None``: it has all users' sessions."""
        t = self.tables
        with t.transaction(Scope((key,), draft.user)):
            now = t.now()
            record = find(t, key, now)
            if isinstance(record, Gone):
                return record
            if is_filed(record, draft):
                return Live(record, now)
            if record.stamps[0] != expected:
                return Conflict(record)
            return replace(t, key, refiled(record, draft), record, now)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Answer | Taken:
        """See :meth:`.base.Store.rotate`."""
        t = self.tables
        with t.transaction(Scope((new, key), draft.user, rules.cap), durable=True):
            now = t.now()
            there = make_way(t, new, draft, now)
            if isinstance(there, (Live, Taken)):
                return there
            if terms.expected is None:
                key = resolve(t, key, now)
            record = find(t, key, now)
            if isinstance(record, Gone):
                return record
            if terms.expected not in (None, record.stamps[0]):
                return Conflict(record)
            fresh = moved(record, draft, terms, now)
            live = admit(t, new, fresh, rules, now, there, Leaving(key, record))
            ending = Ending(terms.reason, draft.stamp, *(terms.onward(new, draft.user) or ()))
            # A sign-in's tombstone is the user's, so that many anonymous ones do not push it out.
            leave_tombstone(t, key, draft.user or record.user, ending, now)
            return live

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None, onward: Onward | None = None
    ) -> Answer:
        """See :meth:`.base.Store.end`, and :meth:`.sharded.Shard.end` for *onward*."""
        t = self.tables
        with t.transaction(Scope((key,)), durable=True):
            now = t.now()
            if expected is None:
                key = resolve(t, key, now)
            record = find(t, key, now, stamp)
            if isinstance(record, Gone):
                return record
            if expected not in (None, record.stamps[0]):
                return Conflict(record)
            finish(t, key, record, Ending(reason, stamp, *(onward or ())), now)
            return Live(record, now, key=key)

    def resolve(self, key: str) -> str:
        """See :meth:`.sharded.Shard.resolve`."""
        t = self.tables
        with t.transaction(Scope((key,)), writes=False):
            return resolve(t, key, t.now())

    # -- sessions of users ----------------------------------------------------------------------

    def peek(self, key: str) -> Listed | None:
        """See :meth:`.base.UserStore.peek`."""
        t = self.tables
        with t.transaction(Scope((key,)), writes=False):
            now, generation = t.now(), t.generation()
            found = live_ones(t.heads([resolve(t, key, now)]), now)
            return found[0] if found and found[0].record.generation == generation else None

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`.base.UserStore.sessions_of`."""
        t = self.tables
        with t.transaction(Scope(user=user), writes=False):
            now, heads = t.now(), t.of_user(user)
        # Decoded outside the transaction: other calls need not wait for it.
        return live_ones(heads, now)

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`.base.UserStore.end_user`."""
        t = self.tables
        with t.transaction(Scope((keep,) if keep else (), user), durable=True):
            now = t.now()
            kept = resolve(t, keep, now) if keep else ""
            ended = [one for one in live_ones(t.of_user(user), now) if one.key != kept]
            t.remove(*(listed.key for listed in ended))  # at once: each may cost a round trip
            for listed in ended:
                keep_end(t, listed.key, listed.record, Ending(reason, stamp), now)
            return ended

    # -- sessions from older places -------------------------------------------------------------

    def adopt(
        self, link: str, key: str, draft: Draft, rules: Rules, until: int
    ) -> Live | Moved | Gone:
        """See :meth:`.base.AdoptingStore.adopt`."""
        t, keys = self.tables, (key, link, adoption.closing(draft.user))
        with t.transaction(Scope(keys, draft.user, rules.cap), durable=draft.user != NO_USER):
            return adoption.adopt(t, link, key, draft, rules, until)

    def point(self, link: str, key: str, until: int) -> None:
        """See :meth:`.sharded.Shard.point`."""
        t = self.tables
        with t.transaction(Scope((link,))):
            adoption.point(t, link, key, until)

    def follow(self, link: str) -> str:
        """See :meth:`.base.AdoptingStore.follow`."""
        t = self.tables
        with t.transaction(Scope((link,)), writes=False):
            return adoption.follow(t, link, t.now())

    def close_adoption(self, user: str, until: int) -> None:
        """See :meth:`.base.AdoptingStore.close_adoption`."""
        t = self.tables
        with t.transaction(Scope((adoption.closing(user),), user), durable=True):
            adoption.close(t, user, until)

    def adoptions(self) -> Adoptions:
        """See :meth:`.base.AdoptingStore.adoptions`."""
        t = self.tables
        with t.transaction(Scope(), writes=False):
            return adoption.count(t)

    # -- all sessions ---------------------------------------------------------------------------

    def end_all(self, stamp: str) -> None:
        """See :meth:`.base.Store.end_all`. The purge removes the sessions in steps."""
        t = self.tables
        with t.transaction(Scope(task="all"), durable=True):
            t.begin_generation(stamp)

    def page(self, tier: str, after: str, limit: int, before: int = 0) -> Page:
        """See :meth:`.base.IndexedStore.page`."""
        t = self.tables
        group = tier if tier == ANONYMOUS_TIER else tier_tag(tier)
        last = Entry.at(after) if after else Entry(before, "")
        with t.transaction(Scope(), writes=False):
            found = t.latest(group, t.now(), limit, last if last.deadline else None)
            heads = t.heads(entry.key for entry in found)
        end = found[-1].cursor if len(found) == limit else ""
        return Page(tuple(read_heads(heads)), end)

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.IndexedStore.purge`."""
        t = self.tables
        with t.transaction(Scope(task="purge", limit=limit)):
            now = t.now()
            forget(t, now)
            over = t.take_over(now, limit)
            for gone, user in over:
                keep_reason(t, gone.key, user, gone.reason, now)
            victims = over_the_cap(t, rules, now, limit - len(over))
            trimmed = dismiss(t, victims, now)
            removed = (*(gone for gone, _ in over), *trimmed)
            more = len(over) + len(victims) >= limit
            return PurgeStep(len(over), len(trimmed), more, removed)

    def count(self, rules: Rules) -> Counts:
        """See :meth:`.base.IndexedStore.count`."""
        t = self.tables
        with t.transaction(Scope(), writes=False):
            now = t.now()
            live, due, oldest = {ANONYMOUS_TIER: 0}, 0, now
            for group, count in t.counts().items():
                past = t.count_due(group, now)
                tier = group if group == ANONYMOUS_TIER else rules.policy.name_of(group)
                live[tier] = live.get(tier, 0) + count - past
                due += past
                oldest = min(oldest, *(entry.deadline for entry in t.nearest(group, 1)), now)
            return Counts(live, due, now - oldest)

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """See :meth:`.base.IndexedStore.audit`."""
        return audit.step(self.tables, rules.policy, limit)

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`.base.IndexedStore.lease`."""
        t, name = self.tables, f"lease:{task}"
        with t.transaction(Scope(task="documents", document=name)):
            now = t.now()
            if t.document(name)[1] > now:
                return False
            t.put_document(name, b"1", now + milliseconds)
            return True

    def document(self, name: str) -> Document:
        """See :meth:`.base.IndexedStore.document`."""
        t, name = self.tables, _DOCUMENT + name
        with t.transaction(Scope(document=name), writes=False):
            return Document(*t.document(name), t.now())

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        """See :meth:`.base.IndexedStore.keep`."""
        t, name = self.tables, _DOCUMENT + name
        with t.transaction(Scope(task="documents", document=name)):
            now, (found, _) = t.now(), t.document(name)
            if found == expected:
                t.put_document(name, document, now)
            return found in (expected, document)

    def inspect(self) -> list[Finding]:
        """See :meth:`.base.Store.inspect`: there is nothing to set up."""
        return []

    def close(self) -> None:
        """See :meth:`.base.Store.close`: there is nothing to release."""
