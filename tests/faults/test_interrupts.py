# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""An interrupt at any place in the package: it reaches the application, and nothing is left open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from opentelemetry.sdk._logs import LoggerProvider

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
from support.calls import chain, weather
from support.environment import at_least
from support.instant import InstantRegistry
from support.interrupts import KINDS, Observer, Place, Tracer, run

SAMPLE = 12
"""The number of events per way to call and kind of interrupt, unless all are requested."""

BEFORE_THE_STEP = {
    "Stream.__next__",
    "Stream._step",
    "Stream.throw",
    "Stream.close",
    "AsyncStream.__anext__",
    "AsyncStream._step",
}
"""Functions whose first lines cannot be protected: the generator is not resumed, and ends once it is dropped."""

RECEIVED = {
    "request_hook": lambda *_: None,
    "response_hook": lambda *_: None,
    "baggage_keys": ["tenant"],
    "metric_baggage_keys": ["tenant"],
    "metadata_keys": ["user"],
    "chunk_events": "all",
    "estimate_tokens": True,
}
"""Options with which a call executes the lines that it skips by default."""


class ProviderError(Exception):
    """The provider's own exception."""


def get_models() -> dict[str, Any]:
    registry = InstantRegistry()
    failing = InstantRegistry(fails=ProviderError)
    models = {"llm": get(registry), "failing": get(failing)}
    models["enhanced"] = get(registry, enhanced=True)
    models["registry"] = registry
    return models


def get(registry: Any, enhanced: bool = False) -> Any:
    if at_least("model-forge-llm", "2.1"):
        return registry.get_llm("openai", "fast", enhanced=enhanced)
    return registry.get_llm("openai", "fast")


def failing(call: Callable[[], Any]) -> None:
    with pytest.raises(ProviderError):
        call()


def leave(stream: Any) -> None:
    for _ in stream:
        break


def close(stream: Any) -> None:
    next(stream)
    stream.close()


def throw(stream: Any) -> None:
    next(stream)
    with pytest.raises(KeyError):
        stream.throw(KeyError("mine"))


async def drain(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


async def aleave(stream: Any) -> None:
    async for _ in stream:
        break


async def aclose(stream: Any) -> None:
    await anext(stream)
    await stream.aclose()


async def afailing(call: Callable[[], Any]) -> None:
    with pytest.raises(ProviderError):
        await call()


PROMPT = [HumanMessage("Hi")]

SYNC: dict[str, Callable[[dict[str, Any]], object]] = {
    "get_llm": lambda models: get(models["registry"]),
    "get_llm enhanced": lambda models: get(models["registry"], enhanced=True),
    "invoke": lambda models: models["llm"].invoke("Hi"),
    "generate": lambda models: models["llm"].generate([PROMPT, PROMPT]),
    "batch": lambda models: models["llm"].batch(["Hi"]),
    "batch of two": lambda models: models["llm"].batch(["Hi", "Ho"]),
    "stream": lambda models: list(models["llm"].stream("Hi")),
    "stream left": lambda models: leave(models["llm"].stream("Hi")),
    "stream closed": lambda models: close(models["llm"].stream("Hi")),
    "stream thrown into": lambda models: throw(models["llm"].stream("Hi")),
    "tools": lambda models: models["llm"].bind_tools([weather]).invoke("Hi"),
    "tools streamed": lambda models: list(models["llm"].bind_tools([weather]).stream("Hi")),
    "chain": lambda models: chain(models["llm"]).invoke({"topic": "bears"}),
    "chain streamed": lambda models: list(chain(models["llm"]).stream({"topic": "bears"})),
    "failing invoke": lambda models: failing(lambda: models["failing"].invoke("Hi")),
    "failing stream": lambda models: failing(lambda: list(models["failing"].stream("Hi"))),
    "enhanced invoke": lambda models: models["enhanced"].invoke("Hi"),
    "enhanced stream": lambda models: list(models["enhanced"].stream("Hi")),
    "enhanced stream left": lambda models: leave(models["enhanced"].stream("Hi")),
}

ASYNC: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ainvoke": lambda models: models["llm"].ainvoke("Hi"),
    "agenerate": lambda models: models["llm"].agenerate([PROMPT, PROMPT]),
    "abatch": lambda models: models["llm"].abatch(["Hi", "Ho"]),
    "astream": lambda models: drain(models["llm"].astream("Hi")),
    "astream left": lambda models: aleave(models["llm"].astream("Hi")),
    "astream closed": lambda models: aclose(models["llm"].astream("Hi")),
    "tools async": lambda models: models["llm"].bind_tools([weather]).ainvoke("Hi"),
    "chain astreamed": lambda models: drain(chain(models["llm"]).astream({"topic": "bears"})),
    "failing ainvoke": lambda models: afailing(lambda: models["failing"].ainvoke("Hi")),
    "failing astream": lambda models: afailing(lambda: drain(models["failing"].astream("Hi"))),
    "enhanced ainvoke": lambda models: models["enhanced"].ainvoke("Hi"),
    "enhanced astream": lambda models: drain(models["enhanced"].astream("Hi")),
}

