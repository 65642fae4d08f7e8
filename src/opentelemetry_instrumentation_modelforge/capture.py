# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Capture of content: the receivers that request the content of a call, and the attributes it becomes."""

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain, repeat
from logging import getLogger
from typing import Final, Self, cast

from langchain_core.messages import SystemMessage
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.util.genai import completion_hook as completion_hooks
from opentelemetry.util.genai.completion_hook import CompletionHook, load_completion_hook
from opentelemetry.util.genai.environment_variables import (
    OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT,
    OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT,
)
from opentelemetry.util.genai.types import (
    ContentCapturingMode,
    InputMessage,
    MessagePart,
    OutputMessage,
    ToolDefinition,
)
from opentelemetry.util.genai.utils import gen_ai_json_dumps, get_content_capturing_mode
from opentelemetry.util.types import AnyValue

from .config import Redact
from .messages import input_message, message_parts, output_message, tool_definitions
from .option_types import shown
from .otel_utils import Guard
from .sanitizer import Sanitizer
from .values import items

_logger = getLogger(__name__)

_CONVERT: Final = Guard("converting a message")

_ON_SPAN: Final = (ContentCapturingMode.SPAN_ONLY, ContentCapturingMode.SPAN_AND_EVENT)
_ON_EVENT: Final = (ContentCapturingMode.EVENT_ONLY, ContentCapturingMode.SPAN_AND_EVENT)

# The class of load_completion_hook()'s no-op hook has no public name. Without it, such a hook is called without effect.
_NO_HOOK: Final = cast("tuple[type, ...]", getattr(completion_hooks, "_NoOpCompletionHook", ()))


@dataclass(frozen=True, kw_only=True)
class ContentCapture:
    """The receivers of content, and how it is cleaned first. Read once for each ``instrument()`` call."""

    on_span: bool = False
    on_event: bool = False
    emit_event: bool = False
    """Whether an event is emitted, with or without content."""
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
        mode = _mode()
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
        """Return whether anything receives the content of a call.

        :param recording: whether the call's span is recording.
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
        finish_reasons: Sequence[str | None] = (),
        default_finish_reason: str = "unknown",
    ) -> "Content":
        """Convert the content of one call. Values that can't be converted are left out.

        :param messages: LangChain's messages, or the text of a plain prompt.
        :param generations: the generations for one prompt of an ``LLMResult``. Each is a choice.
        :param params: the ``invocation_params``, which contain the tools.
        :param secrets: the model's credentials.
        :param system_separately: whether the provider takes system instructions separately from the history. Otherwise
            they are messages in the history, with the role ``system``.
        :param finish_reasons: one for each generation, from the provider's answer. If one is missing, LangChain's
            metadata is read.
        :param default_finish_reason: the reason for a choice if neither has one: ``error`` for a failed call.
        """
        sanitizer = Sanitizer(self.max_content_length, self.redact, secrets)
        content = Content()
        for message in messages:
            with _CONVERT:
                if system_separately and isinstance(message, SystemMessage):
                    content.system_instructions.extend(message_parts(sanitizer, message))
                else:
                    content.input_messages.append(input_message(sanitizer, message))
        # There may be fewer reasons than generations.
        for generation, finish_reason in zip(generations, chain(finish_reasons, repeat(None))):  # noqa: B905
            with _CONVERT:
                content.output_messages.append(
                    output_message(sanitizer, generation, finish_reason, default_finish_reason)
                )
        for name in ("tools", "functions"):
            for tool in items((params or {}).get(name)):
                with _CONVERT:
                    content.tool_definitions.extend(tool_definitions(sanitizer, tool))
        return content


def _mode() -> ContentCapturingMode:
    value = os.environ.get(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT, "").strip()
    if value and value.upper() not in ContentCapturingMode.__members__:
        # Logged here, because get_content_capturing_mode() logs any value unchanged.
        name, modes = OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT, ", ".join(ContentCapturingMode.__members__)
        _logger.warning("%s=%s is ignored: expected one of %s", name, shown(value), modes)
        return ContentCapturingMode.NO_CONTENT
    return get_content_capturing_mode()


def _emits_event(mode: ContentCapturingMode) -> bool:
    value = os.environ.get(OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT, "").strip().lower()
    if value in ("true", "false"):
        return value == "true"
    if value:
        _logger.warning("%s=%s is ignored: expected true or false", OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT, shown(value))
    return mode in _ON_EVENT


@dataclass(frozen=True, kw_only=True)
class Content:
    """The content of one call, for a completion hook and as attributes."""

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
            name: cast("AnyValue", [asdict(item, dict_factory=_schema_fields) for item in items])
            for name, items in content.items()
            if items
        }

    def event_attributes(self) -> dict[str, AnyValue]:
        """Return the content as structures."""
        return dict(self._attributes)

    def span_attributes(self) -> dict[str, str]:
        """Return the content as JSON, since a span's attributes hold no structures."""
        return {
            name: gen_ai_json_dumps(value, ensure_ascii=False, allow_nan=False)
            for name, value in self._attributes.items()
        }


# Fields that may hold any value, including null. Elsewhere the schemas require a string, an object or nothing.
_ANY_VALUE: Final = frozenset({"arguments", "response"})


def _schema_fields(fields: list[tuple[str, object]]) -> dict[str, object]:
    """Return the fields of a message, a part or a definition as the JSON schemas define them; bytes become base64."""
    return {
        name: b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in fields
        if value is not None or name in _ANY_VALUE
    }
