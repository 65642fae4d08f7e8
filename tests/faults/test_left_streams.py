# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Streams that are abandoned while the provider's generator has a context attached in its frame, and misused ones."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from time import monotonic, sleep
from typing import Any

import pytest
from langchain_core.outputs import ChatGenerationChunk
from opentelemetry.context import get_current
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN, get_current_span

from opentelemetry_instrumentation_modelforge.call import open_calls
from support.calls import MODEL_SPAN, TIMEOUT, model_spans, parent_of
from support.faults import Gate
from support.instant import InstantOpenAI, InstantRegistry
from support.models import get_llm
from support.telemetry import Telemetry

_tracer = TracerProvider(shutdown_on_exit=False).get_tracer("grpc")


class AttachingModel(InstantOpenAI):
    """Streams like gRPC's synchronous instrumentation, with a span that is current around its generator's loop."""

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with _tracer.start_as_current_span("inner"):
            yield from super()._stream(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with _tracer.start_as_current_span("inner"):
            for chunk in super()._stream(*args, **kwargs):
                yield chunk


class Left(Exception):
    pass


@pytest.fixture
def llm(instrumented: Telemetry) -> Any:
    return get_llm(InstantRegistry(AttachingModel), "openai", "fast")


def by_break(llm: Any) -> None:
    for _ in llm.stream("Hi"):
        break


def by_exception(llm: Any) -> None:
    try:
        for _ in llm.stream("Hi"):
            raise Left  # noqa: TRY301 - the exception leaves the loop.
    except Left:
        pass


def by_close(llm: Any) -> None:
    stream = llm.stream("Hi")
    next(stream)
    stream.close()


def by_cycle(llm: Any) -> None:
    stream = llm.stream("Hi")
    next(stream)
    holder: list[Any] = [stream]
    holder.append(holder)
    del stream, holder
    gc.collect()


def by_another_thread(llm: Any) -> None:
    held = [llm.stream("Hi")]
    next(held[0])
    seen: list[Any] = []

    def drop() -> None:
        before = get_current()
        held.clear()
        seen.append(get_current() is before)

    other = threading.Thread(target=drop)
    other.start()
    other.join(TIMEOUT)
    assert seen == [True]


WAYS = [by_break, by_exception, by_close, by_cycle, by_another_thread]


@pytest.mark.parametrize("leave", WAYS)
@pytest.mark.parametrize("within", ["no span", "a span"])
def test_a_thread_that_leaves_a_stream_continues_in_its_own_context(
    llm: Any, instrumented: Telemetry, nothing_left_soon: None, leave: Callable[[Any], None], within: str
) -> None:
    requests = instrumented.tracer

    def work() -> None:
        before = get_current()
        leave(llm)
        assert get_current() is before
        assert get_current_span() is (INVALID_SPAN if within == "no span" else request)
        llm.invoke("next")

    request: Any = None
    if within == "a span":
        with requests.start_as_current_span("request") as request, ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, work).result(TIMEOUT)
    else:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result(TIMEOUT)
            # This is the worker's own context, not that of this task.
            assert pool.submit(get_current_span).result(TIMEOUT) is INVALID_SPAN
    wait_for(lambda: len(model_spans(instrumented.spans())) == 2)
    left, following = model_spans(instrumented.spans())
    assert left.attributes is not None
    assert left.attributes["modelforge.outcome"] == "closed"
    expected = request.get_span_context().span_id if request is not None else None
    assert [parent_of(left), parent_of(following)] == [expected, expected]


async def aby_break(llm: Any) -> None:
    async for _ in llm.astream("Hi"):
        break
    # The event loop closes the generator in a separate task.
    gc.collect()
    await asyncio.sleep(0)


async def aby_exception(llm: Any) -> None:
    try:
        async for _ in llm.astream("Hi"):
            raise Left  # noqa: TRY301 - the exception leaves the loop.
    except Left:
        pass
    gc.collect()
    await asyncio.sleep(0)


async def aby_close(llm: Any) -> None:
    stream = llm.astream("Hi")
    await anext(stream)
    await stream.aclose()


