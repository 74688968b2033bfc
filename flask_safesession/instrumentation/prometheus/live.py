"""What is asked of the store when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from flask import Flask
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ...admin.stats import Reading, Readings, Stats
from ...config.settings import Settings
from ...model.policy import ANONYMOUS_TIER
from .counts import APP, Counts

_FAMILIES = {
    "safesession_store_up": "Whether the store answered when it was asked for its figures.",
    "safesession_sessions": "Live sessions by tier; kind is stranger or user.",
    "safesession_sessions_cap": "Sessions that there may be.",
    "safesession_user_sessions_cap": "Sessions of users that there may be; the rest is strangers'.",
    "safesession_due_sessions": "Sessions past their deadline, still to be removed.",
    "safesession_overdue_seconds": "For how long the oldest of these has been due.",
    "safesession_full_seconds": "Time until the cap is reached, as the last minutes went.",
    "safesession_purge_interval_seconds": "Time from one purge run to the next.",
}
_LABELS = {"safesession_sessions": ("tier", "kind")}
_Sample: TypeAlias = tuple[str, tuple[str, ...], float]


class LiveFigures(Collector):
    """The figures of the store, which is asked for them once in five seconds at most.

    Where the store does not answer, ``safesession_store_up`` is 0, and its figures are missing. Of
    two apps with the same name the later one is shown.
    """

    def __init__(self) -> None:
        self._apps: dict[str, tuple[Readings, Counts]] = {}

    def add(self, app: Flask, counts: Counts) -> None:
        """Show the figures of *app*, too."""
        known = self._apps.get(app.name)
        if known is None or known[0].app is not app:
            self._apps[app.name] = (Readings(app), counts)

    def describe(self) -> Iterable[Metric]:
        """The metrics without their values: nothing is asked for these."""
        return _families().values()

    def collect(self) -> Iterable[Metric]:
        """The metrics now."""
        families = _families()
        for name, (readings, counts) in list(self._apps.items()):
            app = readings.app
            if app is None:
                self._apps.pop(name, None)
                continue
            reading = readings.now()
            counts.look_at_circuits(app)
            for family, labels, value in _samples(app.extensions["safesession"].settings, reading):
                families[family].add_metric([name, *labels], value)
        return families.values()


def _families() -> dict[str, GaugeMetricFamily]:
    return {
        name: GaugeMetricFamily(name, text, labels=[APP, *_LABELS.get(name, ())])
        for name, text in _FAMILIES.items()
    }


def _samples(settings: Settings, reading: Reading) -> Iterator[_Sample]:
    cap = settings.rules.cap
    yield "safesession_sessions_cap", (), cap.total
    yield "safesession_user_sessions_cap", (), cap.users
    if settings.check_interval is not None:
        yield "safesession_purge_interval_seconds", (), settings.check_interval / 1000
    yield "safesession_store_up", (), float(reading.stats is not None)
    if reading.stats is not None:
        yield from _figures(settings, reading.stats)
    if reading.full_in is not None:
        yield "safesession_full_seconds", (), reading.full_in


def _figures(settings: Settings, stats: Stats) -> Iterator[_Sample]:
    tiers = dict.fromkeys(settings.rules.policy.names, 0) | dict(stats.by_tier)
    for tier, count in tiers.items():
        yield "safesession_sessions", (tier, _kind(tier)), count
    yield "safesession_due_sessions", (), stats.due
    yield "safesession_overdue_seconds", (), stats.overdue_seconds


def _kind(tier: str) -> str:
    return "stranger" if tier == ANONYMOUS_TIER else "user"
