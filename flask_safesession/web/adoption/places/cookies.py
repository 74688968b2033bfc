"""Flask's own sessions, which are in their cookies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import BadSignature

from ....model.tokens import Verified
from .base import Credential, Old

# Characters of a value that is verified at most: browsers keep 4096 with name and attributes.
_LONGEST = 8192


class FlaskCookies:
    """Sessions in signed cookies. There is nothing to delete: the link is from the whole value.

    Cookies older than ``PERMANENT_SESSION_LIFETIME`` are refused, as Flask does. A cookie is as old
    as its last write, the only time that it has.
    """

    name = "flask-cookie"

    def credentials(
        self, app: Flask, foreign: Sequence[str], ours: Sequence[Verified]
    ) -> Iterable[Credential]:
        """See :meth:`.base.Place.credentials`."""
        del ours
        for value in foreign:
            if "." in value and len(value) <= _LONGEST and (old := _read(app, value)):
                yield Credential(value, old=old)

    def read(self, credential: Credential) -> Old | None:
        """See :meth:`.base.Place.read`. The cookie is the record."""
        return credential.old

    def delete(self, credential: Credential, old: Old) -> None:
        """See :meth:`.base.Place.delete`: there is nothing to delete."""

    def count(self, most: int) -> int | None:
        """See :meth:`.base.Place.count`: only browsers know."""
        del most
        return None


def _read(app: Flask, value: str) -> Old | None:
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    if serializer is None:
        return None
    longest = int(app.permanent_session_lifetime.total_seconds())
    try:
        data, written = serializer.loads(value, max_age=longest, return_timestamp=True)
    except BadSignature:
        return None
    return Old(dict(data), created=int(written.timestamp() * 1000)) if data else None
