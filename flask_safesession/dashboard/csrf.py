"""CSRF tokens: they show that this app rendered a form for this session.

A token is a signature over the session's handle. So nothing is stored, and it is invalid once the
session has ended or has a new ID. The random part makes each token different: an attacker cannot
derive it from the lengths of compressed pages (the attack called BREACH).
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Any

from flask import current_app
from itsdangerous import Signer

_SALT = b"flask-safesession.dashboard"
# 22 random characters, a dot and 43 of HMAC-SHA-256: anything longer is forged.
_LONGEST = 80


def new_token(handle: str) -> str:
    """Returns a token for the session with *handle*."""
    salt = secrets.token_urlsafe(16)
    signature = _signer([_key()]).get_signature(_claim(salt, handle))
    return f"{salt}.{signature.decode('ascii')}"


def is_token_of(handle: str | None, token: str) -> bool:
    """Whether *token* is of the session with *handle*, also under a fallback key."""
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
    # Oldest key first: the last one signs, all verify.
    return Signer(keys, salt=_SALT, key_derivation="hmac", digest_method=sha256)
