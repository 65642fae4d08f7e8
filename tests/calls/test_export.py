# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Telemetry exported over OTLP arrives as the SDK held it, and within the limits of the backends."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from opentelemetry import baggage, context
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.schemas import Schemas

from opentelemetry_instrumentation_modelforge.version import __version__
from support import DOCS, SUPPORT
from support.models import get_llm, without_retries
from support.providers import ProviderServer, Reply
from support.receiver import SIGNALS
from support.telemetry import Telemetry

SCOPE = "opentelemetry_instrumentation_modelforge"
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
GET_LLM = "modelforge.get_llm"
MODEL = "langchain.llm.invoke"
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
RESOURCE = Resource(
    {"service.name": "export", "service.replicas": 3, "ratio": 0.5, "canary": True, "zones": ("a", "b")},
    Schemas.V1_28_0.value,
)
NEVER = math.inf
"""The interval of a metric reader that exports only on request."""
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a place up.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


# --- The receiver ---


class Receiver:
    """The program in receiver.py and the requests it has received."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, str(SUPPORT / "receiver.py"), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._ports: dict[str, int] = json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.communicate(timeout=30)

    def exporter(self, protocol: str, module: str, name: str, **options: Any) -> Any:
        """Return an OTLP exporter that sends to this receiver."""
        kind = getattr(import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{module}"), name)
        path = {"trace_exporter": "traces", "metric_exporter": "metrics", "_log_exporter": "logs"}[module]
        if protocol == "grpc":
            return kind(f"http://127.0.0.1:{self._ports['grpc']}", insecure=True, **options)
        return kind(f"http://127.0.0.1:{self._ports['http']}/v1/{path}", **options)

    def take(self, signal: str) -> list[Any]:
        """Return the decoded requests of a signal that arrived since the previous call."""
        files = sorted(self._directory.glob(f"*-{signal}.pb"))
        requests = [SIGNALS[signal][0].FromString(file.read_bytes()) for file in files]
        for file in files:
            file.unlink()
        return requests

    def metadata(self) -> list[dict[str, str]]:
        """Return the headers of the requests, in lower case."""
        return [json.loads(file.read_text()) for file in sorted(self._directory.glob("*.json"))]


@pytest.fixture(scope="module")
def receiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path_factory.mktemp("received"))
    yield receiver
    receiver.stop()


@pytest.fixture
def receiver(receiving: Receiver) -> Receiver:
    """The receiver, without requests of other tests."""
    for file in receiving._directory.iterdir():
        file.unlink()
    return receiving


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tracer_provider(receiver: Receiver, protocol: str, span_exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(span_exporter))
    provider.add_span_processor(
        BatchSpanProcessor(receiver.exporter(protocol, "trace_exporter", "OTLPSpanExporter", headers={"x-a": "b"}))
    )
    yield provider
    provider.shutdown()


@pytest.fixture
def exported_metrics() -> list[Any]:
    """The data passed to the metric exporter, because each reader has its own start times."""
    return []


@pytest.fixture
def meter_provider(
    receiver: Receiver, protocol: str, metric_reader: InMemoryMetricReader, exported_metrics: list[Any]
) -> Iterator[MeterProvider]:
    exporter = receiver.exporter(protocol, "metric_exporter", "OTLPMetricExporter")
    export = exporter.export

    def export_and_keep(data: Any, *arguments: Any, **options: Any) -> Any:
        exported_metrics.append(data)
        return export(data, *arguments, **options)

    exporter.export = export_and_keep
    readers = [metric_reader, PeriodicExportingMetricReader(exporter, NEVER)]
    provider = MeterProvider(readers, resource=RESOURCE, shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def logger_provider(
    receiver: Receiver, protocol: str, log_exporter: InMemoryLogRecordExporter
) -> Iterator[LoggerProvider]:
    provider = LoggerProvider(RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(log_exporter))
    provider.add_log_record_processor(
        BatchLogRecordProcessor(receiver.exporter(protocol, "_log_exporter", "OTLPLogExporter"))
    )
    yield provider
    provider.shutdown()


# --- Both sides in the same form: values with their types, ids as numbers ---

WIRE_TYPES = {"string_value": "str", "bool_value": "bool", "int_value": "int", "double_value": "float"}


def received_value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [received_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return received_attributes(value.kvlist_value.values)
    return (WIRE_TYPES[kind], getattr(value, kind)) if kind else None


def received_attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    attributes = {pair.key: received_value(pair.value) for pair in pairs}
    assert len(attributes) == len(list(pairs)), "a name occurred twice"
    return attributes


def held_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: held_value(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [held_value(item) for item in value]
    return None if value is None else (type(value).__name__, value)


def number(identifier: bytes) -> int:
    return int.from_bytes(identifier)


def received_span(span: Span) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "trace": number(span.trace_id),
        "id": number(span.span_id),
        "parent": number(span.parent_span_id),
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "status": (Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"), span.status.message),
        "attributes": received_attributes(span.attributes),
        "events": [
            (event.name, event.time_unix_nano, received_attributes(event.attributes), event.dropped_attributes_count)
            for event in span.events
        ],
        "links": [
            (number(link.trace_id), number(link.span_id), received_attributes(link.attributes)) for link in span.links
        ],
        "dropped": (span.dropped_attributes_count, span.dropped_events_count, span.dropped_links_count),
        "flags": span.flags & SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK,
    }


def held_span(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace": span.context.trace_id,
        "id": span.context.span_id,
        "parent": span.parent.span_id if span.parent else 0,
        "start": span.start_time,
        "end": span.end_time,
        "status": (span.status.status_code.name, span.status.description or ""),
        "attributes": held_value(span.attributes),
        "events": [
            (event.name, event.timestamp, held_value(event.attributes), event.dropped_attributes)
            for event in span.events
        ],
        "links": [(link.context.trace_id, link.context.span_id, held_value(link.attributes)) for link in span.links],
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "flags": SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK,
    }


def received_log(record: Any) -> dict[str, Any]:
    return {
        "event": record.event_name,
        "body": received_value(record.body),
        "attributes": received_attributes(record.attributes),
        "trace": number(record.trace_id),
        "span": number(record.span_id),
        "flags": record.flags,
        "time": record.time_unix_nano,
        "observed": record.observed_time_unix_nano,
        "severity": (record.severity_number, record.severity_text),
        "dropped": record.dropped_attributes_count,
    }


def held_log(readable: Any) -> dict[str, Any]:
    record = readable.log_record
    return {
        "event": record.event_name,
        "body": held_value(record.body),
        "attributes": held_value(record.attributes),
        "trace": record.trace_id,
        "span": record.span_id,
        "flags": int(record.trace_flags),
        "time": record.timestamp or 0,
        "observed": record.observed_timestamp,
        "severity": (record.severity_number.value if record.severity_number else 0, record.severity_text or ""),
        "dropped": readable.dropped_attributes,
    }


def received_point(point: Any) -> dict[str, Any]:
    common = {
        "attributes": received_attributes(point.attributes),
        "start": point.start_time_unix_nano,
        "time": point.time_unix_nano,
        "exemplars": [
            (
                number(exemplar.trace_id),
                number(exemplar.span_id),
                exemplar.time_unix_nano,
                getattr(exemplar, exemplar.WhichOneof("value")),
                received_attributes(exemplar.filtered_attributes),
            )
            for exemplar in point.exemplars
        ],
    }
    if hasattr(point, "bucket_counts"):
        names = ("count", "sum", "min", "max")
        buckets = {"counts": list(point.bucket_counts), "bounds": list(point.explicit_bounds)}
        return {**common, **buckets, **{name: getattr(point, name) for name in names}}
    return {**common, "value": held_value(getattr(point, point.WhichOneof("value")))}


def held_point(point: Any) -> dict[str, Any]:
    common = {
        "attributes": held_value(point.attributes),
        "start": point.start_time_unix_nano,
        "time": point.time_unix_nano,
        "exemplars": [
            (
                exemplar.trace_id or 0,
                exemplar.span_id or 0,
                exemplar.time_unix_nano,
                exemplar.value,
                held_value(exemplar.filtered_attributes or {}),
            )
            for exemplar in point.exemplars
        ],
    }
    if hasattr(point, "bucket_counts"):
        names = ("count", "sum", "min", "max")
        buckets = {"counts": list(point.bucket_counts), "bounds": list(point.explicit_bounds)}
        return {**common, **buckets, **{name: getattr(point, name) for name in names}}
    return {**common, "value": held_value(point.value)}


def received_metric(metric: Any) -> dict[str, Any]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    return {
        "kind": kind,
        "unit": metric.unit,
        "description": metric.description,
        "temporality": data.aggregation_temporality,
        "monotonic": kind == "sum" and data.is_monotonic,
        "points": [received_point(point) for point in data.data_points],
    }


def held_metric(metric: Any) -> dict[str, Any]:
    return {
        "kind": type(metric.data).__name__.lower(),
        "unit": metric.unit,
        "description": metric.description,
        "temporality": int(metric.data.aggregation_temporality),
        "monotonic": getattr(metric.data, "is_monotonic", False),
        "points": [held_point(point) for point in metric.data.data_points],
    }


# --- What is sent ---


@pytest.fixture
def sent(
    instrument: Callable[..., Telemetry],
    registry: Any,
    provider_server: ProviderServer,
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    logger_provider: LoggerProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> Telemetry:
    """A plain call, a streamed one and a failed one, with attributes of every type and content on events, exported."""
    monkeypatch.setenv(CAPTURE, "EVENT_ONLY")
    telemetry = instrument(
        attributes={"team": "search", "tier": 2, "share": 0.5, "beta": True, "regions": ["eu", "us"]},
        baggage_keys=["tenant"],
    )
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        with telemetry.tracer.start_as_current_span("request"):
            llm = get_llm(registry, "openai", "gpt-4o-mini")
            llm.bind_tools([TOOL]).bind(temperature=0.5, top_p=0.9, max_tokens=5, seed=1, n=2, stop=[".", "!"]).invoke(
                "Hi", {"metadata": {"thread_id": "7"}}
            )
            list(llm.stream("Hi", stream_usage=True))
            provider_server.reply = Reply(status=401)
            with pytest.raises(Exception, match="Incorrect API key"):
                without_retries(llm).invoke("Hi")
    finally:
        context.detach(token)
    for provider in (tracer_provider, meter_provider, logger_provider):
        provider.force_flush()
    return telemetry


def by_scope(requests: Iterable[Any], signal: str) -> dict[str, list[Any]]:
    """Return the spans, metrics or log records of each scope, after checking what they have in common."""
    resources, scopes, items = {
        "traces": ("resource_spans", "scope_spans", "spans"),
        "metrics": ("resource_metrics", "scope_metrics", "metrics"),
        "logs": ("resource_logs", "scope_logs", "log_records"),
    }[signal]
    found: dict[str, list[Any]] = {}
    for request in requests:
        for of_resource in getattr(request, resources):
            assert received_attributes(of_resource.resource.attributes) == held_value(RESOURCE.attributes)
            assert of_resource.schema_url == RESOURCE.schema_url
            for of_scope in getattr(of_resource, scopes):
                if of_scope.scope.name == SCOPE:
                    assert of_scope.scope.version == __version__
                    assert of_scope.schema_url == SCHEMA
                    assert list(of_scope.scope.attributes) == []
                found.setdefault(of_scope.scope.name, []).extend(getattr(of_scope, items))
    return found


def test_every_span_arrives_as_the_sdk_held_it(sent: Telemetry, receiver: Receiver) -> None:
    received = by_scope(receiver.take("traces"), "traces")
    assert set(received) == {SCOPE, "tests", "opentelemetry.instrumentation.httpx"}
    arrived = [received_span(span) for spans in received.values() for span in spans]
    assert sorted(arrived, key=lambda span: span["start"]) == [held_span(span) for span in sent.spans()]

    (request,) = received["tests"]
    (handed_out, plain, streamed, failed) = sorted(received[SCOPE], key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in (handed_out, plain, streamed, failed)] == [GET_LLM, MODEL, MODEL, MODEL]
    assert handed_out.kind == Span.SPAN_KIND_INTERNAL
    assert list(handed_out.links) == []
    for span in (plain, streamed, failed):
        assert span.kind == Span.SPAN_KIND_CLIENT
        assert (span.trace_id, span.parent_span_id) == (request.trace_id, request.span_id)
        assert [(link.trace_id, link.span_id) for link in span.links] == [(handed_out.trace_id, handed_out.span_id)]
        requests = received["opentelemetry.instrumentation.httpx"]
        assert [post.name for post in requests if post.parent_span_id == span.span_id] == ["POST"]
    assert [event.name for event in streamed.events] == ["modelforge.chunk"]
    assert [event.name for event in failed.events] == ["exception"]
    assert (plain.status.code, streamed.status.code) == (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_UNSET)
    assert failed.status.code == Status.STATUS_CODE_ERROR
    assert failed.status.message == "openai.AuthenticationError: 401 invalid_api_key"


DOCUMENTED_TYPES = {"string": "str", "int": "int", "double": "float", "boolean": "bool", "string[]": ["str"]}


def documented_types() -> dict[str, Any]:
    """Return the type that docs/telemetry.md states for each attribute."""
    types: dict[str, Any] = {}
    for row in (DOCS / "telemetry.md").read_text().splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        kinds = cells[1].split(", ") if len(cells) == 3 else []
        if row.startswith("| `") and kinds[:1] and kinds[0] in DOCUMENTED_TYPES:
            names = re.findall(r"`([\w.]+)`", cells[0])
            types |= {name: DOCUMENTED_TYPES[kinds[min(at, len(kinds) - 1)]] for at, name in enumerate(names)}
    return types


def test_attributes_arrive_with_their_documented_types(sent: Telemetry, receiver: Receiver) -> None:
    documented = documented_types()
    arrived: dict[str, Any] = {}
    for span in by_scope(receiver.take("traces"), "traces")[SCOPE]:
        for name, value in received_attributes(span.attributes).items():
            arrived[name] = [value[0][0]] if isinstance(value, list) else value[0]
    given = {"team": "str", "tier": "int", "share": "float", "beta": "bool", "regions": ["str"], "tenant": "str"}
    assert {name: kind for name, kind in arrived.items() if name in given} == given
    ours = {name: kind for name, kind in arrived.items() if name not in given}
    assert ours == {name: documented[name] for name in ours}
    assert len(ours) >= 25


def test_every_metric_arrives_as_the_sdk_held_it(
    sent: Telemetry, receiver: Receiver, exported_metrics: list[Any]
) -> None:
    received = by_scope(receiver.take("metrics"), "metrics")
    (data,) = exported_metrics
    held = {
        scope.scope.name: {metric.name: held_metric(metric) for metric in scope.metrics}
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
    }
    assert {
        name: {metric.name: received_metric(metric) for metric in metrics} for name, metrics in received.items()
    } == held

    ours = {metric.name: metric for metric in received[SCOPE]}
    in_memory = sent.metrics()
    assert set(ours) == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.token.usage",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.operation.time_per_output_chunk",
        "gen_ai.client.operation.cost",
        "modelforge.client.active_streams",
    }
    model_spans = {span.context.span_id for span in sent.spans() if span.name == MODEL}
    for name, metric in ours.items():
        points = received_metric(metric)["points"]
        assert [point["attributes"] for point in points] == [held_value(point.attributes) for point in in_memory[name]]
        for point in points:
            assert {span for _, span, *_ in point["exemplars"]} <= model_spans
            if name != "modelforge.client.active_streams":
                assert point["exemplars"] != []
    assert [point["value"] for point in received_metric(ours["modelforge.client.active_streams"])["points"]] == [
        ("int", 0)
    ]


def test_every_event_arrives_as_the_sdk_held_it(sent: Telemetry, receiver: Receiver) -> None:
    received = by_scope(receiver.take("logs"), "logs")
    assert set(received) == {SCOPE}
    assert [received_log(record) for record in received[SCOPE]] == [held_log(record) for record in sent.logs()]

    calls = [span for span in sent.spans() if span.name == MODEL]
    for record, span in zip(received[SCOPE], calls, strict=True):
        assert record.event_name == "gen_ai.client.inference.operation.details"
        assert (number(record.trace_id), number(record.span_id)) == (span.context.trace_id, span.context.span_id)
        # The body is present but empty.
        assert record.body.WhichOneof("value") is None
        attributes = received_attributes(record.attributes)
        said = {"type": ("str", "text"), "content": ("str", "Hi")}
        assert attributes["gen_ai.input.messages"] == [{"role": ("str", "user"), "parts": [said]}]
    first, _, last = (received_attributes(record.attributes) for record in received[SCOPE])
    assert [tool["name"] for tool in first["gen_ai.tool.definitions"]] == [("str", "look_up")]
    assert first["gen_ai.tool.definitions"][0]["parameters"]["type"] == ("str", "object")
    assert [message["finish_reason"] for message in first["gen_ai.output.messages"]] == [("str", "tool_calls")] * 2
    assert last["error.type"] == ("str", "openai.AuthenticationError")


def test_headers_arrive(sent: Telemetry, receiver: Receiver) -> None:
    assert [metadata["x-a"] for metadata in receiver.metadata() if "x-a" in metadata] == ["b"]


CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA


@pytest.mark.parametrize(
    ("settings", "kind", "temporality"),
    [
        ({}, "histogram", CUMULATIVE),
        ({"TEMPORALITY_PREFERENCE": "delta"}, "histogram", DELTA),
        (
            {
                "TEMPORALITY_PREFERENCE": "delta",
                "DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
            },
            "exponential_histogram",
            DELTA,
        ),
    ],
    ids=["default", "delta", "exponential"],
)
def test_metrics_arrive_in_the_requested_form(
    settings: Mapping[str, str],
    kind: str,
    temporality: int,
    receiver: Receiver,
    registry: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    for name, value in settings.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_METRICS_{name}", value)
    exporter = receiver.exporter("http", "metric_exporter", "OTLPMetricExporter")
    provider = MeterProvider([PeriodicExportingMetricReader(exporter, NEVER)], RESOURCE, shutdown_on_exit=False)
    ModelForgeInstrumentor().instrument(meter_provider=provider, skip_dep_check=True)
    try:
        list(get_llm(registry, "openai", "gpt-4o-mini").stream("Hi", stream_usage=True))
        provider.force_flush()
    finally:
        ModelForgeInstrumentor().uninstrument()
        provider.shutdown()
    for metric in by_scope(receiver.take("metrics"), "metrics")[SCOPE]:
        data = getattr(metric, metric.WhichOneof("data"))
        if metric.name == "modelforge.client.active_streams":
            # This is the current number, even if all other metrics are deltas.
            assert (metric.WhichOneof("data"), data.aggregation_temporality) == ("sum", CUMULATIVE)
        else:
            assert (metric.WhichOneof("data"), data.aggregation_temporality) == (kind, temporality)


# --- The limits of backends ---

NEW_RELIC = "docs.newrelic.com/docs/opentelemetry/best-practices/opentelemetry-otlp"
NEW_RELIC_EVENTS = "docs.newrelic.com/docs/data-apis/ingest-apis/event-api/introduction-event-api"
TEMPO = "grafana.com/docs/tempo/latest/troubleshooting/out-of-memory-errors"
# Jaeger 2 is a Collector, and uses the Collector's OTLP receiver.
GRPC = "pkg.go.dev/google.golang.org/grpc#MaxRecvMsgSize"
SDK = "opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables"

LIMITS = {
    ("New Relic", "characters of a name"): (255, NEW_RELIC),
    ("New Relic", "characters of a value"): (4095, NEW_RELIC),
    ("New Relic", "entries of an array"): (64, NEW_RELIC),
    ("New Relic", "attributes"): (255, NEW_RELIC_EVENTS),
    ("New Relic", "bytes of a request"): (1_000_000, NEW_RELIC),
    ("Jaeger", "bytes of a request"): (4 * 1024 * 1024, GRPC),
    ("Tempo", "bytes of a value"): (2048, TEMPO),
    ("SDK", "attributes"): (128, SDK),
    ("SDK", "events"): (128, SDK),
}
"""The most that a backend accepts of each quantity measured below, and the source."""

LONG = "What the seventh heron said to the windmill, word for word. " * 500
"""30,000 characters."""
BAGGAGE_BYTES = 8192
"""The most that propagators have to carry (www.w3.org/TR/baggage)."""
CHUNKS = 200
HISTORY = [HumanMessage(LONG), AIMessage(LONG)] * 2 + [HumanMessage(LONG)]


def text_of(value: AnyValue) -> Iterator[str]:
    if value.WhichOneof("value") == "array_value":
        for item in value.array_value.values:
            yield from text_of(item)
    elif value.HasField("string_value"):
        yield value.string_value


def measured(spans: Iterable[Span]) -> dict[tuple[str, str], int]:
    """Return the maximum of each limited quantity, by quantity and place."""
    found: dict[tuple[str, str], int] = {}

    def measure(what: str, where: str, size: int) -> None:
        found[what, where] = max(found.get((what, where), 0), size)

    for span in spans:
        measure("bytes of a request", span.name, span.ByteSize())
        measure("events", span.name, len(span.events))
        # New Relic stores it as the attribute otel.status_description.
        measure("characters of a value", "status", len(span.status.message))
        for carrier in (span, *span.events, *span.links):
            measure("attributes", span.name, len(carrier.attributes))
            for pair in carrier.attributes:
                measure("characters of a name", pair.key, len(pair.key))
                measure("entries of an array", pair.key, len(pair.value.array_value.values))
                for text in text_of(pair.value):
                    measure("characters of a value", pair.key, len(text))
                    measure("bytes of a value", pair.key, len(text.encode()))
    return found


def exceeded(spans: Iterable[Span], backend: str) -> dict[str, set[str]]:
    """Return which of the backend's limits are exceeded, and where."""
    beyond: dict[str, set[str]] = {}
    for (what, where), size in measured(spans).items():
        if (backend, what) in LIMITS and size > LIMITS[backend, what][0]:
            beyond.setdefault(what, set()).add(where)
    return beyond


