# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Jaeger's query API returns the traces sent to Jaeger: the example, services with a queue, calls of each outcome."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GRPCSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HTTPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link

from examples._shared.collector import Collector
from examples._shared.local import loopback
from examples._shared.server import ChatServer
from opentelemetry_instrumentation_modelforge import __version__
from support import EXAMPLES, SUPPORT
from support.environment import lacking
from support.examples import missing
from support.jaeger import LACKING, Jaeger, named, outline, reference, tags
from support.models import get_llm, without_retries
from support.providers import ProviderServer, Reply
from support.services import GET_LLM, HOST, MODEL, TIMEOUT, Caller, Services, ask
from support.telemetry import Telemetry

if LACKING:
    pytest.skip(LACKING, allow_module_level=True)


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    jaeger = Jaeger(tmp_path_factory.mktemp("jaeger") / "jaeger")
    try:
        jaeger.wait()
        yield jaeger
    finally:
        jaeger.stop()


# --- The example ---

EXAMPLE = EXAMPLES / "jaeger"
EXAMPLE_LACKS = missing()

TREE = f"""\
plan a day
  {GET_LLM}
  {MODEL}
    POST
  {MODEL}
    POST
"""


def _send_by_http(jaeger: Jaeger) -> str:
    """Send the example's trace with its README's command."""
    result = subprocess.run(
        [sys.executable, EXAMPLES, "jaeger", "--jaeger", jaeger.endpoint],
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.endswith(f"\nhttp://{HOST}:16686/search?service=jaeger-example\n")
    return "jaeger-example"


def _send_by_grpc(jaeger: Jaeger) -> str:
    """Send the trace of the example's application with the gRPC variables of its README."""
    with loopback("jaeger-grpc", ChatServer(), Collector()) as variables:
        result = subprocess.run(
            [Path(sys.executable).with_name("opentelemetry-instrument"), sys.executable, EXAMPLE / "app.py"],
            capture_output=True,
            check=False,
            cwd=variables["HOME"],
            encoding="utf-8",
            env=variables
            | {
                "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.grpc_endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_LOGS_EXPORTER": "none",
                "OTEL_METRICS_EXPORTER": "none",
            },
            timeout=TIMEOUT,
        )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return "jaeger-grpc"


@pytest.fixture(scope="module", params=[_send_by_http, _send_by_grpc], ids=["http", "grpc"])
def example(request: pytest.FixtureRequest, jaeger: Jaeger) -> dict[str, Any]:
    """The only trace of the example, sent over one protocol."""
    if EXAMPLE_LACKS:
        pytest.skip(EXAMPLE_LACKS)
    service = request.param(jaeger)
    (trace,) = jaeger.traces(service)
    assert {process["serviceName"] for process in trace["processes"].values()} == {service}
    return trace


def test_the_examples_spans_are_a_tree(example: dict[str, Any]) -> None:
    assert outline(example) == TREE
    assert [span["warnings"] for span in example["spans"]] == 6 * [None]


def test_a_model_span_refers_to_the_get_llm_that_its_model_came_from(example: dict[str, Any]) -> None:
    (get_llm,) = named(example, GET_LLM)
    assert [reference(span, "FOLLOWS_FROM") for span in named(example, MODEL)] == 2 * [get_llm["spanID"]]


def test_tags_have_the_types_of_the_attributes(example: dict[str, Any]) -> None:
    invoked, streamed = (tags(span["tags"]) for span in named(example, MODEL))
    port = invoked["server.port"]
    assert port[0] == "int64"
    common = {
        "gen_ai.operation.name": ("string", "chat"),
        "gen_ai.provider.name": ("string", "openai"),
        "gen_ai.request.model": ("string", "gpt-4o-mini"),
        # Jaeger's pages have no list type.
        "gen_ai.response.finish_reasons": ("string", '["stop"]'),
        "gen_ai.response.id": ("string", "chatcmpl-1"),
        "gen_ai.response.model": ("string", "gpt-4o-mini"),
        "gen_ai.usage.cost.currency": ("string", "USD"),
        "gen_ai.usage.cost.source": ("string", "local"),
        "gen_ai.usage.output_tokens": ("int64", 5),
        "modelforge.llm_type": ("string", "openai_compatible"),
        "modelforge.model": ("string", "gpt-4o-mini"),
        "modelforge.outcome": ("string", "completed"),
        "modelforge.provider": ("string", "openai"),
        "openai.api.type": ("string", "chat_completions"),
        "otel.scope.name": ("string", "opentelemetry_instrumentation_modelforge"),
        "otel.scope.version": ("string", __version__),
        "server.address": ("string", HOST),
        "server.port": port,
        "span.kind": ("string", "client"),
    }
    assert invoked == {
        **common,
        "gen_ai.usage.cost.amount": ("float64", 6e-06),
        "gen_ai.usage.input_tokens": ("int64", 20),
    }
    kind, seconds = streamed.pop("gen_ai.response.time_to_first_chunk")
    assert (kind, 0 < seconds < TIMEOUT) == ("float64", True)
    # The number of chunks that LangChain creates depends on its release.
    assert streamed.pop("modelforge.response.chunk_count")[0] == "int64"
    assert streamed == {
        **common,
        "gen_ai.request.stream": ("bool", True),
        "gen_ai.usage.cost.amount": ("float64", 4.95e-06),
        "gen_ai.usage.input_tokens": ("int64", 13),
    }


def test_the_first_chunk_of_a_stream_is_a_log_of_its_span(example: dict[str, Any]) -> None:
    invoked, streamed = named(example, MODEL)
    assert invoked["logs"] == []
    (log,) = streamed["logs"]
    assert tags(log["fields"]) == {"event": ("string", "modelforge.chunk"), "modelforge.chunk.index": ("int64", 0)}
    assert streamed["startTime"] < log["timestamp"] < streamed["startTime"] + streamed["duration"]


def test_durations_are_within_those_of_the_parents(example: dict[str, Any]) -> None:
    spans = {span["spanID"]: span for span in example["spans"]}
    for span in spans.values():
        assert span["duration"] > 0
        if parent := spans.get(reference(span, "CHILD_OF") or ""):
            assert parent["startTime"] <= span["startTime"]
            # Jaeger truncates both to microseconds.
            assert span["startTime"] + span["duration"] <= parent["startTime"] + parent["duration"] + 1


# --- A service, a queue and a worker ---

SERVICES_LACK = lacking("celery", "fastapi", "sqlalchemy", "uvicorn", instrumentors=("celery", "fastapi", "httpx"))


@pytest.mark.skipif(SERVICES_LACK is not None or EXAMPLE_LACKS is not None, reason=f"{SERVICES_LACK or EXAMPLE_LACKS}")
@pytest.mark.skipif(sys.platform == "win32", reason="Celery's prefork pool needs fork")
def test_a_request_its_task_and_the_model_call_are_one_trace(jaeger: Jaeger, tmp_path: Path) -> None:
    environment = {
        "CELERY_BROKER_URL": f"sqla+sqlite:///{tmp_path}/broker.sqlite",
        "CELERY_RESULT_BACKEND": f"db+sqlite:///{tmp_path}/results.sqlite",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "sqlalchemy,sqlite3",
    }
    _create_queue(environment["CELERY_BROKER_URL"])
    caller = Caller()
    with ProviderServer() as provider:
        services = Services(tmp_path, f"{provider.url}/v1", jaeger)
        command = ("celery", "--app=celery_app", "worker", "--concurrency=1", "--without-gossip", "--without-mingle")
        worker = services.start("worker", *command, path=(SUPPORT,), **environment)
        try:
            web = services.start_uvicorn("web", "queue_app:app", path=(SUPPORT,), **environment)
            web.wait()
            assert ask(web, "/queued/chat", caller).startswith('"')
            trace = jaeger.trace(caller.trace_id, spans=9)
        finally:
            services.stop()
            # Pytest shows this if the test fails.
            print(worker.log.read_text())

    assert (
        outline(trace, caller.span_id)
        == f"""\
POST /queued/chat
  POST /queued/chat http receive
  apply_async/celery_app.ask
    run/celery_app.ask
      {GET_LLM}
      {MODEL}
        POST
  POST /queued/chat http send
  POST /queued/chat http send
"""
    )
    of_service = {
        span["operationName"]: trace["processes"][span["processID"]]["serviceName"] for span in trace["spans"]
    }
    assert {name: service for name, service in of_service.items() if "http" not in name} == {
        "POST /queued/chat": "web",
        "apply_async/celery_app.ask": "web",
        "run/celery_app.ask": "worker",
        GET_LLM: "worker",
        MODEL: "worker",
        "POST": "worker",
    }


def _create_queue(broker: str) -> None:
    """Create the queue's tables, which the producer and the worker would otherwise both try to create."""
    from kombu import Connection

    with Connection(broker) as connection:
        connection.SimpleQueue("celery").close()


# --- Attribute for attribute ---

SERVICE = "compared"
RESOURCE = Resource({"service.name": SERVICE, "service.version": "1.2", "replicas": 3, "canary": True, "load": 0.5})
ATTRIBUTES = {
    "text": "Grüße aus 東京",
    "whole": 2**53 + 1,
    "fraction": 1.0,
    "flag": False,
    "words": ["a", "b"],
    "numbers": [1, 2],
    "shares": [0.25, 1.0],
    "flags": [True, False],
}
EXPORTERS = {
    "http": lambda jaeger: HTTPSpanExporter(f"{jaeger.endpoint}/v1/traces"),
    "grpc": lambda jaeger: GRPCSpanExporter(jaeger.grpc_endpoint, insecure=True),
}


@pytest.fixture(params=EXPORTERS)
def tracer_provider(
    request: pytest.FixtureRequest, jaeger: Jaeger, span_exporter: InMemorySpanExporter
) -> Iterator[TracerProvider]:
    """A provider that keeps every span in memory and sends it to Jaeger."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(span_exporter))
    provider.add_span_processor(SimpleSpanProcessor(EXPORTERS[request.param](jaeger)))
    yield provider
    provider.shutdown()


async def _completed(llm: Any, server: ProviderServer) -> None:
    await llm.ainvoke("What is worn in 東京?", stop=["\n", "END"], temperature=0.5)


async def _failed(llm: Any, server: ProviderServer) -> None:
    server.reply = Reply(status=500)
    with pytest.raises(Exception, match="500"):
        await llm.ainvoke("Hi")


async def _streamed(llm: Any, server: ProviderServer) -> None:
    async for _ in llm.astream("Hi", stream_usage=True):
        pass


async def _cancelled(llm: Any, server: ProviderServer) -> None:
    server.reply = Reply(hold=True)
    task = asyncio.create_task(llm.ainvoke("Hi"))
    assert await asyncio.to_thread(server.held.wait, TIMEOUT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.release.set()


CALLS = {"completed": _completed, "failed": _failed, "streamed": _streamed, "cancelled": _cancelled}
SPAN_COUNT = 4
"""The spans of the request, `get_llm`, the model and the HTTP client."""


@pytest.fixture
def call(
    instrument: Callable[..., Telemetry],
    registry: Any,
    provider_server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Telemetry]:
    """Make a call of the given kind, with attributes of each type, baggage and content on its span."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")

    def call(kind: str) -> Telemetry:
        telemetry = instrument(attributes=ATTRIBUTES, baggage_keys=["user.id"], chunk_events="all")
        token = context.attach(baggage.set_baggage("user.id", "u-7"))
        try:
            with telemetry.tracer.start_as_current_span("request"):
                llm = without_retries(get_llm(registry, "openai", "gpt-4o-mini"))
                asyncio.run(CALLS[kind](llm, provider_server))
        finally:
            context.detach(token)
        return telemetry

    return call


