# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""LangChain's finished result: the last resort if the provider's own answer was not seen.

LangChain adds up the usage of chunks, joins strings, and drops unknown fields.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from ..response import NO_RESPONSE, Response, Usage
from ..values import count, mapping, model_name, short_text
from .openai_usage import read_price, read_usage

# LangChain's own message ids; a provider's id looks different.
_RUN_ID_PREFIXES: Final = ("run-", "lc_")


def read_result(generations: Sequence[object], llm_output: object, chunks: Response = NO_RESPONSE) -> Response:
    """Read one prompt's generations and their ``llm_output`` (both from an ``LLMResult`` or ``ChatResult``).

    Everything but the finish reasons is read from the first of several generations: the others repeat it.

    :param chunks: the response read from a stream's chunks, which takes precedence over LangChain's version.
    """
    output = mapping(llm_output)
    message = getattr(generations[0], "message", None) if generations else None
    metadata = [_metadata(generation) for generation in generations]
    merged = {**metadata[0], **output} if metadata else output
    usage = mapping(getattr(message, "usage_metadata", None))
    # Some integrations keep the provider's own object there, which contains more than LangChain's.
    token_usage = mapping(merged.get("token_usage"))
    # langchain-core marks a cached message with a total_cost of 0; no provider's count has that field.
    cached = usage.get("total_cost") == 0
    return Response(
        short_text(merged.get("id")) or _message_id(message),
        chunks.model or model_name(merged.get("model_name") or merged.get("model")),
        chunks.finish_reasons or tuple(filter(None, map(_finish_reason, metadata))),
        None if cached else chunks.usage or read_usage(token_usage) or read_usage(usage) or _usage_of_ollama(merged),
        read_price(token_usage) if token_usage and not cached else None,
        short_text(merged.get("service_tier")),
        short_text(merged.get("system_fingerprint")),
        cached,
    )


def is_of_another_run(generations: Sequence[object], run_id: UUID) -> bool:
    """Return whether LangChain gave the answer its id in a run other than ``run_id`` and has kept it since."""
    identifier = getattr(getattr(generations[0], "message", None), "id", None) if generations else None
    return isinstance(identifier, str) and identifier.startswith(_RUN_ID_PREFIXES) and str(run_id) not in identifier


def _metadata(generation: object) -> Mapping[str, object]:
    # LangChain merges a generation's own metadata into its message's.
    return mapping(getattr(getattr(generation, "message", None), "response_metadata", None)) or mapping(
        getattr(generation, "generation_info", None)
    )


def _finish_reason(metadata: Mapping[str, object]) -> str | None:
    return short_text(metadata.get("finish_reason") or metadata.get("done_reason") or metadata.get("stop_reason"))


def _message_id(message: object) -> str | None:
    identifier = short_text(getattr(message, "id", None))
    return None if identifier is None or identifier.startswith(_RUN_ID_PREFIXES) else identifier


def _usage_of_ollama(metadata: Mapping[str, object]) -> Usage | None:
    """Read the last line of Ollama's stream, which the community ``ChatOllama`` keeps unchanged."""
    input_tokens, output_tokens = count(metadata.get("prompt_eval_count")), count(metadata.get("eval_count"))
    return None if input_tokens is None and output_tokens is None else Usage(input_tokens, output_tokens)
