"""The ``usage`` object of OpenAI's APIs, in the spellings of the providers that speak them."""

from collections.abc import Mapping
from typing import Final

from ..response import Usage
from ..values import NOTHING, count, mapping, price

# The fields of Usage by position, and the total, which tells whether a part is counted beside or inside its whole.
_INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE, _REASONING, _AUDIO_INPUT, _AUDIO_OUTPUT, _TOTAL = range(8)

_USAGE_FIELDS: Final = {
    "prompt_tokens": _INPUT,  # OpenAI, chat completions
    "completion_tokens": _OUTPUT,
    "input_tokens": _INPUT,  # OpenAI, responses
    "output_tokens": _OUTPUT,
    "total_tokens": _TOTAL,
    "prompt_cache_hit_tokens": _CACHE_READ,  # DeepSeek: api-docs.deepseek.com/guides/kv_cache
    "cached_tokens": _CACHE_READ,  # Moonshot: platform.moonshot.ai/docs/api/chat
    "cache_read_input_tokens": _CACHE_READ,  # Anthropic, by LiteLLM: docs.litellm.ai/docs/completion/prompt_caching
    "cache_creation_input_tokens": _CACHE_WRITE,
    "reasoning_tokens": _REASONING,  # Perplexity: docs.perplexity.ai/api-reference/chat-completions-post; SGLang
}
_INPUT_DETAILS: Final = {
    "cached_tokens": _CACHE_READ,  # OpenAI
    "audio_tokens": _AUDIO_INPUT,
    "cache_write_tokens": _CACHE_WRITE,  # OpenRouter: openrouter.ai/docs/use-cases/usage-accounting
    "cache_creation_tokens": _CACHE_WRITE,  # LiteLLM: docs.litellm.ai/docs/completion/prompt_caching
    "cache_creation_input_tokens": _CACHE_WRITE,  # Qwen: alibabacloud.com/help/en/model-studio/context-cache
    "cache_read": _CACHE_READ,  # langchain_core.messages.ai.InputTokenDetails
    "cache_creation": _CACHE_WRITE,
    "audio": _AUDIO_INPUT,
}
_OUTPUT_DETAILS: Final = {
    "reasoning_tokens": _REASONING,  # OpenAI
    "audio_tokens": _AUDIO_OUTPUT,
    "reasoning": _REASONING,  # langchain_core.messages.ai.OutputTokenDetails
    "audio": _AUDIO_OUTPUT,
}
_DETAILS: Final = (
    ("prompt_tokens_details", _INPUT_DETAILS),
    ("completion_tokens_details", _OUTPUT_DETAILS),
    ("input_tokens_details", _INPUT_DETAILS),
    ("output_tokens_details", _OUTPUT_DETAILS),
    ("input_token_details", _INPUT_DETAILS),
    ("output_token_details", _OUTPUT_DETAILS),
)

_PRICES: Final = {
    "cost": 1,  # OpenRouter: openrouter.ai/docs/use-cases/usage-accounting; LiteLLM
    "estimated_cost": 1,  # DeepInfra: deepinfra.com/docs/openai_api
    "cost_in_usd_ticks": 10**10,  # xAI: docs.x.ai/developers/cost-tracking
}
"""The field of a price, and how many of its units are a US dollar."""


