# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Faults of the collector: calls continue, and only the spans that the SDK itself gave up on are lost."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any

import grpc
import pytest
from modelforge import ModelForgeRegistry
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GRPCSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import add_TraceServiceServicer_to_server
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from support.calls import TIMEOUT
from support.environment import at_least
from support.faults import Application, Gate, Ledger, instrumented, unaffected
from support.providers import HOST, ProviderServer
from support.services import Collector

pytestmark = pytest.mark.usefixtures("nothing_left")

NEVER = 600_000
"""Milliseconds after which a batch is exported even if it is not full."""
BATCH = 4
DURATION = "gen_ai.client.operation.duration"
STREAMS = "modelforge.client.active_streams"


# --- The collector ---


class Port:
    """A reserved port of the loopback interface, which refuses connections unless a server listens there."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((HOST, 0))
        self.number: int = self._socket.getsockname()[1]

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class FlakyCollector(Collector):
    """A collector that can stop and come back, and whose answers `answer` defines."""

    allow_reuse_port = True

    def __init__(self, port: Port) -> None:
        self._port = port.number
        self.answer: Callable[[Post], None] = accept
        self.gate = Gate()
        self.records: Counter[str] = Counter()
        """How often each log record has arrived, by its span's id."""
        super().__init__()
        self.RequestHandlerClass = Post
        self._serve()

    def server_bind(self) -> None:
        self.server_address = (HOST, self._port)
        super().server_bind()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log exporters that give up waiting, which are part of the tests."""

    def receive(self, path: str, body: bytes) -> bool:
        if path == "/v1/logs":
            request = ExportLogsServiceRequest.FromString(body)
            self.records.update(
                record.span_id.hex()
                for resource in request.resource_logs
                for scope in resource.scope_logs
                for record in scope.log_records
            )
        return super().receive(path, body)

    @property
    def arrived(self) -> Counter[str]:
        """How often each span has arrived, by its id."""
        return Counter(span.span_id for span in self.spans)

    def go_away(self) -> None:
        self.shutdown()
        self.server_close()

    def come_back(self) -> None:
        self.socket = socket.socket()
        self.server_bind()
        self.server_activate()
        self._serve()

    def _serve(self) -> None:
        # The poll interval determines how long shutdown() takes.
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Post(BaseHTTPRequestHandler):
    """A request of an exporter."""

    server: FlakyCollector

    def do_POST(self) -> None:
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def read(self, share: float = 1) -> bytes:
        return self.rfile.read(int(int(self.headers["Content-Length"]) * share))

    def respond(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def accept(post: Post) -> None:
    post.server.receive(post.path, post.read())
    post.respond(200)


def stall(post: Post) -> None:
    post.server.gate.hold()
    accept(post)


def never_answer(post: Post) -> None:
    post.server.gate.hold()
    post.reset()


def die_after_the_header(post: Post) -> None:
    post.reset()


def die_in_the_body(post: Post) -> None:
    post.read(0.5)
    post.reset()


def die_before_the_answer(post: Post) -> None:
    post.read()
    post.reset()


def refuse_with(status: int, retry_after: str = "0") -> Callable[[Post], None]:
    def refuse(post: Post) -> None:
        post.read()
        post.respond(status, Retry_After=retry_after)

    return refuse


# --- The SDK in front of it ---


class Exporter(SpanExporter):
    """Records whether each span that the SDK passes to an exporter is sent or lost."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.sent: set[str] = set()
        self.lost: set[str] = set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        ids = {f"{span.context.span_id:016x}" for span in spans if span.context is not None}
        (self.sent if result is SpanExportResult.SUCCESS else self.lost).update(ids)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class Tracing:
    """A tracer provider that exports in batches, and the spans that it received."""

    def __init__(self, exporter: SpanExporter, **options: Any) -> None:
        self.ledger = Ledger()
        self.exporter = Exporter(exporter)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.ledger)
        options = {"schedule_delay_millis": NEVER, "max_export_batch_size": BATCH, **options}
        self.provider.add_span_processor(BatchSpanProcessor(self.exporter, **options))

    @property
    def started(self) -> set[str]:
        return {f"{span_id:016x}" for span_id in self.ledger.started}


