"""Metrics for Prometheus, with its client library (the extra ``prometheus``).

The shortest use::

    metrics = instrument(safe)
    app.add_url_rule("/metrics", "metrics", metrics.page)

No label contains a handle, a user or an ID. Label values are bounded: apps, tiers and servers of
the settings, and words that are listed here.
"""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from flask import Flask, Response, has_request_context, request

try:
    from prometheus_client import REGISTRY, CollectorRegistry, values
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "flask_safesession.instrumentation.prometheus needs prometheus-client:"
        " pip install prometheus-client",
        name=_error.name,
    ) from _error

from ...errors import ConfigError
from .counts import Counts
from .live import LiveStats

if TYPE_CHECKING:
    from ...extension import SafeSession

__all__ = ["LiveStats", "Metrics", "instrument"]


def instrument(safe: SafeSession, registry: CollectorRegistry | None = None) -> Metrics:
    """Measure all current apps of *safe*. Calling it again is harmless.

    :param registry: registers the metrics; ``None``: the client library's own. If processes share a
        directory (``PROMETHEUS_MULTIPROC_DIR``), the registry has only the live stats: the other
        metrics are in that directory, which is created.
    :raises ConfigError: *safe* has no app yet, or the directory cannot be used.
    """
    apps = sorted(safe._apps, key=lambda app: app.name)
    if not apps:
        raise ConfigError(["there is no app to measure: call init_app before instrument"])
    if _shares_files():
        _make_directory()
    metrics = Metrics(REGISTRY if registry is None else registry)
    for app in apps:
        metrics._add(app)
    return metrics


class Metrics:
    """The metrics of :func:`instrument`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        #: The registry of the metrics.
        self.registry: CollectorRegistry = registry
        home = _in_files if _shares_files() else registry
        if home not in _counts:
            _counts[home] = Counts(home)
            if _shares_files():
                atexit.register(_leave)
        if registry not in _live:
            _live[registry] = LiveStats()
            registry.register(_live[registry])
        self._mine = _counts[home]
        #: The live stats, for an endpoint that makes its own registry for each scrape.
        self.live: LiveStats = _live[registry]

    def page(self) -> Response:
        """Returns the metrics of this process, or of all that share a directory. A view."""
        found = self.registry
        if _shares_files():
            found = CollectorRegistry()
            MultiProcessCollector(found)  # type: ignore[no-untyped-call]
            found.register(self.live)
        accepted = request.headers.get("Accept", "") if has_request_context() else ""
        try:
            encode, content_type = choose_encoder(accepted)
        except (TypeError, ValueError):  # versions in the header that are not numbers
            encode, content_type = choose_encoder("")
        return Response(encode(found), content_type=content_type)

    def _add(self, app: Flask) -> None:
        self._mine.add(app)
        self.live.add(app, self._mine)


_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
# One of each per registry. If processes share files, a process may have each metric only once: all
# are in one registry, which is never collected.
_counts: WeakKeyDictionary[CollectorRegistry, Counts] = WeakKeyDictionary()
_live: WeakKeyDictionary[CollectorRegistry, LiveStats] = WeakKeyDictionary()
_in_files = CollectorRegistry()


def _make_directory() -> None:
    """Create the directory of all processes, which the client library expects to exist."""
    directory = os.environ.get(_DIRECTORY, "")
    try:
        if directory:
            Path(directory).mkdir(parents=True, exist_ok=True)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(None, "it may not be written")
    except OSError as error:
        problem = f"{_DIRECTORY} is {directory!r}, which cannot be used ({error.strerror})"
        fix = "give a directory that the app may create and write, empty at the start"
        raise ConfigError([f"{problem}: {fix}"], "The metrics cannot be kept") from error


def _leave() -> None:
    """Remove the circuits of this process, which ends. Else those of a command would stay open."""
    if directory := os.environ.get(_DIRECTORY):
        with suppress(OSError):
            mark_process_dead(os.getpid(), directory)  # type: ignore[no-untyped-call]


def _shares_files() -> bool:
    """Whether ``PROMETHEUS_MULTIPROC_DIR`` was set when the client library was imported."""
    return bool(getattr(values.ValueClass, "_multiprocess", False))
