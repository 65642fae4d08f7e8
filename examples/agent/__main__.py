# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs a LangGraph agent and prints the traces of its model calls and tools."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backend import Backend

from _shared.collector import Collector
from _shared.local import argument_parser, check_spans, command, loopback, print_trees, run, write_config

HERE = Path(__file__).parent
MODELS = {"agent": {"api_model_name": "gpt-4o-mini"}, "packer": {"api_model_name": "gpt-4.1-nano"}}
EXPECTED_SPANS = ("request", "async request", "modelforge.get_llm")
# The only OpenTelemetry variable taken from the user: it decides which instrumentation creates the model spans.
DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the agent's exit code, or 1 if its telemetry is missing."""
    programmatic = argument_parser("agent", __doc__).parse_args(arguments).programmatic
    backend, collector = Backend(), Collector()
    with loopback("agent", backend, collector) as variables:
        write_config(Path(variables["HOME"]), backend.base_url, "agent", **MODELS)
        variables["WEATHER_URL"] = f"{backend.url}/weather"
        variables[DISABLED] = os.environ.get(DISABLED, "")
        status = run(command(programmatic), HERE, variables)

    print_trees(collector.spans)
    return status or check_spans(collector.spans, EXPECTED_SPANS)


if __name__ == "__main__":
    sys.exit(main())
