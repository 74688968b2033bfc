"""Counts sessions by tier, and estimates when the cap is reached."""

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

#: Seconds for which a snapshot is served again without another store call.
FRESH_FOR = 5.0
#: The least and the most seconds that a trend covers.
TREND_OVER = (60.0, 900.0)


class Stats(NamedTuple):
    """The counts that ``flask safesession stats`` prints.

    :param sessions: live sessions.
    :param cap: the most sessions that there may be.
    :param due: sessions past their deadline that are not removed yet.
    :param overdue_seconds: the seconds for which the oldest of these has been due.
    :param by_tier: live sessions by tier, in the configured order, also where there are none;
        anonymous ones under ``anonymous``.
    :param servers: the state of this process's circuit breaker for each server of the store:
        ``closed`` (the server works), ``open`` (down), ``half-open`` (being tried again).
    """

    sessions: int
    cap: int
    due: int
    overdue_seconds: float
    by_tier: Mapping[str, int]
    servers: Mapping[str, str]


def stats_of(opened: Opened, settings: Settings) -> Stats:
    """Returns the stats of a store now.

    :raises CannotDo: the store cannot count its sessions.
    :raises StoreUnavailable: the store did not answer.
    """
    counts = opened.need_index().count(settings.rules)
    return Stats(
        counts.total,
        settings.rules.cap.total,
        counts.due,
        round(counts.overdue / 1000, 3),
        {**dict.fromkeys(settings.rules.policy.names, 0), **counts.live},
        dict(opened.states()),
    )


class Snapshot(NamedTuple):
    """The stats of one moment.

    :param is_up: whether the store answered. A store without an index is not called: whether no
        circuit breaker of this process is open.
    :param stats: ``None``: the store did not answer, was not called yet, or has no index.
    :param full_in: seconds until the cap is reached at the present growth; infinite without
        growth, ``None`` while too little is known.
    """

    is_up: bool = False
    stats: Stats | None = None
    full_in: float | None = None


class Snapshots:
    """Takes snapshots of one app's store, one in :data:`FRESH_FOR` seconds at most.

    Keeps no reference to the app. A store that fails never raises here.

    :param clock: returns seconds, by a monotonic clock.
    """

    def __init__(self, app: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = weakref.ref(app)
        self._clock = clock
        self._again = -inf
        self._last = Snapshot()
        self._failing = False
        most = int(TREND_OVER[1] / FRESH_FOR)
        self._totals: deque[tuple[float, int]] = deque(maxlen=most)

    @property
    def app(self) -> Any:
        """The app, or ``None`` if it was freed."""
        return self._app()

    def now(self) -> Snapshot:
        """Returns a fresh snapshot, or the last one while another thread takes one."""
        # No lock: a fork might copy it locked. Two threads at the same instant both call the store,
        # which is harmless.
        now = self._clock()
        if now >= self._again and (app := self.app) is not None:
            self._again = now + FRESH_FOR
            self._last = self._take(app, now)
        return self._last

    def _take(self, app: Any, now: float) -> Snapshot:
        state = app.extensions["safesession"]
        if state.opened.index is None:
            return Snapshot(state.opened.is_up)
        try:
            stats = stats_of(state.opened, state.settings)
        except Exception as error:  # noqa: BLE001  # metrics without these stats are still served
            if not self._failing:
                kind = "" if isinstance(error, StoreUnavailable) else f"{type(error).__name__}: "
                logger.warning("the sessions cannot be counted: %s%s", kind, error)
            self._failing = True
            return Snapshot()
        self._failing = False
        self._totals.append((now, stats.sessions))
        while now - self._totals[0][0] > TREND_OVER[1]:
            self._totals.popleft()
        return Snapshot(True, stats, full_in(self._totals, stats.cap))


def full_in(totals: Sequence[tuple[float, int]], cap: int) -> float | None:
    """Returns the seconds until there are *cap* sessions, at the growth from first to last total.

    Infinite without growth; ``None`` if the totals cover too little time.

    :param totals: rising times in seconds, each with the number of sessions.
    """
    if not totals:
        return None
    (start, before), (now, count) = totals[0], totals[-1]
    if count >= cap:
        return 0.0
    if now - start < TREND_OVER[0]:
        return None
    return (cap - count) * (now - start) / (count - before) if count > before else inf
