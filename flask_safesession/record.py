"""What a store keeps of a session: an immutable record, and its wire form.

The wire form is a fixed-width ASCII header and then the payload, so that a script on the server can
read and patch the times in place. Times are milliseconds since 1970 by the store's clock.

======== ===== ==================================================
offset   width field
======== ===== ==================================================
0        3     ``SS`` and the format version
3        24    the stamps of the last three writes, newest first
27       13    created
40       13    last active
53       13    absolute deadline
66       12    idle allowance, in milliseconds
78       6     tier tag
84       20    user tag, blank for strangers
104            payload
======== ===== ==================================================
"""

from __future__ import annotations

from typing import NamedTuple

MAGIC = b"SS1"
HEADER = 104
_NO_STAMP = "-" * 8


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
        f"SS1{''.join(record.stamps)}{record.created:013d}{record.last_active:013d}"
        f"{record.absolute:013d}{record.idle:012d}{record.tier}{record.user}"
    ).encode("ascii") + record.payload


def dumps_draft(draft: Draft) -> bytes:
    """*draft* in the same form, its lifetime in the place of the absolute deadline."""
    return (
        f"SS1{draft.stamp}{_NO_STAMP * 2}{0:013d}{0:013d}"
        f"{draft.lifetime:013d}{draft.idle:012d}{draft.tier}{draft.user}"
    ).encode("ascii") + draft.payload


def loads(head: bytes, payload: bytes) -> Record:
    """The record behind a header of 104 bytes and its payload.

    :raises ValueError: the header is not one.
    """
    if len(head) != HEADER or head[:3] != MAGIC:
        raise ValueError("not the header of a session record")
    text = head.decode("ascii")
    return Record(
        (text[3:11], text[11:19], text[19:27]),
        int(text[27:40]),
        int(text[40:53]),
        int(text[53:66]),
        int(text[66:78]),
        text[78:84],
        text[84:104],
        payload,
    )
