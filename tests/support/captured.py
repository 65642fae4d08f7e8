# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Captured content for the tests: shorthands for messages and parts, and the checks that hold for all content."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from jsonschema import Draft202012Validator
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation

from opentelemetry_instrumentation_modelforge.capture import Content, ContentCapture

INPUT = "gen_ai.input.messages"
OUTPUT = "gen_ai.output.messages"
SYSTEM = "gen_ai.system_instructions"
TOOLS = "gen_ai.tool.definitions"

PNG = b"\x89PNG\r\n\x1a\n"
PNG_BASE64 = b64encode(PNG).decode()
KEY = "the-model's-own-key"


def input_message(role: str, *parts: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), **fields}


def output_message(*parts: Mapping[str, Any], reason: str = "stop") -> dict[str, Any]:
    return {"role": "assistant", "parts": list(parts), "finish_reason": reason}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def reasoning(content: str) -> dict[str, Any]:
    return {"type": "reasoning", "content": content}


def call(name: str, arguments: Any, identifier: str | None = "call_1") -> dict[str, Any]:
    return present(type="tool_call", name=name, arguments=arguments, id=identifier) | {"arguments": arguments}


def result(response: Any, identifier: str | None = "call_1") -> dict[str, Any]:
    return present(type="tool_call_response", response=response, id=identifier) | {"response": response}


def blob(content: str = PNG_BASE64, mime_type: str | None = "image/png", modality: str = "image") -> dict[str, Any]:
    return present(type="blob", mime_type=mime_type, modality=modality, content=content)


def uri(uri: str, mime_type: str | None = None, modality: str = "image") -> dict[str, Any]:
    return present(type="uri", mime_type=mime_type, modality=modality, uri=uri)


def file(file_id: str, mime_type: str | None = None, modality: str = "document") -> dict[str, Any]:
    return present(type="file", mime_type=mime_type, modality=modality, file_id=file_id)


def present(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value. The schemas' optional fields are left out, not null."""
    return {name: value for name, value in fields.items() if value is not None}


def generation(message: BaseMessage, reason: str | None = "stop") -> ChatGeneration:
    if reason:
        message.response_metadata = {"finish_reason": reason}
    return ChatGeneration(message=message)


def captured(
    *messages: Any,
    generations: Sequence[Any] = (),
    params: Mapping[str, object] | None = None,
    max_content_length: int | None = None,
    redact: Callable[[str], Any] | None = None,
    **options: Any,
) -> Content:
    capture = ContentCapture(on_span=True, max_content_length=max_content_length, redact=redact)
    return capture.capture(messages, generations, params, **options)


def input_parts(*messages: Any, **options: Any) -> list[dict[str, Any]]:
    """Return the parts of all messages."""
    messages_ = captured(*messages, **options).event_attributes().get(INPUT, [])
    return [part for message in messages_ for part in message["parts"]]


def answer_parts(message: BaseMessage, **options: Any) -> list[dict[str, Any]]:
    (answer,) = captured(generations=[generation(message)], **options).event_attributes()[OUTPUT]
    return answer["parts"]


def streamed(*chunks: AIMessageChunk) -> ChatGenerationChunk:
    """Return a stream's chunks as LangChain merges them."""
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


def everywhere(x: str, **options: Any) -> Content:
    """Return the captured content of a call with ``x`` wherever a person or a model can write."""
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


STRING = {"type": "string"}
ANY: Final[dict[str, Any]] = {}
TYPED_OBJECT = {"type": "object", "required": ["type"], "properties": {"type": STRING}}


def closed(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object with exactly these fields."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def part(type_: str, required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return closed({"type": {"const": type_}, **required}, optional)


def array(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": schema}


# The conventions' schemas, but stricter: only known fields, and no null in place of a string.
MEDIA = {"modality": STRING}
MIME_TYPE = {"mime_type": {**STRING, "pattern": r"^[\w.+-]+/[\w.+-]+$"}}
PART = {
    "oneOf": [
        part("text", {"content": STRING}),
        part("reasoning", {"content": STRING}),
        part("tool_call", {"name": STRING, "arguments": ANY}, {"id": STRING}),
        part("tool_call_response", {"response": ANY}, {"id": STRING}),
        part("blob", {**MEDIA, "content": {**STRING, "contentEncoding": "base64"}}, MIME_TYPE),
        part("file", {**MEDIA, "file_id": STRING}, MIME_TYPE),
        part("uri", {**MEDIA, "uri": {**STRING, "not": {"pattern": "^data:"}}}, MIME_TYPE),
        part("server_tool_call", {"name": STRING, "server_tool_call": TYPED_OBJECT}, {"id": STRING}),
        part("server_tool_call_response", {"server_tool_call_response": TYPED_OBJECT}, {"id": STRING}),
        part("compaction", {}, {"id": STRING, "content": STRING}),
    ]
}
MESSAGE = {"role": {**STRING, "minLength": 1}, "parts": {"type": "array", "items": PART}}
FUNCTION = part("function", {"name": STRING}, {"description": STRING, "parameters": {"type": "object"}})
SCHEMA = closed(
    {},
    {
        SYSTEM: array(PART),
        INPUT: array(closed(MESSAGE, {"name": STRING})),
        OUTPUT: array(closed({**MESSAGE, "finish_reason": {**STRING, "minLength": 1}}, {"name": STRING})),
        TOOLS: array({"anyOf": [FUNCTION, closed({"type": STRING, "name": STRING})]}),
    },
)
VALIDATOR = Draft202012Validator(SCHEMA)


def assert_exportable(value: Any) -> None:
    """Check that OTLP can represent a value: plain JSON with 64-bit integers."""
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
    VALIDATOR.validate(event)
    assert_exportable(event)

    def fail(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert {name: json.loads(value, parse_constant=fail) for name, value in content.span_attributes().items()} == event
