"""Session IDs: make, sign, verify; and the digests under which the store knows things.

The ID is the credential and exists in the cookie alone. The store is given its digest, so that a
dump of the store holds nothing that works as a cookie (Rack's CVE-2019-16782).
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

#: Characters of a storage key: that of the ID's bucket, and 102 bits of SHA-256. To find an ID for
#: a given key is out of reach, and each character is paid for three times a session.
KEY_LENGTH = 18
#: Characters of a user tag: 96 bits of SHA-256.
USER_TAG_LENGTH = 16
#: Characters of a tier tag. Tiers are a handful of configured names: 24 bits tell them apart.
TIER_TAG_LENGTH = 4
#: Characters of a stamp: 42 random bits, to be told from three others.
STAMP_LENGTH = 7
#: The user tag of a session without a user.
NO_USER = ""

_SALT = b"flask-safesession.id"
_ALPHABET = string.ascii_letters + string.digits + "-_"
_HANDLE = re.compile(rf"[A-Za-z0-9_-]{{{KEY_LENGTH}}}", re.ASCII)
_GRAMMAR = re.compile(r"[A-Za-z0-9_-]{44}", re.ASCII)
# An ID, a dot and 43 characters of HMAC-SHA-256. Anything longer is not worth hashing.
_MAX_COOKIE = 128


class SessionID:
    """The credential of one session. Its ``repr`` shows the storage key, never the ID.

    :param secret: the 44 characters that stand in the cookie.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret
        #: The storage key, also shown as the session's *handle*: it is no credential. It begins as
        #: the ID does, by which a store finds the shard.
        self.key: str = secret[:1] + _digest("id", secret, KEY_LENGTH - 1)
        #: The session goes on under another ID: this one must not be put into a cookie again.
        self.moved: bool = False

    def at(self, key: str) -> SessionID:
        """The same credential for a session that goes on under another *key*."""
        other = SessionID(self._secret)
        other.key, other.moved = key, True
        return other

    def reveal(self) -> str:
        """The ID itself: for the cookie, and for nothing else."""
        return self._secret

    def __repr__(self) -> str:
        return f"<SessionID {self.key}>"


class Verified(NamedTuple):
    """A cookie whose signature holds. ``current``: by the current key, not a fallback."""

    sid: SessionID
    current: bool


def new_id(bucket: str = "") -> SessionID:
    """A fresh ID with 256 bits from the system's source of randomness (ASVS 7.2.3).

    :param bucket: the character that it begins with, which says its shard; by default any.
    """
    return SessionID((bucket or secrets.choice(_ALPHABET)) + secrets.token_urlsafe(32))


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
    secret = sid.reveal()
    return f"{secret}.{_signature(secret.encode('ascii'), key).decode('ascii')}"


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
    return _digest("user", str(user), USER_TAG_LENGTH)


@lru_cache(maxsize=256)
def tier_tag(tier: str) -> str:
    """The fixed-width digest that stands for a tier's name in a record."""
    return _digest("tier", tier, TIER_TAG_LENGTH)


def _digest(purpose: str, text: str, length: int) -> str:
    raw = sha256(f"{purpose}:{text}".encode("utf-8", "surrogatepass")).digest()
    return urlsafe_b64encode(raw).decode("ascii")[:length]


def _verify(value: str, keys: Iterable[str | bytes]) -> SessionID | None:
    secret, _, signature = value.encode("utf-8", "replace").rpartition(b".")
    for key in keys:
        # The text is compared, not what it decodes to: base64 has several spellings of one value.
        if hmac.compare_digest(_signature(secret, key), signature):
            text = secret.decode("utf-8")
            return SessionID(text) if _GRAMMAR.fullmatch(text) else None
    return None


def _signature(secret: bytes, key: str | bytes) -> bytes:
    return urlsafe_b64encode(hmac.digest(_derived(key), secret, "sha256")).rstrip(b"=")


@lru_cache(maxsize=32)
def _derived(key: str | bytes) -> bytes:
    # Deriving the key costs more than a signature with it.
    return Signer(key, salt=_SALT, key_derivation="hmac", digest_method=sha256).derive_key()
