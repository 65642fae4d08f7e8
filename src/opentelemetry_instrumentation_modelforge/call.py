# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The life cycle of one model call: it is opened, receives chunks, and is ended, failed or dropped.

A call ends exactly once, however many frames, callbacks and threads report its end: the first of them claims the end.
An interrupt (``KeyboardInterrupt``, or an exception that a signal handler raises) may come after any function call, and
the function's result is then lost. A call is therefore registered with its frame before it starts, a claim can be
looked up afterwards, and ``_close`` completes an interrupted end.

``inference.py`` and ``enrichment.py`` define the two kinds of calls.
"""

import os
from abc import ABC, abstractmethod
from asyncio import CancelledError
from collections.abc import Sequence
from time import perf_counter
from typing import Final
from uuid import UUID

from langchain_core.outputs import LLMResult
from opentelemetry.context import Context, create_key, get_current

from .dropped import end_soon, start_thread
from .ending import Ending
from .model import Model
from .providers import Answer
from .request import Request

CALL_KEY: Final = create_key("opentelemetry_instrumentation_modelforge.call")

_FORGOTTEN: Final = Request(UUID(int=0), ())
_SPENT: Final = Answer()

open_calls: Final[dict[int, "Call"]] = {}
"""Every call in flight in this process, by its ``id()``."""

if hasattr(os, "register_at_fork"):
    # The parent process ends them.
    os.register_at_fork(after_in_child=open_calls.clear)


def current_call() -> "Call | None":
    """Return the call whose provider works in the current context."""
    return get_current().get(CALL_KEY)  # pyright: ignore[reportReturnType]


def context_without_call(context: Context) -> Context:
    """Return ``context`` for a model without a call of its own, so that an enclosing call does not take its answers."""
    return Context({**context, CALL_KEY: None}) if context.get(CALL_KEY) is not None else context


class Call(ABC):
    """One call of a model, from LangChain's start event to its end."""

    __slots__ = (
        "_claims",
        "_dropped_at",
        "_dropped_generations",
        "_model",
        "_request",
        "answer",
        "context",
        "handler",
        "run_id",
    )

    def __init__(self, model: Model, request: Request) -> None:
        self._model = model
        self._request = request
        self._claims: dict[str, object] = {}
        """The claim to end the call: it belongs to the first to set ``"end"``, which is never set again."""
        self._dropped_at: float | None = None
        self._dropped_generations: Sequence[object] = ()
        self.run_id = request.run_id
        self.handler: object = None
        """LangChain's callback handler that started the call, unless it is of a subclass, which may do more."""
        self.answer = model.kind.answer(request.client)
        """Reads the provider's answer."""
        self.context: Context | None = None
        """Current while the provider works; None if another instrumentation manages the current span."""
        # A destructor cannot start a thread.
        start_thread()

    @abstractmethod
    def start(self) -> None:
        """Open the call. If this method raises, the call is not left open."""

    def context_over(self, current: Context) -> Context:
        """Return the context for the provider's work.

        :param current: the context that is current otherwise.
        """
        return self.context or Context({**current, CALL_KEY: self})

    @abstractmethod
    def chunk(self, chunk: object) -> None:
        """Count one chunk of a stream. A second callback on the model may deliver the same chunk again."""

    def end(self, generations: Sequence[object], llm_output: object, result: LLMResult | None = None) -> None:
        """End the call with its answer.

        :param generations: LangChain's generations for one prompt.
        :param llm_output: the ``llm_output`` of LangChain's result.
        :param result: the argument of the response hook, if LangChain has created one.
        """
        self._close(Ending("completed", generations, llm_output, result=result))

    def close(self, generations: Sequence[object] = ()) -> None:
        """End the call as a stream that its consumer closed.

        :param generations: the part of the stream that arrived before.
        """
        self._close(Ending("closed", generations))

    def fail(self, error: BaseException, generations: Sequence[object] = ()) -> None:
        """End the call with ``error``.

        :param generations: the part of a stream that arrived before.
        """
        if isinstance(error, GeneratorExit) or self._dropped_at is not None:
            # A generator or a coroutine was destroyed while it waited, or the event loop that closes it is stopped.
            self.drop(generations)
        else:
            self._close(
                Ending("cancelled" if isinstance(error, CancelledError) else "failed", generations, error=error)
            )

    def drop(self, generations: Sequence[object] = (), grace: float = 0.0) -> None:
        """Schedule the end of the call, as a stream that is dropped now.

        This runs in destructors, possibly inside a garbage collection that has interrupted code that holds a lock. It
        therefore takes no lock and emits nothing.

        :param generations: the part of the stream that arrived before. It may be passed later, in a second call.
        :param grace: seconds to wait for that part.
        """
        if id(self) in open_calls:
            self._dropped_generations = self._dropped_generations or generations
            if self._dropped_at is None:
                self._dropped_at = perf_counter()
            end_soon(self.abandon, grace)

    def abandon(self) -> None:
        """End the call because its stream was dropped, or because the process ends."""
        self._close(Ending("abandoned" if self._dropped_at is None else "closed", self._dropped_generations))

    def _close(self, ending: Ending) -> None:
        claim = object()
        try:
            if id(self) in open_calls and self._claims.setdefault("end", claim) is claim:
                open_calls.pop(id(self), None)
                self._finish(ending)
                # A copied context, or a log record's, may keep this call. It must keep no prompt, answer or model, nor
                # its own context, which would be a reference cycle.
                self._request, self.answer, self.context = _FORGOTTEN, _SPENT, None
                self._dropped_generations = ()
        except BaseException:
            # An interrupt: the guards let nothing else pass.
            if self._claims.get("end") is claim:
                open_calls.pop(id(self), None)
                self._abort()
            raise

    @abstractmethod
    def _finish(self, ending: Ending) -> None: ...

    def _abort(self) -> None:  # noqa: B027 - a call without a span has nothing to release.
        """Release what an interrupted ``_finish`` has left open."""


def abandon_open_calls() -> None:
    """End every call that is still open, when the process ends."""
    for call in list(open_calls.values()):
        call.abandon()
