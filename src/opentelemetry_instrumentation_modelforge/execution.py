# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Where LangChain runs a model: makes the call's span current while the provider works, and sees ends no callback sees.

A callback can do neither. LangChain runs start and end callbacks in different tasks, so one task cannot detach the
context that another has attached; and a cancellation, an interrupt or a dropped stream may reach no callback at all. So
each frame that runs a model attaches and detaches by itself, and ends the calls it started if an exception leaves it.

Each frame is entered twice (``with frame, frame:``). An interrupt may come between any two statements, also within
``__exit__``; then the outer ``__exit__`` completes what the inner one has not done.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar, Token
from functools import wraps
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from opentelemetry.context import Context, attach, get_current

from .call import Call, context_without_call, current_call
from .otel_utils import Guard
from .patching import Wrap
from .providers import Tap
from .values import NOTHING

P = ParamSpec("P")
T = TypeVar("T")


class RunCall(NamedTuple):
    """The call that is told of a run's chunks without LangChain's help."""

    call: Call | None
    handlers: list[BaseCallbackHandler] | None
    """The run's handlers. LangChain tells them of each chunk if the run has others."""


RUN_CALL: Final = "_opentelemetry_run_call"
"""The attribute of LangChain's run manager that holds its :class:`RunCall`."""

_ANSWER_GUARD: Final = Guard("ending an answered call")
_TAP_GUARD: Final = Guard("reading an answer")


class Frame:
    """A running method of a LangChain model, which start callbacks find as the current frame.

    :param model: the LangChain model that runs.
    """

    __slots__ = ("_model", "over")

    streaming = False

    def __init__(self, model: object) -> None:
        self._model = model
        self.over = False
        """True when the frame starts no more calls. A copied context may keep it."""

    def client(self) -> Mapping[str, object]:
        """Return the fields of the model that speaks to the provider: the frame's, or the one that it wraps."""
        fields: Mapping[str, object] = getattr(self._model, "__dict__", NOTHING)
        return getattr(fields.get("_wrapped_llm"), "__dict__", fields)

    def call_of(self, run_id: UUID) -> Call | None:
        """Return the call that the frame has started for this run."""
        raise NotImplementedError

    def adopt(self, call: Call) -> None:
        """Take a call that is about to start, and is ended if an exception leaves the frame."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of the model. A context that was copied, or that a log record keeps, may outlive it."""
        self.over = True
        self._model = None

    def enter(self, call: Call) -> None:
        """Make the span of a call that has started current, if the frame is to ask the provider itself."""


# Not a key of OpenTelemetry's context: another instrumentation may attach a context that it has kept from before.
_frame: Final[ContextVar[Frame | None]] = ContextVar("opentelemetry_instrumentation_modelforge.frame", default=None)


def current_frame() -> Frame | None:
    """Return the innermost frame that runs a model in this context."""
    frame = _frame.get()
    return None if frame is None or frame.over else frame


def make_current(frame: Frame) -> Token[Frame | None]:
    """Make ``frame`` the innermost one; :func:`restore` undoes it."""
    return _frame.set(frame)


def call_of(run_id: UUID) -> Call | None:
    """Return the call that the current frame has started for this run."""
    frame = current_frame()
    return None if frame is None else frame.call_of(run_id)


def restore(token: Token[Any]) -> None:
    """Restore what was current before ``token``.

    A task that is destroyed while it waits is closed by its collector, in another context. There ``detach`` would log a
    failure, although nothing is wrong. A token that has been used has done its work.
    """
    # Runs for every chunk, and contextlib.suppress takes several times as long.
    try:  # noqa: SIM105
        token.var.reset(token)
    except (ValueError, RuntimeError, AttributeError):
        # The context that Datadog puts in place of OpenTelemetry's has tokens without a variable, and restores itself.
        pass


