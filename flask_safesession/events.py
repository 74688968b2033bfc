"""Reports what happens to sessions, as blinker signals with frozen payloads.

A receiver is called with the app as sender and the payload as ``event``, after the response's
cookie was set, at most once for each event. No payload contains a session's ID or data::

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
    """Escape control characters in the message: they could forge log lines."""
    if not (message := record.getMessage()).isprintable():
        record.msg, record.args = printable(message), None
    return True


logger.addFilter(_keep_printable)

_signals = Namespace()
#: A session was stored for the first time.
session_created: NamedSignal = _signals.signal("session-created")
#: A session got a new ID: a login, a change of tier, or ``session.regenerate()``.
session_rotated: NamedSignal = _signals.signal("session-rotated")
#: A session ended.
session_ended: NamedSignal = _signals.signal("session-ended")
#: A replaced secret was presented again after its grace. The session was ended as stolen.
session_replayed: NamedSignal = _signals.signal("session-replayed")
#: Two concurrent requests changed a session, and both changes were kept.
session_merged: NamedSignal = _signals.signal("session-merged")
#: A change was not stored because its session had ended meanwhile.
session_lost: NamedSignal = _signals.signal("session-lost")
#: A session was not stored because the store is full or the session too large.
session_rejected: NamedSignal = _signals.signal("session-rejected")
#: The store could not be used.
store_failed: NamedSignal = _signals.signal("store-failed")
#: This process opened or closed the circuit breaker of one of the store's servers.
store_state_changed: NamedSignal = _signals.signal("store-state-changed")
#: Fewer replicas than required confirmed the end of a session.
replicas_missing: NamedSignal = _signals.signal("replicas-missing")
#: A purge run of the store, or of one shard, finished.
store_purged: NamedSignal = _signals.signal("store-purged")
#: This process uses changed settings, which were set for all processes.
settings_tuned: NamedSignal = _signals.signal("settings-tuned")


@dataclass(frozen=True)
class SessionCreated:
    """The handle of the session, and the name of its tier."""

    signal: ClassVar[NamedSignal] = session_created
    level: ClassVar[int] = logging.DEBUG
    handle: str
    tier: str


@dataclass(frozen=True)
class SessionRotated:
    """The session's new ``handle``, and the ``old`` one, which ended."""

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
    """A replaced secret of the session was presented twice: the session was ended as stolen."""

    signal: ClassVar[NamedSignal] = session_replayed
    level: ClassVar[int] = logging.WARNING
    handle: str
    tier: str


@dataclass(frozen=True)
class SessionMerged:
    """``conflicts``: how often other requests changed the session during this one."""

    signal: ClassVar[NamedSignal] = session_merged
    level: ClassVar[int] = logging.DEBUG
    handle: str
    conflicts: int


@dataclass(frozen=True)
class SessionLost:
    """``reason``: why the session had ended; ``unknown`` where that is not stored."""

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
    """``operation``: ``load``, ``save`` or ``purge``; ``error``: the store's message."""

    signal: ClassVar[NamedSignal] = store_failed
    level: ClassVar[int] = logging.ERROR
    operation: str
    error: str


@dataclass(frozen=True)
class StoreStateChanged:
    """``server``: host and port; ``state`` of its circuit breaker: ``open`` or ``closed``.

    Sent at once, from any thread.
    """

    signal: ClassVar[NamedSignal] = store_state_changed
    level: ClassVar[int] = logging.ERROR
    server: str
    state: str


@dataclass(frozen=True)
class ReplicasMissing:
    """``operation``: ``end`` or ``rotate``; only ``confirmed`` of ``wanted`` replicas received it.

    The session has ended on the master. A failover to a replica that did not receive the end would
    bring it back. Sent at once.
    """

    signal: ClassVar[NamedSignal] = replicas_missing
    level: ClassVar[int] = logging.WARNING
    operation: str
    handle: str
    wanted: int
    confirmed: int


@dataclass(frozen=True)
class StorePurged:
    """What a run did: ``due`` and ``trimmed`` sessions removed, ``repaired`` index entries fixed.

    Sent at once, also by a run that found nothing to do.
    """

    signal: ClassVar[NamedSignal] = store_purged
    level: ClassVar[int] = logging.DEBUG
    due: int
    trimmed: int
    repaired: int
    seconds: float


@dataclass(frozen=True)
class SettingsTuned:
    """``settings`` (as text) now override the app's own; ``by``: who changed them.

    Sent at once, by each process that uses them.
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
        self._logged: set[str] = set()

    def __call__(self, name: str, text: str, level: int = logging.WARNING) -> None:
        """Log *text* unless a message of that *name* was logged before."""
        if name not in self._logged:
            self._logged.add(name)
            logger.log(level, "%s", text)


def emit(app: Any, event: Event) -> None:
    """Log *event* and send its signal. If a receiver fails, log it and go on."""
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
    """Returns the fields of *event*, for the ``extra`` of a log record."""
    return {field.name: getattr(event, field.name) for field in fields(event)}
