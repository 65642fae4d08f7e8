# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Faults around a call: processors that hang, providers that misbehave or are shut down, forks, exits and races."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from modelforge import ModelForgeRegistry
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback
from support.calls import TIMEOUT, AsyncEchoModel, parent_of
from support.faults import Application, Gate, Ledger, background, instrumented, seen, unaffected
from support.models import get_llm, without_retries
from support.providers import ProviderServer, Reply
from support.services import collecting

POSITIONS = {"get_llm": 0, "invoke": 1, "astream": 6}
"""The positions of these spans among those of an `Application`."""


@pytest.fixture
def ledger(tracer_provider: TracerProvider) -> Ledger:
    ledger = Ledger()
    tracer_provider.add_span_processor(ledger)
    return ledger


@pytest.fixture
def application(registry: ModelForgeRegistry, provider_server: ProviderServer) -> Application:
    return Application(registry, provider_server)


# --- Processors that hang ---


class Hanging(SpanProcessor):
    """Hangs once in one of its methods."""

    def __init__(self, method: str, position: int = 0) -> None:
        self.gate = Gate()
        self._times = itertools.count()
        self._position = position
        setattr(self, method, self._hang)

    def _hang(self, *args: Any, **kwargs: Any) -> bool:
        if next(self._times) == self._position:
            self.gate.hold()
        return True


def check_while_it_hangs(hanging: Hanging, check: Callable[[], None], providers: dict[str, Any]) -> None:
    """Check that another thread can call, uninstrument, and instrument again."""
    hanging.gate.wait_for()
    check()
    background(ModelForgeInstrumentor().uninstrument)()
    check()
    background(lambda: ModelForgeInstrumentor().instrument(skip_dep_check=True, **providers))()
    check()
    hanging.gate.open()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("method", ["on_start", "on_end"])
def test_a_processor_that_hangs_blocks_only_one_thread(
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    ledger: Ledger,
    application: Application,
    method: str,
    position: str,
) -> None:
    hanging = Hanging(method, POSITIONS[position])
    tracer_provider.add_span_processor(hanging)
    providers = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
    check = unaffected(application)
    with instrumented(**providers):
        stuck = background(check)
        check_while_it_hangs(hanging, check, providers)
        stuck()
    application.check_forgotten()
    # The call in between has no spans, because it is uninstrumented.
    ledger.check(3 * application.spans)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("method", ["force_flush", "shutdown"])
def test_a_processor_that_hangs_in_flush_or_shutdown_blocks_only_the_calling_thread(
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    ledger: Ledger,
    application: Application,
    method: str,
) -> None:
    hanging = Hanging(method)
    tracer_provider.add_span_processor(hanging)
    providers = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
    check = unaffected(application)
    with instrumented(**providers):
        stuck = background(getattr(tracer_provider, method))
        check_while_it_hangs(hanging, check, providers)
        stuck()
        check()
    application.check_forgotten()
    ledger.check()


# --- Providers that misbehave ---

RUBBISH = (None, object())


def answering(method: str, answer: Any, **others: Any) -> Any:
    return mock.Mock(**{method: lambda *args, **kwargs: answer}, **others)


