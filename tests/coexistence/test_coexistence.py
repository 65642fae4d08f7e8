# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Other instrumentations in the same process: one inference span per call, tokens counted once, and a correct tree.

Each combination runs in its own process, where everything is instrumented and uninstrumented in every order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from support import company
from support.company import CALLS, OURS, STEPS, THEIRS, steps_of

OFFICIAL = [("langchain",), ("openai",), ("langchain", "openai")]
THIRD_PARTIES = [
    ("openllmetry-langchain", "openllmetry-openai"),
    ("openllmetry-openai",),
    ("openinference-langchain",),
    ("langsmith",),
    ("langsmith-otel",),
]
SCOPE = "opentelemetry_instrumentation_modelforge"
FAMILY = (SCOPE, "opentelemetry.instrumentation.genai")
HTTP = ("opentelemetry.instrumentation.httpx", "opentelemetry.instrumentation.requests")
INPUT_TOKENS, OUTPUT_TOKENS = 11, 7
INSTRUMENTED = dict(STEPS)

Way = dict[str, Any]
Span = dict[str, Any]


@cache
def _process(names: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, company.__file__, *names],
        check=False,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@cache
def _run(names: tuple[str, ...]) -> dict[str, Any]:
    if reason := company.missing(names):
        pytest.skip(reason)
    process = _process(names)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def _recorded(names: tuple[str, ...], step: str) -> dict[str, Way]:
    return _run(names)["steps"][step]


def _problems(ways: dict[str, Way], check: Callable[[str, Way], object]) -> dict[str, str]:
    problems = {}
    for name, way in ways.items():
        try:
            check(name, way)
        except AssertionError as error:
            problems[name] = str(error)
    return problems


def _inferences(way: Way) -> list[Span]:
    return [
        span
        for span in way["spans"]
        if span["scope"].startswith(FAMILY) and span["attributes"].get("gen_ai.operation.name") == "chat"
    ]


def _ancestors(span: Span, spans: list[Span]) -> Iterator[Span]:
    by_id = {span["id"]: span for span in spans}
    while (parent := by_id.get(span["parent"])) is not None:
        yield parent
        span = parent


def _provider_requests(way: Way) -> list[Span]:
    return [
        span
        for span in way["spans"]
        if span["scope"].startswith(HTTP)
        and span["attributes"]["http.url"].endswith(("/chat/completions", "/api/chat"))
    ]


def _is_answered(name: str) -> bool:
    return not name.startswith(("error", "closed", "cancelled"))


def _has_usage(name: str) -> bool:
    return _is_answered(name) and not name.startswith("unnamed")


def _tokens(way: Way, scopes: tuple[str, ...] = FAMILY) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for point in way["metrics"]:
        if point["name"] == "gen_ai.client.token.usage" and point["scope"].startswith(scopes):
            counts[point["attributes"]["gen_ai.token.type"]] += point["sum"]
    return dict(counts)


