"""Counts cookies that look like ours and do not verify: what a secret key per worker looks like.

Without it, workers with different keys leave no trace: visitors are signed out at every other
request, and nothing is wrong anywhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from ..events import logger

#: Seconds between two reports.
INTERVAL = 60.0

# An ID, a dot and the 43 characters of HMAC-SHA-256: no other extension's cookie, no garbage.
_FORM = re.compile(r"[A-Za-z0-9_-]{44,100}\.[A-Za-z0-9_-]{43}", re.ASCII)


class Unverified:
    """Counts them for one process, and reports them once a minute at most.

    :param clock: gives the seconds of a clock that nobody sets back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        #: How many there were in all.
        self.total: int = 0
        self._clock = clock
        self._reported = 0
        self._next = float("-inf")

    def report(self, values: Iterable[str]) -> None:
        """Count what is of our form among *values*, the cookies of a request with no valid one."""
        found = sum(_FORM.fullmatch(value) is not None for value in values)
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
            " the key was changed, put the one before into SECRET_KEY_FALLBACKS; if another app on"
            " this host has the same SESSION_COOKIE_NAME, give each its own",
            count,
            extra={"cookies": count},
        )


_unverified = Unverified()

#: Counts for this process.
report_unverified: Callable[[Iterable[str]], None] = _unverified.report
