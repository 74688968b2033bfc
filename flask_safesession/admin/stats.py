"""How many sessions there are, and how their servers are: figures to be watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..config.settings import Settings
from ..stores.base import Networked, Store


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


def stats_of(store: Store, settings: Settings) -> Stats:
    """The figures of *store* now.

    :raises StoreUnavailable: the store did not answer.
    """
    census = store.census(settings.rules)
    return Stats(
        census.total,
        settings.rules.cap.total,
        census.due,
        round(census.overdue / 1000, 3),
        dict(census.live),
        dict(store.states()) if isinstance(store, Networked) else {},
    )
