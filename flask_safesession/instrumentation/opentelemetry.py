"""Traces for OpenTelemetry, with its API package (the extra ``opentelemetry``).

The shortest use::

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
        " pip install opentelemetry-api",
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
    """Trace the store calls of all apps of *safe*. Calling it again is harmless.

    Each call is a span, named after operation and ``SAFESESSION_KEY_PREFIX``, such as ``load
    safesession``, with the attribute ``safesession.outcome``. Spans of the driver are its children.

    :param tracer_provider: makes the spans; ``None``: the process's own, even if that is set later.
    :raises ConfigError: *safe* has no app yet.
    """
    apps = list(safe._apps)
    if not apps:
        raise ConfigError(["there is no app to trace: call init_app before instrument"])
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
            if call.error:  # the class only: its message and frames may contain a key
                span.set_attribute("error.type", call.error)
                span.set_status(StatusCode.ERROR)
            span.end()

        return end

    return begin


def _ignore(call: StoreCall) -> None:
    """Ends no span: none was started."""


def _server_of(store: RemoteStore) -> dict[str, str | int]:
    """Returns the current address of the store's server, if there is only one."""
    servers = list(store.states())
    return _address(servers[0]) if len(servers) == 1 else {}


def _address(server: str) -> dict[str, str | int]:
    host, _, port = server.rpartition(":")
    if not port.isdecimal():
        return {"server.address": server}  # the path of a socket
    return {"server.address": host.strip("[]"), "server.port": int(port)}
