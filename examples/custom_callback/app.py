# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An application that traces one model with a callback, without patching, and has a callback of its own."""

import logging
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from modelforge import ModelForgeRegistry
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback

QUESTIONS = ("What should I wear in Lisbon today?", "Do I need an umbrella in Lisbon?")

tracer = trace.get_tracer(__name__)


class RequestTotals(BaseCallbackHandler):
    """A callback that records on a request's span how many tokens its model calls used.

    A callback runs in the caller's context, so the current span is the request's.
    """

    # Otherwise LangChain runs the callback of an async call in a thread.
    run_inline = True

    def __init__(self) -> None:
        self.calls = self.tokens = 0

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Add a call."""
        self.calls += 1
        for generation in response.generations[0]:
            self.tokens += (getattr(generation.message, "usage_metadata", None) or {}).get("total_tokens", 0)
        trace.get_current_span().set_attributes({"app.calls": self.calls, "app.tokens": self.tokens})


def answer() -> None:
    """Print a title for each question."""
    callbacks = [OpenTelemetryCallback("openai", "gpt-4o-mini"), RequestTotals()]
    llm = ModelForgeRegistry().get_llm("openai", "gpt-4o-mini", callbacks=callbacks, enhanced=False)
    prompt = ChatPromptTemplate.from_template("Give this question a title of three words: {question}")
    for question in QUESTIONS:
        print(f"{(prompt | llm | StrOutputParser()).invoke({'question': question})}: {question}")


def main() -> None:
    """Set up OpenTelemetry and serve one request. The providers export what remains when the process ends."""
    # ModelForge writes its log to standard output.
    logging.getLogger("modelforge").setLevel(logging.WARNING)
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))
    with tracer.start_as_current_span("answer questions"):
        answer()


if __name__ == "__main__":
    main()
