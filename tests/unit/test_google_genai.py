# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Gemini's answers as the client's own protobuf messages, and the parameters that its client sends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from google.ai.generativelanguage_v1beta.types import GenerateContentRequest, GenerateContentResponse
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.ai import add_usage
from langchain_core.outputs import ChatGeneration
from langchain_google_genai import ChatGoogleGenerativeAI, Modality
from langchain_google_genai import chat_models as integration

from opentelemetry_instrumentation_modelforge.providers.google_genai import GoogleGenAI
from opentelemetry_instrumentation_modelforge.response import Response, Usage
from support.request_values import request_with

GOOGLE = GoogleGenAI()
MODEL = "gemini-2.5-pro-002"


def message(
    text: str | None = "Salut", reason: str | None = None, *, model: str = MODEL, **usage: Any
) -> GenerateContentResponse:
    """Return a response, or a chunk, with one candidate, or with none if ``text`` is None."""
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}} | (
        {"finish_reason": reason} if reason else {}
    )
    return GenerateContentResponse(
        candidates=[] if text is None else [candidate],
        model_version=model,
        **({"usage_metadata": usage} if usage else {}),
    )


def read(*messages: GenerateContentResponse) -> Response:
    answer = GOOGLE.answer()
    for sent in messages:
        answer.add(sent)
    return answer.response((), None)


def counts(prompt: int = 0, answer: int = 0, total: int | None = None, **others: Any) -> dict[str, Any]:
    """Return a usage_metadata whose default total is the sum of the parts."""
    return {
        "prompt_token_count": prompt,
        "candidates_token_count": answer,
        "total_token_count": prompt + answer if total is None else total,
        **others,
    }


def test_an_answer_has_its_model_finish_reason_and_tokens() -> None:
    assert read(message(reason="MAX_TOKENS", **counts(31, 8))) == Response(
        model=MODEL, finish_reasons=("MAX_TOKENS",), usage=Usage(31, 8)
    )


def test_the_usage_of_a_stream_is_its_last_count() -> None:
    response = read(
        message("Sa", **counts(31, 3)), message("lu", **counts(31, 5)), message("t", "STOP", **counts(29, 8))
    )
    assert response == Response(model=MODEL, finish_reasons=("STOP",), usage=Usage(29, 8))


@pytest.mark.parametrize("last", [message("t", "STOP"), message("t", "STOP", prompt_token_count=0)])
def test_a_last_chunk_without_counts_keeps_those_before_it(last: GenerateContentResponse) -> None:
    assert read(message("Salu", **counts(31, 5)), last).usage == Usage(31, 5)


def test_a_finish_reason_repeated_in_every_chunk_is_recorded_once() -> None:
    chunks = [message("a", "STOP"), message("b", "STOP"), message("c", "SAFETY"), message(None, **counts(4, 3))]
    assert read(*chunks).finish_reasons == ("SAFETY",)


def test_each_candidate_has_its_own_finish_reason() -> None:
    def chunk(*candidates: tuple[int, int]) -> GenerateContentResponse:
        return GenerateContentResponse(candidates=[{"index": i, "finish_reason": reason} for i, reason in candidates])

    assert read(chunk((1, 2), (0, 0)), chunk((0, 1))).finish_reasons == ("STOP", "MAX_TOKENS")


def test_a_finish_reason_unknown_to_the_client_is_its_number() -> None:
    raw = GenerateContentResponse(candidates=[{"index": 0}])
    raw._pb.candidates[0].finish_reason = 4711
    assert read(raw).finish_reasons == ("4711",)


def test_a_blocked_prompt_is_a_finish_reason() -> None:
    blocked = message(None, **counts(12))
    blocked.prompt_feedback = {"block_reason": "BLOCKLIST"}
    assert read(blocked) == Response(model=MODEL, finish_reasons=("BLOCKLIST",), usage=Usage(12, 0))


def test_a_chunk_with_the_counts_keeps_the_reason_of_a_block() -> None:
    blocked = message(None)
    blocked.prompt_feedback = {"block_reason": "PROHIBITED_CONTENT"}
    assert read(blocked, message(None, **counts(12))) == Response(
        model=MODEL, finish_reasons=("PROHIBITED_CONTENT",), usage=Usage(12, 0)
    )


