# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A provider's answer: usage, finish reasons, model and id, as frozen values that produce their own attributes."""

from typing import Any, Final, NamedTuple

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.attributes import openai_attributes as openai
from opentelemetry.util.types import AttributeValue

from .semconv import (
    GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID,
    GEN_AI_USAGE_AUDIO_INPUT_TOKENS,
    GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS,
    GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    MODELFORGE_RESPONSE_CACHED,
)


# A NamedTuple, because every call creates one of each and a frozen dataclass takes five times as long.
class Usage(NamedTuple):
    """Tokens of one call, as the provider counted them. A count that the provider did not report is None.

    ``input_tokens`` includes cached, cache-written and tool-use tokens, ``output_tokens`` includes reasoning, as in the
    GenAI semantic conventions and in LangChain's ``UsageMetadata``.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    reasoning_output_tokens: int | None = None
    audio_input_tokens: int | None = None
    audio_output_tokens: int | None = None
    cache_write_1h_input_tokens: int | None = None
    """The part of ``cache_write_input_tokens`` that Anthropic keeps for an hour, which has a higher price."""

    def attributes(self) -> dict[str, AttributeValue]:
        """Return the usage attributes of the inference span, omitting unknown counts."""
        return {name: count for name, count in zip(_USAGE_ATTRIBUTES, self, strict=False) if count is not None}


_USAGE_ATTRIBUTES: Final = (
    gen_ai.GEN_AI_USAGE_INPUT_TOKENS,
    gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS,
    gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    gen_ai.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    GEN_AI_USAGE_AUDIO_INPUT_TOKENS,
    GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS,
)
"""By position. The fields after these are for prices only."""


class Response(NamedTuple):
    """One call's answer. A field that the provider did not send is None or empty."""

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: Usage | None = None
    cost: float | None = None
    """US dollars, if the provider itself reports the price (OpenRouter's ``usage.cost``)."""
    service_tier: str | None = None
    system_fingerprint: str | None = None
    cached: bool = False
    """True for an answer from LangChain's cache, for which the provider was not called."""
    error: str | None = None
    """A value for ``error.type``, if an answer without an HTTP error reports that the call failed."""
    api_type: str | None = None
    """The OpenAI API that the answer came from: ``chat_completions`` or ``responses``."""
    previous_response_id: str | None = None
    """The response that this one continues. LangChain can choose it after the start of the call."""

    def attributes(self) -> dict[str, AttributeValue]:
        """Return the response attributes of the inference span, omitting unknown ones."""
        attributes: dict[str, Any] = {
            name: value for name, value in zip(_RESPONSE_ATTRIBUTES, self, strict=True) if name and value
        }
        if self.usage is not None:
            attributes.update(self.usage.attributes())
        return attributes

    def completed_by(self, other: "Response") -> "Response":
        """Return this response with the fields that it lacks taken from ``other``."""
        return Response._make(
            theirs if mine == unknown else mine for mine, theirs, unknown in zip(self, other, NO_RESPONSE, strict=True)
        )


NO_RESPONSE: Final = Response()
"""The response of which nothing is known. A cost of 0.0 is known, so a field is compared with its default here."""

_RESPONSE_ATTRIBUTES: Final = (
    gen_ai.GEN_AI_RESPONSE_ID,
    gen_ai.GEN_AI_RESPONSE_MODEL,
    gen_ai.GEN_AI_RESPONSE_FINISH_REASONS,
    None,
    None,
    openai.OPENAI_RESPONSE_SERVICE_TIER,
    openai.OPENAI_RESPONSE_SYSTEM_FINGERPRINT,
    MODELFORGE_RESPONSE_CACHED,
    None,
    openai.OPENAI_API_TYPE,
    GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID,
)
"""By position. ``Usage`` provides its own attributes, and the call's ending those of the cost and of the error."""
