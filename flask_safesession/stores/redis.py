"""Sessions on Redis or Valkey: one Lua script for each operation, by the server's clock.

The scripts stand in ``lua/`` with their protocol in a comment on top. redis-py's errors leave here
as ours.

What a lost reply does: every script but ``create`` recognises its own repetition by the stamp in
the record or tombstone, so these are sent again on a fresh connection while there is time.
``create`` is sent once; its orphan ends by its idle timeout.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any, TypeAlias

import redis
from redis.exceptions import NoScriptError, RedisError

from ..errors import StoreFull, StoreUnavailable
from ..expiry import DEFAULT_TIER
from ..record import Draft, dumps_draft, loads
from ..tokens import KEY_LENGTH, TIER_TAG_LENGTH, tier_tag
from .base import (
    CORRUPT,
    EVICTED,
    UNKNOWN,
    AuditStep,
    Census,
    Conflict,
    Gone,
    Live,
    PurgeStep,
    Removed,
    Rules,
    Taken,
    Terms,
)
from .redis_client import Client, Connections, bounded, deadline, remaining

# The first element of every answer, as in lua/_common.lua.
_UNKNOWN, _LIVE, _BURIED, _DUE, _FOREIGN, _NEWER, _CONFLICT, _TAKEN, _FULL = range(9)
_OLDEST = (6, 2)
# How the scripts list those who were removed.
_PIECE = KEY_LENGTH + TIER_TAG_LENGTH + 1
_REASONS = {"i": "idle", "l": "lifetime", "e": EVICTED}
# Rules; their limits without and with a slide; their caps and tiers.
_Wired: TypeAlias = tuple[Rules | None, tuple[bytes, bytes], tuple[bytes | int, ...]]


class _Script:
    """A Lua script and the digest by which the server remembers it."""

    def __init__(self, *parts: str) -> None:
        folder = resources.files(__package__) / "lua"
        self.text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_LOAD = _Script("load", "_common", "slide")
_COMMIT = _Script("commit", "_common", "recommit")
_END = _Script("_common", "end")
_CREATE = _Script("_common", "_admission", "create")
_ROTATE = _Script("_common", "_admission", "rotate")
_PURGE = _Script("_common", "_admission", "purge")
_CENSUS = _Script("_common", "census")
_AUDIT = _Script("_common", "audit")
_LEASE = _Script("_common", "lease")


class RedisStore:
    """The store behind ``redis://``, ``rediss://``, ``unix://`` and ``valkey://``.

    :param client: a ready redis-py client. Its address and credentials are used; time-outs, retries
        and decoding are the store's own, so the client itself is not touched.
    :param prefix: what the keys begin with. Apps with the same prefix share sessions and cap.
    :param timeout: seconds that one call may take, reconnects and retries included.
    :raises ConfigError: the client cannot be used, with what to do instead.
    """

    shared = True

    def __init__(
        self, client: Client, *, prefix: str = "safesession", timeout: float = 1.0
    ) -> None:
        self._redis: Any = bounded(client, timeout)
        self._connections = Connections(self._redis.connection_pool)
        self._timeout = timeout
        self._slot = f"{{{prefix}:0}}"
        self._wired: _Wired = (None, (b"", b""), ())

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "safesession", timeout: float = 1.0) -> RedisStore:
        """A store for a URL that redis-py understands; ``valkey://`` means ``redis://``."""
        return cls(_client_for(url), prefix=prefix, timeout=timeout)

    def load(self, key: str, rules: Rules, *, slide: bool) -> Live | Gone:
        """See :meth:`.base.Store.load`."""
        limits = self._wire(rules)[1][slide]
        answer = self._run(_LOAD, (self._name(key),), (limits,))
        try:
            if isinstance(answer, bytes):
                return Live(loads(answer))
            status, *rest = answer
            if status == _LIVE:
                return Live(loads(rest[1], rest[2][len(rest[1]) :]), rest[0])
        except ValueError:
            return Gone(CORRUPT)
        return _gone(status, rest)

    def create(self, key: str, draft: Draft, rules: Rules) -> Live | Taken:
        """See :meth:`.base.Store.create`."""
        args = (dumps_draft(draft), *self._wire(rules)[2])
        status, *rest = self._run(_CREATE, (self._name(key),), args, repeatable=False)
        return _admitted(status, rest, draft, rules)

    def commit(
        self, key: str, draft: Draft, expected: str, *, slide: bool
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.commit`."""
        args = (expected, int(slide), dumps_draft(draft))
        answer = self._run(_COMMIT, (self._name(key),), args)
        if isinstance(answer, bytes):
            return Live(loads(answer[11:], draft.payload), int(answer[:11], 16))
        status, *rest = answer
        if status == _LIVE:
            return Live(loads(rest[1], draft.payload), rest[0])
        return _refused(status, rest)

    def rotate(
        self, key: str, new: str, draft: Draft, rules: Rules, terms: Terms
    ) -> Live | Gone | Conflict | Taken:
        """See :meth:`.base.Store.rotate`."""
        pace = "1" if terms.restart else "0" if terms.slide else "-"
        how = (terms.expected or "", pace, terms.reason)
        args = (*how, dumps_draft(draft), *self._wire(rules)[2])
        status, *rest = self._run(_ROTATE, (self._name(key), self._name(new)), args)
        if status in (_LIVE, _TAKEN, _FULL):
            return _admitted(status, rest, draft, rules)
        return _refused(status, rest)

    def end(
        self, key: str, stamp: str, reason: str, expected: str | None
    ) -> Live | Gone | Conflict:
        """See :meth:`.base.Store.end`."""
        status, *rest = self._run(_END, (self._name(key),), (stamp, reason, expected or ""))
        if status == _LIVE:
            return Live(loads(rest[1], b""), rest[0], key=rest[2].decode())
        return _refused(status, rest)

    def purge(self, rules: Rules, limit: int) -> PurgeStep:
        """See :meth:`.base.Store.purge`."""
        args = (limit, *self._wire(rules)[2])
        _, due, trimmed, more, removed = self._run(_PURGE, (f"{self._slot}:tiers",), args)
        return PurgeStep(due, trimmed, bool(more), _removed(removed))

    def census(self, rules: Rules) -> Census:
        """See :meth:`.base.Store.census`."""
        # After an index was lost, a mended one has a tier's tag in the place of its name.
        names = {tier_tag(tier): tier for tier in rules.policy.order}
        _, now, *rest = self._run(_CENSUS, (f"{self._slot}:tiers",), ())
        live: dict[str, int] = {}
        due, oldest = 0, now
        for at in range(0, len(rest), 4):
            name = rest[at].decode("ascii", "replace")
            name = names.get(name, name)
            live[name] = live.get(name, 0) + rest[at + 1]
            due += rest[at + 2]
            oldest = min(oldest, rest[at + 3])
        return Census(live, due, max(0, now - oldest))

    def audit(self, rules: Rules, limit: int) -> AuditStep:
        """See :meth:`.base.Auditing.audit`."""
        del rules
        pattern = "".join(f"\\{c}" if c in "*?[]\\^" else c for c in self._slot) + ":[su]:*"
        _, mended, done = self._run(_AUDIT, (f"{self._slot}:audit",), (limit, pattern))
        return AuditStep(mended, done=bool(done))

    def lease(self, task: str, milliseconds: int) -> bool:
        """See :meth:`.base.Leasing.lease`."""
        name = f"{self._slot}:lease:{task}"
        return bool(self._run(_LEASE, (name,), (milliseconds,), repeatable=False))

    def inspect(self) -> list[str]:
        """See :meth:`.base.Inspecting.inspect`."""
        info = self._call(self._redis.info, repeatable=True)
        return _findings(info, keeps=bool(info.get("aof_enabled")) or self._snapshots())

    def _snapshots(self) -> bool:
        """Whether the server saves snapshots; also yes where it will not say."""
        try:
            saves = self._call(lambda: self._redis.config_get("save"), repeatable=True)
        except StoreUnavailable:  # CONFIG is forbidden on most managed servers
            return True
        return bool(saves.get("save", True))

    def close(self) -> None:
        """See :meth:`.base.Store.close`."""
        self._connections.close()
        # Those in use are closed by whoever uses them.
        self._redis.connection_pool.disconnect(inuse_connections=False)

    def _name(self, key: str) -> str:
        return f"{self._slot}:s:{key}"

    def _wire(self, rules: Rules) -> _Wired:
        """The rules as the scripts take them: rows of limits, and caps with the order of tiers."""
        if self._wired[0] is not rules:
            limits = _limit_rows(rules)
            self._wired = (rules, (b"0" + limits, b"1" + limits), _cap_arguments(rules))
        return self._wired

    def _run(
        self,
        script: _Script,
        keys: tuple[str, ...],
        args: tuple[Any, ...],
        *,
        repeatable: bool = True,
    ) -> Any:
        def send() -> Any:
            tail = (len(keys), *keys, *args)
            try:
                return exchange("EVALSHA", script.sha, *tail, careful=not repeatable)
            except NoScriptError:
                # A restart or SCRIPT FLUSH: sending the text also makes the server remember it.
                return exchange("EVAL", script.text, *tail, careful=not repeatable)

        exchange = self._connections.exchange
        return self._call(send, repeatable=repeatable)

    def _call(self, send: Any, *, repeatable: bool) -> Any:
        try:
            with deadline(self._timeout):
                try:
                    return send()
                except redis.ConnectionError:
                    # The reply may have been lost; there may be time to ask again.
                    if not repeatable:
                        raise
                    remaining()
                    return send()
        except RedisError as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error


def _findings(info: dict[str, Any], *, keeps: bool) -> list[str]:
    found = []
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        found.append(f"the server is version {version}: Redis 6.2 or Valkey 7.2 is the oldest")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        found.append(
            f"maxmemory-policy is {policy}: the server will drop sessions behind our back, users'"
            " first or last as it likes; set it to noeviction, SAFESESSION_MAX_SESSIONS is the cap"
        )
    if info.get("maxmemory") == 0:
        found.append("maxmemory is not set: other data on this server can take all its memory")
    if not keeps:
        found.append("persistence is off: a restart of the server signs everybody out")
    return found


def _client_for(url: str) -> Client:
    scheme, separator, rest = url.partition("://")
    return redis.Redis.from_url(("redis" if scheme == "valkey" else scheme) + separator + rest)


def _gone(status: int, rest: list[Any]) -> Gone:
    if status == _BURIED:
        return Gone(rest[0].decode(), buried=True, repeated=rest[1] == b"again")
    if status == _DUE:
        return Gone(rest[0].decode(), tier=rest[1].decode("ascii", "replace"))
    if status == _FOREIGN:
        return Gone(CORRUPT)
    if status == _NEWER:
        raise StoreUnavailable("the record was written by a newer version of Flask-SafeSession")
    return Gone(UNKNOWN)


def _refused(status: int, rest: list[Any]) -> Gone | Conflict:
    if status == _CONFLICT:
        try:
            return Conflict(loads(rest[0]))
        except ValueError:
            return Gone(CORRUPT)
    return _gone(status, rest)


def _admitted(status: int, rest: list[Any], draft: Draft, rules: Rules) -> Live | Taken:
    if status == _TAKEN:
        return Taken()
    if status == _FULL:
        raise StoreFull(rules.cap.total)
    now, head, total, removed = rest
    return Live(loads(head, draft.payload), now, _removed(removed), total)


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
    caps = (cap.total, cap.users, cap.per_user, int(cap.evict))
    return caps + tuple(part.encode("ascii") for part in order)
