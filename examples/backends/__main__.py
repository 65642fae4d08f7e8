# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Sends the quickstart's trace to a backend, or prints it."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from settings import BACKENDS, MissingCredentialError

from _shared.collector import Collector
from _shared.local import argument_parser, check_spans, command, listens, loopback, print_trees, run
from _shared.server import ChatServer

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "quickstart"
EXPECTED_SPANS = ("answer question", "modelforge.get_llm", "langchain.llm.invoke")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the application's exit code, or 1 if its telemetry is missing."""
    options = _parse(arguments)
    if options.backend:
        print(*(f"$ export {name}={value}" for name, value in BACKENDS[options.backend].settings.items()), sep="\n")
    collector = Collector()
    with loopback("backends", ChatServer(), collector) as variables:
        variables.update(options.settings)
        if options.content:
            variables["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
        shown = command(options.programmatic)
        print("$", *shown, flush=True)
        status = run(shown, HERE if options.programmatic else QUICKSTART, variables)

    if options.backend:
        return status
    print_trees(collector.spans)
    return status or check_spans(collector.spans, EXPECTED_SPANS)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser("backends", __doc__)
    parser.add_argument(
        "backend", nargs="?", choices=BACKENDS, help="the backend to send to: %(choices)s", metavar="BACKEND"
    )
    parser.add_argument("--content", action="store_true", help="also send prompts and answers")
    options = parser.parse_args(arguments)
    options.settings = {}
    if options.backend:
        try:
            options.settings = BACKENDS[options.backend].environment(os.environ)
        except MissingCredentialError as error:
            parser.error(f"{options.backend} needs {error}: set it and run this again")
        _check_endpoint(parser, options.settings)
    return options


def _check_endpoint(parser: argparse.ArgumentParser, settings: Mapping[str, str]) -> None:
    """Exit with an error if nothing listens at a plain HTTP endpoint. Others may be behind a proxy."""
    for name, value in settings.items():
        if name.endswith("_ENDPOINT") and value.startswith("http:") and not listens(value):
            parser.error(f"nothing listens at {value}")


if __name__ == "__main__":
    sys.exit(main())
