# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Logfire, whose providers can be neither hashed nor compared, records the same spans as the SDK."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from support.environment import lacking

if reason := lacking("logfire"):
    pytest.skip(reason, allow_module_level=True)

PROGRAM = """
import asyncio, json, sys, time, warnings
warnings.simplefilter("ignore")
from support.environment import isolate
isolate()
import logfire
from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_tracer_provider
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback
from opentelemetry_instrumentation_modelforge.call import open_calls
from support.instant import InstantRegistry

exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()

def configure():
    logfire.configure(
        send_to_logfire=False,
        console=False,
        additional_span_processors=[SimpleSpanProcessor(exporter)],
        metrics=logfire.MetricsOptions(additional_readers=[reader]),
    )

def instrument(**providers):
    ModelForgeInstrumentor().instrument(skip_dep_check=True, **providers)
    assert ModelForgeInstrumentor().is_instrumented_by_opentelemetry

callbacks = None
match sys.argv[1]:
    case "sdk":
        tracer_provider = TracerProvider()
        tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        instrument(tracer_provider=tracer_provider, meter_provider=MeterProvider([reader]))
    case "sdk by callback":
        tracer_provider = TracerProvider()
        tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        callbacks = [OpenTelemetryCallback(
            "openai", "fast", tracer_provider=tracer_provider, meter_provider=MeterProvider([reader])
        )]
    case "before":
        configure()
        instrument()
    case "after":
        instrument()
        configure()
    case "given":
        configure()
        instrument(tracer_provider=get_tracer_provider(), meter_provider=get_meter_provider())
    case "by callback":
        configure()
        callbacks = [OpenTelemetryCallback("openai", "fast")]
    case "given to a callback":
        configure()
        callbacks = [OpenTelemetryCallback(
            "openai", "fast", tracer_provider=get_tracer_provider(), meter_provider=get_meter_provider()
        )]

llm = InstantRegistry().get_llm("openai", "fast", enhanced=False)
config = {"callbacks": callbacks}
llm.invoke("Hi", config)
list(llm.stream("Hi", config))
asyncio.run(llm.ainvoke("Hi", config))
stream = llm.stream("Hi", config)
next(stream)
stream.close()
del stream
# Without patches, a callback hears of it as of one that was dropped.
deadline = time.monotonic() + 10
while open_calls and time.monotonic() < deadline:
    time.sleep(0.001)

def own(span):
    return {
        name: value for name, value in span.attributes.items()
        # Logfire fills in the response's model where there is none.
        if not name.startswith("logfire.") and not name.endswith(("time_to_first_chunk", "response.model"))
    }

spans = [(span.name, span.kind.name, own(span)) for span in exporter.get_finished_spans()]
data = reader.get_metrics_data()
metrics = sorted(
    (metric.name, len(metric.data.data_points))
    for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    if scope.scope.name == "opentelemetry_instrumentation_modelforge"
)
print("REPORT" + json.dumps({"spans": spans, "metrics": metrics}))
"""

Python = Callable[..., "CompletedProcess[str]"]


def reported(python: Python, setup: str) -> dict[str, Any]:
    process = python("-c", PROGRAM, setup)
    lines = [line for line in process.stdout.splitlines() if line.startswith("REPORT")]
    assert lines, process.stderr[-4000:]
    assert "Telemetry fault" not in process.stderr
    return json.loads(lines[0].removeprefix("REPORT"))


@pytest.mark.parametrize("setup", ["before", "after", "given"])
def test_the_instrumentation_records_with_logfire_as_with_the_sdk(python: Python, setup: str) -> None:
    with_logfire = reported(python, setup)
    assert len(with_logfire["spans"]) == 5
    assert with_logfire == reported(python, "sdk")


@pytest.mark.parametrize("setup", ["by callback", "given to a callback"])
def test_a_callback_records_with_logfire_as_with_the_sdk(python: Python, setup: str) -> None:
    with_logfire = reported(python, setup)
    assert len(with_logfire["spans"]) == 4
    assert with_logfire == reported(python, "sdk by callback")