async def aby_cancellation(llm: Any) -> None:
    started = asyncio.Event()

    async def consume() -> None:
        async for _ in llm.astream("Hi"):
            started.set()
            await asyncio.sleep(TIMEOUT)

    task = asyncio.ensure_future(consume())
    await started.wait()
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("leave", [aby_break, aby_exception, aby_close, aby_cancellation])
def test_a_task_that_leaves_a_stream_continues_in_its_own_context(
    llm: Any, instrumented: Telemetry, nothing_left_soon: None, leave: Callable[[Any], Any]
) -> None:
    async def work() -> None:
        with instrumented.tracer.start_as_current_span("request"):
            before = get_current()
            await leave(llm)
            assert get_current() is before
            await llm.ainvoke("next")

    asyncio.run(work())
    wait_for(lambda: len(model_spans(instrumented.spans())) == 2)
    request = instrumented.span("request")
    assert request.context is not None
    assert [parent_of(span) for span in model_spans(instrumented.spans())] == [request.context.span_id] * 2
    assert [span.attributes["modelforge.outcome"] for span in model_spans(instrumented.spans()) if span.attributes] == [
        "closed",
        "completed",
    ]


# --- Misuse ---


class GatedModel(InstantOpenAI):
    """Waits in the middle of each step until its gate is opened."""

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        gate: Gate = self.metadata["gate"] if self.metadata else Gate()
        for chunk in super()._stream(*args, **kwargs):
            gate.hold()
            yield chunk


@pytest.mark.parametrize("others", [1, 2])
def test_concurrent_steps_after_the_first_fail(instrumented: Telemetry, nothing_left_soon: None, others: int) -> None:
    gate = Gate()
    llm = get_llm(InstantRegistry(GatedModel, metadata={"gate": gate}), "openai", "fast")
    stream: Any = llm.stream("Hi")
    chunks: list[Any] = []
    first = threading.Thread(target=lambda: chunks.append(next(stream)))
    first.start()
    gate.wait_for()
    errors: list[BaseException] = []

    def step() -> None:
        try:
            next(stream)
        except BaseException as error:
            errors.append(error)

    for thread in [threading.Thread(target=step) for _ in range(others)]:
        thread.start()
        thread.join(TIMEOUT)
    gate.open()
    first.join(TIMEOUT)
    chunks += stream
    assert [(type(error), str(error)) for error in errors] == [(ValueError, "generator already executing")] * others
    assert len(chunks) == 3
    span = instrumented.span(MODEL_SPAN)
    assert span.attributes is not None
    assert span.attributes["modelforge.outcome"] == "completed"
    assert span.status.status_code.name == "UNSET"
    assert span.attributes["modelforge.response.chunk_count"] == 3


def test_concurrent_asynchronous_steps_after_the_first_fail(instrumented: Telemetry, nothing_left_soon: None) -> None:
    waiting, go = asyncio.Event(), asyncio.Event()

    class Slow(InstantOpenAI):
        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            for chunk in super()._stream(*args, **kwargs):
                waiting.set()
                await go.wait()
                yield chunk

    async def work() -> list[Any]:
        llm = get_llm(InstantRegistry(Slow), "openai", "fast")
        stream: Any = llm.astream("Hi")
        first = asyncio.ensure_future(anext(stream))
        await waiting.wait()
        with pytest.raises(RuntimeError, match="already running"):
            await anext(stream)
        go.set()
        return [await first, *[chunk async for chunk in stream]]

    assert len(asyncio.run(work())) == 3
    span = instrumented.span(MODEL_SPAN)
    assert span.attributes is not None
    assert span.attributes["modelforge.outcome"] == "completed"
    assert span.status.status_code.name == "UNSET"


@pytest.fixture
def nothing_left_soon(caplog: pytest.LogCaptureFixture, instrumented: Telemetry) -> Iterator[None]:
    """Check that no call is left once the thread that ends dropped streams has finished.

    A provider's own generator that is closed in another thread or task fails to detach its context, as it does without
    instrumentation.
    """
    before = get_current()
    yield
    gc.collect()
    wait_for(lambda: not open_calls)
    assert get_current() is before
    # Without a stream, for example if a test is skipped, this metric does not exist.
    assert sum(point.value for point in instrumented.metrics().get("modelforge.client.active_streams", ())) == 0
    assert [text for text in caplog.messages if "Telemetry fault" in text] == []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + TIMEOUT
    while not condition() and monotonic() < deadline:
        sleep(0.001)
    assert condition()
