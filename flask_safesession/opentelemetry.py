"""Traces for OpenTelemetry, with its API package (the extra ``opentelemetry``).

In its shortest form::

    instrument(safe)

The attributes are those of the semantic conventions for databases, 1.33 and newer. None of them
holds a key, a handle, a user or data.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry.trace import (
        Span,
        SpanKind,
        StatusCode,
        Tracer,
        TracerProvider,
        get_tracer,
        use_span,
    )
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "flask_safesession.opentelemetry needs opentelemetry-api:"
        " pip install 'Flask-SafeSession[opentelemetry]'",
        name=_error.name,
    ) from _error

from .errors import ConfigError
from .observing import Observer, Operation, observe, outcome_of, outcome_of_error
from .stores.base import Networked

if TYPE_CHECKING:
    from .extension import SafeSession

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
        observe(state.store, _observer(tracer, state.store, state.settings.key_prefix), key)


def _observer(tracer: Tracer, store: Any, collection: str) -> Observer:
    kind = SpanKind.CLIENT if store.shared else SpanKind.INTERNAL
    system = type(store).__name__.removesuffix("Store").lower()
    server = _server_of(store)

    def observer(name: str, operation: Operation) -> Operation:
        title = f"{name} {collection}"
        about = {
            "db.system.name": system,
            "db.operation.name": name,
            "db.collection.name": collection,
        }

        def traced(*args: Any, **kwargs: Any) -> Any:
            span = tracer.start_span(title, kind=kind, attributes=about)
            if not span.get_span_context().is_valid:  # there is nobody to tell
                return operation(*args, **kwargs)
            # What an error says, and the frames that it came through, may know a key.
            with use_span(
                span, end_on_exit=True, record_exception=False, set_status_on_exception=False
            ):
                return _described(span, server, operation, args, kwargs)

        return traced

    return observer


def _described(
    span: Span,
    server: Callable[[], dict[str, str | int]],
    operation: Operation,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if not span.is_recording():
        return operation(*args, **kwargs)
    span.set_attributes(server())
    try:
        answer = operation(*args, **kwargs)
    except BaseException as error:
        span.set_attribute("error.type", type(error).__name__)
        span.set_attribute(_OUTCOME, outcome_of_error(error))
        span.set_status(StatusCode.ERROR)
        raise
    span.set_attribute(_OUTCOME, outcome_of(answer))
    return answer


def _server_of(store: Any) -> Callable[[], dict[str, str | int]]:
    """Says where the store's server is just now, if there is one only: a failover moves it."""
    if not isinstance(store, Networked):
        return dict
    reference = weakref.ref(store)  # the store will hold the observer that holds this

    def whereabouts() -> dict[str, str | int]:
        alive = reference()
        servers = list(alive.states()) if alive is not None else []
        return _address(servers[0]) if len(servers) == 1 else {}

    return whereabouts


def _address(server: str) -> dict[str, str | int]:
    host, _, port = server.rpartition(":")
    if not port.isdecimal():
        return {"server.address": server}  # the path of a socket
    return {"server.address": host.strip("[]"), "server.port": int(port)}
