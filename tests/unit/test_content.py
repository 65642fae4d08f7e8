"""What a captured call looks like, part by part; and that whatever is captured is valid, short enough and redacted."""

from __future__ import annotations

import enum
import json
import logging
import math
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation
from opentelemetry.util.genai.completion_hook import load_completion_hook
from opentelemetry.util.genai.types import BlobPart, TextPart

from opentelemetry_instrumentation_modelforge import content as module
from opentelemetry_instrumentation_modelforge.content import Content, ContentCapture

INPUT = "gen_ai.input.messages"
OUTPUT = "gen_ai.output.messages"
SYSTEM = "gen_ai.system_instructions"
TOOLS = "gen_ai.tool.definitions"

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
EMIT = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"
HOOK = "OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK"

PNG = b"\x89PNG\r\n\x1a\n"
PNG_BASE64 = b64encode(PNG).decode()
KEY = "the-model's-own-key"


class Hook:
    def on_completion(self, **_: object) -> None:
        pass


def said(role: str, *parts: Mapping[str, Any], name: str | None = None) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), "name": name}


def answered(*parts: Mapping[str, Any], reason: str | None = "stop", name: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "parts": list(parts), "finish_reason": reason, "name": name}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def reasoning(content: str) -> dict[str, Any]:
    return {"type": "reasoning", "content": content}


def call(name: str, arguments: Any, identifier: str | None = "call_1") -> dict[str, Any]:
    return {"type": "tool_call", "name": name, "arguments": arguments, "id": identifier}


def result(response: Any, identifier: str | None = "call_1") -> dict[str, Any]:
    return {"type": "tool_call_response", "response": response, "id": identifier}


def blob(content: str = PNG_BASE64, mime_type: str | None = "image/png", modality: str = "image") -> dict[str, Any]:
    return {"type": "blob", "mime_type": mime_type, "modality": modality, "content": content}


def uri(uri: str, mime_type: str | None = None, modality: str = "image") -> dict[str, Any]:
    return {"type": "uri", "mime_type": mime_type, "modality": modality, "uri": uri}


def file(file_id: str, mime_type: str | None = None, modality: str = "document") -> dict[str, Any]:
    return {"type": "file", "mime_type": mime_type, "modality": modality, "file_id": file_id}


def generation(message: BaseMessage, reason: str | None = "stop") -> ChatGeneration:
    if reason:
        message.response_metadata = {"finish_reason": reason}
    return ChatGeneration(message=message)


def captured(
    *messages: Any,
    generations: Sequence[Any] = (),
    params: Mapping[str, object] | None = None,
    secrets: Sequence[str] = (),
    system_separately: bool = False,
    max_content_length: int | None = None,
    redact: Callable[[str], Any] | None = None,
) -> Content:
    capture = ContentCapture(on_span=True, max_content_length=max_content_length, redact=redact)
    return capture.capture(messages, generations, params, secrets=secrets, system_separately=system_separately)


def input_parts(*messages: Any, **options: Any) -> list[dict[str, Any]]:
    """Return the parts of all messages."""
    messages_ = captured(*messages, **options).event_attributes().get(INPUT, [])
    return [part for message in messages_ for part in message["parts"]]


def answer_parts(message: BaseMessage, **options: Any) -> list[dict[str, Any]]:
    (answer,) = captured(generations=[generation(message)], **options).event_attributes()[OUTPUT]
    return answer["parts"]


@dataclass(frozen=True)
class Case:
    expected: dict[str, Any]
    messages: list[Any] = field(default_factory=list)
    generations: list[Any] = field(default_factory=list)
    params: dict[str, object] | None = None
    system_separately: bool = False

    def capture(self) -> Content:
        return captured(
            *self.messages,
            generations=self.generations,
            params=self.params,
            system_separately=self.system_separately,
        )


def streamed(*chunks: AIMessageChunk) -> ChatGenerationChunk:
    """Return what LangChain makes of a stream."""
    first, *others = (ChatGenerationChunk(message=chunk) for chunk in chunks)
    merged = first
    for chunk in others:
        merged += chunk
    return merged


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
LONDON = [{"name": "weather", "args": {"city": "London", "days": 2}, "id": "call_1", "type": "tool_call"}]

