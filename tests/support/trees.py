# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Printed trees of spans."""

from __future__ import annotations

import re


def compact(text: str) -> list[str]:
    """The lines of a text with two spaces between columns of whatever width."""
    return [re.sub(r"(?<=[^\s│])  +", "  ", line) for line in text.splitlines()]
