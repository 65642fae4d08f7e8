# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The library that this package instruments."""

from typing import Final

_instruments: Final = ("model-forge-llm >= 2.0.0, < 3",)
