"""Other GenAI instrumentations in the same process: whose span a call has.

opentelemetry-util-genai's rule is that the outer instrumentation speaks: it leaves an ``InferenceData`` in the context,
and an inner one that finds it records nothing and adds to it what it knows. So the instrumentation of a provider's
client is silent below a ModelForge call, and a ModelForge call is silent below the official LangChain instrumentation.
"""

from dataclasses import dataclass
from sys import modules
from typing import Final
from uuid import UUID

from opentelemetry.context import Context, get_current
from opentelemetry.util.genai.invocation import CLIENT_INFERENCE_CONTEXT_KEY, InferenceData

from .otel_utils import Guard
from .response import Response, Usage

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


@dataclass(frozen=True, slots=True)
class Enclosing:
    """The inference of another instrumentation that a call belongs to."""

    data: InferenceData
    context: Context


def enclosing_context(context: Context, enclosed: Enclosed) -> Context:
    """Return ``context`` with what tells inner instrumentations to be silent, and where to report instead."""
    return Context({**context, CLIENT_INFERENCE_CONTEXT_KEY: enclosed, _OPENLLMETRY_KEY: True})


def enclosing_inference(run_id: UUID) -> Enclosing | None:
    """Return the inference that another instrumentation has begun for this run or around it."""
    context = get_current()
    if (module := modules.get(_LANGCHAIN_MODULE)) is not None:
        with _ENCLOSING:
            # It has no public way to ask. Its handler is the first on every run, and has its span already.
            handler = module.LangChainInstrumentor()._callback_handler
            invocation = handler and handler._invocation_manager.get_invocation(run_id)
            context = invocation.context if invocation else context
    data = context.get(CLIENT_INFERENCE_CONTEXT_KEY)
    # Not within another call of ours: a model that calls a model makes two calls.
    return Enclosing(data, context) if isinstance(data, InferenceData) and not isinstance(data, Enclosed) else None


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
