"""The example application, run as `./run demo` runs it."""

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
        # As wide as it takes for a span to stay in its line.
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
    """Run the example with another application."""
    monkeypatch.syspath_prepend(EXAMPLES)
    names = runpy.run_path(str(QUICKSTART / "__main__.py"), run_name="quickstart")
    monkeypatch.setitem(names["main"].__globals__, "HERE", tmp_path)

    def main(application: str, *arguments: str) -> int:
        (tmp_path / "programmatic.py").write_text(application)
        return names["main"](["--programmatic", *arguments])

    return main


def test_real_provider_is_asked_with_the_users_key(
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


def test_fails_as_the_application_does(main: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert main("import sys; print('no such city', file=sys.stderr); sys.exit(3)") == 3
    error = capfd.readouterr().err
    assert error.startswith("no such city\n")
    assert "python programmatic.py failed with exit code 3" in error


def test_fails_where_no_span_arrives(main: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
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


def test_tree_orders_by_start_and_shows_orphans_as_roots() -> None:
    spans = [
        tree.Span(name="late", span_id="3", parent_id="1", start_ns=20, end_ns=30),
        tree.Span(name="orphan", span_id="5", parent_id="lost", start_ns=90, end_ns=1_500_000_090),
        tree.Span(name="early", span_id="2", parent_id="1", start_ns=10, end_ns=20),
        tree.Span(name="inner", span_id="4", parent_id="2", start_ns=11, end_ns=12),
        tree.Span(name="root", span_id="1", start_ns=0, end_ns=120_000_000),
    ]
    assert tree.format_trees(spans) == [
        "root            120 ms",
        "├─ early        0.0 ms",
        "│  └─ inner     0.0 ms",
        "└─ late         0.0 ms",
        "orphan         1500 ms",
    ]


def test_tree_of_nothing_is_empty() -> None:
    assert tree.format_trees([]) == []
    assert tree.format_metrics([]) == []


def test_tree_numbers_the_spans_that_are_linked_to() -> None:
    spans = [
        tree.Span(name="first", span_id="1", **SPAN),
        tree.Span(name="second", span_id="2", **SPAN),
        tree.Span(name="call", span_id="3", links=("2",), **SPAN),
        tree.Span(name="call", span_id="4", links=("elsewhere",), **SPAN),
    ]
    assert [line.split("  ")[0] for line in tree.format_trees(spans)] == [
        "first",
        "second [1]",
        "call → [1]",
        "call → [elsewhere]",
    ]


def test_tree_puts_details_that_do_not_fit_in_further_lines() -> None:
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "a-model-with-a-long-name",
        "gen_ai.usage.output_tokens": 1234,
        "gen_ai.usage.cost.amount": 0.5,
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.response.finish_reasons": ("length", "stop"),
    }
    spans = [
        tree.Span(name="call", span_id="1", attributes=attributes, **SPAN),
        tree.Span(name="POST", span_id="2", parent_id="1", attributes={"url.full": "http://" + 40 * "x"}, **SPAN),
    ]
    lines = tree.format_trees(spans, width=50)
    assert lines == [
        "call     a-model-with-a-long-name           2.0 ms",
        "│        ? → 1,234 tokens · $0.50",
        "│        first chunk 250 ms · length, stop",
        "└─ POST  http://xxxxxxxxxxxxxxxxxxxxxxxxx…  2.0 ms",
    ]


def test_tree_marks_failed_spans() -> None:
    spans = [
        tree.Span(name="request", span_id="1", failed=True, **SPAN),
        tree.Span(name="call", span_id="2", failed=True, attributes={"error.type": "openai.APIError"}, **SPAN),
        tree.Span(name="call", span_id="3", **SPAN),
    ]
    assert tree.format_trees(spans, mark_failed=lambda line: f"!{line}!") == [
        "!request  failed                   2.0 ms!",
        "!call     failed: openai.APIError  2.0 ms!",
        "call                              2.0 ms",
    ]


def test_tree_shows_the_details_it_is_given() -> None:
    spans = [tree.Span(name="call", span_id="1", attributes={"tenant": "acme"}, **SPAN)]
    assert tree.format_trees(spans, details=lambda span: span.attributes.values()) == ["call  acme  2.0 ms"]


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


@pytest.mark.parametrize(("seconds", "text"), [(0.0004, "0.4 ms"), (0.0123, "12 ms"), (2.5, "2500 ms"), (61, "61.0 s")])
def test_durations(seconds: float, text: str) -> None:
    assert tree.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "$0.00"), (1.5, "$1.50"), (0.012, "$0.012"), (0.0000273, "$0.000027")],
)
def test_dollars(amount: float, text: str) -> None:
    assert tree.format_dollars(amount) == text
