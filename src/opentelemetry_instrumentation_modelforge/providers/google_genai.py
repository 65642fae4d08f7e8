# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""``google_genai``: ``ChatGoogleGenerativeAI`` of langchain-google-genai, and Gemini's ``GenerateContentResponse``.

The API: https://ai.google.dev/api/generate-content.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from ..response import Response, Usage
from ..values import NOTHING, count, encodable, integer, mapping, model_name, short_text, text
from .langchain import read_result
from .provider import Answer, Provider, Tap

# Of google.ai.generativelanguage_v1beta, which ships no types for the messages inside its own.
_Message: TypeAlias = Any

# The number of AUDIO in the API's enum Modality.
_AUDIO: Final = 4

# The model's fields that the client puts into a request's generation_config, by their names there.
_GENERATION_CONFIG: Final = {
    "candidate_count": "n",
    "temperature": "temperature",
    "max_output_tokens": "max_output_tokens",
    "top_k": "top_k",
    "top_p": "top_p",
    "response_modalities": "response_modalities",
}

# Looking a name up in the descriptors takes 1 µs.
_enum_names: Final[dict[tuple[str, int], str]] = {}


class GoogleGenAI(Provider):
    """Gemini through Google's own client, over gRPC or REST."""

    default_server = ("generativelanguage.googleapis.com", 443)
    separate_system_instructions = True
    # Runs for an answer and for each chunk of a stream, synchronous or not.
    taps = (Tap("langchain_google_genai.chat_models", None, "_response_to_result", 0, "response"),)

    def client_url(self, client: Mapping[str, object]) -> str | None:
        """Return the host that the client's transport calls."""
        return text(getattr(getattr(client.get("client"), "transport", None), "host", None))

    def requested_model(self, params: Mapping[str, object], client: Mapping[str, object]) -> str | None:
        """Return the model's own name without its collection; the client ignores a call's ``model``."""
        model = text((client or params).get("model"))
        return model.removeprefix("models/") if model else None

    def request_parameters(
        self, params: Mapping[str, object], client: Mapping[str, object]
    ) -> tuple[Mapping[str, object], ...]:
        """Return the request's generation config, merged as ``ChatGoogleGenerativeAI._prepare_params`` merges it.

        The client ignores other keyword arguments of a call, such as ``temperature``. The invocation parameters contain
        them in place of the model's own, so those are read from the model.
        """
        own = client or params
        config = {name: own.get(field) for name, field in _GENERATION_CONFIG.items()}
        config["stop_sequences"] = params.get("stop")
        config.update(mapping(params.get("generation_config")))
        # Releases without this field on the model ignore the keyword argument too.
        if "response_mime_type" in own:
            mime_type = params.get("response_mime_type", own["response_mime_type"])
            if mime_type is not None:
                config["response_mime_type"] = mime_type
        return (config,)

    def answer(self, client: Mapping[str, object] = NOTHING) -> Answer:
        """Return the reader of one call's answer."""
        return _Answer()


