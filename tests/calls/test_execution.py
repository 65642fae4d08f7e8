# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The tree: the parents and children of model spans, and that every call ends exactly once, however it ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from opentelemetry.context import get_current
from opentelemetry.trace import StatusCode, get_current_span

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
from opentelemetry_instrumentation_modelforge.call import open_calls
from opentelemetry_instrumentation_modelforge.dropped import end_soon
from support.calls import (
    ASYNC,
    MODEL_SPAN,
    MODELS,
    SYNC,
    TIMEOUT,
    AsyncEchoModel,
    EchoModel,
    await_dropped,
    chain,
    children_of,
    model_spans,
    parent_of,
)
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")

STREAMING = ("openai", "ollama", "google")
# langchain-community's ChatOllama supports neither tools nor structured output.
WITHOUT_TOOLS = {"ollama"}


@pytest.fixture
def echo(instrumented: Telemetry) -> EchoModel:
    """An in-process model with the callback."""
    return EchoModel(callbacks=[OpenTelemetryCallback("echo", "echo")])


@pytest.fixture
def aecho(instrumented: Telemetry) -> AsyncEchoModel:
    return AsyncEchoModel(callbacks=[OpenTelemetryCallback("echo", "echo")])


def observed(provider: str, *, asynchronous: bool) -> bool:
    """Return whether an instrumentation of the provider's client is installed."""
    if provider == "google" and not asynchronous:
        # gRPC's instrumentation loses the spans of Google's synchronous client, and its context in a stream.
        return False
    client = {"openai": "httpx", "google": "grpc", "github_copilot": "requests"}.get(
        provider, "aiohttp_client" if asynchronous else "requests"
    )
    return importlib.util.find_spec(f"opentelemetry.instrumentation.{client}") is not None


def entry_points(names: Any) -> list[Any]:
    return [
        (provider, name)
        for provider in MODELS
        for name in names
        if not (provider in WITHOUT_TOOLS and ("tools" in name or "structured" in name))
        # modelforge.streaming passes callbacks in a way that these clients reject, instrumented or not.
        and not (provider in ("openai", "github_copilot") and name == "modelforge.streaming.stream")
    ]


def check_tree(telemetry: Telemetry, server: ProviderServer, caller: Any, *, with_request: bool) -> None:
    spans = telemetry.spans()
    (span,) = model_spans(spans)
    assert parent_of(span) == caller.get_span_context().span_id
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes is not None
    assert span.attributes["modelforge.outcome"] == "completed"
    if with_request:
        (request,) = children_of(span, spans)
        assert children_of(caller, spans) == [span]
        _, trace_id, span_id, _ = server.requests[-1].headers["traceparent"].split("-")
        assert (int(trace_id, 16), int(span_id, 16)) == (request.context.trace_id, request.context.span_id)


# --- Parents and children ---


@pytest.mark.parametrize(("provider", "entry"), entry_points(SYNC))
def test_a_call_is_a_child_of_its_caller_and_the_parent_of_the_request(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str, entry: str
) -> None:
    llm = model(provider)
    with instrumented.tracer.start_as_current_span("caller") as caller:
        before = get_current()
        SYNC[entry](llm)
        assert get_current_span() is caller
        assert get_current() is before
    check_tree(instrumented, provider_server, caller, with_request=observed(provider, asynchronous=False))


@pytest.mark.parametrize(("provider", "entry"), entry_points(ASYNC))
def test_an_async_call_is_a_child_of_its_caller_and_the_parent_of_the_request(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str, entry: str
) -> None:
    async def main() -> Any:
        # gRPC's asynchronous client is bound to the event loop in which it is created.
        llm = model(provider)
        with instrumented.tracer.start_as_current_span("caller") as caller:
            before = get_current()
            await ASYNC[entry](llm)
            assert get_current_span() is caller
            assert get_current() is before
        return caller

    caller = asyncio.run(main())
    check_tree(instrumented, provider_server, caller, with_request=observed(provider, asynchronous=True))


@pytest.mark.parametrize("entry", ["invoke", "stream", "chain.stream", "bind_tools.stream", "with_structured_output"])
def test_an_enhanced_model_has_one_span(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, entry: str
) -> None:
    llm = model("openai", enhanced=True)
    with instrumented.tracer.start_as_current_span("caller") as caller:
        SYNC[entry](llm)
        assert get_current_span() is caller
    check_tree(instrumented, provider_server, caller, with_request=True)


