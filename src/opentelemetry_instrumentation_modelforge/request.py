# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A call's request: the parameters that the client sends, as GenAI request attributes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast
from uuid import UUID

from langchain_core.messages import BaseMessage
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv._incubating.attributes import openai_attributes as openai
from opentelemetry.util.types import AttributeValue

from .providers import Provider
from .semconv import (
    GEN_AI_PROMPT_VERSION,
    GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID,
    GEN_AI_REQUEST_REASONING_LEVEL,
    MODELFORGE_RUN_NAME,
    MODELFORGE_TAGS,
    OUTPUT_IMAGE,
    OUTPUT_JSON,
    OUTPUT_SPEECH,
    OUTPUT_TEXT,
)
from .values import NOTHING, count, encodable, integer, items, mapping, text

try:
    from opentelemetry.util.genai._conversation_context import get_ambient_conversation_id
except ImportError:
    # The module is opentelemetry-util-genai's own, so a later release may move it.

    def get_ambient_conversation_id() -> str | None:
        """Return None: the installed release cannot report it."""
        return None


_MIME_TYPES: Final = {"application/json": OUTPUT_JSON, "text/plain": OUTPUT_TEXT}
_MODALITIES: Final = {"audio": OUTPUT_SPEECH, "image": OUTPUT_IMAGE, "text": OUTPUT_TEXT}


def _double(value: object) -> float | None:
    number = value if isinstance(value, float) else integer(value)
    return float(number) if number is not None and math.isfinite(number) else None


def _whole(value: object) -> int | None:
    return integer(int(value) if isinstance(value, float) and value.is_integer() else value)


def _choices(value: object) -> int | None:
    # The conventions omit the usual single choice.
    return None if value == 1 else count(value)


def _strings(value: object) -> Sequence[str] | None:
    if isinstance(value, str):
        return (encodable(value),) if value else None
    return tuple(encodable(item) for item in items(value) if isinstance(item, str)) or None


def _format(value: object) -> str | None:
    """Return the output type that OpenAI's ``response_format`` or Ollama's ``format`` asks for."""
    kind = mapping(cast("object", value)).get("type", "json_schema") if isinstance(value, Mapping) else value
    if kind == "text":
        return OUTPUT_TEXT
    # A JSON schema, or the class it is made from.
    return OUTPUT_JSON if kind else None


def _mime_type(value: object) -> str | None:
    return _MIME_TYPES.get(value) if isinstance(value, str) else None


def _modalities(value: object) -> str | None:
    # Google's client uses an enum for them.
    names = [name.lower() for item in items(value) if isinstance(name := getattr(item, "name", item), str)]
    return next((output for name, output in _MODALITIES.items() if name in names), None)


def _service_tier(value: object) -> str | None:
    # The conventions omit the default.
    return None if value == "auto" else text(value)


_Check = Callable[[object], AttributeValue | None]

_PARAMETERS: Final[Mapping[str, tuple[str, _Check]]] = {
    "temperature": (gen_ai.GEN_AI_REQUEST_TEMPERATURE, _double),
    "top_p": (gen_ai.GEN_AI_REQUEST_TOP_P, _double),
    "top_k": (gen_ai.GEN_AI_REQUEST_TOP_K, _whole),
    "max_tokens": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, count),
    "max_completion_tokens": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, count),
    "max_output_tokens": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, count),
    "num_predict": (gen_ai.GEN_AI_REQUEST_MAX_TOKENS, count),
    "stop": (gen_ai.GEN_AI_REQUEST_STOP_SEQUENCES, _strings),
    "stop_sequences": (gen_ai.GEN_AI_REQUEST_STOP_SEQUENCES, _strings),
    "seed": (gen_ai.GEN_AI_REQUEST_SEED, integer),
    "frequency_penalty": (gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY, _double),
    "presence_penalty": (gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY, _double),
    "n": (gen_ai.GEN_AI_REQUEST_CHOICE_COUNT, _choices),
    "candidate_count": (gen_ai.GEN_AI_REQUEST_CHOICE_COUNT, _choices),
    "reasoning_effort": (GEN_AI_REQUEST_REASONING_LEVEL, text),
    "previous_response_id": (GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID, text),
    "service_tier": (openai.OPENAI_REQUEST_SERVICE_TIER, _service_tier),
    "modalities": (gen_ai.GEN_AI_OUTPUT_TYPE, _modalities),
    "response_modalities": (gen_ai.GEN_AI_OUTPUT_TYPE, _modalities),
    "response_format": (gen_ai.GEN_AI_OUTPUT_TYPE, _format),
    "format": (gen_ai.GEN_AI_OUTPUT_TYPE, _format),
    "response_mime_type": (gen_ai.GEN_AI_OUTPUT_TYPE, _mime_type),
}
"""Every spelling of a parameter in the providers' requests, with its attribute and the check for its value."""

