# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The ``usage`` object of OpenAI's APIs, in the spellings of the providers that implement them."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from ..response import Usage
from ..values import NOTHING, mapping, price

# The fields of Usage by position, and the total, which shows whether a part is included in its whole.
_INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE, _REASONING, _AUDIO_INPUT, _AUDIO_OUTPUT, _CACHE_WRITE_1H, _TOTAL = range(9)

_Place: TypeAlias = "int | Mapping[str, _Place]"
"""The field of a count, or the places of the counts in a nested object."""

# Anthropic: platform.claude.com/docs/en/build-with-claude/prompt-caching
_CACHE_CREATION: Final[Mapping[str, _Place]] = {"ephemeral_1h_input_tokens": _CACHE_WRITE_1H}
_INPUT_DETAILS: Final[Mapping[str, _Place]] = {
    "cached_tokens": _CACHE_READ,  # OpenAI
    "audio_tokens": _AUDIO_INPUT,
    "cache_write_tokens": _CACHE_WRITE,  # OpenAI; OpenRouter: openrouter.ai/docs/use-cases/usage-accounting
    "cache_creation_tokens": _CACHE_WRITE,  # LiteLLM: docs.litellm.ai/docs/completion/prompt_caching
    "cache_creation_token_details": _CACHE_CREATION,
    "cache_creation_input_tokens": _CACHE_WRITE,  # Qwen: alibabacloud.com/help/en/model-studio/context-cache
    "cache_read": _CACHE_READ,  # langchain_core.messages.ai.InputTokenDetails
    "cache_creation": _CACHE_WRITE,
    "audio": _AUDIO_INPUT,
}
_OUTPUT_DETAILS: Final[Mapping[str, _Place]] = {
    "reasoning_tokens": _REASONING,  # OpenAI
    "audio_tokens": _AUDIO_OUTPUT,
    "reasoning": _REASONING,  # langchain_core.messages.ai.OutputTokenDetails
    "audio": _AUDIO_OUTPUT,
}
_USAGE_FIELDS: Final[Mapping[str, _Place]] = {
    "prompt_tokens": _INPUT,  # OpenAI, chat completions
    "completion_tokens": _OUTPUT,
    "input_tokens": _INPUT,  # OpenAI, responses
    "output_tokens": _OUTPUT,
    "total_tokens": _TOTAL,
    "prompt_cache_hit_tokens": _CACHE_READ,  # DeepSeek: api-docs.deepseek.com/guides/kv_cache
    "cached_tokens": _CACHE_READ,  # Moonshot: platform.moonshot.ai/docs/api/chat
    "num_cached_tokens": _CACHE_READ,  # Mistral: docs.mistral.ai/api
    "cache_read_input_tokens": _CACHE_READ,  # Anthropic, by LiteLLM: docs.litellm.ai/docs/completion/prompt_caching
    "cache_creation_input_tokens": _CACHE_WRITE,
    "cache_creation": _CACHE_CREATION,
    "reasoning_tokens": _REASONING,  # Perplexity: docs.perplexity.ai/api-reference/chat-completions-post; SGLang
    "prompt_tokens_details": _INPUT_DETAILS,
    "completion_tokens_details": _OUTPUT_DETAILS,
    "input_tokens_details": _INPUT_DETAILS,
    "output_tokens_details": _OUTPUT_DETAILS,
    "prompt_token_details": _INPUT_DETAILS,  # Mistral
    "input_token_details": _INPUT_DETAILS,
    "output_token_details": _OUTPUT_DETAILS,
}

_PRICES: Final = {
    "cost": 1,  # OpenRouter: openrouter.ai/docs/use-cases/usage-accounting; LiteLLM
    "cost_usd_total": 1,  # LLM Gateway: docs.llmgateway.io/features/cost-breakdown
    "estimated_cost": 1,  # DeepInfra: deepinfra.com/docs/openai_api
    "cost_in_usd_ticks": 10**10,  # xAI: docs.x.ai/developers/cost-tracking
}
"""The field of a price, and the number of its units in a US dollar."""

_LARGEST: Final = 2**53 - 1
"""The largest integer that JSON carries everywhere (RFC 8259). Sums of such counts fit into OTLP's 64 bits."""