def spans_answering(method: str, answer: Any) -> Any:
    """A tracer provider whose spans are real except for one method."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("tests")

    def start_span(*args: Any, **kwargs: Any) -> Any:
        span = tracer.start_span("name")
        setattr(span, method, lambda *args, **kwargs: answer)
        return span

    return answering("get_tracer", mock.Mock(start_span=start_span))


PROVIDERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "tracer provider": lambda rubbish: {"tracer_provider": rubbish},
    "tracer": lambda rubbish: {"tracer_provider": answering("get_tracer", rubbish)},
    "span": lambda rubbish: {"tracer_provider": answering("get_tracer", answering("start_span", rubbish))},
    "span context": lambda rubbish: {"tracer_provider": spans_answering("get_span_context", rubbish)},
    "is_recording": lambda rubbish: {"tracer_provider": spans_answering("is_recording", rubbish)},
    "meter provider": lambda rubbish: {"meter_provider": rubbish},
    "meter": lambda rubbish: {"meter_provider": answering("get_meter", rubbish)},
    "instrument": lambda rubbish: {
        "meter_provider": answering(
            "get_meter",
            answering("create_histogram", rubbish, create_up_down_counter=lambda *args, **kwargs: rubbish),
        )
    },
    "logger provider": lambda rubbish: {"logger_provider": rubbish},
    "logger": lambda rubbish: {"logger_provider": answering("get_logger", rubbish)},
    "emit": lambda rubbish: {"logger_provider": answering("get_logger", mock.Mock(emit=rubbish))},
}


@pytest.mark.parametrize("place", PROVIDERS)
def test_a_misbehaving_provider_does_not_affect_the_application(
    application: Application,
    tracer_provider: TracerProvider,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    # pytest would keep the faults and everything that their frames hold.
    monkeypatch.setattr(logging.getLogger("opentelemetry_instrumentation_modelforge.otel_utils"), "disabled", True)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")
    check = unaffected(application)
    for rubbish in RUBBISH:
        with instrumented(**{"tracer_provider": tracer_provider, **PROVIDERS[place](rubbish)}):
            check()
    application.check_forgotten()


# --- Shut down while calls are in flight ---


class BrokenShutdown(SpanProcessor):
    """Raises the first time it is shut down."""

    _is_broken = True

    def shutdown(self) -> None:
        if self._is_broken:
            self._is_broken = False
            raise RuntimeError("shutdown")


@dataclass
class Interrupted:
    """An application that calls ``interrupt`` while its calls wait for answers and its streams are being read."""

    registry: ModelForgeRegistry
    server: ProviderServer
    interrupt: Callable[[], object] = lambda: None
    model: Callable[[], Any] = lambda: None
    """The model that it used last, if that is still in memory."""

    def __call__(self) -> list[str]:
        gate = Gate()
        self.server.reply = lambda body: self._answer(body, gate)
        llm = without_retries(get_llm(self.registry))
        self.model = weakref.ref(llm)

        async def main() -> list[Any]:
            waiting = [
                background(lambda: llm.invoke("waits")),
                background(lambda: list(llm.stream("waits"))),
            ]
            tasks = [asyncio.create_task(llm.ainvoke("waits")), asyncio.create_task(_read(llm.astream("waits")))]
            stream, astream = llm.stream("Hi"), llm.astream("Hi")
            first = [next(stream), await anext(astream)]
            await asyncio.to_thread(gate.wait_for, len(waiting) + len(tasks))
            self.interrupt()
            gate.open()
            answers = [await asyncio.to_thread(wait) for wait in waiting] + [await task for task in tasks]
            return [*answers, first, [*stream], await _read(astream), llm.invoke("Hi"), await llm.ainvoke("Hi")]

        return [text_of(answer) for answer in asyncio.run(main())]

    @staticmethod
    def _answer(body: dict[str, Any], gate: Gate) -> Reply:
        if body["messages"][-1]["content"] == "waits":
            gate.hold()
        return Reply()


def text_of(answer: Any) -> str:
    return answer.content if not isinstance(answer, list) else "".join(chunk.content for chunk in answer)


async def _read(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


WAYS = ("tracer provider", "meter provider", "logger provider", "all providers", "a shutdown that raises")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("what", [*WAYS, "uninstrumented", "instrumented again"])
def test_calls_in_flight_survive_shutdown_and_uninstrumenting(
    registry: ModelForgeRegistry,
    provider_server: ProviderServer,
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    logger_provider: LoggerProvider,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")
    providers: dict[str, Any] = {
        "tracer_provider": tracer_provider,
        "meter_provider": meter_provider,
        "logger_provider": logger_provider,
    }

    def interrupt() -> None:
        if what.endswith("provider"):
            providers[what.replace(" ", "_")].shutdown()
        elif what == "all providers":
            for provider in providers.values():
                provider.shutdown()
        elif what == "a shutdown that raises":
            tracer_provider.add_span_processor(BrokenShutdown())
            with pytest.raises(RuntimeError, match="shutdown"):
                tracer_provider.shutdown()
        else:
            ModelForgeInstrumentor().uninstrument()
            if what == "instrumented again":
                ModelForgeInstrumentor().instrument(skip_dep_check=True, **providers)

    application = Interrupted(registry, provider_server)
    check = unaffected(application)
    application.interrupt = interrupt
    with instrumented(**providers):
        check()
    ledger.check()
    # The get_llm and the calls that were in flight.
    assert len(ledger.started) >= 7
    gc.collect()
    assert application.model() is None


# --- Processes that fork or end in the middle of a call ---

PARENT = """
import asyncio, gc, json, os, sys, threading
import modelforge.registry
from support.calls import AsyncEchoModel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback

# A process for each program, none of which has to import all that, and what a first call imports, or to collect it.
AsyncEchoModel().invoke("Hi")
gc.freeze()
names = {}
for name in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        break
    names[pid] = name