CASES = {
    "plain": Case(
        {
            INPUT: [said("user", text("Say hello"))],
            OUTPUT: [answered(text("Hello"))],
        },
        [HumanMessage("Say hello")],
        [generation(AIMessage("Hello"))],
    ),
    "multi-turn": Case(
        {
            INPUT: [
                said("user", text("One?"), name="ann"),
                said("assistant", text("Two.")),
                said("user", text("Three?")),
            ],
            OUTPUT: [answered(text("Four."))],
        },
        [HumanMessage("One?", name="ann"), AIMessage("Two."), HumanMessageChunk(content="Three?")],
        [generation(AIMessage("Four."))],
    ),
    "system instructions in the history": Case(
        {INPUT: [said("system", text("Be brief.")), said("user", text("Hi"))]},
        [SystemMessage("Be brief."), HumanMessage("Hi")],
    ),
    "system instructions apart from the history": Case(
        {
            SYSTEM: [text("Be brief."), text("Be kind.")],
            INPUT: [said("user", text("Hi"))],
        },
        [SystemMessage(["Be brief.", {"type": "text", "text": "Be kind."}]), HumanMessage("Hi")],
        system_separately=True,
    ),
    "tool call": Case(
        {
            INPUT: [said("user", text("Weather?"))],
            OUTPUT: [answered(call("weather", {"city": "London", "days": 2}), reason="tool_calls")],
            TOOLS: [
                {"type": "function", "name": "weather", "description": "Get the weather.", "parameters": WEATHER},
            ],
        },
        [HumanMessage("Weather?")],
        [generation(AIMessage("", tool_calls=LONDON), "tool_calls")],
        {
            "tools": [
                {
                    "type": "function",
                    "function": {"name": "weather", "description": "Get the weather.", "parameters": WEATHER},
                }
            ]
        },
    ),
    "tool result": Case(
        {
            INPUT: [
                said("user", text("Weather?")),
                said("assistant", text("I look."), call("weather", {"city": "London", "days": 2})),
                said("tool", result("Sunny, 20 °C"), name="weather"),
            ],
            OUTPUT: [answered(text("It is sunny."))],
        },
        [
            HumanMessage("Weather?"),
            AIMessage("I look.", tool_calls=LONDON),
            ToolMessage("Sunny, 20 °C", tool_call_id="call_1", name="weather"),
        ],
        [generation(AIMessage("It is sunny."))],
    ),
    "tool result with an image": Case(
        {INPUT: [said("tool", result([text("The map:"), blob()]))]},
        [
            ToolMessage(
                ["The map:", {"type": "image", "source_type": "base64", "data": PNG_BASE64, "mime_type": "image/png"}],
                tool_call_id="call_1",
            )
        ],
    ),
    "tool result that is no content": Case(
        {INPUT: [said("tool", result([{"celsius": 20}, {"type": "text", "text": "sunny"}]))]},
        [ToolMessage([{"celsius": 20}, {"type": "text", "text": "sunny"}], tool_call_id="call_1")],
    ),
    "two choices": Case(
        {
            INPUT: [said("user", text("Heads or tails?"))],
            OUTPUT: [answered(text("Heads")), answered(text("Tai"), reason="length")],
        },
        [HumanMessage("Heads or tails?")],
        [generation(AIMessage("Heads")), generation(AIMessage("Tai"), "length")],
    ),
    "image by URL and by bytes": Case(
        {
            INPUT: [
                said(
                    "user",
                    text("Compare"),
                    uri("https://example.com/cat.png"),
                    blob(),
                )
            ]
        },
        [
            HumanMessage(
                [
                    {"type": "text", "text": "Compare"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/cat.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG_BASE64}"}},
                ]
            )
        ],
    ),
    "audio": Case(
        {
            INPUT: [said("user", blob("AAAA", "audio/mp3", "audio"))],
            OUTPUT: [answered(text("Spoken words"), blob("AAAA", None, "audio"))],
        },
        [HumanMessage([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}}])],
        [
            generation(
                AIMessage("", additional_kwargs={"audio": {"id": "a", "data": "AAAA", "transcript": "Spoken words"}})
            )
        ],
    ),
    "files": Case(
        {
            INPUT: [
                said(
                    "user",
                    file("file-1"),
                    blob("JVBERg==", "application/pdf", "document"),
                    uri("gs://bucket/film.mp4", "video/mp4", "video"),
                )
            ]
        },
        [
            HumanMessage(
                [
                    {"type": "file", "file": {"file_id": "file-1"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
                    },
                    {"type": "media", "mime_type": "video/mp4", "file_uri": "gs://bucket/film.mp4"},
                ]
            )
        ],
    ),
    "reasoning": Case(
        {OUTPUT: [answered(reasoning("Let me think."), text("42"))]},
        generations=[
            generation(AIMessage([{"type": "thinking", "thinking": "Let me think.", "signature": "x"}, "42"]))
        ],
    ),
    "refusal": Case(
        {OUTPUT: [answered(text("I can't help with that."))]},
        generations=[generation(AIMessage("", additional_kwargs={"refusal": "I can't help with that."}))],
    ),
    "streamed": Case(
        {OUTPUT: [answered(text("Hello"), call("weather", {"city": "London"}))]},
        generations=[
            streamed(
                AIMessageChunk(content="Hel"),
                AIMessageChunk(content="lo"),
                AIMessageChunk(
                    content="",
                    tool_call_chunks=[{"name": "weather", "args": '{"city":', "id": "call_1", "index": 0}],
                ),
                AIMessageChunk(
                    content="",
                    tool_call_chunks=[{"name": None, "args": ' "London"}', "id": None, "index": 0}],
                    response_metadata={"finish_reason": "stop"},
                ),
            )
        ],
    ),
    "tool that the provider runs": Case(
        {
            OUTPUT: [
                answered(
                    {
                        "type": "server_tool_call",
                        "name": "web_search",
                        "id": "ws_1",
                        "server_tool_call": {"type": "web_search_call", "action": {"query": "otel"}},
                    },
                    {
                        "type": "server_tool_call",
                        "name": "code_execution",
                        "id": None,
                        "server_tool_call": {
                            "type": "executable_code",
                            "executable_code": "print(1)",
                            "language": 1,
                        },
                    },
                    {
                        "type": "server_tool_call_response",
                        "id": None,
                        "server_tool_call_response": {
                            "type": "code_execution_result",
                            "code_execution_result": "1",
                            "outcome": 1,
                        },
                    },
                    text("Done"),
                )
            ],
            TOOLS: [{"type": "web_search", "name": "web_search"}],
        },
        generations=[
            generation(
                AIMessage(
                    [
                        {"type": "web_search_call", "id": "ws_1", "action": {"query": "otel"}},
                        {"type": "executable_code", "executable_code": "print(1)", "language": 1},
                        {"type": "code_execution_result", "code_execution_result": "1", "outcome": 1},
                        "Done",
                    ]
                )
            )
        ],
        params={"tools": [{"type": "web_search"}]},
    ),
    "compaction": Case(
        {
            OUTPUT: [
                answered(
                    {"type": "compaction", "id": "cmp_1", "content": None},
                    {"type": "compaction", "id": None, "content": "What was said before"},
                )
            ]
        },
        generations=[
            generation(
                AIMessage(
                    [
                        {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"},
                        {"type": "compaction", "content": "What was said before"},
                    ]
                )
            )
        ],
    ),
    "text completion": Case(
        {
            INPUT: [said("user", text("Once upon"))],
            OUTPUT: [answered(text(" a time"), reason="length")],
        },
        ["Once upon"],
        [Generation(text=" a time", generation_info={"finish_reason": "length"})],
    ),
    "function of OpenAI's first kind": Case(
        {
            INPUT: [
                said("assistant", call("weather", {"city": "London"}, None)),
                said("tool", result("Sunny", None), name="weather"),
            ],
            TOOLS: [{"type": "function", "name": "weather", "description": None, "parameters": WEATHER}],
        },
        [
            AIMessage("", additional_kwargs={"function_call": {"name": "weather", "arguments": '{"city": "London"}'}}),
            FunctionMessage("Sunny", name="weather"),
        ],
        params={"functions": [{"name": "weather", "parameters": WEATHER}]},
    ),
    "Google's tools": Case(
        {
            TOOLS: [
                {"type": "function", "name": "weather", "description": "Weather.", "parameters": WEATHER},
                {"type": "google_search", "name": "google_search"},
            ]
        },
        params={
            "tools": [
                {
                    "function_declarations": [{"name": "weather", "description": "Weather.", "parameters": WEATHER}],
                    "google_search": {},
                    "retrieval": None,
                }
            ]
        },
    ),
    "tools of OpenAI's Responses API": Case(
        {
            TOOLS: [
                {"type": "function", "name": "weather", "description": None, "parameters": WEATHER},
                {"type": "mcp", "name": "deepwiki"},
            ]
        },
        params={
            "tools": [
                {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True},
                {"type": "mcp", "server_label": "deepwiki", "headers": {"Authorization": "secret"}},
            ]
        },
    ),
}


class TestStructure:
    @pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
    def test_event_is_structured(self, case: Case) -> None:
        assert case.capture().event_attributes() == case.expected

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
    def test_span_has_the_same_as_json(self, case: Case) -> None:
        attributes = case.capture().span_attributes()
        assert {name: json.loads(value) for name, value in attributes.items()} == case.expected

    def test_json_is_compact_and_readable(self) -> None:
        assert captured(HumanMessage("Grüße 🌍")).span_attributes() == {
            INPUT: '[{"role":"user","parts":[{"content":"Grüße 🌍","type":"text"}],"name":null}]'
        }

    def test_hook_gets_the_types_of_util_genai(self) -> None:
        content = captured(
            HumanMessage(["Look", {"type": "image_url", "image_url": f"data:image/png;base64,{PNG_BASE64}"}])
        )
        assert content.input_messages[0].parts == [TextPart("Look"), BlobPart("image/png", "image", PNG)]
        assert content.output_messages == content.system_instructions == content.tool_definitions == []

    def test_nothing_said_is_no_attribute(self) -> None:
        content = captured()
        assert content.event_attributes() == content.span_attributes() == {}

    def test_empty_answer_is_still_a_choice(self) -> None:
        content = captured(generations=[generation(AIMessage(""), None)])
        assert content.event_attributes() == {OUTPUT: [answered(reason=None)]}

    def test_finish_reason_in_each_provider_s_spelling(self) -> None:
        content = captured(
            generations=[
                ChatGeneration(message=AIMessage("a"), generation_info={"finish_reason": "STOP"}),
                ChatGeneration(message=AIMessage("b"), generation_info={"done_reason": "stop"}),
                ChatGeneration(message=AIMessage("c", response_metadata={"stop_reason": "end_turn"})),
            ]
        )
        assert [message.finish_reason for message in content.output_messages] == ["STOP", "stop", "end_turn"]

    @pytest.mark.parametrize(("role", "expected"), [("developer", "developer"), ("", "user")])
    def test_role_of_a_chat_message_is_its_own(self, role: str, expected: str) -> None:
        assert captured(ChatMessage("Hi", role=role)).input_messages[0].role == expected

    def test_subclass_has_its_parent_s_role(self) -> None:
        class Order(HumanMessage):
            pass

        assert captured(Order("Hi")).input_messages[0].role == "user"


STANDARD_FILE = {"type": "file", "mime_type": "application/pdf"}


class TestMedia:
    """One image in every spelling that LangChain or one of ModelForge's providers takes."""

    @pytest.mark.parametrize(
        "block",
        [
            {"type": "image_url", "image_url": "https://example.com/cat.png"},
            {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
            {"type": "input_image", "image_url": "https://example.com/cat.png"},
            {"type": "image", "source_type": "url", "url": "https://example.com/cat.png"},
            {"type": "image", "url": "https://example.com/cat.png", "id": "lc_1"},
            {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}},
        ],
    )
    def test_by_reference(self, block: dict[str, Any]) -> None:
        assert input_parts(HumanMessage([block])) == [uri("https://example.com/cat.png")]

    @pytest.mark.parametrize(
        "block",
        [
            {"type": "image_url", "image_url": f"data:image/png;base64,{PNG_BASE64}"},
            {"type": "image_url", "image_url": {"url": f"DATA:image/png;base64,{PNG_BASE64}"}},
            {"type": "image_url", "image_url": "data:image/png,%89PNG%0D%0A%1A%0A"},
            {"type": "image", "source_type": "base64", "data": PNG_BASE64, "mime_type": "image/png"},
            {"type": "image", "base64": PNG_BASE64, "mime_type": "image/png", "id": "lc_1"},
            {"type": "image", "source": {"type": "base64", "data": PNG_BASE64, "media_type": "image/png"}},
            {"type": "media", "data": PNG, "mime_type": "image/png"},
            {"type": "media", "data": PNG_BASE64, "mime_type": "image/png"},
            {"type": "non_standard", "value": {"type": "media", "data": PNG, "mime_type": "image/png"}},
        ],
    )
    def test_by_bytes(self, block: dict[str, Any]) -> None:
        assert input_parts(HumanMessage([block])) == [blob()]

    def test_base64_in_place_of_a_url_as_ollama_takes_it(self) -> None:
        parts = input_parts(HumanMessage([{"type": "image_url", "image_url": PNG_BASE64}]))
        assert parts == [blob(mime_type=None)]

    @pytest.mark.parametrize(
        ("block", "expected"),
        [
            ({**STANDARD_FILE, "source_type": "id", "id": "file-1"}, file("file-1", "application/pdf")),
            ({**STANDARD_FILE, "file_id": "file-1", "id": "lc_1"}, file("file-1", "application/pdf")),
            ({"type": "input_file", "file_id": "file-1"}, file("file-1")),
            ({"type": "image", "file_id": "file-1"}, file("file-1", modality="image")),
            ({**STANDARD_FILE, "source_type": "text", "text": "Read me"}, text("Read me")),
            ({"type": "text-plain", "mime_type": "text/plain", "text": "Read me"}, text("Read me")),
            ({"type": "document", "source": {"type": "text", "data": "Read me"}}, text("Read me")),
            (
                {**STANDARD_FILE, "url": "https://example.com/a.pdf"},
                uri("https://example.com/a.pdf", "application/pdf", "document"),
            ),
            (
                {"type": "audio", "source_type": "base64", "data": "AAAA", "mime_type": "audio/L16;rate=24000"},
                blob("AAAA", "audio/L16", "audio"),
            ),
            (
                {"type": "video", "url": "https://example.com/a.mp4"},
                uri("https://example.com/a.mp4", None, "video"),
            ),
        ],
    )
    def test_files(self, block: dict[str, Any], expected: dict[str, Any]) -> None:
        assert input_parts(HumanMessage([block])) == [expected]

    def test_audio_of_google_is_bytes_of_a_wav_file(self) -> None:
        message = AIMessage("", additional_kwargs={"audio": b"RIFF"})
        assert answer_parts(message) == [blob("UklGRg==", "audio/wav", "audio")]

    def test_generated_image(self) -> None:
        block = {"type": "image_generation_call", "id": "ig_1", "result": PNG_BASE64, "status": "completed"}
        assert answer_parts(AIMessage([block])) == [
            {
                "type": "server_tool_call",
                "name": "image_generation",
                "id": "ig_1",
                "server_tool_call": {"type": "image_generation_call", "status": "completed"},
            },
            blob(),
        ]

    def test_malformed_base64_leaves_that_there_was_an_image(self) -> None:
        parts = input_parts(HumanMessage([{"type": "image_url", "image_url": "data:image/png;base64,???"}]))
        assert parts == [blob("")]

    def test_malformed_mime_type_is_not_content(self) -> None:
        parts = input_parts(HumanMessage([{"type": "image_url", "image_url": "data: my secret diary"}]))
        assert parts == [blob("", None)]


class TestAnswers:
    @pytest.mark.parametrize(
        "message",
        [
            AIMessage("42", additional_kwargs={"reasoning_content": "Let me think."}),
            AIMessage("42", additional_kwargs={"reasoning": {"summary": [{"text": "Let me think."}]}}),
            AIMessage([{"type": "reasoning", "reasoning": "Let me think."}, {"type": "text", "text": "42"}]),
            AIMessage([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Let me think."}]}, "42"]),
            AIMessage([{"type": "reasoning_content", "reasoning_content": {"text": "Let me think."}}, "42"]),
        ],
    )
    def test_reasoning_in_each_provider_s_spelling(self, message: AIMessage) -> None:
        assert answer_parts(message) == [reasoning("Let me think."), text("42")]

    def test_refusal_as_a_block(self) -> None:
        assert answer_parts(AIMessage([{"type": "refusal", "refusal": "No."}])) == [text("No.")]

    def test_stream_of_blocks_is_put_together(self) -> None:
        chunks = [
            AIMessageChunk(content=[block])
            for block in (
                {"type": "thinking", "thinking": "Let me "},
                {"type": "thinking", "thinking": "think."},
                {"type": "text", "text": "4"},
                {"type": "text", "text": "2"},
            )
        ]
        (answer,) = captured(generations=[streamed(*chunks)]).event_attributes()[OUTPUT]
        assert answer["parts"] == [reasoning("Let me think."), text("42")]

    def test_blocks_that_langchain_put_together_stay_apart(self) -> None:
        blocks = [{"type": "text", "text": "One.", "index": 0}, {"type": "text", "text": "Two.", "index": 1}]
        assert answer_parts(AIMessage(blocks)) == [text("One."), text("Two.")]

    def test_tool_call_is_told_once(self) -> None:
        message = AIMessage(
            ["I look.", {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "London"}}],
            additional_kwargs={"function_call": {"name": "weather", "arguments": "{}"}},
            tool_calls=LONDON,
        )
        assert answer_parts(message) == [text("I look."), call("weather", {"city": "London", "days": 2})]

    @pytest.mark.parametrize(
        ("args", "expected"),
        [('{"city": "Lon', '{"city": "Lon'), ('["London"]', ["London"]), (None, None), ("[" * 100_000, "[" * 100_000)],
        ids=["cut off", "a list", "none", "too deep"],
    )
    def test_arguments_that_langchain_could_not_read(self, args: str | None, expected: object) -> None:
        invalid: Any = {"name": "weather", "args": args, "id": "call_1", "error": None, "type": "invalid_tool_call"}
        assert answer_parts(AIMessage("", invalid_tool_calls=[invalid])) == [call("weather", expected)]

    def test_tool_outputs_of_the_responses_api(self) -> None:
        message = AIMessage("Found", additional_kwargs={"tool_outputs": [{"type": "file_search_call", "id": "fs_1"}]})
        assert answer_parts(message) == [
            text("Found"),
            {
                "type": "server_tool_call",
                "name": "file_search",
                "id": "fs_1",
                "server_tool_call": {"type": "file_search_call"},
            },
        ]

    def test_standard_blocks_of_langchain_1(self) -> None:
        blocks = [
            {"type": "server_tool_call", "id": "s_1", "name": "web_search", "args": {"query": "otel"}},
            {"type": "server_tool_result", "tool_call_id": "s_1", "status": "success", "output": ["a"]},
            {"type": "tool_call", "id": "call_1", "name": "weather", "args": {}},
        ]
        assert answer_parts(AIMessage(blocks)) == [
            {
                "type": "server_tool_call",
                "name": "web_search",
                "id": "s_1",
                "server_tool_call": {"type": "server_tool_call", "args": {"query": "otel"}},
            },
            {
                "type": "server_tool_call_response",
                "id": "s_1",
                "server_tool_call_response": {"type": "server_tool_result", "status": "success", "output": ["a"]},
            },
        ]

    def test_tool_result_in_a_user_s_message(self) -> None:
        block = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Sunny"}]}
        assert input_parts(HumanMessage([block])) == [result([text("Sunny")])]

    def test_unknown_blocks_are_left_out(self) -> None:
        assert input_parts(HumanMessage([{"type": "hologram", "data": "x"}, {"type": 7}, "Hi"])) == [text("Hi")]


class TestLimit:
    def test_text_ends_with_a_mark_within_the_limit(self) -> None:
        texts = {limit: input_parts(HumanMessage("Hello"), max_content_length=limit) for limit in (6, 5, 4, 1, 0)}
        assert texts == {6: [text("Hello")], 5: [text("Hello")], 4: [text("Hel…")], 1: [text("…")], 0: [text("")]}

    def test_each_part_has_the_whole_limit(self) -> None:
        assert input_parts(HumanMessage(["abcdef", "abc"]), max_content_length=4) == [text("abc…"), text("abc")]

    def test_texts_of_arguments_share_it(self) -> None:
        arguments = {"query": "abcdefgh", "page": 1, "more": ["x"]}
        message = AIMessage("", tool_calls=[{"name": "search", "args": arguments, "id": "call_1"}])
        assert answer_parts(message, max_content_length=100) == [call("search", arguments)]
        assert answer_parts(message, max_content_length=15) == [call("search", {"query": "abcdefgh", "p…": 1})]
        assert answer_parts(message, max_content_length=8) == [call("search", {"query": "ab…"})]
        assert answer_parts(message, max_content_length=0) == [call("", {})]

    def test_long_list_ends(self) -> None:
        message = ToolMessage([{"numbers": list(range(1_000_000))}], tool_call_id="call_1")
        (part,) = input_parts(message, max_content_length=10)
        assert part == result([{"numbers": [0, 1, 2]}])

    def test_part_of_an_image_is_no_image(self) -> None:
        long = [
            {"type": "image_url", "image_url": f"data:image/png;base64,{'A' * 400}"},
            {"type": "media", "data": bytes(300), "mime_type": "image/png"},
        ]
        assert input_parts(HumanMessage(long), max_content_length=399) == [blob(""), blob("")]
        assert input_parts(HumanMessage(long), max_content_length=400) == [blob("A" * 400), blob("A" * 400)]

    def test_tool_definitions(self) -> None:
        tool = {"type": "function", "function": {"name": "weather", "description": "Get it", "parameters": WEATHER}}
        (definition,) = captured(params={"tools": [tool]}, max_content_length=5).event_attributes()[TOOLS]
        assert definition == {"type": "function", "name": "weat…", "description": "Get …", "parameters": {"type": "…"}}


def everywhere(x: str, **options: Any) -> Content:
    """Return what is captured of a call with ``x`` wherever a person or a model can write."""
    answer = AIMessage(
        [
            {"type": "server_tool_call", "name": x, "id": "s", "args": {x: x}},
            {"type": "server_tool_result", "tool_call_id": "s", "output": x},
        ],
        additional_kwargs={"reasoning_content": x, "refusal": x, "audio": {"transcript": x}},
        name=x,
        tool_calls=[{"name": x, "args": {x: [x]}, "id": "1"}],
        invalid_tool_calls=[{"name": x, "args": "{" + x, "id": "2", "error": None}],
    )
    return captured(
        SystemMessage(x),
        HumanMessage(
            [
                x,
                {"type": "image_url", "image_url": "https://example.com/" + x},
                {"type": "file", "source_type": "text", "text": x},
                {"type": "compaction", "content": x},
            ],
            name=x,
        ),
        answer,
        ToolMessage([x, x], tool_call_id="1", name=x),
        ToolMessage([{x: x}], tool_call_id="1"),
        generations=[generation(answer), Generation(text=x)],
        params={
            "tools": [
                {"type": "function", "function": {"name": x, "description": x, "parameters": {x: {"enum": [x]}}}},
                {"type": x},
                {x: {}},
            ]
        },
        **options,
    )


class TestCredentials:
    @pytest.mark.parametrize("secret", [KEY, "sk-0123456789abcdef", "AIzaSy0123456789abcdefghij"])
    def test_never_leave(self, secret: str) -> None:
        content = everywhere(secret, secrets=[KEY])
        assert "[REDACTED]" in str(content.event_attributes())
        for name, value in content.span_attributes().items():
            assert secret not in value, name

    def test_of_a_url(self) -> None:
        urls = ["https://ann:pass@example.com/cat.png", "https://example.com/cat.png?size=1&key=abcdef"]
        assert input_parts(HumanMessage([{"type": "image_url", "image_url": url} for url in urls])) == [
            uri("https://[REDACTED]@example.com/cat.png"),
            uri("https://example.com/cat.png?size=1&key=[REDACTED]"),
        ]

    def test_of_a_field_that_says_so(self) -> None:
        arguments = {
            "api_key": "swordfish",
            "headers": {"x-api-key": "tuna", "Authorization": "Bearer cod"},
            "n": "cod",
        }
        message = AIMessage("", tool_calls=[{"name": "fetch", "args": arguments, "id": "call_1"}])
        assert answer_parts(message) == [
            call(
                "fetch",
                {
                    "api_key": "[REDACTED]",
                    "headers": {"x-api-key": "[REDACTED]", "Authorization": "Bearer [REDACTED]"},
                    "n": "cod",
                },
            )
        ]

    def test_in_two_chunks(self) -> None:
        chunks = [AIMessageChunk(content=[{"type": "text", "text": half}]) for half in (KEY[:9], KEY[9:])]
        content = captured(generations=[streamed(*chunks)], secrets=[KEY])
        assert content.output_messages[0].parts == [TextPart("[REDACTED]")]

    def test_at_the_limit(self) -> None:
        assert input_parts(HumanMessage(f"My key: {KEY}"), secrets=[KEY], max_content_length=14) == [
            text("My key: [REDA…")
        ]

    def test_in_identifiers(self) -> None:
        message = ToolMessage("Sunny", tool_call_id=f"call-{KEY}")
        assert input_parts(message, secrets=[KEY]) == [result("Sunny", "call-[REDACTED]")]


class TestRedact:
    def test_rewrites_every_text(self) -> None:
        content = everywhere("my diary", redact=lambda text: text.replace("diary", "***"))
        for name, value in content.span_attributes().items():
            assert "my ***" in value, name
            assert "diary" not in value, name

    def test_gets_text_without_credentials_and_before_it_is_cut(self) -> None:
        seen: list[str] = []

        def redact(text: str) -> str:
            seen.append(text)
            return text.upper()

        parts = input_parts(HumanMessage(f"a secret {KEY}"), redact=redact, secrets=[KEY], max_content_length=5)
        assert parts == [text("A SE…")]
        assert seen == ["a secret [REDACTED]"]

    def test_leaves_what_the_protocol_matches_by(self) -> None:
        call_ = AIMessage("", tool_calls=[{"name": "weather", "args": {}, "id": "call_1"}])
        answer = ToolMessage("Sunny", tool_call_id="call_1")
        content = captured(call_, answer, redact=lambda _: "x").event_attributes()
        assert content == {
            INPUT: [said("assistant", call("x", {})), said("tool", result("x"))],
        }

    @pytest.mark.parametrize("bad", [lambda text: 1 / 0, lambda text: None, lambda text: text.encode(), lambda: ""])
    def test_drops_the_text_if_it_fails(self, bad: Callable[[str], Any]) -> None:
        content = everywhere("my diary", redact=bad)
        assert content.input_messages[0].parts == [TextPart("")]
        for name, value in content.span_attributes().items():
            assert "diary" not in value, name

    def test_failure_is_logged_without_the_text(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module._REDACT, "_reported", False)

        def redact(text: str) -> str:
            raise ValueError(f"can't redact {text}")

        with caplog.at_level(logging.DEBUG):
            captured(HumanMessage("my " + "diary"), redact=redact)
        assert "redact raised ValueError" in caplog.text
        assert "in redact" in caplog.text
        assert "my diary" not in caplog.text
        assert [record.levelname for record in caplog.records] == ["WARNING"]

    @pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
    def test_does_not_keep_the_application_from_ending(self, interrupt: type[BaseException]) -> None:
        def redact(text: str) -> str:
            raise interrupt

        with pytest.raises(interrupt):
            captured(HumanMessage("Hi"), redact=redact)


class Level(enum.IntEnum):
    HIGH = 1


class Broken:
    @property
    def content(self) -> str:
        raise RuntimeError("no content")

    def __str__(self) -> str:
        raise RuntimeError("no text")


def circular() -> dict[str, Any]:
    circle: dict[str, Any] = {"a": 1}
    circle["circle"] = circle
    return circle


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(5_000):
        value = [value]
    return value


# Fields of content blocks.
FIELDS = ("args", "content", "data", "file_id", "id", "mime_type", "name", "source", "summary", "text", "url", "value")


class TestMalformed:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (circular(), {"a": 1}),
            ({"nan": math.nan, "inf": math.inf, "one": 1.5}, {"one": 1.5}),
            ({"lone": "a\ud800b", "pair": "\ud83c\udf0d"}, {"lone": "a\ufffdb", "pair": "🌍"}),
            ({"big": 2**64, "huge": 10**5000, "least": -(2**63)}, {"big": str(2**64), "huge": None, "least": -(2**63)}),
            ({"bytes": PNG, "level": Level.HIGH, "": "no name"}, {"bytes": PNG_BASE64, "level": 1}),
            ({"object": object(), "function": print, "broken": Broken(), "set": {1}}, {"set": [1]}),
            ({"tuple": ("a", None, True)}, {"tuple": ["a", None, True]}),
            (None, None),
        ],
        ids=["circle", "floats", "surrogates", "integers", "bytes", "objects", "tuple", "none"],
    )
    def test_arguments(self, arguments: Any, expected: object) -> None:
        message = AIMessage.model_construct(
            content=None, tool_calls=[{"name": "f", "args": arguments, "id": "call_1"}, None, 7]
        )
        content = captured(message)
        assert content.event_attributes()[INPUT][0]["parts"][0] == call("f", expected)
        assert_valid(content)

    @pytest.mark.parametrize(
        "content",
        [None, 7, {}, [None, 7, [], {}, {"type": None}, {"text": None}, {"type": []}], deep(), object(), b"x"],
    )
    @pytest.mark.parametrize("kind", [HumanMessage, SystemMessage, AIMessage, AIMessageChunk])
    def test_content(self, kind: type[BaseMessage], content: Any) -> None:
        message = kind.model_construct(content=content, additional_kwargs=None, response_metadata=7)
        content = captured(message, generations=[ChatGeneration.model_construct(message=message)])
        assert [message.parts for message in (*content.input_messages, *content.output_messages)] == [[], []]
        assert_valid(content)

    @pytest.mark.sampled(by=lambda block, value: (block["type"], repr(value), (block["type"], bool(value))))
    @pytest.mark.parametrize(
        "block", [{"type": name} for name in (*module._BLOCKS, "unknown")], ids=lambda b: b["type"]
    )
    @pytest.mark.parametrize("value", [None, 7, [], {}, [None], {"type": None}, b"x"], ids=repr)
    def test_blocks_with_wrong_fields(self, block: dict[str, Any], value: Any) -> None:
        content = captured(HumanMessage([{**block, **dict.fromkeys(FIELDS, value)}, block, "after"]))
        assert content.input_messages[0].parts[-1] == TextPart("after")
        assert_valid(content)

    def test_one_bad_message_costs_no_other(self, caplog: pytest.LogCaptureFixture) -> None:
        content = captured(HumanMessage("before"), Broken(), None, HumanMessage("after"), generations=[Broken(), None])
        assert [message.parts for message in content.input_messages] == [[TextPart("before")], [], [TextPart("after")]]
        assert_valid(content)

    @pytest.mark.parametrize("tools", [None, 7, "tools", [None, 7, {}, {"type": "function"}, {"type": 7}, {"name": 7}]])
    def test_tools(self, tools: Any) -> None:
        assert_valid(captured(params={"tools": tools, "functions": tools}))

    def test_large_input(self) -> None:
        content = captured(HumanMessage("x" * 1_000_000))
        assert content.input_messages[0].parts == [TextPart("x" * 1_000_000)]


