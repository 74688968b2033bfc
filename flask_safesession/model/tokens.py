"""Makes, signs and verifies session IDs, and makes the digests that the store keeps.

An ID is a bucket (1 character), a series (128 bits) and a secret (256 bits). The series identifies
the session; the secret is the credential and may be renewed. Both are only in the cookie. The store
receives digests, so that nothing in a dump of the store works as a cookie (Rack's CVE-2019-16782).
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

#: Characters of a storage key: the ID's bucket, and 102 bits of SHA-256. That is enough against
#: finding a series for a given key, and each character is stored three times a session.
KEY_LENGTH = 18
#: Characters of a user tag: 96 bits of SHA-256.
USER_TAG_LENGTH = 16
#: Characters of a tier tag: 24 bits, enough for a few configured names.
TIER_TAG_LENGTH = 4
#: Characters of a stamp: 42 random bits, compared with three others.
STAMP_LENGTH = 7
#: The user tag of a session without a user.
NO_USER = ""
#: Bytes of the digest of a secret in a record: 96 bits.
SECRET_DIGEST_LENGTH = 12

_SALT = b"flask-safesession.id"
_ALPHABET = string.ascii_letters + string.digits + "-_"
_HANDLE = re.compile(rf"[A-Za-z0-9_-]{{{KEY_LENGTH}}}", re.ASCII)
# Of an ID: characters of bucket and series, and of the secret.
_SERIES = 23
_SECRET = 43
_GRAMMAR = re.compile(rf"[A-Za-z0-9_-]{{{_SERIES + _SECRET}}}", re.ASCII)
# An ID, a dot and 43 characters of HMAC-SHA-256 are shorter. Longer cookies are not hashed.
_MAX_COOKIE = 128


class SessionID:
    """The credential of one session. Its ``repr`` shows the storage key, never the ID.

    :param text: the 66 characters in the cookie.
    """

    __slots__ = ("_text", "key")

    def __init__(self, text: str) -> None:
        self._text = text
        #: The storage key, also shown as the session's *handle*: not a credential. Its first
        #: character, the bucket, selects the shard. A renewal does not change it.
        self.key: str = text[:1] + _digest("id", text[:_SERIES], KEY_LENGTH - 1)

    def reveal(self) -> str:
        """Returns the ID itself, for the cookie only."""
        return self._text

    def secret_digest(self) -> bytes:
        """Returns the digest of the secret, as in a record."""
        return sha256(b"secret:" + self._text.encode("ascii")).digest()[:SECRET_DIGEST_LENGTH]

    @property
    def series(self) -> str:
        """The part of the ID that names the session, and that a renewal does not change."""
        return self._text[:_SERIES]

    def renewed(self) -> SessionID:
        """Returns an ID of the same session with a new secret."""
        return SessionID(self._text[:_SERIES] + secrets.token_urlsafe(32))

    def following(self, user: str, number: int, key: str | bytes) -> SessionID:
        """Returns an ID for *user* with a series derived from this ID and a new secret.

        So two requests of one browser that sign in the same user find the same session, and each
        can set its cookie: if the browser drops the first response, it gets it with the second.

        :param user: the user's tag.
        :param number: of the stand-in in which the user signed in; 0 or more.
        :param key: the app's secret key, so that nobody else can derive the series.
        """
        text = f"following {number} {user} {self._text}".encode("ascii")
        series = urlsafe_b64encode(_mac(text, key)[:16])
        return SessionID(user[:1] + series.decode("ascii").rstrip("=") + secrets.token_urlsafe(32))

    def stand_in(self, number: int = 0) -> str:
        """Returns the storage key of the stand-in for this ID after its session ended.

        :param number: counts the stand-ins, since a stand-in may end too.
        """
        return self._text[:1] + _digest(f"stand-in {number}", self._text, KEY_LENGTH - 1)

    def __repr__(self) -> str:
        return f"<SessionID {self.key}>"


def link_of(old: str) -> str:
    """Returns the key of the link of an old ID, or of the value of an old cookie."""
    return _digest("adopted", old, KEY_LENGTH)


def adopted_id(old: str, bucket: str, key: str | bytes) -> SessionID:
    """Returns the ID for the session that is adopted for an old ID, the same in each request.

    So each response to the old ID can set the same cookie: none is lost with a response.

    :param bucket: its first character.
    :param key: the app's secret key, so that nobody else can derive the ID.
    """
    series = _mac(f"adopted series {old}".encode(), key)[:16]
    secret = _mac(f"adopted secret {old}".encode(), key)
    parts = (urlsafe_b64encode(part).decode("ascii").rstrip("=") for part in (series, secret))
    return SessionID(bucket + "".join(parts))


class Verified(NamedTuple):
    """A cookie with a valid signature; ``current``: by the current key, not by a fallback."""

    sid: SessionID
    current: bool


def new_id(bucket: str = "") -> SessionID:
    """Returns a new ID from the system's source of randomness (ASVS 7.2.3).

    :param bucket: its first character, which selects the shard; empty: a random one.
    """
    series, secret = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
    return SessionID((bucket or secrets.choice(_ALPHABET)) + series + secret)


def is_handle(text: object) -> bool:
    """Returns whether *text* has the form of a handle (a storage key)."""
    return isinstance(text, str) and _HANDLE.fullmatch(text) is not None


def new_stamp() -> str:
    """Returns random characters that identify one logical write of a record."""
    return secrets.token_urlsafe(6)[:STAMP_LENGTH]


def sign(sid: SessionID, key: str | bytes) -> str:
    """Returns the cookie's value: the ID, signed with *key*.

    The format and the derived key are those of :class:`itsdangerous.Signer` with HMAC-SHA-256.
    """
    text = sid.reveal()
    return f"{text}.{_signature(text.encode('ascii'), key).decode('ascii')}"


def unsign(value: str, key: str | bytes, fallbacks: Iterable[str | bytes] = ()) -> Verified | None:
    """Returns the ID in a cookie's *value*; ``None`` if it is forged, malformed or too long.

    Checks the signature before the grammar, so that forged IDs never reach the store.

    :param key: the current secret key.
    :param fallbacks: older keys that still verify (``SECRET_KEY_FALLBACKS``).
    """
    if len(value) > _MAX_COOKIE:
        return None
    raw, _, signature = value.encode("utf-8", "replace").rpartition(b".")
    for number, one in enumerate((key, *fallbacks)):
        # Compares the text and not the decoded bytes: base64 has several spellings of one value.
        if hmac.compare_digest(_signature(raw, one), signature):
            text = raw.decode("utf-8")
            is_good = _GRAMMAR.fullmatch(text) is not None
            return Verified(SessionID(text), current=number == 0) if is_good else None
    return None


def user_tag(user: object) -> str:
    """Returns the digest of a user for the store; the same on every machine, with any key."""
    return _user_tag(str(user))


@lru_cache(maxsize=1024)
def _user_tag(user: str) -> str:
    return _digest("user", user, USER_TAG_LENGTH)


@lru_cache(maxsize=256)
def tier_tag(tier: str) -> str:
    """Returns the fixed-width digest of a tier's name for a record."""
    return _digest("tier", tier, TIER_TAG_LENGTH)


def _digest(purpose: str, text: str, length: int) -> str:
    raw = sha256(f"{purpose}:{text}".encode("utf-8", "surrogatepass")).digest()
    return urlsafe_b64encode(raw).decode("ascii")[:length]


def _signature(raw: bytes, key: str | bytes) -> bytes:
    return urlsafe_b64encode(_mac(raw, key)).rstrip(b"=")


def _mac(raw: bytes, key: str | bytes) -> bytes:
    mac = _keyed(key).copy()
    mac.update(raw)
    return mac.digest()


@lru_cache(maxsize=32)
def _keyed(key: str | bytes) -> hmac.HMAC:
    # Cached: deriving the key costs more than signing with it.
    derived = Signer(key, salt=_SALT, key_derivation="hmac", digest_method=sha256).derive_key()
    return hmac.new(derived, digestmod="sha256")
