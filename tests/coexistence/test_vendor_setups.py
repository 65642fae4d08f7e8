# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Vendors' setups: which model spans a call has in addition to ours, and the switch that leaves only one.

Each setup runs in its own process, with the switch and without.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support import vendor_setups

OURS = "opentelemetry_instrumentation_modelforge"
HTTP = "opentelemetry.instrumentation.httpx"

# The module that a setup needs, and the scopes of the spans that a call has in addition to ours without the switch.
SETUPS = {
    "langfuse": ("langfuse", ["langfuse-sdk"]),
    "logfire": ("logfire", ["logfire.openai"]),
    "logfire run": ("logfire", ["logfire.openai"]),
    "openlit": ("openlit", ["openlit.instrumentation.langchain"]),
    "phoenix": ("phoenix.otel", ["openinference.instrumentation.langchain", "openinference.instrumentation.openai"]),
    "traceloop": ("traceloop.sdk", ["opentelemetry.instrumentation.langchain"]),
}
# The spans that a vendor keeps separate from OpenTelemetry, for one call.
APART = {
    "ddtrace": ("ddtrace", {"langchain.request", "openai.request"}),
    "mlflow": ("mlflow.langchain", {"ChatOpenAI", "Completions", "AsyncCompletions"}),
}
DATADOGS_SWITCH = {"DD_TRACE_LANGCHAIN_ENABLED": "false", "DD_TRACE_OPENAI_ENABLED": "false"}


def launcher(name: str) -> str:
    found = shutil.which(name, path=Path(sys.executable).parent)
    assert found is not None
    return found


@cache
def run(name: str, *, switched: bool) -> dict[str, Any]:
    module = {**SETUPS, **APART}[name][0]
    try:
        installed = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        installed = False
    if not installed:
        pytest.skip(f"{module} is not installed")
    command = [sys.executable, vendor_setups.__file__, name, *(["switched"] if switched else [])]
    env = {**os.environ, "PYTHONWARNINGS": "ignore", "TRACELOOP_TELEMETRY": "false"}
    if name == "ddtrace":
        command.insert(0, launcher("ddtrace-run"))
        env |= DATADOGS_SWITCH if switched else {}
    if name == "logfire run":
        exclusion = ["--exclude=openai"] if switched else []
        command[:1] = [launcher("logfire"), "run", "--no-summary", *exclusion]
        env["LOGFIRE_SEND_TO_LOGFIRE"] = "false"
    process = subprocess.run(command, check=False, env=env, capture_output=True, text=True, timeout=180)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*SETUPS, *APART])
def test_with_the_switch_a_call_has_one_model_span_in_the_right_place(name: str) -> None:
    for way, spans in run(name, switched=True)["ways"].items():
        by_scope = {span["scope"]: span for span in spans}
        assert sorted(by_scope) == sorted(["caller", OURS, HTTP]), way
        assert len(spans) == 3, way
        assert by_scope[OURS]["parent"] == by_scope["caller"]["id"], way
        assert by_scope[HTTP]["parent"] == by_scope[OURS]["id"], way
        assert by_scope[OURS]["tokens"] == 11, way


@pytest.mark.parametrize("name", APART)
def test_with_the_switch_the_vendor_keeps_no_model_span_either(name: str) -> None:
    assert {span["name"] for span in run(name, switched=True)["vendor"]} <= {"http.request"}


@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_without_the_switch_the_vendor_adds_model_spans_to_ours(name: str, way: str) -> None:
    spans = run(name, switched=False)["ways"][way]
    scopes = {span["scope"] for span in spans} - {"caller", OURS, HTTP}
    assert sorted(scopes) == SETUPS[name][1]
    (ours,) = [span for span in spans if span["scope"] == OURS]
    # All of them are below the caller.
    ids = {span["id"] for span in spans}
    assert ours["parent"] in ids
    assert {span["parent"] for span in spans} <= {None, *ids}


@pytest.mark.parametrize("name", APART)
def test_without_the_switch_the_vendor_keeps_separate_model_spans(name: str) -> None:
    recorded = run(name, switched=False)
    assert {span["name"] for span in recorded["vendor"]} - {"http.request"} == APART[name][1]
    for spans in recorded["ways"].values():
        assert sorted(span["scope"] for span in spans) == sorted(["caller", OURS, HTTP])


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
def test_openlit_exports_no_span_of_an_async_call_and_ours_has_an_unknown_parent(way: str) -> None:
    spans = run("openlit", switched=False)["ways"][way]
    (ours,) = [span for span in spans if span["scope"] == OURS]
    assert ours["parent"] not in {None, *(span["id"] for span in spans)}
