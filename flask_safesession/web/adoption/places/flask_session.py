"""Sessions of Flask-Session 0.8, in whatever they are kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from flask import Flask
from itsdangerous import BadSignature, Signer

from ....model.tokens import Verified
from .base import Credential, Old, named
from .formats import Pickled, decode

_SID = re.compile(r"[A-Za-z0-9_-]{1,255}", re.ASCII)
# Characters of a UUID, which Flask-Session made before 0.6.
_UUID = 36
# What it keeps in each session, unless SESSION_PERMANENT is off.
_PERMANENT = "_permanent"


class Backend(Protocol):
    """Where Flask-Session keeps its sessions. Keys have the prefix."""

    def get(self, key: str) -> bytes | None:
        """Returns a value; ``None``: there is none, or it has expired."""
        ...

    def delete(self, key: str) -> None:
        """Delete a value."""
        ...

    def count(self, prefix: str, most: int, accepts: Callable[[str], bool]) -> int | None:
        """Returns how many keys have the prefix, *most* at most; ``None``: unknown.

        :param accepts: returns whether the rest of a key can be an ID.
        """
        ...


class FlaskSession:
    """Reads its cookies and records by its own settings: prefix, signer and length of IDs.

    :param decode: returns the data in a value.
    :param say: logs a message once; takes its name and its text.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        config: dict[str, Any],
        say: Callable[..., None],
        read: Callable[[bytes], dict[str, Any] | None] = decode,
    ) -> None:
        self.name: str = name
        self._backend = backend
        self._prefix: str = config.get("SESSION_KEY_PREFIX", "session:")
        self._signed: bool = config.get("SESSION_USE_SIGNER", False)
        entropy = int(config.get("SESSION_ID_LENGTH", 32))
        self._lengths = {_UUID, -(-entropy * 4 // 3)}
        self._marks: bool = config.get("SESSION_PERMANENT", True)
        self._say = say
        self._decode = read

    def credentials(
        self, app: Flask, foreign: Sequence[str], ours: Sequence[Verified]
    ) -> Iterable[Credential]:
        """See :meth:`.base.Place.credentials`."""
        del ours
        for value in foreign:
            sid = self._unsigned(app, value) if self._signed else value
            if self._accepts(sid):
                yield Credential(sid)

    def read(self, credential: Credential) -> Old | None:
        """See :meth:`.base.Place.read`."""
        with named(self.name):
            raw = self._backend.get(self._prefix + credential.text)
        if raw is None:
            return None
        try:
            data = self._decode(raw)
        except Pickled as error:
            fix = "or let these users sign in again"
            self._say("pickled-session", f"a session of {self.name} {error}; {fix}")
            return None
        # Without a prefix, other data of the app may be under a name of this form.
        is_foreign = not self._prefix and self._marks and _PERMANENT not in (data or ())
        return None if data is None or is_foreign else Old(data)

    def delete(self, credential: Credential, old: Old) -> None:
        """See :meth:`.base.Place.delete`."""
        del old
        with named(self.name):
            self._backend.delete(self._prefix + credential.text)

    def count(self, most: int) -> int | None:
        """See :meth:`.base.Place.count`."""
        with named(self.name):
            return self._backend.count(self._prefix, most, self._accepts)

    def _accepts(self, sid: str) -> bool:
        """Returns whether *sid* can be an ID. Without a prefix it could be the name of anything."""
        is_whole = bool(self._prefix) or len(sid) in self._lengths
        return is_whole and _SID.fullmatch(sid) is not None

    def _unsigned(self, app: Flask, value: str) -> str:
        """Returns the ID in a signed cookie; empty: the signature is wrong."""
        keys = [app.secret_key, *(app.config.get("SECRET_KEY_FALLBACKS") or ())]
        for key in filter(None, keys):
            try:
                signer = Signer(key, salt="flask-session", key_derivation="hmac")
                return signer.unsign(value).decode("ascii")
            except (BadSignature, UnicodeDecodeError):
                continue
        return ""
