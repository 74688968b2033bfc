"""Sessions on Redis or Valkey, in one slot: each operation is one script, by the server's clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import copy
from functools import partial
from typing import Any, TypeAlias

from ...errors import StoreUnavailable
from ...events import Event, ReplicasMissing
from ...model.policy import ANONYMOUS_TIER
from ...model.reason import Reason
from ...model.record import Draft, Record, dumps_draft
from ...model.tokens import KEY_LENGTH, tier_tag
from ..base import (
    LINKS_OF_ANONYMOUS,
    LISTED,
    MAX_LINKS,
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
    Rules,
    Taken,
    Terms,
    newest_first,
)
from ..remote.breaker import Listener
from . import lua
from .check import check_shards, inspect
from .replies import (
    Status,
    admitted,
    adopted,
    cap_arguments,
    counted,
    dated,
    gone,
    limit_rows,
    listed,
    paged,
    removals,
    theirs,
    wire_onward,
    written,
)
from .scripts import Caller
from .url import topology_of

# Rules; limits for a load without a slide, with one, and without any write; caps and tiers.
_Wired: TypeAlias = tuple[Rules | None, tuple[bytes, bytes, bytes], tuple[bytes | int, ...]]


class RedisStore:
    """The store behind the URLs of Redis and Valkey servers.

    :param given: a URL, or a ready ``redis.Redis``. A client's address and credentials are used;
        time-outs, retries and decoding are the store's own, so the client itself is not touched.
    :param prefix: what the keys begin with. Apps with the same prefix share sessions and cap.
    :param timeout: seconds that one call may take, reconnects and retries included.
    :param wait_replicas: how many replicas have to confirm the end of a session.
    :param shards: in how many slots all sessions are; this store is the first of them. Use
        :func:`.open_shards` for more than one.
    :raises ConfigError: the URL or client cannot be used, with what to do instead.
    """

    shared = True

    def __init__(
        self,
        given: object,
        *,
        prefix: str = "safesession",
        timeout: float = 1.0,
        wait_replicas: int = 0,
        shards: int = 1,
    ) -> None:
        self.slot: str = f"{{{prefix}:0}}"
        #: Receives the events of the servers.
        self.notify: Listener = Listener()
        topology = topology_of(given, self.notify)
        check = partial(check_shards, topology, f"{self.slot}:shards", shards)
        self._caller = Caller(topology, timeout, check)
        self._run = self._caller.run
        self._replicas = wait_replicas
        self._wired: _Wired = (None, (b"", b"", b""), ())

    @classmethod
    def from_url(cls, url: str, **options: Any) -> RedisStore:
        """Returns a store for a URL; *options* as for the constructor."""
        return cls(url, **options)

    def in_slot(self, number: int) -> RedisStore:
        """Returns the store of another slot, which shares the connections and the listener."""
        other = copy(self)
        other.slot = f"{self.slot.rpartition(':')[0]}:{number}}}"
        return other

    # -- one session ----------------------------------------------------------------------------

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`..base.Store.load`."""
        limits = self._wire(rules)[1]
        answer = self._run(lua.LOAD, (self._name(key),), (limits[slide],), reading=(limits[2],))
        try:
            if isinstance(answer, bytes):
                return dated(answer)
            status, *rest = answer
            if status == Status.UNSURE:
                return self._if_not_over(dated(rest[0]))
        except ValueError:
            return Gone(Reason.CORRUPT)
        return gone(status, rest)

    def _if_not_over(self, live: Live) -> Live | Gone:
        """Returns *live* if its generation, which may be on another node, is the current one."""
        name = f"{self.slot}:generation"
        [found] = self._caller.call(lambda: self._caller.topology.route(name)(("GET", name)))
        generation = int((found or b"0").partition(b":")[0], 16)
        return live if live.record.generation == generation else Gone(Reason.UNKNOWN)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`..base.Store.create`."""
        args = (dumps_draft(draft), *self._wire(rules)[2])
        status, *rest = self._run(lua.CREATE, (self._name(key),), args, repeatable=False)
        return admitted(status, rest, draft, rules)

    def commit(
        self,
        key: str,
        draft: Draft,
        expected: str,
        *,
        touch: int | None,
        loaded: Record | None = None,
    ) -> Answer:
        """See :meth:`..base.Store.commit`."""
        del loaded  # the script reads it
        args = (expected, "" if touch is None else touch, dumps_draft(draft))
        answer, may_be_done = self._caller.settle(lua.COMMIT, (self._name(key),), args)
        if isinstance(answer, bytes):
            return dated(answer, draft.note + draft.payload)
        status, *rest = answer
        if status == Status.CONFLICT and may_be_done and not rest[1]:
            # Later writes may have pushed its stamp out of the record.
            raise StoreUnavailable("a reply was lost: whether the call was done is unknown")
        return written(status, rest)

    def refile(self, key: str, draft: Draft, expected: str) -> Answer:
        """See :meth:`..base.Store.refile`. Every user's sessions are here: never ``None``."""
        head = dumps_draft(draft._replace(note=b"", payload=b""))
        status, *rest = self._run(lua.REFILE, (self._name(key),), (expected, head))
        return written(status, rest)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Answer | Taken:
        """See :meth:`..base.Store.rotate`."""
        pace = "1" if terms.restart else "0" if terms.slide else "-"
        onward = wire_onward(terms.onward(new, draft.user))
        head = (terms.expected or "", pace, terms.reason, onward, dumps_draft(draft))
        args = (*head, *self._wire(rules)[2])
        names = (self._name(key), self._name(new))
        status, *rest = self._confirmed(lua.ROTATE, "rotate", names, args)
        if status in (Status.LIVE, Status.TAKEN, Status.FULL, Status.TOO_MANY):
            return admitted(status, rest, draft, rules)
        return written(status, rest)

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None, onward: Onward | None = None
    ) -> Answer:
        """See :meth:`..base.Store.end`, and :meth:`..sharded.Shard.end` for *onward*."""
        args = (stamp, reason, expected or "", wire_onward(onward))
        status, *rest = self._confirmed(lua.END, "end", (self._name(key),), args)
        if status == Status.LIVE:
            return dated(rest[0], key=rest[1].decode())
        return written(status, rest)

    def resolve(self, key: str) -> str:
        """See :meth:`..sharded.Shard.resolve`."""
        return self._peek(key)[0].decode()

    # -- a user's -------------------------------------------------------------------------------

    def peek(self, key: str) -> Listed | None:
        """See :meth:`..base.UserStore.peek`."""
        return next(iter(listed([self._peek(key)])), None)

    def _peek(self, key: str) -> tuple[bytes, bytes]:
        """Returns the key under which the session goes on, and its first bytes if it is live."""
        status, *rest = self._run(lua.PEEK, (self._name(key),), (LISTED,))
        if status != Status.LIVE:
            gone(status, rest)  # raises if a newer version wrote it
            return key.encode(), b""
        return rest[0], rest[1]

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`..base.UserStore.sessions_of`."""
        return newest_first(theirs(self._run(lua.USER, (f"{self.slot}:u:{user}",), (LISTED,))))

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`..base.UserStore.end_user`."""
        args = (LISTED, stamp, reason, keep)
        ended = self._confirmed(lua.USER, "end", (f"{self.slot}:u:{user}",), args)
        return newest_first(theirs(ended))

    # -- from older places ----------------------------------------------------------------------

    def adopt(
        self, link: str, key: str, draft: Draft, rules: Rules, until: int
    ) -> Live | Moved | Gone:
        """See :meth:`..base.AdoptingStore.adopt`."""
        most = MAX_LINKS if draft.user else LINKS_OF_ANONYMOUS
        args = (link, until, most, dumps_draft(draft), *self._wire(rules)[2])
        status, *rest = self._run(lua.ADOPT, (self._name(key),), args)
        return adopted(status, rest, draft, rules)

    def point(self, link: str, key: str, until: int) -> None:
        """See :meth:`..sharded.Shard.point`."""
        self._adoption("point", link, key, until)

    def follow(self, link: str) -> str:
        """See :meth:`..base.AdoptingStore.follow`."""
        found: bytes = self._adoption("follow", link)[2]
        return found.decode()

    def close_adoption(self, user: str, until: int) -> None:
        """See :meth:`..base.AdoptingStore.close_adoption`."""
        names = (f"{self.slot}:adopted",)
        self._confirmed(lua.ADOPTION, "end", names, ("close", user, until, MAX_LINKS))

    def adoptions(self) -> Adoptions:
        """See :meth:`..base.AdoptingStore.adoptions`."""
        _, now, count, last = self._adoption("count")
        return Adoptions(count, last, now)

    def _adoption(self, *args: Any) -> Any:
        return self._run(lua.ADOPTION, (f"{self.slot}:adopted",), args)

    # -- all of them ----------------------------------------------------------------------------

    def end_all(self, stamp: str) -> None:
        """See :meth:`..base.Store.end_all`."""
        self._confirmed(lua.END_ALL, "end", (f"{self.slot}:tiers",), (stamp,))

    def page(self, tier: str, after: str, limit: int, before: int = 0) -> Page:
        """See :meth:`..base.IndexedStore.page`."""
        group = tier if tier == ANONYMOUS_TIER else tier_tag(tier)
        score, _, entry = (after or f"{before or ''}:").partition(":")
        if score:
            float(score)  # raises ValueError if it is not the end of a page
        args = (group, score, entry, limit, LISTED)
        return paged(self._run(lua.PAGE, (f"{self.slot}:tiers",), args)[2:], limit)

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`..base.IndexedStore.purge`."""
        args = (limit, *self._wire(rules)[2])
        _, due, trimmed, more, removed = self._run(lua.PURGE, (f"{self.slot}:tiers",), args)
        return PurgeStep(due, trimmed, bool(more), removals(removed))

    def count(self, rules: Rules) -> Counts:
        """See :meth:`..base.IndexedStore.count`."""
        _, now, *rest = self._run(lua.COUNT, (f"{self.slot}:tiers",), ())
        return counted(now, rest, rules)

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """See :meth:`..base.IndexedStore.audit`."""
        args = (limit, self._pattern(":[sue]:*"), self._wire(rules)[1][0][1:])
        _, fixed, limited, behind, done = self._run(lua.AUDIT, (f"{self.slot}:audit",), args)
        return AuditStep(fixed, bool(done), limited, bool(behind))

    def document(self, name: str) -> Document:
        """See :meth:`..base.IndexedStore.document`."""
        return self._document(name)

    def keep(self, name: str, document: bytes, expected: bytes) -> bool:
        """See :meth:`..base.IndexedStore.keep`."""
        return self._document(name, document, expected).document == document

    def _document(self, name: str, document: bytes = b"", expected: bytes = b"") -> Document:
        """Replace *expected* by *document*, if given; returns what is stored then."""
        _, now, raw = self._run(lua.DOCUMENT, (f"{self.slot}:doc:{name}",), (document, expected))
        return Document(raw[11:], int(raw[:11] or b"0", 16), now)

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`..base.IndexedStore.lease`."""
        name = f"{self.slot}:lease:{task}"
        return bool(self._run(lua.LEASE, (name,), (milliseconds,), repeatable=False))

    # -- the servers ----------------------------------------------------------------------------

    def prepare(self) -> None:
        """See :meth:`..base.RemoteStore.prepare`."""
        with suppress(StoreUnavailable):
            self._caller.check()
        self.close()  # the process may fork after this

    def report_to(self, listener: Callable[[Event], None]) -> None:
        """See :meth:`..base.RemoteStore.report_to`."""
        self.notify.listener = listener

    def states(self) -> Mapping[str, str]:
        """See :meth:`..base.RemoteStore.states`."""
        return {at.server: at.breaker.state for at in self._caller.topology.servers()}

    def inspect(self) -> list[Finding]:
        """See :meth:`..base.Store.inspect`."""
        return inspect(self._caller, self._replicas)

    def close(self) -> None:
        """See :meth:`..base.Store.close`."""
        self._caller.topology.close()

    # -- help -----------------------------------------------------------------------------------

    def _pattern(self, of: str) -> str:
        """Returns a pattern for SCAN: *of*, after the name of this slot."""
        return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in self.slot) + of

    def _name(self, key: str) -> str:
        return f"{self.slot}:s:{key}"

    def _wire(self, rules: Rules) -> _Wired:
        """Returns the rules as arguments of scripts: rows of limits, and caps with tiers."""
        wired = self._wired  # read once: another thread may call with other rules
        if wired[0] is not rules:
            limits = limit_rows(rules)
            ways = (b"0" + limits, b"1" + limits, b"-" + limits)
            wired = self._wired = (rules, ways, cap_arguments(rules))
        return wired

    def _confirmed(
        self, script: lua.Script, operation: str, names: tuple[str, ...], args: tuple[Any, ...]
    ) -> Any:
        """Returns the answer of a script that ends a session; reports too few replicas."""
        if not self._replicas:
            return self._run(script, names, args)
        answer, confirmed = self._caller.confirm(script, names, args, self._replicas)
        done = answer[0] == Status.LIVE or answer[-1] == b"again"
        if done and confirmed < self._replicas:
            is_one = names[0].startswith(self._name(""))
            handle = names[0][-KEY_LENGTH:] if is_one else "several"
            self.notify(ReplicasMissing(operation, handle, self._replicas, confirmed))
        return answer
