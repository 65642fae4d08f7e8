# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The receivers of content, its representation as attributes, and how a receiver of OTLP decodes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, Generation
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.genai.completion_hook import load_completion_hook
from opentelemetry.util.genai.types import BlobPart, TextPart

from opentelemetry_instrumentation_modelforge import capture as module
from opentelemetry_instrumentation_modelforge.capture import Content, ContentCapture
from support.captured import (
    INPUT,
    OUTPUT,
    PNG,
    PNG_BASE64,
    SYSTEM,
    TOOLS,
    assert_valid,
    captured,
    generation,
    output_message,
)
from support.environment import at_least
from support.models import OPENAI_KEY

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
EMIT = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
HOOK = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"


class Hook:
    def on_completion(self, **_: object) -> None:
        pass


class TestContent:
    def test_json_is_compact_and_readable(self) -> None:
        assert captured(HumanMessage("Grüße 🌍")).span_attributes() == {
            INPUT: '[{"role":"user","parts":[{"content":"Grüße 🌍","type":"text"}]}]'
        }

    def test_hook_receives_the_types_of_util_genai(self) -> None:
        content = captured(
            HumanMessage(["Look", {"type": "image_url", "image_url": f"data:image/png;base64,{PNG_BASE64}"}])
        )
        assert content.input_messages[0].parts == [TextPart("Look"), BlobPart("image/png", "image", PNG)]
        assert content.output_messages == content.system_instructions == content.tool_definitions == []

    def test_without_content_there_is_no_attribute(self) -> None:
        content = captured()
        assert content.event_attributes() == content.span_attributes() == {}

    def test_fields_without_a_value_are_left_out(self) -> None:
        content = captured(
            AIMessage(
                [{"type": "compaction"}, {"type": "file", "file_id": "file-1"}],
                tool_calls=[{"name": "weather", "args": {"city": None}, "id": None}],
            ),
            params={"tools": [{"type": "function", "name": "weather"}]},
        )
        assert content.event_attributes() == {
            INPUT: [
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "compaction"},
                        {"type": "file", "modality": "document", "file_id": "file-1"},
                        {"type": "tool_call", "name": "weather", "arguments": {"city": None}},
                    ],
                }
            ],
            TOOLS: [{"type": "function", "name": "weather"}],
        }
        assert_valid(content)


class TestFinishReason:
    def test_in_each_provider_s_spelling(self) -> None:
        content = captured(
            generations=[
                ChatGeneration(message=AIMessage("a"), generation_info={"finish_reason": "STOP"}),
                ChatGeneration(message=AIMessage("b"), generation_info={"done_reason": "stop"}),
                ChatGeneration(message=AIMessage("c", response_metadata={"stop_reason": "end_turn"})),
            ]
        )
        assert [message.finish_reason for message in content.output_messages] == ["STOP", "stop", "end_turn"]

    def test_empty_answer_is_still_a_choice(self) -> None:
        content = captured(generations=[generation(AIMessage(""), None)])
        assert content.event_attributes() == {OUTPUT: [output_message(reason="unknown")]}

    def test_of_a_failed_call_is_error_if_the_answer_has_none(self) -> None:
        generations = [generation(AIMessage("a"), "length"), generation(AIMessage("b"), None), Generation(text="c")]
        content = captured(generations=generations, default_finish_reason="error")
        assert [message.finish_reason for message in content.output_messages] == ["length", "error", "error"]
        assert_valid(content)

    def test_of_the_provider_s_answer_takes_precedence_over_langchain_s_joined_one(self) -> None:
        generations = [generation(AIMessage(letter), "stopstop") for letter in "abc"]
        content = captured(generations=generations, finish_reasons=["stop", None])
        assert [message.finish_reason for message in content.output_messages] == ["stop", "stopstop", "stopstop"]


def deep_dicts() -> Any:
    value: Any = "innermost"
    for _ in range(10_000):
        value = {"k": value}
    return value


def deep_lists() -> Any:
    value: Any = "innermost"
    for _ in range(10_000):
        value = [value]
    return value


def deep_tool_results() -> Any:
    value: Any = "innermost"
    for _ in range(10_000):
        value = [{"type": "tool_result", "tool_use_id": "call_1", "content": value}]
    return value


def deep_non_standard_blocks() -> Any:
    value: Any = {"type": "text", "text": "innermost"}
    for _ in range(10_000):
        value = {"type": "non_standard", "value": value}
    return [value]


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def wide() -> Any:
    return [{"k": number} for number in range(20_000)]


def with_odd_names() -> Any:
    return {1: {None: {True: {(1, 2): "x", "a": {"": 1}}}}}


STRUCTURES: dict[str, Callable[[], Any]] = {
    function.__name__: function
    for function in (
        deep_dicts,
        deep_lists,
        deep_tool_results,
        deep_non_standard_blocks,
        circle,
        wide,
        with_odd_names,
    )
}


def everywhere_structured(value: Any) -> Content:
    """Return the captured content of a call with ``value`` wherever a structure can occur."""
    server_tool = [
        {"type": "server_tool_call", "id": "s", "name": "search", "args": value},
        {"type": "server_tool_result", "tool_call_id": "s", "output": value},
    ]
    answer = AIMessage.model_construct(
        content=server_tool, tool_calls=[{"name": "f", "args": value, "id": "call_1"}], additional_kwargs={}
    )
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": value}}}
    return captured(
        SystemMessage.model_construct(content=server_tool),
        HumanMessage.model_construct(content=[{"type": "tool_result", "tool_use_id": "call_1", "content": value}]),
        HumanMessage.model_construct(content=value),
        answer,
        ToolMessage.model_construct(content=value, tool_call_id="call_1"),
        ToolMessage.model_construct(content=[*server_tool, "text"], tool_call_id="call_1"),
        generations=[ChatGeneration.model_construct(message=answer)],
        params={"tools": [tool]},
        system_separately=True,
    )


