"""A session's data: the keys that are not the app's, and how two requests' changes merge."""

from __future__ import annotations

from typing import Any

from ..model.codec import decode, encode_value

#: Where Flask keeps whether the cookie outlives the browser.
PERMANENT = "_permanent"
#: Where Flask-Login says what is to become of its remember cookie. It is set and taken out within
#: one request; "set" renews the cookie, "clear" belongs to a logout.
REMEMBER = "_remember"
#: What Flask and its extensions keep for a page: showing the last of it ends nothing.
FLASHES = "_flashes"


def is_empty(data: dict[Any, Any]) -> bool:
    """Whether there is nothing worth storing: only our own keys count as empty, too."""
    return not data or data.keys() <= {PERMANENT}


def is_permanent(data: dict[Any, Any]) -> bool:
    """Whether the session's cookie is to outlive the browser."""
    return bool(data.get(PERMANENT))


def own_changes(base: bytes, mine: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the keys of *mine* that are not as they were loaded (*base*)."""
    before = _encoded(decode(base)) if base else {}
    return {key: mine[key] for key, value in _encoded(mine).items() if before.get(key) != value}


def merge(base: bytes, mine: dict[Any, Any], theirs: bytes) -> dict[Any, Any]:
    """Returns two requests' changes to *base*, merged by key: mine where I changed, else theirs.

    Values are compared encoded: ``1`` is not ``True``, and NaN is NaN.
    """
    before, here = _encoded(decode(base)) if base else {}, _encoded(mine)
    merged = decode(theirs)
    for key in {**before, **here}:
        if before.get(key) == here.get(key):
            continue
        if key in here:
            merged[key] = mine[key]
        else:
            merged.pop(key, None)
    return merged


def _encoded(data: dict[Any, Any]) -> dict[Any, bytes]:
    return {key: encode_value(value) for key, value in data.items()}