class _GenerateFrame(Frame):
    """A running ``generate`` or ``agenerate``: the calls it starts, one for each prompt."""

    __slots__ = ("_calls", "_token")

    def __init__(self, model: object) -> None:
        super().__init__(model)
        self._calls: list[Call] = []
        self._token: Token[Frame | None] | None = None

    def __enter__(self) -> None:
        if self._token is None:
            self._token = make_current(self)

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._token is not None:
            self._token = restore(self._token)
        if error is not None:
            for call in self._calls:
                call.fail(error)
        self.release()

    def call_of(self, run_id: UUID) -> Call | None:
        # LangChain passes the very object on, and comparing UUIDs takes several times as long.
        for call in self._calls:
            if call.run_id is run_id:
                return call
        return None

    def adopt(self, call: Call) -> None:
        self._calls.append(call)


class _RequestFrame:
    """A running ``_generate_with_cache`` or ``_agenerate_with_cache``: one prompt on its way to the provider.

    :param run_manager: LangChain's, by which the call of the run is found.
    """

    __slots__ = ("_call", "_context", "_token")

    def __init__(self, run_manager: Any) -> None:
        current = get_current()
        # None for a model without our callback.
        self._call = None if run_manager is None else call_of(run_manager.run_id)
        self._context = context_without_call(current) if self._call is None else self._call.context_over(current)
        self._token: Token[Context] | None = None
        if self._call is not None:
            _take_over(run_manager, self._call)

    def __enter__(self) -> None:
        if self._token is None:
            self._token = attach(self._context)

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._token is not None:
            self._token = restore(self._token)
        if error is not None and self._call is not None:
            # Now, since the others of a batch may run on for long, and no callback hears of an interrupt.
            self._call.fail(error)

    def end(self, result: Any) -> None:
        """End the call with LangChain's ``ChatResult``."""
        if self._call is not None:
            with _ANSWER_GUARD:
                self._call.end(result.generations, result.llm_output)


def _take_over(run_manager: Any, call: Call) -> None:
    """Have ``call`` told of the run's chunks and end by this package alone, if no other handler wants to know.

    LangChain takes as long to ask a handler whether it streams, and to tell it of the end, as a call takes to begin.
    """
    if run_manager.handlers == [call.handler]:
        run_manager.handlers = []
        run_manager.__dict__[RUN_CALL] = RunCall(call, [])


def generate(wrapped: Callable[P, T]) -> Callable[P, T]:
    """Wrap ``BaseChatModel.generate``."""

    @wraps(wrapped)
    def generate(*args: P.args, **kwargs: P.kwargs) -> T:
        frame = _GenerateFrame(args[0] if args else None)
        with frame, frame:
            return wrapped(*args, **kwargs)

    return generate


def agenerate(wrapped: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Wrap ``BaseChatModel.agenerate``."""

    @wraps(wrapped)
    async def agenerate(*args: P.args, **kwargs: P.kwargs) -> T:
        # A task that is pending when its event loop is closed is destroyed, as a stream is dropped.
        frame = _GenerateFrame(args[0] if args else None)
        with frame, frame:
            return await wrapped(*args, **kwargs)

    return agenerate


def generate_with_cache(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``BaseChatModel._generate_with_cache``, which asks the provider unless the cache has the answer."""

    @wraps(wrapped)
    def _generate_with_cache(*args: Any, **kwargs: Any) -> Any:
        frame = _RequestFrame(kwargs.get("run_manager"))
        with frame, frame:
            result = wrapped(*args, **kwargs)
        frame.end(result)
        return result

    return _generate_with_cache


def agenerate_with_cache(wrapped: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap ``BaseChatModel._agenerate_with_cache``, which asks the provider unless the cache has the answer."""

    @wraps(wrapped)
    async def _agenerate_with_cache(*args: Any, **kwargs: Any) -> Any:
        frame = _RequestFrame(kwargs.get("run_manager"))
        with frame, frame:
            result = await wrapped(*args, **kwargs)
        frame.end(result)
        return result

    return _agenerate_with_cache


def tap(place: Tap) -> Wrap:
    """Return the wrapper of a function that is given the provider's answer as it came."""
    position, keyword = place.position, place.keyword
    is_method = place.owner is not None

    def wrap(wrapped: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(wrapped)
        def read(*args: Any, **kwargs: Any) -> Any:
            call = current_call()
            if call is not None:
                with _TAP_GUARD:
                    raw = args[position] if len(args) > position else kwargs[keyword]
                    call.answer.add(raw, args[0] if is_method else None)
            return wrapped(*args, **kwargs)

        return read

    return wrap
