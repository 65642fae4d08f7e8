# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Answers of OpenAI's two APIs, whole and in chunks, from OpenAI and compatible servers."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk
from openai.types.chat import ChatCompletion

from opentelemetry_instrumentation_modelforge.providers.openai_api import OpenAIAnswer
from opentelemetry_instrumentation_modelforge.response import Response, Usage
from support.openai_answers import TOKENS, chunk, completion, read, response


def test_a_whole_answer() -> None:
    body = completion(service_tier="flex", system_fingerprint="fp_1", usage={**TOKENS, "cost": 0.5})
    expected = Response(
        id="chatcmpl-32",
        model="model-2026",
        finish_reasons=("stop",),
        usage=Usage(30, 8),
        cost=0.5,
        service_tier="flex",
        system_fingerprint="fp_1",
        api_type="chat_completions",
    )
    assert read(body) == expected
    assert read(ChatCompletion.construct(**copy.deepcopy(body))) == expected


def test_text_in_place_of_a_name_is_not_recorded() -> None:
    text = "The patient's name is Ann. " * 100
    choices = [{"index": 0, "message": {}, "finish_reason": text}]
    answer = read(completion(id=text, model=text, choices=choices, service_tier=text, system_fingerprint=text))
    assert answer == Response(usage=Usage(30, 8), api_type="chat_completions")


def test_every_choice_has_its_reason() -> None:
    choices = [{"index": index, "message": {}, "finish_reason": reason} for index, reason in enumerate("ab")]
    assert read(completion(choices=choices[::-1])).finish_reasons == ("a", "b")
    for choice in choices:
        del choice["index"]
    assert read(completion(choices=choices)).finish_reasons == ("a", "b")


def test_the_last_of_a_streams_increasing_counts_is_used() -> None:
    counts = [{"prompt_tokens": 30, "completion_tokens": n, "total_tokens": 30 + n} for n in (1, 2, 3)]
    streamed = read(*(chunk(usage=count) for count in counts), chunk("stop", usage=counts[-1]))
    assert streamed.usage == Usage(30, 3)
    assert streamed.finish_reasons == ("stop",)


