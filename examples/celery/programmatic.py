# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The same producer and worker, with OpenTelemetry set up in code instead of by `opentelemetry-instrument`.

`python programmatic.py` is the producer, and `celery -A programmatic worker` the worker.
"""

import producer
from celery.signals import worker_process_init
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from tasks import celery as app

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

__all__ = ["app"]


@worker_process_init.connect
def set_up(**_: object) -> None:
    """Set up OpenTelemetry in each child of the pool, because threads and sockets do not survive a fork."""
    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracer_provider)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))

    CeleryInstrumentor().instrument()
    HTTPXClientInstrumentor().instrument()
    ModelForgeInstrumentor().instrument()


if __name__ == "__main__":
    set_up()
    producer.main()