def exported_event(content: Content) -> dict[str, Any]:
    """Return the attributes of an event with ``content``, as encoded for OTLP and parsed by protobuf."""
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("test").emit(LogRecord(event_name="event", attributes=content.event_attributes()))
    sent = encode_logs(exporter.get_finished_logs()).SerializeToString()
    received = ExportLogsServiceRequest.FromString(sent)
    return received_attributes(received.resource_logs[0].scope_logs[0].log_records[0].attributes)


def exported_span(content: Content) -> dict[str, Any]:
    """Return the attributes of a span with ``content``, as encoded for OTLP and parsed by protobuf."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("test").start_span("span", attributes=content.span_attributes()).end()
    sent = encode_spans(exporter.get_finished_spans()).SerializeToString()
    received = ExportTraceServiceRequest.FromString(sent)
    return received_attributes(received.resource_spans[0].scope_spans[0].spans[0].attributes)


def received_attributes(attributes: Any) -> dict[str, Any]:
    return {attribute.key: received_value(attribute.value) for attribute in attributes}


def received_value(value: AnyValue) -> Any:
    match value.WhichOneof("value"):
        case "array_value":
            return [received_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return received_attributes(value.kvlist_value.values)
        case None:
            return None
        case name:
            return getattr(value, name)


class TestExport:
    """Without truncation, the first two structures lose the attribute or the whole batch."""

    @pytest.mark.skipif(
        not at_least("opentelemetry-exporter-otlp-proto-common", "1.44"), reason="encodes a null in another way"
    )
    @pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
    def test_receiver_has_the_event_s_attributes(
        self, structure: Callable[[], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        content = everywhere_structured(structure())
        event = content.event_attributes()
        assert set(event) == {SYSTEM, INPUT, OUTPUT, TOOLS}
        assert exported_event(content) == event
        assert_valid(content)
        assert caplog.messages == []

    @pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
    def test_receiver_has_the_span_s_attributes(
        self, structure: Callable[[], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        content = everywhere_structured(structure())
        received = exported_span(content)
        assert received == content.span_attributes()
        assert {name: json.loads(value) for name, value in received.items()} == content.event_attributes()
        assert caplog.messages == []


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def _unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (CAPTURE, EMIT, HOOK):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        ("mode", "emit", "on_span", "on_event", "emit_event"),
        [
            (None, None, False, False, False),
            ("", "", False, False, False),
            ("NO_CONTENT", None, False, False, False),
            ("NO_CONTENT", "true", False, False, True),
            ("SPAN_ONLY", None, True, False, False),
            ("SPAN_ONLY", "TRUE", True, False, True),
            ("EVENT_ONLY", None, False, True, True),
            ("event_only", " False ", False, False, False),
            ("SPAN_AND_EVENT", None, True, True, True),
            ("SPAN_AND_EVENT", "false", True, False, False),
            ("nonsense", None, False, False, False),
            ("EVENT_ONLY", "nonsense", False, True, True),
        ],
    )
    def test_determines_who_receives_content(
        self,
        mode: str | None,
        emit: str | None,
        on_span: bool,
        on_event: bool,
        emit_event: bool,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in ((CAPTURE, mode), (EMIT, emit)):
            if value is not None:
                monkeypatch.setenv(name, value)
        capture = ContentCapture.from_environment()
        assert capture == ContentCapture(on_span=on_span, on_event=on_event, emit_event=emit_event)
        assert capture.wanted(recording=True) == (on_span or on_event)
        assert capture.wanted(recording=False) == on_event

    def test_an_unknown_mode_disables_capture_with_one_warning(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for value in ("on", OPENAI_KEY):
            monkeypatch.setenv(CAPTURE, value)
            assert ContentCapture.from_environment() == ContentCapture()
        modes = "NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT"
        assert caplog.messages == [
            f"{CAPTURE}='on' is ignored: expected one of {modes}",
            f"{CAPTURE}=[REDACTED] is ignored: expected one of {modes}",
        ]

    def test_names_a_variable_it_ignores(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(EMIT, "maybe")
        ContentCapture.from_environment()
        monkeypatch.setenv(EMIT, OPENAI_KEY)
        ContentCapture.from_environment()
        assert caplog.messages == [
            f"{EMIT}='maybe' is ignored: expected true or false",
            f"{EMIT}=[REDACTED] is ignored: expected true or false",
        ]

    def test_hook_enables_capture(self) -> None:
        hook = Hook()
        capture = ContentCapture.from_environment(completion_hook=hook, max_content_length=10, redact=str.upper)
        assert capture == ContentCapture(hook=hook, max_content_length=10, redact=str.upper)
        assert capture.wanted(recording=False)

    def test_no_hook(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(HOOK, "there-is-no-such-hook")
        assert ContentCapture.from_environment().hook is None
        assert ContentCapture.from_environment(completion_hook=load_completion_hook()).hook is None

    def test_hook_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hook = Hook()
        monkeypatch.setattr(module, "load_completion_hook", lambda: hook)
        assert ContentCapture.from_environment().hook is hook