def _steps(combinations: list[tuple[str, ...]], *instrumented: set[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("names", "step"),
        [
            pytest.param(names, step, id=f"{'+'.join(names)}: {step}")
            for names in combinations
            for step, now in steps_of(names)
            if now in instrumented
        ],
    )


ON = ({OURS}, {OURS, THEIRS})


@_steps(OFFICIAL + THIRD_PARTIES, *ON)
def test_a_call_has_one_inference_span(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        spans = [(span["scope"], span["name"]) for span in _inferences(way)]
        assert len(spans) == CALLS[name], spans

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL + THIRD_PARTIES, *ON)
def test_the_inference_span_has_the_attributes_that_only_modelforge_knows(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        provider, model, llm_type = (
            ("ollama", "llama3", "ollama") if name.startswith("ollama") else ("openai", "fast", "openai_compatible")
        )
        for span in _inferences(way):
            attributes = span["attributes"]
            assert (attributes.get("modelforge.provider"), attributes.get("modelforge.model")) == (provider, model)
            if not name.startswith("unnamed"):
                assert attributes.get("modelforge.llm_type") == llm_type
            if provider == "openai" and _has_usage(name):
                cost = {key: value for key, value in attributes.items() if key.startswith("gen_ai.usage.cost")}
                assert cost.pop("gen_ai.usage.cost.amount", 0) > 0
                assert cost == {"gen_ai.usage.cost.currency": "USD", "gen_ai.usage.cost.source": "local"}

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL + THIRD_PARTIES, *ON)
def test_tokens_and_cost_are_counted_once(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        if _has_usage(name):
            calls = CALLS[name]
            assert _tokens(way) == {"input": calls * INPUT_TOKENS, "output": calls * OUTPUT_TOKENS}
            on_spans = sum(span["attributes"].get("gen_ai.usage.cost.amount", 0) for span in _inferences(way))
            costs = [point["sum"] for point in way["metrics"] if point["name"] == "gen_ai.client.operation.cost"]
            assert sum(costs) == pytest.approx(on_spans)

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL, *ON)
def test_spans_are_caller_inference_request(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        spans, inferences = way["spans"], _inferences(way)
        ids = {span["id"] for span in inferences}
        for span in inferences:
            ancestors = list(_ancestors(span, spans))
            assert [ancestor["name"] for ancestor in ancestors if ancestor["id"] in ids] == []
            assert [ancestor["name"] for ancestor in ancestors][-1:] == ["caller"]
            assert len(ancestors) == 1 or ("langchain" in names and THEIRS in INSTRUMENTED[step])
        requests = _provider_requests(way)
        # The request of a cancelled call or an unfinished stream may end after the recording.
        assert len(requests) == CALLS[name] or name.startswith(("closed", "cancelled", "unnamed"))
        assert {span["parent"] for span in requests} <= ids

    assert _problems(_recorded(names, step), check) == {}


@_steps(THIRD_PARTIES, *ON)
def test_spans_of_third_parties_do_not_break_the_tree(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        spans, inferences = way["spans"], _inferences(way)
        ids = {span["id"] for span in inferences}
        for span in inferences:
            assert [ancestor["name"] for ancestor in _ancestors(span, spans)][-1:] == ["caller"]
        assert {span["parent"] for span in _provider_requests(way)} <= ids

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL + THIRD_PARTIES, *ON)
def test_an_inference_span_fails_exactly_if_its_call_fails(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        statuses = {span["status"] for span in _inferences(way)}
        if name.startswith("error"):
            assert statuses == {"ERROR"}
        elif _is_answered(name):
            assert statuses == {"UNSET"}

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL + THIRD_PARTIES, *ON)
def test_nothing_is_logged(names: tuple[str, ...], step: str) -> None:
    official = names in OFFICIAL

    def check(name: str, way: Way) -> None:
        assert [text for text in way["logged"] if text.startswith("opentelemetry" if official else SCOPE)] == []

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL + THIRD_PARTIES, {THEIRS}, set())
def test_we_record_nothing_after_uninstrumenting(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        if not name.startswith("unnamed"):
            # The unnamed model has a callback passed by hand.
            assert [span["name"] for span in way["spans"] if span["scope"] == SCOPE] == []
            assert [point["name"] for point in way["metrics"] if point["scope"] == SCOPE and point["sum"]] == []
            assert [key for span in way["spans"] for key in span["attributes"] if key.startswith("modelforge.")] == []

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL, {THEIRS})
def test_the_others_keep_working_after_we_are_uninstrumented(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        if name.startswith("unnamed") or (name.startswith("ollama") and "langchain" not in names):
            return
        spans = _inferences(way)
        assert len(spans) == CALLS[name]
        assert {span["parent"] for span in _provider_requests(way)} <= {span["id"] for span in spans}
        if _has_usage(name) and not name.startswith("ollama"):
            assert _tokens(way) == {"input": CALLS[name] * INPUT_TOKENS, "output": CALLS[name] * OUTPUT_TOKENS}

    assert _problems(_recorded(names, step), check) == {}


@_steps(OFFICIAL, set())
def test_nothing_is_recorded_after_all_are_uninstrumented(names: tuple[str, ...], step: str) -> None:
    def check(name: str, way: Way) -> None:
        if not name.startswith("unnamed"):
            assert {span["scope"] for span in way["spans"]} <= {"caller", *HTTP}

    assert _problems(_recorded(names, step), check) == {}


@pytest.mark.parametrize("names", THIRD_PARTIES, ids="+".join)
def test_third_parties_record_as_much_as_before(names: tuple[str, ...]) -> None:
    recorded = _run(names)
    if names == ("langsmith",):
        assert "/runs/multipart" in recorded["langsmith"]
    elif names == ("langsmith-otel",):
        assert "langsmith" in recorded["later"]
    elif names == ("openllmetry-openai",):
        # It is suppressed because it honors a key that we set.
        assert _third_party_spans(recorded, f"-{OURS}") > 0
        assert _third_party_spans(recorded, f"+{THEIRS}") == 0
    else:
        assert _third_party_spans(recorded, f"+{THEIRS}") == _third_party_spans(recorded, f"-{OURS}") > 0


def _third_party_spans(recorded: dict[str, Any], step: str) -> int:
    spans = recorded["steps"][step]["invoke"]["spans"]
    return sum(not span["scope"].startswith(("caller", *FAMILY, *HTTP)) for span in spans)
