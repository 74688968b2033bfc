"""Defines an older place of sessions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from flask import Flask

from ....errors import StoreUnavailable
from ....model.policy import OwnLimits
from ....model.tokens import SessionID, Verified


class Old(NamedTuple):
    """An old session.

    :param created: milliseconds since 1970; 0: unknown.
    :param last_active: the same of its last use.
    :param token: what the place needs to delete it.
    :param own: its own limits; see :class:`~flask_safesession.model.note.Note`.
    """

    data: dict[str, Any]
    created: int = 0
    last_active: int = 0
    token: Any = None
    own: OwnLimits | None = None


class Credential(NamedTuple):
    """An old ID whose cookie was accepted; its *text* is never logged.

    :param sid: the same, if it is an ID of SafeSession.
    :param old: the session, if it is in the cookie itself.
    """

    text: str
    sid: SessionID | None = None
    old: Old | None = None

    def __repr__(self) -> str:
        """Hides the text."""
        return "<Credential>"


@contextmanager
def named(name: str) -> Iterator[None]:
    """Name a place and its setting in errors, which are otherwise those of stores."""
    try:
        yield
    except StoreUnavailable as error:
        text = str(error).replace("SAFESESSION_STORE", "SAFESESSION_ADOPT")
        raise StoreUnavailable(f"{name} in SAFESESSION_ADOPT: {text}") from error


class Place(Protocol):
    """An older place of sessions.

    :param name: for messages, without a password.
    """

    name: str

    def credentials(
        self, app: Flask, foreign: Sequence[str], ours: Sequence[Verified]
    ) -> Iterable[Credential]:
        """Returns the cookies that may be of this place. Makes no call.

        :param foreign: values of cookies that have not the form of ours.
        :param ours: IDs of ours that the store does not know.
        """
        ...

    def read(self, credential: Credential) -> Old | None:
        """Returns the old session; ``None``: there is none, or it cannot be read.

        :raises StoreUnavailable: the place did not answer.
        """
        ...

    def delete(self, credential: Credential, old: Old) -> None:
        """Delete a session that was read.

        :raises StoreUnavailable: the place did not answer.
        """
        ...

    def count(self, most: int) -> int | None:
        """Returns how many sessions are left, *most* at most; ``None``: that cannot be counted.

        :raises StoreUnavailable: the place did not answer.
        """
        ...
