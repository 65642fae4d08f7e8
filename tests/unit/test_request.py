# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Invocation parameters, valid and invalid, as request attributes."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.context import attach, detach
from opentelemetry.util.genai._conversation_context import with_conversation_id

from opentelemetry_instrumentation_modelforge.providers import PROVIDERS, Provider
from support.request_values import request_with

ANY_PROVIDER = Provider()

TYPES: dict[str, Any] = {
    "gen_ai.request.temperature": float,
    "gen_ai.request.top_p": float,
    "gen_ai.request.top_k": int,
    "gen_ai.request.max_tokens": int,
    "gen_ai.request.stop_sequences": tuple,
    "gen_ai.request.seed": int,
    "gen_ai.request.frequency_penalty": float,
    "gen_ai.request.presence_penalty": float,
    "gen_ai.request.choice.count": int,
    "gen_ai.request.reasoning.level": str,
    "gen_ai.request.previous_response.id": str,
    "openai.request.service_tier": str,
    "gen_ai.output.type": str,
    "gen_ai.conversation.id": str,
    "gen_ai.prompt.name": str,
    "gen_ai.prompt.version": str,
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
    "reasoning_effort",
    "reasoning",
    "previous_response_id",
    "service_tier",
    "response_format",
    "format",
    "response_mime_type",
    "modalities",
    "response_modalities",
    "options",
    "generation_config",
    "model_kwargs",
    "extra_body",
    "text",
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


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(PARAMETERS), ANYTHING, max_size=5),
    st.dictionaries(
        st.sampled_from(("thread_id", "session_id", "conversation_id", "lc_hub_repo", "lc_hub_commit_hash")), ANYTHING
    ),
    st.dictionaries(st.sampled_from(PARAMETERS), ANYTHING, max_size=3),
    st.sampled_from((ANY_PROVIDER, *PROVIDERS.values())),
)
@example({"temperature": 10**400}, {}, {}, ANY_PROVIDER)
@example({"max_tokens": 2**63}, {}, {}, ANY_PROVIDER)
@example({"top_k": 1e300}, {}, {}, ANY_PROVIDER)
def test_every_parameter_has_the_right_type_or_is_left_out(
    params: Any, metadata: Any, client: Any, provider: Provider
) -> None:
    for name, value in request_with(params, metadata=metadata, client=client).attributes(provider).items():
        assert type(value) is TYPES[name]
        if type(value) is int:
            # OTLP's integers have 64 bits.
            assert -(2**63) <= value < 2**63
        if type(value) is tuple:
            assert value
            assert all(type(item) is str for item in value)
    assert isinstance(provider.requested_model(params, client), str | None)
    assert isinstance(provider.requested_model(params, {}), str | None)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"temperature": 1}, {"gen_ai.request.temperature": 1.0}),
        ({"temperature": None}, {}),
        ({"temperature": True}, {}),
        ({"temperature": "hot"}, {}),
        ({"temperature": float("nan")}, {}),
        ({"top_k": 40}, {"gen_ai.request.top_k": 40}),
        ({"top_k": 40.0}, {"gen_ai.request.top_k": 40}),
        ({"top_k": 40.5}, {}),
        ({"num_predict": 9}, {"gen_ai.request.max_tokens": 9}),
        ({"num_predict": -1}, {}),
        ({"max_output_tokens": 9}, {"gen_ai.request.max_tokens": 9}),
        ({"max_tokens": 9.5}, {}),
        ({"stop": "a"}, {"gen_ai.request.stop_sequences": ("a",)}),
        ({"stop": []}, {}),
        ({"stop": ["a", 1]}, {"gen_ai.request.stop_sequences": ("a",)}),
        ({"candidate_count": 2}, {"gen_ai.request.choice.count": 2}),
        ({"n": 1}, {}),
        (
            {"model_kwargs": {"temperature": 0.5, "seed": 3}},
            {"gen_ai.request.temperature": 0.5, "gen_ai.request.seed": 3},
        ),
        ({"model_kwargs": {"temperature": 0.5}, "temperature": 0.25}, {"gen_ai.request.temperature": 0.25}),
        ({"model_kwargs": {"temperature": 0.5}, "temperature": None}, {"gen_ai.request.temperature": 0.5}),
        ({"reasoning_effort": "minimal"}, {"gen_ai.request.reasoning.level": "minimal"}),
        ({"reasoning_effort": 3}, {}),
        ({"previous_response_id": "resp_1"}, {"gen_ai.request.previous_response.id": "resp_1"}),
        ({"service_tier": "flex"}, {"openai.request.service_tier": "flex"}),
        ({"service_tier": "auto"}, {}),
        ({"format": "json"}, {"gen_ai.output.type": "json"}),
        ({"format": {"type": "object"}}, {"gen_ai.output.type": "json"}),
        ({"format": ""}, {}),
        ({"response_format": {"type": "text"}}, {"gen_ai.output.type": "text"}),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, {"gen_ai.output.type": "json"}),
        ({"response_mime_type": "application/json"}, {"gen_ai.output.type": "json"}),
        ({"response_mime_type": "text/x.enum"}, {}),
        ({"modalities": ["text", "audio"]}, {"gen_ai.output.type": "speech"}),
        ({"response_modalities": ["TEXT", "IMAGE"]}, {"gen_ai.output.type": "image"}),
        ({"modalities": ["text"]}, {"gen_ai.output.type": "text"}),
        ({"modalities": ["smell"]}, {}),
        ({"unheard_of": 1}, {}),
        ({}, {}),
    ],
)
def test_parameters(params: Any, expected: dict[str, Any]) -> None:
    attributes = request_with(params).attributes(ANY_PROVIDER)
    assert attributes == expected
    assert {type(value) for value in attributes.values()} == {type(value) for value in expected.values()}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"thread_id": "t-1", "session_id": "s-1"}, "t-1"),
        ({"session_id": "s-1", "conversation_id": "c-1"}, "s-1"),
        ({"conversation_id": 17}, "17"),
        ({"thread_id": UUID(int=5)}, "00000000-0000-0000-0000-000000000005"),
        ({"thread_id": "", "session_id": "s-1"}, "s-1"),
        ({"thread_id": ["t-1"]}, None),
        ({}, None),
    ],
)
def test_the_metadata_names_the_conversation(metadata: Any, expected: str | None) -> None:
    assert request_with(metadata=metadata).attributes(ANY_PROVIDER).get("gen_ai.conversation.id") == expected


