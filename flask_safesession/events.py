"""What happens to sessions, as blinker signals with frozen payloads.

Receivers are called with the app as sender and the payload as ``event``, after the response's
cookie is set, at most once for each event. No payload carries a session's ID or its data::

    @session_ended.connect_via(app)
    def note(app, event):
        print(event.handle, event.reason)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from blinker import NamedSignal, Namespace

logger: logging.Logger = logging.getLogger("flask_safesession")

_signals = Namespace()
#: A session was stored for the first time.
session_created: NamedSignal = _signals.signal("session-created")
#: A session got a new ID: a login, a change of tier, or ``session.regenerate()``.
session_rotated: NamedSignal = _signals.signal("session-rotated")
#: A session is over.
session_ended: NamedSignal = _signals.signal("session-ended")
#: Two concurrent requests changed a session, and both changes were kept.
session_merged: NamedSignal = _signals.signal("session-merged")
#: A change was not stored, because its session had ended meanwhile.
session_lost: NamedSignal = _signals.signal("session-lost")
#: A session was not stored: no room, or too large.
session_rejected: NamedSignal = _signals.signal("session-rejected")
#: The store could not be used.
store_failed: NamedSignal = _signals.signal("store-failed")
#: A server of the store stopped answering, or answers again: its circuit breaker, in this process.
store_state_changed: NamedSignal = _signals.signal("store-state-changed")
#: Fewer replicas than asked for have confirmed the end of a session.
replicas_missing: NamedSignal = _signals.signal("replicas-missing")


@dataclass(frozen=True)
class SessionCreated:
    """``handle`` names the session; ``tier`` is its tier's name."""

    signal: ClassVar[NamedSignal] = session_created
    level: ClassVar[int] = logging.DEBUG
    handle: str
    tier: str


@dataclass(frozen=True)
class SessionRotated:
    """``old`` is the handle that ended, ``handle`` the one that goes on."""

    signal: ClassVar[NamedSignal] = session_rotated
    level: ClassVar[int] = logging.DEBUG
    handle: str
    old: str
    tier: str


@dataclass(frozen=True)
class SessionEnded:
    """``reason``: ``logout``, ``idle``, ``lifetime``, ``evicted``, ``revoked``, ``corrupt``."""

    signal: ClassVar[NamedSignal] = session_ended
    level: ClassVar[int] = logging.DEBUG
    handle: str
    reason: str
    tier: str


@dataclass(frozen=True)
class SessionMerged:
    """``conflicts`` counts how often the session had changed under this request."""

    signal: ClassVar[NamedSignal] = session_merged
    level: ClassVar[int] = logging.DEBUG
    handle: str
    conflicts: int


@dataclass(frozen=True)
class SessionLost:
    """``reason``: how the session had ended, ``unknown`` where nothing tells."""

    signal: ClassVar[NamedSignal] = session_lost
    level: ClassVar[int] = logging.WARNING
    handle: str
    reason: str


@dataclass(frozen=True)
class SessionRejected:
    """``reason``: ``full`` or ``too-large``."""

    signal: ClassVar[NamedSignal] = session_rejected
    level: ClassVar[int] = logging.WARNING
    reason: str
    tier: str


@dataclass(frozen=True)
class StoreFailed:
    """``operation``: ``load``, ``save`` or ``purge``; ``error`` says what the store said."""

    signal: ClassVar[NamedSignal] = store_failed
    level: ClassVar[int] = logging.ERROR
    operation: str
    error: str


@dataclass(frozen=True)
class StoreStateChanged:
    """``server`` as host and port; ``state`` of its circuit breaker: ``open`` or ``closed``.

    Sent at once, from whichever thread noticed it.
    """

    signal: ClassVar[NamedSignal] = store_state_changed
    level: ClassVar[int] = logging.ERROR
    server: str
    state: str


@dataclass(frozen=True)
class ReplicasMissing:
    """``operation``: ``end`` or ``rotate``; of ``wanted`` replicas ``confirmed`` have it.

    The session under ``handle`` has ended on the master; a failover to a replica that has not heard
    of it would bring it back. Sent at once.
    """

    signal: ClassVar[NamedSignal] = replicas_missing
    level: ClassVar[int] = logging.WARNING
    operation: str
    handle: str
    wanted: int
    confirmed: int


Event = (
    SessionCreated
    | SessionRotated
    | SessionEnded
    | SessionMerged
    | SessionLost
    | SessionRejected
    | StoreFailed
    | StoreStateChanged
    | ReplicasMissing
)


def emit(app: Any, event: Event) -> None:
    """Log *event* and send its signal. A receiver that fails is logged and harms nobody."""
    signal = event.signal
    if logger.isEnabledFor(event.level):
        extra = as_extra(event)
        text = " ".join(f"{name}={value}" for name, value in extra.items())
        logger.log(event.level, "%s %s", signal.name, text, extra=extra)
    if signal.receivers:
        for receiver in signal.receivers_for(app):
            try:
                receiver(app, event=event)
            except Exception:
                logger.exception("a receiver of %s failed", signal.name)


def as_extra(event: Event) -> dict[str, object]:
    """The fields of *event*, for the ``extra`` of a log record."""
    return {field.name: getattr(event, field.name) for field in fields(event)}
