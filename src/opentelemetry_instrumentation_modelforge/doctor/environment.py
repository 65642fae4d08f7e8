# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Environment variables, read as OpenTelemetry's specification requires."""

import os


def variable(name: str) -> str:
    """Return an environment variable without surrounding space; an empty one counts as not set."""
    return os.environ.get(name, "").strip()


def is_true(name: str) -> bool:
    """Return whether an environment variable is ``true`` in any case."""
    return variable(name).lower() == "true"


def otlp_variable(signal: str, name: str) -> str:
    """Return a variable of the OTLP exporters: the one for the signal, else the one for all signals."""
    return variable(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}") or variable(f"OTEL_EXPORTER_OTLP_{name}")