# The fields of each type of part, as the conventions' schemas have them.
OPTIONAL_TEXT = (str, type(None))
PARTS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "text": {"content": str},
    "reasoning": {"content": str},
    "tool_call": {"name": str, "id": OPTIONAL_TEXT, "arguments": object},
    "tool_call_response": {"id": OPTIONAL_TEXT, "response": object},
    "blob": {"modality": str, "mime_type": OPTIONAL_TEXT, "content": str},
    "file": {"modality": str, "mime_type": OPTIONAL_TEXT, "file_id": str},
    "uri": {"modality": str, "mime_type": OPTIONAL_TEXT, "uri": str},
    "server_tool_call": {"name": str, "id": OPTIONAL_TEXT, "server_tool_call": dict},
    "server_tool_call_response": {"id": OPTIONAL_TEXT, "server_tool_call_response": dict},
    "compaction": {"id": OPTIONAL_TEXT, "content": OPTIONAL_TEXT},
}


def assert_part(part: Any) -> None:
    fields = PARTS[part["type"]]
    assert part.keys() == {"type", *fields}
    for name, kind in fields.items():
        assert isinstance(part[name], kind), (name, part)
    assert not part.get("uri", "").startswith("data:")
    for name in ("server_tool_call", "server_tool_call_response"):
        assert isinstance(part.get(name, {"type": ""})["type"], str)


