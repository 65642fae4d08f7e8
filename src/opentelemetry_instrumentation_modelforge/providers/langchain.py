"""LangChain's finished result: the last resort where the provider's own answer was not seen.

LangChain adds up the usage of chunks, joins strings, and drops the fields that it does not know.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from ..response import Response, Usage
from ..values import NOTHING, count, mapping, price, text

# LangChain's own message ids; a provider's id looks different.
_RUN_ID_PREFIXES: Final = ("run-", "lc_")


def read_result(generations: Sequence[object], llm_output: object) -> Response:
    """Read one prompt's generations and the ``llm_output`` beside them (both of an ``LLMResult`` or ``ChatResult``).

    Of several generations, the first tells all but the finish reasons: the others repeat it.
    """
    output = mapping(llm_output)
    metadata = [_metadata(generation) for generation in generations]
    message = getattr(generations[0], "message", None) if generations else None
    first = metadata[0] if metadata else NOTHING
    usage = mapping(getattr(message, "usage_metadata", None))
    # langchain-core marks a cached message with a total_cost of 0; no provider's count has that field.
    cached = usage.get("total_cost") == 0
    token_usage = mapping(output.get("token_usage") or first.get("token_usage"))
    return Response(
        id=_said(output, first, "id") or _message_id(message),
        model=_said(output, first, "model_name") or _said(output, first, "model"),
        finish_reasons=tuple(reason for reason in map(_finish_reason, metadata) if reason is not None),
        usage=None
        if cached
        else _usage_of_message(usage, token_usage) or _usage_of_output(token_usage) or _usage_of_ollama(first),
        cost=None if cached else price(token_usage.get("cost")),
        service_tier=_said(output, first, "service_tier"),
        system_fingerprint=_said(output, first, "system_fingerprint"),
        cached=cached,
    )


def is_of_another_run(generations: Sequence[object], run_id: UUID) -> bool:
    """Return whether LangChain gave the answer its id in another run than ``run_id``: then it kept it since."""
    identifier = getattr(getattr(generations[0], "message", None), "id", None) if generations else None
    return isinstance(identifier, str) and identifier.startswith(_RUN_ID_PREFIXES) and str(run_id) not in identifier


def _metadata(generation: object) -> Mapping[str, object]:
    # LangChain merges a generation's own information into its message's.
    return mapping(getattr(getattr(generation, "message", None), "response_metadata", None)) or mapping(
        getattr(generation, "generation_info", None)
    )


def _finish_reason(metadata: Mapping[str, object]) -> str | None:
    return text(metadata.get("finish_reason") or metadata.get("done_reason") or metadata.get("stop_reason"))


def _said(output: Mapping[str, object], metadata: Mapping[str, object], name: str) -> str | None:
    return text(output.get(name) or metadata.get(name))


def _message_id(message: object) -> str | None:
    identifier = text(getattr(message, "id", None))
    return None if identifier is None or identifier.startswith(_RUN_ID_PREFIXES) else identifier


def _usage_of_message(usage: Mapping[str, object], token_usage: Mapping[str, object]) -> Usage | None:
    """Read LangChain's ``UsageMetadata``, and in the API's own ``usage`` what has no place in it."""
    input_tokens, output_tokens = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    if not input_tokens and not output_tokens:
        # LangChain fills what a provider left out with zeros; a call that used nothing at all has no count.
        return None
    inputs, outputs = mapping(usage.get("input_token_details")), mapping(usage.get("output_token_details"))
    details = mapping(token_usage.get("prompt_tokens_details"))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_input_tokens=count(inputs.get("cache_read")),
        cache_write_input_tokens=count(inputs.get("cache_creation")) or count(details.get("cache_write_tokens")),
        reasoning_output_tokens=count(outputs.get("reasoning")),
        audio_input_tokens=count(inputs.get("audio")),
        audio_output_tokens=count(outputs.get("audio")),
    )


def _usage_of_output(usage: Mapping[str, object]) -> Usage | None:
    """Read the ``usage`` object of OpenAI's API, which integrations without ``UsageMetadata`` keep in the output."""
    input_tokens, output_tokens = count(usage.get("prompt_tokens")), count(usage.get("completion_tokens"))
    if not input_tokens and not output_tokens:
        return None
    inputs = mapping(usage.get("prompt_tokens_details"))
    outputs = mapping(usage.get("completion_tokens_details"))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cache_read_input_tokens=count(inputs.get("cached_tokens")),
        cache_write_input_tokens=count(inputs.get("cache_write_tokens")),
        reasoning_output_tokens=count(outputs.get("reasoning_tokens")),
        audio_input_tokens=count(inputs.get("audio_tokens")),
        audio_output_tokens=count(outputs.get("audio_tokens")),
    )


def _usage_of_ollama(metadata: Mapping[str, object]) -> Usage | None:
    """Read the last line of Ollama's stream, which the community ``ChatOllama`` keeps as it came."""
    input_tokens, output_tokens = count(metadata.get("prompt_eval_count")), count(metadata.get("eval_count"))
    return None if input_tokens is None and output_tokens is None else Usage(input_tokens, output_tokens)
