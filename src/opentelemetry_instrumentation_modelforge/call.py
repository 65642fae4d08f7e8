"""The life of one model call: opened, a chunk, ended, failed, dropped. The only file that emits its telemetry.

A call ends exactly once, however many frames, callbacks and threads learn of its end: ending it removes it from
``open_calls``, and nothing happens where it has been removed before. An interrupt (``KeyboardInterrupt``, or an exception
that a signal handler raises) may come between any two statements. So a call is known to its frame before its span
starts, and ``_close`` makes up for an end that was cut short.
"""

import os
from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from sys import exception
from time import perf_counter, time_ns
from typing import Final, Literal, NamedTuple
from uuid import UUID

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context, create_key, get_current
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.util.types import AnyValue, AttributeValue

from .capture import ContentCapture
from .coexistence import InnerReport, OuterInference, context_of_inference, publish
from .errors import describe_error, error_type
from .estimate import estimated_usage
from .measurement import Series
from .model import Attributes, Model, baggage_attributes
from .otel_utils import Guard
from .providers.langchain import is_of_another_run
from .request import metadata_attributes, request_attributes
from .response import Response, Usage
from .semconv import (
    EVENT_CHUNK,
    EVENT_OPERATION_DETAILS,
    GEN_AI_USAGE_COST_AMOUNT,
    GEN_AI_USAGE_COST_CURRENCY,
    GEN_AI_USAGE_COST_SOURCE,
    MODELFORGE_CHUNK_INDEX,
    MODELFORGE_OUTCOME,
    MODELFORGE_RESPONSE_CACHED,
    MODELFORGE_RESPONSE_CHUNK_COUNT,
    MODELFORGE_USAGE_ESTIMATED,
    MODELFORGE_USAGE_REFERENCE_COST,
)

Outcome = Literal["completed", "failed", "cancelled", "closed", "abandoned"]
"""How a call ended: with its answer, with an error, cancelled, as a stream that its consumer left, or never."""

_EMPTY: Final = Response()
_UNREPORTED: Final = Usage()

# langchain-core marks an answer from its cache since it has this method (0.3.76).
_CACHE_IS_MARKED: Final = hasattr(BaseChatModel, "_convert_cached_generations")

_REQUEST_GUARD: Final = Guard("describing a request")
_REQUEST_HOOK_GUARD: Final = Guard("calling the request_hook")
_RESPONSE_GUARD: Final = Guard("reading a response")
_COMPLETION_HOOK_GUARD: Final = Guard("calling the completion_hook")
_RESPONSE_HOOK_GUARD: Final = Guard("calling the response_hook")
_PRICE_GUARD: Final = Guard("pricing a call")
_MEASURE_GUARD: Final = Guard("measuring a call")
_ERROR_GUARD: Final = Guard("describing an error")
_SPAN_GUARD: Final = Guard("describing how a call ended")
_CHUNK_GUARD: Final = Guard("recording a chunk")
_END_GUARD: Final = Guard("ending a span")

_CALL_KEY: Final = create_key("opentelemetry_instrumentation_modelforge.call")

open_calls: Final[dict[int, "Call"]] = {}
"""Every call in flight in this process, by its ``id()``. Removing an entry grants the right to end the call."""

if hasattr(os, "register_at_fork"):
    # The parent process ends them.
    os.register_at_fork(after_in_child=open_calls.clear)


def current_call() -> "Call | None":
    """Return the call whose provider works in the current context."""
    return get_current().get(_CALL_KEY)  # pyright: ignore[reportReturnType]


def context_without_call(context: Context) -> Context:
    """Return ``context`` for a model that has no call of its own, whose answers are not those of a call around it."""
    return Context({**context, _CALL_KEY: None}) if context.get(_CALL_KEY) is not None else context


class Run(NamedTuple):
    """What LangChain tells of a run when it starts."""

    id: UUID
    prompt: Sequence[BaseMessage] | Sequence[str]
    params: Mapping[str, object] | None = None
    metadata: Mapping[str, object] | None = None
    tags: Sequence[str] | None = None
    name: str | None = None
    client: Mapping[str, object] = {}
    """The fields of the LangChain model that runs; empty where it is not known."""
    streaming: bool = False


