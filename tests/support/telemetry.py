# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Access to the emitted telemetry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer


@dataclass(frozen=True)
class Telemetry:
    """The telemetry that the instrumentation has emitted until now."""

    tracer: Tracer
    _span_exporter: InMemorySpanExporter
    _metric_reader: InMemoryMetricReader
    _log_exporter: InMemoryLogRecordExporter

    def spans(self) -> list[ReadableSpan]:
        """Return the ended spans in start order."""
        return sorted(self._span_exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        """Return the only span with a name."""
        spans = self.spans()
        named = [span for span in spans if span.name == name]
        assert len(named) == 1, f"{len(named)} spans named {name!r} among {[span.name for span in spans]}"
        return named[0]

    def metrics(self) -> dict[str, list[Any]]:
        """Return the data points of each metric."""
        data = self._metric_reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def logs(self) -> list[ReadableLogRecord]:
        """Return the log records in the order they were emitted."""
        return list(self._log_exporter.get_finished_logs())


def spans_in(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Extract the spans printed by the console exporter from a program's output, and return the rest and the spans."""
    spans = []
    while (start := text.find('{\n    "name"')) >= 0:
        span, length = json.JSONDecoder().raw_decode(text[start:])
        spans.append(span)
        text = text[:start] + text[start + length :].removeprefix("\n")
    return text, spans