@pytest.mark.parametrize("entry", ["ainvoke", "astream", "chain.astream", "bind_tools.ainvoke", "astream_events"])
def test_an_enhanced_async_model_has_one_span(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, entry: str
) -> None:
    llm = model("openai", enhanced=True)

    async def main() -> Any:
        with instrumented.tracer.start_as_current_span("caller") as caller:
            await ASYNC[entry](llm)
            assert get_current_span() is caller
        return caller

    check_tree(instrumented, provider_server, asyncio.run(main()), with_request=True)


def test_without_a_caller_the_call_is_the_root(instrumented: Telemetry, llm: Any) -> None:
    llm.invoke("Hi")
    assert instrumented.span(MODEL_SPAN).parent is None
    assert not get_current_span().get_span_context().is_valid


@pytest.mark.parametrize("entry", ["generate", "batch", "agenerate", "abatch"])
@pytest.mark.parametrize("provider", MODELS)
def test_each_of_several_prompts_is_a_call_with_its_own_request(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str, entry: str
) -> None:
    texts = ["one", "two", "three"]
    if provider != "google":
        provider_server.reply = lambda body: Reply(model=body["messages"][0]["content"])
    else:
        provider_server.reply = lambda body: Reply(model=body["contents"][0]["parts"][0]["text"])

    async def main() -> Any:
        llm = model(provider)
        prompts = texts if "batch" in entry else [[HumanMessage(text)] for text in texts]
        with instrumented.tracer.start_as_current_span("caller") as caller:
            result = getattr(llm, entry)(prompts)
            if asyncio.iscoroutine(result):
                await result
            assert get_current_span() is caller
        return caller

    caller = asyncio.run(main())
    spans = instrumented.spans()
    calls = model_spans(spans)
    assert {parent_of(span) for span in calls} == {caller.get_span_context().span_id}
    assert len(calls) == len(texts)
    assert sorted(span.attributes["gen_ai.response.model"] for span in calls) == sorted(texts)
    if observed(provider, asynchronous=entry.startswith("a")):
        assert [len(children_of(span, spans)) for span in calls] == [1, 1, 1]


def test_a_retry_is_a_second_call(instrumented: Telemetry, llm: Any, provider_server: ProviderServer) -> None:
    replies = iter([Reply(status=500), Reply()])
    provider_server.reply = lambda body: next(replies)
    with instrumented.tracer.start_as_current_span("caller") as caller:
        llm.with_retry(stop_after_attempt=2, wait_exponential_jitter=False).invoke("Hi")
    calls = children_of(caller, instrumented.spans())
    assert [span.attributes["modelforge.outcome"] for span in calls] == ["failed", "completed"]


# --- While a stream is consumed ---


@pytest.mark.parametrize("through", ["llm", "chain"])
@pytest.mark.parametrize("provider", MODELS)
def test_spans_of_a_consumer_between_chunks_are_under_the_consumer(
    instrumented: Telemetry, model: Callable[..., Any], provider: str, through: str
) -> None:
    llm = model(provider)
    with instrumented.tracer.start_as_current_span("consumer") as consumer:
        before = get_current()
        stream = llm.stream("Hi") if through == "llm" else chain(llm).stream({"topic": "bears"})
        for _ in stream:
            assert get_current() is before
            with instrumented.tracer.start_as_current_span("work"):
                pass
        assert get_current() is before
    spans = instrumented.spans()
    names = {span.name for span in children_of(consumer, spans)}
    assert names == {MODEL_SPAN, "work"}
    assert "work" not in {span.name for span in children_of(instrumented.span(MODEL_SPAN), spans)}


@pytest.mark.parametrize("through", ["llm", "chain", "events"])
@pytest.mark.parametrize("provider", MODELS)
def test_spans_of_an_async_consumer_between_chunks_are_under_the_consumer(
    instrumented: Telemetry, model: Callable[..., Any], provider: str, through: str
) -> None:
    async def main() -> Any:
        llm = model(provider)
        with instrumented.tracer.start_as_current_span("consumer") as consumer:
            before = get_current()
            stream = {
                "llm": lambda: llm.astream("Hi"),
                "chain": lambda: chain(llm).astream({"topic": "bears"}),
                "events": lambda: chain(llm).astream_events({"topic": "bears"}, version="v2"),
            }[through]()
            async for _ in stream:
                assert get_current() is before
                with instrumented.tracer.start_as_current_span("work"):
                    await asyncio.sleep(0)
            assert get_current() is before
        return consumer

    consumer = asyncio.run(main())
    spans = instrumented.spans()
    assert {span.name for span in children_of(consumer, spans)} == {MODEL_SPAN, "work"}
    assert "work" not in {span.name for span in children_of(instrumented.span(MODEL_SPAN), spans)}


