# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The streams of a model: proxies of LangChain's generators that make the call's span current during each step.

A generator around the generator would be a second one for the garbage collector and the event loop to close, each in
its own way and time.

A stream's first step, in order:

1. ``Stream.__next__`` (or ``AsyncStream.__anext__``) makes its ``_StreamFrame`` the current frame.
2. LangChain's generator runs until it notifies the callbacks of the run's start, inline in this same step.
3. ``OpenTelemetryCallback`` starts a call and passes it to the current frame.
4. ``_StreamFrame.enter`` attaches the call's context. From here on the provider works under the call's span.
5. The first chunk arrives, and the step ends: it restores the context and the frame that were current before.
6. Each later step attaches the call's context by itself. Between two steps the consumer's own context is current.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from functools import wraps
from types import TracebackType
from typing import Any, ClassVar, Final, ParamSpec, Self
from uuid import UUID

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import get_current_span

from .call import Call, context_without_call, current_call
from .execution import FRAME, Frame, leave_frame
from .interrupts import is_from_signal_handler
from .scope import Scope, restore

P = ParamSpec("P")


class _StreamFrame(Frame):
    """A running ``stream`` or ``astream``, with the one call that it starts.

    It is separate from the generator, because a context that is copied during a step keeps the frame.
    """

    __slots__ = ("_created_in", "begun_in", "call", "context", "variable")

    streaming: Final = True

    def __init__(self, model: object) -> None:
        super().__init__(model)
        self.call: Call | None = None
        self.context: Context | None = None
        """The call's context, once it is known. While it is None, a step takes the slow path."""
        self.variable: ContextVar[Context]
        """OpenTelemetry's context variable, once the call is known. Each API layer around it would add as much time."""
        self._created_in: Context | None = get_current()
        self.begun_in: Context | None = None
        """The context that was current when the first step began."""

    def call_of(self, run_id: UUID) -> Call | None:
        call = self.call
        # Usually the same object, and comparing UUIDs takes several times as long.
        return call if call is not None and (call.run_id is run_id or call.run_id == run_id) else None

    def register(self, call: Call) -> None:
        if self.call is None:
            self.call = call

    def enter(self, call: Call) -> None:
        if self.call is call:
            # Not detached here: the step in which this runs restores the context from before it.
            token = attach(call.context_over(get_current()))
            # Datadog's context has tokens of its own, and each step of a stream then takes the slow path.
            if isinstance(token, Token):  # pyright: ignore[reportUnnecessaryIsInstance]
                self.context, self.variable = call.context, token.var

    def step_context(self) -> Context:
        """Return the context for a step of a call without a context of its own, or for the first step."""
        current = get_current()
        if self.call is not None:
            return self.call.context_over(current)
        self.begun_in = current
        created_in, self._created_in = self._created_in, None
        if created_in is None or get_current_span(current).get_span_context().is_valid:
            created_in = current
        # A web framework may iterate after the request's handler, when no span is current.
        return context_without_call(created_in)

    def leave(self, error: BaseException, generator: Any) -> None:
        """End the call if ``error`` has ended the stream and LangChain has not ended the call.

        An error in a second, concurrent step leaves the stream running. An interrupt ends the call, even if it came
        before or after the generator's own part of the step.
        """
        over = getattr(generator, "gi_frame", None) is None and getattr(generator, "ag_frame", None) is None
        if over or not isinstance(error, Exception) or is_from_signal_handler(error.__traceback__):
            if self.call is not None:
                if isinstance(error, StopIteration | StopAsyncIteration):
                    # LangChain reported the end, in a context without the call.
                    self.call.end((), None)
                else:
                    self.call.fail(error)
            self.release()

    def close(self) -> None:
        """End the call if LangChain has not ended it, now that the generator is closed."""
        if self.call is not None:
            self.call.close()
        self.release()

    def release(self) -> None:
        """Release the call: an application may keep a finished stream, which need not keep its prompt."""
        super().release()
        self.call = self.context = self._created_in = self.begun_in = None


class _Step(Scope):
    """One step of a stream, on the slow path."""

    __slots__ = ("_around", "_first", "_frame", "_generator")

    def __init__(self, frame: _StreamFrame, generator: Any) -> None:
        super().__init__()
        self._frame = frame
        self._generator = generator
        self._first = frame.call is None
        self._around = FRAME.get()

    def start(self) -> None:
        """Make the frame and the context of the step current."""
        frame = self._frame
        # Once the call is known, no start callback needs to find the frame.
        if self._first:
            FRAME.set(frame)
        self.attach(frame.context or frame.step_context())

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        frame = self._frame
        super().__exit__(kind, error, traceback)
        if self._first:
            leave_frame(frame, self._around)
        if error is not None:
            frame.leave(error, self._generator)
        elif self._first:
            # Without a call, the model has no callback of ours or nothing is recorded.
            frame.over = frame.call is None


