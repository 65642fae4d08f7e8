# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The telemetry of one call: its span's attributes, its metrics, its outcome, and what it does not disclose."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import math
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import openai
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from modelforge import ModelForgeRegistry
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
from opentelemetry_instrumentation_modelforge.telemetry import active_telemetry
from support.calls import MODEL_SPAN, MODELS, AsyncEchoModel, EchoModel, Person, await_dropped, model_spans, weather
from support.environment import COUNTS_REASONING, at_least
from support.models import get_llm, without_retries, write_config
from support.providers import GOOGLE_ID, GOOGLE_TELLS_ID, HOST, ProviderServer, Reply, unused_port
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")

DURATION = "gen_ai.client.operation.duration"
TOKENS = "gen_ai.client.token.usage"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
NEXT_CHUNK = "gen_ai.client.operation.time_per_output_chunk"
COST = "gen_ai.client.operation.cost"
STREAMS = "modelforge.client.active_streams"
RESPONSE_ID = "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx"

PROMPT = "Hi"
ANSWER = "Hello there friend"
ESTIMATE = {
    "gen_ai.usage.input_tokens": 1,
    "gen_ai.usage.output_tokens": len(ANSWER) // 4,
    "modelforge.usage.estimated": True,
}
COUNTED = {"gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 7}
DETAILED = {
    **COUNTED,
    "gen_ai.usage.cache_read.input_tokens": 4,
    "gen_ai.usage.reasoning.output_tokens": 3,
}
OPENAI_ANSWER = {
    "gen_ai.response.id": RESPONSE_ID,
    "gen_ai.response.finish_reasons": ("stop",),
    "openai.api.type": "chat_completions",
    "openai.response.system_fingerprint": "fp_0123456789",
}


def echo(model: type[EchoModel] = EchoModel, **options: Any) -> EchoModel:
    return model(callbacks=[OpenTelemetryCallback("echo", "echo")], **options)


def span(telemetry: Telemetry) -> ReadableSpan:
    return telemetry.span(MODEL_SPAN)


def attributes(telemetry: Telemetry) -> dict[str, Any]:
    return dict(span(telemetry).attributes or {})


# --- The span of each provider ---

IDENTITY: dict[str, Callable[[ProviderServer], dict[str, Any]]] = {
    "openai": lambda server: {
        "modelforge.provider": "openai",
        "modelforge.model": "gpt-4o-mini",
        "modelforge.llm_type": "openai_compatible",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "server.address": HOST,
        "server.port": server.port,
    },
    "ollama": lambda server: {
        "modelforge.provider": "ollama",
        "modelforge.model": "llama3",
        "modelforge.llm_type": "ollama",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "llama3",
        "server.address": HOST,
        "server.port": server.port,
    },
    "google": lambda server: {
        "modelforge.provider": "google",
        "modelforge.model": "gemini-2.5-flash",
        "modelforge.llm_type": "google_genai",
        "gen_ai.provider.name": "gcp.gemini",
        "gen_ai.request.model": "gemini-2.5-flash",
        "server.address": HOST,
        "server.port": server.google_port,
    },
    "github_copilot": lambda server: {
        "modelforge.provider": "github_copilot",
        "modelforge.model": "gpt-4o",
        "modelforge.llm_type": "github_copilot",
        "gen_ai.provider.name": "github_copilot",
        "gen_ai.request.model": "gpt-4o",
        "server.address": HOST,
        "server.port": server.port,
    },
}
REQUEST: dict[str, dict[str, Any]] = {
    "openai": {},
    "ollama": {},
    # The clients' defaults.
    "google": {"gen_ai.request.temperature": 0.7},
    "github_copilot": {"gen_ai.request.temperature": 0.7},
}
PLAIN: dict[str, dict[str, Any]] = {
    "openai": {
        **OPENAI_ANSWER,
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        **DETAILED,
        "gen_ai.usage.audio.input_tokens": 0,
        "gen_ai.usage.audio.output_tokens": 0,
    },
    "ollama": {
        "gen_ai.response.model": "llama3",
        "gen_ai.response.finish_reasons": ("stop",),
        **COUNTED,
    },
    "google": {
        **({"gen_ai.response.id": GOOGLE_ID} if GOOGLE_TELLS_ID else {}),
        "gen_ai.response.model": "gemini-2.5-flash-001",
        "gen_ai.response.finish_reasons": ("STOP",),
        **DETAILED,
    },
    "github_copilot": {
        **OPENAI_ANSWER,
        "gen_ai.response.model": "gpt-4o-2024-07-18",
        **ESTIMATE,
    },
}
STREAMED: dict[str, dict[str, Any]] = {
    "openai": {
        **OPENAI_ANSWER,
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        **ESTIMATE,
    },
    "ollama": PLAIN["ollama"],
    "google": PLAIN["google"],
}
DETAILED_MODELS = ["openai", "ollama", pytest.param("google", marks=COUNTS_REASONING), "github_copilot"]
CHANGING = {"gen_ai.response.time_to_first_chunk", "modelforge.response.chunk_count"}
MONEY = {
    "gen_ai.usage.cost.amount",
    "gen_ai.usage.cost.currency",
    "gen_ai.usage.cost.source",
    "modelforge.usage.reference_cost",
}


def without(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize("provider", DETAILED_MODELS)
@pytest.mark.parametrize("entry", ["invoke", "ainvoke"])
def test_the_telemetry_of_a_plain_call(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str, entry: str
) -> None:
    async def ainvoke() -> None:
        await model(provider).ainvoke(PROMPT)

    if entry == "invoke":
        model(provider).invoke(PROMPT)
    else:
        asyncio.run(ainvoke())
    assert span(instrumented).kind is SpanKind.CLIENT
    assert span(instrumented).status.status_code is StatusCode.UNSET
    said = without(attributes(instrumented), MONEY | CHANGING)
    expected = {
        "gen_ai.operation.name": "chat",
        **IDENTITY[provider](provider_server),
        **REQUEST[provider],
        **PLAIN[provider],
        "modelforge.outcome": "completed",
    }
    assert said == expected
    assert {name: type(value) for name, value in said.items()} == {name: type(v) for name, v in expected.items()}


@pytest.mark.parametrize("provider", [provider for provider in DETAILED_MODELS if provider != "github_copilot"])
@pytest.mark.parametrize("entry", ["stream", "astream"])
def test_the_telemetry_of_a_streamed_call(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str, entry: str
) -> None:
    chunks: list[Any] = []

    async def astream() -> None:
        chunks.extend([chunk async for chunk in model(provider).astream(PROMPT)])

    if entry == "stream":
        chunks.extend(model(provider).stream(PROMPT))
    else:
        asyncio.run(astream())
    said = attributes(instrumented)
    assert without(said, MONEY | CHANGING) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.stream": True,
        **IDENTITY[provider](provider_server),
        **REQUEST[provider],
        **STREAMED[provider],
        "modelforge.outcome": "completed",
    }
    assert said["modelforge.response.chunk_count"] == len(chunks)
    assert type(said["gen_ai.response.time_to_first_chunk"]) is float
    assert 0 < said["gen_ai.response.time_to_first_chunk"] < 60


def test_the_requested_model_is_the_api_name_and_not_the_alias(
    instrumented: Telemetry, registry: ModelForgeRegistry
) -> None:
    get_llm(registry, "openai", "fast").invoke(PROMPT)
    assert attributes(instrumented)["modelforge.model"] == "fast"
    assert attributes(instrumented)["gen_ai.request.model"] == "gpt-4o-mini"


def test_a_call_links_to_the_get_llm_span_that_created_its_model(instrumented: Telemetry, llm: Any) -> None:
    llm.invoke(PROMPT)
    (link,) = span(instrumented).links
    created_by = instrumented.span("modelforge.get_llm").context
    assert (link.context.trace_id, link.context.span_id) == (created_by.trace_id, created_by.span_id)


# --- The request ---


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0}, {"gen_ai.request.temperature": 0.0}),
        ({"temperature": 0.25, "top_p": 1}, {"gen_ai.request.temperature": 0.25, "gen_ai.request.top_p": 1.0}),
        ({"max_tokens": 100}, {"gen_ai.request.max_tokens": 100}),
        ({"max_completion_tokens": 100}, {"gen_ai.request.max_tokens": 100}),
        ({"seed": 7}, {"gen_ai.request.seed": 7}),
        ({"stop": ["a", "b"]}, {"gen_ai.request.stop_sequences": ("a", "b")}),
        ({"n": 2}, {"gen_ai.request.choice.count": 2}),
        ({"n": 1}, {}),
        (
            {"frequency_penalty": 0.5, "presence_penalty": -0.5},
            {"gen_ai.request.frequency_penalty": 0.5, "gen_ai.request.presence_penalty": -0.5},
        ),
        ({"response_format": {"type": "json_object"}}, {"gen_ai.output.type": "json"}),
        ({"response_format": {"type": "text"}}, {"gen_ai.output.type": "text"}),
    ],
)
def test_request_parameters_are_recorded(
    instrumented: Telemetry, llm: Any, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    if "n" in options:
        llm.generate([[HumanMessage(PROMPT)]], **options)
    else:
        llm.invoke(PROMPT, **options)
    asked = {
        name: value
        for name, value in attributes(instrumented).items()
        if (name.startswith("gen_ai.request.") and name != "gen_ai.request.model") or name == "gen_ai.output.type"
    }
    assert asked == expected
    assert [type(asked[name]) for name in expected] == [type(value) for value in expected.values()]


@pytest.mark.parametrize("provider", ["openai", "github_copilot"])
@pytest.mark.parametrize("stop", [["END"], None])
def test_the_stop_of_a_call_replaces_the_models_own(
    instrumented: Telemetry,
    model: Callable[..., Any],
    provider_server: ProviderServer,
    provider: str,
    stop: list[str] | None,
) -> None:
    """LangChain reports the model's own stop among the parameters."""
    llm = model(provider)
    llm.stop = ["."]
    llm.invoke(PROMPT, stop=stop)
    sent = provider_server.request.body["stop"]
    assert attributes(instrumented)["gen_ai.request.stop_sequences"] == tuple(sent)
    assert sent == (stop or ["."])


def test_every_choice_has_its_finish_reason(instrumented: Telemetry, llm: Any) -> None:
    llm.generate([[HumanMessage(PROMPT)]], n=3)
    assert attributes(instrumented)["gen_ai.response.finish_reasons"] == ("stop", "stop", "stop")


@pytest.mark.parametrize(
    "provider",
    [
        "openai",
        pytest.param(
            "google",
            marks=pytest.mark.skipif(not at_least("langchain-google-genai", "2.1.7"), reason="calls a tool instead"),
        ),
    ],
)
def test_structured_output_is_json(instrumented: Telemetry, model: Callable[..., Any], provider: str) -> None:
    method = {"method": "json_schema"} if provider == "openai" else {"method": "json_mode"}
    model(provider).with_structured_output(Person, **method).invoke("Who?")
    assert attributes(instrumented)["gen_ai.output.type"] == "json"


def test_a_tool_call_is_a_finish_reason(instrumented: Telemetry, llm: Any) -> None:
    llm.bind_tools([weather]).invoke(PROMPT)
    assert attributes(instrumented)["gen_ai.response.finish_reasons"] == ("tool_calls",)


def test_an_enhanced_models_own_parameters_are_recorded(instrumented: Telemetry, model: Callable[..., Any]) -> None:
    llm = model(enhanced=True)
    llm.temperature = 0.5
    llm.max_tokens = 50
    llm.invoke(PROMPT)
    said = attributes(instrumented)
    assert said["gen_ai.request.temperature"] == 0.5
    assert said["gen_ai.request.max_tokens"] == 50


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"thread_id": "t", "session_id": "s"}, "t"),
        ({"session_id": "s"}, "s"),
        ({"conversation_id": 7}, "7"),
        ({"other": "x"}, None),
    ],
)
def test_metadata_names_the_conversation(instrumented: Telemetry, metadata: dict[str, Any], expected: Any) -> None:
    echo().invoke(PROMPT, config={"metadata": metadata})
    assert attributes(instrumented).get("gen_ai.conversation.id") == expected


