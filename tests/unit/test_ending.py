# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The ending of a call, and the attributes that record its outcome."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from opentelemetry_instrumentation_modelforge.config import Configuration
from opentelemetry_instrumentation_modelforge.ending import Ending, cost_attributes, stream_attributes
from opentelemetry_instrumentation_modelforge.model import Model, ModelIdentity
from opentelemetry_instrumentation_modelforge.response import Response, Usage
from opentelemetry_instrumentation_modelforge.telemetry import Telemetry
from support.request_values import request_with

OPENAI = ModelIdentity("openai", "mini", "openai_compatible", "gpt-4o-mini")
COPILOT = ModelIdentity("github_copilot", "gpt-4o", "github_copilot", "gpt-4o")
REQUEST = request_with()._replace(prompt=[HumanMessage("x" * 40)])
UNKNOWN = Response()
ANSWER = ChatGeneration(message=AIMessage("y" * 8))
ESTIMATE = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2, "modelforge.usage.estimated": True}


def attributes(
    ending: Ending,
    response: Response = UNKNOWN,
    cost: float | None = None,
    identity: ModelIdentity = OPENAI,
    **options: Any,
) -> dict[str, Any]:
    model = Model(Telemetry(Configuration(**options)), identity)
    return ending.attributes(model, REQUEST, response, cost)


@pytest.mark.parametrize("outcome", ["completed", "cancelled", "closed", "abandoned"])
def test_every_call_has_an_outcome(outcome: Any) -> None:
    assert attributes(Ending(outcome)) == {"modelforge.outcome": outcome}


def test_a_failed_call_has_the_type_of_its_error() -> None:
    ending = Ending("failed", error=ConnectionResetError("x"))
    assert ending.error_type(Response()) == "ConnectionResetError"
    assert attributes(ending) == {"modelforge.outcome": "failed", "error.type": "ConnectionResetError"}


def test_an_answer_that_reports_a_failure_is_not_completed() -> None:
    response = Response(id="chatcmpl-1", error="content_filter")
    assert attributes(Ending("completed"), response) == {
        "modelforge.outcome": "failed",
        "error.type": "content_filter",
        "gen_ai.response.id": "chatcmpl-1",
    }


@pytest.mark.parametrize("outcome", ["closed", "cancelled"])
def test_an_abandoned_stream_reports_nothing_about_its_end(outcome: Any) -> None:
    ending = Ending(outcome)
    assert ending.error_type(Response(error="incomplete_response")) is None
    assert attributes(ending, Response(error="incomplete_response")) == {"modelforge.outcome": outcome}


def test_an_exception_takes_precedence_over_the_answers_error() -> None:
    ending = Ending("failed", error=ValueError())
    assert ending.error_type(Response(error="content_filter")) == "ValueError"


def test_reported_tokens_are_not_estimated() -> None:
    found = attributes(Ending("completed", [ANSWER]), Response(usage=Usage(11, 7)))
    assert found == {
        "modelforge.outcome": "completed",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
    }


def test_tokens_that_were_not_reported_are_estimated() -> None:
    assert attributes(Ending("completed", [ANSWER])) == {"modelforge.outcome": "completed", **ESTIMATE}


def test_tokens_of_an_abandoned_stream_are_estimated_from_its_answer_so_far() -> None:
    assert attributes(Ending("closed", [ANSWER])) == {"modelforge.outcome": "closed", **ESTIMATE}


def test_nothing_is_estimated_without_an_answer_from_the_cache_or_by_option() -> None:
    completed = {"modelforge.outcome": "completed"}
    assert attributes(Ending("completed", [ANSWER]), estimate_tokens=False) == completed
    assert attributes(Ending("completed")) == completed
    cached = attributes(Ending("completed", [ANSWER]), Response(cached=True))
    assert cached == {**completed, "modelforge.response.cached": True}


def test_a_price_is_in_dollars_and_has_a_source() -> None:
    assert cost_attributes(0.25, Response()) == {
        "gen_ai.usage.cost.amount": 0.25,
        "gen_ai.usage.cost.currency": "USD",
        "gen_ai.usage.cost.source": "local",
    }
    assert cost_attributes(0.0, Response(cost=0.0))["gen_ai.usage.cost.source"] == "provider"
    assert attributes(Ending("completed"), cost=0.0)["gen_ai.usage.cost.amount"] == 0.0
    assert "gen_ai.usage.cost.amount" not in attributes(Ending("completed"))


@pytest.mark.parametrize("response", [Response(usage=Usage(11, 7)), Response()], ids=["reported", "estimated"])
def test_a_subscription_has_a_reference_cost(response: Response) -> None:
    found = attributes(Ending("completed", [ANSWER]), response, identity=COPILOT)
    assert found["modelforge.usage.reference_cost"] > 0
    assert "gen_ai.usage.cost.amount" not in found


def test_a_call_billed_by_the_token_has_no_reference_cost() -> None:
    assert "modelforge.usage.reference_cost" not in attributes(Ending("completed", [ANSWER]))


def test_a_stream_has_a_chunk_count_and_the_time_to_the_first_chunk() -> None:
    assert stream_attributes(3, 0.25) == {
        "gen_ai.request.stream": True,
        "modelforge.response.chunk_count": 3,
        "gen_ai.response.time_to_first_chunk": 0.25,
    }
    assert stream_attributes(0, None) == {"gen_ai.request.stream": True, "modelforge.response.chunk_count": 0}


def test_a_response_hook_receives_langchains_own_result() -> None:
    result = LLMResult(generations=[[ANSWER]])
    assert Ending("completed", [ANSWER], result=result).llm_result() is result


def test_a_result_is_created_if_langchain_has_not_created_one() -> None:
    result = Ending("closed", (ANSWER,), {"model_name": "m"}).llm_result()
    assert isinstance(result, LLMResult)
    assert result.generations == [[ANSWER]]
    assert result.llm_output == {"model_name": "m"}
