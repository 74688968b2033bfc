"""One shard of a store on Redis or Valkey: each operation is one script, by the server's clock."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar

from ...errors import StoreUnavailable
from ...events import ReplicasMissing
from ...model.record import Draft, dumps_draft
from ...model.tokens import KEY_LENGTH, tier_tag
from ..base import (
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
from ..remote.breaker import Notify
from .replies import (
    Status,
    admitted,
    cap_arguments,
    dated,
    gone,
    limit_rows,
    listed,
    refused,
    removals,
    theirs,
)
from .scripts import Caller, Script

# Rules; their limits without and with a slide, and to write nothing; their caps and tiers.
_Wired: TypeAlias = tuple[Rules | None, tuple[bytes, bytes, bytes], tuple[bytes | int, ...]]

_T = TypeVar("_T")

_LOAD = Script("load", "_common", "slide")
_COMMIT = Script("commit", "_common", "recommit")
_REFILE = Script("_common", "refile")
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

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        limits = self._wire(rules)[1]
        answer = self._run(_LOAD, (self._name(key),), (limits[slide],), reading=(limits[2],))
        try:
            if isinstance(answer, bytes):
                return dated(answer)
            status, *rest = answer
            if status == Status.UNSURE:
                return self._if_not_over(dated(rest[0]))
        except ValueError:
            return Gone(CORRUPT)
        return self._gone(key, gone(status, rest))

    def _if_not_over(self, live: Live) -> Live | Gone:
        """While a cluster moves the slot, the generation may be on the other node."""
        name = f"{self.slot}:generation"
        [found] = self._caller.call(lambda: self._caller.topology.route(name)(("GET", name)))
        generation = int((found or b"0").partition(b":")[0], 16)
        return live if live.record.generation == generation else Gone(UNKNOWN)

    def create(
        self, key: str, draft: Draft, rules: Rules, created: int = 0, last_active: int = 0
    ) -> Live | Taken:
        """See :meth:`.base.Store.create`; it may keep the age of another session."""
        args = (dumps_draft(draft, created, last_active), *self._wire(rules)[2])
        status, *rest = self._run(_CREATE, (self._name(key),), args, repeatable=False)
        return admitted(status, rest, draft, rules)

    def commit(
        self, key: str, draft: Draft, expected: str, *, touch: int | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.commit`."""
        args = (expected, "" if touch is None else touch, dumps_draft(draft))
        answer, may_be_done = self._caller.settle(_COMMIT, (self._name(key),), args)
        if isinstance(answer, bytes):
            return dated(answer, draft.note + draft.payload)
        status, *rest = answer
        if status == Status.LIVE:
            return dated(rest[0])
        if status == Status.CONFLICT and may_be_done and not rest[1]:
            # As many writes came after it as a record has stamps.
            raise StoreUnavailable("a reply was lost, and nothing tells whether the call was done")
        return self._gone(key, refused(status, rest))

    def refile(self, key: str, draft: Draft, expected: str) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.refile`; the user's shard has to be this one."""
        head = dumps_draft(draft._replace(note=b"", payload=b""))
        status, *rest = self._run(_REFILE, (self._name(key),), (expected, head))
        if status == Status.LIVE:
            return dated(rest[0])
        return self._gone(key, refused(status, rest))

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """See :meth:`.base.Store.rotate`; both keys have to be in this shard."""
        pace = "1" if terms.restart else "0" if terms.slide else "-"
        onward = where_it_goes(new, draft, terms)
        head = (terms.expected or "", pace, terms.reason, onward, dumps_draft(draft))
        args = (*head, *self._wire(rules)[2])
        names = (self._name(key), self._name(new))
        status, *rest = self._confirmed(_ROTATE, "rotate", names, args)
        if status in (Status.LIVE, Status.TAKEN, Status.FULL, Status.TOO_MANY):
            return admitted(status, rest, draft, rules)
        return self._gone(key, refused(status, rest))

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None, goes_on: str = ""
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.end`.

        :param goes_on: if it goes on in another shard, its key there, ``1`` if by a sign-in, else
            ``0``, and its user tag.
        """
        args = (stamp, reason, expected or "", goes_on)
        status, *rest = self._confirmed(_END, "end", (self._name(key),), args)
        if status == Status.LIVE:
            return dated(rest[0], key=rest[1].decode())
        return self._gone(key, refused(status, rest))

    # -- a user's -------------------------------------------------------------------------------

    def look(self, key: str) -> Listed | Gone:
        """See :meth:`.base.Owning.look`."""
        status, *rest = self._run(_LOOK, (self._name(key),), (LISTED,))
        if status != Status.LIVE:
            return self._gone(key, gone(status, rest))
        return next(iter(listed([(rest[0], rest[1])])), Gone(CORRUPT))

    def sessions_of(self, user: str) -> list[Listed]:
        """See :meth:`.base.Owning.sessions_of`."""
        return theirs(self._run(_USER, (f"{self.slot}:u:{user}",), (LISTED,)))

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> list[Listed]:
        """See :meth:`.base.Owning.end_user`."""
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
        args = (limit, self._pattern(":[sue]:*"))
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

    # -- help -----------------------------------------------------------------------------------

    def _gone(self, key: str, answer: _T) -> _T:
        """*answer*; of what is unknown without a successor, if none but *key* was looked for."""
        if isinstance(answer, Gone) and answer.reason == UNKNOWN and answer.successor == key:
            return answer._replace(successor="")
        return answer

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
        done = answer[0] == Status.LIVE or answer[-1] == b"again"
        if done and confirmed < self._replicas:
            handle = names[0][-KEY_LENGTH:] if ":s:" in names[0] else "several"
            self._notify(ReplicasMissing(operation, handle, self._replicas, confirmed))
        return answer


def where_it_goes(new: str, draft: Draft, terms: Terms) -> str:
    """Where the tombstone of a rotation leads, as the scripts take it; empty: nowhere."""
    return f"{new}{int(terms.restart)}{draft.user}" if terms.leads_on(draft.user) else ""
