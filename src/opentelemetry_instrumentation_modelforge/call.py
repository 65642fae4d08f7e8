"""One model call's telemetry: its span, its metrics and its event. The only file that emits them."""

import os
from abc import ABC, abstractmethod
from array import array
from asyncio import CancelledError
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from threading import get_ident
from time import perf_counter, time_ns
from traceback import format_exception
from typing import Final, Literal, cast
from uuid import UUID

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import error_attributes, exception_attributes
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, get_current_span, set_span_in_context
from opentelemetry.util.types import AnyValue, AttributeValue

from .coexistence import Enclosed, Enclosing, enclosing_context, publish
from .content import ContentCapture
from .measurement import MOST_IN_SERIES, exemplar_context
from .otel_utils import Guard
from .redaction import without_credentials
from .request import request_attributes
from .response import Response, Usage, is_of_another_run, read_response
from .semconv import (
    EVENT_CHUNK,
    EVENT_OPERATION_DETAILS,
    GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS,
    GEN_AI_USAGE_COST_AMOUNT,
    GEN_AI_USAGE_COST_CURRENCY,
    GEN_AI_USAGE_COST_SOURCE,
    MODELFORGE_CHUNK_INDEX,
    MODELFORGE_OUTCOME,
    MODELFORGE_RESPONSE_CACHED,
    MODELFORGE_RESPONSE_CHUNK_COUNT,
    MODELFORGE_USAGE_ESTIMATED,
    MODELFORGE_USAGE_REFERENCE_COST,
    TOKEN_INPUT,
    TOKEN_OUTPUT,
)
from .telemetry import Telemetry
from .template import CallTemplate

Outcome = Literal["completed", "failed", "cancelled", "closed", "abandoned"]
"""How a call ended: with its answer; with an error; cancelled; a stream closed by its consumer; never finished."""

# ModelForge's estimate (modelforge.telemetry).
_CHARACTERS_PER_TOKEN: Final = 4

_UNREAD: Final = Response()
_UNCOUNTED: Final = Usage()

# langchain-core marks an answer from its cache since it has this method (0.3.76).
_CACHE_IS_MARKED: Final = hasattr(BaseChatModel, "_convert_cached_generations")

_REQUEST: Final = Guard("describing a request")
_REQUEST_HOOK: Final = Guard("calling the request_hook")
_RESPONSE: Final = Guard("reading a response")
_COMPLETION_HOOK: Final = Guard("calling the completion_hook")
_RESPONSE_HOOK: Final = Guard("calling the response_hook")
_PRICE: Final = Guard("pricing a call")
_METRICS: Final = Guard("measuring a call")
_METRIC: Final = Guard("recording a measurement")
_ERROR: Final = Guard("describing an error")
_SPAN: Final = Guard("describing how a call ended")
_CHUNK: Final = Guard("recording a chunk")
_END: Final = Guard("ending a span")

open_calls: Final[dict[UUID, "Call"]] = {}
"""Every call in flight in this process by LangChain's run id: who finds a run here leaves it alone, so that a model
with two callbacks has one span, and whoever takes it out ends it, so that a call ends once."""

_dropped: Final[deque["Call"]] = deque()
"""Calls whose streams the garbage collector found, to be ended where it is not at work."""

if hasattr(os, "register_at_fork"):
    # The calls that are open at a fork are the parent's to end, and so are those it has yet to end.
    os.register_at_fork(after_in_child=open_calls.clear)
    os.register_at_fork(after_in_child=_dropped.clear)

_collecting: int | None = None
"""The thread the garbage collector is at work in."""


def note_collection(phase: str, info: Mapping[str, int]) -> None:
    """Note whether the garbage collector is at work; for ``gc.callbacks``."""
    global _collecting  # noqa: PLW0603
    _collecting = get_ident() if phase == "start" else None


def _end_dropped() -> None:
    # Another thread may take the last one.
    with suppress(IndexError):
        while True:
            _dropped.popleft().close()


