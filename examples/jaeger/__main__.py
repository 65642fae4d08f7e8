# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs a standalone application and prints its trace, or sends it to Jaeger."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from _shared.collector import Collector
from _shared.local import argument_parser, check_spans, command, listens, loopback, print_trees, run
from _shared.server import ChatServer

HERE = Path(__file__).parent
SERVICE = "jaeger-example"
EXPECTED_SPANS = ("plan a day", "modelforge.get_llm", "langchain.llm.invoke")
# Jaeger's OTLP port over HTTP, and the port of its pages.
ENDPOINT = "http://localhost:4318"
PAGES_PORT = 16686


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the application's exit code, or 1 if its telemetry is missing."""
    options = _parse(arguments)
    collector = Collector()
    with loopback(SERVICE, ChatServer(), collector) as variables:
        # Jaeger accepts only traces.
        variables.update(OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
        if options.jaeger:
            variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = options.jaeger
        status = run(command(options.programmatic), HERE, variables)

    if options.jaeger:
        print(f"\nhttp://{urlsplit(options.jaeger).hostname}:{PAGES_PORT}/search?service={SERVICE}")
        return status
    print_trees(collector.spans)
    return status or check_spans(collector.spans, EXPECTED_SPANS)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser("jaeger", __doc__)
    parser.add_argument(
        "--jaeger", nargs="?", const=ENDPOINT, metavar="URL", help="send the trace to Jaeger (default: %(const)s)"
    )
    options = parser.parse_args(arguments)
    if options.jaeger and not listens(options.jaeger):
        parser.error(f"nothing listens at {options.jaeger}: start Jaeger as examples/jaeger/README.md shows")
    return options


if __name__ == "__main__":
    sys.exit(main())
