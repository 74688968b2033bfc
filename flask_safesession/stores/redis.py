"""Sessions on Redis or Valkey: on one slot of one server, or dealt out to several.

A session is in one shard, which its key names; each operation on it is one script call there. Only
a login needs two, where the user's shard is another one than the stranger's: the new session is
created, then the old one is ended. Until then nobody knows the new ID, and the loser of a race
removes its own; left over, it ends by its idle timeout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ..errors import ConfigError, StoreUnavailable
from ..events import Event, SessionEnded, emit
from ..expiry import ANONYMOUS_TIER
from ..record import Draft
from ..tokens import new_stamp, tier_tag
from .base import (
    RENEWED,
    ROTATED,
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
from .connections import deadline
from .layout import MAX_SHARDS
from .redis_url import topology_of
from .resharding import Moved, reshard
from .routing import Router
from .scripts import Caller
from .server_settings import findings
from .shard import Shard
from .wire import Elsewhere, Successor, Theirs

# The reason on the tombstone of a session that lost a race for being the next one.
_WITHDRAWN = "withdrawn"
_Rotated: TypeAlias = Live | Gone | Conflict | Taken | Elsewhere | Successor


class RedisStore:
    """The store behind every URL but ``memory://``.

    :param given: a URL, or a ready redis-py client. A client's address and credentials are used;
        time-outs, retries and decoding are the store's own, so the client itself is not touched.
    :param prefix: what the keys begin with. Apps with the same prefix share sessions and cap.
    :param timeout: seconds that one call may take, reconnects and retries included.
    :param shards: in how many slots the sessions are; all processes have to say the same.
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
        self._caller = Caller(topology_of(given, self._listener), timeout)
        make = partial(Shard, self._caller, prefix, replicas=wait_replicas, notify=self._listener)
        self._shards = [make(number) for number in range(MAX_SHARDS)]
        self._router = Router(self._shards, shards, timeout)
        self._asked = shards
        self._replicas = wait_replicas
        self._auditing = 0

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RedisStore:
        """A store for a URL; *options* as for the constructor."""
        return cls(url, **options)

    # -- one session ----------------------------------------------------------------------------

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        answer: Live | Gone = self._router.where_it_is(
            key, lambda shard: shard.load(key, rules, slide=slide)
        )
        if not isinstance(answer, Gone) or not answer.successor:
            return answer
        return self._load_elsewhere(answer, rules, slide=slide)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        return self._router.at_home(
            key, lambda shard, share: shard.create(key, draft, share), rules
        )

    def commit(
        self, key: str, draft: Draft, expected: str, *, slide: bool
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.commit`."""
        return self._router.where_it_is(
            key, lambda at: at.commit(key, draft, expected, slide=slide)
        )

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """See :meth:`.base.Store.rotate`."""

        def take(shard: Shard, old: str) -> _Rotated:
            layout = self._router.known()
            if shard.number == layout.home(new):
                return shard.rotate(old, new, draft, self._router.share(rules, layout), terms)
            if terms.reason == RENEWED:
                raise StoreUnavailable("no ID is renewed while the number of shards changes")
            return self._across(shard, old, new, draft, rules, terms)

        return self._router.wherever_it_is(key, take)

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.end`."""
        return self._router.wherever_it_is(key, lambda at, k: at.end(k, stamp, reason, expected))

    # -- a user's -------------------------------------------------------------------------------

    def look(self, key: str) -> Listed | None:
        """See :meth:`.base.Owning.look`."""
        answer = self._router.wherever_it_is(key, lambda shard, at: shard.look(at))
        return answer if isinstance(answer, Listed) else None

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`.base.Owning.sessions_of`."""
        found: dict[str, Listed] = {}
        for theirs in self._router.of_user(user, lambda shard: shard.sessions_of(user)):
            found |= {listed.key: listed for listed in (*theirs.moving, *theirs.sessions)}
        return newest_first(found.values())

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`.base.Owning.end_user`; between shards, sessions are ended one by one."""
        found: dict[str, Listed] = {}
        stays = ""

        def ask(shard: Shard) -> Theirs:
            nonlocal stays
            if keep and not stays and self._router.known().shards > 1:
                kept = self.look(keep)  # what leads to it may be in another shard
                stays = kept.key if kept else keep
            return shard.end_user(user, stamp, reason, stays or keep)

        for theirs in self._router.of_user(user, ask):
            found |= {listed.key: listed for listed in theirs.sessions}
            for moving in theirs.moving:
                if isinstance(self.end(moving.key, stamp, reason, None), Live):
                    found[moving.key] = moving
        return newest_first(found.values())

    # -- all of them ----------------------------------------------------------------------------

    def end_all(self, stamp: str) -> None:
        """See :meth:`.base.Owning.end_all`."""
        failed: StoreUnavailable | None = None
        for shard in self._shards[: self._router.look_up().shards]:
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
        for shard in self._shards[int(number) : self._router.known().shards]:
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
            for shard in self._shards[: self._router.look_up().shards]:
                found = shard.census(rules)
                for tier, count in found.live.items():
                    live[tier] = live.get(tier, 0) + count
                due, overdue = due + found.due, max(overdue, found.overdue)
        return Census(live, due, overdue)

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """See :meth:`.base.Auditing.audit`."""
        del rules
        shards = self._shards[: self._router.known().shards]
        at = min(self._auditing, len(shards) - 1)
        step = shards[at].audit(limit)
        self._auditing = (at + step.done) % len(shards)
        return AuditStep(step.mended, done=step.done and self._auditing == 0)

    def relimit(self, rules: Rules, limit: int) -> RelimitStep:
        """See :meth:`.base.Relimiting.relimit`: part by part."""
        changed = 0
        for shard in self._router.in_use():
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
        shards, layout = self._router.in_use(), self._router.known()
        return [_Part(shard, lambda rules: self._router.share(rules, layout)) for shard in shards]

    def part_count(self) -> int:
        """See :meth:`.base.Sharded.part_count`."""
        return self._router.known().placing

    def part_of(self, key: str) -> int:
        """See :meth:`.base.Sharded.part_of`."""
        return self._router.known().home(key)

    # -- the servers ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """See :meth:`.base.Networked.prepare`; a store that is down is looked at when it is up."""
        with suppress(StoreUnavailable):
            self._router.look_up()
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
            self._router.look_up()
        except ConfigError as error:
            found += [Finding("store-layout", problem) for problem in error.problems]
        return found + findings(self._caller, self._replicas)

    def close(self) -> None:
        """See :meth:`.base.Store.close`."""
        self._caller.topology.close()

    def reshard(self, batch: int) -> Iterator[Moved]:
        """Move the sessions to as many shards as the settings say. See :mod:`.resharding`."""
        return reshard(self._shards, self._asked, batch=batch)

    def _load_elsewhere(self, gone: Gone, rules: Rules, *, slide: bool) -> Live | Gone:
        """The session of a renewed ID that goes on in another shard."""
        key = gone.successor
        if gone.reason == RENEWED:
            found = self.load(key, rules, slide=slide)
            return found._replace(key=found.key or key) if isinstance(found, Live) else found
        ended = self.end(key, new_stamp(), gone.reason, None)
        if not isinstance(ended, Live):
            return ended if isinstance(ended, Gone) else gone._replace(successor="")
        return gone._replace(tier=ended.record.tier, key=ended.key or key, successor="")

    def _across(
        self, shard: Shard, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> _Rotated:
        """A rotation out of *shard* into another: create, then end."""
        if terms.expected is None and terms.reason != ROTATED:
            return self._end_first(key, new, draft, rules, terms)
        created = last_active = 0
        if not terms.restart or self._router.known().moving:
            old = shard.load(key, rules, slide=False)
            if not isinstance(old, Live):
                return old
            if not terms.restart:
                created = old.record.created
                last_active = 0 if terms.slide else old.record.last_active

        def create(home: Shard, share: Rules) -> Live | Taken | Elsewhere:
            return home.create(new, draft, share, created=created, last_active=last_active)

        successor = new if terms.reason == ROTATED and not terms.restart else ""
        made = self._created(new, create, rules)
        if not isinstance(made, Live):
            return made
        try:
            ended = shard.end(key, draft.stamp, terms.reason + successor, terms.expected)
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

    def _end_first(self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms) -> _Rotated:
        """A logout that keeps data: it holds whatever becomes of the rest."""
        ended = self.end(key, draft.stamp, terms.reason, None)
        if not _is_over(ended):
            return ended
        created = ended.record.created if isinstance(ended, Live) and not terms.restart else 0

        def create(home: Shard, share: Rules) -> Live | Taken | Elsewhere:
            return home.create(new, draft, share, created=created)

        return self._created(new, create, rules)

    def _created(
        self, new: str, create: Callable[[Shard, Rules], Live | Taken | Elsewhere], rules: Rules
    ) -> Live | Taken:
        try:
            return self._router.at_home(new, create, rules)
        except StoreUnavailable:
            self._withdraw(new)  # it may be there
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


def _is_over(ended: object) -> bool:
    """Whether an end was this call's doing."""
    return isinstance(ended, Live) or (isinstance(ended, Gone) and ended.repeated)
