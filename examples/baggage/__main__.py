# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs two services and prints the tenant and the user of each model call."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from _shared.collector import Collector
from _shared.local import argument_parser, command, loopback, print_trees, run, without_parts
from _shared.server import ChatServer
from _shared.tree import Span, span_details

HERE = Path(__file__).parent
KEYS = ("tenant", "user.id")
EXPECTED = [["acme", "ada"], ["acme", "ada"], ["globex", "grace"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them, and return their exit code, or 1 if a model call has the wrong tenant or user."""
    programmatic = argument_parser("baggage", __doc__).parse_args(arguments).programmatic
    collector = Collector()
    with loopback("baggage", ChatServer(), collector) as variables:
        if not programmatic:
            variables["OTEL_PYTHON_MODELFORGE_BAGGAGE_KEYS"] = ",".join(KEYS)
        status = run(command(programmatic), HERE, variables)

    print_trees(without_parts(collector.spans), _details)
    callers = sorted(_entries(span) for span in collector.spans if span.name == "langchain.llm.invoke")
    if status == 0 and callers != EXPECTED:
        print(f"\nerror: the model calls have {callers}, expected {EXPECTED}", file=sys.stderr)
        return 1
    return status


def _entries(span: Span) -> list[str]:
    return [str(span.attributes[key]) for key in KEYS if key in span.attributes]


def _details(span: Span) -> Iterator[str]:
    yield from _entries(span)
    yield from span_details(span)


if __name__ == "__main__":
    sys.exit(main())
