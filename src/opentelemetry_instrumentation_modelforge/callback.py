"""``OpenTelemetryCallback``: LangChain's events as the beginning, the chunks and the end of a model call."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from importlib import import_module
from typing import Any, Final, Self, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseRunManager
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import SpanContext, TracerProvider, get_tracer_provider

from .call import Call, EnrichingCall, ModelCall, open_calls
from .coexistence import enclosing_inference
from .execution import current_frame
from .identity import ModelIdentity
from .instrumentor import ModelForgeInstrumentor
from .otel_utils import Guard
from .request import requested_model
from .semconv import OPERATION_CHAT, OPERATION_TEXT_COMPLETION
from .telemetry import Telemetry, active_telemetry, standalone_telemetry
from .template import CallTemplate

_START: Final = Guard("starting a model call")
_END: Final = Guard("ending a model call")


class OpenTelemetryCallback(BaseCallbackHandler):
    """Makes a span and metrics of every call of one model.

    ``ModelForgeInstrumentor`` adds one to every model that ``get_llm`` hands out. Without any patching it is given by
    hand::

        llm = registry.get_llm("openai", "gpt-4o-mini", callbacks=[OpenTelemetryCallback("openai", "gpt-4o-mini")])

    One instance serves any number of calls at once, and may be given twice, or to a model that has one already: a call
    has one span all the same. A copy of a model shares it; a pickle holds the model's names only and finds its
    providers anew. Without patches LangChain tells it nothing of an ``ainvoke`` that is cancelled: that call stays open
    until the process ends.

    :param provider: ModelForge's name of the provider.
    :param model: ModelForge's alias of the model.
    :param otel_enabled: False records nothing; True always records; None asks ``is_otel_available()``.
    :param tracer_provider: instead of the instrumentor's, else the global one.
    :param meter_provider: instead of the instrumentor's, else the global one.
    :raises TypeError: when a name is no string.
    """

    # Else LangChain sends every event of an async call through a thread pool.
    run_inline = True
    # LangChain asks before each event, and the base class has a property for it.
    ignore_llm = False  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
    # All that gets past the guards is an interrupt, which LangChain would swallow.
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
        self._template: CallTemplate | None = None

    @classmethod
    def for_model(
        cls,
        telemetry: Telemetry,
        identity: ModelIdentity,
        created_by: SpanContext | None,
        pricing: Mapping[str, object] | None,
    ) -> Self:
        """Return the callback of a model from an instrumented registry; it is silent once that is uninstrumented.

        :param created_by: the ``get_llm`` span, which every call links to.
        :param pricing: the models.dev metadata of the model.
        """
        callback = cls(identity.provider, identity.model)
        callback._identity = identity
        callback.injected = True
        callback._created_by = created_by
        callback._pricing = pricing
        callback._template = callback._template_for(telemetry)
        return callback

    @property
    def otel_enabled(self) -> bool:
        """Whether calls are recorded now."""
        if self._otel_enabled is not None:
            return self._otel_enabled
        telemetry = self._telemetry()
        return telemetry is not None and telemetry.is_available()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start the call of a chat model."""
        with _START:
            self._start(OPERATION_CHAT, run_id, messages[0], metadata, kwargs)

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start the call of a text-completion model."""
        with _START:
            self._start(OPERATION_TEXT_COMPLETION, run_id, prompts, metadata, kwargs)

    def on_llm_new_token(self, token: Any = "", *, run_id: UUID, chunk: object = None, **kwargs: Any) -> None:
        """Count a chunk of a streamed response."""
        call = open_calls.get(run_id)
        if call is not None:
            call.chunk(chunk)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """End the call with its answer, unless whoever ran the model has seen it."""
        call = open_calls.get(run_id)
        if call is not None:
            with _END:
                call.end(next(iter(_generations(response)), ()), getattr(response, "llm_output", None), response)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """End the call with ``error``, and with what a stream had brought before it."""
        call = open_calls.get(run_id)
        if call is not None:
            with _END:
                generations = _generations(kwargs.get("response"))
                # Of a stream: what had come, and the error. Of any other call: the error alone.
                call.fail(error, generations[0] if len(generations) > 1 else ())

    def _start(
        self,
        operation: str,
        run_id: UUID,
        prompt: list[BaseMessage] | list[str],
        metadata: Mapping[str, object] | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        telemetry = self._telemetry()
        if telemetry is None or run_id in open_calls or not self._records(telemetry):
            return
        template = self._template
        if template is None or template.telemetry is not telemetry:
            template = self._template = self._template_for(telemetry)
        params: Mapping[str, object] | None = kwargs.get("invocation_params")
        frame = current_frame()
        model = requested_model(params)
        template = template.of(operation, model)
        enclosing = enclosing_inference(operation, run_id, model or (metadata or {}).get("ls_model_name"))
        call: Call
        if enclosing is not None:
            call = EnrichingCall(template, run_id, enclosing)
        else:
            call = ModelCall(
                template,
                run_id,
                prompt=prompt,
                params=params,
                metadata=metadata,
                streaming=frame is not None and frame.streaming,
            )
        if frame is not None:
            frame.adopt(call)

    def _records(self, telemetry: Telemetry) -> bool:
        if self._otel_enabled is None:
            return telemetry.is_available() and is_instrumentation_enabled()
        return self._otel_enabled and is_instrumentation_enabled()

    def _telemetry(self) -> Telemetry | None:
        """Return the instrumentor's telemetry, or a hand-given callback's own where it must or there is no other."""
        if self._tracer_provider is None and self._meter_provider is None:
            active = active_telemetry()
            if active is not None or self.injected:
                return active
        return standalone_telemetry(
            self._tracer_provider or get_tracer_provider(), self._meter_provider or get_meter_provider()
        )

    def _template_for(self, telemetry: Telemetry) -> CallTemplate:
        return CallTemplate(telemetry, self._identity, created_by=self._created_by, pricing=self._pricing)

    def __eq__(self, other: object) -> bool:
        # Two models that differ in nothing else are equal, as they are uninstrumented.
        if not (isinstance(other, OpenTelemetryCallback) and self.injected and other.injected):
            return self is other
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity) if self.injected else id(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copied model is the same model, and its open calls are told apart by their run ids.
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Providers and tracers hold locks, threads and sockets, and belong to one process.
        return self.__dict__ | {"_tracer_provider": None, "_meter_provider": None, "_template": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.injected and ModelForgeInstrumentor().is_instrumented_by_opentelemetry:
            # It waits for this import, which a process that only unpickles models never makes.
            with suppress(ImportError):
                import_module("modelforge.registry")


def llm_new_token(wrapped: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``CallbackManagerForLLMRun.on_llm_new_token``.

    LangChain takes several times as long to bring a chunk to a callback as counting it takes, so a run that has ours
    alone counts it here.
    """

    @wraps(wrapped)
    def on_llm_new_token(self: BaseRunManager, token: Any, *, chunk: object = None, **kwargs: Any) -> None:
        if not _counted(self, chunk):
            wrapped(self, token, chunk=chunk, **kwargs)

    return on_llm_new_token


def allm_new_token(wrapped: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Wrap ``AsyncCallbackManagerForLLMRun.on_llm_new_token``, as :func:`llm_new_token` does the other."""

    @wraps(wrapped)
    async def on_llm_new_token(self: BaseRunManager, token: Any, *, chunk: object = None, **kwargs: Any) -> None:
        if not _counted(self, chunk):
            await wrapped(self, token, chunk=chunk, **kwargs)

    return on_llm_new_token


def _counted(run: BaseRunManager, chunk: object) -> bool:
    """Count a chunk if our callback is the only one of its run, and return whether it is."""
    handlers = run.handlers
    # Not isinstance: a subclass may do more.
    if type(handlers) is not list or len(handlers) != 1 or type(handlers[0]) is not OpenTelemetryCallback:
        return False
    call = open_calls.get(run.run_id)
    if call is not None:
        call.chunk(chunk)
    return True


def _generations(response: object) -> Sequence[Sequence[object]]:
    """Return what came of each prompt, whatever it is that was reported."""
    generations = getattr(response, "generations", None)
    if not isinstance(generations, list):
        return ()
    return [cast("list[object]", found) for found in cast("list[object]", generations) if isinstance(found, list)]
