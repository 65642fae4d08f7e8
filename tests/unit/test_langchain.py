# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""LangChain's finished results, valid and invalid, as its integrations fill them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation

from opentelemetry_instrumentation_modelforge.providers.langchain import is_of_another_run, read_result
from opentelemetry_instrumentation_modelforge.response import Response, Usage
from support.answers import KEYS

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(2**70), 2**63, math.nan, math.inf])
    | st.floats()
    | st.text(max_size=5)
    | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=10,
)
MAPPING = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=8)
GENERATION = ANYTHING | st.builds(
    SimpleNamespace,
    generation_info=MAPPING | ANYTHING,
    message=ANYTHING
    | st.builds(SimpleNamespace, response_metadata=MAPPING | ANYTHING, usage_metadata=MAPPING | ANYTHING, id=ANYTHING),
)


@given(st.lists(GENERATION, max_size=3), MAPPING | ANYTHING)
@example([], {"token_usage": {"prompt_tokens": 2**63, "completion_tokens": 1}})
@example([], {"token_usage": {"cost": 10**400, "prompt_tokens": 1}})
def test_every_value_of_an_answer_has_the_right_type_or_is_left_out(generations: list[Any], llm_output: Any) -> None:
    response = read_result(generations, llm_output)
    assert type(response.id) in (str, type(None))
    assert type(response.model) in (str, type(None))
    assert type(response.finish_reasons) is tuple
    assert all(type(reason) is str and reason for reason in response.finish_reasons)
    assert type(response.cached) is bool
    assert response.cost is None or (type(response.cost) is float and math.isfinite(response.cost))
    if response.usage is not None:
        for field in Usage._fields:
            count = getattr(response.usage, field)
            assert count is None or (type(count) is int and 0 <= count < 2**63)


def chat(content: str = "Hi", info: dict[str, Any] | None = None, **fields: Any) -> ChatGeneration:
    return ChatGeneration(message=AIMessage(content, **fields), generation_info=info)


def test_nothing_is_read_from_nothing() -> None:
    assert read_result([], None) == Response()
    assert read_result([chat()], {}) == Response()
    assert read_result([Generation(text="Hi")], None) == Response()


def test_openai() -> None:
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 2},
    }
    output = {"token_usage": usage, "model_name": "gpt-4o-mini-2024-07-18", "id": "chatcmpl-1"}
    assert read_result([chat(info={"finish_reason": "stop"})], output) == Response(
        id="chatcmpl-1",
        model="gpt-4o-mini-2024-07-18",
        finish_reasons=("stop",),
        usage=Usage(
            input_tokens=11,
            output_tokens=7,
            cache_read_input_tokens=4,
            reasoning_output_tokens=3,
            audio_input_tokens=1,
            audio_output_tokens=2,
        ),
    )


LANGCHAINS_COUNT: Any = {
    "input_tokens": 5,
    "output_tokens": 6,
    "total_tokens": 11,
    "input_token_details": {"cache_read": 1, "cache_creation": 2, "audio": 4},
    "output_token_details": {"reasoning": 3, "audio": 5},
}


def test_langchains_own_count_has_every_kind_of_tokens() -> None:
    assert read_result([chat(usage_metadata=LANGCHAINS_COUNT)], None).usage == Usage(
        input_tokens=5,
        output_tokens=6,
        cache_read_input_tokens=1,
        cache_write_input_tokens=2,
        reasoning_output_tokens=3,
        audio_input_tokens=4,
        audio_output_tokens=5,
    )


def test_the_providers_own_count_takes_precedence_over_langchains() -> None:
    output = {"token_usage": {"prompt_tokens": 9, "completion_tokens": 8}}
    assert read_result([chat(usage_metadata=LANGCHAINS_COUNT)], output).usage == Usage(9, 8)


