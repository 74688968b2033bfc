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

from .model.text import printable

logger: logging.Logger = logging.getLogger("flask_safesession")


def _keep_printable(record: logging.LogRecord) -> bool:
    """Let no text from elsewhere begin a line of the log, or steer the terminal that shows it."""
    if not (message := record.getMessage()).isprintable():
        record.msg, record.args = printable(message), None
    return True


logger.addFilter(_keep_printable)

_signals = Namespace()
#: A session was stored for the first time.
session_created: NamedSignal = _signals.signal("session-created")
#: A session got a new ID: a login, a change of tier, or ``session.regenerate()``.
session_rotated: NamedSignal = _signals.signal("session-rotated")
#: A session is over.
session_ended: NamedSignal = _signals.signal("session-ended")
#: An ID that had been renewed came back after its grace: a stolen cookie. The session is ended.
session_replayed: NamedSignal = _signals.signal("session-replayed")
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
#: A purge run of the store, or of one of its parts, is over.
store_purged: NamedSignal = _signals.signal("store-purged")
#: This process goes by other settings from now on, which somebody has given to all of them.
settings_tuned: NamedSignal = _signals.signal("settings-tuned")


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
    """How a session ended.

    ``reason``: ``logout``, ``idle``, ``lifetime``, ``evicted``, ``revoked`` (by an administrator,
    or from another device), ``replayed``, ``corrupt``.
    """

    signal: ClassVar[NamedSignal] = session_ended
    level: ClassVar[int] = logging.DEBUG
    handle: str
    reason: str
    tier: str


@dataclass(frozen=True)
class SessionReplayed:
    """An old cookie of the session under ``handle`` came back twice: it was ended as stolen."""

    signal: ClassVar[NamedSignal] = session_replayed
    level: ClassVar[int] = logging.WARNING
    handle: str
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
    """``reason``: ``full``, ``user-full`` or ``too-large``."""

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


@dataclass(frozen=True)
class StorePurged:
    """What a run did: ``due`` and ``trimmed`` sessions removed, ``mended`` places in the index.

    ``seconds`` is how long it took. Sent at once, also by a run that found nothing to do.
    """

    signal: ClassVar[NamedSignal] = store_purged
    level: ClassVar[int] = logging.DEBUG
    due: int
    trimmed: int
    mended: int
    seconds: float


@dataclass(frozen=True)
class SettingsTuned:
    """``settings`` (as text) go over the app's own, as ``by`` has said in ``revision``.

    Sent at once, by each process that goes by them.
    """

    signal: ClassVar[NamedSignal] = settings_tuned
    level: ClassVar[int] = logging.INFO
    revision: int
    by: str | None
    settings: str


Event = (
    SessionCreated
    | SessionRotated
    | SessionEnded
    | SessionReplayed
    | SessionMerged
    | SessionLost
    | SessionRejected
    | StoreFailed
    | StoreStateChanged
    | ReplicasMissing
    | StorePurged
    | SettingsTuned
)


class Once:
    """Logs each message once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, name: str, text: str, level: int = logging.WARNING) -> None:
        """Log *text*, unless a message of that *name* was logged before."""
        if name not in self._said:
            self._said.add(name)
            logger.log(level, "%s", text)


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
