"""Traces: a span for each store call, in the words of the conventions, and no key in any."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv.attributes import db_attributes as db
from opentelemetry.semconv.attributes import error_attributes, server_attributes
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import SpanKind, StatusCode

from flask_safesession import ConfigError, SafeSession, StoreUnavailable, session
from flask_safesession.instrumentation import opentelemetry

from ..support.counting import CountingStore
from ..support.servers import Server, free_port

MakeApp = Callable[..., Flask]


class Spans:
    """A provider that keeps what it is told."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def take(self) -> list[ReadableSpan]:
        found = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return found

    def names(self) -> list[str]:
        return [span.name for span in self.take()]


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    yield made
    made.provider.shutdown()


def traced(app: Flask, spans: Spans) -> Flask:
    opentelemetry.instrument(app.extensions["tested.safe"], spans.provider)

    @app.get("/put/<key>/<value>")
    def put(key: str, value: str) -> str:
        session[key] = value
        return ""

    @app.get("/read")
    def read() -> str:
        session.get("anything")
        return str(session.info.handle)

    return app


def test_each_store_call_is_a_span_named_after_it(make_app: MakeApp, spans: Spans) -> None:
    client = traced(make_app(), spans).test_client()
    client.get("/put/cart/3")
    assert spans.names() == ["create safesession"]
    client.get("/read")
    assert spans.names() == ["load safesession"]
    client.get("/put/cart/4")
    assert spans.names() == ["load safesession", "commit safesession"]
    client.get("/put/user_id/7")
    assert spans.names() == ["load safesession", "rotate safesession"]


def test_the_attributes_are_those_of_the_conventions(
    make_app: MakeApp, spans: Spans, any_server: Server, prefix: str
) -> None:
    app = traced(make_app(store=any_server.url, key_prefix=prefix), spans)
    app.test_client().get("/put/cart/3")
    [span] = [found for found in spans.take() if found.name == f"create {prefix}"]
    assert dict(span.attributes or {}) == {
        db.DB_SYSTEM_NAME: "redis",
        db.DB_OPERATION_NAME: "create",
        db.DB_COLLECTION_NAME: prefix,
        server_attributes.SERVER_ADDRESS: "127.0.0.1",
        server_attributes.SERVER_PORT: any_server.port,
        "safesession.outcome": "ok",
    }
    assert span.kind == SpanKind.CLIENT
    assert span.status.status_code == StatusCode.UNSET
    scope = span.instrumentation_scope
    assert scope is not None
    assert scope.name == "flask_safesession"
    assert scope.version
    assert scope.schema_url == Schemas.V1_33_0.value
    app.extensions["safesession"].store.close()


def test_a_store_in_memory_is_within_the_process(make_app: MakeApp, spans: Spans) -> None:
    traced(make_app(), spans).test_client().get("/put/cart/3")
    [span] = spans.take()
    assert span.kind == SpanKind.INTERNAL
    assert span.attributes is not None
    assert span.attributes[db.DB_SYSTEM_NAME] == "memory"
    assert server_attributes.SERVER_ADDRESS not in span.attributes


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("cache.example.org:6379", {"server.address": "cache.example.org", "server.port": 6379}),
        ("[::1]:6379", {"server.address": "::1", "server.port": 6379}),
        ("/run/valkey.sock", {"server.address": "/run/valkey.sock"}),
    ],
)
def test_a_server_is_taken_apart(server: str, expected: dict[str, object]) -> None:
    assert opentelemetry._address(server) == expected


def test_of_several_servers_none_is_named(
    make_app: MakeApp, spans: Spans, any_server: Server, prefix: str
) -> None:
    app = traced(make_app(store=any_server.url, key_prefix=prefix), spans)
    store = app.extensions["safesession"].overrides.bare.store
    store.states = lambda: {"one:1": "closed", "two:2": "closed"}
    app.test_client().get("/put/cart/3")
    assert not any(server_attributes.SERVER_ADDRESS in (s.attributes or {}) for s in spans.take())
    store.close()


def test_a_call_that_fails_is_an_error_of_a_kind_and_says_no_more(
    make_app: MakeApp, spans: Spans
) -> None:
    store = CountingStore()
    client = traced(make_app(store=store), spans).test_client()
    client.get("/put/cart/3")
    spans.take()
    store.failing = {"load"}
    assert client.get("/read").status_code == 503
    [span] = spans.take()
    assert span.status.status_code == StatusCode.ERROR
    assert span.status.description is None
    assert not span.events
    assert span.attributes is not None
    assert span.attributes[error_attributes.ERROR_TYPE] == StoreUnavailable.__name__
    assert span.attributes["safesession.outcome"] == "unavailable"