# --- Usage ---


def test_a_streams_usage_is_the_providers_if_requested(instrumented: Telemetry, llm: Any) -> None:
    list(llm.stream(PROMPT, stream_usage=True))
    said = attributes(instrumented)
    assert {name: said[name] for name in DETAILED} == DETAILED
    assert "modelforge.usage.estimated" not in said
    assert [point.sum for point in instrumented.metrics()[TOKENS]] == [11, 7]


@pytest.mark.parametrize("provider", ["openai", "github_copilot"])
def test_an_estimate_is_never_in_the_metric(instrumented: Telemetry, model: Callable[..., Any], provider: str) -> None:
    list(model(provider).stream(PROMPT))
    assert attributes(instrumented)["modelforge.usage.estimated"] is True
    assert TOKENS not in instrumented.metrics()
    assert COST not in instrumented.metrics()


def test_estimates_can_be_switched_off(instrument: Callable[..., Telemetry], registry: ModelForgeRegistry) -> None:
    telemetry = instrument(estimate_tokens=False)
    list(get_llm(registry, "openai", "gpt-4o-mini").stream(PROMPT))
    assert not [name for name in attributes(telemetry) if "usage" in name]


@pytest.mark.parametrize("provider", MODELS)
def test_usage_not_reported_is_left_out_of_the_metric(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str
) -> None:
    provider_server.reply = Reply(usage=False)
    model(provider).invoke(PROMPT)
    assert TOKENS not in instrumented.metrics()
    assert attributes(instrumented)["modelforge.usage.estimated"] is True


