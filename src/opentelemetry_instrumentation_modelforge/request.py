"""What a call asks of the model: LangChain's invocation parameters as GenAI request attributes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast
from uuid import UUID

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.util.types import AttributeValue

from .otel_utils import encodable
from .semconv import OUTPUT_IMAGE, OUTPUT_JSON, OUTPUT_SPEECH, OUTPUT_TEXT

_MIME_TYPES: Final = {"application/json": OUTPUT_JSON, "text/plain": OUTPUT_TEXT}


def _double(value: object) -> float | None:
    return value if isinstance(value, float) else None if (number := _integer(value)) is None else float(number)


def _integer(value: object) -> int | None:
    # OTLP has 64 bits for it.
    return value if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63 else None


def _choices(value: object) -> int | None:
    # The conventions leave the usual single choice out.
    return count if (count := _integer(value)) != 1 else None


def _strings(value: object) -> Sequence[str] | None:
    if isinstance(value, str):
        return (encodable(value),)
    if isinstance(value, list | tuple):
        return tuple(encodable(item) for item in cast("Sequence[object]", value) if isinstance(item, str)) or None
    return None


def _identifier(value: object) -> str | None:
    if isinstance(value, str):
        return encodable(value)
    return str(value) if isinstance(value, UUID) or _integer(value) is not None else None


def _format(value: object) -> str | None:
    """Return the output type that OpenAI's ``response_format`` or Ollama's ``format`` asks for."""
    kind = cast("Mapping[str, object]", value).get("type", "json_schema") if isinstance(value, Mapping) else value
    if kind == "text":
        return OUTPUT_TEXT
    # A JSON schema, or the class it is made from.
    return OUTPUT_JSON if kind else None


def _mime_type(value: object) -> str | None:
    return _MIME_TYPES.get(value) if isinstance(value, str) else None


def _modalities(value: object) -> str | None:
    names = {name.lower() for name in _strings(value) or ()}
    if "audio" in names:
        return OUTPUT_SPEECH
    return OUTPUT_IMAGE if "image" in names else None


# Every spelling of ChatOpenAI, ChatOllama, ChatGoogleGenerativeAI and ChatGitHubCopilot.
_PARAMETERS: Final[dict[str, tuple[str, Callable[[object], AttributeValue | None]]]] = {
    "temperature": (gen_ai.GEN_AI_REQUEST_TEMPERATURE, _double),
    "top_p": (gen_ai.GEN_AI_REQUEST_TOP_P, _double),
    "top_k": (gen_ai.GEN_AI_REQUEST_TOP_K, _double),
    "max_tokens": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, _integer),
    "max_completion_tokens": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, _integer),
    "max_output_tokens": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, _integer),
    "num_predict": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, _integer),
    "stop": (gen_ai.GEN_AI_REQUEST_STOP_SEQUENCES, _strings),
    "stop_sequences": (gen_ai.GEN_AI_REQUEST_STOP_SEQUENCES, _strings),
    "seed": (gen_ai.GEN_AI_REQUEST_SEED, _integer),
    "frequency_penalty": (gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY, _double),
    "presence_penalty": (gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY, _double),
    "n": (gen_ai.GEN_AI_REQUEST_CHOICE_COUNT, _choices),
    "candidate_count": (gen_ai.GEN_AI_REQUEST_CHOICE_COUNT, _choices),
    "response_format": (gen_ai.GEN_AI_OUTPUT_TYPE, _format),
    "format": (gen_ai.GEN_AI_OUTPUT_TYPE, _format),
    "response_mime_type": (gen_ai.GEN_AI_OUTPUT_TYPE, _mime_type),
    "modalities": (gen_ai.GEN_AI_OUTPUT_TYPE, _modalities),
    "response_modalities": (gen_ai.GEN_AI_OUTPUT_TYPE, _modalities),
}

# LangGraph's thread, then the names applications use; in the order of the official LangChain instrumentation.
_CONVERSATION_KEYS: Final = ("thread_id", "session_id", "conversation_id")

_NESTED: Final = ("options", "generation_config", "model_kwargs")


def request_attributes(
    params: Mapping[str, object] | None, metadata: Mapping[str, object] | None
) -> dict[str, AttributeValue]:
    """Return the request's part of the inference span; what the caller did not ask for is left out.

    :param params: ``invocation_params`` of ``on_chat_model_start``.
    :param metadata: the run's metadata, which names the conversation.
    """
    attributes: dict[str, AttributeValue] = {}
    if params:
        for name in _NESTED:
            if isinstance(nested := params.get(name), dict):
                _add_parameters(attributes, cast("dict[str, object]", nested))
        _add_parameters(attributes, params)
    if metadata:
        for key in _CONVERSATION_KEYS:
            if conversation := _identifier(metadata.get(key)):
                attributes[gen_ai.GEN_AI_CONVERSATION_ID] = conversation
                break
    return attributes


def _add_parameters(attributes: dict[str, AttributeValue], params: Mapping[str, object]) -> None:
    for name, value in params.items():
        if value is not None and (parameter := _PARAMETERS.get(name)):
            attribute, convert = parameter
            if (converted := convert(value)) is not None:
                attributes[attribute] = converted


def requested_model(params: Mapping[str, object] | None) -> str | None:
    """Return the model name this one call sends, or None when the parameters do not tell."""
    if not params:
        return None
    model = params.get("model") or params.get("model_name")
    # Google's client puts the resource's collection in front.
    return encodable(model).removeprefix("models/") if isinstance(model, str) and model else None
