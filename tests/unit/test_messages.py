# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The message parts of each kind of content, in each provider's spelling, and of malformed content."""

from __future__ import annotations

import enum
import json
import math
import re
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
from langchain_core.outputs import ChatGeneration, Generation
from opentelemetry.util.genai.types import TextPart

from opentelemetry_instrumentation_modelforge import messages
from opentelemetry_instrumentation_modelforge.capture import Content
from opentelemetry_instrumentation_modelforge.redaction import without_credentials
from support.captured import (
    INPUT,
    KEY,
    LONDON,
    OUTPUT,
    PNG,
    PNG_BASE64,
    SYSTEM,
    TOOLS,
    WEATHER,
    answer_parts,
    assert_valid,
    blob,
    call,
    captured,
    file,
    generation,
    input_message,
    input_parts,
    output_message,
    reasoning,
    result,
    streamed,
    text,
    uri,
)


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


CASES = {
    "plain": Case(
        {
            INPUT: [input_message("user", text("Say hello"))],
            OUTPUT: [output_message(text("Hello"))],
        },
        [HumanMessage("Say hello")],
        [generation(AIMessage("Hello"))],
    ),
    "multi-turn": Case(
        {
            INPUT: [
                input_message("user", text("One?"), name="ann"),
                input_message("assistant", text("Two.")),
                input_message("user", text("Three?")),
            ],
            OUTPUT: [output_message(text("Four."))],
        },
        [HumanMessage("One?", name="ann"), AIMessage("Two."), HumanMessageChunk(content="Three?")],
        [generation(AIMessage("Four."))],
    ),
    "system instructions in the history": Case(
        {INPUT: [input_message("system", text("Be brief.")), input_message("user", text("Hi"))]},
        [SystemMessage("Be brief."), HumanMessage("Hi")],
    ),
    "system instructions apart from the history": Case(
        {
            SYSTEM: [text("Be brief."), text("Be kind.")],
            INPUT: [input_message("user", text("Hi"))],
        },
        [SystemMessage(["Be brief.", {"type": "text", "text": "Be kind."}]), HumanMessage("Hi")],
        system_separately=True,
    ),
    "tool call": Case(
        {
            INPUT: [input_message("user", text("Weather?"))],
            OUTPUT: [output_message(call("weather", {"city": "London", "days": 2}), reason="tool_calls")],
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
                input_message("user", text("Weather?")),
                input_message("assistant", text("I look."), call("weather", {"city": "London", "days": 2})),
                input_message("tool", result("Sunny, 20 °C"), name="weather"),
            ],
            OUTPUT: [output_message(text("It is sunny."))],
        },
        [
            HumanMessage("Weather?"),
            AIMessage("I look.", tool_calls=LONDON),
            ToolMessage("Sunny, 20 °C", tool_call_id="call_1", name="weather"),
        ],
        [generation(AIMessage("It is sunny."))],
    ),
    "tool result with an image": Case(
        {INPUT: [input_message("tool", result([text("The map:"), blob()]))]},
        [
            ToolMessage(
                ["The map:", {"type": "image", "source_type": "base64", "data": PNG_BASE64, "mime_type": "image/png"}],
                tool_call_id="call_1",
            )
        ],
    ),
    "tool result that is no content": Case(
        {INPUT: [input_message("tool", result([{"celsius": 20}, {"type": "text", "text": "sunny"}]))]},
        [ToolMessage([{"celsius": 20}, {"type": "text", "text": "sunny"}], tool_call_id="call_1")],
    ),
    "two choices": Case(
        {
            INPUT: [input_message("user", text("Heads or tails?"))],
            OUTPUT: [output_message(text("Heads")), output_message(text("Tai"), reason="length")],
        },
        [HumanMessage("Heads or tails?")],
        [generation(AIMessage("Heads")), generation(AIMessage("Tai"), "length")],
    ),
    "image by URL and by bytes": Case(
        {
            INPUT: [
                input_message(
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
            INPUT: [input_message("user", blob("AAAA", "audio/mp3", "audio"))],
            OUTPUT: [output_message(text("Spoken words"), blob("AAAA", None, "audio"))],
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
                input_message(
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
        {OUTPUT: [output_message(reasoning("Let me think."), text("42"))]},
        generations=[
            generation(AIMessage([{"type": "thinking", "thinking": "Let me think.", "signature": "x"}, "42"]))
        ],
    ),
    "refusal": Case(
        {OUTPUT: [output_message(text("I can't help with that."))]},
        generations=[generation(AIMessage("", additional_kwargs={"refusal": "I can't help with that."}))],
    ),
    "streamed": Case(
        {OUTPUT: [output_message(text("Hello"), call("weather", {"city": "London"}))]},
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
                output_message(
                    {
                        "type": "server_tool_call",
                        "name": "web_search",
                        "id": "ws_1",
                        "server_tool_call": {"type": "web_search_call", "action": {"query": "otel"}},
                    },
                    {
                        "type": "server_tool_call",
                        "name": "code_execution",
                        "server_tool_call": {
                            "type": "executable_code",
                            "executable_code": "print(1)",
                            "language": 1,
                        },
                    },
                    {
                        "type": "server_tool_call_response",
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
                output_message(
                    {"type": "compaction", "id": "cmp_1"},
                    {"type": "compaction", "content": "What was said before"},
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
            INPUT: [input_message("user", text("Once upon"))],
            OUTPUT: [output_message(text(" a time"), reason="length")],
        },
        ["Once upon"],
        [Generation(text=" a time", generation_info={"finish_reason": "length"})],
    ),
    "function of OpenAI's first kind": Case(
        {
            INPUT: [
                input_message("assistant", call("weather", {"city": "London"}, None)),
                input_message("tool", result("Sunny", None), name="weather"),
            ],
            TOOLS: [{"type": "function", "name": "weather", "parameters": WEATHER}],
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
                {"type": "function", "name": "weather", "parameters": WEATHER},
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
    def test_event_content_is_structured(self, case: Case) -> None:
        assert case.capture().event_attributes() == case.expected

    @pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
    def test_span_content_is_the_same_as_json(self, case: Case) -> None:
        attributes = case.capture().span_attributes()
        assert {name: json.loads(value) for name, value in attributes.items()} == case.expected

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

    def test_malformed_base64_is_recorded_as_an_image_without_content(self) -> None:
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

    def test_streamed_blocks_are_merged(self) -> None:
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

    def test_blocks_merged_by_langchain_stay_separate(self) -> None:
        blocks = [{"type": "text", "text": "One.", "index": 0}, {"type": "text", "text": "Two.", "index": 1}]
        assert answer_parts(AIMessage(blocks)) == [text("One."), text("Two.")]

    def test_tool_call_is_one_part(self) -> None:
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
    def test_arguments_that_langchain_could_not_parse(self, args: str | None, expected: object) -> None:
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

    def test_tool_result_inside_a_tool_result_stays_a_structure(self) -> None:
        inner = {"type": "tool_result", "tool_use_id": "call_2", "content": "Sunny"}
        block = {"type": "tool_result", "tool_use_id": "call_1", "content": [inner]}
        assert input_parts(HumanMessage([block])) == [result([inner])]

    def test_tool_result_in_a_user_s_message(self) -> None:
        block = {"type": "tool_result", "tool_use_id": "call_1", "content": [{"type": "text", "text": "Sunny"}]}
        assert input_parts(HumanMessage([block])) == [result([text("Sunny")])]

    def test_unknown_blocks_are_left_out(self) -> None:
        assert input_parts(HumanMessage([{"type": "hologram", "data": "x"}, {"type": 7}, "Hi"])) == [text("Hi")]


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


BLOCK_TYPES = (*messages._CONVERTERS, "non_standard")
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

    @pytest.mark.parametrize("block", [{"type": name} for name in (*BLOCK_TYPES, "unknown")], ids=lambda b: b["type"])
    @pytest.mark.parametrize("value", [None, 7, [], {}, [None], {"type": None}, b"x"], ids=repr)
    def test_blocks_with_wrong_fields(self, block: dict[str, Any], value: Any) -> None:
        content = captured(HumanMessage([{**block, **dict.fromkeys(FIELDS, value)}, block, "after"]))
        assert content.input_messages[0].parts[-1] == TextPart("after")
        assert_valid(content)

    def test_one_malformed_message_does_not_affect_the_others(self, caplog: pytest.LogCaptureFixture) -> None:
        content = captured(HumanMessage("before"), Broken(), None, HumanMessage("after"), generations=[Broken(), None])
        assert [message.parts for message in content.input_messages] == [[TextPart("before")], [], [TextPart("after")]]
        assert_valid(content)

    @pytest.mark.parametrize("tools", [None, 7, "tools", [None, 7, {}, {"type": "function"}, {"type": 7}, {"name": 7}]])
    def test_tools(self, tools: Any) -> None:
        assert_valid(captured(params={"tools": tools, "functions": tools}))

    def test_large_input(self) -> None:
        content = captured(HumanMessage("x" * 1_000_000))
        assert content.input_messages[0].parts == [TextPart("x" * 1_000_000)]


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
        | st.dictionaries(st.none() | st.integers() | st.floats() | st.binary(max_size=2), children, max_size=2)
        | st.dictionaries(
            ANY_TEXT | st.sampled_from(["type", "text", "data", "url", "name", "id"]), children, max_size=4
        )
        | st.tuples(children)
    ),
    max_leaves=12,
)


ANY_BLOCK = ANYTHING | st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(BLOCK_TYPES),
    st.dictionaries(
        st.sampled_from([*BLOCK_TYPES, *FIELDS]),
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
    def test_is_valid_and_without_the_credential(
        self, messages: list[Any], tools: dict[str, Any], limit: int | None
    ) -> None:
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
    def test_cut_text_is_a_beginning(self, prompt: str, limit: int) -> None:
        for part in input_parts(HumanMessage(prompt), max_content_length=limit):
            if len(prompt) <= limit:
                assert part == text(without_credentials(prompt))
            else:
                assert prompt.startswith(re.sub("…$", "", part["content"]))
