# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The same application, with OpenTelemetry set up in code instead of by `opentelemetry-instrument`."""

import app
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor


def main() -> None:
    """Set up traces, since Jaeger accepts nothing else, and run the application."""
    tracer_provider = TracerProvider()
    # Sends to http://localhost:4318, where Jaeger listens, unless OTEL_EXPORTER_OTLP_ENDPOINT is set.
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracer_provider)

    HTTPXClientInstrumentor().instrument()
    ModelForgeInstrumentor().instrument()

    app.main()


if __name__ == "__main__":
    main()