def test_thoughts_are_output() -> None:
    response = read(message(reason="STOP", **counts(20, 6, total=66, thoughts_token_count=40)))
    assert response.usage == Usage(20, 46, reasoning_output_tokens=40)


@pytest.mark.parametrize("tool_use", [{}, {"tool_use_prompt_token_count": 110}], ids=["total", "field"])
def test_tokens_of_tool_use_are_input(tool_use: dict[str, int]) -> None:
    response = read(message(reason="STOP", **counts(20, 6, total=146, thoughts_token_count=10, **tool_use)))
    assert response.usage == Usage(130, 16, reasoning_output_tokens=10)


def test_the_total_shows_whether_the_answers_count_includes_the_thoughts() -> None:
    response = read(message(reason="STOP", **counts(20, 46, total=66, thoughts_token_count=40)))
    assert response.usage == Usage(20, 46, reasoning_output_tokens=40)


def test_an_answer_counted_only_in_the_total_is_neither_tool_use_nor_empty() -> None:
    assert read(message(reason="STOP", **counts(20, 0, total=60))).usage == Usage(20, None)


def test_a_count_without_a_total_is_used_if_no_later_chunk_has_a_total() -> None:
    used = {"prompt_token_count": 20, "candidates_token_count": 2}
    assert read(message("Salu", **used), message("t", "STOP")).usage == Usage(20, 2)
    assert read(message("Salu", **used), message("t", "STOP", **counts(20, 6))).usage == Usage(20, 6)


@pytest.mark.parametrize(("text", "output"), [("Salut", None), ("", 0), (None, 0)])
def test_an_answer_with_content_cannot_have_used_0_tokens(text: str | None, output: int | None) -> None:
    assert read(message(text, **counts(20))).usage == Usage(20, output)


def test_more_cached_tokens_than_the_prompt_has_are_left_out() -> None:
    assert read(message(reason="STOP", **counts(20, 6, total=26, cached_content_token_count=21))).usage == Usage(20, 6)


def test_a_total_that_is_too_small_reduces_no_count() -> None:
    assert read(message(reason="STOP", **counts(20, 6, total=21))).usage == Usage(20, 6)


def test_cached_tokens_are_part_of_the_input() -> None:
    response = read(message(reason="STOP", **counts(2000, 6, cached_content_token_count=1800)))
    assert response.usage == Usage(2000, 6, cache_read_input_tokens=1800)


def test_audio_is_counted_by_modality() -> None:
    usage = counts(
        75,
        90,
        total=172,
        tool_use_prompt_token_count=7,
        prompt_tokens_details=[{"modality": "TEXT", "token_count": 11}, {"modality": "AUDIO", "token_count": 64}],
        tool_use_prompt_tokens_details=[{"modality": "AUDIO", "token_count": 7}],
        candidates_tokens_details=[{"modality": "AUDIO", "token_count": 90}],
    )
    assert read(message(reason="STOP", **usage)).usage == Usage(82, 90, audio_input_tokens=71, audio_output_tokens=90)


def test_an_answer_without_counts_has_no_usage() -> None:
    assert read(message(reason="STOP")).usage is None


def test_an_answer_has_an_id_if_the_client_has_a_field_for_it() -> None:
    raw = message(reason="STOP")
    if hasattr(raw, "response_id"):
        raw.response_id = "k3Zv-1"
        assert read(raw).id == "k3Zv-1"
    else:
        assert read(raw).id is None


def test_the_tap_receives_the_answer() -> None:
    (tap,) = GOOGLE.taps
    assert (tap.module, tap.owner) == (integration.__name__, None)
    code = getattr(integration, tap.name).__code__
    assert code.co_varnames[tap.position] == tap.keyword


def chunks_of_langchain(*messages: GenerateContentResponse) -> list[Any]:
    """Return the integration's chunks for ``messages`` in a stream."""
    chunks: list[Any] = []
    used = None
    for sent in messages:
        (chunk,) = integration._response_to_result(sent, stream=True, prev_usage=used).generations
        used = add_usage(used, chunk.message.usage_metadata)
        chunks.append(chunk)
    return chunks


