# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Calls with prompts and answers of 10 MB: the overhead of the instrumentation does not grow with them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from opentelemetry_instrumentation_modelforge.call import Call
from opentelemetry_instrumentation_modelforge.callback import OpenTelemetryCallback
from support.calls import MODEL_SPAN
from support.instant import InstantRegistry
from support.models import get_llm
from support.telemetry import Telemetry

SHORT, LONG = 1_000, 10_000_000
REPETITIONS = 9
MOST = 0.001
"""Seconds that a long call may take more than a short one."""


class Model(BaseChatModel):
    """Returns ``answer`` without usage, like a provider that reports none."""

    answer: str = "Hello"
    fails: Any = None

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        if self.fails is not None:
            raise self.fails
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.answer))])

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        if self.fails is asyncio.CancelledError:
            await asyncio.sleep(60)
        return self._generate()

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for _ in range(2):
            yield ChatGenerationChunk(message=AIMessageChunk(self.answer))
        if self.fails is not None:
            raise self.fails


def model(**fields: Any) -> Any:
    return get_llm(InstantRegistry(Model, **fields), "openai", "fast")


def text(length: int) -> str:
    return "word " * (length // 5)


def swallowing(call: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is 10 MB long.
        call()


def completed(length: int) -> Callable[[], Any]:
    llm, prompt = model(answer=text(length)), [HumanMessage(text(length))]
    return lambda: llm.invoke(prompt)


def error(length: int) -> type[ValueError]:
    said = text(length)

    class Error(ValueError):
        def __init__(self) -> None:
            super().__init__(said)

    return Error


def failed(length: int) -> Callable[[], Any]:
    llm, prompt = model(fails=error(length)), [HumanMessage(text(length))]
    return lambda: swallowing(lambda: llm.invoke(prompt))


def closed(length: int) -> Callable[[], Any]:
    llm, prompt = model(answer=text(length)), [HumanMessage(text(length))]

    def call() -> None:
        stream = llm.stream(prompt)
        next(stream)
        stream.close()

    return call


def failed_stream(length: int) -> Callable[[], Any]:
    llm, prompt = model(answer=text(length), fails=error(length)), [HumanMessage(text(length))]
    return lambda: swallowing(lambda: list(llm.stream(prompt)))


def cancelled(length: int) -> Callable[[], Any]:
    llm, prompt = model(fails=asyncio.CancelledError), [HumanMessage(text(length))]

    async def call() -> None:
        task = asyncio.ensure_future(llm.ainvoke(prompt))
        for _ in range(6):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    return lambda: asyncio.run(call())


class Clock:
    """Measures the total time spent in the package's own code, where LangChain calls it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self._depth = 0
        for owner, names in (
            (Call, ("end", "close", "fail")),
            (OpenTelemetryCallback, ("on_chat_model_start", "on_llm_new_token", "on_llm_end", "on_llm_error")),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return function(*args, **kwargs)
            self._depth += 1
            started = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += perf_counter() - started
                self._depth -= 1

        return timed

    def measure(self, call: Callable[[], Any]) -> float:
        self.seconds = 0.0
        call()
        return self.seconds


@pytest.mark.parametrize("ending", [completed, failed, closed, failed_stream, cancelled])
def test_the_cost_of_a_call_does_not_grow_with_its_prompt_and_answer(
    instrumented: Telemetry, monkeypatch: pytest.MonkeyPatch, ending: Callable[[int], Callable[[], Any]]
) -> None:
    clock = Clock(monkeypatch)
    short, long = ending(SHORT), ending(LONG)
    short(), long()
    gc.collect()
    gc.disable()
    try:
        # They alternate, so that other load on the machine affects both.
        pairs = [(clock.measure(short), clock.measure(long)) for _ in range(REPETITIONS)]
    finally:
        gc.enable()
    assert instrumented.spans()
    difference = median(long for _, long in pairs) - median(short for short, _ in pairs)
    assert difference < MOST, f"{difference * 1e6:.0f} µs more than a short one"


def test_an_error_with_a_long_message_has_a_short_status(instrumented: Telemetry) -> None:
    long = ValueError(text(20_000))
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the text is 20 kB long.
        model(fails=long).invoke("Hi")
    assert raised.value is long
    span = instrumented.span(MODEL_SPAN)
    assert span.status.description == "ValueError"
    (event,) = span.events
    assert event.attributes is not None
    assert len(str(event.attributes["exception.message"])) < 100


def test_the_estimate_of_tokens_is_bounded(instrument: Any) -> None:
    telemetry = instrument(estimate_tokens=True)
    llm = model(answer=text(LONG))
    started = perf_counter()
    llm.invoke([HumanMessage(text(LONG))])
    assert perf_counter() - started < 1
    (span,) = [span for span in telemetry.spans() if span.name == MODEL_SPAN]
    assert span.attributes["modelforge.usage.estimated"] is True
