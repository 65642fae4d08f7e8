# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Conversion of LangChain's messages, generations and tools to the message parts of the GenAI conventions.

The conventions' JSON schemas are ``gen-ai-input-messages.json``, ``gen-ai-output-messages.json``,
``gen-ai-system-instructions.json`` and ``gen-ai-tool-definitions.json``; ``opentelemetry.util.genai.types`` has classes
for them. Content for which they define no part is left out.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Final, cast
from urllib.parse import unquote_to_bytes

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from opentelemetry.util.genai.types import (
    BlobPart,
    CompactionPart,
    FilePart,
    FunctionToolDefinition,
    GenericToolDefinition,
    InputMessage,
    MessagePart,
    OutputMessage,
    ReasoningPart,
    ServerToolCallPart,
    ServerToolCallResponsePart,
    TextPart,
    ToolCallRequestPart,
    ToolCallResponsePart,
    ToolDefinition,
    UriPart,
)
from opentelemetry.util.genai.utils import decode_base64
from opentelemetry.util.types import AnyValue

from .otel_utils import Guard
from .sanitizer import Sanitizer
from .values import items, mapping

_CONVERT_BLOCK: Final = Guard("converting a content block")

_ROLES: Final = (
    (AIMessage, "assistant"),
    (HumanMessage, "user"),
    (SystemMessage, "system"),
    (ToolMessage | FunctionMessage, "tool"),
)

_FINISH_REASONS: Final = ("finish_reason", "done_reason", "stop_reason")

_Converter = Callable[[Sanitizer, Mapping[str, object]], Iterator[MessagePart]]


def input_message(sanitizer: Sanitizer, message: object) -> InputMessage:
    """Convert one message of the history, or the text of a plain prompt."""
    return InputMessage(_role(sanitizer, message), message_parts(sanitizer, message), _name(sanitizer, message))


def output_message(
    sanitizer: Sanitizer, generation: object, finish_reason: str | None, default_finish_reason: str
) -> OutputMessage:
    """Convert one choice.

    :param generation: LangChain's ``Generation`` or ``ChatGeneration``.
    :param finish_reason: the choice's, from the provider's answer; None to read it from LangChain's metadata.
    :param default_finish_reason: used if neither has one. The schema requires a string.
    """
    message: object = getattr(generation, "message", None)
    metadata = getattr(message, "response_metadata", None) or getattr(generation, "generation_info", None)
    finish_reason = finish_reason or _first_text(mapping(metadata), *_FINISH_REASONS) or default_finish_reason
    return OutputMessage(
        # A text completion has no message, and its text is the model's, not the user's.
        role=_role(sanitizer, message) if isinstance(message, ChatMessage) else "assistant",
        parts=message_parts(
            sanitizer, message if isinstance(message, BaseMessage) else getattr(generation, "text", None)
        ),
        finish_reason=sanitizer.identifier(finish_reason),
        name=_name(sanitizer, message),
    )


def message_parts(sanitizer: Sanitizer, message: object) -> list[MessagePart]:
    """Convert the content of a message, or a plain text."""
    content: object = getattr(message, "content", message)
    if isinstance(message, ToolMessage | FunctionMessage):
        return [_tool_response(sanitizer, content, getattr(message, "tool_call_id", None))]
    if isinstance(message, AIMessage):
        return _answer_parts(sanitizer, message, content)
    return _parts(sanitizer, _blocks(content), _CONVERTERS)


def _first_text(fields: Mapping[str, object], *names: str) -> str | None:
    """Return the first of these fields that is a non-empty string."""
    return next((value for name in names if isinstance(value := fields.get(name), str) and value), None)


def _role(sanitizer: Sanitizer, message: object) -> str:
    role = sanitizer.identifier(message.role) if isinstance(message, ChatMessage) else None
    return role or next((role for types, role in _ROLES if isinstance(message, types)), "user")


def _name(sanitizer: Sanitizer, message: object) -> str | None:
    name = getattr(message, "name", None)
    return sanitizer.text(name) if isinstance(name, str) else None


