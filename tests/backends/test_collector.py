# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""The Collector of docs/collector.md: each rule of its configuration works as the page describes.

Jaeger's program has all the components, so it is the Collector here. OpenTelemetry's own is tested if installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shutil
import signal
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import StatusCode

from examples._shared.local import serving
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback
from support import DOCS
from support.jaeger import CollectorProgram
from support.models import OPENROUTER_KEY
from support.programs import until
from support.providers import ProviderServer, Reply
from support.services import HOST, MODEL, TIMEOUT, Span, Traces, free_port, named

CONFIGURATION = DOCS / "collector" / "collector.yaml"
PROGRAMS = [name for name in ("jaeger", "otelcol-contrib") if shutil.which(name)]
if not PROGRAMS:
    pytest.skip("jaeger is not installed, nor is otelcol-contrib", allow_module_level=True)

SECOND = 10**9
COUNT = 30
"""The number of traces of each kind."""
SERVICE = "shop"
CONTENT = "What is worn in Lisbon?"
USER = "u-7"


class SeededIds(IdGenerator):
    """The same ids each time, because trace ids determine which tenth of the traces is kept."""

    def __init__(self) -> None:
        self._random = random.Random(0)

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1


class Backend(Traces):
    """The receiver behind the Collector, which counts requests."""

    def __init__(self) -> None:
        super().__init__()
        self.request_count = 0

    def receive(self, path: str, body: bytes) -> bool:
        self.request_count += path == "/v1/traces"
        return super().receive(path, body)


class Run:
    """The backend's traces, by the kind that the name of their first span contains, and the metrics."""

    def __init__(self, backend: Backend, metrics: str) -> None:
        self.request_count = backend.request_count
        self.kept: defaultdict[str, list[list[Span]]] = defaultdict(list)
        for spans in backend.traces.values():
            (first,) = [span for span in spans if not span.parent_id]
            self.kept[first.name].append(spans)
        self.metrics = metrics