def test_langchains_chunks_are_added_up_without_raw_answers() -> None:
    answer = GOOGLE.answer()
    for chunk in chunks_of_langchain(
        message("Sa", "STOP", **counts(31, 3)), message("lu", "STOP", **counts(31, 5)), message("t", **counts(31, 8))
    ):
        answer.add_chunk(chunk)
    assert answer.response((), None) == Response(model=MODEL, finish_reasons=("STOP",), usage=Usage(31, 8))


def test_langchains_chunks_contain_the_cached_tokens() -> None:
    answer = GOOGLE.answer()
    cached = {"cached_content_token_count": 20}
    for chunk in chunks_of_langchain(
        message("Sa", **counts(31, 3, **cached)), message("lut", **counts(31, 5, **cached))
    ):
        answer.add_chunk(chunk)
    assert answer.response((), None).usage == Usage(31, 5, 20)


def test_langchains_chunks_are_ignored_if_there_is_a_raw_answer() -> None:
    answer = GOOGLE.answer()
    sent = message("Salut", "STOP", **counts(31, 8))
    answer.add(sent)
    for chunk in chunks_of_langchain(sent):
        answer.add_chunk(chunk)
    assert answer.response((), None).usage == Usage(31, 8)


def test_langchains_result_is_the_last_resort() -> None:
    usage: Any = {"input_tokens": 31, "output_tokens": 8, "total_tokens": 39}
    generation = ChatGeneration(message=AIMessage("Salut", usage_metadata=usage))
    assert GOOGLE.answer().response([generation], None).usage == Usage(31, 8)


SENT = {
    "gen_ai.request.temperature": lambda config: config.temperature,
    "gen_ai.request.top_p": lambda config: config.top_p,
    "gen_ai.request.top_k": lambda config: config.top_k,
    "gen_ai.request.max_tokens": lambda config: config.max_output_tokens,
    "gen_ai.request.stop_sequences": lambda config: tuple(config.stop_sequences),
    "gen_ai.request.seed": lambda config: config.seed,
    "gen_ai.request.frequency_penalty": lambda config: config.frequency_penalty,
    "gen_ai.request.presence_penalty": lambda config: config.presence_penalty,
    "gen_ai.request.choice.count": lambda config: config.candidate_count if config.candidate_count != 1 else None,
    "gen_ai.output.type": lambda config: {"application/json": "json", "text/plain": "text"}.get(
        config.response_mime_type, {(3,): "speech", (1, 2): "image"}.get(tuple(map(int, config.response_modalities)))
    ),
}


def chat_model(**fields: Any) -> ChatGoogleGenerativeAI:
    return ChatGoogleGenerativeAI(
        **({"model": "gemini-2.5-pro", "google_api_key": "not-a-key", "temperature": 0.5} | fields)
    )


def request(model: ChatGoogleGenerativeAI, **kwargs: Any) -> GenerateContentRequest:
    """Return the request that the model sends for a call with ``kwargs``."""
    seen: list[GenerateContentRequest] = []

    def generate_content(*, request: GenerateContentRequest, **_: Any) -> GenerateContentResponse:
        seen.append(request)
        return message(reason="STOP")

    client, model.client = model.client, SimpleNamespace(generate_content=generate_content)
    try:
        model.invoke([HumanMessage("Salut")], **kwargs)
    finally:
        model.client = client
    return seen[0]


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({}, {}),
        ({"max_output_tokens": 40, "top_p": 0.25, "top_k": 7, "n": 2}, {}),
        ({"top_k": 7}, {"generation_config": {"top_k": 9, "temperature": 0.0, "seed": 3, "candidate_count": 4}}),
        ({}, {"generation_config": {"temperature": None}}),
        ({}, {"generation_config": {"frequency_penalty": 0.5, "presence_penalty": 0.25}}),
        ({}, {"stop": ["END"]}),
        ({}, {"stop": ["END"], "generation_config": {"stop_sequences": ["FIN", "."]}}),
        ({}, {"generation_config": {"response_mime_type": "application/json"}}),
        ({"response_modalities": [Modality.AUDIO]}, {}),
        ({"response_modalities": [Modality.TEXT, Modality.IMAGE]}, {}),
    ],
)
def test_the_span_records_the_parameters_that_the_client_sends(fields: dict[str, Any], kwargs: dict[str, Any]) -> None:
    model = chat_model(**fields)
    config = request(model, **kwargs).generation_config
    expected = {name: value for name, get in SENT.items() if (value := get(config)) not in (None, 0, 0.0, ())}
    params = model._get_invocation_params(**kwargs)
    attributes = request_with(params, client=vars(model)).attributes(GOOGLE)
    # An unset number is 0 in a protobuf message.
    assert {name: value for name, value in attributes.items() if value != 0} == expected


