# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The example application, run in the same way as by `./run demo`."""

from __future__ import annotations

import gzip
import os
import re
import runpy
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from examples._shared import tree
from examples._shared.collector import Collector
from examples._shared.local import serving
from support import EXAMPLES
from support.examples import TREE, missing, without_numbers

QUICKSTART = EXAMPLES / "quickstart"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES, "quickstart", *arguments],
        capture_output=True,
        check=False,
        encoding="utf-8",
        # Wide enough that each span fits on one line.
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=180,
    )


@pytest.fixture(scope="module")
def quickstart() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture(scope="module", params=[(), ("--programmatic",)], ids=["zero-code", "programmatic"])
def output(request: pytest.FixtureRequest, quickstart: None) -> str:
    result = run(*request.param)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_prints_what_the_application_prints(output: str) -> None:
    assert "Dressing for Lisbon\nWhat should I wear in Lisbon today?\nLight clothes, sunglasses" in output


def test_prints_the_trace_as_a_tree(output: str) -> None:
    _, tree, _ = output.split("\n\n")
    assert without_numbers(tree) == TREE


def test_prints_metrics_that_agree_with_the_tree(output: str) -> None:
    _, tree, metrics = output.split("\n\n")
    tokens = [(int(read), int(written)) for read, written in re.findall(r"(\d+) → (\d+) tokens", tree)]
    read, written = (sum(counts) for counts in zip(*tokens, strict=True))
    values = dict(re.split(r" {2,}", line, maxsplit=1) for line in metrics.splitlines())
    assert values["gen_ai.client.token.usage"] == f"input {read}  output {written}"
    assert values["gen_ai.client.operation.duration"].startswith("count 3  mean ")
    assert values["gen_ai.client.operation.time_to_first_chunk"].startswith("count 1  mean ")
    assert values["gen_ai.client.operation.cost"].startswith("count 3  sum $0.0000")
    assert values["modelforge.client.active_streams"] == "0"


def test_real_provider_needs_a_key() -> None:
    result = run("--real")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "--real needs an API key: set OPENAI_API_KEY" in result.stderr


# --- In this process ---


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run the example with a different application."""
    monkeypatch.syspath_prepend(EXAMPLES)
    names = runpy.run_path(str(QUICKSTART / "__main__.py"), run_name="quickstart")
    monkeypatch.setitem(names["main"].__globals__, "HERE", tmp_path)

    def main(application: str, *arguments: str) -> int:
        (tmp_path / "programmatic.py").write_text(application)
        return names["main"](["--programmatic", *arguments])

    return main


def test_real_provider_is_called_with_the_users_key(
    main: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    application = """
import json, os, pathlib
config = json.loads((pathlib.Path.home() / ".config/model-forge/config.json").read_text())
print(os.environ["MODELFORGE_OPENAI_API_KEY"], config["current_model"], config["providers"]["openai"]["base_url"])
"""
    main(application, "--real", "--model", "gpt-9")
    expected = "sk-mine {'provider': 'openai', 'model': 'gpt-9'} https://api.openai.com/v1"
    assert expected in capfd.readouterr().out


def test_fails_with_the_exit_code_of_the_application(
    main: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main("import sys; print('no such city', file=sys.stderr); sys.exit(3)") == 3
    error = capfd.readouterr().err
    assert error.startswith("no such city\n")
    assert "python programmatic.py failed with exit code 3" in error


def test_fails_if_no_span_arrives(main: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert main("") == 1
    assert "error: 0 spans arrived, without modelforge.get_llm, langchain.llm.invoke.\n" in capfd.readouterr().err


def test_collector_reads_compressed_bodies() -> None:
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(name="call", span_id=b"\1" * 8, start_time_unix_nano=1, end_time_unix_nano=2)
    )
    span.attributes.add(key="reasons").value.array_value.values.add(string_value="stop")
    span.links.add(span_id=b"\2" * 8)
    with Collector() as collector, serving(collector):
        body = gzip.compress(request.SerializeToString())
        post = urllib.request.Request(f"{collector.endpoint}/v1/traces", body, {"Content-Encoding": "gzip"})
        urllib.request.urlopen(post).close()
    (received,) = collector.spans
    assert (received.name, received.span_id, received.parent_id) == ("call", "01" * 8, None)
    assert received.attributes == {"reasons": ("stop",)}
    assert received.links == ("02" * 8,)


# --- The tree ---

SPAN = {"start_ns": 0, "end_ns": 2_000_000}


def test_tree_looks_like_that_of_the_package() -> None:
    spans = [
        tree.Span(name="get_llm", span_id="2", parent_id="1", start_ns=10, end_ns=20),
        tree.Span(name="call", span_id="3", parent_id="1", start_ns=20, end_ns=30, links=("2",), failed=True),
        tree.Span(name="request", span_id="1", attributes={"http.status_code": 200}, start_ns=0, end_ns=120_000_000),
    ]
    assert tree.format_trees(spans, color=True) == [
        "request         200     120 ms",
        "├─ get_llm [1]          0.0 ms",
        "\x1b[31m└─ call → [1]   failed  0.0 ms\x1b[0m",
    ]


def test_nothing_is_shown_without_spans_and_metrics() -> None:
    assert tree.format_trees([]) == []
    assert tree.format_metrics([]) == []


def test_tree_shows_the_details_it_is_given() -> None:
    spans = [tree.Span(name="call", span_id="1", attributes={"tenant": "acme"}, **SPAN)]
    assert tree.format_trees(spans, lambda span: span.attributes.values()) == ["call  acme  2.0 ms"]


def test_metrics_are_summed_over_their_attributes() -> None:
    def tokens(kind: str, total: int) -> Any:
        return tree.Point(total=total, count=1, attributes={"gen_ai.token.type": kind})

    metrics = [
        tree.Metric(
            name="use", unit="{token}", points=[tokens("input", 2000), tokens("output", 5), tokens("input", 1)]
        ),
        tree.Metric(name="duration", unit="s", points=[tree.Point(total=3, count=2), tree.Point(total=3, count=1)]),
        tree.Metric(name="http", unit="ms", points=[tree.Point(total=9, count=2)]),
        tree.Metric(name="cost", unit="USD", points=[tree.Point(total=0.00123, count=2)]),
        tree.Metric(name="open", unit="{stream}", points=[tree.Point(total=2), tree.Point(total=-2)]),
    ]
    assert tree.format_metrics(metrics) == [
        "cost      count 2  sum $0.0012",
        "duration  count 3  mean 2000 ms",
        "http      count 2  mean 4.5 ms",
        "open      0",
        "use       input 2,001  output 5",
    ]