def fields(value: object) -> Mapping[str, object]:
    """Return a mapping unchanged, or a pydantic model's fields, including those that its class does not declare."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    if value is None:
        return NOTHING
    own = mapping(getattr(value, "__dict__", None))
    extra = mapping(getattr(value, "__pydantic_extra__", None))
    return {**own, **extra} if extra else own


def read_usage(usage: Mapping[str, object]) -> Usage | None:
    """Return the counts that a ``usage`` object reports, or None if it reports no tokens.

    Some providers include reasoning in the completion's tokens and cached tokens in the prompt's, others count them
    separately. The total shows which. A part that is larger than its whole is left out.
    """
    if not usage:
        return None
    counts: list[int | None] = [None] * 9
    _collect(counts, _USAGE_FIELDS, usage)
    if (for_an_hour := counts[_CACHE_WRITE_1H]) and for_an_hour > (counts[_CACHE_WRITE] or 0):
        counts[_CACHE_WRITE] = for_an_hour
    if not counts[_INPUT] and not counts[_OUTPUT]:
        return None
    _include_separate_parts(counts, usage)
    inputs, outputs, cache_read, cache_write, reasoning, audio_input, audio_output, cache_write_1h, _ = counts
    if (cache_read or 0) + (cache_write or 0) > (inputs or 0):
        cache_read = cache_write = cache_write_1h = None
    return Usage(
        # A prompt is never empty. Servers report 0 for one that they did not count.
        inputs or None,
        outputs,
        cache_read,
        cache_write,
        None if reasoning and reasoning > (outputs or 0) else reasoning,
        None if audio_input and audio_input > (inputs or 0) else audio_input,
        None if audio_output and audio_output > (outputs or 0) else audio_output,
        cache_write_1h,
    )


def _collect(counts: list[int | None], places: Mapping[str, _Place], source: Mapping[str, object]) -> None:
    """Put the counts of one object into ``counts``. If a count has several spellings, the largest wins."""
    for name, value in source.items():
        place = places.get(name)
        if place is None:
            continue
        if not isinstance(place, int):
            if value is not None:
                _collect(counts, place, fields(value))
            continue
        number = value if type(value) is int else whole(value)
        if (counts[place] or 0) <= number <= _LARGEST:
            counts[place] = number


def whole(value: object) -> int:
    """Return a count that a server wrote as a float or as text, or -1 if it is not a count."""
    if isinstance(value, str):
        return int(value) if len(value) < 17 and value.isascii() and value.isdecimal() else -1
    return int(value) if isinstance(value, float) and value.is_integer() else -1


def _include_separate_parts(counts: list[int | None], usage: Mapping[str, object]) -> None:
    """Add the parts that the provider counts separately to the prompt's and the completion's counts."""
    inputs, outputs, total = counts[_INPUT], counts[_OUTPUT], counts[_TOTAL]
    if outputs is None and inputs and total and total > inputs and "cache_read_input_tokens" not in usage:
        # Gemini's OpenAI endpoint omits the completion's count if there was only thinking.
        counts[_OUTPUT] = total - inputs
        return
    if inputs is None or outputs is None:
        return
    reasoning, cached = counts[_REASONING] or 0, (counts[_CACHE_READ] or 0) + (counts[_CACHE_WRITE] or 0)
    cached_by_anthropic = (
        cached
        and ("cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage)
        # LiteLLM repeats them here if it has included them in the prompt's count.
        and not fields(usage.get("prompt_tokens_details")).get("cached_tokens")
    )
    separate = 0 if total is None else total - inputs - outputs
    if separate > 0:
        if separate == reasoning:
            # xAI: docs.x.ai/docs/guides/reasoning
            outputs += reasoning
        elif separate in (cached, counts[_CACHE_READ], counts[_CACHE_WRITE]):
            inputs += separate
        elif separate == reasoning + cached:
            inputs, outputs = inputs + cached, outputs + reasoning
        elif usage.get("prompt_audio_seconds"):
            # Mistral: docs.mistral.ai/capabilities/audio
            inputs += separate
        elif inputs and counts[_REASONING] is None and not cached_by_anthropic:
            # Gemini's OpenAI endpoint counts thinking only there: ai.google.dev/api/generate-content#UsageMetadata
            outputs += separate
    elif cached_by_anthropic and (cached > inputs or (total is None and "prompt_tokens" not in usage)):
        # Anthropic's input_tokens exclude cached ones: docs.anthropic.com/en/docs/build-with-claude/prompt-caching
        inputs += cached
    elif total is None and reasoning > outputs:
        outputs += reasoning
    counts[_INPUT], counts[_OUTPUT] = inputs, outputs


def names_price(usage: Mapping[str, object]) -> bool:
    """Return whether ``usage`` has a field that :func:`read_price` reads. Runs for every chunk with usage."""
    return "cost" in usage or "estimated_cost" in usage or "cost_in_usd_ticks" in usage or "cost_usd_total" in usage


def is_charged(usage: Mapping[str, object]) -> bool:
    """Return whether ``usage`` reports a price other than 0. Runs for every chunk with a price."""
    get = usage.get
    return bool(get("cost") or get("estimated_cost") or get("cost_in_usd_ticks") or get("cost_usd_total"))


def read_price(usage: Mapping[str, object]) -> float | None:
    """Return the price of the call in US dollars, if the provider's ``usage`` reports it."""
    for name, unit in _PRICES.items():
        if name not in usage:
            continue
        # Perplexity's is an object: docs.perplexity.ai/api-reference/chat-completions-post
        parts = fields(usage[name])
        charged = _amount(parts.get("total_cost", parts.get("total")) if parts else usage[name])
        if charged is not None and _is_in_dollars(usage) and _is_in_dollars(parts):
            return _with_own_key(charged, usage) if name == "cost" else charged / unit
    return None


def _is_in_dollars(price: Mapping[str, object]) -> bool:
    return (price.get("currency") or "USD") in ("USD", "usd")


def _amount(value: object) -> float | None:
    """Return a price, even if it is written as text."""
    if not isinstance(value, str):
        return price(value)
    try:
        return price(float(value))
    except ValueError:
        return None


def _with_own_key(charged: float, usage: Mapping[str, object]) -> float | None:
    """Add the upstream provider's charge. For a caller's own key, OpenRouter's ``cost`` is only its fee."""
    if (own_key := usage.get("is_byok")) is False:
        return charged
    upstream = _amount(fields(usage.get("cost_details")).get("upstream_inference_cost"))
    if upstream is None:
        # The fee alone is not the price of the call.
        return None if own_key else charged
    # The fee is a small share of the upstream charge, so a price that is not smaller is not a fee.
    return charged if own_key is None and charged >= upstream else price(charged + upstream)
