"""The data of a request that does without the store: an outage, or a view that is exempt.

It is an anonymous visitor's: empty at first, and never stored. It records whether a view meant to
write, so that no response claims what was not done.

What two concurrent requests cannot do to each other by it:

- *One finds the store down, the other finds it up* and signs in, say. The first one stores nothing
  and changes no cookie, also if the store is back before its end: an anonymous session can neither
  be written over the user's, nor its cookie over the new one.
- *One is exempt, the other is not.* The exempt one neither reads, writes nor slides the session:
  the other's changes stay, and the idle time runs as if the exempt request had not been made.
"""

from __future__ import annotations

from typing import Any

from .data import PERMANENT, REMEMBER


class Scratch(dict[Any, Any]):
    """Data that is never stored, and that records whether it was written.

    Removing a key is a write also where the key is missing: the session in the store may have it.
    Being permanent is no write, and is kept apart, so that what has nothing else is empty (apps set
    it before each request, and Flask-Login marks any session that is not empty). Nor is it a write
    if Flask-Login asks to renew its cookie, which an anonymous visitor does not get.

    :param failed: why the store could not be asked; ``None``: it was not to be asked.
    """

    def __init__(self, failed: Exception | None = None) -> None:
        super().__init__()
        self.failed = failed
        self.written: bool = False
        # Otherwise Flask-Login would sign in the user of its remember cookie: a write.
        self._aside: dict[Any, Any] = {REMEMBER: "clear"}

    def get(self, key: Any, default: Any = None) -> Any:
        """Returns the value of *key*, also of what is kept apart."""
        return super().get(key, self._aside.get(key, default))

    def __setitem__(self, key: Any, value: Any) -> None:
        if key == PERMANENT:
            self._aside[key] = value
            return
        self.written |= (key, value) != (REMEMBER, "set")
        super().__setitem__(key, value)

    def pop(self, key: Any, *default: Any) -> Any:
        """Remove *key*.

        :raises Exception: why the store could not be asked, where a plain dict raises a
            ``KeyError``: the key may well be there.
        """
        self.written |= key != REMEMBER
        if self.failed is not None and key not in self and not default:
            raise self.failed
        return super().pop(key, *default)

    def clear(self) -> None:
        """Remove all: a write, whatever there was."""
        self.written = True
        super().clear()