@pytest.fixture
def cache() -> Iterator[None]:
    set_llm_cache(InMemoryCache())
    yield
    set_llm_cache(None)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("entry", ["invoke", "ainvoke"])
@pytest.mark.parametrize("provider", MODELS)
def test_an_answer_from_the_cache_costs_nothing(
    instrumented: Telemetry, model: Callable[..., Any], provider_server: ProviderServer, provider: str, entry: str
) -> None:
    llm = model(provider)
    llm.invoke(PROMPT)
    before = instrumented.metrics()
    requests = len(provider_server.requests)
    if entry == "invoke":
        llm.invoke(PROMPT)
    else:
        asyncio.run(llm.ainvoke(PROMPT))
    assert len(provider_server.requests) == requests
    first, second = (dict(span.attributes or {}) for span in model_spans(instrumented.spans()))
    assert "modelforge.response.cached" not in first
    assert second["modelforge.response.cached"] is True
    assert second["modelforge.outcome"] == "completed"
    assert not [name for name in second if "usage" in name]
    after = instrumented.metrics()
    for name in (TOKENS, COST):
        assert [point.count for point in after.get(name, [])] == [point.count for point in before.get(name, [])]
    assert sum(point.count for point in after[DURATION]) == 2
    (hit,) = [point for point in after[DURATION] if "modelforge.response.cached" in point.attributes]
    assert hit.attributes["modelforge.response.cached"] is True


