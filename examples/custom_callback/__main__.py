# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Traces one model with a callback, without patching, and prints the trace."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from _shared.collector import Collector
from _shared.local import check_spans, loopback, print_trees, run
from _shared.server import ChatServer
from _shared.tree import Span, span_details

HERE = Path(__file__).parent
EXPECTED_SPANS = ("answer questions", "langchain.llm.invoke", "langchain.llm.invoke")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the application's exit code, or 1 if its telemetry is missing."""
    argparse.ArgumentParser(prog="./run custom_callback", description=__doc__).parse_args(arguments)
    collector = Collector()
    with loopback("custom_callback", ChatServer(), collector) as variables:
        status = run(["python", "app.py"], HERE, variables)

    print_trees(collector.spans, _details)
    return status or check_spans(collector.spans, EXPECTED_SPANS)


def _details(span: Span) -> Iterator[str]:
    yield from (f"{name} {value}" for name, value in span.attributes.items() if name.startswith("app."))
    yield from span_details(span)


if __name__ == "__main__":
    sys.exit(main())
