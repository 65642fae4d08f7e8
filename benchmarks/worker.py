# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""One process that calls the model as one variant, on command, so that variants take turns without sharing a process.

``python worker.py VARIANT`` prints one line when it is ready. Then it reads JSON lines, each a mode, a number of calls
and a clock. It answers each with two numbers as JSON: the seconds of one call, and the seconds of one call including
its share of the export of spans and the collection of metrics. ``python worker.py VARIANT describe`` prints, as JSON,
the telemetry of one call in each mode.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from model import get_llm
from modes import CALLS, CLOCKS, CONCURRENT, MODES
from opentelemetry import _logs, metrics, trace
from opentelemetry.baggage import set_baggage
from opentelemetry.context import attach
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON


class _Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Providers:
    """An SDK as in an application, except that its exporter sends nothing."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.tracer_provider = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])
        self.logger_provider = LoggerProvider()
        # The caller's thread does the same work as in production. The exporting thread sleeps until a round is over,
        # because it would compete with the calls for a lock, and how often depends on the exporter.
        self.batches = BatchSpanProcessor(
            _Nowhere(), max_queue_size=2**17, max_export_batch_size=2**17, schedule_delay_millis=3_600_000
        )
        self.tracer_provider.add_span_processor(self.batches)

    def keywords(self) -> dict[str, Any]:
        return {
            "tracer_provider": self.tracer_provider,
            "meter_provider": self.meter_provider,
            "logger_provider": self.logger_provider,
            "skip_dep_check": True,
        }

    def deliver(self) -> None:
        """Export the spans and collect the metrics, in this thread."""
        self.batches.force_flush()
        self.reader.get_metrics_data()

    def make_global(self) -> None:
        """Set the global providers, for instrumentations that use no others."""
        trace.set_tracer_provider(self.tracer_provider)
        metrics.set_meter_provider(self.meter_provider)
        _logs.set_logger_provider(self.logger_provider)


# --- Variants: each prepares the process and returns the model ---


def _uninstrumented(providers: Providers) -> Any:
    return get_llm()


def _empty(providers: Providers) -> Any:
    from floor import Empty

    model = get_llm()
    model.callbacks = [Empty()]
    return model


def _floor(providers: Providers) -> Any:
    from floor import Floor

    model = get_llm()
    model.callbacks = [Floor(providers.tracer_provider, providers.meter_provider)]
    return model


def _instrumented(**options: Any) -> Callable[[Providers], Any]:
    def prepare(providers: Providers) -> Any:
        from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

        ModelForgeInstrumentor().instrument(**providers.keywords(), **options)
        return get_llm()

    return prepare


def _at_once(providers: Providers) -> Any:
    """Prepare a process in which no measurement may wait for a collection, as if too many were waiting already."""
    from opentelemetry_instrumentation_modelforge import measurement

    for bound in ("MOST_WAITING", "MOST_BLOCKS", "MOST_BLOCKS_OF_STREAM"):
        setattr(measurement, bound, 0)
    return _instrumented()(providers)


def _without_sdk(providers: Providers) -> Any:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    ModelForgeInstrumentor().instrument(skip_dep_check=True)
    return get_llm()


def _uninstrument(providers: Providers) -> Any:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    _instrumented()(providers)
    ModelForgeInstrumentor().uninstrument()
    return get_llm()


def _handed_out_before(providers: Providers) -> Any:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    model = _instrumented()(providers)
    ModelForgeInstrumentor().uninstrument()
    return model


def _by_hand(providers: Providers) -> Any:
    from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback

    model = get_llm()
    model.callbacks = [
        OpenTelemetryCallback(
            "openai", "fast", tracer_provider=providers.tracer_provider, meter_provider=providers.meter_provider
        )
    ]
    return model


def _with_environment(variables: Mapping[str, str]) -> Callable[[Providers], Any]:
    def prepare(providers: Providers) -> Any:
        os.environ.update(variables)
        return _instrumented()(providers)

    return prepare


def _with_baggage(**options: Any) -> Callable[[Providers], Any]:
    def prepare(providers: Providers) -> Any:
        attach(set_baggage("tenant", "acme"))
        return _instrumented(**options)(providers)

    return prepare


def _genai_langchain(providers: Providers) -> Any:
    from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument(**providers.keywords())
    return get_llm()


def _openinference(providers: Providers) -> Any:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    os.environ["OPENINFERENCE_HIDE_INPUTS"] = os.environ["OPENINFERENCE_HIDE_OUTPUTS"] = "true"
    LangChainInstrumentor().instrument(**providers.keywords())
    return get_llm()


def _openllmetry(providers: Providers) -> Any:
    os.environ["TRACELOOP_TRACE_CONTENT"] = "false"
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor

    LangchainInstrumentor().instrument(**providers.keywords())
    return get_llm()


def _openlit(providers: Providers) -> Any:
    import openlit

    providers.make_global()
    openlit.init(capture_message_content=False, collect_system_metrics=False)
    return get_llm()


VARIANTS: dict[str, Callable[[Providers], Any]] = {
    "uninstrumented": _uninstrumented,
    "empty handler": _empty,
    "floor": _floor,
    "sampled": _instrumented(),
    "sampled, measurements recorded at once": _at_once,
    "unsampled": _instrumented(),
    "no SDK": _without_sdk,
    "enabled=False": _instrumented(enabled=False),
    "uninstrumented again": _uninstrument,
    "uninstrumented again, model from before": _handed_out_before,
    "OpenTelemetryCallback by hand": _by_hand,
}

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"

OPTIONS: dict[str, Callable[[Providers], Any]] = {
    "chunk_metrics=False": _instrumented(chunk_metrics=False),
    'chunk_events="all"': _instrumented(chunk_events="all"),
    'chunk_events="off"': _instrumented(chunk_events="off"),
    "cost=False": _instrumented(cost=False),
    "baggage_keys, one": _with_baggage(baggage_keys=["tenant"]),
    "metric_baggage_keys, one": _with_baggage(metric_baggage_keys=["tenant"]),
    "attributes, one": _instrumented(attributes={"team": "search"}),
    "request_hook": _instrumented(request_hook=lambda span, messages, params: None),
    "response_hook": _instrumented(response_hook=lambda span, result: None),
    "content on spans": _with_environment({CONTENT: "SPAN_ONLY"}),
    "content on events": _with_environment({CONTENT: "EVENT_ONLY"}),
}

ALTERNATIVES: dict[str, Callable[[Providers], Any]] = {
    "opentelemetry-instrumentation-genai-langchain": _genai_langchain,
    "openinference-instrumentation-langchain": _openinference,
    "opentelemetry-instrumentation-langchain": _openllmetry,
    "openlit": _openlit,
}


# --- The telemetry of one call ---


class _Kept(SpanProcessor):
    def __init__(self) -> None:
        self.at_start: list[dict[str, Any]] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.at_start.append(dict(span.attributes or {}))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def _shape(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    # Times differ between two runs, so a float is reduced to its type.
    return {name: "float" if isinstance(value, float) else value for name, value in sorted((attributes or {}).items())}


def _describe(variant: str) -> dict[str, Any]:
    described: dict[str, Any] = {}
    providers = Providers()
    kept = _Kept()
    model = _prepare(variant, providers)
    providers.tracer_provider.add_span_processor(kept)
    for mode, run in MODES.items():
        kept.at_start.clear()
        kept.ended.clear()
        before = _points(providers)
        run(model, 1, CLOCKS["cpu"])
        after = _points(providers)
        described[mode] = {
            "spans": [
                {
                    "name": span.name,
                    "kind": span.kind.name,
                    "links": len(span.links),
                    "status": span.status.status_code.name,
                    "at start": _shape(at_start),
                    "attributes": _shape(span.attributes),
                    "events": [[event.name, _shape(event.attributes)] for event in span.events],
                }
                for span, at_start in zip(kept.ended, kept.at_start, strict=True)
            ],
            "measurements": {
                point: [count - before.get(point, [0, 0])[0], exemplars]
                for point, (count, exemplars) in after.items()
                if count != before.get(point, [0, 0])[0] or "active_streams" in point
            },
        }
    return described


def _points(providers: Providers) -> dict[str, list[int]]:
    """Return each series with the number of its measurements, and whether it has exemplars that lead to a trace."""
    points: dict[str, list[int]] = {}
    data = providers.reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    series = f"{metric.name} {json.dumps(_shape(point.attributes))}"
                    count = getattr(point, "count", getattr(point, "value", 0))
                    points[series] = [count, int(any(exemplar.trace_id for exemplar in point.exemplars))]
    return points


def _prepare(variant: str, providers: Providers) -> Any:
    return {**VARIANTS, **OPTIONS, **ALTERNATIVES}[variant](providers)


def _serve(variant: str) -> None:
    providers = Providers(sampled=variant != "unsampled")
    model = _prepare(variant, providers)
    for mode, run in MODES.items():
        run(model, CALLS[mode], CLOCKS["cpu"])
        providers.deliver()
    # Otherwise the collector would scan half a million objects from imports in some rounds and not in others.
    gc.collect()
    gc.freeze()
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        mode, calls, clock = json.loads(line)
        call = (MODES | CONCURRENT)[mode](model, calls, CLOCKS[clock])
        started = CLOCKS[clock]()
        providers.deliver()
        delivery = (CLOCKS[clock]() - started) / calls
        print(json.dumps([call, call + delivery]), flush=True)
        gc.collect()


if __name__ == "__main__":
    if sys.argv[2:] == ["describe"]:
        print(json.dumps(_describe(sys.argv[1])))
    else:
        _serve(sys.argv[1])
