"""The note of a record: what lists show of a session without its data, and its valid secrets.

A renewal puts a new secret into the note by an ordinary commit; the session keeps its key. What can
go wrong:

- *The response with the new secret is lost or slow.* The browser still sends the old one
  (``base``). Older secrets are valid until the new one (``cur``) is presented. After the grace
  another secret replaces it; the one that was never presented becomes ``prev``.
- *Parallel requests present the old secret.* It is valid for the grace.
- *A replaced secret is presented after that*, by a slow upload or with a stolen cookie. The first
  time nothing is served and the time is noted. If it happens again more than a grace later, the
  session ends.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import msgpack

from .policy import OwnLimits

#: Characters of an endpoint that are kept at most, so that a note fits into what lists read.
LONGEST_ENDPOINT = 80


class Client(NamedTuple):
    """A visitor's address, and a short name of the browser.

    :param address: ``request.remote_addr``; empty: unknown. Behind a proxy this is the visitor's
        only with Werkzeug's ``ProxyFix``.
    :param agent: such as ``"Firefox 128 on Windows"``, from the ``User-Agent`` header.
    """

    address: str
    agent: str


class Note(NamedTuple):
    """The parts of a record's note. Times are milliseconds since the session was created.

    :param cur: digest of the newest secret; empty: the session has no cookie of its own.
    :param base: digest of the secret that was presented last.
    :param prev: digest of an older secret that the browser may still receive.
    :param since: when *cur* was made; 0: with the session.
    :param strike: when a replaced secret was first presented; 0: never.
    :param permanent: the cookie is kept when the browser is closed.
    :param owes_id: a new ID is due, because a response could not deliver its cookie.
    :param deleted: the browser's cookie was deleted because the session became empty.
    :param client: address and browser at the sign-in, and at the last use.
    :param adopted: the session is from an older place, where its user signed in.
    :param endpoint: the endpoint at which the session was created; empty: none.
    :param own: the limits that the session asked for, before any cut.
    """

    cur: bytes = b""
    base: bytes = b""
    prev: bytes = b""
    since: int = 0
    strike: int = 0
    permanent: bool = False
    owes_id: bool = False
    deleted: bool = False
    adopted: bool = False
    client: tuple[str, ...] = ()
    endpoint: str = ""
    own: OwnLimits | None = None

    @property
    def clients(self) -> tuple[Client | None, Client | None]:
        """The clients at the sign-in and at the last use."""
        if not self.client:
            return None, None
        return Client(*self.client[:2]), Client(*self.client[2:])

    @property
    def is_presented(self) -> bool:
        """Whether the newest secret was presented, or is the session's first."""
        return self.base == self.cur


class Secret(Enum):
    """The kinds of presented secrets."""

    CURRENT = "the newest one"
    OLDER = "within the grace"
    STRANDED = "the response with the newest one was lost"
    REPLACED = "a replaced one, for the first time"
    REPLACED_AGAIN = "a replaced one, once more and later than the grace"
    REFUSED = "a replaced one, within the grace after the first time"


#: Kinds of secrets for which the session is served.
GOOD = (Secret.CURRENT, Secret.OLDER, Secret.STRANDED)


def first_note(digest: bytes, *, permanent: bool = False, endpoint: str | None = None) -> Note:
    """Returns the note of a new session, or of one under a new ID.

    :param digest: of the secret in the cookie; empty: the session has no cookie.
    """
    kept = str(endpoint or "")[:LONGEST_ENDPOINT]
    return Note(cur=digest, base=digest, permanent=permanent, endpoint=kept)


def judge(note: Note, digest: bytes, age: int, grace: int) -> Secret:
    """Returns the kind of the secret with that *digest*.

    :param age: milliseconds since the session was created.
    :param grace: milliseconds for which a replaced secret is still valid.
    """
    if digest == note.cur:
        return Secret.CURRENT
    if digest in (note.base, note.prev):
        if age - note.since <= grace:
            return Secret.OLDER
        if not note.is_presented:
            return Secret.STRANDED
    if not note.strike:
        return Secret.REPLACED
    return Secret.REPLACED_AGAIN if age - note.strike > grace else Secret.REFUSED


def is_due(note: Note, age: int, interval: int | None) -> bool:
    """Returns whether the newest secret is older than the renewal interval.

    :param age: milliseconds since the session was created.
    :param interval: milliseconds; ``None``: no renewals.
    """
    return interval is not None and age - note.since >= interval


def presented(note: Note) -> Note:
    """Returns *note* after its newest secret was presented."""
    return note if note.is_presented else note._replace(base=note.cur, prev=note.base)


def renewed(note: Note, by: bytes, digest: bytes, age: int) -> Note:
    """Returns *note* with a new secret.

    :param by: the digest of the secret that was presented.
    :param digest: the digest of the new one.
    :param age: milliseconds since the session was created.
    """
    stranded = b"" if note.is_presented else note.cur
    return note._replace(cur=digest, base=by, prev=stranded, since=age)


_CLIENT_PARTS = (0, 4)
# The only parts of nearly all notes.
_USUAL = frozenset("se")
_FLAGS = ("permanent", "owes_id", "deleted", "adopted")


def dumps(note: Note) -> bytes:
    """Returns the bytes of *note*: a msgpack map of its parts that are set."""
    parts: dict[str, Any] = {}
    if note.since or note.prev or not note.is_presented:
        parts["s"] = [note.cur, note.base, note.prev, note.since]
    elif note.cur:
        parts["s"] = note.cur
    if note.strike:
        parts["t"] = note.strike
    # In the order of _FLAGS.
    if flags := note.permanent | note.owes_id << 1 | note.deleted << 2 | note.adopted << 3:
        parts["f"] = flags
    if note.client:
        parts["c"] = note.client
    if note.endpoint:
        parts["e"] = note.endpoint
    if note.own:
        parts["o"] = note.own
    return msgpack.packb(parts, unicode_errors="replace") if parts else b""


def loads(raw: bytes) -> Note:
    """Returns the note in *raw*, the reverse of :func:`dumps`.

    :raises ValueError: it is not a note.
    """
    if not raw:
        return Note()
    try:
        return _note(msgpack.unpackb(raw, unicode_errors="replace"))
    except Exception as error:  # whatever foreign bytes provoke, it is the same to the caller
        raise ValueError("not a session's note") from error


def _note(parts: dict[str, Any]) -> Note:
    found, endpoint = parts.get("s", b""), parts.get("e", "")
    cur, base, prev, since = found if isinstance(found, list) else (found, found, b"", 0)
    kinds = (type(cur), type(base), type(prev), type(since), type(endpoint))
    if kinds != (bytes, bytes, bytes, int, str):
        raise ValueError("parts of another kind")
    note = Note(cur, base, prev, since, endpoint=endpoint)
    if parts.keys() <= _USUAL:
        return note
    client, strike, flags = (
        tuple(map(str, parts.get("c", ()))),
        parts.get("t", 0),
        parts.get("f", 0),
    )
    if len(client) not in _CLIENT_PARTS or not isinstance(strike, int):
        raise ValueError("neither clients nor a time")
    own = OwnLimits(*map(int, parts["o"])) if "o" in parts else None
    named: dict[str, Any] = {name: bool(flags >> n & 1) for n, name in enumerate(_FLAGS)}
    return note._replace(client=client, strike=strike, own=own, **named)
