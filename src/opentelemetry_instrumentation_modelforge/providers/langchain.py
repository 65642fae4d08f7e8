"""LangChain's finished result: the last resort where the provider's own answer was not seen.

LangChain adds up the usage of chunks, joins strings, and drops the fields that it does not know.
"""
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
