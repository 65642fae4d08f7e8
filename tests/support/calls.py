# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Ways to call a model, and an in-process model for tests that need no provider."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from opentelemetry.sdk.trace import ReadableSpan
from pydantic import BaseModel

from opentelemetry_instrumentation_modelforge.dropped import end_soon

MODEL_SPAN = "langchain.llm.invoke"
MODELS = {
    "openai": "gpt-4o-mini",
    "ollama": "llama3",
    "google": "gemini-2.5-flash",
    "github_copilot": "gpt-4o",
}
"""A model for each of ModelForge's four types of provider."""

TIMEOUT = 60
"""Seconds to wait for something that happens immediately, unless the test is about to fail."""


def await_dropped() -> None:
    """Wait until the calls of all dropped streams have ended, if the thread that ends them is running."""
    if any(thread.name == "modelforge-dropped-streams" for thread in threading.enumerate()):
        ended = threading.Event()
        end_soon(ended.set)
        assert ended.wait(TIMEOUT), "the thread that ends dropped streams hangs"


@tool
def weather(city: str) -> str:
    """Get the weather in a city."""
    return f"Sunny in {city}"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def chain(llm: Any) -> Any:
    """Return a chain of the usual three links."""
    return ChatPromptTemplate.from_template("Tell me about {topic}") | llm | StrOutputParser()


async def _drain(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


async def _modelforge_stream(llm: Any) -> None:
    from modelforge.streaming import stream

    await _drain(stream(llm, "Hi", buffer_size=1))


MODES = ("invoke", "ainvoke", "stream", "astream")
STREAMS = ("stream", "astream")


def ask(llm: Any, mode: str, prompt: Any = "Hi", **kwargs: Any) -> Any:
    """Call a model, or a chain, in one of the modes. Return its answer, or the chunks of its stream."""

    async def answer() -> Any:
        if mode == "ainvoke":
            return await llm.ainvoke(prompt, **kwargs)
        return [chunk async for chunk in llm.astream(prompt, **kwargs)]

    if mode == "invoke":
        return llm.invoke(prompt, **kwargs)
    return list(llm.stream(prompt, **kwargs)) if mode == "stream" else asyncio.run(answer())


SYNC: dict[str, Callable[[Any], object]] = {
    "invoke": lambda llm: llm.invoke("Hi"),
    "stream": lambda llm: list(llm.stream("Hi")),
    "batch": lambda llm: llm.batch(["Hi"]),
    "generate": lambda llm: llm.generate([[HumanMessage("Hi")]]),
    "chain.invoke": lambda llm: chain(llm).invoke({"topic": "bears"}),
    "chain.stream": lambda llm: list(chain(llm).stream({"topic": "bears"})),
    "chain.batch": lambda llm: chain(llm).batch([{"topic": "bears"}]),
    "bind_tools.invoke": lambda llm: llm.bind_tools([weather]).invoke("Hi"),
    "bind_tools.stream": lambda llm: list(llm.bind_tools([weather]).stream("Hi")),
    "with_structured_output": lambda llm: llm.with_structured_output(Person).invoke("Who?"),
}

ASYNC: dict[str, Callable[[Any], Coroutine[Any, Any, object]]] = {
    "ainvoke": lambda llm: llm.ainvoke("Hi"),
    "astream": lambda llm: _drain(llm.astream("Hi")),
    "abatch": lambda llm: llm.abatch(["Hi"]),
    "agenerate": lambda llm: llm.agenerate([[HumanMessage("Hi")]]),
    "chain.ainvoke": lambda llm: chain(llm).ainvoke({"topic": "bears"}),
    "chain.astream": lambda llm: _drain(chain(llm).astream({"topic": "bears"})),
    "chain.abatch": lambda llm: chain(llm).abatch([{"topic": "bears"}]),
    "bind_tools.ainvoke": lambda llm: llm.bind_tools([weather]).ainvoke("Hi"),
    "with_structured_output": lambda llm: llm.with_structured_output(Person).ainvoke("Who?"),
    "astream_events": lambda llm: _drain(llm.astream_events("Hi", version="v2")),
    "chain.astream_events": lambda llm: _drain(chain(llm).astream_events({"topic": "bears"}, version="v2")),
}
# The module does not exist before model-forge-llm 2.1.
if importlib.util.find_spec("modelforge.streaming") is not None:
    ASYNC["modelforge.streaming.stream"] = _modelforge_stream


def model_spans(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    return [span for span in spans if span.name == MODEL_SPAN]


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def children_of(span: Any, spans: list[ReadableSpan]) -> list[ReadableSpan]:
    return [other for other in spans if parent_of(other) == span.get_span_context().span_id]


class EchoModel(BaseChatModel):
    """Returns the prompt, or streams `chunk_count` chunks. Raises `error`, in a stream after the chunks."""

    chunk_count: int = 3
    error: Any = None

    @property
    def _llm_type(self) -> str:
        return "echo"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kw: Any
    ) -> ChatResult:
        if self.error is not None:
            raise self.error
        return ChatResult(generations=[ChatGeneration(message=AIMessage(messages[-1].content))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for _ in range(self.chunk_count):
            yield ChatGenerationChunk(message=AIMessageChunk("x"))
        if self.error is not None:
            raise self.error


class AsyncEchoModel(EchoModel):
    """An `EchoModel` that runs on the event loop itself."""

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(*args, **kwargs):
            yield chunk
