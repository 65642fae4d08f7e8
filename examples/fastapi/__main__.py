# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs two FastAPI services and prints the trace of requests through both, with streamed answers."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from _shared.collector import Collector
from _shared.local import argument_parser, check_spans, listens, loopback, print_trees, start, without_parts
from _shared.server import ChatServer
from _shared.tree import Span

HERE = Path(__file__).parent
HOST = "127.0.0.1"
START_SECONDS = 30
EXPECTED_SPANS = 5 * ["langchain.llm.invoke"]
# The caller's span, which the services read from a request header. This program has no tracer.
TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"Content-Type": "application/json", "traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them, and return 1 if telemetry is missing."""
    programmatic = argument_parser("fastapi", __doc__).parse_args(arguments).programmatic
    app = "programmatic:app" if programmatic else "app:app"
    collector = Collector()
    with (
        loopback("chat", ChatServer(), collector) as variables,
        _service(app, programmatic, variables) as chat,
        _service(
            "gateway:app", False, variables, CHAT_URL=f"http://{HOST}:{chat}", OTEL_SERVICE_NAME="gateway"
        ) as gateway,
    ):
        asked = time.time_ns()
        for port, path in (
            (chat, "/chat"),
            (chat, "/chat/stream"),
            (chat, "/sync/chat"),
            (chat, "/sync/chat/stream"),
            (gateway, "/ask/stream"),
        ):
            print(f"POST :{port}{path}", _ask(port, path), sep="\n", flush=True)
        answered = time.time_ns()
    # The services have ended and exported everything.
    spans = without_parts(collector.spans)
    print_trees([Span(name="caller", span_id=CALLER_ID, start_ns=asked, end_ns=answered), *spans])
    if left_out := len(collector.spans) - len(spans):
        print(f"\nNot shown: {left_out} spans for the parts of requests and responses.")
    return check_spans(spans, EXPECTED_SPANS)


@contextmanager
def _service(app: str, programmatic: bool, variables: Mapping[str, str], **others: str) -> Iterator[int]:
    """Run a service, and yield its port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [] if programmatic else ["opentelemetry-instrument"]
    command += ["uvicorn", app, f"--port={port}", "--log-level=warning"]
    print("$", *command, flush=True)
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    variables = {**variables, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", **others}
    with start([*command, f"--app-dir={HERE}"], HERE, variables) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            # Like Ctrl-C. After a SIGTERM, uvicorn ends without a last export.
            process.send_signal(signal.SIGINT)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not listens(f"http://{HOST}:{port}"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"error: {process.args} did not start")
        time.sleep(0.05)


def _ask(port: int, path: str) -> str:
    """Return the answer. The events of a stream are on one line."""
    with closing(http.client.HTTPConnection(HOST, port)) as connection:
        connection.request("POST", path, json.dumps({"text": "What is worn in Lisbon?"}), HEADERS)
        return "  " + " ".join(connection.getresponse().read().decode().split("\n"))


if __name__ == "__main__":
    sys.exit(main())
