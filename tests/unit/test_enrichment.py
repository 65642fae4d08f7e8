# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A call whose span another instrumentation creates: ModelForge's attributes are added to it, without a second span."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk
from opentelemetry import baggage
from opentelemetry.context import attach, detach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opentelemetry_instrumentation_modelforge import enrichment
from opentelemetry_instrumentation_modelforge.call import open_calls
from opentelemetry_instrumentation_modelforge.config import Configuration
from opentelemetry_instrumentation_modelforge.enrichment import Enrichment
from opentelemetry_instrumentation_modelforge.model import Model, ModelIdentity
from opentelemetry_instrumentation_modelforge.telemetry import Telemetry
from support.request_values import request_with

NAMES = {"modelforge.provider": "acme", "modelforge.model": "fast", "modelforge.llm_type": "openai_compatible"}
PRICE = {
    "gen_ai.usage.cost.amount": 0.25,
    "gen_ai.usage.cost.currency": "USD",
    "gen_ai.usage.cost.source": "local",
}
Enrich = Callable[..., Enrichment]


@pytest.fixture
def theirs() -> Any:
    """The other instrumentation's data, some of which is already known."""
    return SimpleNamespace(attributes={}, response_id="id", response_model=None)


@pytest.fixture
def enrich(tracer_provider: TracerProvider, meter_provider: MeterProvider, theirs: Any) -> Enrich:
    """Start a call under the other instrumentation, with the given options."""

    def enrich(data: Callable[[], Any] = lambda: theirs, **options: Any) -> Enrichment:
        configuration = Configuration(cost=lambda *_: 0.25, **options)
        telemetry = Telemetry(configuration, tracer_provider=tracer_provider, meter_provider=meter_provider)
        model = Model(telemetry, ModelIdentity("acme", "fast", "openai_compatible"))
        call = Enrichment(model, request_with(), SimpleNamespace(data=data))  # type: ignore[arg-type]
        call.start()
        return call

    return enrich


def answer(**usage: Any) -> ChatGeneration:
    counts: Any = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18, **usage}
    return ChatGeneration(message=AIMessage("Hi", usage_metadata=counts))


def metrics(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    scopes = data.resource_metrics[0].scope_metrics if data else []
    return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


def test_modelforges_names_are_added_to_the_others_span_when_the_call_begins(enrich: Enrich, theirs: Any) -> None:
    call = enrich(attributes={"team": "ml"})
    assert theirs.attributes == {"team": "ml", **NAMES}
    assert theirs.response_id == "id"
    assert open_calls[id(call)] is call
    call.close()


def test_the_answer_and_its_price_are_added_to_the_others_span(
    enrich: Enrich,
    theirs: Any,
    metric_reader: InMemoryMetricReader,
    span_exporter: InMemorySpanExporter,
) -> None:
    enrich().end([answer()], {"id": "chatcmpl-1", "model_name": "m"})
    assert theirs.attributes == {**NAMES, **PRICE}
    assert (theirs.response_id, theirs.response_model) == ("chatcmpl-1", "m")
    assert (theirs.usage_input_tokens, theirs.usage_output_tokens) == (11, 7)
    # The other instrumentation emits the rest of the metrics.
    (name, (point,)), *others = metrics(metric_reader).items()
    assert (name, point.sum, others) == ("gen_ai.client.operation.cost", 0.25, [])
    assert point.attributes["gen_ai.response.model"] == "m"
    assert span_exporter.get_finished_spans() == ()
    assert open_calls == {}


def test_the_usage_of_a_stream_is_reported_with_its_chunk(enrich: Enrich, theirs: Any) -> None:
    call = enrich()
    call.chunk(ChatGenerationChunk(message=AIMessageChunk("Hi")))
    assert not hasattr(theirs, "usage_input_tokens")
    usage: Any = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    call.chunk(ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=usage)))
    assert (theirs.usage_input_tokens, theirs.usage_output_tokens) == (11, 7)
    assert theirs.attributes == {**NAMES, **PRICE}
    call.close()


def test_an_answer_from_the_cache_has_no_cost(enrich: Enrich, theirs: Any, metric_reader: InMemoryMetricReader) -> None:
    enrich().end([answer(total_cost=0)], None)
    assert theirs.attributes == {**NAMES, "modelforge.response.cached": True}
    assert metrics(metric_reader) == {}


def test_baggage_is_copied_as_onto_our_own_spans_and_metrics(
    enrich: Enrich, theirs: Any, metric_reader: InMemoryMetricReader
) -> None:
    token = attach(baggage.set_baggage("tenant", "acme"))
    try:
        call = enrich(baggage_keys=("tenant",), metric_baggage_keys=("tenant",))
    finally:
        detach(token)
    call.end([answer()], None)
    assert theirs.attributes["tenant"] == "acme"
    ((point,),) = metrics(metric_reader).values()
    assert point.attributes["tenant"] == "acme"


def test_a_call_whose_span_has_not_begun_is_measured(enrich: Enrich, metric_reader: InMemoryMetricReader) -> None:
    enrich(data=lambda: None).end([answer()], None)
    assert list(metrics(metric_reader)) == ["gen_ai.client.operation.cost"]


def test_a_fault_in_reporting_ends_the_call(
    enrich: Enrich, theirs: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment._REPORT_GUARD, "_reported", False)
    call = enrich()
    del theirs.attributes
    call.end([answer()], None)
    assert open_calls == {}
    assert "reporting to another instrumentation" in caplog.text
    caplog.clear()