def _tool_response(sanitizer: Sanitizer, content: object, call_id: object) -> ToolCallResponsePart:
    """Convert a tool's result: to parts if it consists of texts and media, else to a structure."""
    blocks = items(content)
    # A result inside a result stays a structure; otherwise results could nest too deeply to be exported.
    parts = _parts(sanitizer, blocks, _RESULT_CONVERTERS)
    return ToolCallResponsePart(
        parts if parts and len(parts) == len(blocks) else sanitizer.structure(content), sanitizer.identifier(call_id)
    )


def _answer_parts(sanitizer: Sanitizer, message: AIMessage, content: object) -> list[MessagePart]:
    """Convert a model's message. LangChain keeps some of its parts outside the content."""
    extra = mapping(getattr(message, "additional_kwargs", None))
    blocks: list[object] = []
    for name in ("reasoning_content", "reasoning"):
        if reasoning := extra.get(name):
            blocks.append({"reasoning": reasoning, **mapping(reasoning), "type": "reasoning"})
    blocks += _merged_fragments(_blocks(content))
    if refusal := extra.get("refusal"):
        blocks.append({"type": "refusal", "refusal": refusal})
    if audio := extra.get("audio"):
        # From Google, the bytes of a WAV file; from OpenAI, an object whose transcript is the text of the answer.
        fields = mapping(audio)
        blocks.append({"type": "text", "text": fields.get("transcript")})
        blocks.append({"type": "audio", **(fields or {"data": audio, "mime_type": "audio/wav"})})
    blocks += items(extra.get("tool_outputs"))
    parts = _parts(sanitizer, blocks, _CONVERTERS)
    calls = (*items(getattr(message, "tool_calls", None)), *items(getattr(message, "invalid_tool_calls", None)))
    for call in calls:
        fields = mapping(call)
        parts.append(_tool_call(sanitizer, fields.get("name"), fields.get("args"), fields.get("id")))
    if not calls and (legacy := mapping(extra.get("function_call"))):
        parts.append(_tool_call(sanitizer, legacy.get("name"), legacy.get("arguments"), None))
    return parts


def _tool_call(sanitizer: Sanitizer, name: object, arguments: object, call_id: object) -> ToolCallRequestPart:
    if isinstance(arguments, str):
        # LangChain failed to parse these arguments, or did not try.
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return ToolCallRequestPart(
        arguments=sanitizer.structure(arguments),
        name=sanitizer.text(name) if isinstance(name, str) else "",
        id=sanitizer.identifier(call_id),
    )


def _blocks(content: object) -> Sequence[object]:
    return items(content) or ((content,) if content else ())


# The types that are streamed in fragments, each with the field that holds its text.
_FRAGMENT_TEXT: Final = {"text": "text", "thinking": "thinking", "reasoning": "reasoning"}


def _fragment_type(block: object) -> str | None:
    if isinstance(block, str):
        return "text"
    fields = mapping(block)
    block_type = fields.get("type")
    # LangChain has already merged the blocks that have an index.
    if not isinstance(block_type, str) or "index" in fields:
        return None
    return block_type if isinstance(fields.get(_FRAGMENT_TEXT.get(block_type, "")), str) else None


def _merged_fragments(blocks: Iterable[object]) -> Iterator[object]:
    """Merge the adjacent fragments of a stream, because a credential split between two is not recognized."""
    for block_type, group in groupby(blocks, _fragment_type):
        if block_type is None:
            yield from group
        else:
            name = _FRAGMENT_TEXT[block_type]
            texts = (block if isinstance(block, str) else str(mapping(block)[name]) for block in group)
            yield {"type": block_type, name: "".join(texts)}