def assert_exportable(value: Any) -> None:
    """Check that OTLP has such a value, which is that of plain JSON with integers of 64 bits."""
    if isinstance(value, dict):
        for key, item in value.items():
            assert key
            assert_exportable(key)
            assert_exportable(item)
    elif isinstance(value, list):
        for item in value:
            assert_exportable(item)
    elif type(value) is str:
        value.encode()
    elif isinstance(value, int):
        assert -(2**63) <= value < 2**63
    else:
        assert value is None or math.isfinite(value)


def assert_valid(content: Content) -> None:
    event = content.event_attributes()
    assert_exportable(event)

    def fail(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert {name: json.loads(value, parse_constant=fail) for name, value in content.span_attributes().items()} == event
    for name, roles in ((INPUT, {}), (OUTPUT, {"finish_reason": OPTIONAL_TEXT})):
        for message in event.get(name, []):
            assert message.keys() == {"role", "parts", "name", *roles}
            assert isinstance(message["role"], str)
            assert isinstance(message["name"], OPTIONAL_TEXT)
            for part in message["parts"]:
                assert_part(part)
    for part in event.get(SYSTEM, []):
        assert_part(part)
    for definition in event.get(TOOLS, []):
        assert isinstance(definition["name"], str)
        assert isinstance(definition["type"], str)
        assert isinstance(definition.get("description"), OPTIONAL_TEXT)
        assert isinstance(definition.get("parameters"), dict | None)


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in value.items() for text in (item[0], *texts(item[1]))]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


