# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Printed trees of spans."""

from __future__ import annotations

import re


def compact(text: str) -> list[str]:
    """Return the lines of a text with exactly two spaces between columns."""
    return [re.sub(r"(?<=[^\s│])  +", "  ", line) for line in text.splitlines()]
