"""The four ways to call a model, each as a timed loop."""

import asyncio
from collections.abc import Awaitable, Callable
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
"""Each calls a model some times in a row and returns the seconds of one call, by a clock."""

CALLS = {"invoke": 200, "ainvoke": 160, "stream": 60, "astream": 50}
"""Calls in one round: some 50 ms each."""
