# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The floor: a LangChain handler that does nothing, and one that does only OpenTelemetry's own work.

``Floor`` emits the span and the measurements that the instrumentation emits, with constants for the values that the
latter reads, looks up and checks. Anything faster omits telemetry: ``overhead.py`` compares both before it measures.
"""

from time import perf_counter
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from model import API_MODEL, API_RESPONSE_MODEL, CHUNKS
from opentelemetry.context import get_current
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics as gen_ai
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TracerProvider, set_span_in_context

from opentelemetry_instrumentation_modelforge.semconv import (
    GEN_AI_CLIENT_OPERATION_COST,
    MODELFORGE_CLIENT_ACTIVE_STREAMS,
)
from opentelemetry_instrumentation_modelforge.telemetry import _DOLLARS, _SECONDS, _TOKENS


class Empty(BaseCallbackHandler):
    """A handler that does nothing: it shows LangChain's own cost of calling one."""

    run_inline = True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        pass

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        pass


class Floor(BaseCallbackHandler):
    """A handler that does only the OpenTelemetry work."""

    run_inline = True

    def __init__(self, tracer_provider: TracerProvider, meter_provider: MeterProvider) -> None:
        self.tracer = tracer_provider.get_tracer("floor")
        meter = meter_provider.get_meter("floor")

        def histogram(name: str, unit: str, boundaries: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=boundaries)

        self.duration = histogram(gen_ai.GEN_AI_CLIENT_OPERATION_DURATION, "s", _SECONDS)
        self.token_usage = histogram(gen_ai.GEN_AI_CLIENT_TOKEN_USAGE, "{token}", _TOKENS)
        self.time_to_first_chunk = histogram(gen_ai.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK, "s", _SECONDS)
        self.time_per_output_chunk = histogram(gen_ai.GEN_AI_CLIENT_OPERATION_TIME_PER_OUTPUT_CHUNK, "s", _SECONDS)
        self.cost = histogram(GEN_AI_CLIENT_OPERATION_COST, "USD", _DOLLARS)
        self.active_streams = meter.create_up_down_counter(MODELFORGE_CLIENT_ACTIVE_STREAMS, "{stream}")
        self.links = [Link(SpanContext(0x1, 0x1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))]
        self.open: dict[Any, list[Any]] = {}
        self.metric_attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": API_MODEL,
            "server.address": "api.openai.com",
            "server.port": 443,
        }
        self.attributes = {
            "modelforge.provider": "openai",
            "modelforge.model": "fast",
            "modelforge.llm_type": "openai_compatible",
            **self.metric_attributes,
        }

    def on_chat_model_start(self, *args: Any, run_id: Any, invocation_params: Any, **kwargs: Any) -> None:
        caller = get_current()
        attributes: dict[str, Any] = {**self.attributes, "gen_ai.request.temperature": 0.5}
        span = self.tracer.start_span("langchain.llm.invoke", caller, SpanKind.CLIENT, attributes, self.links)
        self.open[run_id] = [span, set_span_in_context(span, caller), perf_counter(), 0, 0.0, 0.0]

    def on_llm_new_token(self, *args: Any, run_id: Any, **kwargs: Any) -> None:
        call = self.open[run_id]
        span, context, started, chunks, _, last = call
        now = perf_counter()
        if chunks:
            self.time_per_output_chunk.record(now - last, self.metric_attributes, context)
        else:
            self.active_streams.add(1, self.metric_attributes, context)
            self.time_to_first_chunk.record(now - started, self.metric_attributes, context)
            span.add_event("modelforge.chunk", {"modelforge.chunk.index": 0})
            call[4] = now
        call[3] += 1
        call[5] = now

    def on_llm_end(self, response: Any, *, run_id: Any, **kwargs: Any) -> None:
        span, context, started, chunks, first, _ = self.open.pop(run_id)
        duration = perf_counter() - started
        attributes: dict[str, Any] = {**self.metric_attributes, "gen_ai.response.model": API_RESPONSE_MODEL}
        self.token_usage.record(11, {**attributes, "gen_ai.token.type": "input"}, context)
        self.token_usage.record(7, {**attributes, "gen_ai.token.type": "output"}, context)
        self.cost.record(5.55e-06, attributes, context)
        self.duration.record(duration, attributes, context)
        said: dict[str, Any] = {
            "modelforge.outcome": "completed",
            "gen_ai.response.model": API_RESPONSE_MODEL,
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.usage.input_tokens": 11,
            "gen_ai.usage.output_tokens": 7,
            "gen_ai.usage.cache_read.input_tokens": 4,
            "gen_ai.usage.reasoning.output_tokens": 3,
            "gen_ai.usage.cost.amount": 5.55e-06,
            "gen_ai.usage.cost.currency": "USD",
            "gen_ai.usage.cost.source": "local",
        }
        if chunks:
            self.active_streams.add(-1, self.metric_attributes, context)
            said["gen_ai.request.stream"] = True
            said["modelforge.response.chunk_count"] = CHUNKS
            said["gen_ai.response.time_to_first_chunk"] = first - started
        else:
            said["gen_ai.response.id"] = "chatcmpl-1"
        span.set_attributes(said)
        span.end()
