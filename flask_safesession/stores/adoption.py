"""The steps of adopting an old session, inside a transaction.

A link is an ending of a kind of its own, of which none is removed before its time. So there is a
limit, at which nothing more is adopted: a link that was removed early would bring back a session.
"""

from __future__ import annotations

from ..model.reason import Reason
from ..model.record import Draft, Record
from ..model.tokens import KEY_LENGTH, NO_USER
from .base import (
    LINK_TTL,
    LINKS_OF_ANONYMOUS,
    MAX_LINKS,
    Adoptions,
    Gone,
    Live,
    Moved,
    Rules,
    Taken,
)
from .rules import admit, begun, make_way
from .tables import CLOSED, LINKS, POINTERS, Ending, Tables

# Documents: the time at which the last session was adopted; until when all adoption is closed.
_LAST, _CLOSED = "adopted", "adoption closed"
# The time of the last adoption is written once in so many milliseconds.
_MINUTE = 60_000


def closing(user: str) -> str:
    """Returns the key under which the adoption of a user's sessions is closed."""
    return user.ljust(KEY_LENGTH, "-")


def adopt(
    t: Tables, link: str, key: str, draft: Draft, rules: Rules, until: int
) -> Live | Moved | Gone:
    """See :meth:`.base.AdoptingStore.adopt`."""
    now = t.now()
    if there := follow(t, link, now):
        return Moved(there)
    fresh, is_over = _record(t, draft, now), until and until <= now
    if fresh.deadline <= now or is_over or _is_closed(t, draft.user, now):
        return Gone(Reason.UNKNOWN)
    over = make_way(t, key, draft, now)
    if isinstance(over, (Live, Taken)):
        return Gone(Reason.UNKNOWN)
    live = admit(t, key, fresh, rules, now, over)
    t.put_ending(LINKS, link, NO_USER, Ending("adopted", successor=key), _kept(until, now))
    if now - t.document(_LAST)[1] >= _MINUTE:
        t.put_document(_LAST, b"1", now)
    return live


def point(t: Tables, link: str, key: str, until: int) -> None:
    """See :meth:`.sharded.Shard.point`."""
    now = t.now()
    if not follow(t, link, now):
        ending = Ending("adopted", successor=key)
        t.put_ending(POINTERS, link, NO_USER, ending, _kept(until, now))


def follow(t: Tables, link: str, now: int) -> str:
    """Returns the key to which *link* leads; empty: there is no link."""
    found = t.ending(LINKS, link, now) or t.ending(POINTERS, link, now)
    return found.successor if found else ""


def close(t: Tables, user: str, until: int) -> None:
    """Close adoption for a user; for all if there is no user, or if too many were closed."""
    until = _kept(until, t.now())
    if user == NO_USER or t.count_endings(CLOSED, exact=False) >= MAX_LINKS:
        t.put_document(_CLOSED, b"1", until)
    else:
        t.put_ending(CLOSED, closing(user), NO_USER, Ending("closed"), until)


def count(t: Tables) -> Adoptions:
    """See :meth:`.base.AdoptingStore.adoptions`."""
    return Adoptions(t.count_endings(LINKS), t.document(_LAST)[1], t.now())


def _kept(until: int, now: int) -> int:
    """Returns until when a link or a closing is kept: the date of the end may be moved later."""
    return max(until, now + LINK_TTL)


def _record(t: Tables, draft: Draft, now: int) -> Record:
    """Returns the record of *draft*. Old places have other clocks: nothing is from the future."""
    created = min(draft.created or now, now)
    last_active = max(created, min(draft.last_active or now, now))
    return begun(draft._replace(created=created, last_active=last_active), t.generation(), now)


def _is_closed(t: Tables, user: str, now: int) -> bool:
    """Returns whether a session of *user* may not be adopted.

    The generation was read before: if ``end_all`` comes between, the session is of the older one.
    """
    if t.document(_CLOSED)[1] > now:
        return True
    if user != NO_USER and t.ending(CLOSED, closing(user), now):
        return True
    most = LINKS_OF_ANONYMOUS if user == NO_USER else MAX_LINKS
    return t.count_endings(LINKS, exact=False) >= most
