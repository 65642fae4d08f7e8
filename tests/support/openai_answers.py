# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Answers of OpenAI's two APIs in the form that a server sends."""

from __future__ import annotations

from typing import Any

from opentelemetry_instrumentation_modelforge.providers.openai_api import OpenAIAnswer
from opentelemetry_instrumentation_modelforge.response import Response

TOKENS = {"prompt_tokens": 30, "completion_tokens": 8, "total_tokens": 38}


def chunk(finish_reason: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": "Hi"}, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-31",
        "object": "chat.completion.chunk",
        "model": "model-2026",
        "choices": [choice],
        "usage": None,
        **fields,
    }


def completion(**fields: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Hi"}
    return {
        "id": "chatcmpl-32",
        "object": "chat.completion",
        "created": 1,
        "model": "model-2026",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": TOKENS,
        **fields,
    }


def response(**fields: Any) -> dict[str, Any]:
    return {
        "id": "resp_33",
        "object": "response",
        "status": "completed",
        "error": None,
        "model": "model-2026",
        "service_tier": "default",
        "output": [{"type": "message", "content": []}],
        "usage": {
            "input_tokens": 30,
            "output_tokens": 8,
            "total_tokens": 38,
            "input_tokens_details": {"cached_tokens": 12},
            "output_tokens_details": {"reasoning_tokens": 5},
        },
        **fields,
    }


def read(*bodies: object) -> Response:
    answer = OpenAIAnswer()
    for body in bodies:
        answer.add(body)
    return answer.response((), None)