@pytest.mark.parametrize("kind", CALLS)
def test_jaeger_returns_what_the_sdk_held(kind: str, call: Callable[[str], Telemetry], jaeger: Jaeger) -> None:
    spans = call(kind).spans()
    assert [span.name for span in spans] == ["request", GET_LLM, MODEL, "POST"]
    model = spans[2]
    assert model.attributes is not None
    outcome = {"streamed": "completed"}.get(kind, kind)
    assert (model.attributes["modelforge.outcome"], model.attributes["user.id"]) == (outcome, "u-7")

    trace_id = f"{spans[0].context.trace_id:032x}"
    jaeger.trace(trace_id, spans=SPAN_COUNT)
    stored = [_stored(span) for span in _spans(jaeger.resource_spans(trace_id))]
    held = [_held(span) for span in spans]
    assert sorted(stored, key=lambda span: span["start"]) == held


def test_a_failed_call_is_red_in_jaeger(call: Callable[[str], Telemetry], jaeger: Jaeger) -> None:
    spans = call("failed").spans()
    trace = jaeger.trace(f"{spans[0].context.trace_id:032x}", spans=SPAN_COUNT)
    (model,) = named(trace, MODEL)
    shown = tags(model["tags"])
    assert shown["error"] == ("bool", True)
    assert shown["otel.status_code"] == ("string", "ERROR")
    assert shown["otel.status_description"] == ("string", spans[2].status.description)
    assert shown["error.type"] == ("string", "openai.InternalServerError")
    (log,) = (tags(log["fields"]) for log in model["logs"])
    assert log["event"] == ("string", "exception")
    assert log["exception.type"] == ("string", "openai.InternalServerError")
    assert log["exception.stacktrace"][1].startswith("Traceback")
    # The SDK's duration, in microseconds.
    assert [span["duration"] for span in sorted(trace["spans"], key=lambda span: span["startTime"])] == [
        (span.end_time - span.start_time) // 1000 for span in spans
    ]


