"""What was said in a call: LangChain's messages as the message parts of the GenAI conventions.

The conventions' JSON schemas are ``gen-ai-input-messages.json``, ``gen-ai-output-messages.json``,
``gen-ai-system-instructions.json`` and ``gen-ai-tool-definitions.json``; ``opentelemetry.util.genai.types`` has them as
classes. What a provider sends that has no part there is left out.
"""

import json
import os
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby
from logging import getLogger
from math import inf
from typing import Final, Self, cast
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
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.util.genai import completion_hook as completion_hooks
from opentelemetry.util.genai.completion_hook import CompletionHook, load_completion_hook
from opentelemetry.util.genai.environment_variables import OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT
from opentelemetry.util.genai.types import (
    BlobPart,
    CompactionPart,
    ContentCapturingMode,
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
from opentelemetry.util.genai.utils import (
    decode_base64,
    gen_ai_json_dumps,
    get_content_capturing_mode,
    object_to_any_value,
)
from opentelemetry.util.types import AnyValue

from .config import Redact
from .otel_utils import Guard, encodable
from .redaction import REDACTED, without_credentials

_logger = getLogger(__name__)

_CONVERT: Final = Guard("converting a message")
_REDACT: Final = Guard("calling redact")

_ON_SPAN: Final = (ContentCapturingMode.SPAN_ONLY, ContentCapturingMode.SPAN_AND_EVENT)
_ON_EVENT: Final = (ContentCapturingMode.EVENT_ONLY, ContentCapturingMode.SPAN_AND_EVENT)

# What load_completion_hook() returns where there is none has no public name. Without it such a hook is merely called.
_NO_HOOK: Final = cast("tuple[type, ...]", getattr(completion_hooks, "_NoOpCompletionHook", ()))

_CUT: Final = "…"


@dataclass(frozen=True, kw_only=True)
class ContentCapture:
    """Who receives content, and what is done to it first. Read once for each ``instrument()``."""

    on_span: bool = False
    on_event: bool = False
    emit_event: bool = False
    """Whether there is an event at all; it may be one without content."""
    hook: CompletionHook | None = None
    max_content_length: int | None = None
    redact: Redact | None = None

    @classmethod
    def from_environment(
        cls,
        *,
        completion_hook: CompletionHook | None = None,
        max_content_length: int | None = None,
        redact: Redact | None = None,
    ) -> Self:
        """Read the variables that all GenAI instrumentations share.

        These are ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``, ``OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT``
        and, unless a hook is given, ``OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK``.
        """
        mode = get_content_capturing_mode()
        emit_event = _emits_event(mode)
        hook = load_completion_hook() if completion_hook is None else completion_hook
        return cls(
            on_span=mode in _ON_SPAN,
            on_event=emit_event and mode in _ON_EVENT,
            emit_event=emit_event,
            hook=None if isinstance(hook, _NO_HOOK) else hook,
            max_content_length=max_content_length,
            redact=redact,
        )

    def wanted(self, *, recording: bool) -> bool:
        """Return whether someone receives the content of a call.

        :param recording: whether the call's span is.
        """
        return self.on_event or self.hook is not None or (self.on_span and recording)

    def capture(
        self,
        messages: Sequence[object],
        generations: Sequence[object],
        params: Mapping[str, object] | None,
        *,
        secrets: Sequence[str] = (),
        system_separately: bool = False,
    ) -> "Content":
        """Convert what one call said; what can't be converted is left out.

        :param messages: LangChain's messages, or the text of a plain prompt.
        :param generations: one prompt's, of an ``LLMResult``. Each is a choice.
        :param params: the ``invocation_params``, which name the tools.
        :param secrets: the model's credentials.
        :param system_separately: whether the provider takes system instructions apart from the history. Elsewhere they
            are a part of it, with the role ``system``.
        """
        writer = _Writer(self.max_content_length, self.redact, secrets)
        content = Content()
        for message in messages:
            with _CONVERT:
                if system_separately and isinstance(message, SystemMessage):
                    content.system_instructions.extend(_message_parts(writer, message))
                else:
                    content.input_messages.append(
                        InputMessage(_role(writer, message), _message_parts(writer, message), _name(writer, message))
                    )
        for generation in generations:
            with _CONVERT:
                content.output_messages.append(_output_message(writer, generation))
        for name in ("tools", "functions"):
            for tool in _items((params or {}).get(name)):
                with _CONVERT:
                    content.tool_definitions.extend(_tool_definitions(writer, _mapping(tool)))
        return content


def _emits_event(mode: ContentCapturingMode) -> bool:
    value = os.environ.get(OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT, "").strip().lower()
    if value in ("true", "false"):
        return value == "true"
    if value:
        _logger.warning("%s=%s is ignored: expected true or false", OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT, value)
    return mode in _ON_EVENT


@dataclass(frozen=True, kw_only=True)
class Content:
    """What one call said, as a completion hook takes it and as attributes."""

    input_messages: list[InputMessage] = field(default_factory=list[InputMessage])
    output_messages: list[OutputMessage] = field(default_factory=list[OutputMessage])
    system_instructions: list[MessagePart] = field(default_factory=list[MessagePart])
    tool_definitions: list[ToolDefinition] = field(default_factory=list[ToolDefinition])

    @cached_property
    def _attributes(self) -> dict[str, AnyValue]:
        content: dict[str, Sequence[InputMessage | OutputMessage | MessagePart | ToolDefinition]] = {
            gen_ai.GEN_AI_SYSTEM_INSTRUCTIONS: self.system_instructions,
            gen_ai.GEN_AI_INPUT_MESSAGES: self.input_messages,
            gen_ai.GEN_AI_OUTPUT_MESSAGES: self.output_messages,
            gen_ai.GEN_AI_TOOL_DEFINITIONS: self.tool_definitions,
        }
        return {
            name: cast("AnyValue", [asdict(item, dict_factory=_with_base64) for item in items])
            for name, items in content.items()
            if items
        }

    def event_attributes(self) -> dict[str, AnyValue]:
        """Return it as structures."""
        return dict(self._attributes)

    def span_attributes(self) -> dict[str, str]:
        """Return it as JSON, which is what a span's attributes can hold."""
        return {
            name: gen_ai_json_dumps(value, ensure_ascii=False, allow_nan=False)
            for name, value in self._attributes.items()
        }


def _with_base64(fields: list[tuple[str, object]]) -> dict[str, object]:
    # The schemas' content of a blob is a string.
    return {name: b64encode(value).decode() if isinstance(value, bytes) else value for name, value in fields}


class _Writer:
    """Writes captured text: without credentials, as the user's ``redact`` has it, no longer than allowed.

    Cut last: half a credential is not recognized as one.
    """

    __slots__ = ("_limit", "_redact", "_secrets")

    def __init__(self, limit: int | None, redact: Redact | None, secrets: Sequence[str]) -> None:
        self._limit: float = inf if limit is None else limit
        self._redact = redact
        self._secrets = secrets

    def text(self, text: str) -> str:
        """Write what a person or a model wrote."""
        return _cut(self._clean(text), self._limit)

    def identifier(self, value: object) -> str | None:
        """Write what the protocol tells things apart by. ``redact`` is not asked: ids must still match each other."""
        return without_credentials(encodable(value), self._secrets) if isinstance(value, str) else None

    def structure(self, value: object) -> AnyValue:
        """Write tool arguments or the like. Their texts share the limit, and what comes after it is left out."""
        return self._structure(object_to_any_value(value), _Budget(self._limit))

    def blob(self, data: str | bytes, mime_type: str | None, modality: str) -> BlobPart:
        """Write binary data, given as bytes or as base64; of what is too long or malformed, only that it was there."""
        content = b""
        length = len(data) if isinstance(data, str) else (len(data) + 2) // 3 * 4
        if length <= self._limit:
            content = (decode_base64(data) or b"") if isinstance(data, str) else data
        return BlobPart(mime_type, modality, content)

    def _clean(self, text: str) -> str:
        text = without_credentials(encodable(text), self._secrets)
        if self._redact is None or not text:
            return text
        with _REDACT:
            return encodable(_redacted(self._redact, text))
        return ""

    def _structure(self, value: AnyValue, budget: "_Budget") -> AnyValue:
        if isinstance(value, str):
            return budget.take(self._clean(value))
        if isinstance(value, bytes):
            text = b64encode(value).decode()
            return budget.take(text) if len(text) <= budget.left else ""
        if isinstance(value, Mapping):
            members: dict[str, AnyValue] = {}
            for key, member in value.items():
                if budget.left <= 0:
                    break
                if name := budget.take(self._clean(key)):
                    secret = isinstance(member, str) and _is_named_secret(key)
                    members[name] = budget.take(REDACTED) if secret else self._structure(member, budget)
            return members
        if isinstance(value, Sequence):
            items: list[AnyValue] = []
            for item in value:
                if budget.left <= 0:
                    break
                items.append(self._structure(item, budget))
            return items
        budget.left -= 1
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            # More bits than OTLP's integers have; and Python writes no number of thousands of digits.
            return str(value) if value.bit_length() <= 2048 else None
        return value


class _Budget:
    """How many characters one part may still take."""

    __slots__ = ("left",)

    def __init__(self, left: float) -> None:
        self.left = left

    def take(self, text: str) -> str:
        text = _cut(text, self.left)
        self.left -= len(text)
        return text


def _is_named_secret(name: str) -> bool:
    # In a text the name and the secret stand side by side; in a structure only the name tells.
    return without_credentials(f"{name}=x").endswith(REDACTED)


def _cut(text: str, limit: float) -> str:
    if len(text) <= limit:
        return text
    return text[: int(limit) - 1] + _CUT if limit >= 1 else ""


class _RedactError(Exception):
    """Stands for an error of ``redact`` in our log: its message may quote the very text."""


def _redacted(redact: Redact, text: str) -> str:
    try:
        redacted = redact(text)
    except Exception as error:  # noqa: BLE001 - the user's function may raise anything.
        raise _RedactError(f"redact raised {type(error).__qualname__}").with_traceback(error.__traceback__) from None
    if not isinstance(redacted, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _RedactError(f"redact returned a {type(redacted).__qualname__}, expected a str")
    return redacted


_NOTHING: Final[Mapping[str, object]] = {}


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else _NOTHING


def _items(value: object) -> Sequence[object]:
    return cast("Sequence[object]", value) if isinstance(value, list | tuple) else ()


def _first(fields: Mapping[str, object], *names: str) -> str | None:
    """Return the first of these fields that has a text."""
    return next((value for name in names if isinstance(value := fields.get(name), str) and value), None)


_ROLES: Final = (
    (AIMessage, "assistant"),
    (HumanMessage, "user"),
    (SystemMessage, "system"),
    (ToolMessage | FunctionMessage, "tool"),
)


def _role(writer: _Writer, message: object) -> str:
    role = writer.identifier(message.role) if isinstance(message, ChatMessage) else None
    return role or next((role for kind, role in _ROLES if isinstance(message, kind)), "user")


def _name(writer: _Writer, message: object) -> str | None:
    name = getattr(message, "name", None)
    return writer.text(name) if isinstance(name, str) else None


def _message_parts(writer: _Writer, message: object) -> list[MessagePart]:
    content: object = getattr(message, "content", message)
    if isinstance(message, ToolMessage | FunctionMessage):
        return [_tool_response(writer, content, getattr(message, "tool_call_id", None))]
    if isinstance(message, AIMessage):
        return _answer_parts(writer, message, content)
    return _parts(writer, _blocks(content))


def _tool_response(writer: _Writer, content: object, call: object) -> ToolCallResponsePart:
    """Return a tool's result: its parts, which may be images, or where these are not all known, what it is."""
    blocks = _items(content)
    parts = _parts(writer, blocks)
    return ToolCallResponsePart(
        parts if parts and len(parts) == len(blocks) else writer.structure(content), writer.identifier(call)
    )


def _answer_parts(writer: _Writer, message: AIMessage, content: object) -> list[MessagePart]:
    """Return the parts of a model's message, of which LangChain keeps some beside its content."""
    extra = _mapping(getattr(message, "additional_kwargs", None))
    blocks: list[object] = []
    for name in ("reasoning_content", "reasoning"):
        if reasoning := extra.get(name):
            blocks.append({"reasoning": reasoning, **_mapping(reasoning), "type": "reasoning"})
    blocks += _joined(_blocks(content))
    if refusal := extra.get("refusal"):
        blocks.append({"type": "refusal", "refusal": refusal})
    if audio := extra.get("audio"):
        # Bytes of a WAV file from Google; from OpenAI an object, whose transcript is the text of the answer.
        spoken = _mapping(audio)
        blocks.append({"type": "text", "text": spoken.get("transcript")})
        blocks.append({"type": "audio", **(spoken or {"data": audio, "mime_type": "audio/wav"})})
    blocks += _items(extra.get("tool_outputs"))
    parts = _parts(writer, blocks)
    calls = (*_items(getattr(message, "tool_calls", None)), *_items(getattr(message, "invalid_tool_calls", None)))
    for call in calls:
        fields = _mapping(call)
        parts.append(_tool_call(writer, fields.get("name"), fields.get("args"), fields.get("id")))
    if not calls and (legacy := _mapping(extra.get("function_call"))):
        parts.append(_tool_call(writer, legacy.get("name"), legacy.get("arguments"), None))
    return parts


def _tool_call(writer: _Writer, name: object, arguments: object, identifier: object) -> ToolCallRequestPart:
    if isinstance(arguments, str):
        # LangChain could not read it either, or has not tried.
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    return ToolCallRequestPart(
        arguments=writer.structure(arguments),
        name=writer.text(name) if isinstance(name, str) else "",
        id=writer.identifier(identifier),
    )


def _output_message(writer: _Writer, generation: object) -> OutputMessage:
    message: object = getattr(generation, "message", None)
    said = _mapping(getattr(message, "response_metadata", None)) or _mapping(
        getattr(generation, "generation_info", None)
    )
    return OutputMessage(
        # A text completion has no message, and what it returns is not the user's.
        role=_role(writer, message) if isinstance(message, ChatMessage) else "assistant",
        parts=_message_parts(writer, message)
        if isinstance(message, BaseMessage)
        else _parts(writer, _blocks(getattr(generation, "text", None))),
        finish_reason=writer.identifier(_first(said, "finish_reason", "done_reason", "stop_reason")),
        name=_name(writer, message),
    )


def _blocks(content: object) -> Sequence[object]:
    return _items(content) or ((content,) if content else ())


# In which field a streamed fragment has its text.
_FRAGMENTS: Final = {"text": "text", "thinking": "thinking", "reasoning": "reasoning"}


def _fragment(block: object) -> str | None:
    if isinstance(block, str):
        return "text"
    fields = _mapping(block)
    kind = fields.get("type")
    # What has an index has been put together by LangChain.
    if not isinstance(kind, str) or "index" in fields or not isinstance(fields.get(_FRAGMENTS.get(kind, "")), str):
        return None
    return kind


def _joined(blocks: Iterable[object]) -> Iterator[object]:
    """Put the fragments together that a stream left side by side, before a credential in two of them goes unseen."""
    for kind, group in groupby(blocks, _fragment):
        if kind is None:
            yield from group
        else:
            name = _FRAGMENTS[kind]
            texts = (block if isinstance(block, str) else str(_mapping(block)[name]) for block in group)
            yield {"type": kind, name: "".join(texts)}


def _parts(writer: _Writer, blocks: object) -> list[MessagePart]:
    parts: list[MessagePart] = []
    for block in _items(blocks):
        with _CONVERT:
            if isinstance(block, str):
                block = {"type": "text", "text": block}  # noqa: PLW2901
            fields = _mapping(block)
            kind = fields.get("type", "text")
            if isinstance(kind, str) and (convert := _BLOCKS.get(kind)):
                parts.extend(convert(writer, fields))
    return parts


def _text(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    if text := _first(block, "text"):
        yield TextPart(writer.text(text))


def _refusal(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    # The conventions have no part for it. It is what the model says in place of an answer.
    if text := _first(block, "refusal"):
        yield TextPart(writer.text(text))


def _reasoning(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    nested = _mapping(block.get("reasoning_content"))
    # OpenAI's Responses API has a list of summaries, or of contents.
    for source in (block, nested, *_items(block.get("summary")), *_items(block.get("content"))):
        if text := _first(_mapping(source), "thinking", "reasoning", "reasoning_content", "text"):
            yield ReasoningPart(writer.text(text))


def _tool_result(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield _tool_response(writer, block.get("content"), _first(block, "tool_use_id", "tool_call_id"))


def _compaction(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    summary = _first(block, "content")
    yield CompactionPart(writer.identifier(block.get("id")), None if summary is None else writer.text(summary))


def _non_standard(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield from _parts(writer, [block.get("value")])


_ENVELOPE: Final = frozenset({"type", "id", "name", "index", "tool_use_id", "tool_call_id"})


def _details(writer: _Writer, block: Mapping[str, object]) -> dict[str, AnyValue]:
    details = writer.structure({key: value for key, value in block.items() if key not in _ENVELOPE})
    return {**cast("dict[str, AnyValue]", details), "type": writer.identifier(block.get("type"))}


def _server_tool_call(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    name = _first(block, "name") or str(block["type"]).removesuffix("_call")
    yield ServerToolCallPart(writer.text(name), _details(writer, block), writer.identifier(block.get("id")))


def _code_execution(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield from _server_tool_call(writer, {"name": "code_execution", **block})


def _image_generation(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield from _server_tool_call(writer, {key: value for key, value in block.items() if key != "result"})
    if image := _first(block, "result"):
        yield writer.blob(image, _mime_type(f"image/{_first(block, 'output_format') or 'png'}"), "image")


def _server_tool_result(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    yield ServerToolCallResponsePart(
        _details(writer, block), writer.identifier(_first(block, "tool_use_id", "tool_call_id", "id"))
    )


# By type; None where only the MIME type tells.
_MODALITIES: Final[Mapping[str, str | None]] = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "audio": "audio",
    "input_audio": "audio",
    "video": "video",
    "video_url": "video",
    "document": None,
    "file": None,
    "input_file": None,
    "media": None,
    "text-plain": None,
}


def _media(writer: _Writer, block: Mapping[str, object]) -> Iterator[MessagePart]:
    """Convert an image, audio, a video or a file, in each provider's spelling and in LangChain's of 0.3 and 1.x."""
    kind = str(block["type"])
    nested = block.get(kind) or block.get("image_url") or block.get("source")
    inner = {"url": nested} if isinstance(nested, str) else _mapping(nested)
    fields = {**block, **inner}
    is_text = "text" in (kind.removesuffix("-plain"), block.get("source_type"), inner.get("type"))
    if is_text and (text := _first(fields, "text", "data")):
        yield TextPart(writer.text(text))
        return
    mime_type = _mime_type(_first(fields, "mime_type", "media_type"))
    modality = _MODALITIES[kind]
    if mime_type is None and modality is not None and (format_ := _first(fields, "format")):
        mime_type = _mime_type(f"{modality}/{format_}")
    if modality is None:
        family = (mime_type or "").partition("/")[0]
        modality = family if family in ("image", "audio", "video") else "document"
    for name in ("base64", "data", "file_data"):
        data = fields.get(name)
        if data and isinstance(data, str | bytes):
            yield _inline(writer, data, mime_type, modality)
            return
    if url := _first(fields, "url", "file_uri", "file_url", "uri"):
        url = url.strip()
        # The community ChatOllama takes base64 in place of a URL.
        if _is_data_url(url) or (":" not in url and decode_base64(url)):
            yield _inline(writer, url, mime_type, modality)
        else:
            yield UriPart(mime_type, modality, writer.text(url))
    elif file_id := writer.identifier(_first(fields, "file_id", "id")):
        yield FilePart(mime_type, modality, file_id)


# Nothing else is let through: it is the one field that is written as it comes.
_MIME_TYPE: Final = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}(?=$|;)", re.ASCII)


def _mime_type(text: str | None) -> str | None:
    match = _MIME_TYPE.match(text or "")
    return match[0] if match else None


def _is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def _inline(writer: _Writer, data: str | bytes, mime_type: str | None, modality: str) -> BlobPart:
    if isinstance(data, str) and _is_data_url(data):
        header, _, payload = data[5:].partition(",")
        mime_type = _mime_type(header) or mime_type
        data = payload if ";base64" in header.lower() else unquote_to_bytes(payload)
    return writer.blob(data, mime_type, modality)


# Calls of the application's tools are not here: LangChain has them as the message's tool_calls too.
_BLOCKS: Final[Mapping[str, Callable[[_Writer, Mapping[str, object]], Iterator[MessagePart]]]] = {
    **dict.fromkeys(("text", "input_text", "output_text"), _text),
    **dict.fromkeys(("thinking", "reasoning", "reasoning_content"), _reasoning),
    **dict.fromkeys(_MODALITIES, _media),
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
    "non_standard": _non_standard,
    "refusal": _refusal,
    "tool_result": _tool_result,
}


def _tool_definitions(writer: _Writer, tool: Mapping[str, object]) -> Iterator[ToolDefinition]:
    """Convert OpenAI's tool, a flat function of its Responses API or old ``functions``, or Google's set of tools."""
    kind = tool.get("type", "function")
    function = _mapping(tool.get("function")) or tool
    if kind == "function" and _first(function, "name"):
        yield _function(writer, function)
    elif isinstance(kind, str) and "type" in tool:
        # One that the provider runs. Its settings may hold the headers of a server, so they are left out.
        yield GenericToolDefinition(writer.text(_first(tool, "name", "server_label") or kind), writer.text(kind))
    else:
        for name, value in tool.items():
            if name == "function_declarations":
                yield from (_function(writer, _mapping(declaration)) for declaration in _items(value))
            elif isinstance(value, Mapping):
                yield GenericToolDefinition(writer.text(name), writer.text(name))


def _function(writer: _Writer, function: Mapping[str, object]) -> FunctionToolDefinition:
    description = _first(function, "description")
    parameters = writer.structure(function.get("parameters"))
    return FunctionToolDefinition(
        name=writer.text(_first(function, "name") or ""),
        description=None if description is None else writer.text(description),
        parameters=parameters if isinstance(parameters, Mapping) else None,
    )
