# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Attribute, metric and event names that no library exports yet."""

from typing import Final

from opentelemetry.semconv.schemas import Schemas

SCHEMA_URL: Final = Schemas.V1_37_0.value
"""The schema that opentelemetry-util-genai declares for its own GenAI telemetry, so that both are read alike."""

# Values, which opentelemetry.semconv has only in classes deprecated since the GenAI conventions moved out.
OPERATION_CHAT: Final = "chat"
OPERATION_TEXT_COMPLETION: Final = "text_completion"
OUTPUT_TEXT: Final = "text"
OUTPUT_JSON: Final = "json"
OUTPUT_IMAGE: Final = "image"
OUTPUT_SPEECH: Final = "speech"
TOKEN_INPUT: Final = "input"
TOKEN_OUTPUT: Final = "output"

# Spelled as opentelemetry-util-genai 1.3b0 spells them.
GEN_AI_PROMPT_VERSION: Final = "gen_ai.prompt.version"
GEN_AI_REQUEST_PREVIOUS_RESPONSE_ID: Final = "gen_ai.request.previous_response.id"
GEN_AI_REQUEST_REASONING_LEVEL: Final = "gen_ai.request.reasoning.level"
GEN_AI_USAGE_AUDIO_INPUT_TOKENS: Final = "gen_ai.usage.audio.input_tokens"
GEN_AI_USAGE_AUDIO_OUTPUT_TOKENS: Final = "gen_ai.usage.audio.output_tokens"
GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"

# Values of openai.api.type.
OPENAI_API_TYPE_CHAT_COMPLETIONS: Final = "chat_completions"
OPENAI_API_TYPE_RESPONSES: Final = "responses"

# The draft of open-telemetry/semantic-conventions-genai#443.
GEN_AI_USAGE_COST_AMOUNT: Final = "gen_ai.usage.cost.amount"
GEN_AI_USAGE_COST_CURRENCY: Final = "gen_ai.usage.cost.currency"
GEN_AI_USAGE_COST_SOURCE: Final = "gen_ai.usage.cost.source"
GEN_AI_CLIENT_OPERATION_COST: Final = "gen_ai.client.operation.cost"

EVENT_OPERATION_DETAILS: Final = "gen_ai.client.inference.operation.details"

# This package's own.
SPAN_GET_LLM: Final = "modelforge.get_llm"
SPAN_INVOKE: Final = "langchain.llm.invoke"
MODELFORGE_API_MODEL: Final = "modelforge.api_model"
MODELFORGE_PROVIDER: Final = "modelforge.provider"
MODELFORGE_MODEL: Final = "modelforge.model"
MODELFORGE_LLM_TYPE: Final = "modelforge.llm_type"
MODELFORGE_ENHANCED: Final = "modelforge.enhanced"
MODELFORGE_RUN_NAME: Final = "modelforge.run_name"
MODELFORGE_TAGS: Final = "modelforge.tags"
MODELFORGE_OUTCOME: Final = "modelforge.outcome"
MODELFORGE_RESPONSE_CACHED: Final = "modelforge.response.cached"
MODELFORGE_RESPONSE_CHUNK_COUNT: Final = "modelforge.response.chunk_count"
MODELFORGE_CHUNK_INDEX: Final = "modelforge.chunk.index"
MODELFORGE_USAGE_ESTIMATED: Final = "modelforge.usage.estimated"
MODELFORGE_USAGE_REFERENCE_COST: Final = "modelforge.usage.reference_cost"
MODELFORGE_CLIENT_ACTIVE_STREAMS: Final = "modelforge.client.active_streams"
EVENT_CHUNK: Final = "modelforge.chunk"
