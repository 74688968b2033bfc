"""What an app may see of a session: user, tier, handle, times and clients; never the ID."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ..model.identity import FRESH, Identity
from ..model.note import Client, Note
from ..model.policy import as_datetime
from ..model.record import Record
from ..model.tokens import NO_USER


class SessionInfo(NamedTuple):
    """What is known of a session, at ``flask.session.info``. Times are UTC.

    :param user: the value under the user key, ``None`` for a stranger.
    :param tier: the name of its tier.
    :param handle: names the session in logs and lists; it is no credential. ``None`` while new.
    :param new: it is not stored yet.
    :param created_at: when it was made; ``None`` while new, like the other times.
    :param last_active: its last use that was written down (see ``SAFESESSION_TOUCH_INTERVAL``).
    :param expires_at: when it ends unless it is used before.
    :param authenticated_at: when its user signed in. ``None`` for strangers, in lists, and after a
        sign-in that Flask-Login calls not fresh, by a remember-me cookie.
    :param now: the store's clock at this request, to tell times that are left; ``None`` while new.
    :param current: it is the session of this request.
    :param client: from where the user signed in, with ``SAFESESSION_RECORD_CLIENT``.
    :param last_client: from where it was used last.
    :param endpoint: the endpoint (``request.endpoint``) at which the session was created, 80
        characters of it at most. ``None`` outside a request, and where no view was found. A sign-in
        keeps it. ``None`` while new.
    :param ended_reason: why the session that the cookie names has ended, if its user should know:
        ``idle``, ``lifetime``, ``evicted`` (by a newer login), ``revoked`` (by an administrator, or
        from another device), ``replayed`` (an old cookie came back, so it may have been stolen).
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

    @property
    def used_again(self) -> bool:
        """Whether the session was used after the request that created it, or its last sign-in."""
        return self.last_active != self.created_at


def info_of(
    key: str, record: Record, note: Note, who: Identity, data: Mapping[Any, Any], now: int
) -> SessionInfo:
    """Returns what is known of the session of this request."""
    signed_in = who.user is not None and record.user != NO_USER and data.get(FRESH) is not False
    return described(key, record, note, who.user, who.tier)._replace(
        authenticated_at=as_datetime(record.created) if signed_in else None,
        now=as_datetime(now),
        current=True,
    )


def described(key: str, record: Record, note: Note, user: Any, tier: str) -> SessionInfo:
    """Returns what is known of any session, without its data."""
    created, active = as_datetime(record.created), as_datetime(record.last_active)
    known = SessionInfo(user, tier, key, False, created, active, as_datetime(record.deadline))
    first, last = note.clients
    return known._replace(client=first, last_client=last, endpoint=note.endpoint or None)
