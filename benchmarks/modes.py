# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The four ways to call a model, each as a timed loop."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, process_time
from typing import Any

Run = Callable[[Any, int, Callable[[], float]], float]

CLOCKS = {"cpu": process_time, "wall": perf_counter}


def _timed(call: Callable[[Any], object]) -> Run:
    def run(model: Any, calls: int, clock: Callable[[], float]) -> float:
        started = clock()
        for _ in range(calls):
            call(model)
        return (clock() - started) / calls

    return run


def _timed_async(call: Callable[[Any], Awaitable[object]]) -> Run:
    async def loop(model: Any, calls: int, clock: Callable[[], float]) -> float:
        started = clock()
        for _ in range(calls):
            await call(model)
        return (clock() - started) / calls

    return lambda model, calls, clock: asyncio.run(loop(model, calls, clock))


def invoke(model: Any) -> object:
    return model.invoke("Hi")


async def ainvoke(model: Any) -> object:
    return await model.ainvoke("Hi")


def stream(model: Any) -> None:
    for _ in model.stream("Hi"):
        pass


async def astream(model: Any) -> None:
    async for _ in model.astream("Hi"):
        pass


MODES: dict[str, Run] = {
    "invoke": _timed(invoke),
    "ainvoke": _timed_async(ainvoke),
    "stream": _timed(stream),
    "astream": _timed_async(astream),
}
"""Each calls a model several times in a row and returns the seconds that one call takes, by a clock."""

CALLS = {"invoke": 200, "ainvoke": 160, "stream": 60, "astream": 50}
"""Calls in one round, which takes about 50 ms."""

CONCURRENT_CALLS = 512


def _in_threads(call: Callable[[Any], object], threads: int) -> Run:
    def run(model: Any, calls: int, clock: Callable[[], float]) -> float:
        def work(share: int) -> None:
            for _ in range(share):
                call(model)

        with ThreadPoolExecutor(threads) as pool:
            # Each thread exists before the clock starts.
            list(pool.map(work, [1] * threads))
            started = clock()
            list(pool.map(work, [calls // threads] * threads))
            return (clock() - started) / calls

    return run


def _in_tasks(call: Callable[[Any], Awaitable[object]], tasks: int) -> Run:
    async def work(model: Any, share: int) -> None:
        for _ in range(share):
            await call(model)

    async def loop(model: Any, calls: int, clock: Callable[[], float]) -> float:
        started = clock()
        await asyncio.gather(*(work(model, calls // tasks) for _ in range(tasks)))
        return (clock() - started) / calls

    return lambda model, calls, clock: asyncio.run(loop(model, calls, clock))


AT_ONCE = (1, 8, 64)

CONCURRENT: dict[str, Run] = {}
for _count in AT_ONCE:
    CONCURRENT[f"invoke, {_count} threads"] = _in_threads(invoke, _count)
    CONCURRENT[f"stream, {_count} threads"] = _in_threads(stream, _count)
    CONCURRENT[f"ainvoke, {_count} tasks"] = _in_tasks(ainvoke, _count)
    CONCURRENT[f"astream, {_count} tasks"] = _in_tasks(astream, _count)
