"""The errors of this extension, each with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

import click
from werkzeug.exceptions import Conflict, Forbidden, ServiceUnavailable

from .model.text import printable

#: Seconds after which clients may try again.
RETRY_AFTER = 5


class SafeSessionError(Exception):
    """The base class of this extension's errors."""


class ConfigError(SafeSessionError, click.ClickException):
    """The configuration cannot work. Lists every problem and how to fix it.

    As a :class:`click.ClickException` it is shown by ``flask`` commands without a traceback.

    :param problems: one sentence each: the key, the value, the fix.
    :param what: what failed.
    """

    def __init__(self, problems: Iterable[str], what: str = "SafeSession cannot start") -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        message = f"{what}:\n" + "\n".join(f"  - {printable(p)}" for p in self.problems)
        super().__init__(message)

    def __str__(self) -> str:
        return self.message


class UnfitStore(ConfigError):
    """What the store has cannot be used, such as tables of a newer version.

    An app does not start on it. If it turns out later, requests are answered as in an outage.
    """

    @classmethod
    def of_version(cls, what: str, found: int | None, known: int, instead: str) -> UnfitStore:
        """Returns the error for data of another version.

        :param what: is of the version *found*, and not of the one that is *known*.
        :param instead: what to give in its place.
        """
        fix = f"use the newer Flask-SafeSession that made them, or another {instead}"
        return cls([f"{what} are of version {found}, and this is version {known}: {fix}"])


class SessionTooLarge(SafeSessionError):
    """The session's data exceeds ``SAFESESSION_MAX_SESSION_SIZE``. The stored data is unchanged.

    :param size: the size of the data, in bytes.
    :param limit: the allowed size, in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"The session would take {size} bytes, {limit} are allowed. Keep less in the session"
            " (an ID instead of the object), or raise SAFESESSION_MAX_SESSION_SIZE."
        )
        self.size = size
        self.limit = limit


class TooManySessions(SafeSessionError, Conflict):
    """A login was refused because the user has as many sessions as allowed. HTTP 409.

    Raised with ``SAFESESSION_WHEN_USER_FULL = "reject"``. Register an errorhandler for
    ``TooManySessions`` with a page that offers to end one (:meth:`SafeSession.sessions_of`).

    :param user: the value under the user key.
    """

    description: str = "You are signed in in too many places. Sign out in one of them first."

    def __init__(self, user: object = None) -> None:
        Conflict.__init__(self, self.description)
        self.user = user

    def __str__(self) -> str:
        return (
            "The user has as many sessions as SAFESESSION_MAX_SESSIONS_PER_USER allows, and"
            " SAFESESSION_WHEN_USER_FULL is 'reject'."
        )


class NotFresh(SafeSessionError, Forbidden):
    """The view requires a more recent sign-in (:meth:`SafeSession.fresh`). HTTP 403.

    Register ``@app.errorhandler(NotFresh)`` to send the user to your sign-in page.

    :param within: seconds for which a sign-in is recent.
    :param assigned: the user key that this request assigned without signing in; empty: none.
    """

    description: str = "Please sign in again for this."

    def __init__(self, within: float, assigned: str = "") -> None:
        Forbidden.__init__(self, self.description)
        self.within = within
        self.assigned = assigned

    def __str__(self) -> str:
        text = f"the sign-in is older than {self.within:g} s, or there is none"
        if not self.assigned:
            return text
        return (
            f"{text}; this request assigned session[{self.assigned!r}], which is a sign-in only"
            " in the view of a POST, PUT, PATCH or DELETE: call session.confirm_sign_in()"
            " after the user was authenticated"
        )


class UndeliverableSignIn(SafeSessionError, RuntimeError):
    """A sign-in was tried where no response can deliver its cookie: in a socket, or a save by hand.

    Sign in by an HTTP request, then reconnect the socket.
    """

    def __str__(self) -> str:
        return (
            "a WebSocket or Socket.IO handler, or a save by hand, cannot sign a user in: no"
            " response can deliver the new cookie. Sign in by an HTTP request, and reconnect"
            " the socket after it"
        )


class StoreUnavailable(SafeSessionError, ServiceUnavailable):
    """The store did not answer, or too late. HTTP 503 with ``Retry-After``.

    Register ``@app.errorhandler(StoreUnavailable)`` for a page of your own. It is called for failed
    loads and failed saves.

    :param reason: for the log; not shown to visitors.
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
    """The store is full. HTTP 503 with ``Retry-After``.

    :param limit: the cap, in sessions.
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
