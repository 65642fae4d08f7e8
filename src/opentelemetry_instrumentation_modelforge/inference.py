# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A call with a span, metrics and an event of its own. Only this file emits them."""

from collections.abc import Iterator, Sequence
from itertools import islice
from sys import exception
from time import perf_counter, time_ns
from typing import Final

from langchain_core.language_models import BaseChatModel
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    Context,
    get_current,
)
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import INVALID_SPAN, INVALID_SPAN_CONTEXT, Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.util.types import AnyValue

from .call import CALL_KEY, Call, open_calls
from .capture import ContentCapture
from .coexistence import InnerReport, context_of_inference
from .ending import Ending, stream_attributes
from .errors import describe_error, error_type
from .measurement import Series
from .model import Attributes, Model
from .otel_utils import Guard
from .providers.langchain import is_of_another_run
from .request import Request
from .response import NO_RESPONSE, Response, Usage
from .scope import Scope
from .semconv import EVENT_CHUNK, EVENT_OPERATION_DETAILS, MODELFORGE_CHUNK_INDEX, MODELFORGE_RESPONSE_CACHED
from .telemetry import Telemetry

_UNREPORTED: Final = Usage()

# The keys of OpenTelemetry's suppress_instrumentation, which an interrupt can keep from restoring the context.
_SUPPRESSED: Final = {_SUPPRESS_INSTRUMENTATION_KEY: True, "suppress_instrumentation": True}

# langchain-core has marked answers from its cache since it gained this method (0.3.76).
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


