# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""The behavior of the examples on the pages on hooks, sampling and logs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
from support import DOCS
from support.documentation import python_examples
from support.models import get_llm, without_retries
from support.openai_answers import completion
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

Instrument = Callable[..., Telemetry]


def example(page: str, name: str, **names: Any) -> dict[str, Any]:
    """Run a page's example that defines ``name``, and return its namespace. It does not instrument."""

    class Instrumentor:
        def instrument(self, **options: Any) -> None: ...

    (code,) = (found.source for found in python_examples(DOCS / page) if name in found.source)
    names = {"ModelForgeInstrumentor": Instrumentor, **names}
    exec(code, names)
    return names


def model_span(telemetry: Telemetry) -> Any:
    return next(span for span in telemetry.spans() if span.name == "langchain.llm.invoke")


def test_the_request_hook_records_the_size_and_the_tools(instrument: Instrument, registry: Any) -> None:
    telemetry = instrument(request_hook=example("hooks.md", "def request_hook(")["request_hook"])
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
    get_llm(registry, "openai", "gpt-4o-mini").bind_tools([tool]).invoke("Hello")
    attributes = model_span(telemetry).attributes
    assert {name: value for name, value in attributes.items() if name.startswith("app.")} == {
        "app.prompt.messages": 1,
        "app.prompt.characters": 5,
        "app.tools": ("look_up",),
    }


def test_the_response_hook_marks_a_refusal_and_a_truncated_answer(
    instrument: Instrument, registry: Any, provider_server: ProviderServer
) -> None:
    telemetry = instrument(response_hook=example("hooks.md", "def response_hook(")["response_hook"])
    message = {"role": "assistant", "content": "No", "refusal": "No"}
    provider_server.reply = Reply(
        body=completion(choices=[{"index": 0, "message": message, "finish_reason": "length"}])
    )
    get_llm(registry, "openai", "gpt-4o-mini").invoke("Hello")
    span = model_span(telemetry)
    assert span.attributes["app.refused"] is True
    assert [(event.name, dict(event.attributes)) for event in span.events] == [("app.answer.cut", {"characters": 2})]


def test_redact_replaces_addresses_and_numbers() -> None:
    redact = example("hooks.md", "PATTERNS")["redact"]
    assert redact("Ask ada@example.org or +49 30 1234567 for 12 of them.") == "Ask <e-mail> or <phone> for 12 of them."


def test_the_cost_function_prices_only_its_own_models(instrument: Instrument, registry: Any) -> None:
    telemetry = instrument(cost=example("hooks.md", "def cost(")["cost"])
    get_llm(registry, "openai", "gpt-4o-mini").invoke("Hello")
    # 11 input tokens, 4 of them cached, and 7 output tokens.
    amount = model_span(telemetry).attributes["gen_ai.usage.cost.amount"]
    assert amount == pytest.approx((9 * 0.12 + 7 * 0.48) / 1_000_000)


def test_only_failed_spans_are_exported(registry: Any, provider_server: ProviderServer) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(example("sampling.md", "class FailedSpans")["FailedSpans"](exporter))
    ModelForgeInstrumentor().instrument(tracer_provider=provider)
    try:
        llm = without_retries(get_llm(registry, "openai", "gpt-4o-mini"))
        llm.invoke("Hello")
        provider_server.reply = Reply(status=401)
        with pytest.raises(Exception, match="Incorrect API key"):
            llm.invoke("Hello")
    finally:
        ModelForgeInstrumentor().uninstrument()
    provider.force_flush()
    assert [span.name for span in exporter.get_finished_spans()] == ["langchain.llm.invoke"]
    provider.shutdown()


def test_a_log_line_has_the_ids_of_the_current_span(
    instrument: Instrument, registry: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers = root.handlers[:]
    try:
        example("logs.md", "class TraceIds")

        telemetry = instrument()
        logger = logging.getLogger("openai._base_client")
        logger.setLevel(logging.DEBUG)
        get_llm(registry, "openai", "gpt-4o-mini").invoke("Hello")
    finally:
        root.handlers[:] = handlers
        logging.getLogger("openai._base_client").setLevel(logging.NOTSET)
    lines = capsys.readouterr().err.splitlines()
    context = model_span(telemetry).context
    expected = f"trace={context.trace_id:032x} span={context.span_id:016x}"
    assert [line for line in lines if line.startswith("DEBUG openai._base_client") and expected in line]