# --- Spans as values that can be compared ---


def _held(span: ReadableSpan) -> dict[str, Any]:
    """Return a span as the SDK holds it."""
    scope = span.instrumentation_scope
    assert scope is not None
    return {
        "name": span.name,
        "ids": (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"),
        "parent": f"{span.parent.span_id:016x}" if span.parent else "",
        # OTLP's enumeration starts at 1, and the SDK's at 0.
        "kind": span.kind.value + 1,
        "start": span.start_time,
        "end": span.end_time,
        "status": (span.status.status_code.name, span.status.description or ""),
        "attributes": _typed(span.attributes),
        "events": [_held_event(event) for event in span.events],
        "links": [_held_link(link) for link in span.links],
        "resource": _typed(span.resource.attributes),
        "scope": (scope.name, scope.version or ""),
    }


def _held_event(event: Event) -> tuple[Any, ...]:
    return event.name, event.timestamp, _typed(event.attributes)


def _held_link(link: Link) -> tuple[Any, ...]:
    return f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", _typed(link.attributes)


def _typed(attributes: Mapping[str, Any] | None) -> dict[str, str]:
    """Return attributes in a form that distinguishes 1, 1.0 and True."""
    return {
        name: repr(list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value)
        for name, value in (attributes or {}).items()
    }


def _spans(resource_spans: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the spans of OTLP JSON, each with its resource and its scope."""
    for of_resource in resource_spans:
        for of_scope in of_resource["scopeSpans"]:
            for span in of_scope["spans"]:
                yield {**span, "resource": of_resource["resource"], "scope": of_scope["scope"]}


STATUS_CODES = ("UNSET", "OK", "ERROR")


def _stored(span: Mapping[str, Any]) -> dict[str, Any]:
    """Return a span as Jaeger stored it."""
    return {
        "name": span["name"],
        "ids": (span["traceId"], span["spanId"]),
        "parent": span.get("parentSpanId", ""),
        "kind": span["kind"],
        "start": int(span["startTimeUnixNano"]),
        "end": int(span["endTimeUnixNano"]),
        "status": (STATUS_CODES[span["status"].get("code", 0)], span["status"].get("message", "")),
        "attributes": _values(span.get("attributes", ())),
        "events": [
            (event["name"], int(event["timeUnixNano"]), _values(event.get("attributes", ())))
            for event in span.get("events", ())
        ],
        "links": [
            (link["traceId"], link["spanId"], _values(link.get("attributes", ()))) for link in span.get("links", ())
        ],
        "resource": _values(span["resource"]["attributes"]),
        "scope": (span["scope"]["name"], span["scope"].get("version", "")),
    }


READ: dict[str, Callable[[Any], Any]] = {
    "stringValue": str,
    "boolValue": bool,
    # JSON has one number type: OTLP writes integers as strings, and 1.0 as 1.
    "intValue": int,
    "doubleValue": float,
    "arrayValue": lambda array: [_value(item) for item in array.get("values", ())],
}


def _values(pairs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return _typed({pair["key"]: _value(pair["value"]) for pair in pairs})


def _value(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    return READ[kind](content)