class _StreamProxy:
    """A proxy of one of LangChain's generators.

    :param generator: LangChain's generator.
    :param model: the LangChain model that streams.
    """

    __slots__ = ("__weakref__", "_frame", "_generator")

    _grace: ClassVar[float] = 0.0
    """Seconds in which LangChain may report the part of a dropped stream that arrived."""

    def __init__(self, generator: Any, model: object) -> None:
        self._generator = generator
        self._frame = _StreamFrame(model)

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._generator.__class__

    def __getattr__(self, name: str) -> Any:
        if name in _StreamProxy.__slots__:
            # An interrupt came before the end of __init__.
            raise AttributeError(name)
        return getattr(self._generator, name)

    def __repr__(self) -> str:
        return repr(self._generator)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._generator.__reduce_ex__(protocol)

    def __del__(self) -> None:
        frame = getattr(self, "_frame", None)
        call = None if frame is None else frame.call
        if call is not None:
            try:
                self._close_dropped(call)
            finally:
                try:
                    call.drop(grace=self._grace)
                except BaseException:
                    # Python swallows an interrupt in a destructor.
                    call.drop(grace=self._grace)
                    raise

    def _close_dropped(self, call: Call) -> None:
        """Close the generator if nothing else can restore the context that closing it changes."""


class Stream(_StreamProxy):
    """The generator of ``stream``."""

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        before = None
        try:
            frame = self._frame
            context = frame.context
            if context is None:
                return next(self._generator) if frame.over else self._step(next, self._generator)
            # The fast path of _step.
            before = frame.variable.get()
            try:
                frame.variable.set(context)
                return next(self._generator)
            finally:
                frame.variable.set(before)
        except BaseException as error:
            if before is not None:
                # Repeated, because an interrupt may have come before the clause above ran.
                self._frame.variable.set(before)
            self._frame.leave(error, self._generator)
            raise

    def send(self, value: Any) -> Any:
        """Resume the generator with ``value``."""
        return self._step(self._generator.send, value)

    def throw(self, *error: Any) -> Any:
        """Resume the generator with an exception."""
        try:
            return self._step(self._generator.throw, *error)
        finally:
            del error

    def close(self) -> None:
        """Close the generator."""
        self._step(self._generator.close)
        self._frame.close()

    def _step(self, resume: Callable[..., Any], *args: Any) -> Any:
        try:
            step = _Step(self._frame, self._generator)
            with step, step:
                step.start()
                return resume(*args)
        except BaseException as error:
            # Also for an interrupt of the outer __exit__.
            self._frame.leave(error, self._generator)
            raise
        finally:
            # The traceback that a thrown-in exception gets here must not keep it alive.
            del args

    def _close_dropped(self, call: Call) -> None:
        # A provider's client may keep a context attached in a generator of its own. When that generator ends, it
        # restores the previous context, which is the call's.
        if not self._generator.gi_running:
            before = get_current()
            if current_call() is call and self._frame.begun_in is not None:
                # A garbage collection closed the client's generator before this destructor ran. Without
                # instrumentation, that restores the context of the first step.
                before = self._frame.begun_in
            try:
                self._generator.close()
            finally:
                # CPython 3.11 may collect garbage in the middle of setting a context variable, and setting one here
                # then corrupts it. So only a context that has changed is restored.
                if get_current() is not before:
                    attach(before)


class AsyncStream(_StreamProxy):
    """The generator of ``astream``. The event loop closes a dropped one, in a task with a context of its own."""

    __slots__ = ()

    _grace = 0.2

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Any]:
        frame = self._frame
        if frame.context is None:
            return self._generator.__anext__() if frame.over else self._step(self._generator.__anext__)
        return self._next(frame, frame.context)

    async def _next(self, frame: _StreamFrame, context: Context) -> Any:
        # The fast path of _step.
        before = token = None
        try:
            before = frame.variable.get()
            try:
                token = frame.variable.set(context)
                return await self._generator.__anext__()
            finally:
                token = token and restore(token)
        except BaseException as error:
            if before is not None and frame.variable.get() is context:
                # An interrupt came before the token was stored, or before it was used.
                frame.variable.set(before)
            frame.leave(error, self._generator)
            raise

    def asend(self, value: Any) -> Awaitable[Any]:
        """Resume the generator with ``value``."""
        return self._step(self._generator.asend, value)

    def athrow(self, *error: Any) -> Awaitable[Any]:
        """Resume the generator with an exception."""
        return self._step(self._generator.athrow, *error)

    async def aclose(self) -> None:
        """Close the generator."""
        await self._step(self._generator.aclose)
        self._frame.close()

    async def _step(self, resume: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        try:
            step = _Step(self._frame, self._generator)
            with step, step:
                step.start()
                return await resume(*args)
        except BaseException as error:
            # Also for an interrupt of the outer __exit__.
            self._frame.leave(error, self._generator)
            raise
        finally:
            # The traceback that a thrown-in exception gets here must not keep it alive.
            del args


def stream(wrapped: Callable[P, object]) -> Callable[P, Stream]:
    """Wrap ``BaseChatModel.stream``."""

    @wraps(wrapped)
    def stream(*args: P.args, **kwargs: P.kwargs) -> Stream:
        return Stream(wrapped(*args, **kwargs), args[0] if args else None)

    return stream


def astream(wrapped: Callable[P, object]) -> Callable[P, AsyncStream]:
    """Wrap ``BaseChatModel.astream``."""

    @wraps(wrapped)
    def astream(*args: P.args, **kwargs: P.kwargs) -> AsyncStream:
        return AsyncStream(wrapped(*args, **kwargs), args[0] if args else None)

    return astream