def _parts(sanitizer: Sanitizer, blocks: Iterable[object], converters: Mapping[str, _Converter]) -> list[MessagePart]:
    parts: list[MessagePart] = []
    for block in blocks:
        with _CONVERT_BLOCK:
            fields = {"type": "text", "text": block} if isinstance(block, str) else mapping(block)
            if fields.get("type") == "non_standard":
                fields = mapping(fields.get("value"))
            block_type = fields.get("type", "text")
            if isinstance(block_type, str) and (convert := converters.get(block_type)):
                parts.extend(convert(sanitizer, fields))
    return parts


def _text(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    # The conventions define no part for a refusal. It takes the place of the answer.
    if text := _first_text(block, "refusal" if block.get("type") == "refusal" else "text"):
        yield TextPart(sanitizer.text(text))


def _reasoning(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    nested = mapping(block.get("reasoning_content"))
    # OpenAI's Responses API has a list of summaries, or of contents.
    for source in (block, nested, *items(block.get("summary")), *items(block.get("content"))):
        if text := _first_text(mapping(source), "thinking", "reasoning", "reasoning_content", "text"):
            yield ReasoningPart(sanitizer.text(text))


def _tool_result(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield _tool_response(sanitizer, block.get("content"), _first_text(block, "tool_use_id", "tool_call_id"))


def _compaction(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    summary = _first_text(block, "content")
    yield CompactionPart(sanitizer.identifier(block.get("id")), None if summary is None else sanitizer.text(summary))


_ENVELOPE: Final = frozenset({"type", "id", "name", "index", "tool_use_id", "tool_call_id"})


def _details(sanitizer: Sanitizer, block: Mapping[str, object]) -> dict[str, AnyValue]:
    details = sanitizer.structure({key: value for key, value in block.items() if key not in _ENVELOPE})
    return {**cast("dict[str, AnyValue]", details), "type": sanitizer.identifier(block.get("type"))}


def _server_tool_call(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    name = _first_text(block, "name") or str(block["type"]).removesuffix("_call")
    yield ServerToolCallPart(sanitizer.text(name), _details(sanitizer, block), sanitizer.identifier(block.get("id")))


def _code_execution(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield from _server_tool_call(sanitizer, {"name": "code_execution", **block})


def _image_generation(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield from _server_tool_call(sanitizer, {key: value for key, value in block.items() if key != "result"})
    if image := _first_text(block, "result"):
        yield _inline(sanitizer, image, _mime_type(f"image/{_first_text(block, 'output_format') or 'png'}"), "image")


def _server_tool_result(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield ServerToolCallResponsePart(
        _details(sanitizer, block), sanitizer.identifier(_first_text(block, "tool_use_id", "tool_call_id", "id"))
    )


# The modality of each block type; None if it follows from the MIME type.
_MODALITIES: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image"),
    **dict.fromkeys(("audio", "input_audio"), "audio"),
    **dict.fromkeys(("video", "video_url"), "video"),
    **dict.fromkeys(("document", "file", "input_file", "media", "text-plain")),
}


def _media(sanitizer: Sanitizer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    """Convert an image, audio, a video or a file, in each provider's format and in those of LangChain 0.3 and 1.x."""
    block_type = str(block["type"])
    nested = block.get(block_type) or block.get("image_url") or block.get("source")
    inner = {"url": nested} if isinstance(nested, str) else mapping(nested)
    fields = {**block, **inner}
    is_text = "text" in (block_type.removesuffix("-plain"), block.get("source_type"), inner.get("type"))
    if is_text and (text := _first_text(fields, "text", "data")):
        yield TextPart(sanitizer.text(text))
        return
    mime_type = _mime_type(_first_text(fields, "mime_type", "media_type"))
    modality = _MODALITIES[block_type]
    if mime_type is None and modality is not None and (format_ := _first_text(fields, "format")):
        mime_type = _mime_type(f"{modality}/{format_}")
    if modality is None:
        family = (mime_type or "").partition("/")[0]
        modality = family if family in ("image", "audio", "video") else "document"
    for name in ("base64", "data", "file_data"):
        data = fields.get(name)
        if data and isinstance(data, str | bytes):
            yield _inline(sanitizer, data, mime_type, modality)
            return
    if url := _first_text(fields, "url", "file_uri", "file_url", "uri"):
        url = url.strip()
        # The community ChatOllama accepts base64 in place of a URL.
        if _is_data_url(url) or (":" not in url and decode_base64(url)):
            yield _inline(sanitizer, url, mime_type, modality)
        else:
            yield UriPart(mime_type, modality, sanitizer.text(url))
    elif file_id := sanitizer.identifier(_first_text(fields, "file_id", "id")):
        yield FilePart(mime_type, modality, file_id)


# The MIME type is the one field that is not cleaned, so a value of any other form is left out.
_MIME_TYPE: Final = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}(?=$|;)", re.ASCII)


def _mime_type(text: str | None) -> str | None:
    match = _MIME_TYPE.match(text or "")
    return match[0] if match else None


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def _inline(sanitizer: Sanitizer, data: str | bytes, mime_type: str | None, modality: str) -> BlobPart:
    if isinstance(data, str) and _is_data_url(data):
        header, _, payload = data[5:].partition(",")
        mime_type = _mime_type(header) or mime_type
        data = payload if ";base64" in header.lower() else unquote_to_bytes(payload)
    return BlobPart(mime_type, modality, sanitizer.binary(data))


# Texts and media, of which a tool's result may consist.
_RESULT_CONVERTERS: Final[Mapping[str, _Converter]] = {
    **dict.fromkeys(("text", "input_text", "output_text"), _text),
    **dict.fromkeys(_MODALITIES, _media),
}

# Calls of the application's tools are left out: LangChain also has them in the message's tool_calls.
_CONVERTERS: Final[Mapping[str, _Converter]] = {
    **_RESULT_CONVERTERS,
    **dict.fromkeys(("thinking", "reasoning", "reasoning_content"), _reasoning),
    **dict.fromkeys(
        (
            "server_tool_call",
            "server_tool_use",
            "code_interpreter_call",
            "computer_call",
            "file_search_call",
            "mcp_call",
            "web_search_call",
        ),
        _server_tool_call,
    ),
    **dict.fromkeys(
        (
            "server_tool_result",
            "code_execution_result",
            "code_execution_tool_result",
            "web_fetch_tool_result",
            "web_search_tool_result",
        ),
        _server_tool_result,
    ),
    "compaction": _compaction,
    "executable_code": _code_execution,
    "image_generation_call": _image_generation,
    "refusal": _text,
    "tool_result": _tool_result,
}


def tool_definitions(sanitizer: Sanitizer, tool: object) -> Iterator[ToolDefinition]:
    """Convert one entry of ``tools`` or ``functions``.

    It is an OpenAI tool, a flat function of its Responses API or its old ``functions``, or a Google set of tools.
    """
    fields = mapping(tool)
    tool_type = fields.get("type", "function")
    function = mapping(fields.get("function")) or fields
    if tool_type == "function" and _first_text(function, "name"):
        yield _function(sanitizer, function)
    elif isinstance(tool_type, str) and "type" in fields:
        # The provider runs this tool. Its settings may contain a server's headers, so they are left out.
        name = _first_text(fields, "name", "server_label") or tool_type
        yield GenericToolDefinition(sanitizer.text(name), sanitizer.text(tool_type))
    else:
        for name, value in fields.items():
            if name == "function_declarations":
                yield from (_function(sanitizer, mapping(declaration)) for declaration in items(value))
            elif isinstance(value, Mapping):
                yield GenericToolDefinition(sanitizer.text(name), sanitizer.text(name))


def _function(sanitizer: Sanitizer, function: Mapping[str, object]) -> FunctionToolDefinition:
    description = _first_text(function, "description")
    parameters = sanitizer.schema(function.get("parameters"))
    return FunctionToolDefinition(
        name=sanitizer.text(_first_text(function, "name") or ""),
        description=None if description is None else sanitizer.text(description),
        parameters=parameters if isinstance(parameters, Mapping) else None,
    )
