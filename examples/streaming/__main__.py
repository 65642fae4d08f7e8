# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs an application with four streams and prints how each ended and when its first chunk arrived."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from backend import Backend
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from _shared.collector import Collector
from _shared.local import argument_parser, check_spans, command, loopback, print_trees, run
from _shared.tree import Span, span_details

HERE = Path(__file__).parent
EXPECTED_SPANS = ("modelforge.get_llm", *4 * ["langchain.llm.invoke"])


class EventCollector(Collector):
    """A collector that also keeps chunk events, as spans below the call that last from its start to the chunk."""

    def receive(self, path: str, body: bytes) -> bool:
        if path == "/v1/traces":
            self.spans += _read_events(body)
        return super().receive(path, body)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the application's exit code, or 1 if its telemetry is missing."""
    parser = argument_parser("streaming", __doc__)
    parser.add_argument(
        "--chunk-events", choices=("first", "all", "off"), default="first", help="which chunks become events"
    )
    options = parser.parse_args(arguments)
    collector = EventCollector()
    with loopback("streaming", Backend(), collector) as variables:
        variables["OTEL_PYTHON_MODELFORGE_CHUNK_EVENTS"] = options.chunk_events
        status = run(command(options.programmatic), HERE, variables)

    print_trees(collector.spans, _details)
    return status or check_spans(collector.spans, EXPECTED_SPANS)


def _read_events(body: bytes) -> Iterator[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    for span in (span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans):
        for number, event in enumerate(event for event in span.events if event.name == "modelforge.chunk"):
            yield Span(
                name=f"{event.name} {number}",
                span_id=f"{span.span_id.hex()}.{number}",
                parent_id=span.span_id.hex(),
                start_ns=span.start_time_unix_nano,
                end_ns=event.time_unix_nano,
            )


def _details(span: Span) -> Iterator[str]:
    if "modelforge.outcome" in span.attributes:
        yield str(span.attributes["modelforge.outcome"])
        yield f"{span.attributes['modelforge.response.chunk_count']} chunks"
    yield from span_details(span)


if __name__ == "__main__":
    sys.exit(main())