@pytest.fixture
def largest(
    receiver: Receiver, registry: Any, provider_server: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Span]]:
    """Call it with options and environment variables to get the spans of the largest possible calls."""
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    def largest(content: str = "NO_CONTENT", environment: Mapping[str, str] = {}, **options: Any) -> list[Span]:
        monkeypatch.setenv(CAPTURE, content)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
        provider.add_span_processor(
            BatchSpanProcessor(receiver.exporter("http", "trace_exporter", "OTLPSpanExporter", compression=gzip()))
        )
        attributes = {f"label.{index}": "x" * 50 for index in range(50)}
        ModelForgeInstrumentor().instrument(
            tracer_provider=provider,
            skip_dep_check=True,
            attributes=attributes,
            baggage_keys=["tenant"],
            chunk_events="all",
            **options,
        )
        token = context.attach(baggage.set_baggage("tenant", "x" * BAGGAGE_BYTES))
        try:
            llm = without_retries(get_llm(registry, "openai", "gpt-4o-mini"))
            provider_server.reply = Reply(chunks=[LONG[:300]] * CHUNKS)
            list(llm.stream(HISTORY, stream_usage=True))
            provider_server.reply = Reply(status=400, error_body={"error": {"message": f"Too long: {'y ' * 10_000}"}})
            with pytest.raises(Exception, match="Too long"):
                llm.bind_tools([TOOL] * 20).invoke(HISTORY)
            provider.force_flush()
        finally:
            context.detach(token)
            ModelForgeInstrumentor().uninstrument()
            provider.shutdown()
        return by_scope(receiver.take("traces"), "traces")[SCOPE]

    return largest


