"""The four ways to call a model, each as a timed loop."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any


def _timed(call: Callable[[Any], object]) -> Callable[[Any, int], float]:
    def run(model: Any, calls: int) -> float:
        started = perf_counter()
        for _ in range(calls):
            call(model)
        return (perf_counter() - started) / calls

    return run


def _timed_async(call: Callable[[Any], Awaitable[object]]) -> Callable[[Any, int], float]:
    async def loop(model: Any, calls: int) -> float:
        started = perf_counter()
        for _ in range(calls):
            await call(model)
        return (perf_counter() - started) / calls

    return lambda model, calls: asyncio.run(loop(model, calls))


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


MODES: dict[str, Callable[[Any, int], float]] = {
    "invoke": _timed(invoke),
    "ainvoke": _timed_async(ainvoke),
    "stream": _timed(stream),
    "astream": _timed_async(astream),
}
"""Each calls a model some times in a row and returns the seconds of one call."""

CALLS = {"invoke": 200, "ainvoke": 160, "stream": 60, "astream": 50}
"""Calls in one round: some 50 ms each."""