ANY_TEXT = st.text(st.characters(codec=None), max_size=20) | st.just(f"x {KEY} y")
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(max_size=20) | st.builds(object),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            ANY_TEXT | st.sampled_from(["type", "text", "data", "url", "name", "id"]), children, max_size=4
        )
        | st.tuples(children)
    ),
    max_leaves=12,
)
ANY_BLOCK = ANYTHING | st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from([*module._BLOCKS]),
    st.dictionaries(
        st.sampled_from([*module._BLOCKS, *FIELDS]),
        ANYTHING,
        max_size=5,
    ),
)
ANY_MESSAGE = st.builds(
    lambda kind, **fields: kind.model_construct(**fields),
    st.sampled_from(
        [HumanMessage, SystemMessage, AIMessage, AIMessageChunk, ToolMessage, FunctionMessage, ChatMessage]
    ),
    content=ANY_TEXT | st.lists(ANY_BLOCK, max_size=4) | ANYTHING,
    name=ANYTHING,
    role=ANYTHING,
    tool_call_id=ANYTHING,
    tool_calls=st.lists(st.fixed_dictionaries({"name": ANYTHING, "args": ANYTHING, "id": ANYTHING}), max_size=2)
    | ANYTHING,
    additional_kwargs=st.dictionaries(
        st.sampled_from(["reasoning_content", "reasoning", "refusal", "audio", "tool_outputs", "function_call"]),
        ANYTHING,
    )
    | ANYTHING,
    response_metadata=ANYTHING,
)
ANY_TOOLS = st.fixed_dictionaries({"tools": st.lists(ANYTHING, max_size=3) | ANYTHING})