# --- Chunks ---


@pytest.mark.parametrize(("chunk_events", "indexes"), [("first", [0]), ("all", [0, 1, 2, 3, 4]), ("off", [])])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_chunk_events(
    instrument: Callable[..., Telemetry], chunk_events: str, indexes: list[int], asynchronous: bool
) -> None:
    telemetry = instrument(chunk_events=chunk_events)

    async def astream() -> None:
        async for _ in echo(AsyncEchoModel, chunk_count=5).astream(PROMPT):
            pass

    if asynchronous:
        asyncio.run(astream())
    else:
        list(echo(chunk_count=5).stream(PROMPT))
    events = span(telemetry).events
    assert [event.name for event in events] == ["modelforge.chunk"] * len(indexes)
    assert [dict(event.attributes or {}) for event in events] == [{"modelforge.chunk.index": i} for i in indexes]
    assert attributes(telemetry)["modelforge.response.chunk_count"] == 5
    assert [point.count for point in telemetry.metrics()[FIRST_CHUNK]] == [1]
    assert [point.count for point in telemetry.metrics()[NEXT_CHUNK]] == [4]


def test_chunks_are_counted_once_with_two_callbacks(instrumented: Telemetry) -> None:
    callbacks: list[Any] = [OpenTelemetryCallback("echo", "echo"), OpenTelemetryCallback("echo", "echo")]
    list(EchoModel(callbacks=callbacks, chunk_count=5).stream(PROMPT))
    assert attributes(instrumented)["modelforge.response.chunk_count"] == 5


@pytest.mark.parametrize("chunk_count", [1, 2, 32, 33, 34, 65, 100])
def test_the_time_between_chunks_is_measured(instrumented: Telemetry, chunk_count: int) -> None:
    list(echo(chunk_count=chunk_count).stream(PROMPT))
    metrics = instrumented.metrics()
    gaps = metrics.get(NEXT_CHUNK, [])
    assert sum(point.count for point in gaps) == chunk_count - 1
    (first,), (duration,) = metrics[FIRST_CHUNK], metrics[DURATION]
    assert 0 < first.sum <= first.sum + sum(point.sum for point in gaps) < duration.sum


