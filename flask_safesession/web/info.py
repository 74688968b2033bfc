"""What an app can see of a session: user, tier, handle, times and clients; never the ID."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ..model.identity import FRESH, Identity
from ..model.note import Client, Note
from ..model.policy import as_datetime
from ..model.record import Record
from ..model.tokens import NO_USER


class SessionInfo(NamedTuple):
    """What is known of a session (``flask.session.info``). Times are UTC.

    :param user: the value under the user key; ``None`` for an anonymous session.
    :param tier: the name of its tier.
    :param handle: the session's name in logs and lists, not a credential. ``None`` while new.
    :param new: the session is not stored yet.
    :param created_at: when it was created; ``None`` while new, like the other times.
    :param last_active: its last recorded use (see ``SAFESESSION_TOUCH_INTERVAL``).
    :param expires_at: when it expires unless it is used before.
    :param authenticated_at: when its user signed in. ``None`` for anonymous sessions, in lists, for
        adopted sessions, and when a remember-me cookie restored the user.
    :param now: the store's time at this request, to compute what is left; ``None`` while new.
    :param current: this is the session of this request.
    :param client: address and browser at the sign-in, with ``SAFESESSION_RECORD_CLIENT``.
    :param last_client: address and browser at its last recorded use.
    :param endpoint: the endpoint (``request.endpoint``) at which the session was created, 80
        characters of it at most. ``None`` outside a request, and where no view was found. A sign-in
        keeps it. ``None`` while new.
    :param own_lifetime: what ``session.expires_in()`` asked for, from the creation of the session.
        ``None``: it has the limits of its tier.
    :param ended_reason: why the cookie's session ended, if its user should know: ``idle``,
        ``lifetime``, ``evicted`` (by a newer login), ``revoked`` (by an administrator, or from
        another device), ``replayed`` (an old cookie was used again, so it may have been stolen).
        Then this one is a new session.
    """

    user: Any
    tier: str
    handle: str | None
    new: bool
    created_at: datetime | None
    last_active: datetime | None
    expires_at: datetime | None
    authenticated_at: datetime | None = None
    now: datetime | None = None
    current: bool = False
    client: Client | None = None
    last_client: Client | None = None
    ended_reason: str | None = None
    endpoint: str | None = None
    own_lifetime: timedelta | None = None

    @property
    def used_again(self) -> bool:
        """Whether the session was used after the request that created it, or its last sign-in."""
        return self.last_active != self.created_at


def info_of(
    key: str, record: Record, note: Note, who: Identity, data: Mapping[Any, Any], now: int
) -> SessionInfo:
    """Returns the info of this request's session."""
    has_user = who.user is not None and record.user != NO_USER
    signed_in = has_user and data.get(FRESH) is not False and not note.adopted
    return described(key, record, note, who.user, who.tier)._replace(
        authenticated_at=as_datetime(record.created) if signed_in else None,
        now=as_datetime(now),
        current=True,
    )


def described(key: str, record: Record, note: Note, user: Any, tier: str) -> SessionInfo:
    """Returns the info of any session, without its data."""
    created, active = as_datetime(record.created), as_datetime(record.last_active)
    known = SessionInfo(user, tier, key, False, created, active, as_datetime(record.deadline))
    first, last = note.clients
    own = timedelta(milliseconds=note.own.lifetime) if note.own else None
    known = known._replace(own_lifetime=own, endpoint=note.endpoint or None)
    return known._replace(client=first, last_client=last)
