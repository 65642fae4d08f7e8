# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Interrupts at a chosen place in the package: a tracer raises, or has a signal handler raise, at the k-th event."""

from __future__ import annotations

import asyncio
import asyncio.runners
import contextlib
import functools
import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import opentelemetry.context as context_api
from opentelemetry.context import contextvars_context, get_current
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Tracer as SDKTracer

import opentelemetry_instrumentation_modelforge
from opentelemetry_instrumentation_modelforge.call import open_calls
from opentelemetry_instrumentation_modelforge.execution import FRAME, leave_frame

PACKAGE = str(Path(opentelemetry_instrumentation_modelforge.__file__).parent)
_CONTEXT_FILES = {context_api.__file__, contextvars_context.__file__}
SIGNAL = signal.SIGUSR1
SECONDS_TO_END_DROPPED = 1.0


class TimeLimit(Exception):
    """An exception raised by a signal handler, like Celery's time limits."""


# --- The ways to interrupt ---


class _Interrupt:
    """One exception, and the ways to raise it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def handle(self, *_: object) -> None:
        raise self.error

    def __call__(self, *_: object) -> None:
        raise self.error

    def raise_directly(self) -> None:
        raise self.error


def _function_handler(interrupt: _Interrupt) -> Callable[..., None]:
    def handler(number: int, frame: FrameType | None) -> None:
        raise interrupt.error

    return handler


def _raising(interrupt: _Interrupt, number: int, frame: FrameType | None) -> None:
    raise interrupt.error


HANDLERS: dict[str, Callable[[_Interrupt], Callable[..., None]]] = {
    "function": _function_handler,
    "partial": lambda interrupt: functools.partial(_raising, interrupt),
    "callable object": lambda interrupt: interrupt,
    "method": lambda interrupt: interrupt.handle,
}
KINDS = ("KeyboardInterrupt", *HANDLERS)


# --- Observation ---


class SpanCount(SpanProcessor):
    """Counts spans that started and ended."""

    def __init__(self) -> None:
        self.started = self.ended = 0
        self.open: dict[int, str] = {}

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started += 1
        self.open[span.context.span_id] = span.name

    def on_end(self, span: ReadableSpan) -> None:
        self.ended += 1
        if span.context is not None:
            self.open.pop(span.context.span_id, None)


class LogLines(logging.Handler):
    """Keeps the log lines that report a fault."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "detach" in text or "Telemetry fault" in text:
            self.lines.append(text)


@dataclass
class Observer:
    """The providers that the package uses in these tests, and checks for anything left open."""

    spans: SpanCount = field(default_factory=SpanCount)
    reader: InMemoryMetricReader = field(default_factory=InMemoryMetricReader)
    log: LogLines = field(default_factory=LogLines)

    def __post_init__(self) -> None:
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(self.spans)
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def active_streams(self) -> int:
        data = self.reader.get_metrics_data()
        return sum(
            point.value
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == "modelforge.client.active_streams"
            for point in metric.data.data_points
        )

    def left_open(self) -> list[str]:
        """Return what is open now."""
        found = []
        if open_calls:
            found.append(f"open calls: {len(open_calls)}")
        if self.spans.open:
            found.append(f"open spans: {sorted(self.spans.open.values())}")
        if self.spans.started != self.spans.ended:
            found.append(f"spans: {self.spans.started} started, {self.spans.ended} ended")
        if not found and (streams := self.active_streams()):
            found.append(f"active streams: {streams}")
        return found

    def left_open_soon(self, *, collected: bool = True, within: float = SECONDS_TO_END_DROPPED) -> list[str]:
        """Return what is still open after the thread that ends dropped streams has had time to run."""
        deadline = time.monotonic() + within
        while (found := self.left_open()) and time.monotonic() < deadline:
            if collected:
                gc.collect()
            time.sleep(0.001)
        return found

    def forget(self) -> None:
        """Reset the state, so that one failure does not cause others."""
        open_calls.clear()
        self.spans.open.clear()
        self.spans.started = self.spans.ended = 0
        self.log.lines.clear()
        if streams := self.active_streams():
            # There is no public way to reset it, so subtract the count.
            telemetry = _telemetry()
            if telemetry is not None:
                telemetry.active_streams._record(-streams, {}, None)


def _telemetry() -> Any:
    from opentelemetry_instrumentation_modelforge.telemetry import active_telemetry

    return active_telemetry()


# --- The tracer ---


@dataclass(frozen=True)
class Place:
    """The place of an event."""

    file: str
    line: int
    function: str
    event: str
    destructor: bool

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line} {self.function} ({self.event})"


def _in_destructor(frame: FrameType | None) -> bool:
    """Return whether Python, or an event loop that closes dropped generators, suppresses exceptions raised there."""
    with contextlib.suppress(RuntimeError):
        task = asyncio.current_task()
        if task is not None and type(task.get_coro()).__name__ == "async_generator_athrow":
            return True
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or (code.co_name == "close" and code.co_filename == asyncio.runners.__file__):
            return True
        frame = frame.f_back
    return False


