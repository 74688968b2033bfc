"""The exception tree: what can go wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

import click
from werkzeug.exceptions import ServiceUnavailable

#: What clients are told to wait before they try again, in seconds.
RETRY_AFTER = 5


class SafeSessionError(Exception):
    """The base of every error that this extension raises on its own account."""


class ConfigError(SafeSessionError, click.ClickException):
    """The configuration cannot work. Lists every problem found, each with its mend.

    It is a :class:`click.ClickException`, so that ``flask`` commands show it without a traceback.

    :param problems: one sentence each: the key, the value, what to do.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        message = "SafeSession cannot start:\n" + "\n".join(f"  - {p}" for p in self.problems)
        super().__init__(message)

    def __str__(self) -> str:
        return self.message


class SessionTooLarge(SafeSessionError):
    """The session's data is over ``SAFESESSION_MAX_SESSION_SIZE``; what was stored is unchanged.

    :param size: bytes that the data would take.
    :param limit: bytes allowed.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"The session would take {size} bytes, {limit} are allowed. Keep less in the session"
            " (an ID instead of the object), or raise SAFESESSION_MAX_SESSION_SIZE."
        )
        self.size = size
        self.limit = limit


class StoreUnavailable(SafeSessionError, ServiceUnavailable):
    """The store did not answer, or not in time. An HTTP 503 with ``Retry-After``.

    Register ``@app.errorhandler(StoreUnavailable)`` for a page of your own; the same handler serves
    failed loads and failed saves.

    :param reason: for the log and the operator; visitors do not see it.
    """

    description: str = (
        "Sessions cannot be reached at the moment. Please try again in a few seconds."
    )

    def __init__(self, reason: str = "the session store is unavailable") -> None:
        ServiceUnavailable.__init__(self, self.description, retry_after=RETRY_AFTER)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class StoreFull(SafeSessionError, ServiceUnavailable):
    """There is no room for one more session. An HTTP 503 with ``Retry-After``.

    :param limit: the cap that was reached, in sessions.
    """

    description: str = "Too many visitors at the moment. Please try again in a few seconds."

    def __init__(self, limit: int) -> None:
        ServiceUnavailable.__init__(self, self.description, retry_after=RETRY_AFTER)
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"The store holds its {self.limit} sessions and none may be evicted for this one."
            " Raise SAFESESSION_MAX_SESSIONS, or let SAFESESSION_WHEN_FULL be 'evict'."
        )