@pytest.mark.parametrize("provider", MODELS)
def test_a_call_that_is_not_a_stream_has_no_chunks(
    instrumented: Telemetry, model: Callable[..., Any], caplog: pytest.LogCaptureFixture, provider: str
) -> None:
    """ChatOllama, however, also streams in `invoke`."""
    model(provider).invoke(PROMPT)
    assert instrumented.metrics().keys() & {FIRST_CHUNK, NEXT_CHUNK, STREAMS} == set()
    # The SDK logs a warning if it receives an invalid time.
    assert [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_an_open_stream_is_counted_until_it_ends(instrumented: Telemetry) -> None:
    streams = [echo().stream(PROMPT) for _ in range(3)]
    for stream in streams:
        next(stream)
    assert sum(point.value for point in instrumented.metrics()[STREAMS]) == 3
    streams.pop().close()
    assert sum(point.value for point in instrumented.metrics()[STREAMS]) == 2
    for stream in streams:
        list(stream)
    assert sum(point.value for point in instrumented.metrics()[STREAMS]) == 0


def grown_memory(work: Callable[[], object], *, after: Callable[[], object] = lambda: None) -> int:
    """Return how many more bytes are allocated after `work` than before it, once `after` has run."""
    tracemalloc.start()
    try:
        after()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_a_stream_of_100_000_chunks_costs_constant_memory(instrumented: Telemetry) -> None:
    """LangChain itself keeps every chunk of a stream, so it is not used here."""
    callback, run_id = OpenTelemetryCallback("echo", "echo"), uuid4()

    def send(chunks: int) -> None:
        for _ in range(chunks):
            callback.on_llm_new_token(
                "x", chunk=ChatGenerationChunk(message=AIMessageChunk("x", id="1")), run_id=run_id
            )

    callback.on_chat_model_start({}, [[HumanMessage(PROMPT)]], run_id=run_id)
    assert grown_memory(lambda: send(10_000)) < 64 * 1024
    assert grown_memory(lambda: send(2_000), after=lambda: send(10_000)) < 4_000
    send(78_000)
    callback.on_llm_end(LLMResult(generations=[[ChatGeneration(message=AIMessage("x"))]]), run_id=run_id)
    assert attributes(instrumented)["modelforge.response.chunk_count"] == 100_000
    assert len(span(instrumented).events) == 1


@pytest.mark.parametrize("entry", ["invoke", "stream"])
def test_memory_stays_flat_over_many_calls(instrumented: Telemetry, span_exporter: Any, entry: str) -> None:
    # Otherwise it keeps the spans.
    span_exporter.shutdown()
    llm = echo()

    def call(times: int) -> None:
        for _ in range(times):
            for _ in getattr(llm, entry)(PROMPT):
                pass

    def call_and_collect(times: int) -> None:
        call(times)
        instrumented.metrics()

    # Measurements accumulate until then.
    assert grown_memory(lambda: call(1_000)) < 2**20
    assert grown_memory(lambda: call_and_collect(1_000), after=lambda: call_and_collect(100)) < 40_000


# --- Metrics ---

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


def test_metrics_have_the_conventions_units_and_boundaries(
    instrumented: Telemetry, llm: Any, metric_reader: Any
) -> None:
    list(llm.stream(PROMPT, stream_usage=True))
    data = metric_reader.get_metrics_data()
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    units = {name: metric.unit for name, metric in metrics.items() if name.startswith(("gen_ai.", "modelforge."))}
    assert units == {
        DURATION: "s",
        TOKENS: "{token}",
        FIRST_CHUNK: "s",
        NEXT_CHUNK: "s",
        COST: "USD",
        STREAMS: "{stream}",
    }
    for name, bounds in ((DURATION, SECONDS), (FIRST_CHUNK, SECONDS), (NEXT_CHUNK, SECONDS), (TOKENS, COUNTS)):
        for point in metrics[name].data.data_points:
            assert tuple(point.explicit_bounds) == bounds


def test_metrics_have_the_conventions_attributes(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer
) -> None:
    llm.invoke(PROMPT, config={"metadata": {"thread_id": "t"}})
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "server.address": HOST,
        "server.port": provider_server.port,
    }
    metrics = instrumented.metrics()
    (duration,) = metrics[DURATION]
    assert dict(duration.attributes) == common
    assert duration.count == 1
    tokens = {point.attributes["gen_ai.token.type"]: point for point in metrics[TOKENS]}
    assert {kind: point.sum for kind, point in tokens.items()} == {"input": 11, "output": 7}
    for kind, point in tokens.items():
        assert dict(point.attributes) == {**common, "gen_ai.token.type": kind}


