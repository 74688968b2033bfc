"""Flask-SafeSession: server-side sessions that end when they should, and never cost too much."""

from __future__ import annotations

from .config.arguments import SettingsDict
from .errors import (
    ConfigError,
    NotFresh,
    SafeSessionError,
    SessionTooLarge,
    StoreFull,
    StoreUnavailable,
    TooManySessions,
    UndeliverableSignIn,
)
from .extension import SafeSession, session
from .model.note import Client
from .web.info import SessionInfo
from .web.session import Session

__all__ = [
    "Client",
    "ConfigError",
    "NotFresh",
    "SafeSession",
    "SafeSessionError",
    "Session",
    "SessionInfo",
    "SessionTooLarge",
    "SettingsDict",
    "StoreFull",
    "StoreUnavailable",
    "TooManySessions",
    "UndeliverableSignIn",
    "session",
]