def gzip() -> Any:
    from opentelemetry.exporter.otlp.proto.http import Compression

    return Compression.Gzip


def test_without_content_only_baggage_is_long(largest: Callable[..., list[Span]]) -> None:
    spans = largest()
    assert exceeded(spans, "New Relic") == {"characters of a value": {"tenant"}}
    assert exceeded(spans, "Tempo") == {"bytes of a value": {"tenant"}}
    assert exceeded(spans, "Jaeger") == {}
    assert exceeded(spans, "SDK") == {}


def test_error_messages_are_long_if_requested(largest: Callable[..., list[Span]]) -> None:
    spans = largest(error_messages="full")
    said = {"exception.message", "exception.stacktrace", "tenant"}
    assert exceeded(spans, "New Relic") == {"characters of a value": said | {"status"}}
    assert exceeded(spans, "Tempo") == {"bytes of a value": said}
    assert exceeded(spans, "Jaeger") == {}
    assert exceeded(spans, "SDK") == {}


def test_the_sdk_keeps_the_last_chunks(largest: Callable[..., list[Span]]) -> None:
    (streamed,) = [span for span in largest() if len(span.events) > 1]
    indexes = [event.attributes[0].value.int_value for event in streamed.events]
    arrived = received_attributes(streamed.attributes)["modelforge.response.chunk_count"][1]
    assert arrived > CHUNKS
    assert indexes == list(range(arrived - 128, arrived))
    assert streamed.dropped_events_count == arrived - 128