@pytest.mark.parametrize("counts", [{}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": "?"}])
def test_langchains_count_is_used_if_the_providers_is_empty(counts: dict[str, Any]) -> None:
    usage = read_result([chat(usage_metadata=LANGCHAINS_COUNT)], {"token_usage": counts}).usage
    assert usage is not None
    assert usage[:2] == (5, 6)


def test_ollamas_counts_are_in_its_last_line() -> None:
    info = {"prompt_eval_count": 11, "eval_count": 7, "done_reason": "length", "model": "llama3"}
    response = read_result([chat(info=info)], None)
    assert response.usage == Usage(input_tokens=11, output_tokens=7)
    assert response.finish_reasons == ("length",)
    assert response.model == "llama3"


def test_ollama_omits_the_count_of_a_prompt_it_had_already_evaluated() -> None:
    assert read_result([chat(info={"eval_count": 7})], None).usage == Usage(output_tokens=7)


@pytest.mark.parametrize(
    "counts", [{"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": None, "completion_tokens": None}, {}]
)
def test_a_count_of_zero_tokens_is_not_a_count(counts: dict[str, Any]) -> None:
    assert read_result([chat()], {"token_usage": counts}).usage is None


def test_openrouters_price_is_read() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0012}
    assert read_result([chat()], {"token_usage": usage}).cost == 0.0012


@pytest.mark.parametrize("cost", [-1, True, "?", math.inf, math.nan, None, 10**400], ids=lambda cost: str(cost)[:8])
def test_a_value_that_is_not_a_price_is_left_out(cost: Any) -> None:
    assert read_result([chat()], {"token_usage": {"prompt_tokens": 1, "cost": cost}}).cost is None


def test_a_cached_answer_has_no_usage_and_no_price() -> None:
    metadata: Any = {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11, "total_cost": 0}
    response = read_result([chat(usage_metadata=metadata)], {"token_usage": {"cost": 1.0}})
    assert response.cached
    assert response.usage is None
    assert response.cost is None


def test_every_choice_has_a_finish_reason_and_the_first_has_the_other_fields() -> None:
    generations = [
        chat(response_metadata={"finish_reason": "stop", "model_name": "m"}),
        chat(response_metadata={"finish_reason": "length", "model_name": "other"}),
        chat(),
    ]
    response = read_result(generations, None)
    assert response.finish_reasons == ("stop", "length")
    assert response.model == "m"


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [("chatcmpl-1", "chatcmpl-1"), ("run-0123", None), ("run--0123-0", None), ("lc_run--0123", None), (None, None)],
)
def test_an_id_generated_by_langchain_is_not_a_response_id(identifier: str | None, expected: str | None) -> None:
    assert read_result([chat(id=identifier)], None).id == expected


def test_a_streamed_answer_is_read_like_any_other() -> None:
    chunk = ChatGenerationChunk(message=AIMessageChunk("Hi"), generation_info={"finish_reason": "stop"})
    assert read_result([chunk], None).finish_reasons == ("stop",)


def test_service_tier_and_fingerprint_are_read() -> None:
    output = {"service_tier": "flex", "system_fingerprint": "fp_1"}
    response = read_result([chat(response_metadata={"service_tier": "default"})], output)
    assert (response.service_tier, response.system_fingerprint) == ("flex", "fp_1")
    response = read_result([chat(response_metadata={"service_tier": "default"})], None)
    assert (response.service_tier, response.system_fingerprint) == ("default", None)


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        (f"run-{UUID(int=1)}-0", False),
        (f"run-{UUID(int=2)}-0", True),
        (f"lc_run--{UUID(int=2)}", True),
        ("chatcmpl-1", False),
        (None, False),
    ],
)
def test_an_answer_with_the_id_of_another_run_is_from_the_cache(identifier: str | None, expected: bool) -> None:
    assert is_of_another_run([chat(id=identifier)], UUID(int=1)) is expected


@pytest.mark.parametrize("generations", [[], [None], [Generation(text="Hi")]])
def test_an_answer_without_a_message_belongs_to_this_run(generations: list[Any]) -> None:
    assert not is_of_another_run(generations, UUID(int=1))
