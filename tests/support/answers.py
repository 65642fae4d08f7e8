# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The names used in the providers' answers."""

KEYS = (
    "token_usage",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "reasoning_tokens",
    "input_tokens",
    "output_tokens",
    "input_token_details",
    "output_token_details",
    "cache_read",
    "reasoning",
    "total_cost",
    "cost",
    "eval_count",
    "prompt_eval_count",
    "id",
    "model",
    "model_name",
    "finish_reason",
    "done_reason",
)
