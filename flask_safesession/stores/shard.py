"""One shard of a store on Redis or Valkey: each operation is one script, by the server's clock."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from ..errors import StoreFull, StoreUnavailable, TooManySessions
from ..events import ReplicasMissing
from ..expiry import DEFAULT_TIER
from ..record import MAGIC, Draft, dumps_draft, loads
from ..tokens import KEY_LENGTH, TIER_TAG_LENGTH, tier_tag
from .base import (
    CORRUPT,
    EVICTED,
    LISTED,
    REVOKED,
    UNKNOWN,
    AuditStep,
    Census,
    Conflict,
    Gone,
    Listed,
    Live,
    PurgeStep,
    RelimitStep,
    Removed,
    Rules,
    Taken,
    Terms,
    Tuning,
)
from .breaker import Notify
from .layout import Layout
from .scripts import Caller, Script

# The first element of every answer, as in lua/_common.lua.
_UNKNOWN, _LIVE, _BURIED, _DUE, _FOREIGN, _NEWER, _CONFLICT, _TAKEN, _FULL = range(9)
_MOVING, _ELSEWHERE, _ENDED, _UNSURE, _TOO_MANY = range(9, 14)
#: How a record begins that is on its way to another shard.
LEAVING = b"SSM"
# How the scripts list those who were removed.
_PIECE = KEY_LENGTH + TIER_TAG_LENGTH + 1
_REASONS = {"i": "idle", "l": "lifetime", "e": EVICTED, "r": REVOKED}
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
_TUNE = Script("_common", "tune")
_LEASE = Script("_common", "lease")
_LAYOUT = Script("_common", "layout")
_DEPART = Script("_common", "depart")
_ARRIVE = Script("_common", "arrive")
_FORGET = Script("_common", "forget")


class Elsewhere(NamedTuple):
    """The session is not in this shard, and another may have it.

    :param layout: the layout as this shard knows it; ``None``: the session is on its way.
    """

    layout: Layout | None


class Successor(NamedTuple):
    """The session was rotated, and does not go on in this shard.

    :param answer: if it does not in any other either.
    :param key: under which it may.
    """

    answer: Any
    key: str


class Theirs(NamedTuple):
    """A user's sessions in one shard.

    :param layout: as this shard knows it.
    :param moving: sessions on their way to another shard, which may have arrived there.
    """

    layout: Layout | None
    sessions: list[Listed]
    moving: list[Listed]


class Departed(NamedTuple):
    """Sessions that are on their way to other shards: key and record of each.

    :param cursor: where to go on.
    :param more: there are more at *cursor*, even if it is 0; otherwise 0 is the end.
    :param tier: the name of the tier of all of them, empty for strangers.
    """

    cursor: int
    more: bool
    tier: str
    sessions: tuple[tuple[str, bytes], ...]


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
            if status in (_LIVE, _UNSURE):
                record = loads(rest[1], rest[2][len(rest[1]) :])
                live = Live(record, rest[0], key=rest[3].decode())
                return live if status == _LIVE else self._if_not_revoked(live)
        except ValueError:
            return Gone(CORRUPT)
        return _gone(status, rest)

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
        return _admitted(status, rest, draft, rules)

    def commit(
        self, key: str, draft: Draft, expected: str, *, slide: bool
    ) -> Live | Gone | Conflict | Elsewhere:
        """See :meth:`.base.Store.commit`."""
        args = (expected, int(slide), dumps_draft(draft))
        answer = self._run(_COMMIT, (self._name(key),), args)
        if isinstance(answer, bytes):
            return Live(loads(answer[11:], draft.payload), int(answer[:11], 16))
        status, *rest = answer
        if status == _LIVE:
            return Live(loads(rest[1], draft.payload), rest[0])
        return _conflict(rest) if status == _CONFLICT else _gone(status, rest)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken | Elsewhere | Successor:
        """See :meth:`.base.Store.rotate`; both keys have to be in this shard."""
        pace = "1" if terms.restart else "0" if terms.slide else "-"
        how = (terms.expected or "", pace, terms.reason, terms.grace)
        args = (*how, dumps_draft(draft), *self._wire(rules)[2])
        names = (self._name(key), self._name(new))
        status, *rest = self._confirmed(_ROTATE, "rotate", names, args)
        if status in (_LIVE, _TAKEN, _FULL, _TOO_MANY):
            return _admitted(status, rest, draft, rules)
        return _refused(status, rest, follow=terms.expected is None)

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict | Elsewhere | Successor:
        """See :meth:`.base.Store.end`."""
        args = (stamp, reason, expected or "")
        status, *rest = self._confirmed(_END, "end", (self._name(key),), args)
        if status == _LIVE:
            return Live(loads(rest[1], b""), rest[0], key=rest[2].decode())
        return _refused(status, rest, follow=expected is None)

    # -- a user's -------------------------------------------------------------------------------

    def look(self, key: str) -> Listed | Gone | Elsewhere:
        """See :meth:`.base.Owning.look`."""
        status, *rest = self._run(_LOOK, (self._name(key),), (LISTED,))
        if status != _LIVE:
            return _gone(status, rest)
        return next(iter(_listed([(key.encode(), rest[0])])), Gone(CORRUPT))

    def sessions_of(self, user: str) -> Theirs:
        """See :meth:`.base.Owning.sessions_of`."""
        return _theirs(self._run(_USER, (f"{self.slot}:u:{user}",), (LISTED,)))

    def end_user(self, user: str, stamp: str, reason: str, keep: str) -> Theirs:
        """See :meth:`.base.Owning.end_user`; what is on its way is listed, and not ended."""
        args = (LISTED, stamp, reason, keep)
        return _theirs(self._confirmed(_USER, "end", (f"{self.slot}:u:{user}",), args))

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
            found += [(where, listed) for listed in _listed([(entry[:KEY_LENGTH], raw)])]
        return found

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.Store.purge`."""
        args = (limit, *self._wire(rules)[2])
        _, due, trimmed, more, removed = self._run(_PURGE, (f"{self.slot}:tiers",), args)
        return PurgeStep(due, trimmed, bool(more), _removed(removed))

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
        pattern = "".join(f"\\{c}" if c in "*?[]\\^" else c for c in self.slot) + ":[su]:*"
        _, mended, done = self._run(_AUDIT, (f"{self.slot}:audit",), (limit, pattern))
        return AuditStep(mended, done=bool(done))

    def relimit(self, rules: Rules, limit: int) -> RelimitStep:
        """See :meth:`.base.Relimiting.relimit`."""
        args = (limit, self._wire(rules)[1][0][1:])
        _, changed, done = self._run(_RELIMIT, (f"{self.slot}:relimit",), args)
        return RelimitStep(changed, bool(done))

    def tuning(self, document: bytes = b"", expected: bytes = b"") -> Tuning:
        """See :meth:`.base.Steerable.tuning`, after *document* has taken its place if it may."""
        _, now, raw = self._run(_TUNE, (f"{self.slot}:tuning",), (document, expected))
        return Tuning(raw[11:], int(raw[:11] or b"0", 16), now)

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

    def _name(self, key: str) -> str:
        return f"{self.slot}:s:{key}"

    def _wire(self, rules: Rules) -> _Wired:
        """The rules as the scripts take them: rows of limits, and caps with the order of tiers."""
        if self._wired[0] is not rules:
            limits = _limit_rows(rules)
            ways = (b"0" + limits, b"1" + limits, b"-" + limits)
            self._wired = (rules, ways, _cap_arguments(rules))
        return self._wired

    def _confirmed(
        self, script: Script, operation: str, names: tuple[str, ...], args: tuple[Any, ...]
    ) -> Any:
        """The answer of a script that ends a session; too few replicas are told of."""
        if not self._replicas:
            return self._run(script, names, args)
        answer, confirmed = self._caller.confirm(script, names, args, self._replicas)
        done = answer[0] == _LIVE or answer[2:] == [b"again"]
        if done and confirmed < self._replicas:
            handle = names[0][-KEY_LENGTH:] if ":s:" in names[0] else "several"
            self._notify(ReplicasMissing(operation, handle, self._replicas, confirmed))
        return answer