@pytest.mark.parametrize("metadata", [{}, {"thread_id": "t-1"}])
def test_the_conversation_of_an_enclosing_agent_takes_precedence(metadata: Any) -> None:
    token = attach(with_conversation_id("conv-9"))
    try:
        attributes = request_with(metadata=metadata).attributes(ANY_PROVIDER)
    finally:
        detach(token)
    assert attributes == {"gen_ai.conversation.id": "conv-9"}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"lc_hub_repo": "summary"}, {"gen_ai.prompt.name": "summary"}),
        (
            {"lc_hub_owner": "acme", "lc_hub_repo": "summary", "lc_hub_commit_hash": "50442af1"},
            {"gen_ai.prompt.name": "summary", "gen_ai.prompt.version": "50442af1"},
        ),
        ({"lc_hub_commit_hash": "50442af1"}, {}),
        ({"lc_hub_repo": 3}, {}),
    ],
)
def test_the_metadata_names_the_prompt(metadata: Any, expected: dict[str, Any]) -> None:
    assert request_with(metadata=metadata).attributes(ANY_PROVIDER) == expected


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"model": "gpt-4o"}, "gpt-4o"),
        ({"model_name": "gpt-4o"}, "gpt-4o"),
        ({"model": "gpt-4o", "model_name": "other"}, "gpt-4o"),
        ({"model": 3}, None),
        ({"model": ""}, None),
        ({}, None),
    ],
)
def test_the_requested_model(params: Any, expected: str | None) -> None:
    assert ANY_PROVIDER.requested_model(params, {}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ada", "ada"),
        ("", ""),
        ("a\ud800", "a\ufffd"),
        (True, True),
        (7, 7),
        (0.5, 0.5),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (["a", "b"], ("a", "b")),
        (("a", "\ud800"), ("a", "\ufffd")),
        ([1, 2], (1, 2)),
        ([HTTPStatus.OK], (200,)),
        ([True, False], (True, False)),
        ([1, True], None),
        ([1, 2.5], None),
        (["a", None], None),
        (["a", ["b"]], None),
        ([], None),
        ({"a": 1}, None),
        (b"ada", None),
        (2**63, None),
        (float("inf"), None),
        (object(), None),
        (None, None),
    ],
)
def test_an_entry_of_the_metadata_is_copied_or_left_out(value: Any, expected: Any) -> None:
    attributes = request_with(metadata={"user_id": value, "tenant": "acme"}).metadata_attributes(("user_id",))
    assert attributes == ({} if expected is None else {"user_id": expected})
    assert type(attributes.get("user_id")) is type(expected)
    if isinstance(expected, tuple):
        assert [type(entry) for entry in attributes["user_id"]] == [type(entry) for entry in expected]


