"""A token that shows that a form was drawn by this app for this very session.

It is a signature over the session's handle, so nothing is stored for it, and it is worth nothing
once the session has ended or has a new ID. The random part makes each one look different: what
compression tells of a page's length does not add up to a token (the attack called BREACH).
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Any

from flask import current_app
from itsdangerous import Signer

_SALT = b"flask-safesession.dashboard"
# 22 random characters, a dot and 43 of HMAC-SHA-256. Anything longer is not worth hashing.
_LONGEST = 80


def new_token(handle: str) -> str:
    """A token for the session with *handle*."""
    salt = secrets.token_urlsafe(16)
    signature = _signer([_key()]).get_signature(_claim(salt, handle))
    return f"{salt}.{signature.decode('ascii')}"


def is_token_of(handle: str | None, token: str) -> bool:
    """Whether *token* was made for the session with *handle*, also under a fallback key."""
    salt, dot, signature = token.partition(".")
    if handle is None or not dot or len(token) > _LONGEST:
        return False
    fallbacks = [old for old in current_app.config.get("SECRET_KEY_FALLBACKS") or () if old]
    return _signer([*fallbacks, _key()]).verify_signature(_claim(salt, handle), signature)


def _claim(salt: str, handle: str) -> bytes:
    return f"{salt}.{handle}".encode("utf-8", "replace")


def _key() -> str | bytes:
    key = current_app.secret_key
    if not key:
        raise RuntimeError("SECRET_KEY is not set: there are no sessions without it")
    return key


def _signer(keys: list[Any]) -> Signer:
    # Keys oldest first; it signs with the last, and verifies with any of them.
    return Signer(keys, salt=_SALT, key_derivation="hmac", digest_method=sha256)