def _gone(status: int, rest: list[Any]) -> Gone | Elsewhere:
    if status in (_BURIED, _DUE, _ENDED):
        return _ended(status, rest)
    if status == _FOREIGN:
        return Gone(CORRUPT)
    if status == _NEWER:
        raise StoreUnavailable("the record was written by a newer version of Flask-SafeSession")
    if status == _MOVING:
        return Elsewhere(None)
    if status == _ELSEWHERE:
        return Elsewhere(Layout.loads(rest[0]))
    return Gone(UNKNOWN)


def _ended(status: int, rest: list[Any]) -> Gone:
    reason = rest[0].decode()
    if status == _ENDED:
        return Gone(reason, told=True)
    if status == _DUE:
        return Gone(reason, tier=rest[1].decode("ascii", "replace"), told=bool(rest[2]))
    where, tier = (part.decode("ascii", "replace") for part in (rest[4:6] or (b"", b"")))
    return Gone(reason, buried=True, tier=tier, repeated=rest[1] == b"again", key=where)


def _refused(
    status: int, rest: list[Any], *, follow: bool = False
) -> Gone | Conflict | Elsewhere | Successor:
    if follow and status == _BURIED and rest[2:] and rest[2]:
        return Successor(_gone(status, rest), rest[2].decode())
    return _conflict(rest) if status == _CONFLICT else _gone(status, rest)


