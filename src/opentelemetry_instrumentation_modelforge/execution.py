# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Wrappers of LangChain's model methods: they make a call's span current, and detect ends that no callback receives.

A callback can do neither. LangChain runs start and end callbacks in different tasks, so one task cannot detach the
context that another has attached; and a cancellation, an interrupt or a dropped stream may reach no callback at all.
Each frame that runs a model therefore attaches and detaches the context itself, and ends the calls it started if an
exception leaves it.

Each frame is entered twice, as a ``Scope`` is.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from .call import Call, context_without_call, current_call
from .otel_utils import Guard
from .patching import Wrap
from .providers import Tap
from .scope import Scope
from .values import NOTHING

P = ParamSpec("P")
T = TypeVar("T")


class RunCall(NamedTuple):
    """The call that receives a run's chunks directly, not through LangChain's callbacks."""

    call: Call | None
    handlers: list[BaseCallbackHandler] | None
    """The run's handlers. If the run has others, LangChain passes each chunk to them."""


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
        """True once the frame starts no more calls. A copied context may keep the frame."""

    def client(self) -> Mapping[str, object]:
        """Return the fields of the model that calls the provider: the frame's, or the one that it wraps."""
        fields: Mapping[str, object] = getattr(self._model, "__dict__", NOTHING)
        return getattr(fields.get("_wrapped_llm"), "__dict__", fields)

    def call_of(self, run_id: UUID) -> Call | None:
        """Return the call that the frame has started for this run."""
        raise NotImplementedError

    def register(self, call: Call) -> None:
        """Take over a call that is about to start. It is ended if an exception leaves the frame."""
        raise NotImplementedError

    def release(self) -> None:
        """Release the model. A copied context, or one that a log record keeps, may outlive it."""
        self.over = True
        self._model = None

    def enter(self, call: Call) -> None:
        """Make the span of a started call current, if the frame itself calls the provider."""


# Not a key of OpenTelemetry's context: another instrumentation may attach a context that it saved earlier.
FRAME: Final[ContextVar[Frame | None]] = ContextVar("opentelemetry_instrumentation_modelforge.frame", default=None)
"""The innermost frame, which may be over."""


def current_frame() -> Frame | None:
    """Return the innermost frame that runs a model in this context."""
    frame = FRAME.get()
    return None if frame is None or frame.over else frame


def leave_frame(frame: Frame, around: Frame | None) -> None:
    """Make ``around`` the innermost frame again, if ``frame`` is the innermost now.

    This needs no token, which is lost if an interrupt comes before it is stored.
    """
    if FRAME.get() is frame:
        FRAME.set(around)


def call_of(run_id: UUID) -> Call | None:
    """Return the call that the current frame has started for this run."""
    frame = current_frame()
    return None if frame is None else frame.call_of(run_id)


class _GenerateFrame(Frame):
    """A running ``generate`` or ``agenerate``, with the calls that it starts, one for each prompt."""

    __slots__ = ("_around", "_calls")

    def __init__(self, model: object) -> None:
        super().__init__(model)
        self._around = FRAME.get()
        self._calls: list[Call] = []

    def __enter__(self) -> None:
        pass

    def start(self) -> None:
        """Become the innermost frame."""
        FRAME.set(self)

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        leave_frame(self, self._around)
        if error is not None:
            for call in self._calls:
                call.fail(error)
        self.release()

    def release(self) -> None:
        """Release the enclosing frame, too."""
        super().release()
        self._around = None

    def call_of(self, run_id: UUID) -> Call | None:
        # LangChain passes the same object on, and comparing UUIDs takes several times as long.
        for call in self._calls:
            if call.run_id is run_id:
                return call
        return None

    def register(self, call: Call) -> None:
        self._calls.append(call)


class _RequestFrame(Scope):
    """A running ``_generate_with_cache`` or ``_agenerate_with_cache``: one prompt on its way to the provider.

    :param run_manager: LangChain's, which identifies the run's call.
    """

    __slots__ = ("_call",)

    def __init__(self, run_manager: Any) -> None:
        super().__init__()
        # None for a model without our callback.
        self._call = None if run_manager is None else call_of(run_manager.run_id)
        if self._call is not None:
            _take_over(run_manager, self._call)

    def start(self) -> None:
        """Make the call's span current."""
        before = self._before
        self.attach(context_without_call(before) if self._call is None else self._call.context_over(before))

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        super().__exit__(kind, error, traceback)
        if error is not None and self._call is not None:
            # Now, because the other calls of a batch may run for long, and no callback receives an interrupt.
            self._call.fail(error)

    def end(self, result: Any) -> None:
        """End the call with LangChain's ``ChatResult``."""
        if self._call is not None:
            with _ANSWER_GUARD:
                self._call.end(result.generations, result.llm_output)


def _take_over(run_manager: Any, call: Call) -> None:
    """Let this package alone pass the run's chunks and end to ``call``, if no other handler needs them.

    LangChain takes as long to check whether a handler streams, and to notify it of the end, as a call takes to start.
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
            frame.start()
            return wrapped(*args, **kwargs)

    return generate


def agenerate(wrapped: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Wrap ``BaseChatModel.agenerate``."""

    @wraps(wrapped)
    async def agenerate(*args: P.args, **kwargs: P.kwargs) -> T:
        # A task that is pending when its event loop closes is destroyed, like a dropped stream.
        frame = _GenerateFrame(args[0] if args else None)
        with frame, frame:
            frame.start()
            return await wrapped(*args, **kwargs)

    return agenerate


def generate_with_cache(wrapped: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``BaseChatModel._generate_with_cache``, which calls the provider unless the cache has the answer."""

    @wraps(wrapped)
    def _generate_with_cache(*args: Any, **kwargs: Any) -> Any:
        frame = _RequestFrame(kwargs.get("run_manager"))
        with frame, frame:
            frame.start()
            result = wrapped(*args, **kwargs)
        frame.end(result)
        return result

    return _generate_with_cache


def agenerate_with_cache(wrapped: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap ``BaseChatModel._agenerate_with_cache``, which calls the provider unless the cache has the answer."""

    @wraps(wrapped)
    async def _agenerate_with_cache(*args: Any, **kwargs: Any) -> Any:
        frame = _RequestFrame(kwargs.get("run_manager"))
        with frame, frame:
            frame.start()
            result = await wrapped(*args, **kwargs)
        frame.end(result)
        return result

    return _agenerate_with_cache


def tap(place: Tap) -> Wrap:
    """Return the wrapper for a function that receives the provider's raw answer."""
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
