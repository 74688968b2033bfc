"""Sessions on Redis or Valkey: on one slot of one server, or dealt out to several.

A session is in one shard, which its key names; each operation on it is one script call there. Only
a login needs two, where the user's shard is another one than the stranger's: the new session is
created, then the old one is ended. Until then nobody knows the new ID, and the loser of a race
removes its own; left over, it ends by its idle timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import redis

from ...errors import ConfigError, StoreUnavailable
from ...events import Event, SessionEnded, emit
from ...model.policy import ANONYMOUS_TIER
from ...model.record import Draft
from ...model.tokens import NO_USER, new_stamp, tier_tag
from ..base import (
    ROTATED,
    UNKNOWN,
    AuditStep,
    Census,
    Conflict,
    Document,
    Finding,
    Gone,
    Listed,
    Live,
    Page,
    PurgeStep,
    RelimitStep,
    Removed,
    Rules,
    Taken,
    Terms,
    newest_first,
)
from ..layout import shard_of
from ..remote.deadline import deadline
from .check import findings
from .scripts import Caller
from .servers.standalone import Topology
from .shard import Shard, where_it_goes
from .url import topology_of

# The reason on the tombstone of a session that lost a race for being the next one.
_WITHDRAWN = "withdrawn"
_T = TypeVar("_T")


class RedisStore:
    """The store behind every URL but ``memory://``.

    :param given: a URL, or a ready ``redis.Redis``. A client's address and credentials are used;
        time-outs, retries and decoding are the store's own, so the client itself is not touched.
    :param prefix: what the keys begin with. Apps with the same prefix share sessions and cap.
    :param timeout: seconds that one call may take, reconnects and retries included.
    :param shards: in how many slots the sessions are; the same for all processes, for ever.
    :param wait_replicas: how many replicas have to confirm the end of a session.
    :raises ConfigError: the URL or client cannot be used, with what to do instead.
    """

    shared = True

    def __init__(
        self,
        given: object,
        *,
        prefix: str = "safesession",
        timeout: float = 1.0,
        shards: int = 1,
        wait_replicas: int = 0,
    ) -> None:
        self._listener = _Listener()
        topology = topology_of(given, self._listener)
        check = partial(_check_shards, topology, f"{{{prefix}:0}}:shards", shards)
        self._caller = Caller(topology, timeout, check)
        make = partial(Shard, self._caller, prefix, replicas=wait_replicas, notify=self._listener)
        self._shards = [make(number) for number in range(shards)]
        self._shared: tuple[Rules | None, Any] = (None, None)
        self._replicas = wait_replicas
        self._auditing = 0

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RedisStore:
        """A store for a URL; *options* as for the constructor."""
        return cls(url, **options)

    # -- one session ----------------------------------------------------------------------------

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        return self._at(key).load(key, rules, slide=slide)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        return self._create(key, draft, rules)

    def commit(
        self, key: str, draft: Draft, expected: str, *, touch: int | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.commit`."""
        return self._at(key).commit(key, draft, expected, touch=touch)

    def refile(self, key: str, draft: Draft, expected: str) -> Live | Gone | Conflict | None:
        """See :meth:`.base.Store.refile`."""
        shard = self._at(key)
        if draft.user != NO_USER and self._at(draft.user) is not shard:
            return None
        return shard.refile(key, draft, expected)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """See :meth:`.base.Store.rotate`."""

        def take(shard: Shard, old: str) -> Live | Gone | Conflict | Taken:
            if shard is self._at(new):
                return shard.rotate(old, new, draft, self._share(rules), terms)
            return self._across(shard, old, new, draft, rules, terms)

        return self._follow(key, take)

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.end`."""
        return self._follow(key, lambda at, k: at.end(k, stamp, reason, expected))

    # -- a user's -------------------------------------------------------------------------------

    def look(self, key: str) -> Listed | None:
        """See :meth:`.base.Owning.look`."""
        answer = self._follow(key, lambda shard, at: shard.look(at))
        return answer if isinstance(answer, Listed) else None

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`.base.Owning.sessions_of`."""
        return newest_first(self._at(user).sessions_of(user))

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`.base.Owning.end_user`."""
        shard = self._at(user)
        with deadline(self._caller.timeout):
            if keep and self._at(keep) is not shard and (kept := self.look(keep)):
                keep = kept.key  # it was rotated into the user's shard
            return newest_first(shard.end_user(user, stamp, reason, keep))

    # -- all of them ----------------------------------------------------------------------------

    def end_all(self, stamp: str) -> None:
        """See :meth:`.base.Owning.end_all`."""
        failed: StoreUnavailable | None = None
        for shard in self._shards:
            try:
                shard.end_all(stamp)
            except StoreUnavailable as error:
                failed = error  # the others' sessions end all the same
        if failed is not None:
            raise failed

    def page(self, tier: str, after: str, limit: int) -> Page:
        """See :meth:`.base.Owning.page`; shard by shard."""
        bucket = tier if tier == ANONYMOUS_TIER else tier_tag(tier)
        number, _, last = (after or "0:").partition(":")
        found: list[tuple[str, Listed]] = []
        for shard in self._shards[int(number) :]:
            told = shard.page(bucket, last, limit - len(found))
            found += [(f"{shard.number}:{where}", listed) for where, listed in told]
            if len(found) >= limit:
                return Page(tuple(listed for _, listed in found), found[-1][0])
            last = ""
        return Page(tuple(listed for _, listed in found), "")

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.Store.purge`."""
        due = trimmed = 0
        more, removed = False, list[Removed]()
        for part in self.parts():
            if due + trimmed >= limit:
                return PurgeStep(due, trimmed, True, tuple(removed))
            step = part.purge(rules, limit - due - trimmed)
            due, trimmed = due + step.due, trimmed + step.trimmed
            more = more or step.more
            removed += step.removed
        return PurgeStep(due, trimmed, more, tuple(removed))

    def census(self, rules: Rules) -> Census:
        """See :meth:`.base.Store.census`."""
        live: dict[str, int] = {}
        due = overdue = 0
        with deadline(self._caller.timeout):
            for shard in self._shards:
                found = shard.census(rules)
                for tier, count in found.live.items():
                    live[tier] = live.get(tier, 0) + count
                due, overdue = due + found.due, max(overdue, found.overdue)
        return Census(live, due, overdue)

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """See :meth:`.base.Auditing.audit`."""
        del rules
        step = self._shards[self._auditing].audit(limit)
        self._auditing = (self._auditing + step.done) % len(self._shards)
        return AuditStep(step.mended, done=step.done and self._auditing == 0)

    def relimit(self, rules: Rules, limit: int) -> RelimitStep:
        """See :meth:`.base.Relimiting.relimit`: part by part."""
        changed = 0
        for shard in self._shards:
            step = shard.relimit(rules, limit)
            changed += step.changed
            if not step.done:
                return RelimitStep(changed, done=False)
        return RelimitStep(changed, done=True)

    def document(self, name: str) -> Document:
        """See :meth:`.base.Steerable.document`: the first part has all of them."""
        return self._shards[0].document(name)

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        """See :meth:`.base.Steerable.keep`."""
        return self._shards[0].document(name, document, expected).document == document

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`.base.Leasing.lease`."""
        return self._shards[0].lease(task, milliseconds)

    def parts(self) -> Sequence[_Part]:
        """See :meth:`.base.Sharded.parts`."""
        return [_Part(shard, self._share) for shard in self._shards]

    def part_count(self) -> int:
        """See :meth:`.base.Sharded.part_count`."""
        return len(self._shards)

    def part_of(self, key: str) -> int:
        """See :meth:`.base.Sharded.part_of`."""
        return self._at(key).number

    # -- the servers ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """See :meth:`.base.Networked.prepare`; a store that is down is looked at when it is up."""
        with suppress(StoreUnavailable):
            self._caller.check()
        self.close()  # the process may fork from here

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """See :meth:`.base.Networked.report_to`."""
        self._listener.tell = listener

    def states(self) -> Mapping[str, str]:
        """See :meth:`.base.Networked.states`."""
        return {at.server: at.breaker.state for at in self._caller.topology.servers()}

    def inspect(self) -> list[Finding]:
        """See :meth:`.base.Inspecting.inspect`."""
        found: list[Finding] = []
        try:
            self._caller.check()
        except ConfigError as error:
            found += [Finding("store-layout", problem) for problem in error.problems]
        unchecked = Caller(self._caller.topology, self._caller.timeout)
        return found + findings(unchecked, self._replicas)

    def close(self) -> None:
        """See :meth:`.base.Store.close`."""
        self._caller.topology.close()

    # -- which shard ----------------------------------------------------------------------------

    def _at(self, key: str) -> Shard:
        """Returns the shard of a session's key or of a user's tag."""
        return self._shards[shard_of(key, len(self._shards))]

    def _share(self, rules: Rules) -> Rules:
        """Returns *rules* for one shard; the same object again, for it is put on the wire once."""
        if len(self._shards) == 1:
            return rules
        if self._shared[0] is not rules:
            cap = rules.cap.share(len(self._shards))
            self._shared = (rules, rules._replace(cap=cap))
        return self._shared[1]  # type: ignore[no-any-return]

    def _follow(self, key: str, ask: Callable[[Shard, str], _T | Gone]) -> _T | Gone:
        """Returns what the shard answers in which the session is.

        A rotation that was no login may have taken it there. Inside of a shard the scripts follow
        by themselves.
        """
        shard = self._at(key)
        with deadline(self._caller.timeout):
            answer = ask(shard, key)
            if not isinstance(answer, Gone) or answer.reason != UNKNOWN or not answer.successor:
                return answer
            if self._at(answer.successor) is not shard:
                return self._follow(answer.successor, ask)
        return Gone(UNKNOWN)

    # -- a rotation from one shard to another ---------------------------------------------------

    def _across(
        self, shard: Shard, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """A rotation out of *shard* into another: create, then end."""
        if terms.expected is None and terms.reason != ROTATED:
            return self._end_first(key, new, draft, rules, terms)
        created = last_active = 0
        if not terms.restart:
            if terms.expected is None:
                found = shard.look(key)
                if isinstance(found, Gone) and found.successor:
                    return found  # in a third one
                key = found.key if isinstance(found, Listed) else key
            old = shard.load(key, rules, slide=False)
            if not isinstance(old, Live):
                return old
            created = old.record.created
            last_active = 0 if terms.slide else old.record.last_active
        made = self._create_or_withdraw(new, draft, rules, created, last_active)
        if not isinstance(made, Live):
            return made
        try:
            goes_on = where_it_goes(new, draft, terms)
            ended = shard.end(key, draft.stamp, terms.reason, terms.expected, goes_on)
        except StoreUnavailable:
            self._withdraw(new)
            raise
        if _is_over(ended):
            return made
        self._withdraw(new)  # somebody was faster
        for gone in made.removed:  # nobody else will tell of them
            tier = rules.policy.name_of(gone.tier)
            self._listener(SessionEnded(gone.key, gone.reason, tier))
        return ended

    def _end_first(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """A logout that keeps data: it holds whatever becomes of the rest."""
        goes_on = where_it_goes(new, draft, terms)
        ended: Live | Gone | Conflict = self._follow(
            key, lambda at, k: at.end(k, draft.stamp, terms.reason, None, goes_on)
        )
        if not _is_over(ended):
            return ended
        created = ended.record.created if isinstance(ended, Live) and not terms.restart else 0
        return self._create_or_withdraw(new, draft, rules, created, 0)

    def _create(self, key: str, draft: Draft, rules: Rules, *age: int) -> Live | Taken:
        answer = self._at(key).create(key, draft, self._share(rules), *age)
        if isinstance(answer, Taken):
            return answer
        return answer._replace(total=answer.total * len(self._shards))

    def _create_or_withdraw(self, key: str, draft: Draft, rules: Rules, *age: int) -> Live | Taken:
        try:
            return self._create(key, draft, rules, *age)
        except StoreUnavailable:
            self._withdraw(key)  # it may be there
            raise

    def _withdraw(self, key: str) -> None:
        """Take back a session whose ID nobody has been told; left over, it ends as idle."""
        with suppress(StoreUnavailable):
            self.end(key, new_stamp(), _WITHDRAWN, None)


class _Part(NamedTuple):
    """One shard, under its share of the rules."""

    shard: Shard
    share: Callable[[Rules], Rules]

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        return self.shard.purge(self.share(rules), limit)

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        del rules
        return self.shard.audit(limit)

    def relimit(self, rules: Rules, limit: int) -> RelimitStep:
        return self.shard.relimit(rules, limit)

    def lease(self, task: str, milliseconds: int) -> bool:
        return self.shard.lease(task, milliseconds)


class _Listener:
    """Hands on what the servers do. Apart from the store, so that neither holds the other."""

    def __init__(self) -> None:
        self.tell: Callable[[Event], None] = partial(emit, None)

    def __call__(self, event: Event) -> None:
        self.tell(event)


def _check_shards(topology: Topology, name: str, shards: int) -> bool:
    """Compares the number of shards with the one stored under *name*; stores it if there is none.

    Returns whether it is stored: a server that takes no writes is asked again by the next call.

    :raises ConfigError: the sessions are in another number of shards.
    """
    [stored] = topology.route(name)(("GET", name))
    if stored is None:
        with suppress(redis.ResponseError):
            commands = ("SET", name, shards, "NX"), ("GET", name)
            stored = topology.route(name)(*commands)[1]
    if stored in (None, b"%d" % shards):
        return stored is not None
    found = stored.decode("ascii", "replace")
    fix = f"set it back to {found}, or start anew under another SAFESESSION_KEY_PREFIX"
    raise ConfigError([f"SAFESESSION_SHARDS is {shards}, but the sessions are in {found}: {fix}"])


def _is_over(ended: object) -> bool:
    """Whether an end was this call's doing."""
    return isinstance(ended, Live) or (isinstance(ended, Gone) and ended.repeated)