class Ending(NamedTuple):
    """How a call ended, and what it brought."""

    outcome: Outcome
    generations: Sequence[object] = ()
    llm_output: object = None
    error: BaseException | None = None
    result: LLMResult | None = None


class Call(ABC):
    """One call of a model, from LangChain's start event to its end."""

    __slots__ = ("_dropped_at", "_model", "answer", "context", "run_id")

    def __init__(self, model: Model, run_id: UUID) -> None:
        self._model = model
        self._dropped_at: float | None = None
        self.run_id = run_id
        self.answer = model.kind.answer()
        """Reads what the provider sends."""
        self.context: Context | None = None
        """Current while the provider works; None where another instrumentation sees to the current span."""

    @abstractmethod
    def start(self) -> None:
        """Open the call. An exception that leaves this method leaves no open call."""

    def context_over(self, current: Context) -> Context:
        """Return the context for the provider's work.

        :param current: the context that is current otherwise.
        """
        return self.context or Context({**current, _CALL_KEY: self})

    @abstractmethod
    def chunk(self, chunk: object) -> None:
        """Count one chunk of a stream. A second callback on the model may bring the same chunk again."""

    def end(self, generations: Sequence[object], llm_output: object, result: LLMResult | None = None) -> None:
        """End the call with its answer.

        :param generations: LangChain's generations for one prompt.
        :param llm_output: the ``llm_output`` of LangChain's result.
        :param result: the argument of the response hook, where LangChain has made one.
        """
        self._close(Ending("completed", generations, llm_output, result=result))

    def fail(self, error: BaseException, generations: Sequence[object] = ()) -> None:
        """End the call with ``error``. Closing a stream early is no error.

        :param generations: what the stream had brought before.
        """
        if isinstance(error, GeneratorExit):
            self._close(Ending("closed", generations))
        else:
            self._close(Ending("cancelled" if isinstance(error, CancelledError) else "failed", generations, error=error))

    def note_drop(self) -> None:
        """Note that the stream was dropped now. The call is ended later, see ``dropped.py``."""
        if self._dropped_at is None:
            self._dropped_at = perf_counter()

    def abandon(self) -> None:
        """End the call because the process ends."""
        self._close(Ending("abandoned"))

    def _close(self, ending: Ending) -> None:
        claimed = False
        try:
            claimed = open_calls.pop(id(self), None) is not None
            if claimed:
                self._finish(ending)
        except BaseException:
            # An interrupt: the guards let nothing else pass.
            if claimed:
                self._abort()
            raise

    @abstractmethod
    def _finish(self, ending: Ending) -> None: ...

    def _abort(self) -> None:
        """Release what an interrupted ``_finish`` has left open."""


