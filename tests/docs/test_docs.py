# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The documentation: its code runs, and its reference names exactly what is emitted."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.caches import InMemoryCache
from pytest_examples import CodeExample, EvalExample

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
from opentelemetry_instrumentation_modelforge.config import check_keywords, resolve
from support import DOCS, ROOT
from support.documentation import python_examples, run_example
from support.models import get_llm, without_retries, write_config
from support.openai_answers import completion
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

ELSEWHERE = {"celery.md", "fastapi.md", "metrics.md", "web.md"}
"""Pages whose Python needs packages that are only installed for the tests of `services`."""
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md")])

PYTHON = python_examples(*(page for page in PAGES if page.name not in ELSEWHERE))


@pytest.mark.filterwarnings("ignore:Starting in model-forge v2.3.0")
@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_python_runs(example: CodeExample, eval_example: EvalExample, registry: Any) -> None:
    run_example(example, eval_example, registry)


def test_there_is_python_to_run() -> None:
    assert len(PYTHON) >= 6


def _blocks(language: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        for number, block in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize("block", _blocks("json"))
def test_settings_are_accepted(
    block: str, model_config: dict[str, Any], redirected: None, caplog: pytest.LogCaptureFixture
) -> None:
    write_config(model_config | json.loads(block))
    configuration = resolve(check_keywords({}))
    assert caplog.text == ""
    assert configuration != resolve(check_keywords({"attributes": {}}))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_have_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


NAME = r"(?:gen_ai|openai|modelforge|server|error|exception)\.[a-z_.]+[a-z]"


def _documented() -> set[str]:
    """Return the names in the first two columns of the reference's tables and in their descriptions of values."""
    return set(re.findall(rf"`({NAME})`", (DOCS / "telemetry.md").read_text()))


def _emitted(telemetry: Telemetry) -> set[str]:
    names: set[str] = set()
    for span in telemetry.spans():
        if span.instrumentation_scope.name == "opentelemetry_instrumentation_modelforge":
            names |= {span.name, *span.attributes}
            for event in span.events:
                names |= {event.name, *event.attributes}
    for record in telemetry.logs():
        names |= {record.log_record.event_name, *record.log_record.attributes}
    for name, points in telemetry.metrics().items():
        if name.startswith(("gen_ai.", "modelforge.")):
            names |= {name, *(attribute for point in points for attribute in point.attributes)}
    return {name for name in names if re.fullmatch(NAME, name)}


def test_the_reference_names_exactly_what_is_emitted(
    instrument: Callable[..., Telemetry],
    registry: Any,
    provider_server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")
    telemetry = instrument(metadata_keys=["run_name", "tags"])
    llm = get_llm(registry, "openai", "gpt-4o-mini")
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    llm.bind_tools([tool]).invoke("Hi")
    llm.bind(
        temperature=0.5,
        top_p=0.9,
        max_tokens=5,
        seed=1,
        n=2,
        frequency_penalty=0.1,
        presence_penalty=0.1,
        stop=["."],
        response_format={"type": "json_object"},
        reasoning_effort="low",
        service_tier="flex",
    ).invoke(
        "Hi",
        {
            # langsmith identifies a prompt of its hub by these keys.
            "metadata": {"thread_id": "7", "lc_hub_repo": "greeting", "lc_hub_commit_hash": "c0ffee"},
            "tags": ["beta"],
            "run_name": "greet",
        },
    )
    # The server has no Responses API, and langchain-openai 0.3.0 rejects the parameter.
    with pytest.raises((openai.NotFoundError, TypeError)):
        llm.bind(previous_response_id="resp_1").invoke("Hi")
    list(llm.stream("Hi"))
    ollama = get_llm(registry, "ollama", "llama3")
    ollama.top_k = 3
    ollama.invoke("Hi")
    get_llm(registry, "google", "gemini").invoke([("system", "Be brief."), ("user", "Hi")])
    get_llm(registry, "github_copilot", "gpt-4o").invoke("Hi")
    llm.cache = InMemoryCache()
    llm.invoke("Hi")
    llm.invoke("Hi")
    llm.cache = None
    # This is how an OpenAI-compatible gateway reports Anthropic's usage.
    provider_server.reply = Reply(cache_write_tokens=3)
    llm.invoke("Hi")
    provider_server.reply = Reply(body=completion(service_tier="default"))
    llm.invoke("Hi")
    provider_server.reply = Reply(status=401)
    with pytest.raises(Exception, match="Incorrect API key"):
        without_retries(llm).invoke("Hi")
    assert _emitted(telemetry) == _documented()


def test_the_public_names_are_in_the_module() -> None:
    import opentelemetry_instrumentation_modelforge as package

    assert package.OpenTelemetryCallback is OpenTelemetryCallback
    assert all(hasattr(package, name) for name in package.__all__)
