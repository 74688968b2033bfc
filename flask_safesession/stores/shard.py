"""One shard of a store on Redis or Valkey: each operation is one script, by the server's clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from ..errors import StoreUnavailable
from ..events import ReplicasMissing
from ..record import Draft, dumps_draft, loads
from ..tokens import KEY_LENGTH, tier_tag
from .base import (
    CORRUPT,
    LISTED,
    UNKNOWN,
    AuditStep,
    Census,
    Conflict,
    Document,
    Gone,
    Listed,
    Live,
    PurgeStep,
    RelimitStep,
    Rules,
    Taken,
    Terms,
)
from .breaker import Notify
from .layout import Layout
from .scripts import Caller, Script
from .wire import (
    Departed,
    Elsewhere,
    Status,
    Successor,
    Theirs,
    admitted,
    cap_arguments,
    conflict,
    gone,
    limit_rows,
    listed,
    refused,
    removals,
    theirs,
)

# Rules; their limits without and with a slide, and to write nothing; their caps and tiers.
_Wired: TypeAlias = tuple[Rules | None, tuple[bytes, bytes, bytes], tuple[bytes | int, ...]]

_LOAD = Script("load", "_common", "slide")
_COMMIT = Script("commit", "_common", "recommit")
_END = Script("_common", "end")
_CREATE = Script("_common", "_admission", "create")
_ROTATE = Script("_common", "_admission", "rotate")
_PURGE = Script("_common", "_admission", "purge")
_CENSUS = Script("_common", "census")
_LOOK = Script("_common", "look")
_USER = Script("_common", "user")
_PAGE = Script("_common", "page")
_END_ALL = Script("_common", "end_all")
_AUDIT = Script("_common", "audit")
_RELIMIT = Script("_common", "relimit")
_DOCUMENT = Script("_common", "document")
_LEASE = Script("_common", "lease")
_LAYOUT = Script("_common", "layout")
_DEPART = Script("_common", "depart")
_ARRIVE = Script("_common", "arrive")
_FORGET = Script("_common", "forget")
_LINKS = Script("_common", "links")
_LINK = Script("_common", "link")


class Shard:
    """All operations on the sessions of one slot.

    :param caller: runs the scripts.
    :param prefix: what the keys begin with.
    :param number: which shard this is.
    :param replicas: how many have to confirm the end of a session.
    :param notify: told when fewer did.
    """

    def __init__(
        self, caller: Caller, prefix: str, number: int, replicas: int, notify: Notify
    ) -> None:
        self.number = number
        self.slot: str = f"{{{prefix}:{number}}}"
        self._caller = caller
        self._run = caller.run
        self._replicas = replicas
        self._notify = notify
        self._wired: _Wired = (None, (b"", b"", b""), ())

    # -- one session ----------------------------------------------------------------------------

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone | Elsewhere:
        """See :meth:`.base.Store.load`."""
        limits = self._wire(rules)[1]
        answer = self._run(_LOAD, (self._name(key),), (limits[slide],), while_moving=(limits[2],))
        try:
            if isinstance(answer, bytes):
                return Live(loads(answer))
            status, *rest = answer
            if status in (Status.LIVE, Status.UNSURE):
                record = loads(rest[1], rest[2][len(rest[1]) :])
                live = Live(record, rest[0], key=rest[3].decode())
                return live if status == Status.LIVE else self._if_not_revoked(live)
        except ValueError:
            return Gone(CORRUPT)
        return gone(status, rest)

    def _if_not_revoked(self, live: Live) -> Live | Gone:
        """While a cluster moves the slot, the mark of :meth:`end_all` may be on the other node."""
        mark = self._plain(f"{self.slot}:revoked", "GET") or b"0"
        return live if live.record.created > int(mark.split(b":")[0]) else Gone(UNKNOWN)

    def create(
        self, key: str, draft: Draft, rules: Rules, *, created: int = 0, last_active: int = 0
    ) -> Live | Taken | Elsewhere:
        """See :meth:`.base.Store.create`; it may keep the age of another session."""
        args = (dumps_draft(draft, created, last_active), *self._wire(rules)[2])
        status, *rest = self._run(_CREATE, (self._name(key),), args, repeatable=False)
        return admitted(status, rest, draft, rules)

    def commit(
        self, key: str, draft: Draft, expected: str, *, slide: bool
    ) -> Live | Gone | Conflict | Elsewhere:
        """See :meth:`.base.Store.commit`."""
        args = (expected, int(slide), dumps_draft(draft))
        answer = self._run(_COMMIT, (self._name(key),), args)
        if isinstance(answer, bytes):
            return Live(loads(answer[11:], draft.payload), int(answer[:11], 16))
        status, *rest = answer
        if status == Status.LIVE:
            return Live(loads(rest[1], draft.payload), rest[0])
        return conflict(rest) if status == Status.CONFLICT else gone(status, rest)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken | Elsewhere | Successor:
        """See :meth:`.base.Store.rotate`; both keys have to be in this shard."""
        pace = "1" if terms.restart else "0" if terms.slide else "-"
        how = (terms.expected or "", pace, terms.reason, terms.grace)
        args = (*how, dumps_draft(draft), *self._wire(rules)[2])
        names = (self._name(key), self._name(new))
        status, *rest = self._confirmed(_ROTATE, "rotate", names, args)
        if status in (Status.LIVE, Status.TAKEN, Status.FULL, Status.TOO_MANY):
            return admitted(status, rest, draft, rules)
        return refused(status, rest, follow=terms.expected is None)

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict | Elsewhere | Successor:
        """See :meth:`.base.Store.end`."""
        args = (stamp, reason, expected or "")
        status, *rest = self._confirmed(_END, "end", (self._name(key),), args)
        if status == Status.LIVE:
            return Live(loads(rest[1], b""), rest[0], key=rest[2].decode())
        return refused(status, rest, follow=expected is None)

    # -- a user's -------------------------------------------------------------------------------

    def look(self, key: str) -> Listed | Gone | Elsewhere | Successor:
        """See :meth:`.base.Owning.look`."""
        status, *rest = self._run(_LOOK, (self._name(key),), (LISTED,))
        if status != Status.LIVE:
            # It writes nothing, so that there is no conflict.
            return refused(status, rest, follow=True)  # type: ignore[return-value]
        return next(iter(listed([(rest[1], rest[0])])), Gone(CORRUPT))

    def sessions_of(self, user: str) -> Theirs:
        """See :meth:`.base.Owning.sessions_of`."""
        return theirs(self._run(_USER, (f"{self.slot}:u:{user}",), (LISTED,)))

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> Theirs:
        """See :meth:`.base.Owning.end_user`; what is on its way is listed, and not ended."""
        args = (LISTED, stamp, reason, keep)
        return theirs(self._confirmed(_USER, "end", (f"{self.slot}:u:{user}",), args))

    # -- all of them ----------------------------------------------------------------------------

    def end_all(self, stamp: str) -> None:
        """See :meth:`.base.Owning.end_all`."""
        self._confirmed(_END_ALL, "end", (f"{self.slot}:tiers",), (stamp,))

    def page(self, bucket: str, after: str, limit: int) -> list[tuple[str, Listed]]:
        """See :meth:`.base.Owning.page`; each with where to go on after it: its score and entry."""
        args = (bucket, *(after or ":").split(":"), limit, LISTED)
        answer: list[bytes] = self._run(_PAGE, (f"{self.slot}:tiers",), args)[2:]
        found: list[tuple[str, Listed]] = []
        for at in range(0, len(answer), 3):
            score, entry, raw = answer[at : at + 3]
            where = f"{score.decode()}:{entry.decode()}"
            found += [(where, one) for one in listed([(entry[:KEY_LENGTH], raw)])]
        return found

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.Store.purge`."""
        args = (limit, *self._wire(rules)[2])
        _, due, trimmed, more, removed = self._run(_PURGE, (f"{self.slot}:tiers",), args)
        return PurgeStep(due, trimmed, bool(more), removals(removed))

    def census(self, rules: Rules) -> Census:
        """See :meth:`.base.Store.census`."""
        # After an index was lost, a mended one has a tier's tag in the place of its name.
        names = {tier_tag(tier): tier for tier in rules.policy.order}
        _, now, *rest = self._run(_CENSUS, (f"{self.slot}:tiers",), ())
        live: dict[str, int] = {}
        due, oldest = 0, now
        for at in range(0, len(rest), 4):
            name = rest[at].decode("ascii", "replace")
            name = names.get(name, name)
            live[name] = live.get(name, 0) + rest[at + 1]
            due += rest[at + 2]
            oldest = min(oldest, rest[at + 3])
        return Census(live, due, max(0, now - oldest))

    def audit(self, limit: int) -> AuditStep:
        """See :meth:`.base.Auditing.audit`."""
        args = (limit, self._pattern(":[su]:*"))
        _, mended, done = self._run(_AUDIT, (f"{self.slot}:audit",), args)
        return AuditStep(mended, done=bool(done))

    def relimit(self, rules: Rules, limit: int) -> RelimitStep:
        """See :meth:`.base.Relimiting.relimit`."""
        args = (limit, self._wire(rules)[1][0][1:])
        _, changed, done = self._run(_RELIMIT, (f"{self.slot}:relimit",), args)
        return RelimitStep(changed, bool(done))

    def document(self, name: str, document: bytes = b"", expected: bytes = b"") -> Document:
        """See :meth:`.base.Steerable.document`, after *document* has taken its place if it may."""
        _, now, raw = self._run(_DOCUMENT, (f"{self.slot}:doc:{name}",), (document, expected))
        return Document(raw[11:], int(raw[:11] or b"0", 16), now)

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`.base.Leasing.lease`."""
        name = f"{self.slot}:lease:{task}"
        return bool(self._run(_LEASE, (name,), (milliseconds,), repeatable=False))

    # -- moving to another number of shards -------------------------------------------------------

    def layout(self, wanted: str = "", expected: str = "") -> Layout | None:
        """The layout that this shard knows, after *wanted* has taken its place if it may."""
        raw = self._run(_LAYOUT, (f"{self.slot}:shards",), (wanted, expected))
        return Layout.loads(raw) if raw else None

    def depart(self, epoch: int, tag: str, cursor: int, limit: int, size: int) -> Departed | None:
        """Take sessions that belong elsewhere out of use here: a page of one bucket of the index.

        :param size: bytes of records after which it is enough.
        """
        args = (epoch, tag, cursor, limit, size)
        answer = self._run(_DEPART, (f"{self.slot}:shards",), args)
        if not answer:
            return None
        if answer[0] == b"newer":
            raise StoreUnavailable(
                "a record was written by a newer version of Flask-SafeSession: move with that one"
            )
        at, more, tier, *rest = answer
        keys = (key.decode() for key in rest[::2])
        sessions = tuple(zip(keys, rest[1::2], strict=True))
        return Departed(int(at), bool(more), tier.decode(), sessions)

    def arrive(self, epoch: int, tier: str, sessions: list[tuple[str, bytes]]) -> bool:
        """Take sessions into use, unless they have arrived before; whether *epoch* is right."""
        args = (epoch, tier, *(part for session in sessions for part in session))
        return bool(self._run(_ARRIVE, (f"{self.slot}:shards",), args))

    def forget(self, epoch: int, keys: list[str]) -> None:
        """Remove what has arrived elsewhere in *epoch*."""
        self._run(_FORGET, (f"{self.slot}:shards",), (epoch, *keys))

    def links(self, limit: int) -> Iterator[tuple[str, bytes, int]]:
        """Renewed keys that belong elsewhere: each with its tombstone and the milliseconds left.

        Walks all keys of the server, *limit* in a step.
        """
        cursor, pattern = b"0", self._pattern(":s:*")
        while True:
            cursor, *rest = self._run(_LINKS, (f"{self.slot}:shards",), (cursor, limit, pattern))
            for key, raw, left in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
                yield key.decode(), raw, left
            if cursor == b"0":
                return

    def link(self, key: str, tombstone: bytes, left: int) -> None:
        """Let *key*, which was renewed in another shard, lead to its session from here, too."""
        self._run(_LINK, (self._name(key),), (tombstone, left))

    def record(self, key: str) -> bytes:
        """What stands under *key*, as it is; empty if nothing."""
        name = self._name(key)
        return self._plain(name, "GET") or b""

    def tags(self) -> list[str]:
        """The buckets of the index: of strangers, and of each tier."""
        return ["anonymous", *(tag.decode() for tag in self._plain(f"{self.slot}:tiers", "HKEYS"))]

    def restart_audit(self) -> None:
        """Let the next audit begin a round anew."""
        self._plain(f"{self.slot}:audit", "UNLINK")

    # -- help -----------------------------------------------------------------------------------

    def _plain(self, name: str, command: str) -> Any:
        """The answer of a command that needs no script."""
        return self._caller.call(lambda: self._caller.topology.exchange(name, (command, name))[0])

    def _pattern(self, of: str) -> str:
        """For SCAN: names in this slot that go on like *of*."""
        return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in self.slot) + of

    def _name(self, key: str) -> str:
        return f"{self.slot}:s:{key}"

    def _wire(self, rules: Rules) -> _Wired:
        """The rules as the scripts take them: rows of limits, and caps with the order of tiers."""
        if self._wired[0] is not rules:
            limits = limit_rows(rules)
            ways = (b"0" + limits, b"1" + limits, b"-" + limits)
            self._wired = (rules, ways, cap_arguments(rules))
        return self._wired

    def _confirmed(
        self, script: Script, operation: str, names: tuple[str, ...], args: tuple[Any, ...]
    ) -> Any:
        """The answer of a script that ends a session; too few replicas are told of."""
        if not self._replicas:
            return self._run(script, names, args)
        answer, confirmed = self._caller.confirm(script, names, args, self._replicas)
        done = answer[0] == Status.LIVE or answer[2:] == [b"again"]
        if done and confirmed < self._replicas:
            handle = names[0][-KEY_LENGTH:] if ":s:" in names[0] else "several"
            self._notify(ReplicasMissing(operation, handle, self._replicas, confirmed))
        return answer
