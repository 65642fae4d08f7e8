# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The lines that Ollama streams, and the parameters that its client sends."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_community.chat_models import ollama as integration
from langchain_community.chat_models.ollama import ChatOllama
from langchain_community.llms import ollama as client
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration

from opentelemetry_instrumentation_modelforge.providers.ollama import ERROR, INCOMPLETE, Ollama
from opentelemetry_instrumentation_modelforge.response import Response, Usage
from support.request_values import request_with

OLLAMA = Ollama()
MODEL = "gemma3:4b"


def line(content: str = "Bonjour", *, done: bool = False, **others: Any) -> str:
    return json.dumps(
        {"model": MODEL, "message": {"role": "assistant", "content": content}, "done": done, **others},
        separators=(",", ":"),
    )


def last(**others: Any) -> str:
    return line("", done=True, **({"done_reason": "stop", "prompt_eval_count": 41, "eval_count": 6} | others))


def read(*lines: object) -> Response:
    answer = OLLAMA.answer()
    for sent in lines:
        answer.add(sent)
    return answer.response((), None)


def test_the_last_line_has_the_tokens_the_finish_reason_and_the_model() -> None:
    assert read(line(), line(" Ada"), last(done_reason="length")) == Response(
        model=MODEL, finish_reasons=("length",), usage=Usage(41, 6)
    )


@pytest.mark.parametrize("space", [": ", ":\t", " : "])
def test_white_space_does_not_matter(space: str) -> None:
    sent = last().replace(":", space).replace(f"gemma3{space}4b", MODEL)
    assert read(sent + "\n") == Response(model=MODEL, finish_reasons=("stop",), usage=Usage(41, 6))


@pytest.mark.parametrize("cached", [0, 29])
def test_cached_tokens_are_part_of_the_prompt(cached: int) -> None:
    assert read(last(prompt_eval_cached_count=cached)).usage == Usage(41, 6, cache_read_input_tokens=cached)


def test_more_cached_tokens_than_the_prompt_has_are_left_out() -> None:
    assert read(last(prompt_eval_cached_count=42)).usage == Usage(41, 6)


@pytest.mark.parametrize("count", [6.0, "6"])
def test_a_server_that_imitates_ollama_may_send_another_type_of_number(count: object) -> None:
    assert read(last(eval_count=count)).usage == Usage(41, 6)


def test_a_count_that_is_left_out_is_not_reported() -> None:
    # Older releases omit it if they had the whole prompt in the cache.
    assert read(line("", done=True, done_reason="stop", eval_count=6)).usage == Usage(None, 6)


def test_a_prompt_of_no_tokens_was_not_counted() -> None:
    assert read(last(prompt_eval_count=0)).usage == Usage(None, 6)


def test_a_last_line_without_counts_has_no_usage() -> None:
    assert read(line("", done=True)) == Response(model=MODEL)


@pytest.mark.parametrize("bad", [-1, 2.5, "six", True, None, 2**63])
def test_a_value_that_is_not_a_count_is_left_out(bad: object) -> None:
    assert read(last(eval_count=bad, prompt_eval_cached_count=bad)).usage == Usage(41)


@pytest.mark.parametrize("spelling", ['{"error":"out of memory"}', '{ "error" : "out of memory" }\n'])
@pytest.mark.parametrize("after", [(), (last(),)])
def test_an_error_in_a_stream_is_not_completed(spelling: str, after: tuple[str, ...]) -> None:
    assert read(line(), spelling, *after).error == ERROR


@pytest.mark.parametrize("content", ['{"error": "x"}', '"error"', "done: true", '"done":true'])
def test_an_answer_about_errors_is_not_an_error(content: str) -> None:
    assert read(line(content), last()).error is None
    assert read(line(content)).error == INCOMPLETE


@pytest.mark.parametrize("lines", [[line()], [line(), line("!")]])
def test_a_stream_without_its_last_line_is_incomplete(lines: list[str]) -> None:
    assert read(*lines) == Response(model=MODEL, error=INCOMPLETE)


@pytest.mark.parametrize("bad", ["{", "[]", "3", "null", '{"error":', "[" * 100_000, b"{}", None])
def test_a_line_that_cannot_be_parsed_is_ignored(bad: object) -> None:
    response = read(bad)
    assert response.usage is None
    assert response.error in (None, INCOMPLETE)