class Call(ABC):
    """One call of a model, from LangChain's start event to its end, whichever way it ends."""

    __slots__ = ("_dropped_at", "_run_id", "_template", "context")

    def __init__(self, template: CallTemplate, run_id: UUID, context: Context | None) -> None:
        if _dropped:
            _end_dropped()
        self._dropped_at: float | None = None
        self._template = template
        self._run_id = run_id
        self.context: Context | None = context
        """Current while the provider works; None where another instrumentation sees to that."""
        open_calls[run_id] = self

    def end(self, generations: Sequence[object], llm_output: object, result: LLMResult | None = None) -> None:
        """End it with its answer.

        :param result: what to give to the response hook, where LangChain has made one.
        """
        if open_calls.pop(self._run_id, None) is not None:
            self._finish("completed", generations, llm_output, result=result)

    def fail(self, error: BaseException, generations: Sequence[object] = ()) -> None:
        """End it with ``error`` and what had been generated before. Closing a stream early is no error."""
        if open_calls.pop(self._run_id, None) is None:
            return
        if not isinstance(error, GeneratorExit):
            self._finish("cancelled" if isinstance(error, CancelledError) else "failed", generations, error=error)
        elif _collecting == get_ident():
            # The collector may have broken into anything: code that holds a lock which ending a span takes, or CPython
            # 3.11 in the middle of setting a context variable, which setting one then corrupts.
            self._dropped_at = perf_counter()
            _dropped.append(self)
        else:
            self._finish("closed", generations)

    def close(self) -> None:
        """End it as a stream that its consumer closed, when it was dropped."""
        self._finish("closed", ())

    def abandon(self) -> None:
        """End it because the process does."""
        if open_calls.pop(self._run_id, None) is not None:
            self._finish("abandoned", ())

    @abstractmethod
    def chunk(self, chunk: object) -> None:
        """Count one chunk of a streamed response; a second callback on the model brings the same one again."""

    @abstractmethod
    def _finish(
        self,
        outcome: Outcome,
        generations: Sequence[object],
        llm_output: object = None,
        *,
        error: BaseException | None = None,
        result: LLMResult | None = None,
    ) -> None: ...


