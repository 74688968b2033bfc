"""What a store keeps of a session: an immutable record, and its wire form.

The wire form is an ASCII header of fixed widths and then the payload, so that a script on the
server can read and patch the times in place. Times are milliseconds since 1970 by the store's
clock, in hexadecimal: every byte here is paid for a million times.

======== ===== ==================================================
offset   width field
======== ===== ==================================================
0        3     ``SS`` and the format version
3        21    the stamps of the last three writes, newest first
24       11    created
35       11    last active
46       11    absolute deadline
57       10    idle allowance, in milliseconds
67       4     tier tag
71       1     ``+`` for a user, ``-`` for a stranger
72       16    user tag, of users only
======== ===== ==================================================
"""

from __future__ import annotations

from typing import NamedTuple

from .tokens import STAMP_LENGTH

MAGIC = b"SS1"
_NO_STAMP = "-" * STAMP_LENGTH
_HEADER_LENGTHS = {b"-": 72, b"+": 88}


class Record(NamedTuple):
    """One session as the store has it."""

    stamps: tuple[str, str, str]
    created: int
    last_active: int
    absolute: int
    idle: int
    tier: str
    user: str
    payload: bytes

    @property
    def deadline(self) -> int:
        """When the session ends unless it is used before: milliseconds, by the store's clock."""
        return min(self.absolute, self.last_active + self.idle)

    @property
    def end_reason(self) -> str:
        """What ends the session at its deadline: ``"idle"`` or ``"lifetime"``."""
        return "lifetime" if self.absolute <= self.last_active + self.idle else "idle"


class Draft(NamedTuple):
    """A record to be written. The store fills in its times: here they are durations.

    :param stamp: names this write, so that a repetition is recognised.
    :param idle: idle allowance in milliseconds.
    :param lifetime: milliseconds from creation to the absolute deadline.
    """

    stamp: str
    idle: int
    lifetime: int
    tier: str
    user: str
    payload: bytes


def record_from(draft: Draft, *, created: int, last_active: int, stamps: tuple[str, ...]) -> Record:
    """The record that *draft* becomes; *stamps* are those of the writes before it."""
    kept = (draft.stamp, *stamps, _NO_STAMP, _NO_STAMP)
    return Record(
        (kept[0], kept[1], kept[2]),
        created,
        last_active,
        created + draft.lifetime,
        draft.idle,
        draft.tier,
        draft.user,
        draft.payload,
    )


def limited(record: Record, idle: int, lifetime: int) -> Record:
    """*record* under today's limits where they are shorter: a load never makes them longer."""
    absolute = min(record.absolute, record.created + lifetime)
    if absolute == record.absolute and idle >= record.idle:
        return record
    return record._replace(absolute=absolute, idle=min(record.idle, idle))


def dumps(record: Record) -> bytes:
    """The wire form of *record*."""
    return (
        f"SS1{''.join(record.stamps)}{record.created:011x}{record.last_active:011x}"
        f"{record.absolute:011x}{record.idle:010x}{record.tier}{_kind(record.user)}"
    ).encode("ascii") + record.payload


def dumps_draft(draft: Draft, created: int = 0, last_active: int = 0) -> bytes:
    """*draft* in the same form, its lifetime in the place of the absolute deadline.

    :param created: and *last_active*: of a session that comes from elsewhere; 0: the store's now.
    """
    return (
        f"SS1{draft.stamp}{_NO_STAMP * 2}{created:011x}{last_active:011x}"
        f"{draft.lifetime:011x}{draft.idle:010x}{draft.tier}{_kind(draft.user)}"
    ).encode("ascii") + draft.payload


def loads(raw: bytes, payload: bytes | None = None) -> Record:
    """The record in *raw*.

    :param payload: the payload, where *raw* is the header alone.
    :raises ValueError: it is no record.
    """
    end = header_length(raw)
    # isalnum, since int() would take underscores and blanks for digits
    if raw[:3] != MAGIC or len(raw) < end or not raw[24:67].isalnum():
        raise ValueError("not a session record")
    text = raw[:end].decode("ascii")
    return Record(
        (text[3:10], text[10:17], text[17:24]),
        int(text[24:35], 16),
        int(text[35:46], 16),
        int(text[46:57], 16),
        int(text[57:67], 16),
        text[67:71],
        text[72:],
        raw[end:] if payload is None else payload,
    )


def glance(raw: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Tier tag, user tag, creation and absolute deadline of a record, as they stand in *raw*.

    For those who look at very many: a tenth of what :func:`loads` takes.
    """
    return raw[67:71], raw[72:88] if raw[71:72] == b"+" else b"", raw[24:35], raw[46:57]


def header_length(raw: bytes) -> int:
    """Where the payload of the record in *raw* begins.

    :raises ValueError: it is no record.
    """
    try:
        return _HEADER_LENGTHS[raw[71:72]]
    except KeyError:
        raise ValueError("not a session record") from None


def _kind(user: str) -> str:
    return f"+{user}" if user else "-"
