# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""``OpenTelemetryCallback``, which turns LangChain's events into the start, the chunks and the end of a model call."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from importlib import import_module
from typing import Any, Final, Self
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseRunManager
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import SpanContext, TracerProvider, get_tracer_provider

from .block_attributes import NO_BLOCK, BlockAttributes
from .call import Call, current_call, open_calls
from .coexistence import outer_inference
from .enrichment import Enrichment
from .execution import RUN_CALL, RunCall, call_of, current_frame
from .inference import Inference
from .model import Model, ModelIdentity
from .otel_utils import Guard
from .patching import REGISTRY_IMPORT
from .request import Request, call_parameters
from .semconv import OPERATION_CHAT, OPERATION_TEXT_COMPLETION
from .telemetry import Telemetry, active_telemetry, standalone_telemetry
from .values import NOTHING, items, text

_START_GUARD: Final = Guard("starting a model call")
_END_GUARD: Final = Guard("ending a model call")

_LLM_TYPES: Final = {
    "openai-chat": "openai_compatible",
    "chat-google-generative-ai": "google_genai",
    "ollama-chat": "ollama",
}
"""ModelForge's client types by LangChain's. GitHub Copilot's client shares its LangChain type with Azure's."""

_unframed_calls: Final[dict[UUID, Call]] = {}
"""Calls that no frame has started, by run id: those of callbacks without patches and of text-completion models."""