def test_a_call_in_the_middle_of_a_stream_is_a_sibling(instrumented: Telemetry, model: Callable[..., Any]) -> None:
    outer, inner = model("openai"), model("google")
    with instrumented.tracer.start_as_current_span("consumer") as consumer:
        for _ in outer.stream("Hi"):
            inner.invoke("Hi")
    calls = model_spans(instrumented.spans())
    assert len(calls) > 2
    assert {parent_of(span) for span in calls} == {consumer.get_span_context().span_id}


def test_two_streams_consumed_in_turn_stay_apart(instrumented: Telemetry, model: Callable[..., Any]) -> None:
    first, second = model("openai").stream("Hi"), model("ollama").stream("Hi")
    with instrumented.tracer.start_as_current_span("consumer") as consumer:
        for _ in zip(first, second, strict=False):
            assert get_current_span() is consumer
        list(first), list(second)
    spans = instrumented.spans()
    calls = children_of(consumer, spans)
    assert [span.attributes["modelforge.provider"] for span in calls] == ["openai", "ollama"]
    assert [len(children_of(span, spans)) for span in calls] == [1, 1]


def test_a_stream_is_a_child_of_the_span_in_which_its_first_chunk_is_read(instrumented: Telemetry, llm: Any) -> None:
    with instrumented.tracer.start_as_current_span("creator"):
        stream = llm.stream("Hi")
    with instrumented.tracer.start_as_current_span("first") as first:
        next(stream)
    with instrumented.tracer.start_as_current_span("rest") as rest:
        list(stream)
    assert parent_of(instrumented.span(MODEL_SPAN)) == first.get_span_context().span_id
    assert children_of(rest, instrumented.spans()) == []


def test_spans_of_a_users_callback_are_under_the_call_while_the_provider_works(
    instrumented: Telemetry, llm: Any
) -> None:
    class Handler(BaseCallbackHandler):
        spans: list[Any] = []

        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            self.spans.append(get_current_span().get_span_context().span_id)

    handler = Handler()
    list(llm.stream("Hi", config={"callbacks": [handler]}))
    assert set(handler.spans) == {instrumented.span(MODEL_SPAN).context.span_id}


@pytest.mark.parametrize("entry", ["invoke", "stream", "chain.stream"])
def test_a_call_keeps_the_users_context(instrumented: Telemetry, llm: Any, entry: str) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("mine")
    SYNC[entry](llm)
    assert variable.get() == "mine"


@pytest.mark.parametrize("run", ["threads", "anyio"])
def test_a_stream_may_take_each_step_in_another_thread(instrumented: Telemetry, llm: Any, run: str) -> None:
    """Starlette's `iterate_in_threadpool` does this for a streaming response."""
    done = object()

    async def main() -> Any:
        with instrumented.tracer.start_as_current_span("consumer") as consumer:
            stream = llm.stream("Hi")
            with ThreadPoolExecutor(max_workers=3) as pool:
                while True:
                    if run == "anyio":
                        chunk = await anyio.to_thread.run_sync(next, stream, done)
                    else:
                        context = contextvars.copy_context()
                        chunk = await asyncio.get_running_loop().run_in_executor(pool, context.run, next, stream, done)
                    assert get_current_span() is consumer
                    if chunk is done:
                        break
        return consumer

    consumer = asyncio.run(main())
    span = instrumented.span(MODEL_SPAN)
    assert parent_of(span) == consumer.get_span_context().span_id
    assert span.attributes["modelforge.outcome"] == "completed"
    assert len(children_of(span, instrumented.spans())) == 1


def test_an_async_stream_may_take_each_step_in_another_task(instrumented: Telemetry, llm: Any) -> None:
    async def main() -> Any:
        with instrumented.tracer.start_as_current_span("consumer") as consumer:
            stream = llm.astream("Hi")
            with suppress(StopAsyncIteration):
                while True:
                    await asyncio.create_task(anext(stream))
                    assert get_current_span() is consumer
        return consumer

    consumer = asyncio.run(main())
    assert parent_of(instrumented.span(MODEL_SPAN)) == consumer.get_span_context().span_id


