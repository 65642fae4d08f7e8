# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Concurrent and nested calls: each has its own span, its own caller and its own answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_openai import ChatOpenAI
from opentelemetry.sdk.trace import ReadableSpan

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
from support.calls import MODES, TIMEOUT, EchoModel, ask, model_spans, parent_of
from support.faults import background
from support.models import OPENAI_KEY
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")

IN = "gen_ai.usage.input_tokens"
OUT = "gen_ai.usage.output_tokens"


# --- One run id for two calls ---


def by_prompt(body: dict[str, Any]) -> Reply:
    """Answer each prompt with as many tokens as it has letters."""
    return Reply(input_tokens=len(body["messages"][-1]["content"]), cached_tokens=0)


def check_apart(telemetry: Telemetry, callers: dict[str, int]) -> None:
    """Check that the call of each prompt is under the caller of that prompt and has the prompt's tokens."""
    spans = model_spans(telemetry.spans())
    found = {parent_of(span): (span.attributes or {})[IN] for span in spans}
    assert found == {caller: len(prompt) for prompt, caller in callers.items()}
    assert len(spans) == len(callers)
    assert {(span.attributes or {})["modelforge.outcome"] for span in spans} == {"completed"}


@pytest.mark.parametrize("mode", ["invoke", "stream"])
def test_one_run_id_in_two_threads_is_two_calls(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, mode: str
) -> None:
    together = threading.Barrier(2)
    callers: dict[str, int] = {}
    run_id = uuid4()

    def reply(body: dict[str, Any]) -> Reply:
        together.wait(TIMEOUT)
        return by_prompt(body)

    def work(prompt: str) -> None:
        with instrumented.tracer.start_as_current_span(prompt) as caller:
            callers[prompt] = caller.get_span_context().span_id
            ask(llm, mode, prompt, config={"run_id": run_id}, **({"stream_usage": True} if mode == "stream" else {}))

    provider_server.reply = reply
    for result in [background(lambda prompt=prompt: work(prompt)) for prompt in ("Hi", "Hello")]:
        result()
    check_apart(instrumented, callers)


@pytest.mark.parametrize("mode", ["ainvoke", "astream"])
def test_one_run_id_in_two_tasks_is_two_calls(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, mode: str
) -> None:
    together = threading.Barrier(2)
    callers: dict[str, int] = {}
    run_id = uuid4()

    def reply(body: dict[str, Any]) -> Reply:
        together.wait(TIMEOUT)
        return by_prompt(body)

    async def work(prompt: str) -> None:
        with instrumented.tracer.start_as_current_span(prompt) as caller:
            callers[prompt] = caller.get_span_context().span_id
            if mode == "ainvoke":
                await llm.ainvoke(prompt, config={"run_id": run_id})
            else:
                async for _ in llm.astream(prompt, config={"run_id": run_id}, stream_usage=True):
                    pass

    async def main() -> None:
        await asyncio.gather(work("Hi"), work("Hello"))

    provider_server.reply = reply
    asyncio.run(main())
    check_apart(instrumented, callers)


def test_one_run_id_in_two_interleaved_streams_is_two_calls(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer
) -> None:
    provider_server.reply = by_prompt
    callers: dict[str, int] = {}
    run_id = uuid4()
    streams = []
    for prompt in ("Hi", "Hello"):
        with instrumented.tracer.start_as_current_span(prompt) as caller:
            callers[prompt] = caller.get_span_context().span_id
            streams.append(llm.stream(prompt, config={"run_id": run_id}, stream_usage=True))
            next(streams[-1])
    first, second = streams
    next(first)
    list(second)
    list(first)
    check_apart(instrumented, callers)


class Delegating(EchoModel):
    """A model that calls another model under its own run id."""

    inner: Any = None
    run_id: Any = None

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.inner.invoke("Hello", config={"run_id": self.run_id})
        return super()._generate(messages, stop, run_manager, **kwargs)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        chunks = list(super()._stream(messages, stop, run_manager, **kwargs))
        yield chunks[0]
        for chunk in self.inner.stream("Hello", config={"run_id": self.run_id}, stream_usage=True):
            yield ChatGenerationChunk(message=AIMessageChunk(chunk.content))
        yield from chunks[1:]


