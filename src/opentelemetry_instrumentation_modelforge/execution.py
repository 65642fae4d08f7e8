"""Where LangChain runs a model: makes the call's span current while the provider works, and sees what no callback sees.

A callback cannot do either. LangChain runs start and end callbacks in different tasks, so a context that one attaches
the other cannot detach; and a cancellation, an interrupt or a dropped stream may reach no callback at all. So here each
frame that runs a model attaches and detaches by itself, and ends the calls it started if it is left by an exception.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any, Final, ParamSpec, Self, TypeVar

from opentelemetry.context import Context, attach, detach, get_current

from .call import Call, open_calls
from .otel_utils import Guard

P = ParamSpec("P")
T = TypeVar("T")

_ANSWER: Final = Guard("ending an answered call")
_INTERRUPTED: Final = Guard("ending the calls of an interrupted run")


class GenerateFrame:
    """A running ``generate`` or ``agenerate``: all the calls it starts, one for each prompt."""

    __slots__ = ("_calls",)

    streaming: Final = False

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def adopt(self, call: Call) -> None:
        """Take over a call that has started."""
        self._calls.append(call)

    def fail(self, error: BaseException) -> None:
        """End the calls that LangChain leaves open when ``error`` passes."""
        with _INTERRUPTED:
            for call in self._calls:
                call.fail(error)


class StreamFrame:
    """A running ``stream`` or ``astream``: the one call it starts.

    Apart from the generator, since a context that is copied during a step keeps the frame.
    """

    __slots__ = ("call", "context", "idle")

    streaming: Final = True

    def __init__(self) -> None:
        self.call: Call | None = None
        self.context: Context | None = None
        """The call's."""
        self.idle = False
        """Whether the steps need no context: no call has started in the first (the model has no callback of ours, or
        nobody records), or it is over."""

    def adopt(self, call: Call) -> None:
        """Take over the call that has started, and make its span current for the rest of this step."""
        if self.call is None:
            self.call = call
            self.context = call.context
            if call.context is not None:
                # Not detached: the step, in whose frame this runs, restores what was current before it.
                attach(call.context)

    def fail(self, error: BaseException) -> None:
        """Let go of the call, and end it if LangChain leaves it open when ``error`` passes, be it the stream's end."""
        if self.call is not None:
            with _INTERRUPTED:
                self.call.fail(error)
        self.release()

    def release(self) -> None:
        """Let go of the call: who keeps a generator that is over need not keep what was said."""
        self.call = self.context = None
        self.idle = True


class _Steps:
    """A generator of which each step runs in the context of its call.

    It passes for the generator. A generator around the generator would be a second one for the garbage collector and
    the event loop to close, each in its own way and time.
    """

    __slots__ = ("__weakref__", "_frame", "_generator")

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._frame = StreamFrame()

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._generator.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)

    def __repr__(self) -> str:
        return repr(self._generator)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._generator.__reduce_ex__(protocol)

    def __del__(self) -> None:
        # The generator is closed after this: a plain one by whoever drops or collects it; an asynchronous one by the
        # event loop, with a task that may be cancelled before it begins, or never.
        self._frame.fail(GeneratorExit())


