"""What a model's answer says of itself: usage, finish reasons, model and id, in each provider's spelling."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

_NOTHING: Final[Mapping[str, object]] = {}

# LangChain's own message ids; a provider's id looks different.
_RUN_ID_PREFIXES: Final = ("run-", "lc_run-", "lc_")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the provider counted them. What it did not report is None.

    ``input_tokens`` includes cached and cache-written ones, ``output_tokens`` includes reasoning, as in the GenAI
    semantic conventions and in LangChain's ``UsageMetadata``.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One call's answer. What the provider did not say is None or empty."""

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: Usage | None = None
    cost: float | None = None
    """US dollars, where the provider itself names the price (OpenRouter's ``usage.cost``)."""
    cached: bool = False
    """Whether it came from LangChain's cache and the provider was not asked."""


def read_response(generations: Sequence[object], llm_output: object) -> Response:
    """Read one prompt's generations and the ``llm_output`` beside them (both of an ``LLMResult`` or ``ChatResult``)."""
    output = _mapping(llm_output)
    infos = [_mapping(getattr(generation, "generation_info", None)) for generation in generations]
    messages = [getattr(generation, "message", None) for generation in generations]
    metadatas = [_mapping(getattr(message, "response_metadata", None)) for message in messages]
    said = (output, *infos[:1], *metadatas[:1])
    token_usage = _first_mapping(said, ("token_usage", "usage"))
    usage_metadata = _mapping(getattr(messages[0], "usage_metadata", None)) if messages else _NOTHING
    # langchain-core marks a cached message with a total_cost of 0; no provider's count has that field.
    cached = usage_metadata.get("total_cost") == 0
    return Response(
        id=_first_text(said, ("id",)) or (_message_id(messages[0]) if messages else None),
        model=_first_text(said, ("model_name", "model", "model_version")),
        finish_reasons=tuple(
            reason
            for info, metadata in zip(infos, metadatas, strict=True)
            if (reason := _first_text((info, metadata), ("finish_reason", "done_reason", "stop_reason")))
        ),
        usage=None if cached else _usage(usage_metadata, token_usage, said),
        cost=None if cached else _price(token_usage.get("cost")),
        cached=cached,
    )


def _usage(
    usage_metadata: Mapping[str, object], token_usage: Mapping[str, object], said: Iterable[Mapping[str, object]]
) -> Usage | None:
    if (usage := _usage_of_message(usage_metadata)) or (usage := _usage_of_openai(token_usage)):
        return usage
    # The community ChatOllama leaves Ollama's own final line in generation_info.
    for mapping in said:
        if "eval_count" in mapping or "prompt_eval_count" in mapping:
            return Usage(_count(mapping.get("prompt_eval_count")), _count(mapping.get("eval_count")))
    return None


def _usage_of_message(usage: Mapping[str, object]) -> Usage | None:
    """Read LangChain's ``UsageMetadata``."""
    input_tokens, output_tokens = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    if not input_tokens and not output_tokens:
        # LangChain fills what a provider left out with zeros; a call that used nothing at all has no count.
        return None
    inputs = _mapping(usage.get("input_token_details"))
    outputs = _mapping(usage.get("output_token_details"))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_input_tokens=_count(inputs.get("cache_read")),
        cache_write_input_tokens=_count(inputs.get("cache_creation")),
        reasoning_output_tokens=_count(outputs.get("reasoning")),
        audio_input_tokens=_count(inputs.get("audio")),
        audio_output_tokens=_count(outputs.get("audio")),
    )


def _usage_of_openai(usage: Mapping[str, object]) -> Usage | None:
    """Read the ``usage`` object of OpenAI's API."""
    input_tokens, output_tokens = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not input_tokens and not output_tokens:
        return None
    inputs = _mapping(usage.get("prompt_tokens_details"))
    outputs = _mapping(usage.get("completion_tokens_details"))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_input_tokens=_count(inputs.get("cached_tokens")),
        cache_write_input_tokens=_count(inputs.get("cache_write_tokens")),
        reasoning_output_tokens=_count(outputs.get("reasoning_tokens")),
        audio_input_tokens=_count(inputs.get("audio_tokens")),
        audio_output_tokens=_count(outputs.get("audio_tokens")),
    )


def _mapping(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else _NOTHING


def _first_mapping(mappings: Iterable[Mapping[str, object]], names: Iterable[str]) -> Mapping[str, object]:
    return next((found for mapping in mappings for name in names if (found := _mapping(mapping.get(name)))), _NOTHING)


def _first_text(mappings: Iterable[Mapping[str, object]], names: Iterable[str]) -> str | None:
    for mapping in mappings:
        for name in names:
            value = mapping.get(name)
            if isinstance(value, str) and value:
                return value
    return None


def _message_id(message: object) -> str | None:
    identifier = getattr(message, "id", None)
    if isinstance(identifier, str) and identifier and not identifier.startswith(_RUN_ID_PREFIXES):
        return identifier
    return None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _price(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None
