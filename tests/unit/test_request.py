"""Invocation parameters, good and bad, as request attributes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opentelemetry_instrumentation_modelforge.request import request_attributes, requested_model

TYPES: dict[str, Any] = {
    "gen_ai.request.temperature": float,
    "gen_ai.request.top_p": float,
    "gen_ai.request.top_k": float,
    "gen_ai.request.max_tokens": int,
    "gen_ai.request.stop_sequences": tuple,
    "gen_ai.request.seed": int,
    "gen_ai.request.frequency_penalty": float,
    "gen_ai.request.presence_penalty": float,
    "gen_ai.request.choice.count": int,
    "gen_ai.output.type": str,
    "gen_ai.conversation.id": str,
}
PARAMETERS = (
    "temperature",
    "top_p",
    "top_k",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "num_predict",
    "stop",
    "stop_sequences",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "n",
    "candidate_count",
    "response_format",
    "format",
    "response_mime_type",
    "modalities",
    "response_modalities",
    "options",
    "generation_config",
    "model_kwargs",
    "model",
    "model_name",
)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**70), 2**63])
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PARAMETERS), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.none() | st.dictionaries(st.sampled_from(PARAMETERS), ANYTHING),
    st.none() | st.dictionaries(st.sampled_from(("thread_id", "session_id", "conversation_id")), ANYTHING),
)
@example({"temperature": 10**400}, None)
@example({"max_tokens": 2**63}, None)
def test_whatever_is_asked_is_of_the_right_type_or_left_out(params: Any, metadata: Any) -> None:
    for name, value in request_attributes(params, metadata).items():
        assert type(value) is TYPES[name]
        if type(value) is int:
            # What OTLP can carry.
            assert -(2**63) <= value < 2**63
        if type(value) is tuple:
            assert value
            assert all(type(item) is str for item in value)
    assert isinstance(requested_model(params), str | None)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"temperature": 1}, {"gen_ai.request.temperature": 1.0}),
        ({"temperature": None}, {}),
        ({"temperature": True}, {}),
        ({"temperature": "hot"}, {}),
        ({"top_k": 40}, {"gen_ai.request.top_k": 40.0}),
        ({"num_predict": 9}, {"gen_ai.request.max_tokens": 9}),
        ({"max_output_tokens": 9}, {"gen_ai.request.max_tokens": 9}),
        ({"max_tokens": 9.5}, {}),
        ({"stop": "a"}, {"gen_ai.request.stop_sequences": ("a",)}),
        ({"stop": []}, {}),
        ({"stop": ["a", 1]}, {"gen_ai.request.stop_sequences": ("a",)}),
        ({"candidate_count": 2}, {"gen_ai.request.choice.count": 2}),
        ({"n": 1}, {}),
        ({"options": {"temperature": 0.5, "seed": 3}}, {"gen_ai.request.temperature": 0.5, "gen_ai.request.seed": 3}),
        ({"options": {"temperature": 0.5}, "temperature": 0.25}, {"gen_ai.request.temperature": 0.25}),
        ({"generation_config": {"top_p": 0.5}}, {"gen_ai.request.top_p": 0.5}),
        ({"format": "json"}, {"gen_ai.output.type": "json"}),
        ({"format": {"type": "object"}}, {"gen_ai.output.type": "json"}),
        ({"format": ""}, {}),
        ({"response_format": {"type": "text"}}, {"gen_ai.output.type": "text"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"gen_ai.output.type": "json"}),
        ({"response_mime_type": "application/json"}, {"gen_ai.output.type": "json"}),
        ({"response_mime_type": "text/x.enum"}, {}),
        ({"modalities": ["text", "audio"]}, {"gen_ai.output.type": "speech"}),
        ({"response_modalities": ["TEXT", "IMAGE"]}, {"gen_ai.output.type": "image"}),
        ({"unheard_of": 1}, {}),
        (None, {}),
    ],
)
def test_parameters(params: Any, expected: dict[str, Any]) -> None:
    assert request_attributes(params, None) == expected


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"model": "gpt-4o"}, "gpt-4o"),
        ({"model_name": "gpt-4o"}, "gpt-4o"),
        ({"model": "models/gemini-2.5-flash"}, "gemini-2.5-flash"),
        ({"model": 3}, None),
        ({"model": ""}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_model_that_is_asked(params: Any, expected: str | None) -> None:
    assert requested_model(params) == expected
