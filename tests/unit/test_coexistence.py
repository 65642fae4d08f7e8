# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The data exchanged with other GenAI instrumentations in the same process."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.context import Context, attach, detach
from opentelemetry.util.genai.invocation import CLIENT_INFERENCE_CONTEXT_KEY, InferenceData

from opentelemetry_instrumentation_modelforge import coexistence
from opentelemetry_instrumentation_modelforge.coexistence import (
    InnerReport,
    OuterInference,
    context_of_inference,
    outer_inference,
    publish,
)
from opentelemetry_instrumentation_modelforge.response import Response, Usage

RUN_ID = UUID(int=1)


def data() -> InferenceData:
    # The fields other than the invocation's own have defaults.
    report = InnerReport()
    plain = InferenceData.__new__(InferenceData)
    vars(plain).update(vars(report))
    return plain


# --- What an inner instrumentation reports ---


def test_a_report_starts_empty() -> None:
    report = InnerReport()
    assert report.response() == Response()
    assert isinstance(report, InferenceData)
    assert (report.attributes, report.metric_attributes) == ({}, {})
    assert InnerReport().attributes is not report.attributes


def test_a_report_is_read_as_a_response() -> None:
    report = InnerReport()
    report.operation_name = "chat"
    report.response_id = "chatcmpl-1"
    report.response_model = "gpt-4o-mini-2024-07-18"
    report.response_finish_reasons = ["stop"]
    report.usage_input_tokens = 11
    report.usage_output_tokens = 7
    report.usage_cache_read_input_tokens = 4
    report.usage_cache_write_input_tokens = 2
    report.usage_reasoning_output_tokens = 3
    assert report.response() == Response(
        id="chatcmpl-1",
        model="gpt-4o-mini-2024-07-18",
        finish_reasons=("stop",),
        usage=Usage(11, 7, 4, 2, 3),
    )


def test_a_report_without_input_tokens_has_no_usage() -> None:
    report = InnerReport()
    report.operation_name = "chat"
    report.usage_output_tokens = 7
    report.response_finish_reasons = None
    assert report.response() == Response()


def test_a_report_completes_the_response_that_was_read() -> None:
    report = InnerReport()
    report.operation_name = "chat"
    report.response_id, report.response_model = "theirs", "m"
    assert Response(id="mine").completed_by(report.response()) == Response(id="mine", model="m")


def test_inner_instrumentations_find_the_report_in_the_context_and_record_nothing() -> None:
    report = InnerReport()
    context = context_of_inference(Context({"user": "ada"}), report)
    assert context[CLIENT_INFERENCE_CONTEXT_KEY] is report
    assert context["suppress_language_model_instrumentation"] is True
    assert context["user"] == "ada"


# --- Reports to an outer instrumentation ---


def outer(operation: str = "chat", *, model: object = "gpt-4o-mini", **entries: object) -> OuterInference | None:
    token = attach(Context(entries))
    try:
        return outer_inference(operation, RUN_ID, model)
    finally:
        detach(token)


def test_without_another_instrumentation_the_run_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, coexistence._LANGCHAIN_MODULE, raising=False)
    assert outer() is None


def test_inside_another_inference_the_run_belongs_to_the_other_instrumentation() -> None:
    theirs = data()
    found = outer(**{CLIENT_INFERENCE_CONTEXT_KEY: theirs})
    assert found is not None
    assert found.data() is theirs


def test_a_model_that_calls_a_model_is_two_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, coexistence._LANGCHAIN_MODULE, raising=False)
    assert outer(**{CLIENT_INFERENCE_CONTEXT_KEY: InnerReport()}) is None


@pytest.fixture
def invocations(monkeypatch: pytest.MonkeyPatch) -> dict[UUID, Any]:
    """The open spans of the official LangChain instrumentation, by run."""
    spans: dict[UUID, Any] = {}
    manager = SimpleNamespace(get_invocation=spans.get)
    handler = SimpleNamespace(_invocation_manager=manager)
    module = SimpleNamespace(LangChainInstrumentor=lambda: SimpleNamespace(_callback_handler=handler))
    monkeypatch.setitem(sys.modules, coexistence._LANGCHAIN_MODULE, module)  # type: ignore[arg-type]
    return spans


def test_the_official_langchain_instrumentation_may_begin_after_us(invocations: dict[UUID, Any]) -> None:
    found = outer()
    assert found is not None
    assert found.data() is None
    theirs = data()
    invocations[RUN_ID] = SimpleNamespace(context={CLIENT_INFERENCE_CONTEXT_KEY: theirs})
    assert found.data() is theirs
    invocations.clear()
    assert found.data() is theirs


@pytest.mark.parametrize(("operation", "model"), [("text_completion", "gpt-4o-mini"), ("chat", None)])
def test_a_run_that_the_official_langchain_instrumentation_does_not_record_is_ours(
    operation: str, model: object, invocations: dict[UUID, Any]
) -> None:
    assert outer(operation, model=model) is None


def test_the_run_is_ours_after_a_fault_in_querying_another_instrumentation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coexistence._OUTER_GUARD, "_reported", False)
    monkeypatch.setitem(sys.modules, coexistence._LANGCHAIN_MODULE, SimpleNamespace())  # type: ignore[arg-type]
    assert outer() is None
    assert "asking the official LangChain instrumentation for its span" in caplog.text
    caplog.clear()


def test_our_response_is_published_on_the_other_instrumentations_span() -> None:
    theirs = data()
    publish(theirs, Response("chatcmpl-1", "m", ("stop",), Usage(11, 7, 4, 2, 3)))
    assert (theirs.response_id, theirs.response_model) == ("chatcmpl-1", "m")
    assert theirs.response_finish_reasons == ["stop"]
    assert (theirs.usage_input_tokens, theirs.usage_output_tokens) == (11, 7)
    assert (theirs.usage_cache_read_input_tokens, theirs.usage_cache_write_input_tokens) == (4, 2)
    assert theirs.usage_reasoning_output_tokens == 3


def test_values_unknown_to_us_do_not_overwrite_those_of_the_other_instrumentation() -> None:
    theirs = data()
    publish(theirs, Response("chatcmpl-1", "m", ("stop",), Usage(11, 7)))
    publish(theirs, Response())
    assert (theirs.response_id, theirs.response_model) == ("chatcmpl-1", "m")
    assert theirs.response_finish_reasons == ["stop"]
    assert (theirs.usage_input_tokens, theirs.usage_output_tokens) == (11, 7)