def test_no_span_has_a_key_a_user_or_data(make_app: MakeApp, spans: Spans) -> None:
    store = CountingStore()
    client = traced(make_app(store=store), spans).test_client()
    client.get("/put/cart/a-secret-wish")
    client.get("/put/user_id/ada@example.org")
    handle = client.get("/read").text
    cookie = client.get_cookie("session")
    assert cookie is not None
    store.failing = {"commit"}
    client.get("/put/cart/a-secret-wish-again")
    told = "".join(span.to_json() for span in spans.take())
    assert told.count("safesession.outcome") >= 6
    for secret in (handle, cookie.value, cookie.value.split(".")[0], "ada@", "a-secret"):
        assert secret not in told


def test_spans_stand_below_what_is_going_on(make_app: MakeApp, spans: Spans) -> None:
    client = traced(make_app(), spans).test_client()
    with spans.provider.get_tracer("a web framework").start_as_current_span("request"):
        client.get("/put/cart/3")
    call, request = spans.take()
    assert call.parent is not None
    assert request.context is not None
    assert call.parent.span_id == request.context.span_id


def test_what_a_driver_does_stands_below_the_call(make_app: MakeApp, spans: Spans) -> None:
    driver = spans.provider.get_tracer("a driver")
    store = CountingStore()
    store.before("create", lambda: driver.start_span("EVALSHA").end())
    traced(make_app(store=store), spans).test_client().get("/put/cart/3")
    command, call = spans.take()
    assert (command.name, call.name) == ("EVALSHA", "create safesession")
    assert command.parent is not None
    assert call.context is not None
    assert command.parent.span_id == call.context.span_id


def test_the_purge_job_is_traced_too(make_app: MakeApp, spans: Spans) -> None:
    app = traced(make_app(), spans)
    app.extensions["tested.safe"].purge()
    assert "purge safesession" in spans.names()


def test_a_second_time_traces_nothing_twice(make_app: MakeApp, spans: Spans) -> None:
    app = traced(make_app(), spans)
    opentelemetry.instrument(app.extensions["tested.safe"], spans.provider)
    app.test_client().get("/put/cart/3")
    assert spans.names() == ["create safesession"]


def test_where_nothing_is_sampled_nothing_is_looked_up(make_app: MakeApp) -> None:
    spans = Spans(sampler=ALWAYS_OFF)
    server = f"127.0.0.1:{free_port()}"
    app = traced(make_app(store=f"redis://{server}", store_timeout="200ms"), spans)
    asked: list[object] = []
    app.extensions["safesession"].overrides.bare.store.states = lambda: asked.append(1)
    assert app.test_client().get("/put/cart/3").status_code == 503  # as without traces
    assert spans.take() == []
    assert asked == []
    spans.provider.shutdown()


def test_without_a_provider_the_one_of_the_process_is_asked(
    make_app: MakeApp, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans.provider)
    app = make_app()
    for _ in range(2):
        opentelemetry.instrument(app.extensions["tested.safe"])
    app.extensions["tested.safe"].count()
    assert spans.names() == ["count safesession"]


def test_without_an_sdk_everything_goes_on_as_before(make_app: MakeApp) -> None:
    store = CountingStore()
    app = make_app(store=store)
    opentelemetry.instrument(app.extensions["tested.safe"], trace.NoOpTracerProvider())
    seen: list[trace.Span] = []
    store.before("create", lambda: seen.append(trace.get_current_span()))
    app.add_url_rule("/", "write", lambda: str(session.setdefault("cart", 3)))
    assert app.test_client().get("/").status_code == 200
    assert seen == [trace.INVALID_SPAN]
    assert store.take() == ["create"]


def test_an_app_and_its_store_are_not_held(make_app: MakeApp, spans: Spans) -> None:
    app = traced(make_app(), spans)
    left = [weakref.ref(app), weakref.ref(app.extensions["safesession"].overrides.bare.store)]
    del app
    gc.collect()
    assert [reference() for reference in left] == [None, None]


def test_without_an_app_it_says_what_to_do(spans: Spans) -> None:
    with pytest.raises(ConfigError, match="call init_app before instrument"):
        opentelemetry.instrument(SafeSession(), spans.provider)
