"""Why a session ended, or is not there."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """A reason as stores, events and metrics give it."""

    #: It was not used for its idle timeout.
    IDLE = "idle"
    #: Its lifetime was over.
    LIFETIME = "lifetime"
    #: Its visitor ended it.
    LOGOUT = "logout"
    #: An administrator ended it, or its user did on another device.
    REVOKED = "revoked"
    #: It was evicted to make room for another.
    EVICTED = "evicted"
    #: A replaced secret of it was presented twice: it was stolen.
    REPLAYED = "replayed"
    #: It continues under another key.
    ROTATED = "rotated"
    #: What is stored cannot be read.
    CORRUPT = "corrupt"
    #: Nothing is stored.
    UNKNOWN = "unknown"