class OpenTelemetryCallback(BaseCallbackHandler):
    """A LangChain callback that emits a span and metrics for every call of one model.

    ``ModelForgeInstrumentor`` adds one to every model that ``get_llm`` returns. Without any patching, pass one
    explicitly::

        llm = registry.get_llm("openai", "gpt-4o-mini", callbacks=[OpenTelemetryCallback("openai", "gpt-4o-mini")])

    One instance serves any number of concurrent calls. It may be passed twice, or to a model that already has one: a
    call still has one span. A copy of a model shares it. An unpickled instance keeps its names and looks up its
    providers again. Without patches, LangChain does not notify a callback when an ``ainvoke`` is cancelled: that call
    stays open until the process ends.

    :param provider: ModelForge's name for the provider.
    :param model: ModelForge's alias for the model.
    :param otel_enabled: False records nothing; True always records; None uses ``is_otel_available()``.
    :param tracer_provider: instead of the instrumentor's, else the global one.
    :param meter_provider: instead of the instrumentor's, else the global one.
    :raises TypeError: when a name is not a string.
    """

    # Otherwise LangChain sends every event of an asynchronous call through a thread pool.
    run_inline = True
    # LangChain reads it before each event, and the base class has a property for it.
    ignore_llm = False  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    # Only an interrupt passes the guards, and LangChain would swallow it.
    raise_error = True

    def __init__(
        self,
        provider: str,
        model: str,
        *,
        otel_enabled: bool | None = None,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        for name, value in (("provider", provider), ("model", model)):
            if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"OpenTelemetryCallback({name}={value!r}): expected ModelForge's name, a string")
        self._identity = ModelIdentity(provider, model, api_model=model)
        self._otel_enabled = otel_enabled
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self.injected = False
        """Whether an instrumented registry added it."""
        self._created_by: SpanContext | None = None
        self._pricing: Mapping[str, object] | None = None
        self._block = NO_BLOCK
        self._model: Model | None = None

    @classmethod
    def for_model(
        cls,
        telemetry: Telemetry,
        identity: ModelIdentity,
        created_by: SpanContext | None,
        pricing: Mapping[str, object] | None,
        block: BlockAttributes = NO_BLOCK,
    ) -> Self:
        """Return the callback for a model from an instrumented registry. It records nothing after ``uninstrument()``.

        :param created_by: the ``get_llm`` span, which every call links to.
        :param pricing: the models.dev metadata of the model.
        :param block: the attributes of the blocks in which the model and its registry were created.
        """
        callback = cls(identity.provider, identity.model)
        callback._identity = identity
        callback.injected = True
        callback._created_by = created_by
        callback._pricing = pricing
        callback._block = block
        callback._model = callback._model_under(telemetry)
        return callback

    @property
    def otel_enabled(self) -> bool:
        """Whether calls are recorded now."""
        if self._otel_enabled is not None:
            return self._otel_enabled
        telemetry = self._telemetry()
        return telemetry is not None and telemetry.is_available()

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Start the call of a chat model."""
        with _START_GUARD:
            self._start(OPERATION_CHAT, run_id, messages[0], kwargs)

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any) -> None:
        """Start the call of a text-completion model."""
        with _START_GUARD:
            self._start(OPERATION_TEXT_COMPLETION, run_id, prompts, kwargs)

    def on_llm_new_token(self, token: Any = "", *, run_id: UUID, chunk: object = None, **kwargs: Any) -> None:
        """Count a chunk of a streamed response."""
        call = _call_of_run(run_id)
        if call is not None:
            call.chunk(chunk)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """End the call with its answer, unless the frame that ran the model has ended it."""
        # The frame has usually ended the only open call.
        call = _call_of_run(run_id) if open_calls else None
        if call is not None:
            with _END_GUARD:
                call.end(next(iter(_generations(response)), ()), getattr(response, "llm_output", None), response)
            _unframed_calls.pop(run_id, None)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End the call with ``error``, and with the part of a stream that arrived before it."""
        call = _call_of_run(run_id)
        if call is not None:
            with _END_GUARD:
                # A stream has two: the part that arrived, and the error. Any other call has only the error.
                generations = _generations(kwargs.get("response"))
                received = generations[0] if len(generations) > 1 else ()
                if isinstance(error, GeneratorExit) and current_call() is call:
                    # Raised in a step of the stream, and therefore by its consumer.
                    call.close(received)
                else:
                    call.fail(error, received)
            _unframed_calls.pop(run_id, None)

    def _start(
        self, operation: str, run_id: UUID, prompt: list[BaseMessage] | list[str], kwargs: Mapping[str, Any]
    ) -> None:
        telemetry = self._telemetry()
        frame = current_frame()
        started = _unframed_calls.get(run_id) if frame is None else frame.call_of(run_id)
        # Another callback on the model may have started the call.
        if telemetry is None or started is not None or not self._records(telemetry):
            return
        params = call_parameters(kwargs)
        model = self._model
        if model is None or model.telemetry is not telemetry:
            model = self._model = self._model_under(telemetry, text(params.get("_type")))
        request = Request(
            run_id,
            prompt,
            params,
            kwargs.get("metadata") or NOTHING,
            kwargs.get("tags"),
            text(kwargs.get("name")),
            NOTHING if frame is None else frame.client(),
            frame is not None and frame.streaming,
        )
        api_model = model.kind.requested_model(request.params, request.client)
        model = model.variant(operation, api_model)
        outer = outer_inference(operation, run_id, api_model or request.metadata.get("ls_model_name"))
        call = Inference(model, request) if outer is None else Enrichment(model, request, outer)
        if type(self) is OpenTelemetryCallback:
            call.handler = self
        if frame is not None:
            frame.register(call)
            call.start()
            frame.enter(call)
            return
        try:
            _unframed_calls[run_id] = call
            call.start()
        except BaseException:
            _unframed_calls.pop(run_id, None)
            raise

    def _records(self, telemetry: Telemetry) -> bool:
        if self._otel_enabled is None:
            return telemetry.is_available() and is_instrumentation_enabled()
        return self._otel_enabled and is_instrumentation_enabled()

    def _telemetry(self) -> Telemetry | None:
        """Return the instrumentor's telemetry, or that of the callback's own providers."""
        if self._tracer_provider is None and self._meter_provider is None:
            active = active_telemetry()
            if active is not None or self.injected:
                return active
        return standalone_telemetry(
            self._tracer_provider or get_tracer_provider(), self._meter_provider or get_meter_provider()
        )

    def _model_under(self, telemetry: Telemetry, client_type: str | None = None) -> Model:
        identity = self._identity
        if identity.llm_type is None:
            # Without it, it is unknown whether the counts in the chunks of a stream must be added up.
            identity = replace(identity, llm_type=_LLM_TYPES.get(client_type or ""))
        return Model(telemetry, identity, created_by=self._created_by, pricing=self._pricing, block=self._block)

    def __eq__(self, other: object) -> bool:
        # Two models that differ in nothing else are equal, as they are without instrumentation.
        if not (isinstance(other, OpenTelemetryCallback) and self.injected and other.injected):
            return self is other
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity) if self.injected else id(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copied model is the same model.
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Providers and tracers hold locks, threads and sockets, and belong to one process.
        return self.__dict__ | {"_tracer_provider": None, "_meter_provider": None, "_model": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.injected and REGISTRY_IMPORT.is_awaited():
            # A process that only unpickles models never imports it itself.
            with suppress(ImportError):
                import_module(REGISTRY_IMPORT.name)


def llm_new_token(wrapped: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``CallbackManagerForLLMRun.on_llm_new_token``.

    LangChain takes several times as long to deliver a chunk to a callback as counting it takes. Chunks of a run with no
    other callback than ours are therefore counted here.
    """

    @wraps(wrapped)
    def on_llm_new_token(self: BaseRunManager, token: Any, *, chunk: object = None, **kwargs: Any) -> None:
        call, handlers = self.__dict__.get(RUN_CALL) or _run_call(self)
        if self.handlers != handlers:
            wrapped(self, token, chunk=chunk, **kwargs)
        elif call is not None:
            call.chunk(chunk)

    return on_llm_new_token


def allm_new_token(wrapped: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Wrap ``AsyncCallbackManagerForLLMRun.on_llm_new_token``, as :func:`llm_new_token` does for synchronous runs."""

    @wraps(wrapped)
    async def on_llm_new_token(self: BaseRunManager, token: Any, *, chunk: object = None, **kwargs: Any) -> None:
        call, handlers = self.__dict__.get(RUN_CALL) or _run_call(self)
        if self.handlers != handlers:
            await wrapped(self, token, chunk=chunk, **kwargs)
        elif call is not None:
            call.chunk(chunk)

    return on_llm_new_token


def _run_call(run: BaseRunManager) -> RunCall:
    """Return the call of a run whose only callback is ours, and store it on the run for later chunks."""
    match run.handlers:
        # Not an instance of a subclass, which may do more.
        case [OpenTelemetryCallback() as handler] if type(handler) is OpenTelemetryCallback:
            found = RunCall(_call_of_run(run.run_id), [handler])
        case _:
            found = RunCall(None, None)
    run.__dict__[RUN_CALL] = found
    return found


def _call_of_run(run_id: UUID) -> Call | None:
    if (call := call_of(run_id)) is not None:
        return call
    # For the later steps of a stream, whose frame is not current.
    call = current_call()
    if call is not None and call.run_id == run_id:
        return call
    if (call := _unframed_calls.get(run_id)) is not None:
        return call
    # The generator of a dropped stream is closed outside its steps, and another instrumentation may replace the context
    # within them.
    calls = [call for call in list(open_calls.values()) if call.run_id == run_id]
    return calls[0] if len(calls) == 1 else None


def _generations(response: object) -> list[Sequence[object]]:
    """Return the generations of each prompt of an ``LLMResult``; none if it is something else."""
    return [items(generations) for generations in items(getattr(response, "generations", None))]
