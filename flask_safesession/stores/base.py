"""What a store is: a handful of operations, each one atomic step by the store's own clock.

A store never sees an ID (a *key* is its digest) and never looks into a payload. "Absent, expired or
not ours" is an answer (:class:`Gone`), not an error. Every operation raises
:class:`~flask_safesession.errors.StoreUnavailable` when the store did not answer.

What a store can do beyond keeping sessions is in three protocols more: :class:`UserStore`,
:class:`IndexedStore` and :class:`RemoteStore`. A store that passes
:class:`flask_safesession.testing.StoreContract` is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from ..events import Event
from ..model.policy import Policy
from ..model.record import Draft, Record
from ..model.tokens import NO_USER

#: How long an explicit end is remembered, in milliseconds.
TOMBSTONE_TTL = 60_000
#: Why a :class:`Gone` session is not there, beside the reasons of a tombstone.
UNKNOWN = "unknown"
#: The reason of a session that goes on under another key.
ROTATED = "rotated"
#: The reason of a session that its visitor ended.
LOGOUT = "logout"
#: The reason of what cannot be read, or is no session of ours.
CORRUPT = "corrupt"
#: The reason of a session that had to make room for another.
EVICTED = "evicted"
#: The reason of a session of which an old secret came back twice: it was stolen.
REPLAYED = "replayed"
#: The reason of a session that was ended by an administrator, or from another device.
REVOKED = "revoked"
#: Why users' sessions end that their visitors are shown; remembered for a day.
VISITOR_REASONS = ("idle", "lifetime", EVICTED, REVOKED, REPLAYED)
#: How long that is, in milliseconds.
VISITOR_REASON_TTL = 86_400_000
#: Bytes of a record that lists get: its head, its note, and perhaps some of its payload.
LISTED = 1024
#: Live sessions that one call evicts at most, after a cap was lowered: the purge does the rest.
MAX_EVICTIONS = 100
#: Tombstones that are kept for one user at most.
MAX_TOMBSTONES_OF_USER = 100
#: Tombstones of anonymous sessions, and of users' sessions, that are kept at most of each.
MAX_TOMBSTONES = 10_000


class Cap(NamedTuple):
    """How many sessions there may be.

    :param total: live sessions in all.
    :param users: of these, sessions with a user: 95 % at most: the rest is for anonymous ones.
    :param per_user: sessions of one user; one more ends that user's oldest.
    :param evict: make room by evicting; otherwise a full store refuses.
    :param per_tier: by tier, where each has a number of its own: then only a user's sessions of
        the same tier count, and *per_user* is for tiers without one.
    :param refuse: refuse a user's next session instead of ending that user's oldest.
    """

    total: int
    users: int
    per_user: int
    evict: bool
    per_tier: Mapping[str, int] = {}
    refuse: bool = False

    @classmethod
    def of(cls, total: int, per_user: int, *, evict: bool) -> Cap:
        """Returns a cap that leaves a 20th to anonymous sessions, and one session at least."""
        return cls(total, _users_share(total), per_user, evict)

    def share(self, shards: int) -> Cap:
        """The cap of one shard of several; a user's sessions are all in one."""
        if shards == 1:
            return self
        total = max(2, self.total // shards)
        return self._replace(total=total, users=_users_share(total))


def _users_share(total: int) -> int:
    return max(1, total - max(1, -(-total // 20)))


class Rules(NamedTuple):
    """What a store has to enforce, handed to it with each call that needs it."""

    policy: Policy
    cap: Cap

    def share(self, shards: int) -> Rules:
        """Returns the rules of one shard of several; the same object if there is only one."""
        return self if shards == 1 else self._replace(cap=self.cap.share(shards))


class Removed(NamedTuple):
    """A session that the store removed by itself, and why (``idle``, ``lifetime``, ``evicted``)."""

    key: str
    tier: str
    reason: str


class Live(NamedTuple):
    """A live session, and the sessions that were evicted to make room for it.

    :param now: the store's clock, in milliseconds.
    :param total: sessions in the store after an admission; 0 where nothing was counted.
    :param key: what an end has ended: the session may have moved.
    """

    record: Record
    now: int
    removed: tuple[Removed, ...] = ()
    total: int = 0
    key: str = ""


class Gone(NamedTuple):
    """The session is not there.

    :param reason: ``unknown``; ``idle`` or ``lifetime`` where this call found it due and removed
        it; ``corrupt`` where something else stands in its place; or the reason on its tombstone.
    :param has_tombstone: it was ended on purpose, a moment ago.
    :param tier: the tag of the tier it had, where this call removed it.
    :param repeated: this very call ended it already, and the reply was lost.
    :param for_visitor: it was a user's, and ended a while ago, or by this call: the visitor may be
        shown the reason.
    :param successor: the key under which the session goes on, if it was rotated.
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
        """This call found that it had to go, or that it cannot be read."""
        past = self.has_tombstone or (self.for_visitor and not self.tier)
        return self.reason != UNKNOWN and not past

    @property
    def reason_for_visitor(self) -> str | None:
        """Why it ended, if the visitor should be shown that."""
        is_known = self.for_visitor or self.has_tombstone
        return self.reason if is_known and self.reason in VISITOR_REASONS else None


class Conflict(NamedTuple):
    """Someone else wrote the session since it was loaded: this is what it is now."""

    record: Record


class Taken(NamedTuple):
    """There is something under this key already; take another ID."""


#: What a write to a session answers.
Answer: TypeAlias = "Live | Gone | Conflict"


class Listed(NamedTuple):
    """A session in a list. The payload of *record* is cut off: :data:`LISTED` bytes in all."""

    key: str
    record: Record


def newest_first(sessions: Iterable[Listed]) -> list[Listed]:
    """In the order in which lists show them."""
    return sorted(sessions, key=lambda listed: (-listed.record.created, listed.key))


class Page(NamedTuple):
    """Some sessions of a store, those that end last first.

    :param next: where to go on; empty at the end.
    """

    sessions: tuple[Listed, ...]
    next: str


class PurgeStep(NamedTuple):
    """What one bounded purge step did.

    :param due: sessions removed because they were due.
    :param trimmed: live sessions removed because the store was over its cap.
    :param more: there is more to do.
    """

    due: int
    trimmed: int
    more: bool
    removed: tuple[Removed, ...] = ()


class Counts(NamedTuple):
    """How many sessions there are.

    :param live: sessions that are not due, by tier; anonymous sessions are under ``anonymous``.
    :param due: sessions past their deadline that are still to be removed.
    :param overdue: milliseconds since the oldest of these was due.
    """

    live: Mapping[str, int]
    due: int
    overdue: int

    @property
    def total(self) -> int:
        """Live sessions in all."""
        return sum(self.live.values())


class AuditStep(NamedTuple):
    """What one slice of an audit did.

    :param mended: places where index and records differed.
    :param done: everything has been seen once, and the next slice begins anew.
    :param limited: sessions that were put under shorter limits.
    :param behind: limits have become shorter, and this round has not yet seen all sessions.
    """

    mended: int
    done: bool
    limited: int = 0
    behind: bool = False


class Document(NamedTuple):
    """What a store keeps under a name for all processes on it; see :class:`IndexedStore`.

    :param document: empty where there is none.
    :param written: when, by the store's clock in milliseconds.
    :param now: that clock now.
    """

    document: bytes
    written: int
    now: int


class Finding(NamedTuple):
    """Something that ``flask safesession check`` reports.

    :param name: by which ``--ignore`` accepts it: small letters and hyphens.
    :param text: one sentence, with what to do.
    """

    name: str
    text: str


class Store(Protocol):
    """The operations on one session, and the end of all.

    :param shared: several processes see the same sessions.
    """

    shared: bool

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """The session, its idle time restarted if *slide* and the touch interval has passed.

        Its first use after the creation is recorded always. Limits that are shorter than those it
        was written under are applied; longer ones are not.
        """
        ...

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """Store a new session, with admission.

        :raises StoreFull: there is no room, and none may be made.
        :raises TooManySessions: the user has as many as allowed, and keeps them.
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

        Tier and user stay; if *draft* names others, the session was filed anew meanwhile, and the
        answer is a conflict. A call that finds its own stamp among the last three is done; one that
        may have been carried out, and finds neither that nor *expected* among them, cannot know.

        :param touch: the touch interval in milliseconds; ``None``: this is not a use.
        :param loaded: the record that the caller loaded, with which some stores need not read it.
        :raises StoreUnavailable: also if an earlier try's reply was lost, and nothing tells whether
            it was carried out.
        """
        ...

    def refile(self, key: str, draft: Draft, expected: str) -> Answer | None:
        """File the session under the tier, user and limits of *draft*.

        Its key, data, note, age, last use and stamps stay; nothing is evicted. A repetition finds
        it filed, and is done. ``None``: it cannot be filed here, since its user's sessions are in
        another part of the store.

        :param expected: only if its last stamp is this one.
        """
        ...

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Answer | Taken:
        """End the session under *key* and let it go on under *new*, in one step.

        Without an expected stamp it is taken from wherever it is, as in :meth:`end`.

        :raises StoreFull: and ``TooManySessions``, as in :meth:`create`; the session is as it was.
        """
        ...

    def end(self, key: str, stamp: str, reason: str, expected: str | None) -> Answer:
        """End the session and leave a tombstone with *reason*; the answer has its last record.

        Without *expected* it ends wherever it is: also where it goes on under another key that a
        rotation without a sign-in gave it meanwhile.

        :param stamp: names this call, so that a repetition is recognised.
        :param expected: only if its last stamp is this one; ``None``: whatever is in flight.
        """
        ...

    def end_all(self, stamp: str) -> None:
        """End all sessions in one step, with reason ``revoked``; in several shards, one by one.

        Raises the store's generation by one: records of another generation are over. No times are
        compared.

        :param stamp: names this call, so that a repetition is recognised.
        """
        ...

    def inspect(self) -> list[Finding]:
        """Returns a finding for each thing in the store's set-up that should be changed."""
        ...

    def close(self) -> None:
        """Release connections. The store can be used again after it."""
        ...


class Onward(NamedTuple):
    """Where a session goes on.

    :param key: its key there.
    :param user: the tag of its user there.
    :param sign_in: a sign-in brought it there: an end of the old key does not follow.
    """

    key: str
    user: str
    sign_in: bool


class Terms(NamedTuple):
    """How a rotation goes.

    :param expected: the stamp that the session must have; ``None``: whatever is in flight.
    :param restart: both clocks start anew (a sign-in); otherwise the session keeps its age.
    :param reason: for the tombstone of the old key. With ``rotated``, and for a sign-in with any
        reason, the tombstone also says where the session went; an end without an expected stamp
        follows it unless it was a sign-in.
    :param slide: the idle time starts anew; a passive view's does not.
    """

    expected: str | None
    restart: bool
    reason: str
    slide: bool = True

    def onward(self, key: str, user: str) -> Onward | None:
        """Returns what the tombstone says of the session, which goes on under *key*.

        ``None``: nothing.

        :param user: the tag of its user there.
        """
        leads = self.reason == ROTATED or (self.restart and user != NO_USER)
        return Onward(key, user, self.restart) if leads else None


class UserStore(Store, Protocol):
    """A store that can list and end the sessions of one user."""

    def peek(self, key: str) -> Listed | None:
        """Returns the live session under *key*, or where it went from there, without any effect.

        ``None``: there is none.
        """
        ...

    def sessions_of(self, user: str) -> list[Listed]:
        """Returns the live sessions of the user with that tag, newest first.

        Costs what that user has.
        """
        ...

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """End all sessions of a user in one step, and return them.

        A login that races with it is ended, or comes after. Repeated after a lost reply, it ends
        what was made meanwhile, and does not return again what it had ended.

        :param keep: the key of one that is to stay, wherever it goes on; or empty.
        """
        ...


class IndexedStore(UserStore, Protocol):
    """A store that can list and count all sessions, keeps caps, and is looked after by a job.

    It also keeps a few small documents, each under a name, for all processes on it.
    """

    def page(self, tier: str, after: str, limit: int) -> Page:
        """Returns up to *limit* live sessions of a tier (``anonymous``: of anonymous visitors).

        Costs *limit* look-ups; while sessions come and go, one may be missing, or be there twice.

        :param tier: the name of a tier.
        :param after: where the page before this one ended; empty: at the beginning.
        """
        ...

    def count(self, rules: Rules) -> Counts:
        """Count the sessions. Costs a few index look-ups, never a walk."""
        ...

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """Remove up to *limit* due sessions, oldest first; then what is over the cap."""
        ...

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """Go on with a round over all sessions, for *limit* or so of them.

        It mends what differs between index and records, and puts sessions under the limits in
        *rules* where these are shorter than those that they were written under; what is due then is
        left to the purge. A round begins anew when a limit has become shorter.
        """
        ...

    def lease(self, task: str, milliseconds: int) -> bool:
        """Returns whether the caller has the lease of *task*: no other process has, for so long."""
        ...

    def document(self, name: str) -> Document:
        """Returns the document that was kept last under *name* (lower-case letters)."""
        ...

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        """Keep *document* (not empty) in the place of *expected*; returns whether it is kept now.

        It also is if an earlier call with it was done and the reply was lost.
        """
        ...


class RemoteStore(Protocol):
    """A store on servers, which may be down while the app runs."""

    def prepare(self) -> None:
        """Check once, when an app starts, that the store is as the settings say.

        A store that is down is checked by its first call.

        :raises ConfigError: it is not, with what to do.
        """
        ...

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """Report to *listener* when a server stops or starts to answer."""
        ...

    def states(self) -> Mapping[str, str]:
        """Returns the circuit breaker of each server as this process sees it.

        ``open``, ``half-open`` or ``closed``.
        """
        ...