def test_exemplars_lead_to_the_trace(instrumented: Telemetry, llm: Any) -> None:
    with instrumented.tracer.start_as_current_span("caller"):
        list(llm.stream(PROMPT, stream_usage=True))
    context = span(instrumented).context
    metrics = instrumented.metrics()
    for name in (DURATION, TOKENS, FIRST_CHUNK, NEXT_CHUNK, COST):
        for point in metrics[name]:
            assert point.exemplars
            assert {(e.trace_id, e.span_id) for e in point.exemplars} == {(context.trace_id, context.span_id)}


@pytest.mark.parametrize(
    ("failing", "name"),
    [("duration", DURATION), ("token_usage", TOKENS), ("time_to_first_chunk", FIRST_CHUNK), ("cost", COST)],
)
def test_an_instrument_that_fails_does_not_affect_the_others(
    instrumented: Telemetry,
    llm: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: str,
    name: str,
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("no more metrics")

    telemetry = active_telemetry()
    assert telemetry is not None
    monkeypatch.setattr(getattr(telemetry, failing), "_record", fail)
    list(llm.stream(PROMPT, stream_usage=True))
    assert instrumented.metrics().keys() == {DURATION, TOKENS, FIRST_CHUNK, NEXT_CHUNK, COST, STREAMS} - {name}
    caplog.clear()


def test_unsampled_calls_are_still_measured(meter_provider: MeterProvider, metric_reader: Any, registry: Any) -> None:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    ModelForgeInstrumentor().instrument(
        tracer_provider=TracerProvider(sampler=ALWAYS_OFF), meter_provider=meter_provider, skip_dep_check=True
    )
    try:
        llm = get_llm(registry, "openai", "gpt-4o-mini")
        llm.invoke(PROMPT)
        list(llm.stream(PROMPT, stream_usage=True))
    finally:
        ModelForgeInstrumentor().uninstrument()
    data = metric_reader.get_metrics_data()
    points = {m.name: m.data.data_points for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert sum(point.count for point in points[DURATION]) == 2
    assert sum(point.sum for point in points[TOKENS]) == 36


# --- Errors ---


def everything_said(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> str:
    """Return everything that left the application: spans, metrics, log records, and the faults that are logged."""
    spans = [
        (item.to_json(), item.status.description, [(event.name, dict(event.attributes or {})) for event in item.events])
        for item in telemetry.spans()
    ]
    logs = [record.log_record for record in telemetry.logs()]
    own = [record for record in caplog.records if record.name.startswith("opentelemetry")]
    printed = [logging.Formatter().format(record) for record in own]
    return f"{spans}\n{telemetry.metrics()}\n{logs}\n{printed}"


@pytest.mark.parametrize(
    ("provider", "kind"),
    [
        ("openai", "openai.AuthenticationError"),
        ("ollama", "ValueError"),
        ("google", "google.api_core.exceptions.Unauthenticated"),
        ("github_copilot", "ValueError"),
    ],
)
@pytest.mark.parametrize("entry", ["invoke", "stream"])
def test_a_refusal_is_recorded_as_an_error_without_the_key_it_quotes(
    instrumented: Telemetry,
    model: Callable[..., Any],
    model_config: dict[str, Any],
    provider_server: ProviderServer,
    caplog: pytest.LogCaptureFixture,
    provider: str,
    kind: str,
    entry: str,
) -> None:
    key = "my very own kind of key/123"
    auth = model_config["providers"][provider].get("auth_data", {})
    auth["access_token" if provider == "github_copilot" else "api_key"] = key
    write_config(model_config)
    shapes = ["sk-proj-abcdef0123456789", "Bearer abcdef0123456789", "ghu_abcdef0123456789", "AIzaSyabcdef0123456789"]
    provider_server.reply = Reply(status=401, error_body=f"Incorrect key {key}; not {' nor '.join(shapes)}.")
    llm = model(provider)
    caplog.clear()
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each client has its own exception.
        list(getattr(llm, entry)(PROMPT))
    assert "sk-proj" in str(raised.value)
    said = span(instrumented)
    assert said.status.status_code is StatusCode.ERROR
    assert attributes(instrumented)["error.type"] == kind
    assert attributes(instrumented)["modelforge.outcome"] == "failed"
    (event,) = [event for event in said.events if event.name == "exception"]
    assert event.attributes is not None
    assert event.attributes["exception.type"] == kind
    assert event.attributes["exception.message"] == said.status.description
    assert "Traceback (most recent call last)" in str(event.attributes["exception.stacktrace"])
    text = everything_said(instrumented, caplog)
    for secret in ("abcdef0123456789", *([key] if provider != "ollama" else [])):
        assert secret not in text
    (point,) = instrumented.metrics()[DURATION]
    assert point.attributes["error.type"] == kind


@pytest.mark.parametrize(("status", "kind"), [(429, "openai.RateLimitError"), (500, "openai.InternalServerError")])
def test_an_error_of_the_provider_is_recorded_as_the_calls(
    instrumented: Telemetry, llm: Any, provider_server: ProviderServer, status: int, kind: str
) -> None:
    provider_server.reply = Reply(status=status)
    with pytest.raises(openai.APIStatusError):
        llm.invoke(PROMPT)
    assert attributes(instrumented)["error.type"] == kind
    assert span(instrumented).status.status_code is StatusCode.ERROR


def test_a_refused_connection_is_recorded_as_the_calls_error(
    instrumented: Telemetry, model_config: dict[str, Any], registry: ModelForgeRegistry
) -> None:
    port = unused_port()
    model_config["providers"]["openai"]["base_url"] = f"http://{HOST}:{port}/v1"
    write_config(model_config)
    with pytest.raises(openai.APIConnectionError):
        without_retries(get_llm(ModelForgeRegistry(), "openai", "gpt-4o-mini")).invoke(PROMPT)
    said = attributes(instrumented)
    assert said["error.type"] == "openai.APIConnectionError"
    assert said["server.port"] == port


def outline(error: BaseException | None) -> Any:
    """Describe an exception and its causes, without the frames of this package."""
    if error is None:
        return None
    frames = [
        (frame.name, frame.lineno)
        for frame in traceback.extract_tb(error.__traceback__)
        if "opentelemetry_instrumentation_modelforge" not in frame.filename and __file__ != frame.filename
    ]
    return (
        type(error),
        str(error),
        frames,
        error.__suppress_context__,
        outline(error.__cause__),
        outline(error.__context__),
        getattr(error, "__notes__", None),
    )


@pytest.mark.parametrize("entry", ["invoke", "stream", "ainvoke", "astream", "generate"])
def test_an_error_reaches_the_caller_as_without_instrumentation(
    instrument: Callable[..., Telemetry], entry: str
) -> None:
    def run(llm: Any) -> BaseException:
        async def arun() -> None:
            if entry == "ainvoke":
                await llm.ainvoke(PROMPT)
            else:
                async for _ in llm.astream(PROMPT):
                    pass

        try:
            if entry.startswith("a"):
                asyncio.run(arun())
            elif entry == "generate":
                llm.generate([[HumanMessage(PROMPT)]] * 2)
            else:
                list(getattr(llm, entry)(PROMPT))
        except LookupError as error:
            return error
        raise AssertionError

    def error() -> LookupError:
        made = LookupError("no")
        made.__cause__ = KeyError("because")
        made.add_note("a note")
        return made

    plain = run(AsyncEchoModel(error=error()))
    telemetry = instrument()
    raised = error()
    caught = run(echo(AsyncEchoModel, error=raised))
    assert caught is raised
    assert outline(caught) == outline(plain)
    assert {dict(s.attributes or {})["error.type"] for s in model_spans(telemetry.spans())} == {"LookupError"}


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("entry", ["invoke", "stream"])
def test_an_error_without_a_message_is_still_an_error(instrumented: Telemetry, entry: str) -> None:
    error = Unprintable()
    with pytest.raises(Unprintable) as raised:
        list(getattr(echo(error=error), entry)(PROMPT))
    assert raised.value is error
    assert span(instrumented).status.status_code is StatusCode.ERROR
    assert attributes(instrumented)["error.type"] == f"{__name__}.Unprintable"
    (event,) = [event for event in span(instrumented).events if event.name == "exception"]
    assert event.attributes is not None
    assert event.attributes["exception.type"] == f"{__name__}.Unprintable"


def test_an_error_whose_message_is_not_valid_unicode_can_be_exported(instrumented: Telemetry) -> None:
    encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    with pytest.raises(ValueError, match="half"):
        echo(error=ValueError("half \ud83d")).invoke(PROMPT)
    encoder.encode_spans([span(instrumented)])


def test_none_of_10_000_calls_stays_open(instrument: Callable[..., Telemetry], span_exporter: Any) -> None:
    telemetry = instrument()
    span_exporter.shutdown()
    llm = echo()
    for _ in range(10_000):
        llm.invoke(PROMPT)
    (point,) = telemetry.metrics()[DURATION]
    assert point.count == 10_000


def test_a_fault_of_telemetry_after_an_error_logs_no_key(
    instrumented: Telemetry, tracer_provider: TracerProvider, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(SpanProcessor):
        def on_end(self, span: Any) -> None:
            raise RuntimeError("fault")

    tracer_provider.add_span_processor(Faulty())
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    logger = logging.getLogger("opentelemetry_instrumentation_modelforge")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        with pytest.raises(ValueError, match="sk-proj"):
            echo(error=ValueError("Incorrect API key: sk-proj-abcdef0123456789")).invoke(PROMPT)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    caplog.clear()
    assert "RuntimeError" in output.getvalue()
    assert 'raise RuntimeError("fault")' in output.getvalue()
    assert "abcdef0123456789" not in output.getvalue()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KeyboardInterrupt(), "failed"),
        (SystemExit(), "failed"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "closed"),
        (LookupError(), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_how_a_call_ended(instrumented: Telemetry, error: BaseException, outcome: str) -> None:
    with pytest.raises(type(error)):
        echo(error=error).invoke(PROMPT)
    await_dropped()
    said = attributes(instrumented)
    assert said["modelforge.outcome"] == outcome
    assert said["gen_ai.response.finish_reasons"] == ("error",)
    failed = outcome != "closed"
    assert ("error.type" in said) is failed
    assert (span(instrumented).status.status_code is StatusCode.ERROR) is failed
    (point,) = instrumented.metrics()[DURATION]
    assert ("error.type" in point.attributes) is failed


@pytest.mark.parametrize(("chunks", "tokens"), [(1, 0), (2, 1)])
def test_an_abandoned_stream_records_what_had_arrived(
    instrumented: Telemetry, llm: Any, chunks: int, tokens: int
) -> None:
    """OpenAI's first chunk has no content."""
    stream = llm.stream(PROMPT)
    for _ in range(chunks):
        next(stream)
    stream.close()
    said = attributes(instrumented)
    assert said["modelforge.outcome"] == "closed"
    assert said["gen_ai.usage.output_tokens"] == tokens
    assert said["modelforge.usage.estimated"] is True
    assert said["gen_ai.response.id"] == RESPONSE_ID
    assert said["gen_ai.response.model"] == "gpt-4o-mini-2024-07-18"
    assert said["gen_ai.response.finish_reasons"] == ("error",)
    assert TOKENS not in instrumented.metrics()


def test_a_failed_stream_records_what_had_arrived(instrumented: Telemetry) -> None:
    with pytest.raises(LookupError):
        list(echo(chunk_count=8, error=LookupError()).stream("Hello"))
    said = attributes(instrumented)
    assert said["modelforge.response.chunk_count"] == 8
    assert said["gen_ai.usage.output_tokens"] == 2
    assert said["modelforge.usage.estimated"] is True


def test_invalid_token_counts_are_left_out(instrumented: Telemetry, llm: Any, provider_server: Any) -> None:
    provider_server.reply = Reply(input_tokens=2**70)
    llm.invoke(PROMPT)
    assert "gen_ai.usage.input_tokens" not in attributes(instrumented)
    assert all(math.isfinite(point.sum) for point in instrumented.metrics()[TOKENS])