def _conflict(rest: list[Any]) -> Gone | Conflict:
    try:
        return Conflict(loads(rest[0]))
    except ValueError:
        return Gone(CORRUPT)


def _admitted(status: int, rest: list[Any], draft: Draft, rules: Rules) -> Live | Taken | Elsewhere:
    if status == _TAKEN:
        return Taken()
    if status == _FULL:
        raise StoreFull(rules.cap.total)
    if status == _TOO_MANY:
        raise TooManySessions
    if status == _ELSEWHERE:
        return Elsewhere(Layout.loads(rest[0]))
    now, head, total, removed = rest
    return Live(loads(head, draft.payload), now, _removed(removed), total)


def _theirs(answer: list[Any]) -> Theirs:
    _, layout, *rest = answer
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    return Theirs(
        Layout.loads(layout) if layout else None,
        _listed(pair for pair in pairs if not pair[1].startswith(LEAVING)),
        _listed((key, MAGIC + raw[3:]) for key, raw in pairs if raw.startswith(LEAVING)),
    )


def _listed(pairs: Iterable[tuple[bytes, bytes]]) -> list[Listed]:
    """The sessions whose keys and first bytes these are, as far as they can be read."""
    found = []
    for key, raw in pairs:
        with suppress(ValueError):
            found.append(Listed(key.decode(), loads(raw)))
    return found


def _removed(packed: bytes) -> tuple[Removed, ...]:
    """Who was removed: key, tier tag and a letter for the reason, one behind the other."""
    text = packed.decode("ascii", "replace")
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    return tuple(Removed(p[:KEY_LENGTH], p[KEY_LENGTH:-1], _REASONS[p[-1]]) for p in pieces)


def _limit_rows(rules: Rules) -> bytes:
    policy = rules.policy
    tags = [("    ", policy.limits(DEFAULT_TIER))] + [
        (tier_tag(n), t) for n, t in policy.tiers.items()
    ]
    rows = (f"|{tag}{t.idle:012d}{t.lifetime:012d}{t.touch:012d}" for tag, t in tags)
    return "".join(rows).encode("ascii")


def _cap_arguments(rules: Rules) -> tuple[bytes | int, ...]:
    cap = rules.cap
    order = [part for tier in rules.policy.order for part in (tier_tag(tier), tier)]
    own = "".join(f"|{tier_tag(tier)}{n:09d}" for tier, n in cap.per_tier.items())
    per_user = f"{cap.per_user:09d}{own}".encode("ascii")
    caps = (cap.total, cap.users, per_user, int(cap.evict), int(cap.refuse))
    return caps + tuple(part.encode("ascii") for part in order)
