"""Encodes rules for the scripts, and decodes their answers."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from typing import Any

from ...errors import StoreFull, StoreUnavailable, TooManySessions
from ...model.policy import DEFAULT_TIER
from ...model.reason import Reason
from ...model.record import Draft, loads
from ...model.tokens import KEY_LENGTH, TIER_TAG_LENGTH, tier_tag
from ..base import (
    Answer,
    Conflict,
    Counts,
    Gone,
    Listed,
    Live,
    Moved,
    Onward,
    Page,
    Removed,
    Rules,
    Taken,
)


class Status(IntEnum):
    """The first element of every answer, as in ``lua/_common.lua``."""

    UNKNOWN = 0
    LIVE = 1
    TOMBSTONE = 2
    DUE = 3
    FOREIGN = 4
    NEWER = 5
    CONFLICT = 6
    TAKEN = 7
    FULL = 8
    ENDED = 9
    UNSURE = 10
    TOO_MANY = 11
    MOVED = 12


# Bytes of one removed session in the scripts' lists: key, and removal note.
_PIECE = KEY_LENGTH + TIER_TAG_LENGTH + 1
_REASONS = {"i": Reason.IDLE, "l": Reason.LIFETIME, "e": Reason.EVICTED, "r": Reason.REVOKED}
# Hexadecimal digits of the store's time before a record.
_NOW = 11


def dated(raw: bytes, rest: bytes | None = None, **more: Any) -> Live:
    """Returns a live session from one string: the store's time, then the record.

    :param rest: note and payload, if *raw* ends before them.
    :param more: further fields of the answer.
    :raises ValueError: *raw* has no record.
    """
    return Live(loads(raw[_NOW:], rest), int(raw[:_NOW], 16), **more)


def gone(status: int, rest: list[Any]) -> Gone:
    """Returns why a session is gone, from a script's answer.

    :raises StoreUnavailable: the record exists, and this version cannot read it.
    """
    if status == Status.FOREIGN:
        return Gone(Reason.CORRUPT)
    if status == Status.NEWER:
        raise StoreUnavailable("the record was written by a newer version of Flask-SafeSession")
    text = [part.decode("ascii", "replace") if isinstance(part, bytes) else part for part in rest]
    if status == Status.ENDED:
        return Gone(text[0], for_visitor=True)
    if status == Status.DUE:
        return Gone(text[0], tier=text[1], for_visitor=bool(text[2]))
    if status == Status.TOMBSTONE:
        reason, _, successor, user, *again = text
        return Gone(
            reason, has_tombstone=True, repeated=bool(again), successor=successor, user=user
        )
    return Gone(Reason.UNKNOWN)


def written(status: int, rest: list[Any]) -> Answer:
    """Returns the result of a write to a session."""
    if status == Status.LIVE:
        return dated(rest[0])
    if status != Status.CONFLICT:
        return gone(status, rest)
    try:
        return Conflict(dated(rest[0]).record)
    except ValueError:
        return Gone(Reason.CORRUPT)


def admitted(status: int, rest: list[Any], draft: Draft, rules: Rules) -> Live | Taken:
    """Returns the result of an admission.

    :raises StoreFull: the cap is reached.
    :raises TooManySessions: the user's cap is reached.
    """
    if status == Status.TAKEN:
        return Taken()
    if status == Status.FULL:
        raise StoreFull(rules.cap.total)
    if status == Status.TOO_MANY:
        raise TooManySessions
    raw, total, removed = rest
    # Without a total it is a repetition, and *raw* has the current record.
    made = draft.note + draft.payload if total else None
    return dated(raw, made, removed=removals(removed), total=total)


def adopted(status: int, rest: list[Any], draft: Draft, rules: Rules) -> Live | Moved | Gone:
    """Returns the result of an adoption; raises as :func:`admitted`."""
    if status == Status.MOVED:
        return Moved(rest[0].decode())
    made = Taken() if status == Status.UNKNOWN else admitted(status, rest, draft, rules)
    return Gone(Reason.UNKNOWN) if isinstance(made, Taken) else made


def theirs(answer: list[Any]) -> list[Listed]:
    """Returns a user's sessions."""
    return listed(zip(answer[1::2], answer[2::2], strict=True))


def listed(pairs: Iterable[tuple[bytes, bytes]]) -> list[Listed]:
    """Returns the readable sessions of pairs of key and first bytes."""
    found = []
    for key, raw in pairs:
        with suppress(ValueError):
            found.append(Listed(key.decode(), loads(raw)))
    return found


def paged(rows: list[bytes], limit: int) -> Page:
    """Returns the sessions in *rows* of three: place in the index, entry there, first bytes."""
    keys = (entry[:KEY_LENGTH] for entry in rows[1::3])
    found = tuple(listed(zip(keys, rows[2::3], strict=True)))
    more = len(rows) == 3 * limit
    return Page(found, f"{rows[-3].decode()}:{rows[-2].decode()}" if more else "")


def removals(packed: bytes) -> tuple[Removed, ...]:
    """Returns the removed sessions: each is a key, a tier tag and a letter for the reason."""
    text = packed.decode("ascii", "replace")
    pieces = [text[at : at + _PIECE] for at in range(0, len(text), _PIECE)]
    return tuple(Removed(p[:KEY_LENGTH], p[KEY_LENGTH:-1], _REASONS[p[-1]]) for p in pieces)


def counted(now: int, rows: list[Any], rules: Rules) -> Counts:
    """Returns the counts in *rows* of four: tier, live sessions, due ones, oldest deadline."""
    # The audit restores a lost index with a tier's tag in the place of its name.
    names = {tier_tag(tier): tier for tier in rules.policy.order}
    live: dict[str, int] = {}
    due, oldest = 0, now
    for at in range(0, len(rows), 4):
        name = rows[at].decode("ascii", "replace")
        name = names.get(name, name)
        live[name] = live.get(name, 0) + rows[at + 1]
        due += rows[at + 2]
        oldest = min(oldest, rows[at + 3])
    return Counts(live, due, max(0, now - oldest))


def limit_rows(rules: Rules) -> bytes:
    """Returns the limits by tag, as scripts take them; those of extended sessions begin with +."""
    policy = rules.policy
    tags = [("    ", policy.limits(DEFAULT_TIER)), *policy.rows.items()]
    rows = (f"|{tag}{t.idle:012d}{t.lifetime:012d}{t.touch:012d}" for tag, t in tags)
    return "".join(rows).replace("|+", "+").encode("ascii")


def cap_arguments(rules: Rules) -> tuple[bytes | int, ...]:
    """Returns the caps and the order of tiers, as scripts take them."""
    cap = rules.cap
    order = [part for tier in rules.policy.order for part in (tier_tag(tier), tier)]
    own = "".join(f"|{tier_tag(tier)}{n:09d}" for tier, n in cap.per_tier.items())
    per_user = f"{cap.per_user:09d}{own}".encode("ascii")
    caps = (cap.total, cap.users, per_user, int(cap.evict), int(cap.refuse))
    return caps + tuple(part.encode("ascii") for part in order)


def wire_onward(onward: Onward | None) -> str:
    """Returns where a tombstone leads, as the scripts take it; empty: nowhere."""
    return f"{onward.key}{onward.sign_in:d}{onward.user}" if onward else ""
