"""Where LangChain runs a model: makes the call's span current while the provider works, and sees what no callback sees.

A callback cannot do either. LangChain runs start and end callbacks in different tasks, so a context that one attaches
the other cannot detach; and a cancellation, an interrupt or a dropped stream may reach no callback at all. So here each
frame that runs a model attaches and detaches by itself, and ends the calls it started if it is left by an exception.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

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
    """A running ``stream`` or ``astream``: the one call it starts, and the context of its next step."""

    __slots__ = ("_call",)

    streaming: Final = True

    def __init__(self) -> None:
        self._call: Call | None = None

    def adopt(self, call: Call) -> None:
        """Take over the call that has started, and make its span current for the rest of this step."""
        if self._call is None:
            self._call = call
            if call.context is not None:
                # Not detached: the step, in whose frame this runs, restores what was current before it.
                attach(call.context)

    def enter(self) -> "Entry":
        """Begin a step: what the provider does in it belongs to the call."""
        return _enter(self, self._call)

    def fail(self, error: BaseException) -> None:
        """End the call that LangChain leaves open when ``error`` passes."""
        with _INTERRUPTED:
            if self._call is not None:
                self._call.fail(error)

    def __del__(self) -> None:
        # An async generator that no event loop finalizes runs none of its finally blocks.
        with _INTERRUPTED:
            if self._call is not None:
                self._call.abandon()


Frame = GenerateFrame | StreamFrame
Entry = tuple[Token[Frame | None], Token[Context]]

_frame: Final[ContextVar[Frame | None]] = ContextVar("opentelemetry_instrumentation_modelforge.frame", default=None)


def current_frame() -> Frame | None:
    """Return the innermost frame that is running a model in this context, for the calls it starts."""
    return _frame.get()


def _enter(frame: Frame | None, call: Call | None) -> Entry:
    context = call.context if call is not None else None
    return _frame.set(frame), attach(context if context is not None else get_current())


def _leave(entry: Entry) -> None:
    frame, context = entry
    if _reset(frame):
        detach(context)


def _reset(frame: Token[Frame | None]) -> bool:
    """Restore the frame before, or return False where there is nothing to restore.

    A task that is destroyed while it waits is closed by whoever collects it, in another context than its own. There
    ``detach`` would log a failure that is none.
    """
    try:
        _frame.reset(frame)
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
            _reset(token)

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
            _reset(token)

    return agenerate


def generate_with_cache(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``BaseChatModel._generate_with_cache``, which asks the provider unless the cache has the answer."""

    @wraps(wrapped)
    def _generate_with_cache(*args: Any, **kwargs: Any) -> Any:
        call = _call_of(kwargs.get("run_manager"))
        if call is None:
            return wrapped(*args, **kwargs)
        entry = _enter(None, call)
        try:
            result = wrapped(*args, **kwargs)
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
        entry = _enter(None, call)
        try:
            result = await wrapped(*args, **kwargs)
        finally:
            _leave(entry)
        with _ANSWER:
            call.end(result.generations, result.llm_output)
        return result

    return _agenerate_with_cache


def _call_of(run_manager: Any) -> Call | None:
    # An EnhancedLLM's inner model, or a model without our callback, has no open call.
    return open_calls.get(run_manager.run_id) if run_manager is not None else None


def stream(wrapped: Callable[P, Generator[T, Any, Any]]) -> Callable[P, Generator[T, Any, Any]]:
    """Wrap ``BaseChatModel.stream``."""

    @wraps(wrapped)
    def stream(*args: P.args, **kwargs: P.kwargs) -> Generator[T, Any, Any]:
        frame = StreamFrame()
        inner = wrapped(*args, **kwargs)
        resume: Callable[[Any], T] = inner.send
        value: Any = None
        try:
            while True:
                entry = frame.enter()
                try:
                    item = resume(value)
                except StopIteration as stop:
                    return stop.value
                finally:
                    _leave(entry)
                try:
                    value = yield item
                    resume = inner.send
                except BaseException as error:  # noqa: BLE001 - close() and throw() are for the inner generator.
                    resume, value = inner.throw, error
        except BaseException as error:
            frame.fail(error)
            raise

    return stream


def astream(wrapped: Callable[P, AsyncGenerator[T, Any]]) -> Callable[P, AsyncGenerator[T, Any]]:
    """Wrap ``BaseChatModel.astream``."""

    @wraps(wrapped)
    async def astream(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, Any]:
        frame = StreamFrame()
        inner = wrapped(*args, **kwargs)
        resume: Callable[[Any], Awaitable[T]] = inner.asend
        value: Any = None
        try:
            while True:
                entry = frame.enter()
                try:
                    item = await resume(value)
                except StopAsyncIteration:
                    return
                finally:
                    _leave(entry)
                try:
                    value = yield item
                    resume = inner.asend
                except BaseException as error:  # noqa: BLE001 - aclose() and athrow() are for the inner generator.
                    resume, value = inner.athrow, error
        except BaseException as error:
            frame.fail(error)
            raise

    return astream
