"""The steps of adopting an old session, inside a transaction.

A link is an ending of a kind of its own, of which none is removed before its time. So there is a
limit, at which nothing more is adopted: a link that was removed early would bring back a session.
"""

from __future__ import annotations

from ..model.record import Draft, Record, record_from
from ..model.tokens import KEY_LENGTH, NO_USER
from .base import LINKS_OF_ANONYMOUS, MAX_LINKS
from .tables import CLOSED, LINKS, POINTERS, Ending, Tables

# Documents: the time at which the last session was adopted; until when all adoption is closed.
_LAST, _CLOSED = "adopted", "adoption closed"
# The time of the last adoption is written once in so many milliseconds.
_MINUTE = 60_000


def closing(user: str) -> str:
    """Returns the key under which the adoption of a user's sessions is closed."""
    return user.ljust(KEY_LENGTH, "-")


def where(t: Tables, link: str, now: int) -> str:
    """Returns the key to which *link* leads; empty: there is no link."""
    found = t.ending(LINKS, link, now) or t.ending(POINTERS, link, now)
    return found.successor if found else ""


def draft_record(t: Tables, draft: Draft, now: int) -> Record:
    """Returns the record of *draft*. Old places have other clocks: nothing is from the future."""
    created = min(draft.created or now, now)
    return record_from(
        draft,
        created=created,
        last_active=max(created, min(draft.last_active or now, now)),
        stamps=(),
        generation=t.generation(),
    )


def is_closed(t: Tables, user: str, now: int) -> bool:
    """Returns whether a session of *user* may not be adopted.

    The generation is read before: if ``end_all`` comes between, the session is of the older one.
    """
    if t.document(_CLOSED)[1] > now:
        return True
    if user != NO_USER and t.ending(CLOSED, closing(user), now):
        return True
    most = LINKS_OF_ANONYMOUS if user == NO_USER else MAX_LINKS
    return t.count_endings(LINKS, exact=False) >= most


def put_link(t: Tables, kind: str, link: str, key: str, until: int) -> None:
    """Store that *link* leads to *key*."""
    t.put_ending(kind, link, NO_USER, Ending("adopted", successor=key), until)


def close(t: Tables, user: str, until: int) -> None:
    """Close adoption for a user; for all if there is no user, or if too many were closed."""
    if user == NO_USER or t.count_endings(CLOSED, exact=False) >= MAX_LINKS:
        t.put_document(_CLOSED, b"1", until)
    else:
        t.put_ending(CLOSED, closing(user), NO_USER, Ending("closed"), until)


def note_time(t: Tables, now: int) -> None:
    """Store that a session was adopted."""
    if now - last_time(t) >= _MINUTE:
        t.put_document(_LAST, b"1", now)


def last_time(t: Tables) -> int:
    """Returns when the last session was adopted, to the minute; 0: never."""
    return t.document(_LAST)[1]