class Inference(Call):
    """A call that has a span and metrics of its own."""

    __slots__ = (
        "_attributes",
        "_chunks",
        "_gaps",
        "_handled",
        "_last_chunk_at",
        "_metric_attributes",
        "_report",
        "_seen",
        "_span_context",
        "_started",
        "_stream_count",
        "_streaming",
        "_time_to_first_chunk",
        "span",
    )

    def __init__(self, model: Model, request: Request) -> None:
        super().__init__(model, request)
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
        self._stream_count: Iterator[int] = iter((1, -1))
        """The changes that the call has yet to make to the number of active streams."""
        self._streaming = False
        """Whether the call is counted as a stream."""
        self._started = 0.0
        self.span: Span = INVALID_SPAN
        self._span_context = INVALID_SPAN_CONTEXT

    def start(self) -> None:
        """Open the call: its span, its context, and its count as an active stream."""
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
        model, request = self._model, self._request
        configuration = model.telemetry.configuration
        caller = get_current()
        with _REQUEST_GUARD:
            self._describe_request(caller)
        self.span = model.telemetry.tracer.start_span(
            model.span_name, caller, SpanKind.CLIENT, self._attributes, model.links
        )
        self._started = perf_counter()
        self._span_context = self.span.get_span_context()
        context = context_of_inference(set_span_in_context(self.span, caller), self._report)
        context[CALL_KEY] = self
        self.context = Context(context)
        if request.streaming:
            self._open_stream()
        if configuration.request_hook is not None:
            with _REQUEST_HOOK_GUARD:
                configuration.request_hook(self.span, list(request.prompt), request.hook_parameters())  # pyright: ignore[reportArgumentType]

    def _describe_request(self, caller: Context) -> None:
        model, request = self._model, self._request
        self._attributes = {
            **model.attributes,
            **request.attributes(model.kind),
            **model.copied_attributes(request, caller),
        }
        self._metric_attributes = model.metric_attributes_of(request, caller)

    def chunk(self, chunk: object) -> None:
        """Count one chunk, and measure when it arrived."""
        if chunk is self._seen and chunk is not None:
            return
        self._seen = chunk
        now = perf_counter()
        try:
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
        except Exception:
            # Entered only here, because entering the guard for every chunk would cost as much as the rest.
            with _CHUNK_GUARD:
                raise

    def _note_first_chunk(self, now: float) -> None:
        telemetry = self._model.telemetry
        self._time_to_first_chunk = now - self._started
        if not self._streaming:
            self._open_stream()
        if telemetry.configuration.chunk_metrics:
            self._gaps = telemetry.time_per_output_chunk.series(self._metric_attributes, self._span_context)
        if telemetry.configuration.chunk_events == "first":
            self.span.add_event(EVENT_CHUNK, {MODELFORGE_CHUNK_INDEX: 0})

    def _open_stream(self) -> None:
        # Set first, because an interrupt may come before or after the count. Closing the stream counts the rest.
        self._streaming = True
        self._count_stream(islice(self._stream_count, 1))

    def _finish(self, ending: Ending) -> None:
        now = perf_counter()
        end = now if self._dropped_at is None else self._dropped_at
        # Hooks and the capture of content take their own time.
        end_time = time_ns() - int((now - end) * 1e9)
        streaming = self._streaming
        response, cost = NO_RESPONSE, None
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
                response_hook(self.span, ending.llm_result())
        with _END_GUARD:
            self.span.end(end_time)
        self._handled = self._seen = None

    def _abort(self) -> None:
        if self._streaming:
            self._count_stream(self._stream_count)
        if self.span.is_recording():
            self.span.end()

    def _count_stream(self, changes: Iterator[int]) -> None:
        self._model.telemetry.active_streams.record_each(changes, self._metric_attributes, self._span_context)

    def _response(self, ending: Ending) -> Response:
        response = self.answer.response(ending.generations, ending.llm_output)
        if not _CACHE_IS_MARKED and is_of_another_run(ending.generations, self.run_id):
            response = response._replace(cached=True, usage=None, cost=None)
        if self._report.operation_name is not None and not response.cached:
            response = response.completed_by(self._report.response())
        if not response.finish_reasons and not ending.is_complete(response):
            response = response._replace(finish_reasons=("error",))
        return response

    def _measure(self, duration: float, ending: Ending, response: Response, cost: float | None) -> None:
        telemetry, span = self._model.telemetry, self._span_context
        if self._streaming:
            self._count_stream(self._stream_count)
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
        if (error := ending.error_type(response)) is not None:
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
        attributes = ending.attributes(self._model, self._request, response, cost)
        if streaming:
            attributes.update(stream_attributes(self._chunks, self._time_to_first_chunk))
        if self._report.attributes:
            # The findings of the provider client's instrumentation, if it reports to us.
            attributes = {**self._report.attributes, **attributes}
        if recording:
            self.span.set_attributes(attributes)
        if capture is not None:
            self._emit_content(capture, recording, ending, attributes, response)
        if recording and (error := ending.error_type(response)) is not None:
            with _ERROR_GUARD:
                if ending.error is not None:
                    record_error(
                        self.span, ending.error, self._model.telemetry, self._model.identity.secrets, self._handled
                    )
                else:
                    self.span.set_status(StatusCode.ERROR, error)

    def _emit_content(
        self,
        capture: ContentCapture,
        recording: bool,
        ending: Ending,
        outcome_attributes: Attributes,
        response: Response,
    ) -> None:
        """Pass the content to the span, the event and the completion hook, as configured."""
        content = None
        if capture.wanted(recording=recording):
            # A redact function that calls a model must not be called for that call, too.
            scope = Scope()
            with scope, scope:
                scope.attach(Context({**get_current(), **_SUPPRESSED}))
                content = capture.capture(
                    self._request.prompt,
                    ending.generations,
                    self._request.params,
                    secrets=self._model.identity.secrets,
                    system_separately=self._model.kind.separate_system_instructions,
                    finish_reasons=response.finish_reasons,
                    default_finish_reason="unknown" if ending.is_complete(response) else "error",
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


def record_error(
    span: Span,
    error: BaseException,
    telemetry: Telemetry,
    secrets: Sequence[str] = (),
    handled: BaseException | None = None,
) -> None:
    """Mark ``span`` as failed with ``error``: status, ``error.type`` and an exception event.

    :param secrets: the model's credentials.
    :param handled: the exception that the application was handling before, which is not recorded.
    """
    # Set first, because an unusual exception may make its description fail.
    span.set_status(StatusCode.ERROR)
    span.set_attribute(error_attributes.ERROR_TYPE, error_type(error))
    description = describe_error(error, secrets=secrets, full=telemetry.full_errors, handled=handled)
    span.set_status(StatusCode.ERROR, description.message)
    span.add_event("exception", description.event_attributes())


def _is_internal(chunk: object) -> bool:
    """Return whether a chunk stays inside the model's own class, as when ``ChatOllama`` streams an ``invoke``.

    LangChain assigns an id to each chunk that it passes on, before it notifies the callbacks.
    """
    message = getattr(chunk, "message", None)
    return message is not None and getattr(message, "id", None) is None
