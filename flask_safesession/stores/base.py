"""Defines a store: a few operations, each one atomic step by the store's own clock.

A store never receives an ID (a *key* is its digest) and never reads a payload. "Absent, expired or
not ours" is an answer (:class:`Gone`), not an error. Every operation raises
:class:`~flask_safesession.errors.StoreUnavailable` when the store does not answer.

More abilities are in four other protocols: :class:`UserStore`, :class:`IndexedStore`,
:class:`AdoptingStore` and :class:`RemoteStore`. A store is complete when it passes
:class:`flask_safesession.testing.StoreContract`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from ..events import Event
from ..model.policy import Policy
from ..model.reason import Reason
from ..model.record import Draft, Record
from ..model.tokens import NO_USER

#: How long a tombstone is kept, in milliseconds.
TOMBSTONE_TTL = 60_000
#: The reasons that are shown to the visitors of users' sessions; kept for a day.
VISITOR_REASONS = (
    Reason.IDLE,
    Reason.LIFETIME,
    Reason.EVICTED,
    Reason.REVOKED,
    Reason.REPLAYED,
)
#: How long these are kept, in milliseconds.
VISITOR_REASON_TTL = 86_400_000
#: Bytes of a record that lists read: its header, its note, and perhaps some of its payload.
LISTED = 1024
#: Live sessions that one call evicts at most. After a cap was lowered, the purge evicts the rest.
MAX_EVICTIONS = 100
#: Tombstones of one user that are kept at most.
MAX_TOMBSTONES_OF_USER = 100
#: Tombstones that are kept at most, of anonymous sessions and of users' sessions each.
MAX_TOMBSTONES = 10_000

#: How long links and closings of adoption are kept at least, in milliseconds: browsers keep no
#: cookie for longer (RFC 6265bis, 5.5). An earlier date of end may still be moved.
LINK_TTL = 400 * 86_400_000
#: Links that a store keeps at most, and users for whom adoption is closed. At the limit nothing
#: more is adopted; the last 5 % of the links are for users' sessions.
MAX_LINKS = 1_000_000
LINKS_OF_ANONYMOUS = MAX_LINKS * 95 // 100


class Cap(NamedTuple):
    """The caps on the number of sessions.

    :param total: live sessions in all.
    :param users: sessions with a user, 95 % of *total* at most: the rest is for anonymous ones.
    :param per_user: sessions of one user; the next one ends the user's oldest.
    :param evict: a full store evicts sessions; otherwise it refuses new ones.
    :param per_tier: caps of one user's sessions by tier; *per_user* is for the other tiers. Empty:
        *per_user* counts the sessions of all tiers together.
    :param refuse: refuse a user's next session instead of ending the user's oldest.
    """

    total: int
    users: int
    per_user: int
    evict: bool
    per_tier: Mapping[str, int] = {}
    refuse: bool = False

    @classmethod
    def of(cls, total: int, per_user: int, *, evict: bool) -> Cap:
        """Returns a cap that reserves a 20th, at least one session, for anonymous sessions."""
        return cls(total, _users_share(total), per_user, evict)

    def share(self, shards: int) -> Cap:
        """Returns the cap of one shard of several; a user's sessions are all in one shard."""
        if shards == 1:
            return self
        total = max(2, self.total // shards)
        return self._replace(total=total, users=_users_share(total))


def _users_share(total: int) -> int:
    return max(1, total - max(1, -(-total // 20)))


class Rules(NamedTuple):
    """The limits and caps that a store enforces, passed with each call that needs them."""

    policy: Policy
    cap: Cap

    def share(self, shards: int) -> Rules:
        """Returns the rules of one shard of several; the same object if there is only one."""
        return self if shards == 1 else self._replace(cap=self.cap.share(shards))


class Removed(NamedTuple):
    """A session that the store removed, and the reason."""

    key: str
    tier: str
    reason: str


class Live(NamedTuple):
    """A live session, and the sessions that were evicted to make room for it.

    :param now: the store's clock, in milliseconds.
    :param total: sessions in the store after an admission; 0: not counted.
    :param key: the key that was ended, which may be a rotated one; empty in other answers.
    """

    record: Record
    now: int
    removed: tuple[Removed, ...] = ()
    total: int = 0
    key: str = ""


class Gone(NamedTuple):
    """There is no live session.

    :param reason: ``unknown``; ``idle`` or ``lifetime`` if this call found it due and removed it;
        ``corrupt`` if its record cannot be read; or the stored reason.
    :param has_tombstone: it was ended explicitly, within the last minute.
    :param tier: the tag of its tier, if this call removed it.
    :param repeated: an earlier try of this call, whose reply was lost, ended it.
    :param for_visitor: it was a user's, and *reason* may be shown to the visitor.
    :param successor: the key under which the session continues, if it was rotated.
    :param user: the user tag of that successor.
    """

    reason: str
    has_tombstone: bool = False
    tier: str = ""
    repeated: bool = False
    for_visitor: bool = False
    successor: str = ""
    user: str = ""

    @property
    def was_due(self) -> bool:
        """Whether this call removed it, or found that it cannot be read."""
        past = self.has_tombstone or (self.for_visitor and not self.tier)
        return self.reason != Reason.UNKNOWN and not past

    @property
    def reason_for_visitor(self) -> str | None:
        """The reason, if it should be shown to the visitor."""
        is_known = self.for_visitor or self.has_tombstone
        return self.reason if is_known and self.reason in VISITOR_REASONS else None


class Conflict(NamedTuple):
    """Another request has written the session since it was loaded; its current record."""

    record: Record


class Moved(NamedTuple):
    """An old session was adopted before, under this key."""

    key: str


class Adoptions(NamedTuple):
    """What a store knows of adoption.

    :param total: sessions that were adopted, as far as their links are still kept.
    :param last: when the last one was, to the minute, in milliseconds; 0: never.
    :param now: the store's time.
    """

    total: int
    last: int
    now: int


class Taken(NamedTuple):
    """The key is in use. The caller has to take another ID."""


#: The answers to a write.
Answer: TypeAlias = "Live | Gone | Conflict"


class Listed(NamedTuple):
    """A session in a list. The payload of *record* is cut off: :data:`LISTED` bytes in all."""

    key: str
    record: Record


def newest_first(sessions: Iterable[Listed]) -> list[Listed]:
    """Returns *sessions* in the order of lists."""
    return sorted(sessions, key=lambda listed: (-listed.record.created, listed.key))


class Page(NamedTuple):
    """Some sessions of a store, those that expire last first.

    :param next: the *after* of the next page; empty: this is the last.
    """

    sessions: tuple[Listed, ...]
    next: str


class PurgeStep(NamedTuple):
    """The result of one bounded purge step.

    :param due: sessions removed because they were due.
    :param trimmed: live sessions removed because the store was over its cap.
    :param more: there is more to do.
    """

    due: int
    trimmed: int
    more: bool
    removed: tuple[Removed, ...] = ()


class Counts(NamedTuple):
    """The number of sessions.

    :param live: sessions that are not due, by tier; anonymous sessions are under ``anonymous``.
    :param due: sessions past their deadline that are not removed yet.
    :param overdue: milliseconds since the deadline of the oldest of these.
    """

    live: Mapping[str, int]
    due: int
    overdue: int

    @property
    def total(self) -> int:
        """Live sessions in all."""
        return sum(self.live.values())


class AuditStep(NamedTuple):
    """The result of one step of an audit.

    :param repaired: differences between index and records that were fixed.
    :param done: the round is complete, and the next step begins another.
    :param limited: sessions whose limits were shortened.
    :param behind: limits have become shorter, and this round has not yet reached all sessions.
    """

    repaired: int
    done: bool
    limited: int = 0
    behind: bool = False


class Document(NamedTuple):
    """A document that a store keeps under a name; see :class:`IndexedStore`.

    :param document: empty: there is none.
    :param written: when, by the store's clock in milliseconds.
    :param now: that clock now.
    """

    document: bytes
    written: int
    now: int


class Finding(NamedTuple):
    """Something that ``flask safesession check`` reports.

    :param name: for ``--ignore``: one that the command knows; any other is shown as ``store``.
    :param text: one sentence, with the fix.
    """

    name: str
    text: str


class Store(Protocol):
    """The operations on one session, and the end of all.

    :param shared: several processes share the sessions.
    """

    shared: bool

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """Returns the session. If *slide* and the touch interval has passed, records the use.

        The first use after the creation is always recorded. Limits that are shorter than those of
        the record are applied; longer ones are not. Those of an extended session are the most
        that its tier allows (:attr:`.record.Record.limits_tag`).
        """
        ...

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """Store a new session, with admission.

        :raises StoreFull: the store is full, and no session may be evicted.
        :raises TooManySessions: the user has as many as allowed, and none may be evicted.
        """
        ...

    def commit(
        self,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> Answer:
        """Replace the session's data and limits if its last stamp is *expected*.

        Tier and user stay; if *draft* has others, the session was refiled meanwhile, and the answer
        is a conflict. A repeated call that finds its own stamp among the last three is done.

        :param touch: the touch interval in milliseconds; ``None``: this is not a use.
        :param loaded: the record that the caller loaded: some stores need not read it again.
        :raises StoreUnavailable: also if the reply of an earlier try was lost, and its stamp and
            *expected* are both not among the last three: it cannot be known whether it was done.
        """
        ...

    def refile(self, key: str, draft: Draft, expected: str) -> Answer | None:
        """File the session under the tier, user and limits of *draft*.

        Key, data, note, age, last use and stamps stay; nothing is evicted. A repeated call changes
        nothing. ``None``: the sessions of that user are in another shard.

        :param expected: the last stamp that the session must have.
        """
        ...

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Answer | Taken:
        """End the session under *key* and store it under *new*, in one step.

        Without an expected stamp, rotations are followed as in :meth:`end`.

        :raises StoreFull: and ``TooManySessions``, as in :meth:`create`; nothing was changed.
        """
        ...

    def end(self, key: str, stamp: str, reason: str, expected: str | None) -> Answer:
        """End the session and leave a tombstone with *reason*. The answer has its last record.

        Without *expected*, rotations without a sign-in are followed: the session also ends under
        the key that it got meanwhile.

        :param stamp: identifies this call, so that a repeated one is recognised.
        :param expected: the last stamp that the session must have; ``None``: any.
        """
        ...

    def end_all(self, stamp: str) -> None:
        """End all sessions in one step, with reason ``revoked``; with several shards, one by one.

        Raises the store's generation by one: sessions of other generations have ended. No times
        are compared.

        :param stamp: identifies this call, so that a repeated one is recognised.
        """
        ...

    def inspect(self) -> list[Finding]:
        """Returns a finding for each problem in the store's set-up."""
        ...

    def close(self) -> None:
        """Release connections. The store can be used again afterwards."""
        ...


class Onward(NamedTuple):
    """Where a rotated session continues.

    :param key: its new key.
    :param user: the tag of its user there.
    :param sign_in: it was rotated by a sign-in: an end of the old key does not follow.
    """

    key: str
    user: str
    sign_in: bool


class Terms(NamedTuple):
    """The terms of a rotation.

    :param expected: the last stamp that the session must have; ``None``: any.
    :param restart: idle time and lifetime restart (a sign-in); otherwise the session keeps its age.
    :param reason: for the tombstone of the old key. With ``rotated``, or for a sign-in, the
        tombstone also has the new key.
    :param slide: the idle time restarts; not in a passive view.
    """

    expected: str | None
    restart: bool
    reason: str
    slide: bool = True

    def onward(self, key: str, user: str) -> Onward | None:
        """Returns what the tombstone has of the session's new *key*; ``None``: nothing.

        :param user: the tag of its user there.
        """
        leads = self.reason == Reason.ROTATED or (self.restart and user != NO_USER)
        return Onward(key, user, self.restart) if leads else None


class UserStore(Store, Protocol):
    """A store that can list and end the sessions of one user."""

    def peek(self, key: str) -> Listed | None:
        """Returns the live session under *key*, also after rotations, without recording a use.

        ``None``: there is none.
        """
        ...

    def sessions_of(self, user: str) -> list[Listed]:
        """Returns the live sessions of the user with that tag, newest first.

        The cost grows with their number.
        """
        ...

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """End all sessions of a user in one step, and return them.

        A concurrent login is ended or comes after it. A call that is repeated after a lost reply
        also ends sessions made meanwhile, and does not return those that it ended before.

        :param keep: the key of a session to keep, also after rotations; empty: none.
        """
        ...


class IndexedStore(UserStore, Protocol):
    """A store that can list and count all sessions, enforces caps, and is purged by a job.

    It also keeps a few small documents, each under a name, for all its processes.
    """

    def page(self, tier: str, after: str, limit: int, before: int = 0) -> Page:
        """Returns up to *limit* live sessions of a tier (``anonymous``: of anonymous visitors).

        Costs *limit* look-ups. A session that changes between two pages may be missing or listed
        twice.

        :param tier: the name of a tier.
        :param after: the ``next`` of the previous page; empty: from the beginning.
        :param before: for a first page: only sessions whose deadline is before this time, in
            milliseconds; 0: all.
        """
        ...

    def count(self, rules: Rules) -> Counts:
        """Returns the number of sessions. Costs a few index look-ups, never a walk."""
        ...

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """Remove up to *limit* sessions: due ones, oldest first, then those over the cap."""
        ...

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """Continue a round over all sessions, for about *limit* of them.

        Fixes differences between index and records, and applies the limits in *rules* where they
        are shorter than those of a record; sessions that are due then are left to the purge. A
        round restarts when a limit has become shorter.
        """
        ...

    def lease(self, task: str, milliseconds: int) -> bool:
        """Returns whether the caller got the lease of *task*, which excludes others for so long."""
        ...

    def document(self, name: str) -> Document:
        """Returns the document under *name* (lower-case letters)."""
        ...

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        """Replace *expected* by *document* (not empty). Returns whether *document* is stored now.

        So a call that is repeated after a lost reply also returns ``True``.
        """
        ...


class AdoptingStore(IndexedStore, Protocol):
    """A store that adopts sessions from older places, each once.

    A *link* is a digest of an old ID, in the form of a key. It leads to the session that was made
    for that ID, and outlasts it: as long as there is a link, nothing is made again.
    """

    def adopt(
        self, link: str, key: str, draft: Draft, rules: Rules, until: int
    ) -> Live | Moved | Gone:
        """Store an old session under *key*, with admission, and its link, in one step.

        If there is a link, nothing changes, and the answer says where it leads. ``Gone``: adoption
        is closed for the user or for all, or has ended, or the session has expired.

        :param until: when adoption ends, by the store's clock in milliseconds; 0: without a date.
        :raises StoreFull: and ``TooManySessions``, as in :meth:`Store.create`; nothing was changed.
        """
        ...

    def follow(self, link: str) -> str:
        """Returns the key to which *link* leads; empty: there is no link."""
        ...

    def close_adoption(self, user: str, until: int) -> None:
        """Adopt no more sessions of the user with that tag; empty: of nobody.

        :param until: as in :meth:`adopt`.
        """
        ...

    def adoptions(self) -> Adoptions:
        """Returns the number of adopted sessions. May count them one by one."""
        ...


class RemoteStore(Protocol):
    """A store on servers, which may be down while the app runs."""

    def prepare(self) -> None:
        """Check when an app starts that the store matches the settings.

        A store that is down is checked by its first call.

        :raises ConfigError: it does not, with the fix.
        """
        ...

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """Send *listener* an event when a server stops or starts to answer."""
        ...

    def states(self) -> Mapping[str, str]:
        """Returns the state of each server's circuit breaker in this process.

        ``open``, ``half-open`` or ``closed``.
        """
        ...