class Backoff:
    """Replaces the random factor by which all exporters multiply the delay before the next attempt."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._drawn: Counter[int] = Counter()
        self.attempts: int | None = None
        """The number of attempts after which the exporter is held at the gate. None: it retries immediately."""

    def __call__(self, low: float, high: float) -> float:
        if self.attempts is not None:
            thread = threading.get_ident()
            if self._drawn[thread] == self.attempts:
                self._gate.hold()
            self._drawn[thread] += 1
        return 0


@pytest.fixture
def port() -> Iterator[Port]:
    with Port() as port:
        yield port


@pytest.fixture
def collector(port: Port) -> Iterator[FlakyCollector]:
    collector = FlakyCollector(port)
    yield collector
    collector.gate.open()
    collector.go_away()


@pytest.fixture
def backoff(collector: FlakyCollector, monkeypatch: pytest.MonkeyPatch) -> Backoff:
    backoff = Backoff(collector.gate)
    monkeypatch.setattr(random, "uniform", backoff)
    return backoff


@pytest.fixture
def application(registry: ModelForgeRegistry, provider_server: ProviderServer) -> Application:
    return Application(registry, provider_server)


# --- Temporary faults ---

PASSING: dict[str, Any] = {
    "refuses": FlakyCollector.go_away,
    "stalls": stall,
    "429": refuse_with(429),
    "503": refuse_with(503),
    "dies after the header": die_after_the_header,
    "dies in the body": die_in_the_body,
    "dies before the answer": die_before_the_answer,
}


@pytest.mark.parametrize("fault", PASSING)
def test_calls_continue_while_a_collector_fails_and_all_telemetry_arrives_once_it_works(
    collector: FlakyCollector,
    backoff: Backoff,
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    if fault == "429" and not at_least("opentelemetry-exporter-otlp-proto-http", "1.44"):
        pytest.skip("this exporter does not try again after a 429")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")
    url = collector.endpoint
    tracing = Tracing(OTLPSpanExporter(f"{url}/v1/traces", timeout=TIMEOUT))
    meter_provider = MeterProvider(
        [PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/v1/metrics", timeout=TIMEOUT), 50)],
        shutdown_on_exit=False,
    )
    logger_provider = LoggerProvider(shutdown_on_exit=False)
    logger_provider.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(f"{url}/v1/logs", timeout=TIMEOUT), NEVER, max_export_batch_size=BATCH)
    )
    check = unaffected(application)
    with instrumented(tracer_provider=tracing.provider, meter_provider=meter_provider, logger_provider=logger_provider):
        check()
        for provider in (tracing.provider, logger_provider):
            provider.force_flush()
        assert len(collector.arrived) == application.spans

        if fault == "refuses":
            collector.go_away()
        else:
            collector.answer = PASSING[fault]
        backoff.attempts = 1
        check()
        # The exporters of traces, metrics and logs, each in its own thread.
        collector.gate.wait_for(3)
        check()
        assert len(tracing.exporter.sent) == application.spans
        assert tracing.exporter.lost == set()

        if fault == "refuses":
            collector.come_back()
        collector.answer = accept
        collector.gate.open()
        for provider in (tracing.provider, meter_provider, logger_provider):
            provider.force_flush()
    application.check_forgotten()
    tracing.ledger.check(3 * application.spans)
    assert collector.arrived == dict.fromkeys(tracing.started, 1)
    assert set(collector.records.values()) == {1}
    assert collector.records.total() == 3 * application.calls
    metrics = {metric.name: metric.points for metric in collector.metrics}
    assert sum(point.count or 0 for point in metrics[DURATION]) == 3 * application.calls
    assert sum(point.total for point in metrics[STREAMS]) == 0
    for provider in (tracing.provider, meter_provider, logger_provider):
        provider.shutdown()


# --- Permanent faults ---

LASTING: dict[str, Any] = {
    "refuses": FlakyCollector.go_away,
    "does not answer in time": never_answer,
    "429, to try again much later": refuse_with(429, retry_after="1000"),
    "503, as often as it is asked": refuse_with(503),
    "dies, as often as it is asked": die_in_the_body,
    "400": refuse_with(400),
}


@pytest.mark.usefixtures("backoff")
@pytest.mark.parametrize("fault", LASTING)
def test_only_spans_that_the_exporter_gave_up_on_are_lost(
    collector: FlakyCollector, application: Application, fault: str
) -> None:
    timeout = 0.1 if fault == "does not answer in time" else TIMEOUT
    tracing = Tracing(OTLPSpanExporter(f"{collector.endpoint}/v1/traces", timeout=timeout))
    check = unaffected(application)
    with instrumented(tracer_provider=tracing.provider):
        if fault == "refuses":
            collector.go_away()
        else:
            collector.answer = LASTING[fault]
        check()
        tracing.provider.force_flush()
        assert tracing.exporter.lost == tracing.started
        assert len(tracing.exporter.lost) == application.spans

        if fault == "refuses":
            collector.come_back()
        collector.answer = accept
        check()
        tracing.provider.force_flush()
    application.check_forgotten()
    tracing.ledger.check(2 * application.spans)
    assert tracing.exporter.sent == tracing.started - tracing.exporter.lost
    assert len(tracing.exporter.sent) == application.spans
    assert collector.arrived == dict.fromkeys(tracing.exporter.sent, 1)
    tracing.provider.shutdown()


# --- A full queue ---


def test_a_full_queue_loses_only_the_spans_that_the_sdk_reports_as_dropped(
    collector: FlakyCollector, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    sdk = InMemoryMetricReader()
    sdk_provider = MeterProvider([sdk], shutdown_on_exit=False)
    tracing = Tracing(
        OTLPSpanExporter(f"{collector.endpoint}/v1/traces", timeout=TIMEOUT),
        max_queue_size=BATCH,
        meter_provider=sdk_provider,
    )
    collector.answer = stall
    check = unaffected(application)
    with instrumented(tracer_provider=tracing.provider):
        with tracing.provider.get_tracer("tests").start_as_current_span("first"):
            pass
        flush = ThreadPoolExecutor(1).submit(tracing.provider.force_flush)
        collector.gate.wait_for()
        for _ in range(2):
            check()
        collector.gate.open()
        assert flush.result(TIMEOUT)
        tracing.provider.force_flush()
    application.check_forgotten()
    started = 1 + 2 * application.spans
    tracing.ledger.check(started)
    # The first span, and the last spans, which filled the queue.
    assert collector.arrived == dict.fromkeys(tracing.exporter.sent, 1)
    assert len(tracing.exporter.sent) == 1 + BATCH
    (processed,) = (
        metric
        for resource in sdk.get_metrics_data().resource_metrics  # type: ignore[union-attr]
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "otel.sdk.processor.span.processed"
    )
    dropped = [
        point.value for point in processed.data.data_points if point.attributes.get("error.type") == "queue_full"
    ]
    assert dropped == [started - len(tracing.exporter.sent)]
    tracing.provider.shutdown()
    sdk_provider.shutdown()


# --- Over gRPC ---


class TraceService:
    """A collector that aborts with `code`, unless that is None."""

    def __init__(self, code: grpc.StatusCode | None) -> None:
        self.code = code
        self.arrived: Counter[str] = Counter()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self.code is not None:
            context.abort(self.code, "not now")
        self.arrived.update(
            span.span_id.hex()
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        )
        return ExportTraceServiceResponse()


@contextlib.contextmanager
def serving_grpc(service: TraceService, port: Port) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(1))
    add_TraceServiceServicer_to_server(service, server)
    server.add_insecure_port(f"{HOST}:{port.number}")
    server.start()
    try:
        yield
    finally:
        server.stop(grace=None).wait()


@pytest.mark.parametrize("fault", [None, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED], ids=str)
def test_calls_continue_while_a_collector_fails_over_grpc(
    port: Port, application: Application, monkeypatch: pytest.MonkeyPatch, fault: grpc.StatusCode | None
) -> None:
    gate = Gate()
    backoff = Backoff(gate)
    backoff.attempts = 0
    monkeypatch.setattr(random, "uniform", backoff)
    # Otherwise a new channel to the same address waits as long as the previous one would have.
    options = (("grpc.use_local_subchannel_pool", 1),)
    tracing = Tracing(GRPCSpanExporter(f"http://{HOST}:{port.number}", timeout=TIMEOUT, channel_options=options))
    service = TraceService(fault)
    check = unaffected(application)
    with instrumented(tracer_provider=tracing.provider), contextlib.ExitStack() as stack:
        # Without a fault, no server is started, so connections are refused.
        if fault is not None:
            stack.enter_context(serving_grpc(service, port))
        check()
        gate.wait_for()
        check()
        assert tracing.exporter.sent | tracing.exporter.lost == set()

        service.code = None
        if fault is None:
            stack.enter_context(serving_grpc(service, port))
        gate.open()
        tracing.provider.force_flush()
        application.check_forgotten()
        tracing.ledger.check(2 * application.spans)
        assert service.arrived == dict.fromkeys(tracing.started, 1)
        tracing.provider.shutdown()
