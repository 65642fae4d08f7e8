# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An OTLP receiver over HTTP and gRPC, which writes each request to a file in a given directory.

It answers when the file is written, so the data of an export is there once the export has returned. It prints the
ports that it listens on as JSON.
"""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

HOST = "127.0.0.1"
SIGNALS = {
    "traces": (
        traces.ExportTraceServiceRequest,
        traces.ExportTraceServiceResponse,
        traces_grpc.add_TraceServiceServicer_to_server,
    ),
    "metrics": (
        metrics.ExportMetricsServiceRequest,
        metrics.ExportMetricsServiceResponse,
        metrics_grpc.add_MetricsServiceServicer_to_server,
    ),
    "logs": (
        logs.ExportLogsServiceRequest,
        logs.ExportLogsServiceResponse,
        logs_grpc.add_LogsServiceServicer_to_server,
    ),
}
"""For each signal: the request, the response, and the function that adds the gRPC service to a server."""

Keep = Callable[[str, Mapping[str, str], bytes], None]


def keep_in(directory: Path) -> Keep:
    """Return a function that writes a request's metadata and body to files named after its number and its signal."""
    numbers, lock = count(), threading.Lock()

    def keep(signal: str, metadata: Mapping[str, str], body: bytes) -> None:
        with lock:
            name = f"{next(numbers):06}-{signal}"
        (directory / f"{name}.json").write_text(json.dumps(dict(metadata)))
        (directory / f"{name}.pb").write_bytes(body)

    return keep


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    keep: Keep

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        signal = self.path.removeprefix("/v1/")
        type(self).keep(signal, {name.lower(): value for name, value in self.headers.items()}, body)
        answer = SIGNALS[signal][1]().SerializeToString()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Servicer:
    """Any of the three services, each of which has only one method."""

    def __init__(self, signal: str, keep: Keep) -> None:
        self._signal = signal
        self._keep = keep

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._keep(self._signal, dict(context.invocation_metadata()), request.SerializeToString())
        return SIGNALS[self._signal][1]()


def main(directory: Path) -> None:
    """Serve until the standard input is closed."""
    keep = keep_in(directory)
    Handler.keep = staticmethod(keep)
    http_server = ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    grpc_server = grpc.server(ThreadPoolExecutor(max_workers=4))
    for signal, (_, _, add_to_server) in SIGNALS.items():
        add_to_server(Servicer(signal, keep), grpc_server)
    grpc_port = grpc_server.add_insecure_port(f"{HOST}:0")
    grpc_server.start()
    print(json.dumps({"http": http_server.server_port, "grpc": grpc_port}), flush=True)
    sys.stdin.read()
    grpc_server.stop(grace=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
