# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Copilot's answers, which have OpenAI's form, and its client's settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_github_copilot import ChatGitHubCopilot
from langchain_github_copilot import base as integration

from opentelemetry_instrumentation_modelforge.providers.github_copilot import GitHubCopilot
from opentelemetry_instrumentation_modelforge.response import Response, Usage
from support.request_values import request_with

COPILOT = GitHubCopilot()
TOKEN = "ghu_0123456789abcdef"


def body(**others: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hej"}, "finish_reason": "stop"}
    return {"id": "chatcmpl-hej", "model": "gpt-4.1-2025-04-14", "choices": [choice], **others}


def read(raw: dict[str, Any]) -> Response:
    answer = COPILOT.answer()
    answer.add(raw)
    return answer.response((), None)


def test_usage_is_read_from_copilots_answers() -> None:
    usage = {
        "prompt_tokens": 33,
        "completion_tokens": 9,
        "total_tokens": 42,
        "prompt_tokens_details": {"cached_tokens": 16},
    }
    response = read(body(usage=usage))
    assert (response.id, response.model) == ("chatcmpl-hej", "gpt-4.1-2025-04-14")
    assert response.finish_reasons == ("stop",)
    assert response.usage == Usage(33, 9, cache_read_input_tokens=16)
    assert response.error is None


def test_an_answer_without_usage_has_none() -> None:
    assert read(body()).usage is None


@pytest.mark.parametrize("choices", [{"choices": []}, {"choices": None}])
def test_an_answer_without_choices_is_an_error(choices: dict[str, Any]) -> None:
    assert read(body() | choices).error == "empty_response"


def test_an_answer_that_lacks_the_field_is_an_error() -> None:
    assert read({"id": "chatcmpl-hej"}).error == "empty_response"


def test_an_error_with_status_200_is_an_error() -> None:
    assert read({"error": {"message": "No.", "code": "model_not_supported"}}).error == "model_not_supported"


def chat_model(**fields: Any) -> ChatGitHubCopilot:
    return ChatGitHubCopilot(**({"model": "gpt-4.1", "api_key": TOKEN, "temperature": 0.5} | fields))


def test_the_tap_receives_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    (tap,) = COPILOT.taps
    assert (tap.module, tap.owner) == (integration.__name__, "BaseChatOpenAI")
    assert tap.owner is not None
    owner = getattr(integration, tap.owner)
    passed: list[tuple[Any, ...]] = []
    original = getattr(owner, tap.name)

    def tapped(*args: Any, **kwargs: Any) -> Any:
        passed.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, tap.name, tapped)
    answer = SimpleNamespace(status_code=200, json=body)
    monkeypatch.setattr(integration.requests, "post", lambda *args, **kwargs: answer)
    assert chat_model().invoke([HumanMessage("Hej")]).content == "Hej"
    assert [args[tap.position] for args in passed] == [body()]
    assert original.__code__.co_varnames[tap.position] == tap.keyword


@pytest.mark.parametrize(
    ("fields", "kwargs", "expected"),
    [
        ({}, {}, {"gen_ai.request.temperature": 0.5}),
        (
            {"max_tokens": 50, "top_p": 0.25, "n": 2},
            {},
            {
                "gen_ai.request.temperature": 0.5,
                "gen_ai.request.max_tokens": 50,
                "gen_ai.request.top_p": 0.25,
                "gen_ai.request.choice.count": 2,
            },
        ),
        (
            {},
            {"stop": ["SLUT"], "temperature": 0.75, "seed": 5},
            {
                "gen_ai.request.temperature": 0.75,
                "gen_ai.request.stop_sequences": ("SLUT",),
                "gen_ai.request.seed": 5,
            },
        ),
    ],
)
def test_the_span_records_the_parameters_that_the_client_sends(
    fields: dict[str, Any], kwargs: dict[str, Any], expected: dict[str, Any]
) -> None:
    model = chat_model(**fields)
    assert request_with(model._get_invocation_params(**kwargs), client=vars(model)).attributes(COPILOT) == expected


def test_the_server_is_the_one_that_the_client_calls() -> None:
    assert COPILOT.client_url(vars(chat_model())) == "https://api.githubcopilot.com/chat/completions"
    assert COPILOT.client_url({"client": object()}) is None
    assert COPILOT.default_server == ("api.githubcopilot.com", 443)


def test_copilot_is_a_subscription() -> None:
    assert not COPILOT.paid_by_token
    assert COPILOT.has_reference_cost


def test_the_token_and_its_header_are_credentials() -> None:
    model = chat_model()
    credentials = list(COPILOT.client_credentials(vars(model)))
    assert model.github_token in credentials
    # Only this header is secret.
    assert [value for value in credentials if isinstance(value, dict) and value] == [
        {"authorization": f"Bearer {TOKEN}"}
    ]
