# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Environment variables, read as OpenTelemetry's specification says."""

import os


def variable(name: str) -> str:
    """Return an environment variable without surrounding space; an empty one is one that is not set."""
    return os.environ.get(name, "").strip()


def is_true(name: str) -> bool:
    """Return whether an environment variable is ``true`` in any case."""
    return variable(name).lower() == "true"
