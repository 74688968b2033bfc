"""Counts cookies in this extension's form that do not verify.

They are the only trace of workers with different secret keys, which sign visitors out at every
other request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from ..events import logger

#: Seconds between two reports.
INTERVAL = 60.0

# An ID, a dot and the 43 characters of HMAC-SHA-256; other extensions' cookies differ.
_FORM = re.compile(r"[A-Za-z0-9_-]{44,100}\.[A-Za-z0-9_-]{43}", re.ASCII)


def is_of_our_form(value: str) -> bool:
    """Returns whether a cookie's value has the form of this extension's."""
    return _FORM.fullmatch(value) is not None


class Unverified:
    """Counts such cookies for one process, and reports them once a minute at most.

    :param clock: returns seconds, by a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: How many were counted.
        self.total: int = 0
        self._clock = clock
        self._reported = 0
        self._next = float("-inf")

    def report(self, values: Iterable[str]) -> None:
        """Count the cookies in this extension's form among *values*, none of which verified."""
        found = sum(map(is_of_our_form, values))
        if not found:
            return
        self.total += found
        now = self._clock()
        if now < self._next:
            return
        self._next = now + INTERVAL
        count, self._reported = self.total - self._reported, self.total
        logger.warning(
            "cookies of this extension's form were not signed with this process's SECRET_KEY: %d"
            " since the last report. If workers have different keys, give all of them the same; if"
            " the key was changed, add the old one to SECRET_KEY_FALLBACKS; if another app on this"
            " host has the same SESSION_COOKIE_NAME, give each its own",
            count,
            extra={"cookies": count},
        )


_unverified = Unverified()

#: Counts for this process.
report_unverified: Callable[[Iterable[str]], None] = _unverified.report
