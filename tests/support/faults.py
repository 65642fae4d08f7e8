# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Code shared by the tests of faults: an application that is compared with itself, and ways to block and to count."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from modelforge import ModelForgeRegistry
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
from opentelemetry_instrumentation_modelforge.call import open_calls
from support.calls import TIMEOUT, await_dropped
from support.models import get_llm, without_retries
from support.providers import ProviderServer, Reply


def seen(application: Callable[[], Any]) -> Any:
    """Return what an application sees: a result, or the type and the arguments of an exception."""
    try:
        return application()
    except Exception as error:
        return type(error), error.args


def unaffected(application: Callable[[], Any]) -> Callable[[], None]:
    """Run an application, uninstrumented, and return a function that checks that it sees the same again."""
    assert not ModelForgeInstrumentor().is_instrumented_by_opentelemetry
    before = seen(application)

    def check() -> None:
        assert seen(application) == before

    return check


@contextlib.contextmanager
def instrumented(**providers: Any) -> Iterator[None]:
    """Instrument ModelForge, and check afterwards that functions and context are restored, and no call is open."""
    before, context = _functions(), get_current()
    ModelForgeInstrumentor().instrument(skip_dep_check=True, **providers)
    try:
        yield
    finally:
        if ModelForgeInstrumentor().is_instrumented_by_opentelemetry:
            ModelForgeInstrumentor().uninstrument()
        left, _ = dict(open_calls), open_calls.clear()
    assert left == {}
    assert get_current() is context
    assert _functions() == before


def _functions() -> dict[Any, Any]:
    return {
        (owner, name): value
        for owner in (ModelForgeRegistry, BaseChatModel)
        for name, value in vars(owner).items()
        if callable(value)
    }


PROMPTS = ("Hi", "fail")


def fails_when_told(body: dict[str, Any]) -> Reply:
    return Reply(status=500 if body["messages"][-1]["content"] == "fail" else 200)


class Application:
    """Gets a model and calls it in each way, with an answer and with an error from a server that `fails_when_told`."""

    spans = 9
    calls = 8

    def __init__(self, registry: ModelForgeRegistry, server: ProviderServer) -> None:
        server.reply = fails_when_told
        get_llm(registry)  # This fills ModelForge's cache of models.dev.
        self._registry = registry
        self._held: list[weakref.ref[Any]] = []

    def __call__(self) -> list[Any]:
        llm: Any = without_retries(get_llm(self._registry))
        self._held.append(weakref.ref(llm))

        async def ask(prompt: str) -> list[Any]:
            return [await self._see(llm.ainvoke(prompt)), await self._see(_gather(llm.astream(prompt)))]

        async def ask_all() -> list[Any]:
            return [await ask(prompt) for prompt in PROMPTS]

        return [
            *([self._see_now(llm.invoke, prompt), self._see_now(llm.stream, prompt)] for prompt in PROMPTS),
            *asyncio.run(ask_all()),
        ]

    def check_forgotten(self) -> None:
        """Check that no model, answer or chunk is left in memory."""
        gc.collect()
        assert [held() for held in self._held if held() is not None] == []

    def _see_now(self, call: Callable[[str], Any], prompt: str) -> Any:
        return seen(lambda: self._note(call(prompt)))

    async def _see(self, call: Awaitable[Any]) -> Any:
        try:
            return self._note(await call)
        except Exception as error:
            return type(error), error.args

    def _note(self, result: BaseMessage | Iterable[BaseMessage]) -> Any:
        messages = [result] if isinstance(result, BaseMessage) else list(result)
        self._held += map(weakref.ref, messages)
        # LangChain generates the id.
        return [message.model_dump(exclude={"id"}) for message in messages]


async def _gather(stream: AsyncIterable[BaseMessage]) -> list[BaseMessage]:
    return [chunk async for chunk in stream]


class Gate:
    """Blocks every thread that calls `hold` until it is opened."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._held = 0
        self._is_open = False
        self._gave_up = False

    def hold(self) -> None:
        with self._condition:
            self._held += 1
            self._condition.notify_all()
            if not self._condition.wait_for(lambda: self._is_open, TIMEOUT):
                self._gave_up = True

    def wait_for(self, threads: int = 1) -> None:
        """Wait until this many threads are blocked."""
        with self._condition:
            assert self._condition.wait_for(lambda: self._held >= threads, TIMEOUT), f"{self._held} are blocked"

    def open(self) -> None:
        with self._condition:
            assert not self._gave_up, "code that should have run meanwhile waited for a blocked thread"
            self._is_open = True
            self._condition.notify_all()


class Ledger(SpanProcessor):
    """Counts how often each span is started, its `end` is called, and it has ended."""

    def __init__(self) -> None:
        self.started: Counter[int] = Counter()
        self.told: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self._lock = threading.Lock()

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._count(self.started, span)
        end = span.end

        def counted_end(*args: Any) -> None:
            self._count(self.told, span)
            end(*args)

        # The SDK ends a span once, however often `end` is called.
        span.end = counted_end

    def on_end(self, span: ReadableSpan) -> None:
        self._count(self.ended, span)

    def _count(self, counter: Counter[int], span: Any) -> None:
        with self._lock:
            counter[span.context.span_id] += 1

    def check(self, spans: int | None = None) -> None:
        """Check that each span was started and ended once, and the number of spans."""
        await_dropped()
        assert set(self.started.values()) <= {1}
        assert self.told == self.started
        assert self.ended == self.started
        if spans is not None:
            assert len(self.started) == spans


def background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start a thread, and return a function that waits for its end and returns its result, or raises its exception."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((True, work()))
        except BaseException as error:
            done.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> Any:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "the thread hangs"
        returned, value = done[0]
        if not returned:
            raise value
        return value

    return result
