"""Finds the user and the tier in a session's data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from .codec import plain
from .policy import Policy
from .tokens import NO_USER, user_tag
from .unstorable import class_name

#: Flask-Login's key for the user.
FLASK_LOGIN = "_user_id"
#: Flask-Login's key for whether the sign-in is fresh; that of a remember-me cookie is not.
FRESH = "_fresh"
#: Flask-Security's key for the time at which the user was last authenticated.
FS_PAA = "fs_paa"
#: Keys under which applications and tutorials often keep a user.
TYPICAL_KEYS = ("user", "username", "userinfo", "identity.id", "logged_in", "account")

_SCALARS = (str, int, UUID, bytes, Decimal)
# Types of nearly all users. They are stored as they are, so they need not be encoded to compare.
_USUAL = frozenset({str, int})
_MISSING = object()


class UserKey(NamedTuple):
    """Where the user is in a session's data.

    :param names: keys in order of preference; each is a literal key, else a dotted path.
    :param find: returns the user from the data, instead of *names*.
    """

    names: tuple[str, ...] = ()
    find: Callable[[Mapping[str, Any]], Any] | None = None


class Identity(NamedTuple):
    """The user and the tier of a session.

    :param user: a scalar; ``None``: there is none.
    :param tier: the name of the tier.
    :param user_tag: the user's digest in the store.
    :param refused: the message about a value that cannot be a user; empty: there is none.
    :param failed: the app's function failed, so the user is unknown.
    """

    user: Any
    tier: str
    user_tag: str
    refused: str = ""
    failed: bool = False


def identify(data: Mapping[Any, Any], user_key: UserKey, tier_key: str, policy: Policy) -> Identity:
    """Returns the user and the tier of a session with *data*."""
    user, refused, failed = None, "", False
    for name, value in _candidates(data, user_key):
        if is_nobody(value):
            continue
        if is_user(value):
            user, refused = value, ""
            break
        refused, failed = refused or _refusal(name, value), isinstance(value, Exception)
    tier = policy.tier_of(data.get(tier_key), has_user=user is not None)
    return Identity(user, tier, NO_USER if user is None else tag_of(user), refused, failed)


def is_user(value: object) -> bool:
    """Returns whether *value* can be a user: a scalar, but not ``True``, which names nobody."""
    if type(value) not in _USUAL:
        value = plain(value)
    return isinstance(value, _SCALARS) and not isinstance(value, bool)


def tag_of(user: object) -> str:
    """Returns the tag of *user* in the store: 7 and ``"7"`` are the same user."""
    return user_tag(plain(user))


def named_user(user: object) -> str:
    """Returns the tag of the *user* that a caller gave.

    :raises ValueError: it is not a user.
    """
    if is_nobody(user) or not is_user(user):
        raise ValueError(f"{_shown(user)} is not a user: give the value under the user key")
    return tag_of(user)


def is_nobody(value: object) -> bool:
    """Returns whether *value* under a user key means that there is no user. ``0`` is a user."""
    if value is None:
        return True
    if type(value) not in _USUAL:
        value = plain(value)
    return value is None or value is False or (isinstance(value, str) and not value)


def _candidates(data: Mapping[Any, Any], user_key: UserKey) -> list[tuple[str, Any]]:
    """Returns the values that may be the user, each with its key."""
    if user_key.find is not None:
        return [("", _found(user_key.find, data) if data else None)]
    return [(name, _at(data, name)) for name in user_key.names]


def _found(find: Callable[[Mapping[str, Any]], Any], data: Mapping[Any, Any]) -> Any:
    """Returns the user that the app's function finds; if it fails, the error."""
    try:
        return find(data)
    except Exception as error:  # noqa: BLE001  # the session is read without a user
        return error


def _at(data: Mapping[Any, Any], name: str) -> Any:
    if name in data or "." not in name:
        return data.get(name)
    value: Any = data
    for part in name.split("."):
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
        if value is _MISSING:
            return None
    return value


def _refusal(name: str, value: object) -> str:
    if not name and isinstance(value, Exception):
        return (
            "the function in SAFESESSION_USER_KEY failed with"
            f" {type(value).__name__}: it must return None for a session without a user"
        )
    place = f"session[{name!r}]" if name else "what the function in SAFESESSION_USER_KEY returns"
    fix = "a user is text or a number"
    if name and isinstance(value, Mapping):
        inner = next((str(key) for key, part in value.items() if is_user(part)), "id")
        fix += f". Set SAFESESSION_USER_KEY to {f'{name}.{inner}'!r}, or to a function"
    return f"{place} is {_shown(value)}, which cannot name a user: {fix}"


def _shown(value: object) -> str:
    if value is None or isinstance(value, (bool, str)):
        return repr(value)
    return f"a {class_name(value)}"
