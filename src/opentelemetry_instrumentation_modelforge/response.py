"""What a model's answer says of itself: usage, finish reasons, model and id, in each provider's spelling."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from .otel_utils import encodable

_NOTHING: Final[Mapping[str, object]] = {}

# LangChain's own message ids; a provider's id looks different.
_RUN_ID_PREFIXES: Final = ("run-", "lc_")


# Not frozen: a frozen dataclass takes five times as long to make, and each call makes one of both.
@dataclass(slots=True)
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


@dataclass(slots=True)
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
    response = Response()
    output = _mapping(llm_output)
    said = output
    reasons: list[str] = []
    first = True
    for generation in generations:
        message = getattr(generation, "message", None)
        # LangChain merges a generation's own information into its message's.
        said = _mapping(getattr(message, "response_metadata", None)) or _mapping(
            getattr(generation, "generation_info", None)
        )
        reason = said.get("finish_reason") or said.get("done_reason") or said.get("stop_reason")
        if isinstance(reason, str):
            reasons.append(encodable(reason))
        if first:
            # All generations repeat what the provider said once.
            first = False
            response.id = _text(output, said, "id") or _message_id(message)
            response.model = _text(output, said, "model_name") or _text(output, said, "model")
            usage = _mapping(getattr(message, "usage_metadata", None))
            # langchain-core marks a cached message with a total_cost of 0; no provider's count has that field.
            if usage.get("total_cost") == 0:
                response.cached = True
            else:
                token_usage = _mapping(output.get("token_usage") or said.get("token_usage"))
                response.usage = (
                    _usage_of_message(usage, token_usage) or _usage_of_openai(token_usage) or _usage_of_ollama(said)
                )
                response.cost = _price(token_usage.get("cost"))
    response.finish_reasons = tuple(reasons)
    return response


def is_of_another_run(generations: Sequence[object], run_id: UUID) -> bool:
    """Return whether LangChain gave the answer its id in another run than ``run_id``: then it kept it since."""
    identifier = getattr(getattr(generations[0], "message", None), "id", None) if generations else None
    return isinstance(identifier, str) and identifier.startswith(_RUN_ID_PREFIXES) and str(run_id) not in identifier


def _usage_of_message(usage: Mapping[str, object], token_usage: Mapping[str, object]) -> Usage | None:
    """Read LangChain's ``UsageMetadata``, and in the API's own ``usage`` what has no place in it."""
    input_tokens, output_tokens = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    if not input_tokens and not output_tokens:
        # LangChain fills what a provider left out with zeros; a call that used nothing at all has no count.
        return None
    inputs = _mapping(usage.get("input_token_details"))
    outputs = _mapping(usage.get("output_token_details"))
    read = Usage(input_tokens, output_tokens)
    # Most calls have few of these.
    if inputs:
        read.cache_read_input_tokens = _count(inputs.get("cache_read"))
        read.cache_write_input_tokens = _count(inputs.get("cache_creation"))
        read.audio_input_tokens = _count(inputs.get("audio"))
    if not read.cache_write_input_tokens and token_usage:
        details = _mapping(token_usage.get("prompt_tokens_details"))
        read.cache_write_input_tokens = _count(details.get("cache_write_tokens"))
    if outputs:
        read.reasoning_output_tokens = _count(outputs.get("reasoning"))
        read.audio_output_tokens = _count(outputs.get("audio"))
    return read


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


def _usage_of_ollama(said: Mapping[str, object]) -> Usage | None:
    """Read the last line of Ollama's stream, which the community ``ChatOllama`` keeps as it came."""
    if "eval_count" not in said and "prompt_eval_count" not in said:
        return None
    return Usage(_count(said.get("prompt_eval_count")), _count(said.get("eval_count")))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else _NOTHING  # pyright: ignore[reportUnknownVariableType]


def _text(first: Mapping[str, object], second: Mapping[str, object], name: str) -> str | None:
    value = first.get(name) or second.get(name)
    return encodable(value) if isinstance(value, str) and value else None


def _message_id(message: object) -> str | None:
    identifier = getattr(message, "id", None)
    if isinstance(identifier, str) and identifier and not identifier.startswith(_RUN_ID_PREFIXES):
        return encodable(identifier)
    return None


def _count(value: object) -> int | None:
    # OTLP has 64 bits for it.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _price(value: object) -> float | None:
    price = value if isinstance(value, float) else _count(value)
    return float(price) if price is not None and math.isfinite(price) and price >= 0 else None
