"""How many sessions there are, how their servers are, and when the cap is reached.

The store is asked at most every few seconds, however many watch.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from ..config.settings import Settings
from ..errors import StoreUnavailable
from ..events import logger
from ..stores.opening import Opened

#: Seconds for which a reading is good enough: however many ask, the store is asked once.
FRESH_FOR = 5.0
#: Seconds that the trend looks back at most, and at least.
TREND_OVER = (60.0, 900.0)


class Stats(NamedTuple):
    """What ``flask safesession stats`` prints.

    :param sessions: live now.
    :param cap: the most that there may be.
    :param due: past their deadline, and still to be removed.
    :param overdue_seconds: for how long the oldest of these has been.
    :param by_tier: live sessions; strangers stand under ``anonymous``.
    :param servers: the circuit breaker of each of the store's servers, as this process sees it:
        ``closed`` (all is well), ``open`` (down), ``half-open``.
    """

    sessions: int
    cap: int
    due: int
    overdue_seconds: float
    by_tier: Mapping[str, int]
    servers: Mapping[str, str]


def stats_of(opened: Opened, settings: Settings) -> Stats:
    """Returns the figures of a store now.

    :raises CannotDo: the store cannot count its sessions.
    :raises StoreUnavailable: the store did not answer.
    """
    counts = opened.need_index().count(settings.rules)
    return Stats(
        counts.total,
        settings.rules.cap.total,
        counts.due,
        round(counts.overdue / 1000, 3),
        dict(counts.live),
        dict(opened.remote.states()) if opened.remote else {},
    )


class Reading(NamedTuple):
    """How things stood when the store was last asked.

    :param stats: the figures; ``None``: the store did not answer, or nobody has asked yet.
    :param full_in: seconds until the cap is reached if it goes on like this; infinite where the
        number does not grow, ``None`` where too little is known.
    """

    stats: Stats | None = None
    full_in: float | None = None


class Readings:
    """The readings of one app in this process. It does not hold the app.

    A store that fails never raises here, and the time of a reading is the store's time-out at most.

    :param clock: gives seconds that only ever grow.
    """

    def __init__(self, app: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = weakref.ref(app)
        self._clock = clock
        self._again = -inf
        self._last = Reading()
        self._failing = False
        most = int(TREND_OVER[1] / FRESH_FOR)
        self._totals: deque[tuple[float, int]] = deque(maxlen=most)

    @property
    def app(self) -> Any:
        """The app, or ``None`` when it is gone."""
        return self._app()

    def now(self) -> Reading:
        """A reading that is fresh enough; while somebody else asks the store, the last one."""
        # No lock: one that a fork copied locked would stop this for good. Two that come in the same
        # instant both ask, which harms nobody.
        now = self._clock()
        if now >= self._again and self.app is not None:
            self._again = now + FRESH_FOR
            self._last = self._ask(now)
        return self._last

    def _ask(self, now: float) -> Reading:
        state = self.app.extensions["safesession"]
        try:
            stats = stats_of(state.opened, state.settings)
        except Exception as error:  # noqa: BLE001  # whatever it is, the other figures are served
            if not self._failing:
                told = "" if isinstance(error, StoreUnavailable) else f"{type(error).__name__}: "
                logger.warning("the store cannot be counted: %s%s", told, error)
            self._failing = True
            return Reading()
        self._failing = False
        self._totals.append((now, stats.sessions))
        while now - self._totals[0][0] > TREND_OVER[1]:
            self._totals.popleft()
        return Reading(stats, full_in(self._totals, stats.cap))


def full_in(totals: Sequence[tuple[float, int]], cap: int) -> float | None:
    """Seconds until there are *cap* sessions, if their number grows as between the two ends.

    :param totals: times in seconds, rising, each with the number of sessions then.
    """
    if not totals:
        return None
    (start, before), (now, count) = totals[0], totals[-1]
    if count >= cap:
        return 0.0
    if now - start < TREND_OVER[0]:
        return None
    return (cap - count) * (now - start) / (count - before) if count > before else inf