class ModelCall(Call):
    """A call that has a span and metrics of its own."""

    __slots__ = (
        "_attributes",
        "_due",
        "_earlier",
        "_enclosed",
        "_metric_attributes",
        "_params",
        "_prompt",
        "_requested",
        "_seen",
        "_span_context",
        "_started",
        "_streaming",
        "_time_to_first_chunk",
        "_times",
        "span",
    )

    def __init__(
        self,
        template: CallTemplate,
        run_id: UUID,
        *,
        prompt: Sequence[BaseMessage] | Sequence[str],
        params: Mapping[str, object] | None,
        metadata: Mapping[str, object] | None,
        streaming: bool,
    ) -> None:
        telemetry = template.telemetry
        configuration = telemetry.configuration
        caller = get_current()
        self._attributes = template.attributes
        if configuration.baggage_keys:
            self._attributes = self._attributes | template.baggage_attributes(caller)
        self._metric_attributes = template.metric_attributes_in(caller)
        self._prompt = prompt
        self._params = params
        self._requested: dict[str, AttributeValue] = {}
        self._streaming = False
        self._seen: object = None
        self._time_to_first_chunk: float | None = None
        self._times = array("d")
        """Of the chunks, but for the ``_earlier`` ones whose series is full."""
        self._earlier = 0
        self._due = 1
        """How many times there must be for more to be done than to note one."""
        with _REQUEST:
            self._requested = request_attributes(params, metadata)
        self.span: Span = telemetry.tracer.start_span(
            template.span_name, caller, SpanKind.CLIENT, {**self._attributes, **self._requested}, template.links
        )
        self._started = perf_counter()
        self._span_context = self.span.get_span_context()
        self._enclosed = Enclosed()
        super().__init__(template, run_id, enclosing_context(set_span_in_context(self.span, caller), self._enclosed))
        if streaming:
            self._open_stream()
        if configuration.request_hook is not None:
            try:
                with _REQUEST_HOOK:
                    configuration.request_hook(self.span, list(prompt), dict(params or {}))  # pyright: ignore[reportArgumentType]
            except BaseException as error:
                # An interrupt, and no frame knows of this call yet.
                self.fail(error)
                raise

    def chunk(self, chunk: object) -> None:
        """Count one chunk: when it came, and that it came."""
        if chunk is not None and chunk is self._seen:
            return
        self._seen = chunk
        times = self._times
        times.append(perf_counter())
        if len(times) >= self._due:
            with _CHUNK:
                self._note_chunk(chunk)

    def _note_chunk(self, chunk: object) -> None:
        telemetry = self._template.telemetry
        times = self._times
        index = self._chunks - 1
        every = self._template.every_chunk
        if index == 0:
            if not self._streaming and _is_internal(chunk):
                times.pop()
                return
            self._time_to_first_chunk = times[0] - self._started
            if not every:
                self._due = MOST_IN_SERIES + 1
            if not self._streaming:
                self._open_stream()
        if len(times) > MOST_IN_SERIES:
            self._times = times[-1:]
            self._earlier += MOST_IN_SERIES
            telemetry.measurements.take_series(
                _record_gaps, telemetry, self._metric_attributes, self._span_context, times
            )
        if every or (index == 0 and telemetry.configuration.chunk_events != "off"):
            self.span.add_event(EVENT_CHUNK, {MODELFORGE_CHUNK_INDEX: index})

    @property
    def _chunks(self) -> int:
        return self._earlier + len(self._times)

    def _open_stream(self) -> None:
        self._streaming = True
        telemetry = self._template.telemetry
        telemetry.measurements.take(_record_opening, telemetry, self._metric_attributes, self._span_context)

    def _finish(
        self,
        outcome: Outcome,
        generations: Sequence[object],
        llm_output: object = None,
        *,
        error: BaseException | None = None,
        result: LLMResult | None = None,
    ) -> None:
        now = perf_counter()
        end = now if self._dropped_at is None else self._dropped_at
        try:
            self._record(end - self._started, outcome, generations, llm_output, error, result)
        finally:
            # Also when an interrupt comes in between.
            with _END:
                self.span.end(None if end == now else time_ns() - int((now - end) * 1e9))

    def _record(
        self,
        duration: float,
        outcome: Outcome,
        generations: Sequence[object],
        llm_output: object,
        error: BaseException | None,
        result: LLMResult | None,
    ) -> None:
        telemetry = self._template.telemetry
        response = _UNREAD
        amount = None
        with _RESPONSE:
            response = read_response(generations, llm_output)
            self._enclosed.complete(response)
            if not _CACHE_IS_MARKED and is_of_another_run(generations, self._run_id):
                response.cached, response.usage, response.cost = True, None, None
        with _PRICE:
            amount = self._template.amount(response)
        with _METRICS:
            # Not the response itself: this may wait for a minute, with a thousand others.
            usage = response.usage or _UNCOUNTED
            telemetry.measurements.take(
                _record_call,
                telemetry,
                self._metric_attributes,
                self._span_context,
                duration,
                response.model,
                response.cached,
                usage.input_tokens,
                usage.output_tokens,
                amount,
                None if error is None else error_type(error),
                self._time_to_first_chunk,
                self._times if self._streaming else None,
            )
        with _SPAN:
            recording = self.span.is_recording()
            if recording or telemetry.content is not None:
                attributes = self._outcome_attributes(outcome, generations, response, amount)
                self.span.set_attributes(attributes)
                if telemetry.content is not None:
                    self._emit_content(telemetry.content, recording, generations, attributes, error)
        if error is not None:
            with _ERROR:
                if self.span.is_recording():
                    capture = telemetry.content
                    said = () if capture is not None and capture.on_span else _texts(self._prompt)
                    record_error(self.span, error, self._template.identity.secrets, said)
        response_hook = telemetry.configuration.response_hook
        if response_hook is not None and outcome == "completed":
            with _RESPONSE_HOOK:
                response_hook(self.span, result or _llm_result(generations, llm_output))

    def _emit_content(
        self,
        capture: ContentCapture,
        recording: bool,
        generations: Sequence[object],
        outcome_attributes: Mapping[str, AttributeValue],
        error: BaseException | None,
    ) -> None:
        """Give what was said to the span, the event and the completion hook, as far as each wants it."""
        content = None
        if capture.wanted(recording=recording):
            identity = self._template.identity
            # A redact function that asks a model must not be asked about that call, too.
            with suppress_instrumentation():
                content = capture.capture(
                    self._prompt,
                    generations,
                    self._params,
                    secrets=identity.secrets,
                    system_separately=identity.llm_type == "google_genai",
                )
        if content is not None and capture.on_span and recording:
            self.span.set_attributes(content.span_attributes())
        event = None
        if capture.emit_event:
            attributes: dict[str, AnyValue] = {**self._attributes, **self._requested, **outcome_attributes}
            if error is not None:
                attributes[error_attributes.ERROR_TYPE] = error_type(error)
            if content is not None and capture.on_event:
                attributes.update(content.event_attributes())
            event = LogRecord(event_name=EVENT_OPERATION_DETAILS, attributes=attributes, context=self.context)
        if capture.hook is not None and content is not None:
            with _COMPLETION_HOOK:
                # Before the event and the span are gone: a hook may add to both.
                capture.hook.on_completion(
                    inputs=content.input_messages,
                    outputs=content.output_messages,
                    system_instruction=content.system_instructions,
                    tool_definitions=content.tool_definitions or None,
                    span=self.span,
                    log_record=event,
                )
        if event is not None:
            self._template.telemetry.logger.emit(event)

    def _outcome_attributes(
        self, outcome: Outcome, generations: Sequence[object], response: Response, amount: float | None
    ) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {MODELFORGE_OUTCOME: outcome}
        if self._streaming:
            attributes[gen_ai.GEN_AI_REQUEST_STREAM] = True
            attributes[MODELFORGE_RESPONSE_CHUNK_COUNT] = self._chunks
            if self._time_to_first_chunk is not None:
                attributes[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = self._time_to_first_chunk
        if response.id is not None:
            attributes[gen_ai.GEN_AI_RESPONSE_ID] = response.id
        if response.model is not None:
            attributes[gen_ai.GEN_AI_RESPONSE_MODEL] = response.model
        if response.finish_reasons:
            attributes[gen_ai.GEN_AI_RESPONSE_FINISH_REASONS] = response.finish_reasons
        if response.cached:
            attributes[MODELFORGE_RESPONSE_CACHED] = True
        else:
            usage = response.usage
            if usage is None and generations and self._template.telemetry.configuration.estimate_tokens:
                usage = Usage(_estimated_tokens(self._prompt), _estimated_tokens(generations))
                attributes[MODELFORGE_USAGE_ESTIMATED] = True
            if usage is not None:
                _add_usage(attributes, usage)
                rates = self._template.reference_rates
                if rates is not None and (reference := rates.amount(usage)) is not None:
                    attributes[MODELFORGE_USAGE_REFERENCE_COST] = reference
        if amount is not None:
            attributes.update(_cost_attributes(amount, response))
        # What the instrumentation of the provider's client found out, where it is one that reports to us.
        for name, value in self._enclosed.attributes.items():
            attributes.setdefault(name, value)
        return attributes


class EnrichingCall(Call):
    """A call that another GenAI instrumentation has a span for: it adds what only ModelForge knows."""

    __slots__ = ("_caller", "_enclosing")

    def __init__(self, template: CallTemplate, run_id: UUID, enclosing: Enclosing) -> None:
        super().__init__(template, run_id, None)
        self._enclosing = enclosing
        self._caller = get_current()
        self._publish(_UNREAD)

    def chunk(self, chunk: object) -> None:
        """Take a stream's usage from the chunk that has it."""
        # At the stream's end the other instrumentation hears first. Ollama's usage is in the chunk's own information.
        if getattr(getattr(chunk, "message", None), "usage_metadata", None) or getattr(chunk, "generation_info", None):
            with _CHUNK:
                self._publish(read_response((chunk,), None))

    def _finish(
        self,
        outcome: Outcome,
        generations: Sequence[object],
        llm_output: object = None,
        *,
        error: BaseException | None = None,
        result: LLMResult | None = None,
    ) -> None:
        with _RESPONSE:
            response = read_response(generations, llm_output)
            amount = self._publish(response)
            if amount is not None:
                # The other one has no such metric.
                telemetry = self._template.telemetry
                attributes = self._template.metric_attributes_in(self._caller)
                span = get_current_span(self._caller).get_span_context()
                telemetry.measurements.take(_record_cost, telemetry, attributes, span, amount)

    def _publish(self, response: Response) -> float | None:
        """Report what is known by now, and return what the call cost."""
        amount = self._template.amount(response)
        data = self._enclosing.data()
        if data is not None:
            publish(data, response)
            data.attributes.update(self._template.modelforge_attributes)
            data.attributes.update(self._template.baggage_attributes(self._caller))
            if amount is not None:
                data.attributes.update(_cost_attributes(amount, response))
            if response.cached:
                data.attributes[MODELFORGE_RESPONSE_CACHED] = True
        return amount


Attributes = Mapping[str, AttributeValue]


def _record(
    record: Callable[[float, Attributes, Context], None], value: float, attributes: Attributes, context: Context
) -> None:
    # Each though another fails.
    with _METRIC:
        record(value, attributes, context)


def _record_opening(telemetry: Telemetry, attributes: Attributes, span: SpanContext) -> None:
    _record(telemetry.active_streams.add, 1, attributes, exemplar_context(span))


def _record_gaps(telemetry: Telemetry, attributes: Attributes, span: SpanContext, times: Iterable[float]) -> None:
    context = exemplar_context(span)
    for earlier, later in pairwise(times):
        _record(telemetry.time_per_output_chunk.record, later - earlier, attributes, context)


def _record_cost(telemetry: Telemetry, attributes: Attributes, span: SpanContext, amount: float) -> None:
    _record(telemetry.cost.record, amount, attributes, exemplar_context(span))


def _record_call(
    telemetry: Telemetry,
    attributes: Attributes,
    span: SpanContext,
    duration: float,
    model: str | None,
    cached: bool,
    input_tokens: int | None,
    output_tokens: int | None,
    amount: float | None,
    error: str | None,
    time_to_first_chunk: float | None,
    times: Iterable[float] | None,
) -> None:
    """Record what a call measured, now that it is over."""
    context = exemplar_context(span)
    if times is not None:
        _record(telemetry.active_streams.add, -1, attributes, context)
        _record_gaps(telemetry, attributes, span, times)
    if time_to_first_chunk is not None:
        _record(telemetry.time_to_first_chunk.record, time_to_first_chunk, attributes, context)
    if model is not None:
        attributes = {**attributes, gen_ai.GEN_AI_RESPONSE_MODEL: model}
    for count, token_type in ((input_tokens, TOKEN_INPUT), (output_tokens, TOKEN_OUTPUT)):
        if count is not None:
            of_type = {**attributes, gen_ai.GEN_AI_TOKEN_TYPE: token_type}
            _record(telemetry.token_usage.record, count, of_type, context)
    if amount is not None:
        _record(telemetry.cost.record, amount, attributes, context)
    if error is not None:
        attributes = {**attributes, error_attributes.ERROR_TYPE: error}
    if cached:
        # A hit takes no time worth an average: whoever plots latency can leave it out.
        attributes = {**attributes, MODELFORGE_RESPONSE_CACHED: True}
    _record(telemetry.duration.record, duration, attributes, context)


def abandon_open_calls() -> None:
    """End every call still open, when the process ends."""
    _end_dropped()
    for call in list(open_calls.values()):
        call.abandon()


def record_error(span: Span, error: BaseException, secrets: Sequence[str], said: Sequence[str] = ()) -> None:
    """Mark ``span`` as failed with ``error``: status, ``error.type`` and an exception event.

    Without credentials, and without what the error quotes of ``said``. In that order: what comes first costs least and
    is least likely to fail on a strange exception.
    """
    span.set_status(StatusCode.ERROR)
    kind = error_type(error)
    span.set_attribute(error_attributes.ERROR_TYPE, kind)
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - in the words of the traceback module, which meets the same below.
        text = "<exception str() failed>"
    message = without_credentials(text, secrets)
    span.set_status(StatusCode.ERROR, message)
    stacktrace = without_credentials("".join(format_exception(error)), secrets)
    span.add_event(
        "exception",
        {
            exception_attributes.EXCEPTION_TYPE: kind,
            exception_attributes.EXCEPTION_MESSAGE: message,
            exception_attributes.EXCEPTION_STACKTRACE: stacktrace,
        },
    )


def error_type(error: BaseException) -> str:
    """Return the exception's fully qualified class name, as the conventions' ``error.type`` wants it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_internal(chunk: object) -> bool:
    """Return whether nobody but the model's own class sees a chunk: ``ChatOllama`` streams an ``invoke``, too.

    LangChain gives a chunk that it hands on an id before it tells the callbacks.
    """
    message = getattr(chunk, "message", None)
    return message is not None and getattr(message, "id", None) is None


def _cost_attributes(amount: float, response: Response) -> dict[str, AttributeValue]:
    return {
        GEN_AI_USAGE_COST_AMOUNT: amount,
        GEN_AI_USAGE_COST_CURRENCY: "USD",
        GEN_AI_USAGE_COST_SOURCE: "local" if response.cost is None else "provider",
    }


def _llm_result(generations: Sequence[object], llm_output: object) -> LLMResult:
    return LLMResult.model_construct(generations=[list(generations)], llm_output=llm_output)


_USAGE_ATTRIBUTES: Final = (
    ("input_tokens", gen_ai.GEN_AI_USAGE_INPUT_TOKENS),
    ("output_tokens", gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS),
    ("cache_read_input_tokens", gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS),
    ("cache_write_input_tokens", GEN_AI_USAGE_CACHE_WRITE_INPUT_TOKENS),
    ("reasoning_output_tokens", gen_ai.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS),
)


def _add_usage(attributes: dict[str, AttributeValue], usage: Usage) -> None:
    for field, attribute in _USAGE_ATTRIBUTES:
        if (count := getattr(usage, field)) is not None:
            attributes[attribute] = count


def _estimated_tokens(items: Sequence[object]) -> int | None:
    characters = sum(len(text) for text in _texts(items))
    return max(characters // _CHARACTERS_PER_TOKEN, 1) if characters else None


def _texts(items: Iterable[object]) -> list[str]:
    """Return the texts in plain prompts, messages, and generations with or without a message."""
    found: list[str] = []
    for item in items:
        message = getattr(item, "message", item)
        content: object = item if isinstance(item, str) else getattr(message, "content", getattr(message, "text", None))
        if isinstance(content, str):
            found.append(content)
        for part in _list(content):
            text = part if isinstance(part, str) else _dict(part).get("text")
            if isinstance(text, str):
                found.append(text)
        for tool_call in _list(getattr(message, "tool_calls", None)):
            arguments = _dict(_dict(tool_call).get("args"))
            found.extend(value for value in arguments.values() if isinstance(value, str))
    return found


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _dict(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}
