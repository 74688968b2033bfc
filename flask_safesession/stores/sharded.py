"""Stores sessions in several stores, its shards: slots of Redis servers, or several databases.

A key begins with one of 64 letters, which selects the shard: random for an anonymous session, the
same for all sessions of a user. Each operation on a session is one call to its shard. Only a login
where the user's shard is another one needs two: the new session is created, then the old one is
ended. Until then no visitor has the new ID. A request that lost a race removes its new session; if
that fails, the session expires by its idle timeout.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Protocol, TypeVar

from ..errors import StoreUnavailable
from ..events import Event, SessionEnded
from ..model.reason import Reason
from ..model.record import Draft, Record
from ..model.tokens import NO_USER, new_stamp
from .base import (
    AdoptingStore,
    Adoptions,
    Answer,
    AuditStep,
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
    RemoteStore,
    Rules,
    Taken,
    Terms,
)
from .remote.deadline import deadline

#: The letters with which keys begin.
LETTERS: str = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
#: The largest number of shards: one for each letter.
MAX_SHARDS = len(LETTERS)

# The reason on the tombstone of a new session that lost a race.
_WITHDRAWN = "withdrawn"
_T = TypeVar("_T")


def shard_of(key: str, shards: int) -> int:
    """Returns the index of the shard of a key or a user's tag.

    :param shards: the number of shards.
    """
    return LETTERS.find(key[:1]) % shards


def on_each(places: Iterable[_T], act: Callable[[_T], None]) -> None:
    """Act on each of several places. If one does not answer, the others are done all the same."""
    failed: StoreUnavailable | None = None
    for place in places:
        try:
            act(place)
        except StoreUnavailable as error:
            failed = error
    if failed is not None:
        raise failed


class Shard(AdoptingStore, Protocol):
    """What a store needs beside the protocols in :mod:`.base` to be a shard."""

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None, onward: Onward | None = None
    ) -> Answer:
        """End the session; *onward*, for the tombstone: where it continues in another shard."""
        ...

    def point(self, link: str, key: str, until: int) -> None:
        """Store that *link* leads to *key*, which is in another shard; unless there is a link."""
        ...

    def resolve(self, key: str) -> str:
        """Returns the key under which the session continues, by the tombstones of this shard."""
        ...


class Sharded:
    """One store over several.

    :param shards: in the same order in all processes, for ever.
    :param notify: called with :class:`.SessionEnded` for sessions that a failed login evicted.
    :param remote: the servers of all shards, if they are on servers.
    :param timeout: seconds that one operation may take, over all its calls.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        notify: Callable[[Event], None],
        remote: RemoteStore | None = None,
        timeout: float = inf,
    ) -> None:
        self.shards: Sequence[Shard] = shards
        self.shared: bool = shards[0].shared
        self.remote: RemoteStore | None = remote
        # Shards on the same servers also share their connections.
        self._apart = shards if remote is None else shards[:1]
        self._notify = notify
        self._timeout = timeout
        self._rules: tuple[Rules | None, Rules | None] = (None, None)
        self._auditing = 0

    # -- one session ----------------------------------------------------------------------------

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        return self._at(key).load(key, self._share(rules), slide=slide)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        answer = self._at(key).create(key, draft, self._share(rules))
        if isinstance(answer, Taken):
            return answer
        return answer._replace(total=answer.total * len(self.shards))

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
        return self._at(key).commit(key, draft, expected, touch=touch, loaded=loaded)

    def refile(self, key: str, draft: Draft, expected: str) -> Answer | None:
        """See :meth:`.base.Store.refile`."""
        shard = self._at(key)
        if draft.user != NO_USER and self._at(draft.user) is not shard:
            return None
        return shard.refile(key, draft, expected)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Answer | Taken:
        """See :meth:`.base.Store.rotate`."""
        return self._follow(key, lambda shard, at: self._move(shard, at, new, draft, rules, terms))

    def end(self, key: str, stamp: str, reason: str, expected: str | None) -> Answer:
        """See :meth:`.base.Store.end`."""
        return self._follow(key, lambda shard, at: shard.end(at, stamp, reason, expected))

    # -- sessions of users ----------------------------------------------------------------------

    def peek(self, key: str) -> Listed | None:
        """See :meth:`.base.UserStore.peek`."""
        found = self._follow(key, lambda shard, at: shard.peek(at) or Gone(Reason.UNKNOWN))
        return found if isinstance(found, Listed) else None

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`.base.UserStore.sessions_of`."""
        return self._at(user).sessions_of(user)

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`.base.UserStore.end_user`."""
        shard = self._at(user)
        with deadline(self._timeout):
            if keep and self._at(keep) is not shard and (kept := self.peek(keep)):
                keep = kept.key  # it was rotated into the user's shard
            return shard.end_user(user, stamp, reason, keep)

    # -- sessions from older places -------------------------------------------------------------

    def adopt(
        self, link: str, key: str, draft: Draft, rules: Rules, until: int
    ) -> Live | Moved | Gone:
        """See :meth:`.base.AdoptingStore.adopt`.

        Link and session are in the shard of the session's user. If the link alone leads to another
        shard, that one gets a pointer, after the step that decides: the old session is deleted only
        then, and until then leads to the same user.
        """
        home, other = self._at(key), self._at(link)
        with deadline(self._timeout):
            if other is not home and (there := other.follow(link)):
                return Moved(there)
            answer = home.adopt(link, key, draft, self._share(rules), until)
            if other is not home and not isinstance(answer, Gone):
                other.point(link, answer.key if isinstance(answer, Moved) else key, until)
        if isinstance(answer, Live):
            return answer._replace(total=answer.total * len(self.shards))
        return answer

    def follow(self, link: str) -> str:
        """See :meth:`.base.AdoptingStore.follow`."""
        return self._at(link).follow(link)

    def close_adoption(self, user: str, until: int) -> None:
        """See :meth:`.base.AdoptingStore.close_adoption`."""
        if user:
            self._at(user).close_adoption(user, until)
        else:
            on_each(self.shards, lambda shard: shard.close_adoption(user, until))

    def adoptions(self) -> Adoptions:
        """See :meth:`.base.AdoptingStore.adoptions`."""
        with deadline(self._timeout):
            found = [shard.adoptions() for shard in self.shards]
        last = max(one.last for one in found)
        return Adoptions(sum(one.total for one in found), last, found[0].now)

    # -- all sessions ---------------------------------------------------------------------------

    def end_all(self, stamp: str) -> None:
        """See :meth:`.base.Store.end_all`."""
        on_each(self.shards, lambda shard: shard.end_all(stamp))

    def page(self, tier: str, after: str, limit: int, before: int = 0) -> Page:
        """See :meth:`.base.IndexedStore.page`; shard by shard."""
        first, _, last = (after or "0:").partition(":")
        found: list[Listed] = []
        for number in range(int(first), len(self.shards)):
            page = self.shards[number].page(tier, last, limit - len(found), before)
            found += page.sessions
            if page.next:
                return Page(tuple(found), f"{number}:{page.next}")
            last = ""
        return Page(tuple(found), "")

    def count(self, rules: Rules) -> Counts:
        """See :meth:`.base.IndexedStore.count`."""
        live = Counter[str]()
        with deadline(self._timeout):
            found = [shard.count(self._share(rules)) for shard in self.shards]
        for one in found:
            live.update(one.live)
        return Counts(live, sum(one.due for one in found), max(one.overdue for one in found))

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.IndexedStore.purge`."""
        done = PurgeStep(0, 0, False)
        for shard in self.shards:
            left = limit - done.due - done.trimmed
            if left <= 0:
                return done._replace(more=True)
            step = shard.purge(self._share(rules), left)
            due, trimmed = done.due + step.due, done.trimmed + step.trimmed
            done = PurgeStep(due, trimmed, done.more or step.more, done.removed + step.removed)
        return done

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """See :meth:`.base.IndexedStore.audit`; shard by shard."""
        step = self.shards[self._auditing].audit(self._share(rules), limit)
        self._auditing = (self._auditing + step.done) % len(self.shards)
        return step._replace(done=step.done and self._auditing == 0)

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`.base.IndexedStore.lease`."""
        return self.shards[0].lease(task, milliseconds)

    def document(self, name: str) -> Document:
        """See :meth:`.base.IndexedStore.document`: the first shard has all of them."""
        return self.shards[0].document(name)

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        """See :meth:`.base.IndexedStore.keep`."""
        return self.shards[0].keep(name, document, expected)

    def inspect(self) -> list[Finding]:
        """See :meth:`.base.Store.inspect`."""
        return [found for shard in self._apart for found in shard.inspect()]

    def close(self) -> None:
        """See :meth:`.base.Store.close`."""
        for shard in self._apart:
            shard.close()

    # -- the shard of a key ---------------------------------------------------------------------

    def _at(self, key: str) -> Shard:
        """Returns the shard of a session's key or of a user's tag."""
        return self.shards[shard_of(key, len(self.shards))]

    def _share(self, rules: Rules) -> Rules:
        """Returns *rules* for one shard; the same object each time, so that stores can cache."""
        given, share = self._rules
        if given is not rules or share is None:
            share = rules.share(len(self.shards))
            self._rules = rules, share
        return share

    def _follow(self, key: str, ask: Callable[[Shard, str], _T | Gone]) -> _T | Gone:
        """Returns the answer of the shard that has the session.

        A rotation without a login may have moved it to another shard. Inside a shard the store
        follows rotations itself.
        """
        shard = self._at(key)
        with deadline(self._timeout):
            answer = ask(shard, key)
            if isinstance(answer, Gone) and answer.reason == Reason.UNKNOWN:
                there = shard.resolve(key)
                if self._at(there) is not shard:
                    return self._follow(there, ask)
            return answer

    # -- a rotation from one shard to another ---------------------------------------------------

    def _move(
        self, shard: Shard, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Answer | Taken:
        """Rotate a session that is in *shard*; into another one: create, then end."""
        if shard is self._at(new):
            return shard.rotate(key, new, draft, self._share(rules), terms)
        if terms.expected is None and terms.reason != Reason.ROTATED:
            return self._end_first(shard, key, new, draft, rules, terms)
        if not terms.restart:
            if terms.expected is None:
                key = shard.resolve(key)
            old = shard.load(key, self._share(rules), slide=False)
            if isinstance(old, Live):
                last_active = 0 if terms.slide else old.record.last_active
                draft = draft._replace(created=old.record.created, last_active=last_active)
            elif old.successor != new:  # otherwise this is a repeated call
                return old
        onward = terms.onward(new, draft.user)
        with self._withdrawn_by_outage(new):
            made = self.create(new, draft, rules)
            if not isinstance(made, Live):
                return made
            ended = shard.end(key, draft.stamp, terms.reason, terms.expected, onward)
        if _is_over(ended):
            return made
        self._withdraw(new)  # another request was faster
        for gone in made.removed:  # the caller does not receive them
            self._notify(SessionEnded(gone.key, gone.reason, rules.policy.name_of(gone.tier)))
        return ended

    def _end_first(
        self, shard: Shard, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Answer | Taken:
        """Rotate by a logout that keeps data: end first, so that the end is certain."""
        ended = shard.end(key, draft.stamp, terms.reason, None, terms.onward(new, draft.user))
        if not _is_over(ended):
            return ended
        if isinstance(ended, Live) and not terms.restart:
            draft = draft._replace(created=ended.record.created)
        with self._withdrawn_by_outage(new):
            return self.create(new, draft, rules)

    @contextmanager
    def _withdrawn_by_outage(self, key: str) -> Iterator[None]:
        """Withdraw the new session under *key* if a server does not answer."""
        try:
            yield
        except StoreUnavailable:
            self._withdraw(key)  # it may have been created
            raise

    def _withdraw(self, key: str) -> None:
        """End a session whose ID no visitor has; if that fails, it expires by its idle timeout."""
        with suppress(StoreUnavailable):
            self.end(key, new_stamp(), _WITHDRAWN, None)


def _is_over(ended: object) -> bool:
    """Returns whether this call, or an earlier try of it, ended the session."""
    return isinstance(ended, Live) or (isinstance(ended, Gone) and ended.repeated)