newer_only = pytest.mark.skipif(
    "response_mime_type" not in ChatGoogleGenerativeAI.model_fields, reason="the integration has no such field yet"
)


@newer_only
@pytest.mark.parametrize(
    ("fields", "kwargs", "output_type"),
    [
        ({"response_mime_type": "application/json"}, {}, "json"),
        ({"response_mime_type": "application/json"}, {"response_mime_type": "text/plain"}, "text"),
        ({}, {"response_mime_type": "application/json"}, "json"),
        (
            {"response_mime_type": "application/json"},
            {"generation_config": {"response_mime_type": "text/plain"}},
            "json",
        ),
        (
            {"response_mime_type": "application/json"},
            {"response_mime_type": None, "generation_config": {"response_mime_type": "text/plain"}},
            "text",
        ),
    ],
)
def test_the_mime_type_of_the_call_takes_precedence_over_that_of_the_model(
    fields: dict[str, Any], kwargs: dict[str, Any], output_type: str
) -> None:
    model = chat_model(**fields)
    mime_type = request(model, **kwargs).generation_config.response_mime_type
    assert {"application/json": "json", "text/plain": "text"}[mime_type] == output_type
    attributes = request_with(model._get_invocation_params(**kwargs), client=vars(model)).attributes(GOOGLE)
    assert attributes["gen_ai.output.type"] == output_type


@pytest.mark.parametrize("kwargs", [{"temperature": 0.25}, {"max_output_tokens": 5}, {"top_k": 3}, {"seed": 8}])
def test_parameters_that_the_client_ignores_are_not_recorded(kwargs: dict[str, Any]) -> None:
    model = chat_model()
    assert request_with(model._get_invocation_params(**kwargs), client=vars(model)).attributes(GOOGLE) == {
        "gen_ai.request.temperature": 0.5
    }


def test_without_the_model_its_parameters_are_those_reported_by_langchain() -> None:
    params = chat_model(top_k=7)._get_invocation_params(stop=["END"])
    assert request_with(params).attributes(GOOGLE) == {
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.stop_sequences": ("END",),
    }


def test_the_server_is_that_of_the_transport() -> None:
    model = chat_model(client_options={"api_endpoint": "gemini.example:8443"})
    assert GOOGLE.client_url(vars(model)) == "gemini.example:8443"
    assert GOOGLE.client_url({"client": object()}) is None
    assert GOOGLE.default_server == ("generativelanguage.googleapis.com", 443)


def test_system_instructions_are_separate_from_the_messages() -> None:
    assert GOOGLE.separate_system_instructions


@pytest.mark.parametrize(
    ("params", "client", "expected"),
    [
        ({"model": "models/gemini-2.5-flash"}, {}, "gemini-2.5-flash"),
        ({"model": "models/gemini-2.5-flash"}, {"model": "models/gemini-2.5-pro"}, "gemini-2.5-pro"),
        ({"model": "gemini-2.5-flash"}, {}, "gemini-2.5-flash"),
        ({"model": 3}, {}, None),
        ({}, {}, None),
    ],
    ids=["parameters", "the client ignores a call's model", "no collection", "no text", "unknown"],
)
def test_the_requested_model_is_the_clients_without_its_collection_prefix(
    params: dict[str, Any], client: dict[str, Any], expected: str | None
) -> None:
    assert GOOGLE.requested_model(params, client) == expected
