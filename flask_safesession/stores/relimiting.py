"""Putting sessions that nobody uses under shorter limits.

The twin of ``lua/relimit.lua``. How far it has come is a document of the store, so that another
process goes on where one has stopped.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NamedTuple

from ..model.policy import DEFAULT_TIER, Policy
from ..model.record import Record, limited
from ..model.tokens import tier_tag
from .base import RelimitStep
from .tables import Entry, Tables

_DOCUMENT = "relimit"
_FIRST = ""  # before every group


class _Round(NamedTuple):
    """A walk over all sessions, some at a time.

    :param limits: idle and lifetime by tier tag.
    :param group: where it stands; ``None``: it is over.
    :param after: the entry of that group that was seen last.
    """

    limits: dict[str, list[int]]
    group: str | None
    after: Entry | None = None


def step(t: Tables, policy: Policy, limit: int) -> RelimitStep:
    """Go on for up to *limit* sessions. A round begins when *policy* is shorter than its last."""
    before = _stored(t)
    here = _begin(before, _limits_of(policy))
    if here.group == _FIRST:
        here = here._replace(group=_following(t, _FIRST))
    changed = 0
    if here.group is not None:
        entries = list(t.nearest(here.group, limit, here.after))
        changed = sum(_relimit(t, key, here.limits) for _, key in entries)
        more = len(entries) == limit
        group, after = (here.group, entries[-1]) if more else (_following(t, here.group), None)
        here = here._replace(group=group, after=after)
    if here != before:
        t.put_document(_DOCUMENT, json.dumps(here).encode("ascii"), t.now())
    return RelimitStep(changed, here.group is None)


def _stored(t: Tables) -> _Round | None:
    with suppress(ValueError, TypeError):  # there is none, or it is not ours
        limits, group, after = json.loads(t.document(_DOCUMENT)[0])
        return _Round(limits, group, after and Entry(*after))
    return None


def _begin(last: _Round | None, limits: dict[str, list[int]]) -> _Round:
    if last is None or _shorter(limits, last.limits):
        return _Round(limits, _FIRST)
    return last._replace(limits=limits) if last.group is None else last


def _shorter(limits: dict[str, list[int]], before: dict[str, list[int]]) -> bool:
    pairs = ((_of(limits, tag), _of(before, tag)) for tag in {*limits, *before})
    return any(mine < its for pair in pairs for mine, its in zip(*pair, strict=True))


def _limits_of(policy: Policy) -> dict[str, list[int]]:
    return {tier_tag(name): list(policy.limits(name)[:2]) for name in policy.names}


def _of(limits: dict[str, list[int]], tag: str) -> list[int]:
    return limits.get(tag) or limits[tier_tag(DEFAULT_TIER)]


def _relimit(t: Tables, key: str, limits: dict[str, list[int]]) -> bool:
    record = _read(t, key)
    fresh = record and limited(record, *_of(limits, record.tier))
    if record is None or fresh is None or fresh == record:
        return False
    t.put(key, fresh, record)
    return True


def _read(t: Tables, key: str) -> Record | None:
    with suppress(ValueError):
        return t.read(key)
    return None  # an audit, or the session's next use, finds it


def _following(t: Tables, group: str) -> str | None:
    """Returns the group after *group*; ``None``: it was the last."""
    return min((found for found in t.counts() if found > group), default=None)
