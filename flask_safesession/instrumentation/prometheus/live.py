"""Gauges that are read from the store when Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from flask import Flask
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ...admin.stats import Snapshot, Snapshots, Stats
from ...config.settings import Settings
from ...model.policy import ANONYMOUS_TIER
from .counts import APP, Counts

_FAMILIES = {
    "safesession_store_up": "Whether the store answered when its sessions were counted.",
    "safesession_sessions": "Live sessions by tier; kind is anonymous or user.",
    "safesession_sessions_cap": "The most sessions that there may be.",
    "safesession_user_sessions_cap": "The most sessions of users; the rest is for anonymous ones.",
    "safesession_due_sessions": "Sessions past their deadline that are not removed yet.",
    "safesession_overdue_seconds": "For how long the oldest of these has been due.",
    "safesession_full_seconds": "Time until the cap is reached, at the growth of the last minutes.",
    "safesession_purge_interval_seconds": "Time from one purge run to the next.",
}
_LABELS = {"safesession_sessions": ("tier", "kind")}
_Sample: TypeAlias = tuple[str, tuple[str, ...], float]


class LiveStats(Collector):
    """Collects the stats of the store, with one store call in five seconds at most.

    If the store does not answer, ``safesession_store_up`` is 0, and the stats are missing. Of two
    apps with the same name, the later one is shown.
    """

    def __init__(self) -> None:
        self._apps: dict[str, tuple[Snapshots, Counts]] = {}

    def add(self, app: Flask, counts: Counts) -> None:
        """Show the stats of *app*, too."""
        known = self._apps.get(app.name)
        if known is None or known[0].app is not app:
            self._apps[app.name] = (Snapshots(app), counts)

    def describe(self) -> Iterable[Metric]:
        """Returns the metrics without values. Makes no store call."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        """Returns the metrics."""
        families = _families()
        for name, (snapshots, counts) in list(self._apps.items()):
            app = snapshots.app
            if app is None:
                self._apps.pop(name, None)
                continue
            snapshot = snapshots.now()
            counts.update_circuits(app)
            for family, labels, value in _samples(app.extensions["safesession"], snapshot):
                families[family].add_metric([name, *labels], value)
        return families.values()


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(name, text, labels=[APP, *_LABELS.get(name, ())])
        for name, text in _FAMILIES.items()
    }


def _samples(state: Any, snapshot: Snapshot) -> Iterator[_Sample]:
    yield "safesession_store_up", (), float(snapshot.is_up)
    if state.opened.index is None:
        return  # no cap, no job and nothing to count
    settings: Settings = state.settings
    cap = settings.rules.cap
    yield "safesession_sessions_cap", (), cap.total
    yield "safesession_user_sessions_cap", (), cap.users
    if settings.check_interval is not None:
        yield "safesession_purge_interval_seconds", (), settings.check_interval / 1000
    if snapshot.stats is not None:
        yield from _stat_samples(snapshot.stats)
    if snapshot.full_in is not None:
        yield "safesession_full_seconds", (), snapshot.full_in


def _stat_samples(stats: Stats) -> Iterator[_Sample]:
    for tier, count in stats.by_tier.items():
        yield "safesession_sessions", (tier, _kind(tier)), count
    yield "safesession_due_sessions", (), stats.due
    yield "safesession_overdue_seconds", (), stats.overdue_seconds


def _kind(tier: str) -> str:
    return "anonymous" if tier == ANONYMOUS_TIER else "user"
