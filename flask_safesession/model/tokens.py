"""Session IDs: make, sign, verify; and the digests under which the store knows things.

An ID is a bucket (1 character), a series (128 bits) and a secret (256 bits). The series names the
session for as long as it lives; the secret is the credential and may be renewed. Both exist in the
cookie alone. The store receives digests, so that a dump of the store holds nothing that works as a
cookie (Rack's CVE-2019-16782).
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from base64 import urlsafe_b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from itsdangerous import Signer

#: Characters of a storage key: that of the ID's bucket, and 102 bits of SHA-256. To find a series
#: for a given key is out of reach, and each character is paid for three times a session.
KEY_LENGTH = 18
#: Characters of a user tag: 96 bits of SHA-256.
USER_TAG_LENGTH = 16
#: Characters of a tier tag. Tiers are a handful of configured names: 24 bits tell them apart.
TIER_TAG_LENGTH = 4
#: Characters of a stamp: 42 random bits, to be told from three others.
STAMP_LENGTH = 7
#: The user tag of a session without a user.
NO_USER = ""
#: Bytes of the digest of a secret that a record keeps: 96 bits.
SECRET_DIGEST_LENGTH = 12

_SALT = b"flask-safesession.id"
_ALPHABET = string.ascii_letters + string.digits + "-_"
_HANDLE = re.compile(rf"[A-Za-z0-9_-]{{{KEY_LENGTH}}}", re.ASCII)
# Of an ID: characters of bucket and series, and of the secret.
_SERIES = 23
_SECRET = 43
_GRAMMAR = re.compile(rf"[A-Za-z0-9_-]{{{_SERIES + _SECRET}}}", re.ASCII)
# An ID, a dot and 43 characters of HMAC-SHA-256. Anything longer is not worth hashing.
_MAX_COOKIE = 128


class SessionID:
    """The credential of one session. Its ``repr`` shows the storage key, never the ID.

    :param text: the 66 characters that stand in the cookie.
    """

    __slots__ = ("_text", "key")

    def __init__(self, text: str) -> None:
        self._text = text
        #: The storage key, also shown as the session's *handle*: it is not a credential. It begins
        #: as the ID does, by which a store finds the shard. A renewal does not change it.
        self.key: str = text[:1] + _digest("id", text[:_SERIES], KEY_LENGTH - 1)

    def reveal(self) -> str:
        """Returns the ID itself: for the cookie, and for nothing else."""
        return self._text

    def secret_digest(self) -> bytes:
        """Returns the digest by which a record recognises the secret."""
        return sha256(b"secret:" + self._text.encode("ascii")).digest()[:SECRET_DIGEST_LENGTH]

    def renewed(self) -> SessionID:
        """Returns an ID of the same session with a new secret."""
        return SessionID(self._text[:_SERIES] + secrets.token_urlsafe(32))

    def following(self, user: str, number: int, key: str | bytes) -> SessionID:
        """Returns the ID under which *user* goes on from here: its series follows, its secret not.

        Two requests of one browser that sign the same user in find the same session, and each can
        set its cookie: a browser that drops the first response gets it by the second.

        :param user: the user's tag.
        :param number: of the stand-in from which it goes on; 0 or more.
        :param key: the app's secret key, without which nobody finds the series.
        """
        text = f"following {number} {user} {self._text}".encode("ascii")
        series = urlsafe_b64encode(hmac.digest(_derived(key), text, "sha256")[:16])
        return SessionID(user[:1] + series.decode("ascii").rstrip("=") + secrets.token_urlsafe(32))

    def stand_in(self, number: int = 0) -> str:
        """Returns the storage key of the session that stands in for this ID once it is over.

        :param number: of several, should the one before have ended, too.
        """
        return self._text[:1] + _digest(f"stand-in {number}", self._text, KEY_LENGTH - 1)

    def __repr__(self) -> str:
        return f"<SessionID {self.key}>"


class Verified(NamedTuple):
    """A cookie whose signature holds. ``current``: by the current key, not a fallback."""

    sid: SessionID
    current: bool


def new_id(bucket: str = "") -> SessionID:
    """Returns a fresh ID from the system's source of randomness (ASVS 7.2.3).

    :param bucket: the character that it begins with, which names its shard; by default any.
    """
    series, secret = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
    return SessionID((bucket or secrets.choice(_ALPHABET)) + series + secret)


def is_handle(text: object) -> bool:
    """Whether *text* may be the handle of a session: a storage key."""
    return isinstance(text, str) and _HANDLE.fullmatch(text) is not None


def new_stamp() -> str:
    """Random characters that name one logical write of a record."""
    return secrets.token_urlsafe(6)[:STAMP_LENGTH]


def sign(sid: SessionID, key: str | bytes) -> str:
    """The cookie's value: the ID, signed with *key*.

    The form and the derivation of the key are those of :class:`itsdangerous.Signer` with
    HMAC-SHA-256 and a salt of its own.
    """
    text = sid.reveal()
    return f"{text}.{_signature(text.encode('ascii'), key).decode('ascii')}"


def unsign(value: str, key: str | bytes, fallbacks: Iterable[str | bytes] = ()) -> Verified | None:
    """The ID in a cookie's *value*, or ``None`` if it is forged, malformed or too long.

    The signature comes first, then the grammar: nothing is ever looked up that was not ours.

    :param key: the current secret key.
    :param fallbacks: older keys that still verify (``SECRET_KEY_FALLBACKS``).
    """
    if not value or len(value) > _MAX_COOKIE:
        return None
    if (sid := _verify(value, (key,))) is not None:
        return Verified(sid, current=True)
    if (sid := _verify(value, fallbacks)) is not None:
        return Verified(sid, current=False)
    return None


def user_tag(user: object) -> str:
    """The digest that stands for a user in the store; the same on every machine and key."""
    return _user_tag(str(user))


@lru_cache(maxsize=1024)
def _user_tag(user: str) -> str:
    return _digest("user", user, USER_TAG_LENGTH)


@lru_cache(maxsize=256)
def tier_tag(tier: str) -> str:
    """The fixed-width digest that stands for a tier's name in a record."""
    return _digest("tier", tier, TIER_TAG_LENGTH)


def _digest(purpose: str, text: str, length: int) -> str:
    raw = sha256(f"{purpose}:{text}".encode("utf-8", "surrogatepass")).digest()
    return urlsafe_b64encode(raw).decode("ascii")[:length]


def _verify(value: str, keys: Iterable[str | bytes]) -> SessionID | None:
    raw, _, signature = value.encode("utf-8", "replace").rpartition(b".")
    for key in keys:
        # The text is compared, not what it decodes to: base64 has several spellings of one value.
        if hmac.compare_digest(_signature(raw, key), signature):
            text = raw.decode("utf-8")
            return SessionID(text) if _GRAMMAR.fullmatch(text) else None
    return None


def _signature(raw: bytes, key: str | bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(_derived(key), raw, "sha256")).rstrip(b"=")


@lru_cache(maxsize=32)
def _derived(key: str | bytes) -> bytes:
    # Deriving the key costs more than a signature with it.
    return Signer(key, salt=_SALT, key_derivation="hmac", digest_method=sha256).derive_key()