def fields(value: object) -> Mapping[str, object]:
    """Return a mapping as it is, and a pydantic model's fields with those that its class does not declare."""
    if isinstance(value, dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    if value is None:
        return NOTHING
    own = mapping(getattr(value, "__dict__", None))
    extra = mapping(getattr(value, "__pydantic_extra__", None))
    return {**own, **extra} if extra else own


def read_usage(usage: Mapping[str, object]) -> Usage | None:
    """Return what a ``usage`` object reports, or None where it reports no tokens.

    Providers count reasoning and cached tokens inside the completion's and the prompt's, or beside them; the total
    tells which. A part that is larger than its whole is left out.
    """
    counts: list[int | None] = [None] * 8
    _collect(counts, _USAGE_FIELDS, usage)
    for name, details in _DETAILS:
        if (found := usage.get(name)) is not None:
            _collect(counts, details, fields(found))
    if not counts[_INPUT] and not counts[_OUTPUT]:
        return None
    _add_what_is_beside(counts, usage)
    input_tokens, output_tokens, cache_read, cache_write, reasoning, audio_input, audio_output, _ = counts
    inputs, outputs = input_tokens or 0, output_tokens or 0
    if (cache_read or 0) + (cache_write or 0) > inputs:
        cache_read = cache_write = None
    return Usage(
        # No prompt is empty: a server that took it from its cache counts 0.
        input_tokens or None,
        output_tokens,
        cache_read,
        cache_write,
        _part(reasoning, outputs),
        _part(audio_input, inputs),
        _part(audio_output, outputs),
    )


def _collect(counts: list[int | None], table: Mapping[str, int], source: Mapping[str, object]) -> None:
    """Put the counts of one object into ``counts``; of several spellings of one count, the largest is the one."""
    for name, value in source.items():
        field = table.get(name)
        if field is not None and (number := _tokens(value)) is not None and number >= (counts[field] or 0):
            counts[field] = number


def _tokens(value: object) -> int | None:
    """Return a count of tokens; some servers write it as a float."""
    return count(int(value) if isinstance(value, float) and value.is_integer() else value)


def _part(part: int | None, whole: int) -> int | None:
    return part if part is not None and part <= whole else None


def _add_what_is_beside(counts: list[int | None], usage: Mapping[str, object]) -> None:
    """Add to the prompt's and the completion's counts the parts that stand beside them."""
    inputs, outputs, total = counts[_INPUT] or 0, counts[_OUTPUT] or 0, counts[_TOTAL]
    reasoning, cached = counts[_REASONING] or 0, (counts[_CACHE_READ] or 0) + (counts[_CACHE_WRITE] or 0)
    beside = 0 if total is None else total - inputs - outputs
    if beside > 0:
        if beside == reasoning:
            # xAI: docs.x.ai/docs/guides/reasoning
            outputs += reasoning
        elif beside in (cached, counts[_CACHE_READ], counts[_CACHE_WRITE]):
            inputs += beside
        elif beside == reasoning + cached:
            inputs, outputs = inputs + cached, outputs + reasoning
        elif usage.get("prompt_audio_seconds"):
            # Mistral: docs.mistral.ai/capabilities/audio
            inputs += beside
        elif not reasoning and not cached:
            # Gemini's OpenAI endpoint counts its thinking nowhere else: ai.google.dev/gemini-api/docs/openai
            outputs += beside
    elif cached > inputs and ("cache_read_input_tokens" in usage or "cache_creation_input_tokens" in usage):
        # Anthropic's input_tokens are those after the cached ones: docs.anthropic.com, "Prompt caching"
        inputs += cached
    elif total is None and reasoning > outputs:
        outputs += reasoning
    if counts[_INPUT] is not None or inputs:
        counts[_INPUT] = inputs
    if counts[_OUTPUT] is not None or outputs:
        counts[_OUTPUT] = outputs


def names_a_price(usage: Mapping[str, object]) -> bool:
    """Return whether the provider tells in ``usage`` what the call cost."""
    return not _PRICES.keys().isdisjoint(usage)


def read_price(usage: Mapping[str, object]) -> float | None:
    """Return the US dollars that the provider charged, where its ``usage`` names them."""
    for name, unit in _PRICES.items():
        named = usage.get(name)
        # Perplexity's is an object: docs.perplexity.ai/api-reference/chat-completions-post
        charged = price(fields(named).get("total_cost", named))
        if charged is not None:
            return _with_own_key(charged, usage) if name == "cost" else charged / unit
    return None


def _with_own_key(charged: float, usage: Mapping[str, object]) -> float | None:
    """Add what the upstream provider charges the caller's own key, of which OpenRouter's ``cost`` is only a fee."""
    if (own_key := usage.get("is_byok")) is False:
        return charged
    upstream = price(fields(usage.get("cost_details")).get("upstream_inference_cost"))
    if upstream is None:
        # Without the upstream price the fee alone would pass for the whole.
        return None if own_key else charged
    return charged + upstream