class _Answer(Answer):
    """Gemini's responses to one call.

    Each contains the counts of the whole call so far, so the last one that has any is right. LangChain converts them to
    differences, which add up to the same.
    """

    __slots__ = ("_block_reason", "_chunk_model", "_chunk_reason", "_chunk_tokens", "_counted", "_last", "_reasons")

    def __init__(self) -> None:
        # A reference to any part of a protobuf message keeps all of it in memory, so at most two of them are kept.
        self._last: _Message | None = None
        self._counted: _Message | None = None
        self._reasons: dict[int, int] = {}
        self._block_reason = 0
        self._chunk_tokens: tuple[int, int, int] | None = None
        self._chunk_reason: str | None = None
        self._chunk_model: str | None = None

    def add(self, raw: Any, source: object = None) -> None:
        # Reading an attribute takes 3 µs on a proto-plus message, and 0.1 µs on the message inside it.
        message: _Message | None = getattr(raw, "_pb", None)
        if message is None:
            # The client treats the end of a broken stream as a response.
            return
        self._last = message
        usage = message.usage_metadata
        if usage.total_token_count or usage.prompt_token_count:
            self._counted = message
        # A slice is a list, which is iterated faster than protobuf's own container.
        candidates = message.candidates[:]
        for candidate in candidates:
            if reason := candidate.finish_reason:
                self._reasons[candidate.index] = reason
        if not candidates:
            self._block_reason = message.prompt_feedback.block_reason or self._block_reason

    def add_chunk(self, chunk: object) -> None:
        if self._last is not None:
            return
        info = mapping(getattr(chunk, "generation_info", None))
        self._chunk_reason = short_text(info.get("finish_reason")) or self._chunk_reason
        self._chunk_model = model_name(info.get("model_name")) or self._chunk_model
        usage = mapping(getattr(getattr(chunk, "message", None), "usage_metadata", None))
        # The input of the last chunk may be negative: Gemini corrects its count.
        if usage:
            before = self._chunk_tokens or (0, 0, 0)
            self._chunk_tokens = (
                before[0] + (integer(usage.get("input_tokens")) or 0),
                before[1] + (integer(usage.get("output_tokens")) or 0),
                # Older releases repeat it in each chunk, later ones report it only in the first.
                max(before[2], count(mapping(usage.get("input_token_details")).get("cache_read")) or 0),
            )

    def response(self, generations: Sequence[object], llm_output: object) -> Response:
        message = self._last
        if message is None:
            return read_result(generations, llm_output, self._chunks())
        counted = self._counted or message
        return Response(
            # Older clients have no field for it.
            id=short_text(getattr(message, "response_id", None)),
            model=model_name(message.model_version or counted.model_version),
            finish_reasons=self._finish_reasons(message),
            usage=_usage(counted.usage_metadata, answered=_has_content(counted) or _has_content(message)),
        )

    def _chunks(self) -> Response:
        inputs, outputs, cached = self._chunk_tokens or (0, 0, 0)
        return Response(
            model=self._chunk_model,
            finish_reasons=(self._chunk_reason,) if self._chunk_reason else (),
            usage=Usage(inputs, outputs, cached or None) if self._chunk_tokens else None,
        )

    def _finish_reasons(self, message: _Message) -> tuple[str, ...]:
        """Return the last reason of each candidate or, for a blocked prompt, which has none, the block reason."""
        if self._reasons:
            return tuple(
                _enum_name(message, "candidates", "finish_reason", reason)
                for _, reason in sorted(self._reasons.items())
            )
        if self._block_reason:
            return (_enum_name(message, "prompt_feedback", "block_reason", self._block_reason),)
        return ()


def _enum_name(message: _Message, part: str, field: str, number: int) -> str:
    """Return the API's name of an enum's value, or its number if the installed client has no name for it yet."""
    name = _enum_names.get((field, number))
    if name is None:
        values = message.DESCRIPTOR.fields_by_name[part].message_type.fields_by_name[field].enum_type.values_by_number
        name = _enum_names[field, number] = encodable(values[number].name) if number in values else str(number)
    return name


def _has_content(message: _Message) -> bool:
    # An empty text takes 2 bytes.
    return any(part.ByteSize() > 2 for candidate in message.candidates for part in candidate.content.parts)


def _usage(usage: _Message, *, answered: bool) -> Usage | None:
    """Return the counts of a call.

    :param answered: whether the answer has content, so that it cannot have taken 0 tokens.
    """
    prompt, answer, total = usage.prompt_token_count, usage.candidates_token_count, usage.total_token_count
    thoughts, tool_use = usage.thoughts_token_count, usage.tool_use_prompt_token_count
    if not (prompt or answer or thoughts) or min(prompt, answer, thoughts, tool_use) < 0:
        return None
    output: int | None = answer + thoughts
    unexplained = total - prompt - tool_use - output
    if not output and (answered or unexplained > 0):
        # The answer was not counted.
        output = None
    elif total and unexplained == -thoughts and thoughts <= answer:
        # The total shows that the answer's count includes the thoughts: github.com/BerriAI/litellm/pull/10141.
        output = answer
    elif not tool_use:
        # The total includes the tool-use tokens even if their own field is not filled.
        tool_use = max(0, unexplained)
    cached = usage.cached_content_token_count
    return Usage(
        input_tokens=prompt + tool_use,
        output_tokens=output,
        cache_read_input_tokens=cached if 0 < cached <= prompt + tool_use else None,
        reasoning_output_tokens=thoughts or None,
        audio_input_tokens=_audio(usage.prompt_tokens_details) + _audio(usage.tool_use_prompt_tokens_details) or None,
        audio_output_tokens=_audio(usage.candidates_tokens_details) or None,
    )


def _audio(details: Sequence[_Message]) -> int:
    tokens = 0
    for detail in details[:]:
        if detail.modality == _AUDIO:
            tokens += detail.token_count
    return tokens