@pytest.mark.parametrize(
    "last",
    [
        pytest.param({}, id="null"),
        pytest.param({"usage": {}}, id="empty"),
        pytest.param({"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}, id="zeros"),
        pytest.param({"usage": "none"}, id="text"),
        pytest.param({"usage": {"cost": 0.5}}, id="price alone"),
    ],
)
def test_a_chunk_without_tokens_does_not_reset_the_count(last: dict[str, Any]) -> None:
    assert read(chunk(usage=TOKENS), chunk("stop"), chunk(choices=[], **last)).usage == Usage(30, 8)


def test_a_price_may_follow_or_precede_the_tokens() -> None:
    assert read(chunk(usage=TOKENS), chunk(choices=[], usage={"cost": 0.5})).cost == 0.5
    assert read(chunk(usage={**TOKENS, "cost": 0.5}), chunk(choices=[], usage=TOKENS)).cost == 0.5


@pytest.mark.parametrize(("first", "last", "cost"), [(0.5, None, 0.5), (0.5, 0, 0.5), (0.25, 0.5, 0.5), (None, 0, 0)])
def test_the_last_valid_price_is_used(first: float | None, last: float | None, cost: float) -> None:
    assert read(*(chunk(usage={**TOKENS, "cost": price}) for price in (first, last))).cost == cost


def test_the_prompt_may_be_counted_in_the_first_chunk_and_the_completion_in_the_last() -> None:
    first = {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 12}}
    streamed = read(chunk(usage=first), chunk("stop", usage={"completion_tokens": 8}))
    assert streamed.usage == Usage(30, 8, 12)


def test_the_completion_may_be_counted_before_the_prompt() -> None:
    answered, asked = {"prompt_tokens": 0, "completion_tokens": 8}, {"prompt_tokens": 30, "completion_tokens": 0}
    assert read(chunk("stop", usage=answered), chunk(choices=[], usage=asked)).usage == Usage(30, 8)
    assert read(chunk("stop", usage=asked)).usage == Usage(30, 0)


def test_the_last_chunk_may_omit_the_cache_counts_of_the_first() -> None:
    first = {"prompt_tokens": 30, "prompt_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 5}}
    assert read(chunk(usage=first), chunk("stop", usage=TOKENS)).usage == Usage(30, 8, 12, 5)
    other = {**first, "prompt_tokens": 29}
    assert read(chunk(usage=other), chunk("stop", usage=TOKENS)).usage == Usage(30, 8)


def test_values_that_a_stream_repeats_are_recorded_once() -> None:
    first = {"id": "", "model": "", "choices": [], "object": "chat.completion.chunk", "prompt_filter_results": []}
    streamed = read(first, chunk(service_tier="auto"), chunk("stop", service_tier="default"), chunk("stop"))
    assert streamed == Response(
        id="chatcmpl-31",
        model="model-2026",
        finish_reasons=("stop",),
        service_tier="default",
        api_type="chat_completions",
    )


def test_a_stream_of_two_choices_has_the_last_reason_of_each() -> None:
    streamed = read(chunk(), chunk(index=1), chunk("length", index=1), chunk("tool_calls"), chunk("stop"))
    assert streamed.finish_reasons == ("stop", "length")


def test_groq_reports_a_streams_usage_in_its_own_field() -> None:
    streamed = read(chunk(x_groq={"id": "req_1"}), chunk("stop", x_groq={"id": "req_1", "usage": TOKENS}))
    assert streamed.usage == Usage(30, 8)


def test_groq_reports_why_it_stopped_a_stream_in_its_own_field() -> None:
    streamed = read(chunk(), chunk(x_groq={"id": "req_1", "error": "over capacity, a secret"}))
    assert (streamed.error, streamed.finish_reasons) == ("error_response", ())


def test_a_price_may_be_reported_alongside_the_usage() -> None:
    assert read(chunk("stop"), chunk(choices=[], usage=TOKENS), {"choices": [], "cost": "0.25"}).cost == 0.25
    assert read(completion(cost=0.25, usage={**TOKENS, "cost": 0.5})).cost == 0.5


def test_a_finish_reason_may_report_that_the_generation_failed() -> None:
    assert read(chunk(), chunk("error")).error == "error_response"
    for reason in ("network_error", "insufficient_system_resource"):
        failed = read(chunk(), chunk(reason), chunk(choices=[], usage=TOKENS))
        assert (failed.error, failed.finish_reasons, failed.usage) == (reason, (reason,), Usage(30, 8))


def test_a_choice_without_a_finish_reason_may_have_an_error() -> None:
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": None, "error": {"code": 502}}
    assert read(completion(choices=[choice])).error == "502"


def test_moonshot_reports_a_streams_usage_in_the_choice() -> None:
    last = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": {**TOKENS, "cached_tokens": 12}}
    assert read(chunk(), chunk(choices=[last])).usage == Usage(30, 8, 12)


def test_llama_cpp_counts_the_tokens_it_reused() -> None:
    timings = {"cache_n": 18, "prompt_n": 12, "predicted_n": 8}
    assert read(chunk(), chunk("stop", timings=timings)).usage == Usage(30, 8, 18)
    assert read(chunk("stop", timings=timings), chunk(choices=[], usage=TOKENS)).usage == Usage(30, 8, 18)
    assert read(chunk("stop", timings={"prompt_n": 12, "predicted_n": 8})).usage is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "rate_limit_exceeded", "message": "a secret"}, "rate_limit_exceeded"),
        ({"code": 502, "message": "a secret"}, "502"),
        ({"code": None, "type": "invalid_request_error"}, "invalid_request_error"),
        ({"code": "for user 81723 at 12:04"}, "error_response"),
        ("a secret", "error_response"),
    ],
)
def test_an_answer_with_status_200_may_be_an_error(error: object, expected: str) -> None:
    assert read({"error": error, "user_id": "u"}).error == expected
    choice = {"index": 0, "message": {}, "finish_reason": "error", "error": error}
    failed = read(completion(choices=[choice]))
    assert (failed.error, failed.finish_reasons) == (expected, ("error",))