else:
    ended = [os.wait() for _ in names]
    print(json.dumps({names[pid]: os.waitstatus_to_exitcode(status) for pid, status in ended}))
    sys.exit()
for descriptor, suffix in ((1, "out"), (2, "err")):
    os.dup2(os.open(f"{name}.{suffix}", os.O_CREAT | os.O_WRONLY), descriptor)

if name.endswith("instrumented"):
    provider = TracerProvider(resource=Resource({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    ModelForgeInstrumentor().instrument(tracer_provider=provider)

entered, leave = threading.Event(), threading.Event()
child = None

class Model(AsyncEchoModel):
    def _generate(self, messages, *args, **kwargs):
        global child
        match messages[-1].content:
            case "waits":
                entered.set()
                leave.wait()
            case "outlives":
                threading.main_thread().join()
            case "forks":
                child = os.fork()
                if child:
                    assert os.waitpid(child, 0)[1] == 0
        return super()._generate(messages, *args, **kwargs)

llm = Model(callbacks=[OpenTelemetryCallback("echo", "echo")])

def config(name):
    return {"metadata": {"thread_id": "child " + name if child == 0 else name}}

def ask(text):
    print(llm.invoke(text, config(text)).content, flush=True)

def ask_in_a_thread(text, **options):
    thread = threading.Thread(target=ask, args=(text,), **options)
    thread.start()
    return thread

with open(name.split()[0]) as program:
    exec(program.read())
"""

FORKS = """
thread = ask_in_a_thread("waits")
entered.wait()
stream = llm.stream("Hi", config("stream"))
next(stream)
ask("forks")
ask("invoke")
print(len([*llm.stream("Hi", config("another stream"))]), len([*stream]), flush=True)
leave.set()
if child:
    thread.join()
"""
FORKED = {
    **dict.fromkeys(("waits", "stream", "forks", "invoke", "another stream"), "completed"),
    # The parent ends the calls that were open at the fork.
    **dict.fromkeys(("child invoke", "child another stream"), "completed"),
}

ENDS = """
stream = llm.stream("Hi", config("stream"))
next(stream)
loop = asyncio.new_event_loop()
astream = llm.astream("Hi", config("astream"))
loop.run_until_complete(anext(astream))
ask_in_a_thread("waits", daemon=True)
entered.wait()
ask_in_a_thread("outlives")
"""
ENDED = {"stream": "abandoned", "astream": "abandoned", "waits": "abandoned", "outlives": "completed"}


@dataclass(frozen=True)
class Program:
    """A program and its expected results."""

    text: str
    output: str
    outcomes: dict[str, str]
    """The outcome of each conversation's call."""
    error: str = ""
    status: int = 0


PROGRAMS = {
    "forks": Program(FORKS, "forks\ninvoke\n3 2\nforks\ninvoke\n3 2\nwaits\n", FORKED),
    "ends": Program(ENDS, "outlives\n", ENDED),
    "fails": Program(ENDS + "raise LookupError('mine')", "outlives\n", ENDED, "LookupError: mine\n", 1),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_processes_that_fork_or_end_with_open_calls(
    python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    for name, program in PROGRAMS.items():
        (tmp_path / name).write_text(program.text)
    with collecting() as collector:
        parent = python(
            *("-W", "ignore", "-c", PARENT),
            *(f"{name} {how}" for name in PROGRAMS for how in ("plain", "instrumented")),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )
    assert parent.returncode == 0, parent.stderr
    status = json.loads(parent.stdout)
    spans = [span for spans in collector.traces.values() for span in spans]
    for name, program in PROGRAMS.items():

        def result(how: str, name: str = name) -> tuple[int, str, str]:
            path = tmp_path / f"{name} {how}"
            return status[path.name], path.with_suffix(".out").read_text(), path.with_suffix(".err").read_text()

        plain, traced = result("plain"), result("instrumented")
        assert traced == plain, traced[2]
        assert plain[:2] == (program.status, program.output)
        assert plain[2].endswith(program.error) if program.error else plain[2] == ""
        outcomes = Counter(
            (span.attributes["gen_ai.conversation.id"], span.attributes["modelforge.outcome"])
            for span in spans
            if span.service == f"{name} instrumented"
        )
        assert outcomes == dict.fromkeys(program.outcomes.items(), 1)


# --- Calls that race with instrument() and uninstrument() ---

MANY = 64
ROUNDS = 20


class Repeating(AsyncEchoModel):
    """Streams the prompt back, word by word."""

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for word in messages[-1].content.split(" "):
            yield ChatGenerationChunk(message=AIMessageChunk(f"{word} "))

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return self._generate(*args, **kwargs)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(*args, **kwargs):
            await asyncio.sleep(0)
            yield chunk


def close_early(stream: Any) -> str:
    first = next(stream).content
    stream.close()
    return first


async def aclose_early(stream: Any) -> str:
    first = (await anext(stream)).content
    await stream.aclose()
    return first


CALLS: tuple[tuple[Callable[[Any, str], str], Callable[[str], str]], ...] = (
    (lambda llm, text: llm.invoke(text).content, lambda text: text),
    (lambda llm, text: text_of(list(llm.stream(text))), lambda text: f"{text} "),
    (lambda llm, text: close_early(llm.stream(text)), lambda text: "call "),
)
"""The ways to call a model, each with its answer to a prompt."""


async def acall(llm: Any, text: str, kind: int) -> str:
    if kind == 0:
        return (await llm.ainvoke(text)).content
    stream = llm.astream(text)
    return text_of(await _read(stream)) if kind == 1 else await aclose_early(stream)


class Tally:
    """Counts the calls that have ended, and records incorrect answers."""

    def __init__(self) -> None:
        self.calls = 0
        self.wrong: list[Any] = []
        self.done = False
        self._progress = threading.Condition()

    def add(self, answer: Any, expected: str) -> None:
        with self._progress:
            self.calls += 1
            if answer != expected:
                self.wrong.append((answer, expected))
            self._progress.notify_all()

    def wait_for_more(self) -> None:
        """Wait until enough further calls have ended that each thread or task may have made one."""
        with self._progress:
            goal = self.calls + MANY
            assert self._progress.wait_for(lambda: self.calls >= goal, TIMEOUT)

    def toggle(self, providers: dict[str, Any]) -> None:
        """Uninstrument and instrument while calls are made."""
        try:
            for _ in range(ROUNDS):
                self.wait_for_more()
                ModelForgeInstrumentor().uninstrument()
                self.wait_for_more()
                ModelForgeInstrumentor().instrument(skip_dep_check=True, **providers)
        finally:
            self.done = True

    def call(self, llm: Any, number: int) -> None:
        """Make calls in a thread until the toggling is done."""
        for kind in itertools.cycle(range(len(CALLS))):
            if self.done:
                return
            text = f"call {number} {kind}"
            ask, answer = CALLS[kind]
            self.add(seen(partial(ask, llm, text)), answer(text))

    async def acall(self, llm: Any, number: int) -> None:
        """Make calls in a task until the toggling is done."""
        for kind in itertools.cycle(range(len(CALLS))):
            if self.done:
                return
            text = f"call {number} {kind}"
            try:
                answer: Any = await acall(llm, text, kind)
            except Exception as error:
                answer = error
            self.add(answer, CALLS[kind][1](text))


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Let threads switch as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("nothing_left", "eager_switches")
@pytest.mark.parametrize("run", ["threads", "tasks"])
def test_calls_race_with_instrumenting_and_uninstrumenting(
    registry: ModelForgeRegistry,
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    ledger: Ledger,
    run: str,
) -> None:
    providers = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
    tally = Tally()
    with instrumented(**providers):
        callbacks: Any = get_llm(registry).callbacks
        llm = Repeating(callbacks=callbacks)
        if run == "threads":
            with ThreadPoolExecutor(MANY) as pool:
                calling = [pool.submit(tally.call, llm, number) for number in range(MANY)]
                tally.toggle(providers)
            for thread in calling:
                thread.result()
        else:

            async def main(model: Any) -> None:
                toggling = asyncio.create_task(asyncio.to_thread(tally.toggle, providers))
                await asyncio.gather(*(tally.acall(model, number) for number in range(MANY)))
                await toggling

            asyncio.run(main(llm))
    assert tally.wrong == []
    ledger.check()
    assert MANY < len(ledger.started) < tally.calls
    witnesses = [weakref.ref(llm), weakref.ref(callbacks[0])]
    del llm, callbacks
    gc.collect()
    assert [witness() for witness in witnesses] == [None, None]


# --- Recursion ---


class Nested(Repeating):
    """Calls itself for a shorter answer before it returns its own."""

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        if shorter := messages[-1].content[1:]:
            self.invoke(shorter)
        return super()._generate(messages, *args, **kwargs)

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        if shorter := messages[-1].content[1:]:
            list(self.stream(shorter))
        yield from super()._stream(messages, *args, **kwargs)

    async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        if shorter := messages[-1].content[1:]:
            await self.ainvoke(shorter)
        return super()._generate(messages)

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        if shorter := messages[-1].content[1:]:
            await _read(self.astream(shorter))
        yield ChatGenerationChunk(message=AIMessageChunk(messages[-1].content))


class AsksAgain(BaseCallbackHandler):
    """Calls the model again at an event of the first call."""

    run_inline = True
    raise_error = True

    def __init__(self, event: str) -> None:
        self.llm: Any = None
        self._busy = False
        setattr(self, event, self._ask)

    def _ask(self, *args: Any, **kwargs: Any) -> None:
        if not self._busy:
            self._busy = True
            assert self.llm.invoke("again").content == "again"
            assert text_of(list(self.llm.stream("again"))) == "again "
            self._busy = False


ENTRIES: dict[str, Callable[[Any, str], Any]] = {
    "invoke": lambda llm, text: llm.invoke(text).content,
    "stream": lambda llm, text: text_of(list(llm.stream(text))),
    "ainvoke": lambda llm, text: asyncio.run(llm.ainvoke(text)).content,
    "astream": lambda llm, text: text_of(asyncio.run(_read(llm.astream(text)))),
}


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_model_that_calls_itself(
    tracer_provider: TracerProvider, meter_provider: MeterProvider, ledger: Ledger, span_exporter: Any, entry: str
) -> None:
    text = "recursion"
    llm = Nested(callbacks=[OpenTelemetryCallback("echo", "echo")])
    check = unaffected(partial(ENTRIES[entry], llm, text))
    with instrumented(tracer_provider=tracer_provider, meter_provider=meter_provider):
        check()
    ledger.check(len(text))
    spans = span_exporter.get_finished_spans()
    # The innermost span ends first.
    assert [parent_of(span) for span in spans] == [*(span.context.span_id for span in spans[1:]), None]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("event", ["on_chat_model_start", "on_llm_new_token", "on_llm_end"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_callback_that_calls_the_model_again(
    tracer_provider: TracerProvider, meter_provider: MeterProvider, ledger: Ledger, entry: str, event: str
) -> None:
    def application() -> Any:
        handler = AsksAgain(event)
        handler.llm = Repeating(callbacks=[OpenTelemetryCallback("echo", "echo"), handler])
        return ENTRIES[entry](handler.llm, "one two")

    check = unaffected(application)
    with instrumented(tracer_provider=tracer_provider, meter_provider=meter_provider):
        check()
    asked = {"on_chat_model_start": 1, "on_llm_end": 1}.get(event, 2 if "stream" in entry else 0)
    ledger.check(1 + 2 * asked)


@pytest.mark.usefixtures("nothing_left")
def test_a_tool_that_calls_its_own_model(
    registry: ModelForgeRegistry, tracer_provider: TracerProvider, meter_provider: MeterProvider, ledger: Ledger
) -> None:
    def application() -> list[Any]:
        llm = get_llm(registry)

        @tool
        def think(text: str) -> str:
            """Think about it."""
            return llm.invoke(text).content

        agent = llm.bind_tools([think])
        messages: list[Any] = [HumanMessage("Hi")]
        reply: Any = agent.invoke(messages)
        messages += [reply, *(think.invoke(call) for call in reply.tool_calls)]
        return [messages[-1].content, agent.invoke(messages).content]

    check = unaffected(application)
    with instrumented(tracer_provider=tracer_provider, meter_provider=meter_provider):
        check()
    ledger.check(4)


class Endless(Repeating):
    """Calls itself endlessly."""

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        return self.invoke("Hi")

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        yield from self.stream("Hi")


@pytest.mark.parametrize("entry", ["invoke", "stream"])
def test_an_endless_recursion(
    tracer_provider: TracerProvider, meter_provider: MeterProvider, ledger: Ledger, entry: str
) -> None:
    llm = Endless(callbacks=[OpenTelemetryCallback("echo", "echo")])

    def application() -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(len(inspect.stack(0)) + 150)
        try:
            ENTRIES[entry](llm, "Hi")
        except RecursionError:
            # Its message names the function that was called last.
            raise RecursionError from None
        finally:
            sys.setrecursionlimit(limit)

    check = unaffected(application)
    with instrumented(tracer_provider=tracer_provider, meter_provider=meter_provider):
        check()
    ledger.check()
    assert len(ledger.started) > 1
