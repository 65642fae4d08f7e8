# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Content stays in the process unless it is requested: it is in no span, metric, log record or log line."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from support.models import OPENAI_KEY, get_llm, without_retries
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

PROMPT = "Tell no one that the purple heron nests behind the third windmill"
SYSTEM = "You guard the recipe of the salted caramel orrery"
ANSWER = "Between the bells of noon a velvet turbine dreams"
ARGUMENT = "Ljubljanska quarter twelve, third floor"
RESULT = "The lantern there burns emerald on Thursdays"
SAID = (PROMPT, SYSTEM, ANSWER, ARGUMENT, RESULT)

MESSAGES = [
    SystemMessage(SYSTEM),
    HumanMessage(PROMPT),
    AIMessage("", tool_calls=[{"name": "look_up", "args": {"place": ARGUMENT}, "id": "call_1", "type": "tool_call"}]),
    ToolMessage(RESULT, tool_call_id="call_1"),
]

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a place up.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


async def _astream(llm: Any) -> None:
    async for _ in llm.astream(MESSAGES):
        pass


WAYS: dict[str, Callable[[Any], object]] = {
    "invoke": lambda llm: llm.invoke(MESSAGES),
    "ainvoke": lambda llm: asyncio.run(llm.ainvoke(MESSAGES)),
    "stream": lambda llm: list(llm.stream(MESSAGES)),
    "astream": lambda llm: asyncio.run(_astream(llm)),
    "tools": lambda llm: llm.bind_tools([TOOL]).invoke(MESSAGES),
    "structured output": lambda llm: llm.with_structured_output(
        {"title": "Nest", "description": "A nest.", "type": "object", "properties": {"place": {"type": "string"}}},
        method="json_schema",
    ).invoke(MESSAGES),
}


def exported(telemetry: Telemetry) -> str:
    """Return everything that left the process as one string."""
    spans = [span.to_json() for span in telemetry.spans()]
    logs = [record.to_json() for record in telemetry.logs()]
    metrics = [
        json.dumps({name: [dict(point.attributes) for point in points]}) for name, points in telemetry.metrics().items()
    ]
    return "\n".join([*spans, *logs, *metrics])


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "opentelemetry_instrumentation_modelforge")
    return caplog


