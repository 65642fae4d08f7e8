# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The example agent: model spans are below the caller of the model, and spans of tools are not below a model."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from support import EXAMPLES
from support.environment import lacking
from support.examples import missing, without_numbers
from support.models import OPENAI_KEY, write_config
from support.telemetry import Telemetry

if reason := missing() or lacking("langgraph.prebuilt"):
    pytest.skip(reason, allow_module_level=True)

EXAMPLE = EXAMPLES / "agent"
MODEL = ("langchain.llm.invoke", "agent", [("POST", None, [])])
PACKER = ("langchain.llm.invoke", "packer", [("POST", None, [])])
ALONE = [
    ("modelforge.get_llm", "agent", []),
    MODEL,
    ("GET", None, []),
    MODEL,
    ("modelforge.get_llm", "packer", []),
    PACKER,
    MODEL,
]
CHAT = ("chat gpt-4o-mini", "agent", [("POST", None, [])])
WITH_LANGCHAIN = [
    ("modelforge.get_llm", "agent", []),
    (
        "invoke_agent",
        None,
        [
            CHAT,
            ("execute_tool weather", None, [("GET", None, [])]),
            CHAT,
            (
                "execute_tool packing",
                None,
                [
                    ("modelforge.get_llm", "packer", []),
                    ("chat gpt-4.1-nano", "packer", [("POST", None, [])]),
                ],
            ),
            CHAT,
        ],
    ),
]
TREE = """\
├─ modelforge.get_llm [N]: openai · agent · openai_compatible
├─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N · tool_calls
│  └─ POST: N · http://N:N/v1/chat/completions
├─ GET: N · http://N:N/weather/Lisbon
├─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N · tool_calls
│  └─ POST: N · http://N:N/v1/chat/completions
├─ modelforge.get_llm [N]: openai · packer · openai_compatible
├─ langchain.llm.invoke → [N]: gpt-N-nano · N → N tokens · $N
│  └─ POST: N · http://N:N/v1/chat/completions
└─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N
   └─ POST: N · http://N:N/v1/chat/completions
"""


def load(name: str) -> ModuleType:
    """Load a module of the example, because other examples have modules of the same name."""
    spec = importlib.util.spec_from_file_location(f"agent_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def app(redirected: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The agent, in front of its backend."""
    with load("backend").Backend() as backend:
        threading.Thread(target=backend.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("WEATHER_URL", f"{backend.url}/weather")
        provider = {
            "llm_type": "openai_compatible",
            "base_url": f"{backend.url}/v1",
            "auth_strategy": "api_key",
            "auth_data": {"api_key": OPENAI_KEY},
            "models": {"agent": {"api_model_name": "gpt-4o-mini"}, "packer": {"api_model_name": "gpt-4.1-nano"}},
        }
        write_config({"providers": {"openai": provider}})
        yield load("app")
        backend.shutdown()


@pytest.fixture
def with_langchain(request: pytest.FixtureRequest) -> Iterator[None]:
    """The official LangChain instrumentation, instrumented before ours or after it."""
    langchain = pytest.importorskip("opentelemetry.instrumentation.genai.langchain")
    instrumentor = langchain.LangChainInstrumentor()
    providers = {name: request.getfixturevalue(name) for name in ("tracer_provider", "meter_provider")}
    instrumentor.instrument(**providers, skip_dep_check=True)
    yield
    instrumentor.uninstrument()


def ways(app: ModuleType) -> dict[str, Callable[[], str]]:
    return {"invoke": app.answer, "ainvoke": lambda: asyncio.run(app.aanswer())}


def tree(spans: list[ReadableSpan], parent: ReadableSpan) -> list[tuple[str, Any, list[Any]]]:
    """Return the spans below one, in start order: name, ModelForge's name of the model, and the spans below them."""
    return [
        (span.name, (span.attributes or {}).get("modelforge.model"), tree(spans, span))
        for span in spans
        if span.parent is not None and span.parent.span_id == parent.context.span_id
    ]


def below_request(telemetry: Telemetry, answer: Callable[[], str]) -> list[tuple[str, Any, list[Any]]]:
    with telemetry.tracer.start_as_current_span("request"):
        assert answer() == "It will be wet in Lisbon: take a raincoat and dry shoes."
    spans = telemetry.spans()
    return tree(spans, telemetry.span("request"))


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_alone_all_spans_are_below_the_caller_and_no_tool_is_below_a_model(
    app: ModuleType, way: str, instrumented: Telemetry, nothing_left: None
) -> None:
    assert below_request(instrumented, ways(app)[way]) == ALONE


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_model_spans_are_below_the_official_instrumentations_node_or_tool(
    app: ModuleType, way: str, instrumented: Telemetry, with_langchain: None, nothing_left: None
) -> None:
    assert below_request(instrumented, ways(app)[way]) == WITH_LANGCHAIN


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_model_spans_are_below_the_node_or_tool_if_the_official_instrumentation_came_first(
    app: ModuleType, way: str, with_langchain: None, instrumented: Telemetry, nothing_left: None
) -> None:
    assert below_request(instrumented, ways(app)[way]) == WITH_LANGCHAIN


@pytest.mark.parametrize("arguments", [(), ("--programmatic",)], ids=["zero-code", "programmatic"])
def test_the_example_shows_both_requests(arguments: tuple[str, ...]) -> None:
    result = subprocess.run(
        [sys.executable, EXAMPLES, "agent", *arguments],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "200", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "langchain,openai"},
        timeout=180,
    )
    assert result.returncode == 0, result.stderr
    answers, traces = result.stdout.split("\n\n")
    assert answers.splitlines() == ["It will be wet in Lisbon: take a raincoat and dry shoes."] * 2
    assert without_numbers(traces) == f"request\n{TREE}async request\n{TREE}"
