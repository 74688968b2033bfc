"""Whose a session is, as its data says: the user and the tier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from .codec import plain
from .policy import Policy
from .tokens import NO_USER, user_tag
from .values import class_name

#: Flask-Login's key for the user.
FLASK_LOGIN = "_user_id"
#: Flask-Login's key for whether the sign-in is fresh. A remember-me cookie's is not.
FRESH = "_fresh"
#: Flask-Security's key of when the user was last authenticated.
FS_PAA = "fs_paa"
#: Keys under which applications and tutorials keep a user.
TYPICAL_KEYS = ("user", "username", "userinfo", "identity.id", "logged_in", "account")

_SCALARS = (str, int, UUID, bytes, Decimal)
# What users are nearly always: not worth to be encoded to know what they will be.
_USUAL = frozenset({str, int})
_MISSING = object()


class UserKey(NamedTuple):
    """Where in a session its user stands.

    :param names: keys in order of preference: a literal key first, then a dotted path.
    :param find: returns the user of a session's data, in the place of names.
    """

    names: tuple[str, ...] = ()
    find: Callable[[Mapping[str, Any]], Any] | None = None


class Identity(NamedTuple):
    """Whose a session is, as its data says.

    :param user: the user, a scalar; ``None``: there is none.
    :param tier: the name of its tier.
    :param user_tag: what stands for the user in the store.
    :param refused: says where something stands that cannot be a user, and what it is.
    :param failed: the app's function failed: who the user is, is not known.
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
        if is_user(value):
            user, refused = value, ""
            break
        refused, failed = refused or _refusal(name, value), isinstance(value, Exception)
    tier = policy.tier_of(data.get(tier_key), has_user=user is not None)
    return Identity(user, tier, NO_USER if user is None else tag_of(user), refused, failed)


def is_user(value: object) -> bool:
    """Whether *value* can be a user: a scalar. ``True`` says that there is one, but not which."""
    if type(value) not in _USUAL:
        value = plain(value)
    return isinstance(value, _SCALARS) and not isinstance(value, bool)


def tag_of(user: object) -> str:
    """Returns what stands for *user* in the store: 7 and ``"7"`` are the same user."""
    return user_tag(plain(user))


def named_user(user: object) -> str:
    """Returns the tag of the user that a caller names.

    :raises ValueError: it is nobody, or cannot be a user.
    """
    if is_nobody(user) or not is_user(user):
        raise ValueError(
            f"{_shown(user)} is not a user: give the value that stands under the user key"
        )
    return tag_of(user)


def is_nobody(value: object) -> bool:
    """Whether *value* under a user key says that there is no user. ``0`` is one."""
    if value is None:
        return True
    if type(value) not in _USUAL:
        value = plain(value)
    return value is None or value is False or (isinstance(value, str) and not value)


def _candidates(data: Mapping[Any, Any], user_key: UserKey) -> Iterator[tuple[str, Any]]:
    """Values where the user may stand, each with its key, but for those that are nobody."""
    if user_key.find is not None:
        found = [("", _found(user_key.find, data) if data else None)]
    else:
        found = [(name, _at(data, name)) for name in user_key.names]
    return ((name, value) for name, value in found if not is_nobody(value))


def _found(find: Callable[[Mapping[str, Any]], Any], data: Mapping[Any, Any]) -> Any:
    """What the app's function finds; if it fails, the error, which is no user."""
    try:
        return find(data)
    except Exception as error:  # noqa: BLE001  # whatever it is, reading goes on without a user
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
            f" {type(value).__name__}: it has to return None for a session without a user"
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