@pytest.mark.parametrize("choices", [None, []])
def test_an_answer_without_choices_is_not_complete(choices: object) -> None:
    empty = read(completion(choices=choices))
    assert (empty.error, empty.usage) == ("empty_response", Usage(30, 8))


def test_a_streams_last_chunk_has_no_choices() -> None:
    assert read(chunk("stop"), chunk(choices=[], usage=TOKENS)).error is None


@pytest.mark.parametrize(
    ("fields", "reasons", "error"),
    [
        pytest.param({}, ("stop",), None, id="completed"),
        pytest.param({"output": [{"type": "reasoning"}, {"type": "function_call"}]}, ("tool_calls",), None, id="call"),
        pytest.param({"output": [{"type": "custom_tool_call"}]}, ("tool_calls",), None, id="custom tool"),
        pytest.param(
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            ("length",),
            None,
            id="length",
        ),
        pytest.param(
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            ("content_filter",),
            None,
            id="filter",
        ),
        pytest.param(
            {"status": "failed", "error": {"code": "server_error", "message": "a secret"}},
            ("error",),
            "server_error",
            id="failed",
        ),
        pytest.param({"status": "failed"}, ("error",), "error_response", id="failed without a reason"),
        pytest.param({"status": "cancelled"}, ("error",), None, id="cancelled"),
        pytest.param({"status": "in_progress"}, (), None, id="left before its end"),
    ],
)
def test_the_responses_api(fields: dict[str, Any], reasons: tuple[str, ...], error: str | None) -> None:
    expected = Response(
        id="resp_33",
        model="model-2026",
        finish_reasons=reasons,
        usage=Usage(30, 8, 12, None, 5),
        service_tier="default",
        error=error,
        api_type="responses",
    )
    body = response(**fields)
    assert read(body) == expected
    created = {"type": "response.created", "response": response(status="in_progress", usage=None, service_tier="auto")}
    delta = {"type": "response.output_text.delta", "item_id": "msg_1", "delta": "Hi"}
    assert read(created, delta, {"type": f"response.{body['status']}", "response": body}) == expected


def test_an_error_event_ends_a_stream_of_the_responses_api() -> None:
    created = {"type": "response.created", "response": response(status="in_progress", usage=None)}
    failed = read(created, {"type": "error", "code": "rate_limit_exceeded", "message": "a secret"})
    assert (failed.id, failed.error, failed.finish_reasons) == ("resp_33", "rate_limit_exceeded", ())


KEYS = ("id", "model", "choices", "usage", "error", "object", "type", "response", "output", "index", "finish_reason")
KEYS += ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "cached_tokens", "cost")
KEYS += ("x_groq", "timings", "prompt_n", "cache_n", "predicted_n", "status", "incomplete_details", "reason", "code")
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -(2**70), 2**63, "completed", "incomplete", "response", "chat.completion", "\ud800"])
    | st.builds(object)
    | st.builds(SimpleNamespace, usage=st.just({"prompt_tokens": 1})),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=12,
)


@given(st.lists(ANYTHING, max_size=4))
def test_every_value_of_an_answer_has_the_right_type_or_is_left_out(bodies: list[Any]) -> None:
    answered = read(*bodies)
    for value in (answered.id, answered.model, answered.service_tier, answered.system_fingerprint, answered.error):
        assert type(value) in (str, type(None))
        (value or "").encode()
    assert all(type(reason) is str and reason for reason in answered.finish_reasons)
    assert answered.cost is None or (type(answered.cost) is float and math.isfinite(answered.cost))
    assert all(count is None or (type(count) is int and 0 <= count < 2**63) for count in answered.usage or ())


def langchain_chunk(finish_reason: str | None = None, **usage: Any) -> ChatGenerationChunk:
    info = {"finish_reason": finish_reason, "model_name": "model-2026"} if finish_reason else None
    return ChatGenerationChunk(message=AIMessageChunk("Hi", usage_metadata=usage or None), generation_info=info)