def own_lines(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(
        logging.Formatter().format(record)
        for record in caplog.records
        if record.name.startswith("opentelemetry_instrumentation_modelforge")
    )


@pytest.mark.parametrize("way", WAYS)
def test_by_default_no_content_leaves_the_process(
    way: str,
    instrumented: Telemetry,
    registry: Any,
    provider_server: ProviderServer,
    lines: pytest.LogCaptureFixture,
) -> None:
    provider_server.reply = Reply(text=json.dumps({"place": ANSWER}) if way == "structured output" else ANSWER)
    WAYS[way](get_llm(registry, "openai", "gpt-4o-mini"))
    everything = exported(instrumented) + own_lines(lines)
    assert "langchain.llm.invoke" in everything
    for text in (*SAID, OPENAI_KEY):
        assert text not in everything
        assert text[8:24] not in everything


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("quoted", [PROMPT, PROMPT[:40], SYSTEM[4:], RESULT, ARGUMENT])
def test_an_error_that_quotes_content_is_recorded_without_the_quotation(
    way: str, quoted: str, instrumented: Telemetry, registry: Any, provider_server: ProviderServer
) -> None:
    provider_server.reply = refusal(quoted)
    llm = without_retries(get_llm(registry, "openai", "gpt-4o-mini"))
    with pytest.raises(openai.BadRequestError, match=quoted):
        WAYS[way](llm)
    everything = exported(instrumented)
    assert instrumented.span("langchain.llm.invoke").status.description == (
        "openai.BadRequestError: 400 invalid_request_error"
    )
    assert "Rejected by policy" not in everything
    assert quoted not in everything
    assert quoted[8:24] not in everything


def refusal(quoted: str) -> Reply:
    body = {"error": {"message": f"Rejected by policy 7: {quoted}. See the manual.", "type": "invalid_request_error"}}
    return Reply(status=400, error_body=body)


@pytest.mark.parametrize("asked", ["by the option", "with content on spans"])
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
def test_an_error_message_is_recorded_if_requested(
    way: str,
    asked: str,
    instrument: Callable[..., Telemetry],
    registry: Any,
    provider_server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if asked == "by the option":
        telemetry = instrument(error_messages="full")
    else:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
        telemetry = instrument()
    provider_server.reply = refusal(f"{ANSWER}, {OPENAI_KEY}")
    with pytest.raises(openai.BadRequestError):
        WAYS[way](without_retries(get_llm(registry, "openai", "gpt-4o-mini")))
    description = telemetry.span("langchain.llm.invoke").status.description or ""
    assert description.startswith("openai.BadRequestError: ")
    assert f"Rejected by policy 7: {ANSWER}, [REDACTED]" in description
    assert OPENAI_KEY not in exported(telemetry)


@pytest.mark.parametrize("mode", ["SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT"])
@pytest.mark.parametrize("way", ["invoke", "astream"])
def test_requested_content_is_recorded_only_where_requested(
    mode: str,
    way: str,
    instrument: Callable[..., Telemetry],
    registry: Any,
    provider_server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", mode)
    provider_server.reply = Reply(text=ANSWER)
    telemetry = instrument()
    WAYS[way](get_llm(registry, "openai", "gpt-4o-mini"))
    span = telemetry.span("langchain.llm.invoke")
    events = [record.log_record for record in telemetry.logs()]
    assert ("gen_ai.input.messages" in span.attributes) is (mode != "EVENT_ONLY")
    assert len(events) == (0 if mode == "SPAN_ONLY" else 1)
    if mode != "EVENT_ONLY":
        inputs = json.loads(span.attributes["gen_ai.input.messages"])
        assert [message["role"] for message in inputs] == ["system", "user", "assistant", "tool"]
        (answer,) = json.loads(span.attributes["gen_ai.output.messages"])
        assert answer["parts"] == [{"type": "text", "content": ANSWER}]
    for event in events:
        assert event.event_name == "gen_ai.client.inference.operation.details"
        assert (event.trace_id, event.span_id) == (span.context.trace_id, span.context.span_id)
        assert event.attributes["gen_ai.input.messages"][1]["parts"][0]["content"] == PROMPT
        assert event.attributes["gen_ai.request.model"] == "gpt-4o-mini"
        assert event.attributes["modelforge.provider"] == "openai"
    assert OPENAI_KEY not in exported(telemetry)


def test_an_event_without_content_can_be_requested(
    instrument: Callable[..., Telemetry], registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")
    telemetry = instrument()
    get_llm(registry, "openai", "gpt-4o-mini").invoke(PROMPT)
    (event,) = [record.log_record for record in telemetry.logs()]
    assert event.attributes["gen_ai.usage.input_tokens"] == 11
    assert not any("messages" in name for name in event.attributes)


def test_a_completion_hook_receives_the_content_the_span_and_the_event(
    instrument: Callable[..., Telemetry], registry: Any, provider_server: ProviderServer
) -> None:
    given: list[dict[str, Any]] = []

    class Hook:
        def on_completion(self, **content: Any) -> None:
            given.append(content)
            content["span"].set_attribute("uploaded", True)

    provider_server.reply = Reply(text=ANSWER)
    telemetry = instrument(completion_hook=Hook())
    get_llm(registry, "openai", "gpt-4o-mini").bind_tools([TOOL], tool_choice="none").invoke(MESSAGES)
    (content,) = given
    assert [message.role for message in content["inputs"]] == ["system", "user", "assistant", "tool"]
    assert content["system_instruction"] == []
    assert [tool.name for tool in content["tool_definitions"]] == ["look_up"]
    assert content["log_record"] is None
    assert len(content["outputs"]) == 1
    span = telemetry.span("langchain.llm.invoke")
    assert span.attributes["uploaded"] is True
    assert "gen_ai.input.messages" not in span.attributes


def test_a_completion_hook_that_raises_changes_nothing(instrument: Callable[..., Telemetry], registry: Any) -> None:
    class Hook:
        def on_completion(self, **content: Any) -> None:
            raise RuntimeError("no upload today")

    telemetry = instrument(completion_hook=Hook())
    assert get_llm(registry, "openai", "gpt-4o-mini").invoke(PROMPT).content == "Hello there friend"
    assert telemetry.span("langchain.llm.invoke").status.is_unset


def test_redact_rewrites_captured_text_and_text_it_fails_on_is_dropped(
    instrument: Callable[..., Telemetry], registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")

    def redact(text: str) -> str:
        if "caramel" in text:
            raise ValueError("cannot say")
        return text.replace("heron", "bird")

    telemetry = instrument(redact=redact)
    get_llm(registry, "openai", "gpt-4o-mini").invoke(MESSAGES)
    everything = exported(telemetry)
    assert "purple bird nests" in everything
    assert "heron" not in everything
    assert "caramel" not in everything


def test_content_is_truncated_inside_the_json(
    instrument: Callable[..., Telemetry], registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    telemetry = instrument(max_content_length=10)
    get_llm(registry, "openai", "gpt-4o-mini").invoke(PROMPT)
    (message,) = json.loads(telemetry.span("langchain.llm.invoke").attributes["gen_ai.input.messages"])
    assert message["parts"] == [{"type": "text", "content": "Tell no o…"}]


def test_the_system_message_of_a_google_model_is_recorded_as_system_instructions(
    instrument: Callable[..., Telemetry], registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    telemetry = instrument()
    get_llm(registry, "google", "gemini").invoke([SystemMessage(SYSTEM), HumanMessage(PROMPT)])
    attributes = telemetry.span("langchain.llm.invoke").attributes
    assert json.loads(attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": SYSTEM}]
    assert [message["role"] for message in json.loads(attributes["gen_ai.input.messages"])] == ["user"]


def test_a_model_call_inside_redact_is_neither_recorded_nor_redacted(
    instrument: Callable[..., Telemetry], registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    asked: list[str] = []

    def redact(text: str) -> str:
        asked.append(text)
        return judge.invoke("Is this private?").content

    telemetry = instrument(redact=redact)
    judge = get_llm(registry, "openai", "gpt-4o-mini")
    get_llm(registry, "openai", "gpt-4o-mini").invoke(PROMPT)
    assert asked == [PROMPT, "Hello there friend"]
    assert len([span for span in telemetry.spans() if span.name == "langchain.llm.invoke"]) == 1