class TestWhatever:
    @given(messages=st.lists(ANY_MESSAGE | ANYTHING, max_size=3), tools=ANY_TOOLS, limit=st.none() | st.integers(0, 30))
    def test_is_said(self, messages: list[Any], tools: dict[str, Any], limit: int | None) -> None:
        content = captured(
            *messages,
            generations=[ChatGeneration.model_construct(message=message) for message in messages],
            params=tools,
            secrets=[KEY],
            system_separately=True,
            max_content_length=limit,
        )
        assert_valid(content)
        assert all(KEY not in value for value in content.span_attributes().values())

    @given(message=ANY_MESSAGE, limit=st.integers(0, 30))
    def test_no_part_is_longer_than_the_limit(self, message: BaseMessage, limit: int) -> None:
        for part in input_parts(message, max_content_length=limit):
            for field_ in ("content", "uri", "arguments"):
                assert sum(map(len, texts(part.get(field_)))) <= limit

    @given(st.text(), st.integers(0, 30))
    def test_cut_text_is_a_beginning(self, said: str, limit: int) -> None:
        for part in input_parts(HumanMessage(said), max_content_length=limit):
            if len(said) <= limit:
                assert part == text(module.without_credentials(said))
            else:
                assert said.startswith(re.sub("…$", "", part["content"]))


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
    def test_says_who_receives_content(
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

    def test_names_a_variable_it_ignores(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(EMIT, "maybe")
        ContentCapture.from_environment()
        assert caplog.messages == [f"{EMIT}=maybe is ignored: expected true or false"]

    def test_hook_wants_content(self) -> None:
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