def test_langchains_chunks_are_read_if_there_are_no_raw_ones() -> None:
    answer = OpenAIAnswer()
    count = {"input_tokens": 30, "total_tokens": 38, "input_token_details": {"cache_read": 12}}
    chunks = [
        langchain_chunk(output_tokens=4, **count),
        langchain_chunk("stop", output_tokens=8, **count),
        langchain_chunk("stop"),
    ]
    for streamed in chunks:
        answer.add_chunk(streamed)
    merged = chunks[0] + chunks[1] + chunks[2]
    assert merged.generation_info is not None
    assert merged.generation_info["finish_reason"] == "stopstop"
    assert answer.response([merged], None) == Response(
        model="model-2026", finish_reasons=("stop",), usage=Usage(30, 8, 12)
    )


def test_langchains_chunks_are_ignored_if_there_are_raw_ones() -> None:
    answer = OpenAIAnswer()
    answer.add(chunk("stop", usage=TOKENS))
    answer.add_chunk(langchain_chunk("length", input_tokens=1, output_tokens=1, total_tokens=2))
    assert (answer.response([], None).usage, answer.response([], None).finish_reasons) == (Usage(30, 8), ("stop",))


def test_langchains_result_is_the_last_resort() -> None:
    answer = OpenAIAnswer()
    output = {"token_usage": TOKENS, "model_name": "model-2026", "id": "chatcmpl-32", "service_tier": "flex"}
    result = [ChatGeneration(message=AIMessage("Hi"), generation_info={"finish_reason": "stop"})]
    assert answer.response(result, output) == Response(
        id="chatcmpl-32", model="model-2026", finish_reasons=("stop",), usage=Usage(30, 8), service_tier="flex"
    )


def test_an_answer_from_a_cache_has_no_usage_and_no_cost() -> None:
    usage: Any = {"input_tokens": 30, "output_tokens": 8, "total_tokens": 38, "total_cost": 0}
    result = [ChatGeneration(message=AIMessage("Hi", usage_metadata=usage))]
    assert OpenAIAnswer().response(result, {"token_usage": {**TOKENS, "cost": 1}}) == Response(cached=True)


# --- Answers of other calls in the same context ---


def test_answers_to_the_applications_own_client_are_not_attributed_to_the_call() -> None:
    own, others = object(), object()
    answer = OpenAIAnswer({"root_client": own, "root_async_client": object()})
    answer.add(completion(id="chatcmpl-1"), own)
    answer.add(completion(id="chatcmpl-2", usage={**TOKENS, "completion_tokens": 900}), others)
    answered = answer.response((), None)
    assert (answered.id, answered.usage) == ("chatcmpl-1", Usage(30, 8))


@pytest.mark.parametrize("name", ["root_client", "root_async_client"])
def test_answers_to_each_client_of_the_model_are_accepted(name: str) -> None:
    own = object()
    answer = OpenAIAnswer({name: own})
    answer.add(completion(), own)
    assert answer.response((), None).usage == Usage(30, 8)


@pytest.mark.parametrize("name", ["client", "async_client"])
def test_answers_to_a_client_that_the_application_gave_the_model_are_accepted(name: str) -> None:
    own = object()
    answer = OpenAIAnswer({"root_client": object(), name: SimpleNamespace(_client=own)})
    answer.add(completion(), own)
    assert answer.response((), None).usage == Usage(30, 8)


def test_any_client_is_accepted_if_the_models_client_is_unknown() -> None:
    answer = OpenAIAnswer({})
    answer.add(completion(), object())
    assert answer.response((), None).usage == Usage(30, 8)


@pytest.mark.parametrize("kind", ["list", "file", "model", "batch", "upload", "vector_store", "transcription"])
def test_an_answer_of_another_api_is_not_attributed_to_the_call(kind: str) -> None:
    embeddings = {"object": kind, "model": "text-embedding-3-small", "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    assert read(embeddings, completion()) == read(completion(), embeddings) == read(completion())
    assert read(embeddings) == Response()
