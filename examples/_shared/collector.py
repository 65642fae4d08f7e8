# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A small OTLP/HTTP receiver that keeps the spans and the metrics it receives."""

import gzip
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as ProtoMetric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from .tree import Metric, Point, Span


class Collector(ThreadingHTTPServer):
    """The receiver, on a free port of the loopback interface."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.spans: list[Span] = []
        self._metrics: dict[str, Metric] = {}

    @property
    def metrics(self) -> list[Metric]:
        """The latest state of each metric, because they are cumulative."""
        return list(self._metrics.values())

    def receive(self, path: str, body: bytes) -> bool:
        """Keep what an exporter sent to `path`, and return whether there is such a path."""
        if path == "/v1/traces":
            self.spans += read_spans(body)
        elif path == "/v1/metrics":
            self._metrics |= {metric.name: metric for metric in read_metrics(body)}
        else:
            return path == "/v1/logs"
        return True


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        known = self.server.receive(self.path, body)
        # An empty body means that everything was accepted.
        self.send_response(HTTPStatus.OK if known else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def read_spans(body: bytes) -> list[Span]:
    """Read an ExportTraceServiceRequest."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _span(span) for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]


def read_metrics(body: bytes) -> list[Metric]:
    """Read an ExportMetricsServiceRequest."""
    request = ExportMetricsServiceRequest.FromString(body)
    return [
        _metric(metric)
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


def _span(span: ProtoSpan) -> Span:
    return Span(
        name=span.name,
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        links=tuple(link.span_id.hex() for link in span.links),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
    )


def _metric(metric: ProtoMetric) -> Metric:
    points: list[Point] = []
    if metric.HasField("histogram"):
        points = [
            Point(total=point.sum, count=point.count, attributes=_attributes(point.attributes))
            for point in metric.histogram.data_points
        ]
    else:
        points = [
            Point(
                total=point.as_double if point.HasField("as_double") else point.as_int,
                attributes=_attributes(point.attributes),
            )
            for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points
        ]
    return Metric(name=metric.name, unit=metric.unit, points=points)


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    return getattr(value, kind) if kind else None
