# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs an application with three model calls and prints its trace and its metrics."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from _shared.collector import Collector
from _shared.local import argument_parser, check_spans, command, loopback, print_trees, run, write_config
from _shared.server import ChatServer
from _shared.tree import format_metrics

HERE = Path(__file__).parent
API_KEYS = ("MODELFORGE_OPENAI_API_KEY", "OPENAI_API_KEY")
EXPECTED_SPANS = ("modelforge.get_llm", "langchain.llm.invoke")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the application's exit code, or 1 if its telemetry is missing."""
    options = _parse(arguments)
    chat, collector = ChatServer(), Collector()
    with loopback("quickstart", chat, collector) as variables:
        base_url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") if options.real else chat.base_url
        write_config(Path(variables["HOME"]), base_url, options.model)
        variables["MODELFORGE_OPENAI_API_KEY"] = options.key
        shown = command(options.programmatic)
        print("$", *shown, flush=True)
        status = run(shown, HERE, variables)

    print_trees(collector.spans)
    if collector.metrics:
        print("", *format_metrics(collector.metrics), sep="\n")
    return status or check_spans(collector.spans, EXPECTED_SPANS)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argument_parser("demo", __doc__)
    parser.add_argument(
        "--real", action="store_true", help="send the requests to OpenAI, with the key in OPENAI_API_KEY"
    )
    parser.add_argument("--model", default="gpt-4o-mini", help="the model to use (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.key = next(filter(None, map(os.environ.get, API_KEYS)), None) if options.real else "no-key-needed"
    if options.key is None:
        parser.error(
            "--real needs an API key: set OPENAI_API_KEY (or MODELFORGE_OPENAI_API_KEY) to yours and run it again."
            " Without --real no key is needed."
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