@pytest.mark.parametrize("mode", MODES)
def test_one_run_id_for_a_call_and_a_nested_call_is_two_calls(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, mode: str
) -> None:
    provider_server.reply = by_prompt
    run_id = uuid4()
    outer = Delegating(inner=llm, run_id=run_id, callbacks=[OpenTelemetryCallback("echo", "echo")])
    with instrumented.tracer.start_as_current_span("caller") as caller:
        ask(outer, mode, config={"run_id": run_id})
    spans = {(span.attributes or {})["modelforge.provider"]: span for span in model_spans(instrumented.spans())}
    assert parent_of(spans["echo"]) == caller.get_span_context().span_id
    assert parent_of(spans["openai"]) == spans["echo"].context.span_id
    assert (spans["openai"].attributes or {})[IN] == len("Hello")
    assert (spans["echo"].attributes or {}).get(IN) != len("Hello")
    for span in spans.values():
        assert (span.attributes or {})["modelforge.outcome"] == "completed"


# --- Other clients in a callback ---


def chat(client: openai.OpenAI) -> None:
    client.chat.completions.create(model="other", messages=[{"role": "user", "content": "Others"}])


def streamed_chat(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="other",
        messages=[{"role": "user", "content": "Others"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    for _ in stream:
        pass


OTHERS: dict[str, Callable[[openai.OpenAI, str], object]] = {
    "a ChatOpenAI": lambda client, url: ChatOpenAI(model="other", api_key=OPENAI_KEY, base_url=url).invoke("Others"),
    "a ChatOpenAI's stream": lambda client, url: list(
        ChatOpenAI(model="other", api_key=OPENAI_KEY, base_url=url).stream("Others", stream_usage=True)
    ),
    "chat": lambda client, url: chat(client),
    "a streamed chat": lambda client, url: streamed_chat(client),
    "embeddings": lambda client, url: client.embeddings.create(model="other", input="Others", encoding_format="float"),
    "moderation": lambda client, url: client.moderations.create(model="other", input="Others"),
}
EMBEDDINGS = {
    "object": "list",
    "model": "other-embedding",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
    "usage": {"prompt_tokens": 4000, "total_tokens": 4000},
}
MODERATION = {"id": "modr-1", "model": "other-moderation", "results": []}


def of_main_or_other(body: dict[str, Any]) -> Reply:
    if "input" in body:
        return Reply(body=EMBEDDINGS if "encoding_format" in body else MODERATION)
    if body["model"] == "other":
        return Reply(model="other-9", input_tokens=5000, output_tokens=6000, finish_reason="length")
    return Reply(model="main-1", input_tokens=20, output_tokens=8)


class Asks(BaseCallbackHandler):
    """A user's handler that calls other clients at each event of a call."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._busy = False
        self.asked: set[str] = set()

    def _ask(self, event: str) -> None:
        # LangChain passes the handlers of a run on to its child runs.
        if not self._busy and event not in self.asked:
            self._busy = True
            self._work()
            self._busy = False
            self.asked.add(event)

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self._ask("start")

    def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
        self._ask("chunk")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self._ask("end")


class AsksInline(Asks):
    run_inline = True


def main_span(telemetry: Telemetry) -> ReadableSpan:
    (span,) = model_spans(telemetry.spans())
    return span


@pytest.mark.parametrize("handler", [Asks, AsksInline])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", OTHERS)
def test_answers_to_requests_of_a_users_callback_are_not_attributed_to_the_call(
    instrumented: Telemetry,
    llm: Any,
    provider_server: ProviderServer,
    other: str,
    mode: str,
    handler: type[Asks],
) -> None:
    provider_server.reply = of_main_or_other
    url = f"{provider_server.url}/v1"
    with openai.OpenAI(api_key=OPENAI_KEY, base_url=url, max_retries=0) as client:
        asks = handler(lambda: OTHERS[other](client, url))
        usage = {"stream_usage": True} if mode in ("stream", "astream") else {}
        ask(llm, mode, [HumanMessage("Hi")], config={"callbacks": [asks]}, **usage)
    assert asks.asked >= {"start", "end"}
    attributes = main_span(instrumented).attributes or {}
    assert (attributes[IN], attributes[OUT]) == (20, 8)
    assert attributes["gen_ai.response.model"] == "main-1"
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    tokens = instrumented.metrics()["gen_ai.client.token.usage"]
    assert sorted(point.sum for point in tokens) == [8, 20]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("other", ["embeddings", "moderation"])
def test_embeddings_of_the_models_own_client_are_not_attributed_to_the_call(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, other: str, mode: str
) -> None:
    provider_server.reply = of_main_or_other
    asks = AsksInline(lambda: OTHERS[other](llm.root_client, ""))
    usage = {"stream_usage": True} if mode in ("stream", "astream") else {}
    ask(llm, mode, config={"callbacks": [asks]}, **usage)
    attributes = main_span(instrumented).attributes or {}
    assert (attributes[IN], attributes[OUT]) == (20, 8)
    assert attributes["gen_ai.response.model"] == "main-1"
    assert "error.type" not in attributes
