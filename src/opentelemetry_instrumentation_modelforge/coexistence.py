# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Coexistence with other GenAI instrumentations in the same process: which one creates the span of a call.

opentelemetry-util-genai's rule is that the outer instrumentation creates the span: it puts an ``InferenceData`` in the
context, and an inner one that finds it records nothing and adds its findings to it. The instrumentation of a provider's
client therefore creates no span below a ModelForge call, and a ModelForge call creates none below the official
LangChain instrumentation.
"""

from sys import modules
from typing import Final, Protocol
from uuid import UUID

from opentelemetry.context import Context, get_current
from opentelemetry.util.genai.invocation import CLIENT_INFERENCE_CONTEXT_KEY, GenAIInvocation, InferenceData

from .otel_utils import Guard
from .response import Response, Usage
from .semconv import OPERATION_CHAT

# OpenLLMetry's instrumentations of the providers' clients honor it.
_OPENLLMETRY_KEY: Final = "suppress_language_model_instrumentation"

_LANGCHAIN_MODULE: Final = "opentelemetry.instrumentation.genai.langchain"

_OUTER_GUARD: Final = Guard("asking the official LangChain instrumentation for its span")


class InnerReport(InferenceData):
    """The findings of a provider client's instrumentation about the enclosing call."""

    def __init__(self) -> None:
        # The dataclass's own __init__ sets fifty fields to the defaults that the class has anyway.
        self.attributes = {}
        self.metric_attributes = {}

    def response(self) -> Response:
        """Return the response as read by the inner instrumentation."""
        usage = None
        if self.usage_input_tokens is not None:
            usage = Usage(
                input_tokens=self.usage_input_tokens,
                output_tokens=self.usage_output_tokens,
                cache_read_input_tokens=self.usage_cache_read_input_tokens,
                cache_write_input_tokens=self.usage_cache_write_input_tokens,
                reasoning_output_tokens=self.usage_reasoning_output_tokens,
            )
        reasons = tuple(self.response_finish_reasons or ())
        return Response(id=self.response_id, model=self.response_model, finish_reasons=reasons, usage=usage)


class OuterInference:
    """Another instrumentation's inference, to which a call belongs."""

    __slots__ = ("_data", "_invocations", "_run_id")

    def __init__(self, run_id: UUID, data: InferenceData | None, invocations: "_Invocations | None" = None) -> None:
        self._run_id = run_id
        self._data = data
        self._invocations = invocations

    def data(self) -> InferenceData | None:
        """Return the data to report to, or None if the other instrumentation has not begun yet."""
        if self._data is None and self._invocations is not None:
            with _OUTER_GUARD:
                invocation = self._invocations.get_invocation(self._run_id)
                found = invocation and invocation.context.get(CLIENT_INFERENCE_CONTEXT_KEY)
                self._data = found if isinstance(found, InferenceData) else None
        return self._data


class _Invocations(Protocol):
    """The part of the official LangChain instrumentation that tracks its open spans."""

    def get_invocation(self, run_id: UUID) -> GenAIInvocation | None: ...


def context_of_inference(context: Context, report: InnerReport) -> dict[str, object]:
    """Return the entries of ``context`` and those that make inner instrumentations report here instead of recording."""
    return {**context, CLIENT_INFERENCE_CONTEXT_KEY: report, _OPENLLMETRY_KEY: True}


def outer_inference(operation: str, run_id: UUID, model: object) -> OuterInference | None:
    """Return the inference that another instrumentation records for this run, or None if the run is ours to record.

    :param model: the run's name for its model, if it has one.
    """
    data = get_current().get(CLIENT_INFERENCE_CONTEXT_KEY)
    # A model that calls another model makes two calls, so a call of ours around this one does not count.
    if isinstance(data, InferenceData) and not isinstance(data, InnerReport):
        return OuterInference(run_id, data)
    if model is not None and operation == OPERATION_CHAT and (invocations := _langchain_invocations()) is not None:
        # It records every run of a chat model that has a name. Its callback runs before ours in a synchronous run, and
        # after ours in an asynchronous one.
        return OuterInference(run_id, None, invocations)
    return None


def _langchain_invocations() -> _Invocations | None:
    if (module := modules.get(_LANGCHAIN_MODULE)) is None:
        return None
    with _OUTER_GUARD:
        # It has no public API for this.
        handler = module.LangChainInstrumentor()._callback_handler
        return handler._invocation_manager if handler is not None else None
    return None


def publish(data: InferenceData, response: Response) -> None:
    """Report ``response`` to the instrumentation that owns ``data``."""
    data.response_id = response.id or data.response_id
    data.response_model = response.model or data.response_model
    if response.finish_reasons:
        data.response_finish_reasons = list(response.finish_reasons)
    usage = response.usage
    if usage is not None:
        data.usage_input_tokens = usage.input_tokens
        data.usage_output_tokens = usage.output_tokens
        data.usage_cache_read_input_tokens = usage.cache_read_input_tokens
        data.usage_cache_write_input_tokens = usage.cache_write_input_tokens
        data.usage_reasoning_output_tokens = usage.reasoning_output_tokens