WAYS: dict[str, Callable[[dict[str, Any]], object]] = {
    **SYNC,
    **{name: lambda models, call=call: asyncio.run(_run(call, models)) for name, call in ASYNC.items()},
}


async def _run(call: Callable[[dict[str, Any]], Any], models: dict[str, Any]) -> None:
    await call(models)


@pytest.fixture(params=["default options", "all options"])
def observer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Observer]:
    observer = Observer()
    options: dict[str, Any] = {}
    if request.param == "all options":
        monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")
        options = {**RECEIVED, "logger_provider": LoggerProvider(shutdown_on_exit=False)}
    ModelForgeInstrumentor().instrument(
        skip_dep_check=True,
        tracer_provider=observer.tracer_provider,
        meter_provider=observer.meter_provider,
        **options,
    )
    logging.getLogger().addHandler(observer.log)
    yield observer
    logging.getLogger().removeHandler(observer.log)
    ModelForgeInstrumentor().uninstrument()


@contextlib.contextmanager
def without_old_garbage() -> Iterator[None]:
    """Limit garbage collection to new objects, because it takes most of the time otherwise."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def faults_of(
    observer: Observer, name: str, application: Callable[[], object], kind: str, at: int, *, opcodes: bool = False
) -> list[str]:
    outcome = run(observer, application, kind, at, opcodes=opcodes)
    place = outcome.place
    suspended = place is not None and place.function in BEFORE_THE_STEP
    # A KeyboardInterrupt stops the event loop, and its traceback keeps references to the other tasks.
    held = [] if suspended or (name == "abatch" and kind == "KeyboardInterrupt") else outcome.held
    return [f"{name}: {kind} at {at}, {place}: {fault}" for fault in (*outcome.faults, *held)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", WAYS)
def test_an_interrupt_reaches_the_application_and_leaves_nothing_open(
    observer: Observer, name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "asyncio")
    application = partial(WAYS[name], get_models())
    application()
    events = Tracer.count(application)
    assert observer.left_open_soon() == []
    step = 1 if request.config.getoption("exhaustive") else max(events // SAMPLE, 1)
    faults: list[str] = []
    with without_old_garbage():
        for (offset, kind), first in product(enumerate(KINDS), range(0, events, step)):
            # Each kind interrupts at different places.
            faults += faults_of(observer, name, application, kind, first + (offset * step) // len(KINDS))
    assert faults == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(("turn", "kind"), [(0, "KeyboardInterrupt"), (1, "function")])
def test_an_interrupt_may_come_at_any_bytecode(
    observer: Observer, turn: int, kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """By default, a kind interrupts half of the events, and each bytecode only in the first way that has it."""
    caplog.set_level(logging.CRITICAL, "asyncio")
    exhaustive = request.config.getoption("exhaustive")
    interrupted: set[Place] = set()
    faults: list[str] = []
    with without_old_garbage():
        for name, way in WAYS.items():
            application = partial(way, get_models())
            application()
            places = Tracer.places_of(application, opcodes=True)
            assert observer.left_open_soon() == []
            for at, place in enumerate(places):
                if exhaustive or (at % 2 == turn and place not in interrupted):
                    interrupted.add(place)
                    faults += faults_of(observer, name, application, kind, at, opcodes=True)
    assert faults == []