@pytest.fixture(scope="module", params=PROGRAMS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Send traces of each kind through the Collector, and read the backend after all decisions are made."""
    grpc, http, prometheus = (free_port() for _ in range(3))
    backend = Backend()
    with serving(backend), ProviderServer() as server:
        collector = CollectorProgram(
            str(shutil.which(request.param)),
            [http, prometheus],
            tmp_path_factory.mktemp("collector") / "collector",
            CONFIGURATION,
            # Other addresses, and delays short enough for a test.
            {
                "receivers": {
                    "otlp": {
                        "protocols": {
                            "grpc": {"endpoint": f"{HOST}:{grpc}"},
                            "http": {"endpoint": f"{HOST}:{http}"},
                        }
                    }
                },
                "processors": {"tail_sampling": {"decision_wait": "2s"}},
                "connectors": {"spanmetrics": {"metrics_flush_interval": "200ms"}},
                "exporters": {
                    "otlphttp": {"endpoint": backend.endpoint},
                    "prometheus": {"endpoint": f"{HOST}:{prometheus}"},
                },
                "service": {"telemetry": {"metrics": {"level": "none"}}},
            },
        )
        try:
            collector.wait()
            sent = _send(f"http://{HOST}:{http}", server, backend)
            metrics = until(lambda: _metrics(prometheus, sent))
            # It delivers the decided traces before it ends.
            collector.stop(signal.SIGTERM)
        finally:
            if collector.process.poll() is None:
                collector.stop()
        yield Run(backend, metrics)


def _metrics(port: int, call_count: int) -> str | None:
    """Return the Collector's page for Prometheus once it counts this many calls."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=TIMEOUT) as response:
        page = response.read().decode()
    counts = re.findall(r"^traces_span_metrics_calls_total\{.*\} (\d+)$", page, re.MULTILINE)
    return page if sum(map(int, counts)) == call_count else None


# --- What is sent ---


def _send(endpoint: str, server: ProviderServer, backend: Backend) -> int:
    """Send traces of each kind, and return the number of model calls once the Collector has decided on all."""
    provider = TracerProvider(
        id_generator=SeededIds(), resource=Resource({"service.name": SERVICE}), shutdown_on_exit=False
    )
    # Send each span in a separate request.
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    tracer = provider.get_tracer("shop")
    llm = ChatOpenAI(
        api_key=OPENROUTER_KEY,
        base_url=f"{server.url}/api/v1",
        callbacks=[OpenTelemetryCallback("openrouter", "qwen/qwen3-coder")],
        max_retries=0,
        model="qwen/qwen3-coder",
    )

    def call(kind: str, **reply: Any) -> None:
        server.reply = Reply(**reply)
        with tracer.start_as_current_span(kind), contextlib.suppress(Exception):
            llm.invoke(CONTENT)

    def lasting(kind: str, seconds: float, **attributes: str) -> None:
        span = tracer.start_span(kind, attributes={"user.id": USER, **attributes}, start_time=SECOND)
        span.end(SECOND + round(seconds * SECOND))

    model_call = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "slow"}
    kinds: dict[str, Callable[[str], None]] = {
        "cheap call": lambda kind: call(kind, cost=0.049),
        "costly call": lambda kind: call(kind, cost=0.05, cache_write_tokens=3),
        "failed call": lambda kind: call(kind, status=500),
        "quick call": lambda kind: lasting(kind, 9.999, **model_call),
        "slow call": lambda kind: lasting(kind, 10, **model_call),
        "slow job": lambda kind: lasting(kind, 3600),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
        ModelForgeInstrumentor().instrument(
            tracer_provider=provider, attributes={"user.id": USER}, error_messages="safe", skip_dep_check=True
        )
        try:
            for kind, send in kinds.items():
                for _ in range(COUNT):
                    send(kind)
        finally:
            ModelForgeInstrumentor().uninstrument()

    with tracer.start_as_current_span("late failure", end_on_exit=False) as late:
        tracer.start_span("early").end()
    # Decisions are made in the order in which traces began, so this one is the last.
    lasting("last", 10, **model_call)
    until(lambda: True if _has(backend, "last") else None)
    late.set_status(StatusCode.ERROR)
    late.end()
    return 5 * COUNT + 1


def _has(backend: Backend, name: str) -> bool:
    return any(named(spans, name) for spans in backend.traces.values())


# --- The rules ---


@pytest.mark.parametrize("kind", ["failed call", "slow call", "costly call"])
def test_traces_with_a_failed_a_slow_or_a_costly_call_are_kept(run: Run, kind: str) -> None:
    assert len(run.kept[kind]) == COUNT


@pytest.mark.parametrize("kind", ["quick call", "cheap call", "slow job"])
def test_a_tenth_of_the_rest_is_kept(run: Run, kind: str) -> None:
    assert 0 < len(run.kept[kind]) < COUNT / 3


def test_a_trace_is_kept_whole(run: Run) -> None:
    for kind in ("failed call", "costly call", "cheap call"):
        names = Counter(tuple(sorted(span.name for span in spans)) for spans in run.kept[kind])
        assert names == {tuple(sorted((kind, MODEL))): len(run.kept[kind])}


def test_a_failure_that_arrives_after_the_decision_changes_nothing(run: Run) -> None:
    assert run.kept["late failure"] == []


def test_content_is_removed_and_users_are_hashed(run: Run) -> None:
    hashes = {hashlib.new(name, USER.encode()).hexdigest() for name in ("sha1", "sha256")}
    calls = [span for spans in run.kept["costly call"] for span in named(spans, MODEL)]
    assert len(calls) == COUNT
    for span in calls:
        assert span.attributes["user.id"] in hashes
        assert [name for name in span.attributes if name.endswith(("messages", "instructions", "definitions"))] == []
        assert CONTENT not in str(span.attributes)
        # Attributes that the rule does not name are kept.
        assert span.attributes["gen_ai.usage.cost.amount"] == 0.05
        assert span.attributes["gen_ai.usage.input_tokens"] == 11


def test_cost_and_cache_are_repeated_under_the_names_that_backends_read(run: Run) -> None:
    for spans in run.kept["costly call"]:
        (call,) = named(spans, MODEL)
        assert call.attributes["gen_ai.usage.cost"] == 0.05
        assert call.attributes["gen_ai.usage.cache_write.input_tokens"] == 3
        assert call.attributes["gen_ai.usage.cache_creation.input_tokens"] == 3


def test_spans_are_sent_in_batches(run: Run) -> None:
    traces = sum(map(len, run.kept.values()))
    assert traces > 3 * COUNT
    # The tracer sent each span in a separate request.
    assert run.request_count < traces / 3


def test_all_model_calls_are_measured_by_model(run: Run) -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    for labels, count in re.findall(r"^traces_span_metrics_calls_total\{(.*)\} (\d+)$", run.metrics, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert named["service_name"] == SERVICE
        counts[named["gen_ai_request_model"], named.get("error_type", ""), named["status_code"]] += int(count)
    # Including calls whose traces were not kept, and no other spans.
    assert counts == {
        ("qwen/qwen3-coder", "", "STATUS_CODE_UNSET"): 2 * COUNT,
        ("qwen/qwen3-coder", "openai.InternalServerError", "STATUS_CODE_ERROR"): COUNT,
        ("slow", "", "STATUS_CODE_UNSET"): 2 * COUNT + 1,
    }
    assert "traces_span_metrics_duration_seconds_bucket{" in run.metrics