class ModelCall(Call):
    """A call that has a span and metrics of its own."""

    __slots__ = (
        "_attributes",
        "_chunks",
        "_gaps",
        "_handled",
        "_last_chunk_at",
        "_metric_attributes",
        "_report",
        "_run",
        "_seen",
        "_started",
        "_streaming",
        "_time_to_first_chunk",
        "span",
    )

    def __init__(self, model: Model, run: Run) -> None:
        super().__init__(model, run.id)
        self._run = run
        self._attributes: Attributes = model.attributes
        self._metric_attributes: Attributes = model.metric_attributes
        self._report = InnerReport()
        self._handled = exception()
        """The exception that the application is handling: an error of the call has it as its context."""
        self._seen: object = None
        self._chunks = 0
        self._gaps: Series | None = None
        self._last_chunk_at = 0.0
        self._time_to_first_chunk: float | None = None
        self._streaming = False
        """Whether the call counts as an active stream."""
        self._started = 0.0
        self.span: Span = INVALID_SPAN

    def start(self) -> None:
        """Open the call: its span, its context, and its place among the active streams."""
        try:
            open_calls[id(self)] = self
            self._start()
        except BaseException as error:
            if self.span is INVALID_SPAN:
                open_calls.pop(id(self), None)
            else:
                self.fail(error)
            raise

    def _start(self) -> None:
        model, run = self._model, self._run
        configuration = model.telemetry.configuration
        caller = get_current()
        with _REQUEST_GUARD:
            self._describe_request(caller)
        self.span = model.telemetry.tracer.start_span(
            model.span_name, caller, SpanKind.CLIENT, self._attributes, model.links
        )
        self._started = perf_counter()
        context = context_of_inference(set_span_in_context(self.span, caller), self._report)
        context[_CALL_KEY] = self
        self.context = Context(context)
        if run.streaming:
            self._open_stream()
        if configuration.request_hook is not None:
            about = {"metadata": run.metadata, "tags": run.tags, "run_name": run.name, **(run.params or {})}
            with _REQUEST_HOOK_GUARD:
                configuration.request_hook(self.span, list(run.prompt), about)  # pyright: ignore[reportArgumentType]

    def _describe_request(self, caller: Context) -> None:
        model, run = self._model, self._run
        configuration = model.telemetry.configuration
        self._attributes = {
            **model.attributes,
            **request_attributes(model.kind, run.params, run.metadata, run.client),
        }
        if configuration.baggage_keys:
            self._attributes |= baggage_attributes(configuration.baggage_keys, caller)
        if configuration.metadata_keys:
            self._attributes |= metadata_attributes(configuration.metadata_keys, run.metadata, run.tags, run.name)
        if configuration.metric_baggage_keys:
            self._metric_attributes = {
                **self._metric_attributes,
                **baggage_attributes(configuration.metric_baggage_keys, caller),
            }
        if configuration.metric_metadata_keys:
            self._metric_attributes = {
                **self._metric_attributes,
                **metadata_attributes(configuration.metric_metadata_keys, run.metadata, run.tags, run.name),
            }

    def chunk(self, chunk: object) -> None:
        """Count one chunk: the time it came at, and that it came."""
        if chunk is not None and chunk is self._seen:
            return
        self._seen = chunk
        now = perf_counter()
        with _CHUNK_GUARD:
            self.answer.add_chunk(chunk)
            if self._chunks:
                if self._gaps is not None:
                    self._gaps.record(now - self._last_chunk_at)
            elif self._streaming or not _is_internal(chunk):
                self._note_first_chunk(now)
            else:
                return
            self._last_chunk_at = now
            self._chunks += 1
            if self._model.every_chunk:
                self.span.add_event(EVENT_CHUNK, {MODELFORGE_CHUNK_INDEX: self._chunks - 1})

    def _note_first_chunk(self, now: float) -> None:
        telemetry = self._model.telemetry
        self._time_to_first_chunk = now - self._started
        if not self._streaming:
            self._open_stream()
        if telemetry.configuration.chunk_metrics:
            self._gaps = telemetry.time_per_output_chunk.series(
                self._metric_attributes, self.span.get_span_context()
            )
        if telemetry.configuration.chunk_events == "first":
            self.span.add_event(EVENT_CHUNK, {MODELFORGE_CHUNK_INDEX: 0})

    def _open_stream(self) -> None:
        # In one statement, between which and the next an interrupt may come.
        self._streaming = self._model.telemetry.active_streams.record(
            1, self._metric_attributes, self.span.get_span_context()
        )

    def _finish(self, ending: Ending) -> None:
        now = perf_counter()
        end = now if self._dropped_at is None else self._dropped_at
        streaming = self._streaming
        response, cost = _EMPTY, None
        try:
            with _RESPONSE_GUARD:
                response = self._response(ending)
            with _PRICE_GUARD:
                cost = self._model.price(response)
        finally:
            with _MEASURE_GUARD:
                self._measure(end - self._started, ending, response, cost)
        with _SPAN_GUARD:
            self._describe(ending, response, cost, streaming=streaming)
        response_hook = self._model.telemetry.configuration.response_hook
        if response_hook is not None and ending.outcome == "completed":
            with _RESPONSE_HOOK_GUARD:
                response_hook(self.span, ending.result or _llm_result(ending))
        with _END_GUARD:
            self.span.end(None if end == now else time_ns() - int((now - end) * 1e9))
        # A context that was copied during the call keeps this object, and must not keep the prompt.
        self._run = self._run._replace(prompt=(), params=None)
        self._handled = self._seen = None

    def _abort(self) -> None:
        if self._streaming:
            self._close_stream()
        if self.span.is_recording():
            self.span.end()

    def _close_stream(self) -> None:
        self._streaming = not self._model.telemetry.active_streams.record(
            -1, self._metric_attributes, self.span.get_span_context()
        )

    def _response(self, ending: Ending) -> Response:
        if ending.error is not None:
            self.answer.add_error(ending.error)
        response = self.answer.response(ending.generations, ending.llm_output)
        if not _CACHE_IS_MARKED and is_of_another_run(ending.generations, self.run_id):
            response = response._replace(cached=True, usage=None, cost=None)
        if not response.cached:
            response = response.completed_by(self._report.response())
        if ending.outcome != "completed" and not response.finish_reasons:
            response = response._replace(finish_reasons=("error",))
        return response

    def _measure(self, duration: float, ending: Ending, response: Response, cost: float | None) -> None:
        telemetry = self._model.telemetry
        span = self.span.get_span_context()
        if self._streaming:
            self._close_stream()
        if self._gaps is not None:
            self._gaps.close()
        if self._time_to_first_chunk is not None:
            telemetry.time_to_first_chunk.record(self._time_to_first_chunk, self._metric_attributes, span)
        attributes = self._model.metric_attribute_sets(self._metric_attributes, response.model)
        usage = response.usage or _UNREPORTED
        if usage.input_tokens is not None:
            telemetry.token_usage.record(usage.input_tokens, attributes.input_tokens, span)
        if usage.output_tokens is not None:
            telemetry.token_usage.record(usage.output_tokens, attributes.output_tokens, span)
        if cost is not None:
            telemetry.cost.record(cost, attributes.call, span)
        of_call = attributes.call
        error = response.error if ending.error is None else error_type(ending.error)
        if error is not None:
            of_call = {**of_call, error_attributes.ERROR_TYPE: error}
        if response.cached:
            # Mark cache hits so that latency charts can exclude them.
            of_call = {**of_call, MODELFORGE_RESPONSE_CACHED: True}
        telemetry.duration.record(duration, of_call, span)

    def _describe(self, ending: Ending, response: Response, cost: float | None, *, streaming: bool) -> None:
        capture = self._model.telemetry.content
        recording = self.span.is_recording()
        if not recording and capture is None:
            return
        attributes = self._outcome_attributes(ending, response, cost, streaming=streaming)
        if recording:
            self.span.set_attributes(attributes)
        if capture is not None:
            self._emit_content(capture, recording, ending, attributes)
        if recording:
            with _ERROR_GUARD:
                if ending.error is not None:
                    record_error(self.span, ending.error, self._model, handled=self._handled)
                elif response.error is not None:
                    self.span.set_status(StatusCode.ERROR, response.error)

    def _outcome_attributes(
        self, ending: Ending, response: Response, cost: float | None, *, streaming: bool
    ) -> dict[str, AttributeValue]:
        outcome = "failed" if response.error is not None and ending.outcome == "completed" else ending.outcome
        attributes: dict[str, AttributeValue] = {MODELFORGE_OUTCOME: outcome}
        error = response.error if ending.error is None else error_type(ending.error)
        if error is not None:
            attributes[error_attributes.ERROR_TYPE] = error
        if streaming:
            attributes[gen_ai.GEN_AI_REQUEST_STREAM] = True
            attributes[MODELFORGE_RESPONSE_CHUNK_COUNT] = self._chunks
            if self._time_to_first_chunk is not None:
                attributes[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = self._time_to_first_chunk
        attributes.update(response.attributes())
        usage = response.usage
        if usage is None and ending.generations and not response.cached:
            if self._model.telemetry.configuration.estimate_tokens:
                usage = estimated_usage(self._run.prompt, ending.generations)
                attributes.update(usage.attributes())
                attributes[MODELFORGE_USAGE_ESTIMATED] = True
        if usage is not None and (reference := self._model.reference_price(usage)) is not None:
            attributes[MODELFORGE_USAGE_REFERENCE_COST] = reference
        if cost is not None:
            attributes.update(_cost_attributes(cost, response))
        # The findings of the instrumentation of the provider's client, where it is one that reports to us.
        return {**self._report.attributes, **attributes}  # pyright: ignore[reportReturnType]

    def _emit_content(
        self, capture: ContentCapture, recording: bool, ending: Ending, outcome_attributes: Attributes
    ) -> None:
        """Give the content to the span, the event and the completion hook, as far as each wants it."""
        content = None
        if capture.wanted(recording=recording):
            # A redact function that asks a model must not be asked about that call, too.
            with suppress_instrumentation():
                content = capture.capture(
                    self._run.prompt,
                    ending.generations,
                    self._run.params,
                    secrets=self._model.identity.secrets,
                    system_separately=self._model.kind.separate_system_instructions,
                )
        if content is not None and capture.on_span and recording:
            self.span.set_attributes(content.span_attributes())
        event = None
        if capture.emit_event:
            attributes: dict[str, AnyValue] = {**self._attributes, **outcome_attributes}
            if content is not None and capture.on_event:
                attributes.update(content.event_attributes())
            event = LogRecord(
                event_name=EVENT_OPERATION_DETAILS,
                severity_number=SeverityNumber.DEBUG,
                attributes=attributes,
                context=self.context,
            )
        if capture.hook is not None and content is not None:
            with _COMPLETION_HOOK_GUARD:
                # Before the event and the span are emitted, because a hook may add to both.
                capture.hook.on_completion(
                    inputs=content.input_messages,
                    outputs=content.output_messages,
                    system_instruction=content.system_instructions,
                    tool_definitions=content.tool_definitions or None,
                    span=self.span,
                    log_record=event,
                )
        if event is not None:
            self._model.telemetry.logger.emit(event)


class EnrichingCall(Call):
    """A call that another GenAI instrumentation has a span for: it adds what only ModelForge knows."""

    __slots__ = ("_caller", "_outer")

    def __init__(self, model: Model, run_id: UUID, outer: OuterInference) -> None:
        super().__init__(model, run_id)
        self._outer = outer
        self._caller = get_current()

    def start(self) -> None:
        """Open the call, and report the names of its model."""
        try:
            open_calls[id(self)] = self
            self._publish(_EMPTY)
        except BaseException:
            open_calls.pop(id(self), None)
            raise

    def chunk(self, chunk: object) -> None:
        """Report a stream's usage when the chunk comes that has it: the other instrumentation ends its span before."""
        with _CHUNK_GUARD:
            self.answer.add_chunk(chunk)
            # Ollama's usage is in the chunk's own information.
            if getattr(getattr(chunk, "message", None), "usage_metadata", None) or getattr(
                chunk, "generation_info", None
            ):
                self._publish(self.answer.response((chunk,), None))

    def _finish(self, ending: Ending) -> None:
        with _RESPONSE_GUARD:
            if ending.error is not None:
                self.answer.add_error(ending.error)
            response = self.answer.response(ending.generations, ending.llm_output)
            cost = self._publish(response)
            if cost is not None:
                # The other instrumentation has no such metric.
                attributes = {
                    **self._model.metric_attributes,
                    **baggage_attributes(self._model.telemetry.configuration.metric_baggage_keys, self._caller),
                }
                span = get_current_span(self._caller).get_span_context()
                self._model.telemetry.cost.record(cost, attributes, span)

    def _publish(self, response: Response) -> float | None:
        """Report what is known by now, and return the cost of the call in US dollars."""
        cost = self._model.price(response)
        data = self._outer.data()
        if data is not None:
            publish(data, response)
            data.attributes.update(self._model.modelforge_attributes)
            data.attributes.update(
                baggage_attributes(self._model.telemetry.configuration.baggage_keys, self._caller)
            )
            if cost is not None:
                data.attributes.update(_cost_attributes(cost, response))
            if response.cached:
                data.attributes[MODELFORGE_RESPONSE_CACHED] = True
        return cost


def abandon_open_calls() -> None:
    """End every call that is still open, when the process ends."""
    for call in list(open_calls.values()):
        call.abandon()


def _is_internal(chunk: object) -> bool:
    """Return whether only the model's own class sees a chunk, as where ``ChatOllama`` streams an ``invoke``.

    LangChain gives a chunk that it hands on an id before it tells the callbacks.
    """
    message = getattr(chunk, "message", None)
    return message is not None and getattr(message, "id", None) is None


def _cost_attributes(cost: float, response: Response) -> dict[str, AttributeValue]:
    return {
        GEN_AI_USAGE_COST_AMOUNT: cost,
        GEN_AI_USAGE_COST_CURRENCY: "USD",
        GEN_AI_USAGE_COST_SOURCE: "local" if response.cost is None else "provider",
    }


def _llm_result(ending: Ending) -> LLMResult:
    return LLMResult.model_construct(generations=[list(ending.generations)], llm_output=ending.llm_output)