def test_only_requested_entries_are_copied_from_the_metadata() -> None:
    metadata = {"user_id": "ada", "tenant": "acme", "tags": "no"}
    request = request_with(metadata=metadata, tags=["a", "b"], run_name="chat")
    assert request.metadata_attributes(()) == {}
    assert request.metadata_attributes(("tenant", "absent")) == {"tenant": "acme"}
    assert request.metadata_attributes(("user_id", "tags", "run_name")) == {
        "user_id": "ada",
        "modelforge.tags": ("a", "b"),
        "modelforge.run_name": "chat",
    }


@pytest.mark.parametrize(("tags", "run_name"), [(None, None), ([], ""), ([3], 3)])
def test_a_run_without_tags_and_name_has_none(tags: Any, run_name: Any) -> None:
    request = request_with(tags=tags, run_name=run_name)
    assert request.metadata_attributes(("user_id", "tags", "run_name")) == {}


def test_a_hook_receives_the_parameters_and_the_runs_name_tags_and_metadata() -> None:
    request = request_with(
        {"temperature": 0.5, "stop": None}, metadata={"user_id": "ada"}, tags=["beta"], run_name="answer"
    )
    assert request.hook_parameters() == {
        "metadata": {"user_id": "ada"},
        "tags": ["beta"],
        "run_name": "answer",
        "temperature": 0.5,
        "stop": None,
    }
    assert request_with().hook_parameters() == {"metadata": {}, "tags": None, "run_name": None}


def test_a_parameter_of_the_request_takes_precedence_over_the_runs_metadata() -> None:
    request = request_with({"metadata": {"order": "7"}}, metadata={"user_id": "ada"})
    assert request.hook_parameters()["metadata"] == {"order": "7"}


def test_a_hooks_additions_to_the_parameters_do_not_change_the_request() -> None:
    request = request_with({"temperature": 0.5})
    request.hook_parameters()["seed"] = 3
    assert request.params == {"temperature": 0.5}
    assert request.attributes(ANY_PROVIDER) == {"gen_ai.request.temperature": 0.5}


def test_later_parameters_of_a_client_take_precedence_over_earlier_ones() -> None:
    class TwoMappings(Provider):
        def request_parameters(self, params: Any, client: Any) -> Any:
            return ({"seed": 1, "top_k": 2}, {"seed": 3, "top_k": None}, params, client)

    request = request_with({"temperature": 1}, client={"temperature": 0.25})
    assert request.attributes(TwoMappings()) == {
        "gen_ai.request.seed": 3,
        "gen_ai.request.top_k": 2,
        "gen_ai.request.temperature": 0.25,
    }


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        request_with().streaming = True  # type: ignore[misc]