def test_a_stream_another_instrumentation_has_wrapped_in_an_iterator_still_works(
    instrument: Callable[..., Telemetry], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BaseChatModel.stream
    monkeypatch.setattr(
        BaseChatModel, "stream", lambda self, *args, **kwargs: iter(list(original(self, *args, **kwargs)))
    )
    instrument()
    assert len(list(EchoModel().stream("Hi"))) == 3
    assert len(list(EchoModel(callbacks=[OpenTelemetryCallback("echo", "echo")]).stream("Hi"))) == 3


# --- Streams that do not reach their end ---


def outcome(telemetry: Telemetry) -> Any:
    return telemetry.span(MODEL_SPAN).attributes["modelforge.outcome"]


@pytest.mark.parametrize("way", ["close", "break", "drop", "raise"])
@pytest.mark.parametrize("provider", STREAMING)
def test_a_stream_left_early_is_closed_and_not_failed(
    instrumented: Telemetry, model: Callable[..., Any], provider: str, way: str
) -> None:
    llm = model(provider)
    with instrumented.tracer.start_as_current_span("caller") as caller:
        before = get_current()
        stream = llm.stream("Hi")
        next(stream)
        if way == "close":
            stream.close()
        elif way == "break":
            for _ in stream:
                break
        elif way == "raise":
            with suppress(LookupError):
                for _ in stream:
                    raise LookupError
        del stream
        gc.collect()
        assert get_current() is before
    await_dropped()
    span = instrumented.span(MODEL_SPAN)
    assert parent_of(span) == caller.get_span_context().span_id
    assert span.status.status_code is StatusCode.UNSET
    assert outcome(instrumented) == "closed"
    assert "error.type" not in span.attributes
    assert "exception" not in [event.name for event in span.events]


def test_a_dropped_stream_is_closed_even_if_one_of_its_steps_left_its_context_attached(
    instrumented: Telemetry, echo: EchoModel
) -> None:
    """A thread, a timer or a task of the provider's client does this."""
    contexts: list[contextvars.Context] = []

    class Handler(BaseCallbackHandler):
        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            contexts.append(contextvars.copy_context())

    stream = echo.stream("Hi", config={"callbacks": [Handler()]})
    next(stream)
    assert len(contexts) == 1
    del stream
    gc.collect()
    await_dropped()
    assert outcome(instrumented) == "closed"


def test_a_chain_left_early_is_drained_by_langchain(instrumented: Telemetry, llm: Any) -> None:
    stream = chain(llm).stream({"topic": "bears"})
    next(stream)
    stream.close()
    assert outcome(instrumented) == "completed"


@pytest.mark.parametrize("through", ["llm", "chain"])
@pytest.mark.parametrize("way", ["aclose", "aclosing", "drop", "end of the loop"])
@pytest.mark.parametrize("provider", STREAMING)
def test_an_async_stream_left_early_is_closed_and_not_failed(
    instrumented: Telemetry,
    model: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    provider: str,
    way: str,
    through: str,
) -> None:
    kept: list[Any] = []

    async def main() -> None:
        llm = model(provider)
        before = get_current()
        stream = llm.astream("Hi") if through == "llm" else chain(llm).astream({"topic": "bears"})
        if way == "aclosing":
            async with aclosing(stream):
                async for _ in stream:
                    break
        else:
            await anext(stream)
        if way == "aclose":
            await stream.aclose()
        elif way == "end of the loop":
            kept.append(stream)
        del stream
        gc.collect()
        if way == "drop":
            async with asyncio.timeout(TIMEOUT):
                while open_calls:
                    await asyncio.sleep(0)
        assert get_current() is before

    asyncio.run(main())
    await_dropped()
    span = instrumented.span(MODEL_SPAN)
    assert span.status.status_code is StatusCode.UNSET
    assert outcome(instrumented) == "closed"
    assert "asynchronous generator" not in caplog.text


def test_an_async_stream_that_outlives_its_loop_is_closed_when_dropped(
    instrumented: Telemetry, aecho: AsyncEchoModel
) -> None:
    async def begin() -> Any:
        stream = aecho.astream("Hi")
        await anext(stream)
        return stream

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(begin())
    loop.close()
    assert len(open_calls) == 1
    before = get_current()
    del stream
    gc.collect()
    assert get_current() is before
    await_dropped()
    span = instrumented.span(MODEL_SPAN)
    assert span.attributes["modelforge.outcome"] == "closed"
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("wrap", [lambda llm: llm, lambda llm: llm.bind(stop=["!"]), chain])
def test_an_async_stream_that_is_left_has_the_part_that_arrived(
    instrumented: Telemetry, aecho: AsyncEchoModel, wrap: Callable[[Any], Any]
) -> None:
    async def leave() -> None:
        async with aclosing(wrap(aecho).astream({"topic": "bears"} if wrap is chain else "bears")) as stream:
            await anext(stream)

    asyncio.run(leave())
    await_dropped()
    attributes = instrumented.span(MODEL_SPAN).attributes
    assert attributes["modelforge.outcome"] == "closed"
    assert attributes["modelforge.usage.estimated"] is True
    assert attributes["gen_ai.usage.output_tokens"] == 1


@pytest.mark.parametrize("entry", ["ainvoke", "astream"])
def test_a_task_destroyed_while_it_waits_ends_its_call(
    instrumented: Telemetry, aecho: AsyncEchoModel, entry: str
) -> None:
    class Never(InMemoryRateLimiter):
        async def aacquire(self, *, blocking: bool = True) -> bool:
            await asyncio.get_running_loop().create_future()
            return True

    aecho.rate_limiter = Never()
    loop = asyncio.new_event_loop()
    # It would log "Task was destroyed but it is pending!".
    loop.set_exception_handler(lambda loop, context: None)
    task = loop.create_task(ASYNC[entry](aecho))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert len(open_calls) == 1
    before = get_current()
    del task, loop
    gc.collect()
    assert get_current() is before
    await_dropped()
    assert outcome(instrumented) == "closed"


def test_a_stream_that_the_garbage_collector_drops_ends_at_the_time_of_the_drop(
    instrumented: Telemetry, echo: EchoModel
) -> None:
    held: list[Any] = [echo.stream("Hi")]
    next(held[0])
    held.append(held)
    busy = threading.Event()
    end_soon(lambda: busy.wait(TIMEOUT))
    del held
    gc.collect()
    dropped_at = time.time_ns()
    assert model_spans(instrumented.spans()) == []
    # The time of the drop must differ from the time at which the thread ends the call.
    time.sleep(0.2)
    busy.set()
    await_dropped()
    assert outcome(instrumented) == "closed"
    assert instrumented.span(MODEL_SPAN).end_time < dropped_at + 100_000_000


@pytest.mark.parametrize("provider", STREAMING)
def test_a_stream_cut_by_the_network_has_failed(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str
) -> None:
    provider_server.reply = Reply(cut_after=2)
    received = []
    before = get_current()
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each client has its own exception.
        received.extend(chunk for chunk in model(provider).stream("Hi") if chunk.content)
    assert get_current() is before
    span = instrumented.span(MODEL_SPAN)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["modelforge.outcome"] == "failed"
    assert span.attributes["error.type"].endswith(type(raised.value).__qualname__)


@pytest.mark.parametrize("provider", STREAMING)
def test_an_async_stream_cut_by_the_network_has_failed(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str
) -> None:
    provider_server.reply = Reply(cut_after=2)

    async def main() -> None:
        llm = model(provider)
        before = get_current()
        with pytest.raises(Exception):  # noqa: B017, PT011 - each client has its own exception.
            async for _ in llm.astream("Hi"):
                pass
        assert get_current() is before

    asyncio.run(main())
    assert outcome(instrumented) == "failed"


def test_an_exception_thrown_into_a_stream_is_its_error(instrumented: Telemetry, llm: Any) -> None:
    stream = llm.stream("Hi")
    next(stream)
    thrown = LookupError("mine")
    with pytest.raises(LookupError) as raised:
        stream.throw(thrown)
    assert raised.value is thrown
    assert list(stream) == []
    assert outcome(instrumented) == "failed"
    assert instrumented.span(MODEL_SPAN).attributes["error.type"] == "LookupError"


def test_an_exception_thrown_into_an_async_stream_is_its_error(instrumented: Telemetry, llm: Any) -> None:
    thrown = LookupError("mine")

    async def main() -> None:
        stream = llm.astream("Hi")
        await anext(stream)
        with pytest.raises(LookupError) as raised:
            await stream.athrow(thrown)
        assert raised.value is thrown
        assert [chunk async for chunk in stream] == []

    asyncio.run(main())
    assert outcome(instrumented) == "failed"
    assert instrumented.span(MODEL_SPAN).attributes["error.type"] == "LookupError"


def test_a_stream_that_is_never_started_is_not_a_call(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer
) -> None:
    llm.stream("Hi").close()
    stream = llm.astream("Hi")
    del stream
    gc.collect()
    assert model_spans(instrumented.spans()) == []
    assert provider_server.requests == []


def test_a_stream_without_a_chunk_fails_with_langchains_error(instrumented: Telemetry, echo: EchoModel) -> None:
    echo.chunk_count = 0
    with pytest.raises(ValueError, match="No generation"):
        list(echo.stream("Hi"))
    assert outcome(instrumented) == "failed"


def test_an_exception_thrown_into_a_stream_is_released(echo: EchoModel) -> None:
    stream = echo.stream("Hi")
    next(stream)

    class Thrown(Exception):
        pass

    thrown = Thrown()
    witness = weakref.ref(thrown)
    gc.disable()
    try:
        with suppress(Thrown):
            stream.throw(thrown)
        del stream, thrown
        assert witness() is None
    finally:
        gc.enable()


# --- Cancellation ---


def cancelled(telemetry: Telemetry) -> None:
    for span in model_spans(telemetry.spans()):
        assert span.attributes["modelforge.outcome"] == "cancelled"
        assert span.attributes["error.type"] == "asyncio.exceptions.CancelledError"
        assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("entry", ["ainvoke", "astream", "agenerate"])
def test_a_task_cancelled_before_its_first_step_is_not_a_call(instrumented: Telemetry, llm: Any, entry: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(ASYNC[entry](llm))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert model_spans(instrumented.spans()) == []


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("entry", ["ainvoke", "astream", "agenerate", "chain.astream", "astream_events"])
def test_a_task_cancelled_after_some_steps_ends_its_call(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, entry: str, steps: int
) -> None:
    provider_server.reply = Reply(hold=True)

    async def main() -> None:
        before = get_current()
        task = asyncio.create_task(ASYNC[entry](llm))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert get_current() is before

    asyncio.run(main())
    provider_server.release.set()
    gc.collect()
    assert len(model_spans(instrumented.spans())) <= 1
    cancelled(instrumented)


async def cancel_when_held(server: ProviderServer, task: asyncio.Task[Any]) -> None:
    assert await asyncio.to_thread(server.held.wait, TIMEOUT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("entry", ["ainvoke", "astream", "abatch", "agenerate", "chain.ainvoke", "chain.astream"])
@pytest.mark.parametrize("provider", STREAMING)
def test_a_task_cancelled_while_the_provider_works_ends_its_call(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str, entry: str
) -> None:
    provider_server.reply = Reply(hold=True)

    async def main() -> None:
        llm = model(provider)
        before = get_current()
        await cancel_when_held(provider_server, asyncio.create_task(ASYNC[entry](llm)))
        assert get_current() is before

    asyncio.run(main())
    assert len(model_spans(instrumented.spans())) == 1
    cancelled(instrumented)


def test_a_task_cancelled_between_two_chunks_records_what_had_arrived(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer
) -> None:
    provider_server.reply = Reply(hold_after=2)

    async def main() -> None:
        came = asyncio.Event()

        async def read() -> None:
            async for _ in llm.astream("Hi"):
                came.set()

        task = asyncio.create_task(read())
        async with asyncio.timeout(TIMEOUT):
            await came.wait()
        await cancel_when_held(provider_server, task)

    asyncio.run(main())
    cancelled(instrumented)
    assert instrumented.span(MODEL_SPAN).attributes["modelforge.response.chunk_count"] >= 1


@pytest.mark.parametrize("entry", ["ainvoke", "astream"])
def test_a_wait_for_that_times_out_cancels_the_call(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, entry: str
) -> None:
    provider_server.reply = Reply(hold=True)

    async def main() -> None:
        call = llm.ainvoke("Hi") if entry == "ainvoke" else anext(llm.astream("Hi"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.05)

    asyncio.run(main())
    gc.collect()
    cancelled(instrumented)
    assert len(model_spans(instrumented.spans())) == 1


@pytest.mark.parametrize("entry", ["ainvoke", "astream", "agenerate", "chain.astream"])
def test_a_task_cancelled_while_the_rate_limiter_waits_ends_its_call(
    instrumented: Telemetry, aecho: AsyncEchoModel, entry: str
) -> None:
    waiting = asyncio.Event()

    class Limiter(InMemoryRateLimiter):
        async def aacquire(self, *, blocking: bool = True) -> bool:
            waiting.set()
            return await super().aacquire(blocking=blocking)

    aecho.rate_limiter = Limiter(requests_per_second=0.001, check_every_n_seconds=0.01)

    async def main() -> None:
        task = asyncio.create_task(ASYNC[entry](aecho))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert len(model_spans(instrumented.spans())) == 1
    cancelled(instrumented)


def test_a_cancelled_gather_ends_all_its_calls(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer
) -> None:
    provider_server.reply = Reply(hold=True)

    async def main() -> None:
        calls = asyncio.gather(llm.ainvoke("1"), ASYNC["astream"](llm), llm.agenerate([[HumanMessage("3")]] * 2))
        assert await asyncio.to_thread(provider_server.held.wait, TIMEOUT)
        calls.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls

    asyncio.run(main())
    assert len(model_spans(instrumented.spans())) == 4
    cancelled(instrumented)


def test_a_failing_task_group_ends_the_calls_of_the_others(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer
) -> None:
    provider_server.reply = lambda body: Reply(hold=body["messages"][0]["content"] == "hold", status=500)

    async def fail() -> None:
        assert await asyncio.to_thread(provider_server.held.wait, TIMEOUT)
        await llm.ainvoke("fail")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(llm.ainvoke("hold"))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        asyncio.run(main())
    outcomes = [span.attributes["modelforge.outcome"] for span in model_spans(instrumented.spans())]
    assert sorted(outcomes) == ["cancelled", "failed"]


def test_a_call_ends_when_it_fails_even_if_others_of_its_batch_still_run(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer
) -> None:
    """`agenerate` calls no callback before the last prompt is answered."""
    provider_server.reply = lambda body: Reply(
        hold=body["messages"][0]["content"] == "hold", status=200 if body["messages"][0]["content"] == "hold" else 500
    )

    async def main() -> None:
        task = asyncio.create_task(llm.agenerate([[HumanMessage("hold")], [HumanMessage("fail")]]))
        assert await asyncio.to_thread(provider_server.held.wait, TIMEOUT)
        async with asyncio.timeout(TIMEOUT):
            while len(open_calls) > 1:
                await asyncio.sleep(0.005)
        provider_server.release.set()
        with pytest.raises(Exception, match="500"):
            await task

    asyncio.run(main())


# --- Interrupts ---


class Interrupting(BaseCallbackHandler):
    """Raises at one of LangChain's events, as if Ctrl-C were pressed while it runs."""

    run_inline = True

    def __init__(self, event: str, error: BaseException) -> None:
        def interrupt(*args: Any, **kwargs: Any) -> None:
            raise error

        setattr(self, event, interrupt)


@pytest.mark.parametrize("entry", ["invoke", "stream", "batch", "generate", "chain.invoke", "chain.stream"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_an_interrupt_while_the_provider_works_ends_the_call(
    instrumented: Telemetry, echo: EchoModel, entry: str, error: BaseException
) -> None:
    echo.error = error
    before = get_current()
    with pytest.raises(type(error)) as raised:
        SYNC[entry](echo)
    assert raised.value is error
    assert get_current() is before
    span = instrumented.span(MODEL_SPAN)
    assert span.attributes["modelforge.outcome"] == "failed"
    assert span.attributes["error.type"] == type(error).__name__
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("entry", ["ainvoke", "astream", "agenerate", "chain.ainvoke", "chain.astream"])
def test_an_interrupt_on_the_event_loop_ends_the_call(
    instrumented: Telemetry, aecho: AsyncEchoModel, entry: str
) -> None:
    aecho.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(ASYNC[entry](aecho))
    gc.collect()
    span = instrumented.span(MODEL_SPAN)
    assert span.attributes["modelforge.outcome"] == "failed"
    assert span.attributes["error.type"] == "KeyboardInterrupt"


@pytest.mark.parametrize("event", ["on_chat_model_start", "on_llm_new_token", "on_llm_end"])
@pytest.mark.parametrize("entry", ["invoke", "stream"])
@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_an_interrupt_in_a_users_callback_leaves_no_call_open(
    instrumented: Telemetry, echo: EchoModel, entry: str, event: str, first: bool
) -> None:
    interrupting = Interrupting(event, KeyboardInterrupt())
    assert isinstance(echo.callbacks, list)
    echo.callbacks = [interrupting, *echo.callbacks] if first else [*echo.callbacks, interrupting]
    before = get_current()
    if entry == "invoke" and event == "on_llm_new_token":
        SYNC[entry](echo)
    else:
        with pytest.raises(KeyboardInterrupt):
            SYNC[entry](echo)
    assert get_current() is before
    assert len(model_spans(instrumented.spans())) == (0 if first and event == "on_chat_model_start" else 1)


@pytest.mark.parametrize("event", ["on_chat_model_start", "on_llm_new_token", "on_llm_end"])
@pytest.mark.parametrize("entry", ["ainvoke", "astream"])
def test_an_interrupt_in_a_users_async_callback_leaves_no_call_open(
    instrumented: Telemetry, aecho: AsyncEchoModel, entry: str, event: str
) -> None:
    async def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    handler = AsyncCallbackHandler()
    setattr(handler, event, interrupt)
    aecho.callbacks = [*aecho.callbacks, handler]  # type: ignore[misc]
    with suppress(KeyboardInterrupt):
        asyncio.run(ASYNC[entry](aecho))
    gc.collect()
    assert len(model_spans(instrumented.spans())) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs SIGALRM")
@pytest.mark.parametrize("entry", ["invoke", "stream"])
def test_a_signal_handler_that_raises_ends_the_call(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, entry: str
) -> None:
    provider_server.reply = Reply(hold=True)

    class Alarm(BaseException):
        pass

    def ring(*args: Any) -> None:
        raise Alarm

    def ring_when_held() -> None:
        assert provider_server.held.wait(TIMEOUT)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        thread = threading.Thread(target=ring_when_held)
        thread.start()
        before = get_current()
        with pytest.raises(Alarm):
            SYNC[entry](llm)
        assert get_current() is before
    finally:
        signal.signal(signal.SIGALRM, previous)
        thread.join()
    span = instrumented.span(MODEL_SPAN)
    assert span.attributes["modelforge.outcome"] == "failed"
    assert span.attributes["error.type"].endswith("Alarm")


# --- Concurrent calls ---

MANY = 64


def check_many(telemetry: Telemetry) -> None:
    spans = telemetry.spans()
    callers = {span.name: span for span in spans if span.name.startswith("caller ")}
    assert len(callers) == MANY
    assert len(model_spans(spans)) == MANY
    for name, caller in callers.items():
        (span,) = children_of(caller, spans)
        assert span.name == MODEL_SPAN
        assert span.attributes is not None
        assert span.attributes["gen_ai.response.model"] == name
        assert len(children_of(span, spans)) == 1


@pytest.fixture
def mirror(provider_server: ProviderServer) -> None:
    """Answer every request as a model named after the prompt."""
    provider_server.reply = lambda body: Reply(model=body["messages"][0]["content"])


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("entry", ["invoke", "stream"])
def test_each_of_many_concurrent_threads_has_its_own_call(instrumented: Telemetry, llm: Any, entry: str) -> None:
    start = threading.Barrier(MANY)

    def work(number: int) -> None:
        name = f"caller {number}"
        start.wait(TIMEOUT)
        with instrumented.tracer.start_as_current_span(name) as caller:
            if entry == "invoke":
                llm.invoke(name)
            else:
                for _ in llm.stream(name):
                    assert get_current_span() is caller
            assert get_current_span() is caller

    with ThreadPoolExecutor(MANY) as pool:
        list(pool.map(work, range(MANY)))
    check_many(instrumented)


@pytest.mark.usefixtures("mirror")
@pytest.mark.parametrize("entry", ["ainvoke", "astream"])
def test_each_of_many_concurrent_tasks_has_its_own_call(instrumented: Telemetry, llm: Any, entry: str) -> None:
    async def work(number: int) -> None:
        name = f"caller {number}"
        with instrumented.tracer.start_as_current_span(name) as caller:
            if entry == "ainvoke":
                await llm.ainvoke(name)
            else:
                async for _ in llm.astream(name):
                    assert get_current_span() is caller
            assert get_current_span() is caller

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(MANY)))

    asyncio.run(main())
    check_many(instrumented)


def test_uninstrumenting_in_the_middle_of_a_stream_still_ends_its_call(instrumented: Telemetry, llm: Any) -> None:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    stream: Iterator[Any] = llm.stream("Hi")
    next(stream)
    ModelForgeInstrumentor().uninstrument()
    list(stream)
    assert outcome(instrumented) == "completed"
    llm.invoke("Hi")
    assert len(model_spans(instrumented.spans())) == 1