class Tracer:
    """Calls ``interrupt`` at the k-th event in the package's own code, and counts the events before it.

    :param at: which event, counted from 0; None only counts.
    :param opcodes: whether each place is an event where CPython may run a signal handler, instead of each line.
    """

    def __init__(self, at: int | None, interrupt: Callable[[], None] | None, *, opcodes: bool = False) -> None:
        self.events = 0
        self.places: list[Place] = []
        self.place: Place | None = None
        self._at = at
        self._interrupt = interrupt
        self._opcodes = opcodes
        self._before: dict[FrameType | None, str] = {}

    @classmethod
    def count(cls, application: Callable[[], object], *, opcodes: bool = False) -> int:
        """Return the number of events of an application."""
        return len(cls.places_of(application, opcodes=opcodes))

    @classmethod
    def places_of(cls, application: Callable[[], object], *, opcodes: bool = False) -> list[Place]:
        """Return the place of each event of an application."""
        tracer = cls(None, None, opcodes=opcodes)
        # Python 3.13 traces all opcodes of a function from its second traced call on.
        for _ in range(2 if opcodes else 1):
            tracer.places.clear()
            with tracer.tracing():
                application()
        return tracer.places

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        before = sys.gettrace()
        # Python 3.12 checks the flag of a frame when a trace function is set.
        sys._getframe().f_trace_opcodes = self._opcodes
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _traced(self, code: CodeType) -> bool:
        return code.co_filename.startswith(PACKAGE) or (self._opcodes and code.co_filename in _CONTEXT_FILES)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code is _START_SPAN and frame.f_back in self._before:
            self._before[frame.f_back] = "a call that no event follows"
        if not self._traced(frame.f_code) or threading.current_thread() is not threading.main_thread():
            return None
        if self._opcodes:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            return self._opcode
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self._event(frame, "line")
        return self._line

    def _opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            names = _opcodes(frame.f_code)
            # A frame begins after its RESUME, unless an exception is thrown into it.
            previous = self._before.get(frame) or names.get(frame.f_lasti - 2)
            self._before[frame] = names.get(frame.f_lasti, "")
            if previous in _CHECKED:
                self._event(frame, f"after {previous} at {frame.f_lasti}")
        elif event == "return":
            self._before.pop(frame, None)
        return self._opcode

    def _event(self, frame: FrameType, event: str) -> None:
        number, self.events = self.events, self.events + 1
        if self._at is None or number == self._at:
            place = Place(
                frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname, event, _in_destructor(frame)
            )
            if self._at is None:
                self.places.append(place)
                return
            self.place = place
            # Otherwise this would keep a frame that the interrupt leaves, and with it the stream that the frame steps.
            self._before.clear()
            assert self._interrupt is not None
            self._interrupt()


# CPython checks for signals after these opcodes. After a call, it does so only if the function is written in C. The
# called function cannot be determined here, so an event follows any call but one.
_CHECKED = frozenset({"CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME"})
# It is written in Python, so an interrupt cannot occur between the start of a span and the assignment of the result.
_START_SPAN = SDKTracer.start_span.__code__


@functools.cache
def _opcodes(code: CodeType) -> dict[int, str]:
    import dis

    return {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}


@dataclass
class Outcome:
    """The outcome of one run with one interrupt."""

    place: Place | None
    """None if the run had fewer events."""
    faults: list[str]
    held: list[str]
    """What was open until the application released the exception, whose traceback keeps the frames."""


def _results(application: Callable[[], object]) -> Iterator[object]:
    """Yield the result of ``application``.

    If a trace function raises at the end of an ``except`` clause, CPython keeps handling the exception of the clause.
    It does so in this generator only, and no later test sees that exception as a context of its own.
    """
    yield application()


def run(observer: Observer, application: Callable[[], object], kind: str, at: int, *, opcodes: bool = False) -> Outcome:
    """Run ``application`` with an interrupt at an event, and check what is left."""
    observer.forget()
    interrupt = _Interrupt(KeyboardInterrupt("here") if kind == "KeyboardInterrupt" else TimeLimit("here"))
    if kind == "KeyboardInterrupt":
        action = interrupt.raise_directly
    else:
        signal.signal(SIGNAL, HANDLERS[kind](interrupt))
        action = functools.partial(signal.raise_signal, SIGNAL)
    tracer = Tracer(at, action, opcodes=opcodes)
    before = get_current()
    seen: BaseException | None = None
    faults: list[str] = []
    try:
        with tracer.tracing():
            next(_results(application))
    except BaseException as error:
        seen = error
    finally:
        if kind != "KeyboardInterrupt":
            signal.signal(SIGNAL, signal.SIG_DFL)
    place = tracer.place
    if place is not None and not place.destructor and seen is not interrupt.error:
        faults.append(f"the application saw {seen!r}")
    if get_current() is not before:
        faults.append("the context has changed")
        context_api.attach(before)
    if (frame := FRAME.get()) is not None:
        faults.append("a frame is current")
        leave_frame(frame, None)
    # The application still holds the exception, whose traceback holds the frames.
    held = observer.left_open_soon(collected=False, within=0.03) if place and not place.destructor else []
    seen = None
    interrupt.error.__traceback__ = interrupt.error.__context__ = None
    faults += observer.left_open_soon()
    faults += [f"log: {line.splitlines()[0]}" for line in observer.log.lines]
    return Outcome(place, faults, held)