def test_langchains_result_is_the_last_resort() -> None:
    info = {"prompt_eval_count": 41, "eval_count": 6, "done_reason": "stop", "model": MODEL}
    generation = ChatGeneration(message=AIMessage("Bonjour"), generation_info=info)
    assert OLLAMA.answer().response([generation], None) == Response(
        model=MODEL, finish_reasons=("stop",), usage=Usage(41, 6)
    )


def test_the_tap_receives_the_lines() -> None:
    (tap,) = OLLAMA.taps
    assert (tap.module, tap.owner) == (integration.__name__, None)
    assert getattr(integration, tap.name).__code__.co_varnames[tap.position] == tap.keyword


def chat_model(**fields: Any) -> ChatOllama:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ChatOllama(**({"model": MODEL, "base_url": "http://127.0.0.1:1"} | fields))


def sent_body(monkeypatch: pytest.MonkeyPatch, model: ChatOllama, **kwargs: Any) -> dict[str, Any]:
    """Return the request that the model sends for a call with ``kwargs``."""
    bodies: list[dict[str, Any]] = []

    def post(*, json: dict[str, Any], **_: Any) -> SimpleNamespace:
        bodies.append(json)
        return SimpleNamespace(status_code=200, iter_lines=lambda decode_unicode: [last()])

    monkeypatch.setattr(client.requests, "post", post)
    model.invoke([HumanMessage("Salut")], **kwargs)
    return bodies[0]


NAMES = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "num_predict": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "stop": "gen_ai.request.stop_sequences",
}


@pytest.mark.parametrize(
    ("fields", "kwargs"),
    [
        ({}, {}),
        ({"temperature": 0.5, "top_p": 0.25, "top_k": 30, "num_predict": 64, "format": "json"}, {}),
        ({"temperature": 0.5}, {"temperature": 0.75, "seed": 11, "presence_penalty": 1.5}),
        ({"temperature": 0.5}, {"temperature": None}),
        ({"temperature": 0.5, "top_k": 30}, {"options": {"seed": 11}}),
        ({"temperature": 0.5}, {"options": {"seed": 11}, "temperature": 0.75, "stop": ["FIN"]}),
        ({"temperature": 0.5}, {"options": {}}),
        ({"temperature": 0.5}, {"options": None}),
        ({"stop": ["FIN"]}, {}),
        ({"stop": ["FIN"]}, {"options": {"top_k": 3}}),
        ({}, {"stop": ["FIN", "."]}),
        ({"format": "json"}, {"format": ""}),
        ({}, {"format": "json"}),
    ],
)
def test_the_span_records_the_parameters_that_the_client_sends(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    model = chat_model(**fields)
    body = sent_body(monkeypatch, model, **kwargs)
    expected: dict[str, Any] = {
        attribute: tuple(value) if name == "stop" else value
        for name, attribute in NAMES.items()
        if (value := (body["options"] or {}).get(name)) is not None
    }
    if body["format"]:
        expected["gen_ai.output.type"] = body["format"]
    params = model._get_invocation_params(**kwargs)
    assert request_with(params, client=vars(model)).attributes(OLLAMA) == expected
    # The model's own settings are in the parameters too.
    assert request_with(params).attributes(OLLAMA) == expected


@pytest.mark.parametrize("kwargs", [{"max_tokens": 5}, {"n": 3}, {"response_format": {"type": "json_object"}}])
def test_parameters_that_ollama_does_not_support_are_not_recorded(kwargs: dict[str, Any]) -> None:
    model = chat_model(temperature=0.5)
    params = model._get_invocation_params(**kwargs)
    assert request_with(params, client=vars(model)).attributes(OLLAMA) == {"gen_ai.request.temperature": 0.5}


def test_an_unlimited_answer_has_no_maximum_number_of_tokens() -> None:
    params = chat_model(num_predict=-1)._get_invocation_params()
    assert request_with(params).attributes(OLLAMA) == {}


def test_the_alias_is_the_name_that_is_sent() -> None:
    assert OLLAMA.api_model("fast", {"api_model_name": "gemma3:4b"}) == "fast"


def test_the_server_is_the_base_url() -> None:
    assert OLLAMA.client_url(vars(chat_model())) == "http://127.0.0.1:1"
    assert OLLAMA.default_server is None


def test_a_local_model_is_not_billed_by_the_token() -> None:
    assert not OLLAMA.paid_by_token


def test_the_headers_and_the_password_are_credentials() -> None:
    headers = {"Authorization": "Bearer 0123456789"}
    credentials = list(OLLAMA.client_credentials(vars(chat_model(headers=headers, auth=("ada", "lovelace-1843")))))
    assert headers in credentials
    assert {"authorization": "lovelace-1843"} in credentials
