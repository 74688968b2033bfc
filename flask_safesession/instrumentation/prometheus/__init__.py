"""Metrics for Prometheus, with its client library (the extra ``prometheus``).

In its shortest form::

    metrics = instrument(safe)
    app.add_url_rule("/metrics", "metrics", metrics.page)

No label holds a handle, a user or an ID. What labels may say is bounded by the settings: apps,
tiers and servers, and words that are listed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from flask import Flask, Response, has_request_context, request

try:
    from prometheus_client import REGISTRY, CollectorRegistry, values
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "flask_safesession.instrumentation.prometheus needs prometheus-client:"
        " pip install 'Flask-SafeSession[prometheus]'",
        name=_error.name,
    ) from _error

from ...errors import ConfigError
from .counts import Counts
from .live import LiveFigures

if TYPE_CHECKING:
    from ...extension import SafeSession

__all__ = ["LiveFigures", "Metrics", "instrument"]


def instrument(safe: SafeSession, registry: CollectorRegistry | None = None) -> Metrics:
    """Measure all apps that *safe* has been given until now. A second time does no harm.

    :param registry: where the metrics are to be found; the client library's own if ``None``. Where
        several processes share a directory (``PROMETHEUS_MULTIPROC_DIR``), only the live figures
        are found there: everything else is in that directory.
    :raises ConfigError: *safe* has no app yet.
    """
    apps = sorted(safe._apps, key=lambda app: app.name)
    if not apps:
        raise ConfigError(["there is no app to be measured: call init_app before instrument"])
    metrics = Metrics(REGISTRY if registry is None else registry)
    for app in apps:
        metrics._add(app)
    return metrics


class Metrics:
    """What :func:`instrument` gives back."""

    def __init__(self, registry: CollectorRegistry) -> None:
        #: Where the metrics are.
        self.registry: CollectorRegistry = registry
        home = _in_files if _shares_files() else registry
        if home not in _counts:
            _counts[home] = Counts(home)
        if registry not in _live:
            _live[registry] = LiveFigures()
            registry.register(_live[registry])
        self._mine = _counts[home]
        #: The live figures, for an endpoint that makes a registry of its own for each scrape.
        self.live: LiveFigures = _live[registry]

    def page(self) -> Response:
        """A view: the metrics of this process, or of all that share a directory."""
        found = self.registry
        if _shares_files():
            found = CollectorRegistry()
            MultiProcessCollector(found)  # type: ignore[no-untyped-call]
            found.register(self.live)
        accepted = request.headers.get("Accept", "") if has_request_context() else ""
        try:
            encode, content_type = choose_encoder(accepted)
        except (TypeError, ValueError):  # it compares versions in the header that are not numbers
            encode, content_type = choose_encoder("")
        return Response(encode(found), content_type=content_type)

    def _add(self, app: Flask) -> None:
        self._mine.add(app)
        self.live.add(app, self._mine)


# One of each for a registry. Where processes share files, a metric may be there once in a process:
# then all are in one registry, which is never asked.
_counts: WeakKeyDictionary[CollectorRegistry, Counts] = WeakKeyDictionary()
_live: WeakKeyDictionary[CollectorRegistry, LiveFigures] = WeakKeyDictionary()
_in_files = CollectorRegistry()


def _shares_files() -> bool:
    """Whether the client library has found ``PROMETHEUS_MULTIPROC_DIR`` when it was imported."""
    return bool(getattr(values.ValueClass, "_multiprocess", False))
