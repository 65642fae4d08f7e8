# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Many concurrent calls of all kinds, from threads and from tasks."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
from opentelemetry_instrumentation_modelforge.call import open_calls
from support.calls import MODEL_SPAN, TIMEOUT, parent_of
from support.instant import InstantRegistry

THREADS, TASKS = 8, 50


class Tally(SpanProcessor):
    """Counts spans without keeping them, and checks that each call is under its own caller."""

    def __init__(self) -> None:
        self.started: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.wrong = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started[span.name] += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended[span.name] += 1
        if span.name == MODEL_SPAN and span.attributes is not None:
            self.outcomes[str(span.attributes["modelforge.outcome"])] += 1
            # Each caller has put its span's id into the run's metadata.
            self.wrong += span.attributes.get("caller") != str(parent_of(span))


class ProviderError(Exception):
    pass


def config(span: Any) -> Any:
    return {"metadata": {"caller": str(span.get_span_context().span_id)}}


def close_early(stream: Any) -> None:
    next(stream)
    stream.close()


def leave(stream: Any) -> None:
    for _ in stream:
        return


def fail(call: Callable[[], Any]) -> None:
    with pytest.raises(ProviderError):
        call()


SYNC: list[tuple[str, Callable[[Any, Any, Any], Any]]] = [
    ("completed", lambda llm, failing, config: llm.invoke("Hi", config)),
    ("completed", lambda llm, failing, config: list(llm.stream("Hi", config))),
    ("closed", lambda llm, failing, config: close_early(llm.stream("Hi", config))),
    ("closed", lambda llm, failing, config: leave(llm.stream("Hi", config))),
    ("failed", lambda llm, failing, config: fail(lambda: failing.invoke("Hi", config))),
    ("failed", lambda llm, failing, config: fail(lambda: list(failing.stream("Hi", config)))),
]


async def adrain(stream: Any) -> None:
    async for _ in stream:
        await asyncio.sleep(0)


async def aclose_early(stream: Any) -> None:
    await anext(stream)
    await stream.aclose()


async def afail(call: Callable[[], Any]) -> None:
    with pytest.raises(ProviderError):
        await call()


async def acancel(llm: Any, config: Any) -> None:
    stream = llm.astream("Hi", config)
    await anext(stream)

    async def wait() -> None:
        async for _ in stream:
            await asyncio.sleep(TIMEOUT)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await stream.aclose()


ASYNC: list[tuple[str, Callable[[Any, Any, Any], Any]]] = [
    ("completed", lambda llm, failing, config: llm.ainvoke("Hi", config)),
    ("completed", lambda llm, failing, config: adrain(llm.astream("Hi", config))),
    ("closed", lambda llm, failing, config: aclose_early(llm.astream("Hi", config))),
    ("failed", lambda llm, failing, config: afail(lambda: failing.ainvoke("Hi", config))),
    ("closed", lambda llm, failing, config: acancel(llm, config)),
]


def test_each_of_many_calls_is_recorded_once_under_its_caller_and_nothing_is_kept(
    request: pytest.FixtureRequest,
) -> None:
    calls = 20_000 if request.config.getoption("exhaustive") else 1_600
    tally, reader = Tally(), InMemoryMetricReader()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(tally)
    tracer = tracer_provider.get_tracer("application")
    ModelForgeInstrumentor().instrument(
        tracer_provider=tracer_provider,
        meter_provider=MeterProvider([reader], shutdown_on_exit=False),
        metadata_keys=["caller"],
        skip_dep_check=True,
    )
    try:
        llm = InstantRegistry().get_llm("openai", "fast", enhanced=False)
        failing = InstantRegistry(fails=ProviderError).get_llm("openai", "fast", enhanced=False)

        def in_threads(count: int) -> None:
            def call(number: int) -> None:
                with tracer.start_as_current_span("caller") as span:
                    SYNC[number % len(SYNC)][1](llm, failing, config(span))

            with ThreadPoolExecutor(THREADS) as pool:
                for _ in pool.map(call, range(count)):
                    pass

        def in_tasks(count: int) -> None:
            numbers = iter(range(count))

            async def work() -> None:
                for number in numbers:
                    with tracer.start_as_current_span("caller") as span:
                        await ASYNC[number % len(ASYNC)][1](llm, failing, config(span))

            async def work_all() -> None:
                await asyncio.gather(*(work() for _ in range(TASKS)))

            asyncio.run(work_all())

        def run(count: int) -> None:
            with ThreadPoolExecutor(2) as pool:
                for done in (pool.submit(in_threads, count // 2), pool.submit(in_tasks, count // 2)):
                    done.result(600)
            wait_until_closed()
            reader.get_metrics_data()

        run(400)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        run(calls)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        data: Any = reader.get_metrics_data()
    finally:
        tracemalloc.stop()
        ModelForgeInstrumentor().uninstrument()
    total = calls + 400
    expected = Counter(
        ways[number % len(ways)][0] for ways in (SYNC, ASYNC) for count in (200, calls // 2) for number in range(count)
    )
    assert tally.started == tally.ended
    assert tally.ended[MODEL_SPAN] == tally.ended["caller"] == total
    assert tally.outcomes == expected
    assert tally.wrong == 0
    assert open_calls == {}
    points = {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert sum(point.count for point in points["gen_ai.client.operation.duration"]) == total
    assert sum(point.value for point in points["modelforge.client.active_streams"]) == 0
    assert grown < 512 * 1024, f"{grown / 1024:.0f} KiB more"


def wait_until_closed() -> None:
    deadline = monotonic() + TIMEOUT
    while open_calls and monotonic() < deadline:
        gc.collect()
        sleep(0.001)
