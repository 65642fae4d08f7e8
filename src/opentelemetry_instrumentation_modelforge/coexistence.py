"""Other GenAI instrumentations in the same process: whose span a call has.

opentelemetry-util-genai's rule is that the outer instrumentation speaks: it leaves an ``InferenceData`` in the context,
and an inner one that finds it records nothing and adds to it what it knows. So the instrumentation of a provider's
client is silent below a ModelForge call, and a ModelForge call is silent below the official LangChain instrumentation.
"""

from sys import modules
from typing import Final, Protocol
from uuid import UUID

from opentelemetry.context import Context, get_current
from opentelemetry.util.genai.invocation import CLIENT_INFERENCE_CONTEXT_KEY, GenAIInvocation, InferenceData

from .otel_utils import Guard
from .response import Response, Usage
from .semconv import OPERATION_CHAT

# What OpenLLMetry's instrumentations of the providers' clients honour.
_OPENLLMETRY_KEY: Final = "suppress_language_model_instrumentation"

_LANGCHAIN_MODULE: Final = "opentelemetry.instrumentation.genai.langchain"

_ENCLOSING: Final = Guard("asking the official LangChain instrumentation for its span")


class Enclosed(InferenceData):
    """What the instrumentation of a provider's client reports about the call that encloses it."""

    def __init__(self) -> None:
        # Not the dataclass's own, which sets fifty fields that the class has the defaults of.
        self.attributes = {}
        self.metric_attributes = {}

    def complete(self, response: Response) -> None:
        """Fill in what LangChain did not hand on, if an instrumentation has reported at all."""
        if self.operation_name is None:
            return
        response.id = response.id or self.response_id
        response.model = response.model or self.response_model
        response.finish_reasons = response.finish_reasons or tuple(self.response_finish_reasons or ())
        if response.usage is None and not response.cached and self.usage_input_tokens is not None:
            response.usage = Usage(
                input_tokens=self.usage_input_tokens,
                output_tokens=self.usage_output_tokens,
                cache_read_input_tokens=self.usage_cache_read_input_tokens,
                cache_write_input_tokens=self.usage_cache_write_input_tokens,
                reasoning_output_tokens=self.usage_reasoning_output_tokens,
            )


class Enclosing:
    """The inference of another instrumentation that a call belongs to."""

    __slots__ = ("_data", "_invocations", "_run_id")

    def __init__(self, run_id: UUID, data: InferenceData | None, invocations: "_Invocations | None" = None) -> None:
        self._run_id = run_id
        self._data = data
        self._invocations = invocations

    def data(self) -> InferenceData | None:
        """Return where to report to, or None if the other instrumentation has not begun yet."""
        if self._data is None and self._invocations is not None:
            with _ENCLOSING:
                invocation = self._invocations.get_invocation(self._run_id)
                found = invocation and invocation.context.get(CLIENT_INFERENCE_CONTEXT_KEY)
                self._data = found if isinstance(found, InferenceData) else None
        return self._data


class _Invocations(Protocol):
    """The part of the official LangChain instrumentation that knows its open spans."""

    def get_invocation(self, run_id: UUID) -> GenAIInvocation | None: ...


def enclosing_context(context: Context, enclosed: Enclosed) -> Context:
    """Return ``context`` with what tells inner instrumentations to be silent, and where to report instead."""
    return Context({**context, CLIENT_INFERENCE_CONTEXT_KEY: enclosed, _OPENLLMETRY_KEY: True})


def enclosing_inference(operation: str, run_id: UUID, model: object) -> Enclosing | None:
    """Return the inference that another instrumentation has for this run, or None if the run is ours to describe.

    :param model: the name that the run gives its model, if it does.
    """
    data = get_current().get(CLIENT_INFERENCE_CONTEXT_KEY)
    # Not within another call of ours: a model that calls a model makes two calls.
    if isinstance(data, InferenceData) and not isinstance(data, Enclosed):
        return Enclosing(run_id, data)
    if model is not None and operation == OPERATION_CHAT and (invocations := _langchain_invocations()) is not None:
        # It describes every run of a chat model that has a name, and hears of a synchronous one before us and of an
        # asynchronous one after us.
        return Enclosing(run_id, None, invocations)
    return None


def _langchain_invocations() -> _Invocations | None:
    if (module := modules.get(_LANGCHAIN_MODULE)) is None:
        return None
    with _ENCLOSING:
        # It has no public way to ask.
        handler = module.LangChainInstrumentor()._callback_handler
        return handler._invocation_manager if handler is not None else None
    return None


def publish(data: InferenceData, response: Response) -> None:
    """Report to ``data`` what a response said."""
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
