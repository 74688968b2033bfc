"""Flask-SafeSession: server-side sessions that end when they should, and never cost too much."""

from __future__ import annotations

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
from .extension import SafeSession, session
from .session import Session, SessionInfo

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
