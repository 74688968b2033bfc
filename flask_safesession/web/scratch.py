"""The data of a request without a store: in an outage, or in an exempt view.

It is empty at first, and never stored. It records whether a view wrote to it, so that no response
claims success for a change that was not stored.

Concurrent requests cannot harm each other through it:

- *One finds the store down, the other finds it up* and signs in, say. The first one stores nothing
  and changes no cookie, even if the store is back before it ends: an anonymous session replaces
  neither the user's nor its cookie.
- *One is exempt, the other is not.* The exempt one neither reads, writes nor slides the session:
  the other's changes stay, and idle time continues as without the exempt request.
"""

from __future__ import annotations

from typing import Any

from .data import PERMANENT, REMEMBER


class Scratch(dict[Any, Any]):
    """Data that is never stored, and that records whether it was written.

    Removing a missing key is a write, too: the stored session may have the key. Permanence is not a
    write, and is kept apart so that the data stays empty (apps set it before each request, and
    Flask-Login marks each session that is not empty). Flask-Login's request to renew its cookie is
    not a write either: an anonymous visitor has none.

    :param failed: why the session could not be loaded; ``None``: the view is exempt.
    """

    def __init__(self, failed: Exception | None = None) -> None:
        super().__init__()
        self.failed = failed
        self.written: bool = False
        # Keeps Flask-Login from signing in the user of its remember cookie, a write.
        self._aside: dict[Any, Any] = {REMEMBER: "clear"}

    def get(self, key: Any, default: Any = None) -> Any:
        """Returns the value of *key*, or *default*."""
        return super().get(key, self._aside.get(key, default))

    def __setitem__(self, key: Any, value: Any) -> None:
        if key == PERMANENT:
            self._aside[key] = value
            return
        self.written |= (key, value) != (REMEMBER, "set")
        super().__setitem__(key, value)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove *key*.

        :raises Exception: why the session could not be loaded. Not a ``KeyError``: the stored
            session may have the key.
        """
        self.written |= key != REMEMBER
        if self.failed is not None and key not in self and not default:
            raise self.failed
        return super().pop(key, *default)

    def clear(self) -> None:
        """Remove all keys. Counts as a write even if there are none."""
        self.written = True
        super().clear()
