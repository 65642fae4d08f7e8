"""What a model's answer says of itself: usage, finish reasons, model and id, in each provider's spelling."""

from dataclasses import dataclass


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
