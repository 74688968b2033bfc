"""Counters and histograms of one process's sessions and store calls."""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from time import time
from typing import Any, NamedTuple

from flask import Flask
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ... import events
from ..hooks import Hook, StoreCall, observe

#: The label with the name of the app.
APP = "flask_app"
#: Upper bounds of the buckets, in seconds.
CALL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PURGE_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
#: Reasons why sessions end, and why they are not stored.
ENDS = ("logout", "idle", "lifetime", "evicted", "revoked", "replayed", "corrupt")
REJECTIONS = ("full", "too-large", "user-full")


class _Counted(NamedTuple):
    """The counter of one kind of event. ``labels`` are fields of the event."""

    name: str
    text: str
    labels: tuple[str, ...] = ()


_COUNTED: dict[Any, _Counted] = {
    events.SessionCreated: _Counted("creations", "Sessions stored for the first time.", ("tier",)),
    events.SessionRotated: _Counted("rotations", "Sessions that got a new ID.", ("tier",)),
    events.SessionEnded: _Counted("ends", "Sessions that ended.", ("tier", "reason")),
    events.SessionMerged: _Counted("merges", "Saves merged with those of concurrent requests."),
    events.SessionLost: _Counted("losses", "Saves lost: the session had ended.", ("reason",)),
    events.SessionRejected: _Counted(
        "rejections", "Sessions that were not stored.", ("tier", "reason")
    ),
    events.StoreFailed: _Counted("store_failures", "Times the store failed.", ("operation",)),
    events.ReplicasMissing: _Counted(
        "replicas_missing", "Ends that too few replicas confirmed.", ("operation",)
    ),
}
# Known reasons and operations: a custom store may have others.
_WORDS = frozenset({*ENDS, *REJECTIONS, "rotated", "renewed", "emptied", "unknown"})
_WORDS |= {"load", "save", "purge", "end", "rotate"}


class Counts:
    """The metrics that are updated by events. They outlive an app.

    If processes share files, counters and histograms are summed over all processes, even ended
    ones. A circuit is open if it is open in any live process; the last purge is the latest of all.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"safesession_{name}", text, (APP, *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            name = f"safesession_{name}"
            return _Times(name, text, (APP, *labels), registry=registry, buckets=buckets)

        def gauge(name: str, text: str, mode: Any, *labels: str) -> Gauge:
            name, labels = f"safesession_{name}", (APP, *labels)
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=mode)

        self._events = {
            kind: counter(name, text, *labels) for kind, (name, text, labels) in _COUNTED.items()
        }
        self._calls = histogram(
            "store_call_seconds", "Store calls.", CALL_BUCKETS, "operation", "outcome"
        )
        self._purges = histogram("purge_seconds", "Purge runs that ended.", PURGE_BUCKETS)
        self._removed = counter("purge_removed", "Sessions removed by purge runs.", "cause")
        self._repaired = counter("purge_repaired", "Index entries that purge runs fixed.")
        self._last_purge = gauge(
            "purge_last_run_timestamp_seconds", "When the last purge run ended, since 1970.", "max"
        )
        self._open = gauge(
            "store_circuit_open",
            "Whether the circuit of the server is open.",
            "livemax",
            "server",
        )
        # A cache: looking up labels in a metric takes longer than counting.
        self._found: dict[tuple[Any, tuple[str, ...]], Counter] = {}
        self._servers: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, app: Flask) -> None:
        """Count the events of *app* from now on."""
        state = app.extensions["safesession"]
        observe(state.overrides, self._hook(app.name), key=self)
        for kind in _COUNTED:
            kind.signal.connect(self._count, sender=app)
        events.store_purged.connect(self._count_purge, sender=app)
        events.store_state_changed.connect(self._set_circuits, sender=app)
        self._begin(app.name, state.settings.rules.policy.names)
        self.update_circuits(app)

    def update_circuits(self, app: Flask) -> None:
        """Set the gauges of the circuit breakers. A server that is gone counts as closed."""
        states = app.extensions["safesession"].opened.states()
        known = self._servers[app.name]
        known.update(states)
        for server in known:
            is_open = states.get(server, "closed") != "closed"
            self._open.labels(app.name, server).set(is_open)

    def _begin(self, app: str, tiers: tuple[str, ...]) -> None:
        """Create all series at 0, so that alerts see the first event as an increase."""
        for tier in tiers:
            self._events[events.SessionCreated].labels(app, tier)
            self._events[events.SessionRotated].labels(app, tier)
            for reason in ENDS:
                self._events[events.SessionEnded].labels(app, tier, reason)
            for reason in REJECTIONS:
                self._events[events.SessionRejected].labels(app, tier, reason)
        for operation in ("load", "save", "purge"):
            self._events[events.StoreFailed].labels(app, operation)
        for cause in ("due", "cap"):
            self._removed.labels(app, cause)
        for metric in (self._events[events.SessionMerged], self._repaired, self._purges):
            metric.labels(app)

    # -- receivers --------------------------------------------------------------------------------

    def _count(self, app: Flask, event: Any) -> None:
        kind = type(event)
        labels = (
            app.name,
            *[_bounded(name, getattr(event, name)) for name in _COUNTED[kind].labels],
        )
        found = self._found.get((kind, labels))
        if found is None:
            found = self._found[kind, labels] = self._events[kind].labels(*labels)
        found.inc()

    def _count_purge(self, app: Flask, event: events.StorePurged) -> None:
        self._purges.labels(app.name).observe(event.seconds)
        self._removed.labels(app.name, "due").inc(event.due)
        self._removed.labels(app.name, "cap").inc(event.trimmed)
        self._repaired.labels(app.name).inc(event.repaired)
        self._last_purge.labels(app.name).set(time())

    def _set_circuits(self, app: Flask, event: events.StoreStateChanged) -> None:
        del event  # all servers are read
        self.update_circuits(app)

    def _hook(self, app: str) -> Hook:
        @functools.cache
        def series(operation: str, outcome: str) -> Callable[[float], None]:
            return self._calls.labels(app, operation, outcome).observe

        def ended(call: StoreCall) -> None:
            series(call.operation, call.outcome)(call.seconds)

        return lambda _: ended


def _bounded(label: str, value: str) -> str:
    return value if label == "tier" or value in _WORDS else "other"


class _Times(Histogram):
    """A histogram with a binary search: prometheus-client's takes longer than a store call."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        del exemplar
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)