# The metadata in which langsmith and langchain.hub identify a prompt from LangSmith's hub.
_PROMPT_NAME: Final = "lc_hub_repo"
_PROMPT_VERSION: Final = "lc_hub_commit_hash"

# LangGraph's thread, then the names applications use; in the order of the official LangChain instrumentation.
_CONVERSATION_KEYS: Final = ("thread_id", "session_id", "conversation_id")


class Request(NamedTuple):
    """One call's request, as LangChain reports it when a run starts."""

    run_id: UUID
    prompt: Sequence[BaseMessage] | Sequence[str]
    params: Mapping[str, object] = NOTHING
    """``invocation_params``."""
    metadata: Mapping[str, object] = NOTHING
    tags: Sequence[str] | None = None
    run_name: str | None = None
    client: Mapping[str, object] = NOTHING
    """The fields of the LangChain model that runs the call; empty if it is not known."""
    streaming: bool = False

    def attributes(self, kind: Provider) -> dict[str, AttributeValue]:
        """Return the request attributes of the inference span, omitting parameters that the request lacks.

        :param kind: the kind of client that sends the request.
        """
        attributes: dict[str, AttributeValue] = {}
        for parameters in kind.request_parameters(self.params, self.client):
            for name, value in parameters.items():
                if value is not None and name in _PARAMETERS:
                    attribute, check = _PARAMETERS[name]
                    if (checked := check(value)) is not None:
                        attributes[attribute] = checked
        metadata = self.metadata
        if conversation := _conversation(metadata):
            attributes[gen_ai.GEN_AI_CONVERSATION_ID] = conversation
        if _PROMPT_NAME in metadata and (prompt := text(metadata[_PROMPT_NAME])):
            attributes[gen_ai.GEN_AI_PROMPT_NAME] = prompt
            if version := text(metadata.get(_PROMPT_VERSION)):
                attributes[GEN_AI_PROMPT_VERSION] = version
        return attributes

    def metadata_attributes(self, keys: Iterable[str]) -> dict[str, AttributeValue]:
        """Return the entries of the run's metadata listed in ``keys``, as attributes under their own keys.

        Strings, booleans, numbers, UUIDs and lists of one of these types are copied; entries of other types are left
        out.

        :param keys: ``tags`` and ``run_name`` select the run's own tags and name, which become ``modelforge.tags``
            and ``modelforge.run_name``.
        """
        attributes: dict[str, AttributeValue] = {}
        for key in keys:
            if key == "tags":
                name, value = MODELFORGE_TAGS, _strings(self.tags)
            elif key == "run_name":
                name, value = MODELFORGE_RUN_NAME, text(self.run_name)
            else:
                name, value = key, _attribute_value(self.metadata.get(key))
            if value is not None:
                attributes[name] = value
        return attributes

    def hook_parameters(self) -> dict[str, object]:
        """Return the request hook's parameters: the run's metadata, tags and name, overridden by the request's own."""
        return {"metadata": self.metadata, "tags": self.tags, "run_name": self.run_name, **self.params}


def call_parameters(start: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the ``invocation_params`` that LangChain reports when a run starts.

    ``ChatOpenAI`` reports the model's own ``stop`` there, but sends the call's.
    """
    params: Mapping[str, object] = start.get("invocation_params") or NOTHING
    stop = mapping(start.get("options")).get("stop")
    return params if stop is None or params.get("stop") == stop else {**params, "stop": stop}


def _conversation(metadata: Mapping[str, object]) -> str | None:
    if ambient := get_ambient_conversation_id():
        return text(ambient)
    for key in _CONVERSATION_KEYS:
        if key in metadata and (identifier := _identifier(metadata[key])):
            return identifier
    return None


def _identifier(value: object) -> str | None:
    return str(value) if isinstance(value, UUID) or integer(value) is not None else text(value)


def _attribute_value(value: object) -> AttributeValue | None:
    entries = items(value)
    if not entries:
        return _scalar(value)
    scalars = [_scalar(entry) for entry in entries]
    # The SDK rejects a list of mixed types, and drops it with a warning for each call.
    kinds = {type(scalar) for scalar in scalars}
    return cast("AttributeValue", tuple(scalars)) if len(kinds) == 1 and None not in scalars else None


def _scalar(value: object) -> str | bool | int | float | None:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, float):
        return _double(value)
    if isinstance(value, bool):
        return value
    # The SDK accepts no subclass of a number type, such as an enum member.
    return None if (number := integer(value)) is None else int(number)
