"""Flask-SafeSession: server-side sessions that end when they should, and never cost too much."""

from __future__ import annotations

from typing import cast

import flask

from .client import Client
from .errors import (
    ConfigError,
    NotFresh,
    SafeSessionError,
    SessionTooLarge,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
)
from .extension import SafeSession
from .session import Session, SessionInfo

#: The session of the current request: the same proxy as :data:`flask.session`, with our types.
session: Session = cast(Session, flask.session)

__all__ = [
    "Client",
    "ConfigError",
    "NotFresh",
    "SafeSession",
    "SafeSessionError",
    "Session",
    "SessionInfo",
    "SessionTooLarge",
    "StoreFull",
    "StoreUnavailable",
    "TooManySessions",
    "session",
]