class Stream(_Steps):
    """The generator of ``stream``."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        frame = self._frame
        if frame.context is None:
            return next(self._generator) if frame.idle else self._step(next, self._generator)
        # What _step does from the second step on, without what it does for other steps.
        context = attach(frame.context)
        try:
            return next(self._generator)
        except BaseException as error:
            frame.fail(error)
            raise
        finally:
            detach(context)

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
        self._frame.release()

    def _step(self, resume: Callable[..., Any], *args: Any) -> Any:
        frame = self._frame
        # Who has the call waits for no other.
        waiting = _frame.set(frame) if frame.call is None else None
        context = attach(frame.context or get_current())
        try:
            return resume(*args)
        except BaseException as error:
            frame.fail(error)
            raise
        finally:
            detach(context)
            if waiting is not None:
                _frame.reset(waiting)
                frame.idle = frame.call is None
            # What was thrown in must not live on in the traceback that it has got here.
            del args


class AsyncStream(_Steps):
    """The generator of ``astream``."""

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[Any]:
        if self._frame.idle:
            return self._generator.__anext__()
        return self._step(self._generator.__anext__)

    def asend(self, value: Any) -> Awaitable[Any]:
        """Resume the generator with ``value``."""
        return self._step(self._generator.asend, value)

    def athrow(self, *error: Any) -> Awaitable[Any]:
        """Resume the generator with an exception."""
        return self._step(self._generator.athrow, *error)

    async def aclose(self) -> None:
        """Close the generator."""
        await self._step(self._generator.aclose)
        self._frame.release()

    async def _step(self, resume: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        frame = self._frame
        # Who has the call waits for no other.
        waiting = _frame.set(frame) if frame.call is None else None
        context: Token[Context] | None = attach(frame.context or get_current())
        try:
            return await resume(*args)
        except GeneratorExit as error:
            _restore(context)
            context = None
            frame.fail(error)
            raise
        except BaseException as error:
            frame.fail(error)
            raise
        finally:
            if context is not None:
                detach(context)
            if waiting is not None:
                _restore(waiting)
                frame.idle = frame.call is None
            # What was thrown in must not live on in the traceback that it has got here.
            del args


Frame = GenerateFrame | StreamFrame
Entry = tuple[Token[Frame | None], Token[Context]]

_frame: Final[ContextVar[Frame | None]] = ContextVar("opentelemetry_instrumentation_modelforge.frame", default=None)


def current_frame() -> Frame | None:
    """Return the innermost frame that is running a model in this context, for the calls it starts."""
    return _frame.get()


def _enter(frame: Frame | None, context: Context | None) -> Entry:
    return _frame.set(frame), attach(context or get_current())


def _leave(entry: Entry) -> None:
    frame, context = entry
    if _restore(frame):
        detach(context)


def _restore(token: Token[Any]) -> bool:
    """Restore what was set before, or return False where there is nothing to restore.

    A task that is destroyed while it waits is closed by whoever collects it, in another context than its own. There
    ``detach`` would log a failure that is none.
    """
    try:
        token.var.reset(token)
    except ValueError:
        return False
    return True


def generate(wrapped: Callable[P, T]) -> Callable[P, T]:
    """Wrap ``BaseChatModel.generate``."""

    @wraps(wrapped)
    def generate(*args: P.args, **kwargs: P.kwargs) -> T:
        frame = GenerateFrame()
        token = _frame.set(frame)
        try:
            return wrapped(*args, **kwargs)
        except BaseException as error:
            frame.fail(error)
            raise
        finally:
            _restore(token)

    return generate


def agenerate(wrapped: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Wrap ``BaseChatModel.agenerate``."""

    @wraps(wrapped)
    async def agenerate(*args: P.args, **kwargs: P.kwargs) -> T:
        frame = GenerateFrame()
        token = _frame.set(frame)
        try:
            return await wrapped(*args, **kwargs)
        except BaseException as error:
            frame.fail(error)
            raise
        finally:
            _restore(token)

    return agenerate


def generate_with_cache(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``BaseChatModel._generate_with_cache``, which asks the provider unless the cache has the answer."""

    @wraps(wrapped)
    def _generate_with_cache(*args: Any, **kwargs: Any) -> Any:
        call = _call_of(kwargs.get("run_manager"))
        if call is None:
            return wrapped(*args, **kwargs)
        entry = _enter(None, call.context)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            # Now: the others of the batch may run on for long, and of an interrupt no callback hears.
            with _INTERRUPTED:
                call.fail(error)
            raise
        finally:
            _leave(entry)
        with _ANSWER:
            call.end(result.generations, result.llm_output)
        return result

    return _generate_with_cache


def agenerate_with_cache(wrapped: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap ``BaseChatModel._agenerate_with_cache``, which asks the provider unless the cache has the answer."""

    @wraps(wrapped)
    async def _agenerate_with_cache(*args: Any, **kwargs: Any) -> Any:
        call = _call_of(kwargs.get("run_manager"))
        if call is None:
            return await wrapped(*args, **kwargs)
        entry = _enter(None, call.context)
        try:
            result = await wrapped(*args, **kwargs)
        except BaseException as error:
            # Now: the others of the batch may run on for long, and of an interrupt no callback hears.
            with _INTERRUPTED:
                call.fail(error)
            raise
        finally:
            _leave(entry)
        with _ANSWER:
            call.end(result.generations, result.llm_output)
        return result

    return _agenerate_with_cache


def _call_of(run_manager: Any) -> Call | None:
    # An EnhancedLLM's inner model, or a model without our callback, has no open call.
    run_id = getattr(run_manager, "run_id", None)
    return open_calls.get(run_id) if run_id is not None else None


def stream(wrapped: Callable[P, object]) -> Callable[P, Stream]:
    """Wrap ``BaseChatModel.stream``."""

    @wraps(wrapped)
    def stream(*args: P.args, **kwargs: P.kwargs) -> Stream:
        return Stream(wrapped(*args, **kwargs))

    return stream


def astream(wrapped: Callable[P, object]) -> Callable[P, AsyncStream]:
    """Wrap ``BaseChatModel.astream``."""

    @wraps(wrapped)
    def astream(*args: P.args, **kwargs: P.kwargs) -> AsyncStream:
        return AsyncStream(wrapped(*args, **kwargs))

    return astream
