"""What a provider answered: usage, finish reasons, model and id, as frozen values that say their own attributes."""

from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.util.types import AttributeValue

from .semconv import (
    GEN_AI_USAGE_AUDIO_INPUT_TOKENS,
    GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS,
    GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    MODELFORGE_RESPONSE_CACHED,
    OPENAI_API_TYPE,
    OPENAI_RESPONSE_SERVICE_TIER,
    OPENAI_RESPONSE_SYSTEM_FINGERPRINT,
)

Attribute = tuple[str, AttributeValue]


# A NamedTuple, because every call makes one of each and a frozen dataclass takes five times as long.
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

    def attributes(self) -> Iterator[Attribute]:
        """Yield the usage attributes of the inference span, without the counts that are not known."""
        for name, count in zip(_USAGE_ATTRIBUTES, self, strict=True):
            if count is not None:
                yield name, count


_USAGE_ATTRIBUTES: Final = (
    gen_ai.GEN_AI_USAGE_INPUT_TOKENS,
    gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS,
    gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    gen_ai.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    GEN_AI_USAGE_AUDIO_INPUT_TOKENS,
    GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS,
)


class Response(NamedTuple):
    """One call's answer. A field that the provider did not send is None or empty."""

    id: str | None = None
    model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: Usage | None = None
    cost: float | None = None
    """US dollars, where the provider itself names the price (OpenRouter's ``usage.cost``)."""
    service_tier: str | None = None
    system_fingerprint: str | None = None
    cached: bool = False
    """True for an answer from LangChain's cache, for which the provider was not asked."""
    error: str | None = None
    """A value for ``error.type``, where an answer without an HTTP error says that the call failed."""
    api_type: str | None = None
    """The API of OpenAI that the answer came from: ``chat_completions`` or ``responses``."""

    def attributes(self) -> Iterator[Attribute]:
        """Yield the response attributes of the inference span."""
        return chain(self._identity(), self._openai(), self.usage.attributes() if self.usage else ())

    def _identity(self) -> Iterator[Attribute]:
        if self.id is not None:
            yield gen_ai.GEN_AI_RESPONSE_ID, self.id
        if self.model is not None:
            yield gen_ai.GEN_AI_RESPONSE_MODEL, self.model
        if self.finish_reasons:
            yield gen_ai.GEN_AI_RESPONSE_FINISH_REASONS, self.finish_reasons
        if self.cached:
            yield MODELFORGE_RESPONSE_CACHED, True

    def _openai(self) -> Iterator[Attribute]:
        if self.service_tier is not None:
            yield OPENAI_RESPONSE_SERVICE_TIER, self.service_tier
        if self.system_fingerprint is not None:
            yield OPENAI_RESPONSE_SYSTEM_FINGERPRINT, self.system_fingerprint
        if self.api_type is not None:
            yield OPENAI_API_TYPE, self.api_type

    def completed_by(self, other: "Response") -> "Response":
        """Return this response with the fields that it lacks taken from ``other``."""
        return Response._make(
            theirs if mine == unknown else mine for mine, theirs, unknown in zip(self, other, _UNKNOWN, strict=True)
        )


# A cost of 0.0 is known, so a field is compared with its default.
_UNKNOWN: Final = Response()