def test_content_is_as_long_as_the_conversation(largest: Callable[..., list[Span]]) -> None:
    spans = largest("SPAN_ONLY")
    content = {"gen_ai.input.messages", "gen_ai.output.messages"}
    for backend, what in (("New Relic", "characters of a value"), ("Tempo", "bytes of a value")):
        assert content <= exceeded(spans, backend)[what]
    assert exceeded(spans, "SDK") == {}
    (streamed,) = [span for span in spans if len(span.events) > 1]
    sent = received_attributes(streamed.attributes)["gen_ai.input.messages"][1]
    assert [message["parts"][0]["content"] for message in json.loads(sent)] == [LONG] * len(HISTORY)


@pytest.mark.parametrize(
    ("backend", "limit", "left"),
    # No SDK setting truncates the status description.
    [("New Relic", 4095, {"characters of a value": {"status"}}), ("Tempo", 2048, {})],
)
def test_the_sdks_limit_applies_to_every_attribute_and_truncates_json(
    backend: str, limit: int, left: Mapping[str, set[str]], largest: Callable[..., list[Span]]
) -> None:
    spans = largest("SPAN_ONLY", {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": str(limit)})
    assert exceeded(spans, backend) == left
    for span in spans:
        if span.name == MODEL:
            messages = received_attributes(span.attributes)["gen_ai.input.messages"][1]
            assert len(messages) == limit
            with pytest.raises(json.JSONDecodeError):
                json.loads(messages)


def test_the_sdks_limit_for_spans_does_not_affect_events(largest: Callable[..., list[Span]]) -> None:
    spans = largest("SPAN_ONLY", {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4095"})
    assert exceeded(spans, "New Relic") == {
        "characters of a value": {"exception.message", "exception.stacktrace", "status"}
    }


def test_max_content_length_limits_each_part_and_keeps_json_valid(largest: Callable[..., list[Span]]) -> None:
    spans = largest("SPAN_ONLY", max_content_length=500)
    beyond = exceeded(spans, "New Relic")["characters of a value"]
    # The definitions of twenty tools are not truncated.
    assert beyond & {"gen_ai.input.messages", "gen_ai.output.messages"} == set()
    for span in spans:
        if span.name == MODEL:
            messages = json.loads(received_attributes(span.attributes)["gen_ai.input.messages"][1])
            assert [message["parts"][0]["content"] for message in messages] == [f"{LONG[:499]}…"] * len(HISTORY)


def test_a_batch_fits_into_a_request(largest: Callable[..., list[Span]]) -> None:
    """With the settings of docs/backends.md."""
    spans = largest("SPAN_ONLY", {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4095"})
    largest_span = max(span.ByteSize() for span in spans)
    assert largest_span * 512 > LIMITS["New Relic", "bytes of a request"][0]
    assert largest_span * 16 < LIMITS["New Relic", "bytes of a request"][0]
    assert largest_span * 64 < LIMITS["Jaeger", "bytes of a request"][0]


def test_span_names_do_not_depend_on_content(largest: Callable[..., list[Span]]) -> None:
    assert {span.name for span in largest("SPAN_ONLY")} == {GET_LLM, MODEL}
    assert {span.name for span in largest("SPAN_ONLY", span_names="semconv")} == {GET_LLM, "chat gpt-4o-mini"}
