"""Tombstones (where a session continues, why it ended) and reasons for visitors.

Tombstones are kept for a minute, reasons for a day. Each kind has a limit, and each user one within
it, so that neither many anonymous logouts nor one account push out those of others.
"""

from __future__ import annotations

from ..model.reason import Reason
from ..model.record import Record
from ..model.tokens import NO_USER
from .base import (
    MAX_TOMBSTONES,
    MAX_TOMBSTONES_OF_USER,
    TOMBSTONE_TTL,
    VISITOR_REASON_TTL,
    VISITOR_REASONS,
    Gone,
)
from .tables import ALL_KINDS, ANONYMOUS_TOMBSTONES, REASONS, USER_TOMBSTONES, Ending, Tables


def leave_tombstone(t: Tables, key: str, user: str, ending: Ending, now: int) -> None:
    """Leave a tombstone of *user*, or of an anonymous session."""
    kind = ANONYMOUS_TOMBSTONES if user == NO_USER else USER_TOMBSTONES
    _keep(t, kind, key, user, ending, now, TOMBSTONE_TTL)


def keep_reason(t: Tables, key: str, user: str, reason: str, now: int) -> None:
    """Keep why a user's session ended. Nothing is kept of anonymous ones."""
    if user != NO_USER and reason in VISITOR_REASONS:
        _keep(t, REASONS, key, user, Ending(reason), now, VISITOR_REASON_TTL)


def tombstone(t: Tables, key: str, now: int) -> Ending | None:
    """Returns the tombstone of *key*."""
    return t.ending(USER_TOMBSTONES, key, now) or t.ending(ANONYMOUS_TOMBSTONES, key, now)


def resolve(t: Tables, key: str, now: int) -> str:
    """Returns the key under which the session continues, following rotations but no sign-ins."""
    while (found := tombstone(t, key, now)) and found.successor and not found.sign_in:
        key = found.successor
    return key


def absent(t: Tables, key: str, now: int, stamp: str) -> Gone:
    """Returns the answer for a key without a record.

    :param stamp: of a call that may be repeated.
    """
    if found := tombstone(t, key, now):
        return Gone(
            found.reason,
            has_tombstone=True,
            repeated=stamp != "" and found.stamp == stamp,
            successor=found.successor,
            user=found.user,
        )
    reason = t.ending(REASONS, key, now)
    return Gone(reason.reason, for_visitor=True) if reason else Gone(Reason.UNKNOWN)


def finish(t: Tables, key: str, record: Record, ending: Ending, now: int) -> None:
    """Remove a session and leave a tombstone."""
    t.remove(key)
    keep_end(t, key, record, ending, now)


def keep_end(t: Tables, key: str, record: Record, ending: Ending, now: int) -> None:
    """Leave a tombstone of a session that was removed, and keep the reason for its visitor."""
    keep_reason(t, key, record.user, ending.reason, now)
    if record.user == NO_USER and ending.reason in VISITOR_REASONS:
        # Reasons are not shown to visitors of anonymous sessions.
        ending = ending._replace(reason="ended")
    # A sign-in's tombstone is the user's, so that many anonymous ones do not push it out.
    leave_tombstone(t, key, ending.user or record.user, ending, now)


def finish_over(t: Tables, key: str, record: Record, reason: str, now: int) -> Gone:
    """Remove a session that this call found ended."""
    t.remove(key)
    keep_reason(t, key, record.user, reason, now)
    return Gone(reason, tier=record.tier, for_visitor=record.user != NO_USER)


def forget(t: Tables, now: int) -> None:
    """Remove expired tombstones and reasons."""
    for kind in ALL_KINDS:
        t.forget_endings(kind, now)


def _keep(
    t: Tables, kind: str, key: str, user: str, ending: Ending, now: int, kept_for: int
) -> None:
    t.forget_endings(kind, now)
    t.put_ending(kind, key, user, ending, now + kept_for)
    if user != NO_USER:
        t.trim_endings(kind, MAX_TOMBSTONES_OF_USER, user)
    t.trim_endings(kind, MAX_TOMBSTONES)
