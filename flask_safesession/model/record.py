"""The record of a session in a store, and its wire form.

The wire form is an ASCII header of fixed widths, then the note, then the payload, so that a script
on the server can read and change the header in place. Times are milliseconds since 1970 by the
store's clock, in hexadecimal to save bytes: there may be millions of records.

======== ===== ==================================================
offset   width field
======== ===== ==================================================
0        3     ``SS`` and the format version
3        21    the stamps of the last three writes, newest first
24       11    created
35       11    last active
46       11    absolute deadline
57       10    idle allowance, in milliseconds; plus 2 ** 39 if it is extended
67       5     generation (of ``end_all``)
72       3     bytes of the note
75       4     tier tag
79       1     ``+`` for a user, ``-`` for an anonymous session
80       16    user tag, of users only
======== ===== ==================================================
"""

from __future__ import annotations

from typing import NamedTuple

from .reason import Reason
from .tokens import STAMP_LENGTH

MAGIC = b"SS1"
_NO_STAMP = "-" * STAMP_LENGTH
#: The most bytes of a note.
MAX_NOTE = 0xFFF
#: Generations are counted modulo this number; records that old have long expired.
GENERATIONS = 0x100000
# The bit of the idle allowance that marks an extended session. Ten years, the longest duration, are
# less.
_EXTENDED = 1 << 39
_HEADER_LENGTHS = {b"-": 80, b"+": 96}


class Record(NamedTuple):
    """One session in a store.

    :param extended: it has limits of its own that are longer than those of its tier.
    """

    stamps: tuple[str, str, str]
    created: int
    last_active: int
    absolute: int
    idle: int
    tier: str
    user: str
    payload: bytes
    note: bytes = b""
    generation: int = 0
    extended: bool = False

    @property
    def limits_tag(self) -> str:
        """The tag of the limits that hold for it: of its tier, with a plus if it is extended."""
        return f"+{self.tier}" if self.extended else self.tier

    @property
    def deadline(self) -> int:
        """When the session expires unless it is used before, in milliseconds."""
        return min(self.absolute, self.last_active + self.idle)

    @property
    def is_used(self) -> bool:
        """Whether the session was used after its creation: the browser sent its cookie."""
        return self.last_active > self.created

    @property
    def place(self) -> tuple[bool, int]:
        """The sort key for evictions among a user's sessions: those never used first, by age."""
        return self.is_used, self.last_active if self.is_used else self.created

    @property
    def end_reason(self) -> Reason:
        """Why the session ends at its deadline: ``IDLE`` or ``LIFETIME``."""
        is_over = self.absolute <= self.last_active + self.idle
        return Reason.LIFETIME if is_over else Reason.IDLE


class Draft(NamedTuple):
    """A record to be written, with durations from which the store computes the times.

    :param stamp: identifies this write, so that a repeated call is recognised.
    :param idle: idle allowance in milliseconds.
    :param lifetime: milliseconds from creation to the absolute deadline.
    :param note: what lists read without the payload, :data:`MAX_NOTE` bytes at most.
    :param created: set, as *last_active*, for a session from another shard; 0: now.
    :param extended: these limits are its own, and longer than those of its tier.
    """

    stamp: str
    idle: int
    lifetime: int
    tier: str
    user: str
    payload: bytes
    note: bytes = b""
    created: int = 0
    last_active: int = 0
    extended: bool = False


def record_from(
    draft: Draft,
    *,
    created: int,
    last_active: int,
    stamps: tuple[str, ...],
    generation: int = 0,
) -> Record:
    """Returns the record of *draft*.

    :param stamps: those of the previous writes, newest first.
    """
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
        draft.note,
        generation,
        draft.extended,
    )


def touched(record: Record, now: int, touch: int | None) -> Record:
    """Returns *record* with a use at *now*.

    A use is recorded once per touch interval. The first use after the creation is always recorded:
    it shows that the browser has the cookie.

    :param touch: the touch interval in milliseconds; ``None``: this is not a use.
    """
    if touch is None or (record.is_used and now - record.last_active < touch):
        return record
    return record._replace(last_active=max(now, record.last_active))


def limited(record: Record, idle: int, lifetime: int) -> Record:
    """Returns *record* with these limits where they are shorter than its own."""
    absolute = min(record.absolute, record.created + lifetime)
    if absolute == record.absolute and idle >= record.idle:
        return record
    return record._replace(absolute=absolute, idle=min(record.idle, idle))


def dumps(record: Record) -> bytes:
    """Returns the wire form of *record*."""
    head = (
        f"SS1{''.join(record.stamps)}{record.created:011x}{record.last_active:011x}"
        f"{record.absolute:011x}{record.idle | record.extended * _EXTENDED:010x}"
        f"{record.generation:05x}"
        f"{len(record.note):03x}{record.tier}{_kind(record.user)}"
    )
    return head.encode("ascii") + record.note + record.payload


def dumps_draft(draft: Draft) -> bytes:
    """Returns *draft* in the same form, with its lifetime in place of the absolute deadline."""
    stamps = (draft.stamp, _NO_STAMP, _NO_STAMP)
    times = (draft.created, draft.last_active, draft.lifetime, draft.idle)
    filed = (draft.tier, draft.user, draft.payload, draft.note)
    return dumps(Record(stamps, *times, *filed, extended=draft.extended))


def loads(raw: bytes, rest: bytes | None = None) -> Record:
    """Returns the record in *raw*.

    :param rest: note and payload; ``None``: they are in *raw*.
    :raises ValueError: it is not a record.
    """
    end = header_length(raw)
    # isalnum, since int() accepts underscores and spaces
    if raw[:3] != MAGIC or len(raw) < end or not raw[24:75].isalnum():
        raise ValueError("not a session record")
    text = raw[:end].decode("ascii")
    if rest is None:
        rest = raw[end:]
    note, idle = int(text[72:75], 16), int(text[57:67], 16)
    return Record(
        (text[3:10], text[10:17], text[17:24]),
        int(text[24:35], 16),
        int(text[35:46], 16),
        int(text[46:57], 16),
        idle % _EXTENDED,
        text[75:79],
        text[80:],
        rest[note:],
        rest[:note],
        int(text[67:72], 16),
        idle >= _EXTENDED,
    )


def peek_fields(raw: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Returns the bytes of a record's tier tag, user tag, creation and absolute deadline.

    For many records: ten times as fast as :func:`loads`.
    """
    return raw[75:79], raw[80:96] if raw[79:80] == b"+" else b"", raw[24:35], raw[46:57]


def header_length(raw: bytes) -> int:
    """Returns the length of the header of the record in *raw*.

    :raises ValueError: it is not a record.
    """
    try:
        return _HEADER_LENGTHS[raw[79:80]]
    except KeyError:
        raise ValueError("not a session record") from None


def _kind(user: str) -> str:
    return f"+{user}" if user else "-"
