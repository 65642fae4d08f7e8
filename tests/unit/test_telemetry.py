# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The instruments, and their conformance to the GenAI metric conventions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from modelforge import ModelForgeRegistry
from opentelemetry.metrics import Meter, NoOpMeterProvider
from opentelemetry.metrics import MeterProvider as MeterProviderInterface
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NoOpTracerProvider, Tracer
from opentelemetry.trace import TracerProvider as TracerProviderInterface

from opentelemetry_instrumentation_modelforge import telemetry as module
from opentelemetry_instrumentation_modelforge.config import Configuration
from opentelemetry_instrumentation_modelforge.telemetry import (
    Telemetry,
    active_telemetry,
    set_active_telemetry,
    standalone_telemetry,
)
from support.models import get_llm
from support.telemetry import Telemetry as Emitted

UNITS = {
    gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION: "s",
    gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE: "{token}",
    "gen_ai.client.operation.time_to_first_chunk": "s",
    "gen_ai.client.operation.time_per_output_chunk": "s",
    "gen_ai.client.operation.cost": "USD",
    "modelforge.client.active_streams": "{stream}",
}
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
BOUNDARIES = {
    gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION: SECONDS,
    gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE: TOKENS,
    "gen_ai.client.operation.time_to_first_chunk": SECONDS,
    "gen_ai.client.operation.time_per_output_chunk": SECONDS,
}


@pytest.fixture
def metrics(
    registry: ModelForgeRegistry, instrument: Callable[..., Emitted], metric_reader: InMemoryMetricReader
) -> dict[str, Any]:
    """The metrics of a stream with reported tokens, by name."""
    instrument()
    llm: Any = get_llm(registry)
    list(llm.stream("Hi", stream_usage=True))
    data = metric_reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    scopes = [
        scope for scope in resource.scope_metrics if scope.scope.name == "opentelemetry_instrumentation_modelforge"
    ]
    assert len(scopes) == 1
    return {metric.name: metric for metric in scopes[0].metrics}


def test_every_metric_has_the_conventions_name_and_unit(metrics: dict[str, Any]) -> None:
    assert {name: metric.unit for name, metric in metrics.items()} == UNITS


def test_every_metric_is_described(metrics: dict[str, Any]) -> None:
    for metric in metrics.values():
        assert metric.description.endswith(".")


def test_every_histogram_has_the_conventions_boundaries(metrics: dict[str, Any]) -> None:
    for name, boundaries in BOUNDARIES.items():
        assert {point.explicit_bounds for point in metrics[name].data.data_points} == {boundaries}


def test_costs_from_a_thousandth_of_a_cent_to_dollars_fall_in_different_buckets(metrics: dict[str, Any]) -> None:
    (point,) = metrics["gen_ai.client.operation.cost"].data.data_points
    assert point.explicit_bounds[0] == 0.00001
    assert 10 < point.explicit_bounds[-1] < 100
    assert all(low < high for low, high in pairwise(point.explicit_bounds))


def test_open_streams_are_counted_up_and_down(metrics: dict[str, Any]) -> None:
    data = metrics["modelforge.client.active_streams"].data
    assert data.is_monotonic is False
    assert [point.value for point in data.data_points] == [0]


def test_metrics_have_only_attributes_of_low_cardinality(metrics: dict[str, Any]) -> None:
    allowed = {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.response.model",
        "gen_ai.token.type",
        "server.address",
        "server.port",
    }
    for metric in metrics.values():
        for point in metric.data.data_points:
            assert set(point.attributes) <= allowed


def test_telemetry_is_available_while_traces_or_metrics_are_recorded(
    tracer_provider: TracerProvider, meter_provider: MeterProvider
) -> None:
    configuration = Configuration()
    assert Telemetry(configuration, tracer_provider=tracer_provider).is_available()
    assert Telemetry(configuration, meter_provider=meter_provider).is_available()
    assert not Telemetry(configuration, tracer_provider=NoOpTracerProvider()).is_available()


def test_models_report_to_the_active_telemetry() -> None:
    telemetry = Telemetry(Configuration())
    set_active_telemetry(telemetry)
    assert active_telemetry() is telemetry
    set_active_telemetry(None)
    assert active_telemetry() is None


def test_callbacks_created_by_hand_share_the_telemetry_of_their_providers(
    tracer_provider: TracerProvider, meter_provider: MeterProvider
) -> None:
    shared = standalone_telemetry(tracer_provider, meter_provider)
    assert standalone_telemetry(tracer_provider, meter_provider) is shared
    assert standalone_telemetry(tracer_provider, NoOpMeterProvider()) is not shared
    assert standalone_telemetry(NoOpTracerProvider(), meter_provider) is not shared
    assert standalone_telemetry(tracer_provider, meter_provider) is shared


def test_the_telemetry_of_a_few_pairs_of_providers_is_kept() -> None:
    for _ in range(20):
        standalone_telemetry(NoOpTracerProvider(), NoOpMeterProvider())
    assert len(module._standalone) == 8


@dataclass
class PlainTracerProvider(TracerProviderInterface):
    """A plain dataclass with slots: without a hash, without weak references, and equal to others with equal fields."""

    __slots__ = ("provider",)
    provider: TracerProvider

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return self.provider.get_tracer(*args, **kwargs)


@dataclass
class PlainMeterProvider(MeterProviderInterface):
    """The same for metrics."""

    __slots__ = ("provider",)
    provider: MeterProvider

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        return self.provider.get_meter(*args, **kwargs)


def test_providers_need_neither_a_hash_nor_weak_references(
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    span_exporter: InMemorySpanExporter,
    metric_reader: InMemoryMetricReader,
) -> None:
    traces, metrics = PlainTracerProvider(tracer_provider), PlainMeterProvider(meter_provider)
    for provider in (traces, metrics):
        with pytest.raises(TypeError, match="unhashable"):
            hash(provider)
    telemetry = Telemetry(Configuration(), tracer_provider=traces, meter_provider=metrics)
    assert telemetry.is_available()
    telemetry.tracer.start_span("langchain.llm.invoke").end()
    telemetry.duration.record(0.5, {}, INVALID_SPAN_CONTEXT)
    assert [span.name for span in span_exporter.get_finished_spans()] == ["langchain.llm.invoke"]
    data = metric_reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert (metric.name, metric.data.data_points[0].sum) == ("gen_ai.client.operation.duration", 0.5)


def test_providers_that_equal_each_other_are_distinguished(
    tracer_provider: TracerProvider, meter_provider: MeterProvider
) -> None:
    pairs = [(PlainTracerProvider(tracer_provider), PlainMeterProvider(meter_provider)) for _ in range(2)]
    assert pairs[0] == pairs[1]
    first, second = (standalone_telemetry(*pair) for pair in pairs)
    assert first is not second
    assert standalone_telemetry(*pairs[0]) is first


@pytest.mark.parametrize(
    ("capture", "options", "full"),
    [
        (None, {}, False),
        (None, {"error_messages": "full"}, True),
        ("SPAN_ONLY", {}, True),
        ("SPAN_AND_EVENT", {}, True),
        ("SPAN_ONLY", {"error_messages": "safe"}, False),
        ("EVENT_ONLY", {}, False),
    ],
)
def test_error_messages_are_recorded_if_requested_or_if_spans_have_content(
    capture: str | None, options: dict[str, Any], full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if capture is not None:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", capture)
    assert Telemetry(Configuration(**options)).full_errors is full


def test_without_a_receiver_of_content_no_content_is_captured() -> None:
    assert Telemetry(Configuration()).content is None
