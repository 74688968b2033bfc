"""Traces for OpenTelemetry, with its API package (the extra ``opentelemetry``).

In its shortest form::

    instrument(safe)

The attributes are those of the semantic conventions for databases, 1.33 and newer. None of them
holds a key, a handle, a user or data.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

try:
    from opentelemetry import context
    from opentelemetry.trace import (
        SpanKind,
        StatusCode,
        Tracer,
        TracerProvider,
        get_tracer,
        set_span_in_context,
    )
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "flask_safesession.instrumentation.opentelemetry needs opentelemetry-api:"
        " pip install 'Flask-SafeSession[opentelemetry]'",
        name=_error.name,
    ) from _error

from ..errors import ConfigError
from ..stores.base import RemoteStore
from ..stores.opening import Opened
from .hooks import Ended, Hook, StoreCall, observe

if TYPE_CHECKING:
    from ..extension import SafeSession

__all__ = ["instrument"]

_SCHEMA = "https://opentelemetry.io/schemas/1.33.0"
_OUTCOME = "safesession.outcome"
_THE_GLOBAL_ONE = object()


def instrument(safe: SafeSession, tracer_provider: TracerProvider | None = None) -> None:
    """Trace the store calls of all apps that *safe* has been given. A second time does no harm.

    Each is a span named after the operation and ``SAFESESSION_KEY_PREFIX``, for instance ``load
    safesession``; ``safesession.outcome`` says what came of it. Spans of the driver are below it.

    :param tracer_provider: who makes the spans; the one that is set for the process if ``None``,
        also if it is set later.
    :raises ConfigError: *safe* has no app yet.
    """
    apps = list(safe._apps)
    if not apps:
        raise ConfigError(["there is no app to be traced: call init_app before instrument"])
    package = version("Flask-SafeSession")
    tracer = get_tracer("flask_safesession", package, tracer_provider, schema_url=_SCHEMA)
    key = tracer_provider or _THE_GLOBAL_ONE
    for app in apps:
        state = app.extensions["safesession"]
        hook = _hook(tracer, state.overrides.bare, state.settings.key_prefix)
        observe(state.overrides, hook, key)


def _hook(tracer: Tracer, opened: Opened, collection: str) -> Hook:
    kind = SpanKind.CLIENT if opened.store.shared else SpanKind.INTERNAL
    system, remote = opened.system, opened.remote

    def begin(operation: str) -> Ended:
        about = {
            "db.system.name": system,
            "db.operation.name": operation,
            "db.collection.name": collection,
        }
        span = tracer.start_span(f"{operation} {collection}", kind=kind, attributes=about)
        if not span.get_span_context().is_valid:  # there is no SDK
            return _ignore
        if remote is not None and span.is_recording():
            span.set_attributes(_server_of(remote))
        token = context.attach(set_span_in_context(span))

        def end(call: StoreCall) -> None:
            context.detach(token)
            span.set_attribute(_OUTCOME, call.outcome)
            if call.error:  # its class only: what it says, and its frames, may hold a key
                span.set_attribute("error.type", call.error)
                span.set_status(StatusCode.ERROR)
            span.end()

        return end

    return begin


def _ignore(call: StoreCall) -> None:
    """Where no span was begun."""


def _server_of(store: RemoteStore) -> dict[str, str | int]:
    """Where the store's server is just now, if there is only one: a failover moves it."""
    servers = list(store.states())
    return _address(servers[0]) if len(servers) == 1 else {}


def _address(server: str) -> dict[str, str | int]:
    host, _, port = server.rpartition(":")
    if not port.isdecimal():
        return {"server.address": server}  # the path of a socket
    return {"server.address": host.strip("[]"), "server.port": int(port)}
