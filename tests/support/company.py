# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Run model calls alongside other instrumentations, in a separate process, and print the recorded telemetry as JSON.

``python company.py NAME...`` with names of :data:`OTHERS`. See ``test_coexistence.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from threading import Thread
from typing import Any, Self

import pytest

OTHERS = {
    "langchain": ("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
    "openai": ("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
    "openllmetry-langchain": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "openllmetry-openai": ("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
    "openinference-langchain": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
}
"""Module and class of the instrumentors. LangSmith's tracers are enabled by environment variables instead."""

LANGSMITH = {
    "langsmith": {"LANGSMITH_TRACING": "true"},
    "langsmith-otel": {"LANGSMITH_TRACING": "true", "LANGSMITH_TRACING_MODE": "otel"},
}
DISTRIBUTIONS = {
    "langchain": "opentelemetry-instrumentation-genai-langchain",
    "openai": "opentelemetry-instrumentation-genai-openai",
    "openllmetry-langchain": "opentelemetry-instrumentation-langchain",
    "openllmetry-openai": "opentelemetry-instrumentation-openai",
    "openinference-langchain": "openinference-instrumentation-langchain",
    "langsmith": "langsmith",
    "langsmith-otel": "langsmith",
}
OURS, THEIRS = "ours", "theirs"
STEPS = (
    # The step, and the instrumentations that are active after it. The code parses the step's name.
    (f"+{OURS}", {OURS}),
    (f"+{THEIRS}", {OURS, THEIRS}),
    (f"-{THEIRS}", {OURS}),
    (f"+{THEIRS} again", {OURS, THEIRS}),
    (f"-{OURS}", {THEIRS}),
    (f"+{OURS} again", {OURS, THEIRS}),
    (f"-{THEIRS} from below", {OURS}),
    (f"+{THEIRS} once more", {OURS, THEIRS}),
    (f"-{THEIRS} once more", {OURS}),
    (f"-{OURS} once more", set()),
    (f"+{THEIRS} first", {THEIRS}),
    (f"+{OURS} second", {OURS, THEIRS}),
    (f"-{OURS} from above", {THEIRS}),
    (f"-{THEIRS} last", set()),
)
"""Each is instrumented on top of the other and below it, is uninstrumented there, and is instrumented again."""


def steps_of(names: Sequence[str]) -> Sequence[tuple[str, set[str]]]:
    """Return the steps of a combination."""
    if not any(name in OTHERS for name in names):
        return STEPS[:1]
    # OpenLLMetry's instrumentors cannot be undone, and those of third parties wrap no function that we wrap.
    return STEPS if all(name in ("langchain", "openai") for name in names) else STEPS[:6]


MODELS = {"openai": "gpt-4o-mini", "ollama": "llama3"}
CALLS = {
    "invoke": 1,
    "ainvoke": 1,
    "stream": 1,
    "astream": 1,
    "batch": 2,
    "abatch": 2,
    "generate": 2,
    "chain.invoke": 1,
    "chain.ainvoke": 1,
    "chain.stream": 1,
    "chain.astream": 1,
    "chain.batch": 2,
    "events": 1,
    "enhanced.invoke": 1,
    "enhanced.astream": 1,
    "ollama.invoke": 1,
    "ollama.stream": 1,
    "unnamed.invoke": 1,
    "unnamed.ainvoke": 1,
    "agent.invoke": 2,
    "agent.ainvoke": 2,
    "agent.stream": 2,
    "error.invoke": 1,
    "error.ainvoke": 1,
    "error.stream": 1,
    "error.astream": 1,
    "closed.stream": 1,
    "closed.astream": 1,
    "cancelled.ainvoke": 1,
    "cancelled.astream": 1,
}
"""The number of model calls that each way of calling makes."""


def missing(names: Sequence[str]) -> str | None:
    """Return which distribution is not installed."""
    for name in (*(DISTRIBUTIONS[name] for name in names), "langgraph", "opentelemetry-instrumentation-httpx"):
        try:
            distribution(name)
        except PackageNotFoundError:
            return f"{name} is not installed"
    return None


def main(names: list[str]) -> None:
    # This must come first, because it isolates the process from the user's own configuration.
    from langchain_core.tracers.langchain import wait_for_all_tracers
    from modelforge.modelsdev import ModelsDevClient
    from opentelemetry import metrics, trace
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    from support.models import OPENAI_KEY, write_config
    from support.providers import ProviderServer

    logged = Logged()
    logging.getLogger().addHandler(logged)
    with ProviderServer() as server, LangSmith() as langsmith:
        for name in names:
            os.environ.update(LANGSMITH.get(name, {}))
        os.environ.update(LANGSMITH_ENDPOINT=langsmith.url, LANGSMITH_API_KEY="no-key-needed")
        ModelsDevClient.BASE_URL = server.url
        write_config(
            {
                "providers": {
                    "openai": {
                        "llm_type": "openai_compatible",
                        "base_url": f"{server.url}/v1",
                        "auth_strategy": "api_key",
                        "auth_data": {"api_key": OPENAI_KEY},
                        "models": {"fast": {"api_model_name": MODELS["openai"]}},
                    },
                    "ollama": {"llm_type": "ollama", "base_url": server.url, "models": {MODELS["ollama"]: {}}},
                }
            }
        )
        recorder = Recorder()
        # LangSmith uses the global tracer provider.
        trace.set_tracer_provider(recorder.tracer_provider)
        metrics.set_meter_provider(recorder.meter_provider)
        for instrumentor in (HTTPXClientInstrumentor(), RequestsInstrumentor()):
            instrumentor.instrument(tracer_provider=recorder.tracer_provider)
        # ModelForge writes its log to standard output.
        logging.getLogger("modelforge").setLevel(logging.ERROR)
        steps = {step: recorder.record(server, logged) for step in _steps(names)}
        # LangSmith sends, or creates spans from, its events with a delay.
        wait_for_all_tracers()
        later = [span["scope"] for span in recorder.spans()]
        print(json.dumps({"steps": steps, "later": later, "langsmith": langsmith.requests}))


def _steps(names: list[str]) -> Iterator[str]:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    instrumentors: dict[str, list[Any]] = {
        OURS: [ModelForgeInstrumentor()],
        THEIRS: [getattr(import_module(OTHERS[name][0]), OTHERS[name][1])() for name in names if name in OTHERS],
    }
    functions = _functions()
    for step, instrumented in steps_of(names):
        for instrumentor in instrumentors[step[1:].split()[0]]:
            if step[0] == "+":
                instrumentor.instrument(skip_dep_check=True)
            else:
                instrumentor.uninstrument()
        assert instrumented or _functions() == functions
        yield step


def _functions() -> list[Any]:
    """Return the functions that are patched."""
    from langchain_core.language_models.chat_models import BaseChatModel
    from modelforge import ModelForgeRegistry

    return [
        vars(owner)[name]
        for owner, names in (
            (BaseChatModel, ("generate", "agenerate", "_generate_with_cache", "_agenerate_with_cache")),
            (BaseChatModel, ("stream", "astream")),
            (ModelForgeRegistry, ("__init__", "get_llm")),
        )
        for name in names
    ]


class LangSmith(ThreadingHTTPServer):
    """Accepts any request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _LangSmithHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _LangSmithHandler(BaseHTTPRequestHandler):
    server: LangSmith

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.path)
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PATCH = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class Logged(logging.Handler):
    """Collects the warnings and errors logged until now."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")


class Recorder:
    """Keeps the recorded telemetry."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import Histogram, MeterProvider
        from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])

    def record(self, server: Any, logged: Logged) -> dict[str, Any]:
        """Call models in every way, and return what each way recorded."""
        from opentelemetry.context import get_current

        tracer = self.tracer_provider.get_tracer("caller")
        recorded: dict[str, Any] = {}
        ways = dict(_ways(server))
        assert ways.keys() == CALLS.keys()
        for name, way in ways.items():
            self._exporter.clear()
            self._reader.get_metrics_data()
            logged.messages.clear()
            before = get_current()
            with tracer.start_as_current_span("caller"):
                way()
            assert get_current() is before, f"{name} left a context attached"
            recorded[name] = {"spans": self.spans(), "metrics": self._metrics(), "logged": list(logged.messages)}
        return recorded

    def spans(self) -> list[dict[str, Any]]:
        """Return the spans that ended since the last call began."""
        return [
            {
                "name": span.name,
                "scope": span.instrumentation_scope.name,
                "id": span.context.span_id,
                "parent": span.parent and span.parent.span_id,
                "status": span.status.status_code.name,
                "attributes": dict(span.attributes),
            }
            for span in self._exporter.get_finished_spans()
        ]

    def _metrics(self) -> list[dict[str, Any]]:
        data = self._reader.get_metrics_data()
        return [
            {
                "name": metric.name,
                "scope": scope.scope.name,
                "sum": point.sum if hasattr(point, "sum") else point.value,
                "attributes": dict(point.attributes),
            }
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        ]


def _ways(server: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield every way to call a model that ``get_llm`` has just returned."""
    from langchain_core.messages import HumanMessage
    from langgraph.prebuilt import create_react_agent
    from modelforge import ModelForgeRegistry
    from openai import AuthenticationError

    from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
    from support.calls import EchoModel, chain, weather
    from support.models import get_llm, without_retries
    from support.providers import Reply

    registry = ModelForgeRegistry()

    llm = without_retries(get_llm(registry, "openai", "fast"))
    enhanced = get_llm(registry, "openai", "fast", enhanced=True)
    for openai in (llm, enhanced._wrapped_llm):
        openai.stream_usage = True
    ollama = get_llm(registry, "ollama", "llama3")
    # The official LangChain instrumentation ignores a model that does not report its name.
    unnamed = EchoModel(callbacks=[OpenTelemetryCallback("openai", "fast")])
    agent = create_react_agent(llm, [weather])
    question = {"messages": [HumanMessage("How is the weather?")]}
    topic = {"topic": "bears"}

    def run(call: Callable[[], Awaitable[object]]) -> Callable[[], object]:
        return lambda: asyncio.run(_awaited(call()))

    def failing(call: Callable[[], object]) -> Callable[[], None]:
        def way() -> None:
            server.reply = Reply(status=401)
            with pytest.raises(AuthenticationError):
                call()
            server.reply = Reply()

        return way

    def close_stream() -> None:
        stream = llm.stream("Hi")
        next(stream)
        stream.close()

    async def close_astream() -> None:
        stream = llm.astream("Hi")
        await anext(stream)
        await stream.aclose()

    def cancelled(call: Callable[[], Awaitable[object]], **held: Any) -> Callable[[], None]:
        async def cancel() -> None:
            task = asyncio.ensure_future(call())
            await asyncio.to_thread(server.held.wait)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert task.cancelled()

        def way() -> None:
            server.reply = Reply(**held)
            try:
                asyncio.run(cancel())
            finally:
                server.release.set()
                server.reply = Reply()
                server.held.clear()
                server.release.clear()

        return way

    async def drain(stream: Any) -> None:
        async for _ in stream:
            pass

    yield "invoke", lambda: llm.invoke("Hi")
    yield "ainvoke", run(lambda: llm.ainvoke("Hi"))
    yield "stream", lambda: list(llm.stream("Hi"))
    yield "astream", run(lambda: drain(llm.astream("Hi")))
    yield "batch", lambda: llm.batch(["Hi", "Ho"])
    yield "abatch", run(lambda: llm.abatch(["Hi", "Ho"]))
    yield "generate", lambda: llm.generate([[HumanMessage("Hi")], [HumanMessage("Ho")]])
    yield "chain.invoke", lambda: chain(llm).invoke(topic)
    yield "chain.ainvoke", run(lambda: chain(llm).ainvoke(topic))
    yield "chain.stream", lambda: list(chain(llm).stream(topic))
    yield "chain.astream", run(lambda: drain(chain(llm).astream(topic)))
    yield "chain.batch", lambda: chain(llm).batch([topic, topic])
    yield "events", run(lambda: drain(llm.astream_events("Hi", version="v2")))
    yield "enhanced.invoke", lambda: enhanced.invoke("Hi")
    yield "enhanced.astream", run(lambda: drain(enhanced.astream("Hi")))
    yield "ollama.invoke", lambda: ollama.invoke("Hi")
    yield "ollama.stream", lambda: list(ollama.stream("Hi"))
    yield "unnamed.invoke", lambda: unnamed.invoke("Hi")
    yield "unnamed.ainvoke", run(lambda: unnamed.ainvoke("Hi"))
    yield "agent.invoke", lambda: agent.invoke(question)
    yield "agent.ainvoke", run(lambda: agent.ainvoke(question))
    yield "agent.stream", lambda: list(agent.stream(question))
    yield "error.invoke", failing(lambda: llm.invoke("Hi"))
    yield "error.ainvoke", failing(run(lambda: llm.ainvoke("Hi")))
    yield "error.stream", failing(lambda: list(llm.stream("Hi")))
    yield "error.astream", failing(run(lambda: drain(llm.astream("Hi"))))
    yield "closed.stream", close_stream
    yield "closed.astream", run(close_astream)
    yield "cancelled.ainvoke", cancelled(lambda: llm.ainvoke("Hi"), hold=True)
    yield "cancelled.astream", cancelled(lambda: drain(llm.astream("Hi")), hold_after=1)


async def _awaited(awaitable: Awaitable[object]) -> object:
    return await awaitable


if __name__ == "__main__":
    main(sys.argv[1:])
