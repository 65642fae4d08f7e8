# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A small run of the load test of `load.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.environment import lacking
from support.examples import missing

if reason := missing() or lacking("fastapi", "uvicorn", instrumentors=("fastapi",)):
    pytest.skip(reason, allow_module_level=True)

from support import load


def test_under_load_each_request_has_one_correct_trace(tmp_path: Path) -> None:
    result = load.run(tmp_path, requests=300, clients=32)
    assert result.mistakes == {}
    assert result.strangers == 0
    assert sum(result.outcomes.values()) == 300
    assert "Telemetry fault" not in result.log
    assert "detach" not in result.log
