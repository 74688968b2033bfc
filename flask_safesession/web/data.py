"""A session's data: the keys of Flask and its extensions, and merging two requests' changes."""

from __future__ import annotations

from typing import Any

from ..model.codec import decode, encode_value

#: Flask's key: whether the cookie outlives the browser.
PERMANENT = "_permanent"
#: Flask-Login's key for its remember cookie, set and removed within one request: "set" renews the
#: cookie, "clear" is a logout.
REMEMBER = "_remember"
#: Flask's key for flashes: showing the last one does not end the session.
FLASHES = "_flashes"


def is_empty(data: dict[Any, Any]) -> bool:
    """Whether *data* has nothing worth storing. Permanence alone is not."""
    return not data or data.keys() <= {PERMANENT}


def is_permanent(data: dict[Any, Any]) -> bool:
    """Whether the session's cookie outlives the browser."""
    return bool(data.get(PERMANENT))


def own_changes(base: bytes, mine: dict[Any, Any]) -> dict[Any, Any]:
    """Returns the items of *mine* that differ from *base*, as it was loaded."""
    before = _encoded(decode(base)) if base else {}
    return {key: mine[key] for key, value in _encoded(mine).items() if before.get(key) != value}


def merge(base: bytes, mine: dict[Any, Any], theirs: bytes) -> dict[Any, Any]:
    """Returns *theirs* with this request's changes (from *base* to *mine*), key by key.

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
