"""The audit: applies shorter limits to unused sessions, then compares the index with the records.

The same rules as ``redis/lua/audit.lua``. The progress is a document in the store, so that another
process can continue.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NamedTuple, TypeAlias

from ..model.policy import DEFAULT_TIER, Policy
from ..model.record import limited
from ..model.tokens import tier_tag
from .base import AuditStep
from .tables import Entry, Scope, Tables

# The name of the document with the progress.
_DOCUMENT = "audit"
_Limits: TypeAlias = "dict[str, list[int]]"


class _Round(NamedTuple):
    """The progress of a walk over all sessions, group by group.

    :param limits: idle time and lifetime of the last step, by :attr:`.record.Record.limits_tag`.
    :param group: where the next step begins; ``None``: the walk is done.
    :param after: the entry of that group that was read last.
    :param passed: sessions that later steps have stood for, until the index is compared again.
    """

    limits: _Limits
    group: str | None
    after: Entry | None = None
    passed: int = 0


def step(t: Tables, policy: Policy, limit: int) -> AuditStep:
    """See :meth:`.base.IndexedStore.audit`. Walks only after limits became shorter.

    The last step of a round compares the whole index with the records.
    """
    with t.transaction(Scope(document=_DOCUMENT), writes=False):
        behind = _is_behind(t, policy)
    scope = Scope(task="all" if behind else "documents", document=_DOCUMENT)
    with t.transaction(scope):
        t.now()
        found = _walk_on(t, policy, limit) if behind else _pass_over(t, policy, limit)
    return found._replace(repaired=t.repair()) if found.done else found


def _is_behind(t: Tables, policy: Policy) -> bool:
    """Returns whether sessions may have limits that are longer than those of *policy*."""
    before = _stored(t)
    return before is None or before.group is not None or _shorter(_limits_of(policy), before.limits)


def _pass_over(t: Tables, policy: Policy, limit: int) -> AuditStep:
    """Pass over *limit* sessions, of which none has to be changed. Done when all are passed.

    To compare the index with the records costs as much as a walk, so it is done as rarely.
    """
    before, limits = _stored(t), _limits_of(policy)
    passed = limit + (before.passed if before else 0)
    done = passed >= sum(t.counts().values())
    here = _Round(limits, None, passed=0 if done else passed)
    if here != before:
        _store(t, here)
    return AuditStep(0, done)


def _walk_on(t: Tables, policy: Policy, limit: int) -> AuditStep:
    """Walk over up to *limit* sessions. A walk begins when *policy* has a shorter limit."""
    limits, before = _limits_of(policy), _stored(t)
    here = _Round(limits, "") if before is None or _shorter(limits, before.limits) else before
    here, changed = _walked(t, here._replace(limits=limits), limit)
    if here != before:
        _store(t, here)
    done = here.group is None
    return AuditStep(0, done, changed, behind=not done)


def _walked(t: Tables, here: _Round, limit: int) -> tuple[_Round, int]:
    """Returns the progress after *limit* sessions, and how many were changed."""
    group, after, changed = here.group, here.after, 0
    groups = [] if group is None else sorted(found for found in t.counts() if found >= group)
    for name in groups:
        entries = list(t.nearest(name, limit, after if name == group else None))
        changed += sum(_shorten(t, key, here.limits) for _, key, _ in entries)
        limit -= len(entries)
        if limit == 0:
            return here._replace(group=name, after=entries[-1] if entries else None), changed
    return _Round(here.limits, None), changed


def _shorten(t: Tables, key: str, limits: _Limits) -> bool:
    with suppress(ValueError):  # it is not a record, which its next use reports
        record = t.read(key)
        fresh = record and limited(record, *_of(limits, record.limits_tag))
        if fresh is not None and fresh != record:
            t.put(key, fresh, record)
            return True
    return False


def _store(t: Tables, here: _Round) -> None:
    t.put_document(_DOCUMENT, json.dumps(here).encode("ascii"), t.now())


def _stored(t: Tables) -> _Round | None:
    with suppress(ValueError, TypeError):  # there is none, or it cannot be read
        limits, group, after, passed = json.loads(t.document(_DOCUMENT)[0])
        return _Round(limits, group, after and Entry(*after), passed)
    return None


def _shorter(limits: _Limits, before: _Limits) -> bool:
    pairs = ((_of(limits, tag), _of(before, tag)) for tag in {*limits, *before})
    return any(mine < its for pair in pairs for mine, its in zip(*pair, strict=True))


def _limits_of(policy: Policy) -> _Limits:
    rows = {tier_tag(DEFAULT_TIER): policy.limits(DEFAULT_TIER), **policy.rows}
    return {tag: list(limits[:2]) for tag, limits in rows.items()}


def _of(limits: _Limits, tag: str) -> list[int]:
    """Returns the same limits as :meth:`.policy.Policy.limits_by_tag`."""
    return limits.get(tag) or limits.get(tag.lstrip("+")) or limits[tier_tag(DEFAULT_TIER)]
