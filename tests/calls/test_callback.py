# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""`OpenTelemetryCallback`: passed by hand, passed twice, copied, pickled, and switched off."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import pickle
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler, manager
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_openai import ChatOpenAI
from modelforge import ModelForgeRegistry
from modelforge.telemetry import TelemetryCallback
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, SpanKind

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
from opentelemetry_instrumentation_modelforge.inference import Inference
from support.calls import MODEL_SPAN, MODELS, MODES, STREAMS, ask
from support.environment import COUNTS_REASONING
from support.instant import InstantRegistry
from support.models import OPENAI_KEY, get_llm
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")

Instrument = Callable[..., Telemetry]


@pytest.fixture
def telemetry(
    tracer_provider: TracerProvider,
    span_exporter: InMemorySpanExporter,
    metric_reader: InMemoryMetricReader,
    log_exporter: Any,
) -> Telemetry:
    """The telemetry of callbacks passed by hand, without an instrumentor."""
    return Telemetry(tracer_provider.get_tracer("tests"), span_exporter, metric_reader, log_exporter)


@pytest.fixture
def callback(tracer_provider: TracerProvider, meter_provider: MeterProvider) -> OpenTelemetryCallback:
    return OpenTelemetryCallback(
        "openai", "gpt-4o-mini", tracer_provider=tracer_provider, meter_provider=meter_provider
    )


def span_names(telemetry: Telemetry) -> list[str]:
    return [span.name for span in telemetry.spans()]


def chunk_count(telemetry: Telemetry) -> Any:
    return (telemetry.span(MODEL_SPAN).attributes or {})["modelforge.response.chunk_count"]


# --- By hand, without patching ---


def test_a_callback_passed_by_hand_creates_a_span_for_every_call(
    registry: ModelForgeRegistry, telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    llm = get_llm(registry, callbacks=[callback])
    with telemetry.tracer.start_as_current_span("request") as request:
        llm.invoke("Hi")
    span = telemetry.span(MODEL_SPAN)
    assert span.kind is SpanKind.CLIENT
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id
    attributes = span.attributes or {}
    # The oldest langchain-openai does not pass the id on.
    assert {key: value for key, value in attributes.items() if "usage" not in key and key != "gen_ai.response.id"} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "modelforge.model": "gpt-4o-mini",
        "modelforge.llm_type": "openai_compatible",
        "modelforge.outcome": "completed",
        "modelforge.provider": "openai",
        "openai.response.system_fingerprint": "fp_0123456789",
    }
    assert attributes["gen_ai.usage.input_tokens"] == 11
    assert attributes["gen_ai.usage.output_tokens"] == 7
    assert set(telemetry.metrics()) >= {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"}


def test_a_callback_passed_by_hand_counts_the_chunks_of_a_stream(
    registry: ModelForgeRegistry, telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    chunks = list(get_llm(registry, callbacks=[callback]).stream("Hi"))
    attributes = telemetry.span(MODEL_SPAN).attributes or {}
    assert attributes["modelforge.response.chunk_count"] == len(chunks)
    assert attributes["gen_ai.request.stream"] is True


def test_a_callback_passed_to_one_call_creates_a_span_for_that_call(
    registry: ModelForgeRegistry, telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    llm = get_llm(registry)
    llm.invoke("Hi", config={"callbacks": [callback]})
    llm.invoke("Hi")
    assert span_names(telemetry) == [MODEL_SPAN]


def test_one_callback_serves_many_models(
    registry: ModelForgeRegistry, telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    for model in ("gpt-4o-mini", "fast"):
        get_llm(registry, "openai", model, callbacks=[callback]).batch(["Hi", "Ho"])
    assert span_names(telemetry) == [MODEL_SPAN] * 4


@pytest.mark.parametrize("provider", ["openai", pytest.param("google", marks=COUNTS_REASONING), "ollama"])
def test_a_callback_passed_by_hand_counts_a_stream_as_its_provider_does(
    registry: ModelForgeRegistry,
    provider_server: ProviderServer,
    telemetry: Telemetry,
    tracer_provider: TracerProvider,
    provider: str,
) -> None:
    """LangChain adds up the counts of all chunks, and joins their finish reasons."""
    totals = [{"prompt_tokens": 11, "completion_tokens": n, "total_tokens": 11 + n} for n in (3, 7)]
    choice = {"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}
    events = [{"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": total} for total in totals]
    provider_server.reply = Reply(events=events) if provider == "openai" else Reply()
    callback = OpenTelemetryCallback(provider, MODELS[provider], tracer_provider=tracer_provider)
    list(get_llm(registry, provider, MODELS[provider], callbacks=[callback]).stream("Hi"))
    said = dict(telemetry.span(MODEL_SPAN).attributes or {})
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (11, 7)
    assert said["gen_ai.response.finish_reasons"] == ("STOP" if provider == "google" else "stop",)


@pytest.mark.parametrize("arguments", [(None, "m"), ("p", None), (1, "m"), ("p", b"m")])
def test_names_that_are_not_strings_are_rejected(arguments: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match="expected ModelForge's name, a string"):
        OpenTelemetryCallback(*arguments)


def test_providers_must_be_passed_by_keyword() -> None:
    with pytest.raises(TypeError):
        OpenTelemetryCallback("openai", "gpt-4o-mini", True)  # type: ignore[misc]


def test_the_operation_of_a_plain_language_model_is_text_completion(
    telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    llm = FakeListLLM(responses=["one", "two"], callbacks=[callback])
    assert llm.invoke("Hi there") == "one"
    assert llm.generate(["Hi"]).generations[0][0].text == "two"
    spans = telemetry.spans()
    assert [span.name for span in spans] == [MODEL_SPAN, MODEL_SPAN]
    assert {(span.attributes or {})["gen_ai.operation.name"] for span in spans} == {"text_completion"}
    assert {(span.attributes or {})["modelforge.outcome"] for span in spans} == {"completed"}


def test_tokens_of_a_plain_language_model_are_estimated_from_its_text(
    telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    FakeListLLM(responses=["b" * 80], callbacks=[callback]).invoke("a" * 40)
    attributes = telemetry.span(MODEL_SPAN).attributes or {}
    assert attributes["modelforge.usage.estimated"] is True
    assert attributes["gen_ai.usage.input_tokens"] == 10
    assert attributes["gen_ai.usage.output_tokens"] == 20


# --- otel_enabled ---


@pytest.mark.parametrize(
    ("otel_enabled", "recording_provider", "recorded"),
    [(None, True, True), (None, False, False), (True, True, True), (False, True, False)],
)
def test_otel_enabled_determines_what_is_recorded(
    registry: ModelForgeRegistry,
    telemetry: Telemetry,
    tracer_provider: TracerProvider,
    otel_enabled: bool | None,
    recording_provider: bool,
    recorded: bool,
) -> None:
    provider = tracer_provider if recording_provider else NoOpTracerProvider()
    callback = OpenTelemetryCallback("openai", "gpt-4o-mini", otel_enabled=otel_enabled, tracer_provider=provider)
    assert callback.otel_enabled is recorded
    assert get_llm(registry, callbacks=[callback]).invoke("Hi").content == "Hello there friend"
    assert len(telemetry.spans()) == recorded


def test_a_disabled_sdk_disables_a_callback(
    registry: ModelForgeRegistry, tracer_provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    callback = OpenTelemetryCallback("openai", "gpt-4o-mini", tracer_provider=tracer_provider)
    assert not callback.otel_enabled
    assert get_llm(registry, callbacks=[callback]).invoke("Hi").content == "Hello there friend"


def test_a_suppressed_call_has_no_span(
    registry: ModelForgeRegistry, telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    llm = get_llm(registry, callbacks=[callback])
    with suppress_instrumentation():
        llm.invoke("Hi")
    assert telemetry.spans() == []


# --- Given to a model that has one, or twice ---


@pytest.mark.parametrize("stream", [False, True], ids=["invoke", "stream"])
@pytest.mark.parametrize(
    ("constructor", "call"), [(1, 0), (2, 0), (1, 1), (0, 2), (2, 2)], ids=lambda count: f"{count} times"
)
@pytest.mark.parametrize("patched", [False, True], ids=["by hand", "instrumented"])
def test_a_call_has_one_span_however_often_a_callback_is_passed(
    registry: ModelForgeRegistry,
    telemetry: Telemetry,
    instrument: Instrument,
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    patched: bool,
    constructor: int,
    call: int,
    stream: bool,
) -> None:
    def callbacks(count: int) -> list[Any]:
        providers = {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
        return [OpenTelemetryCallback("openai", "gpt-4o-mini", **providers) for _ in range(count)]

    if patched:
        instrument()
    llm = get_llm(registry, callbacks=callbacks(constructor))
    config: Any = {"callbacks": callbacks(call)}
    chunks = list(llm.stream("Hi", config=config)) if stream else [llm.invoke("Hi", config=config)]
    attributes = telemetry.span(MODEL_SPAN).attributes or {}
    assert attributes.get("modelforge.response.chunk_count") == (len(chunks) if stream else None)
    (point,) = telemetry.metrics()["gen_ai.client.operation.duration"]
    assert point.count == 1


def test_the_same_callback_passed_twice_creates_one_span(
    registry: ModelForgeRegistry, telemetry: Telemetry, callback: OpenTelemetryCallback
) -> None:
    chunks = list(get_llm(registry, callbacks=[callback, callback]).stream("Hi", config={"callbacks": [callback]}))
    assert chunk_count(telemetry) == len(chunks)


def test_a_callback_passed_to_an_instrumented_model_needs_no_providers(
    registry: ModelForgeRegistry, instrumented: Telemetry
) -> None:
    get_llm(registry, callbacks=[OpenTelemetryCallback("openai", "gpt-4o-mini")]).invoke("Hi")
    attributes = instrumented.span(MODEL_SPAN).attributes or {}
    # The injected callback records more.
    assert attributes["modelforge.llm_type"] == "openai_compatible"


def test_modelforges_own_callback_works_as_before(registry: ModelForgeRegistry, instrument: Instrument) -> None:
    def counts() -> tuple[Any, ...]:
        own = TelemetryCallback("openai", "gpt-4o-mini")
        get_llm(registry, callbacks=[own]).invoke("Hi")
        metrics = own.metrics
        return vars(metrics.token_usage), metrics.estimated_cost, metrics.metadata, metrics.error

    before = counts()
    telemetry = instrument()
    assert counts() == before
    telemetry.span(MODEL_SPAN)


# --- The events that LangChain sends to a run's callbacks ---

Dispatched = Callable[[Any], list[str]]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events that LangChain itself sends to callbacks."""
    events: list[str] = []
    for name in ("handle_event", "ahandle_event"):
        handle = getattr(manager, name)

        def noting(handlers: Any, event: str, *args: Any, handle: Any = handle, **kwargs: Any) -> Any:
            events.append(event)
            return handle(handlers, event, *args, **kwargs)

        monkeypatch.setattr(manager, name, noting)

    return events


@pytest.fixture(params=STREAMS)
def dispatched(request: pytest.FixtureRequest, events: list[str]) -> Dispatched:
    """Stream an answer of the model, and return the events that LangChain itself sent to callbacks."""

    def stream(llm: Any) -> list[str]:
        events.clear()
        ask(llm, request.param)
        return list(events)

    return stream


class Hearing(BaseCallbackHandler):
    """Keeps what it receives for each chunk and at the end."""

    run_inline = True

    def __init__(self) -> None:
        self.heard: list[tuple[Any, set[str]]] = []

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.heard.append((token, set(kwargs)))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.heard.append((type(response), set(kwargs)))


def _chat_openai(registry: ModelForgeRegistry, *, streaming: bool, **kwargs: Any) -> Any:
    """Return a model whose ``invoke`` reads a stream, or one whose ``invoke`` does not."""
    llm = get_llm(registry, **kwargs)
    llm.streaming = streaming
    return llm


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_only_callback_of_a_run_that_a_frame_ends_receives_only_its_start(
    registry: ModelForgeRegistry, instrumented: Telemetry, events: list[str], mode: str, streaming: bool
) -> None:
    ask(get_llm(registry), mode, stream=streaming)
    assert events == ["on_chat_model_start"]
    attributes = instrumented.span(MODEL_SPAN).attributes or {}
    assert attributes["modelforge.outcome"] == "completed"
    assert (attributes.get("modelforge.response.chunk_count", 0) > 1) is streaming


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
@pytest.mark.parametrize("streaming", [False, True])
def test_another_callback_of_such_a_run_receives_the_same_events_as_without_instrumentation(
    registry: ModelForgeRegistry, instrument: Instrument, mode: str, streaming: bool
) -> None:
    def hear() -> list[tuple[Any, set[str]]]:
        hearing = Hearing()
        ask(_chat_openai(registry, streaming=streaming, callbacks=[hearing]), mode)
        return hearing.heard

    before = hear()
    assert before
    instrument()
    assert hear() == before


@pytest.mark.parametrize("mode", ["invoke", "ainvoke"])
def test_a_callback_that_joins_such_a_run_receives_the_events_that_follow(
    registry: ModelForgeRegistry, instrumented: Telemetry, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    hearing = Hearing()
    for name in ("_stream", "_astream"):
        stream = getattr(ChatOpenAI, name)

        def joined(*args: Any, stream: Any = stream, **kwargs: Any) -> Any:
            kwargs["run_manager"].handlers.append(hearing)
            return stream(*args, **kwargs)

        monkeypatch.setattr(ChatOpenAI, name, joined)
    ask(_chat_openai(registry, streaming=True), mode)
    assert len(hearing.heard) > 2
    assert instrumented.span(MODEL_SPAN).status.is_unset


def test_a_chunk_is_passed_directly_to_the_only_callback_of_a_run(
    registry: ModelForgeRegistry, instrumented: Telemetry, dispatched: Dispatched
) -> None:
    assert dispatched(get_llm(registry)) == ["on_chat_model_start", "on_llm_end"]
    assert chunk_count(instrumented) > 1


def test_a_chunk_of_a_run_that_is_not_recorded_is_sent_to_no_callback(
    instrumented: Telemetry, dispatched: Dispatched
) -> None:
    llm = get_llm(InstantRegistry(), "openai", "fast")
    with suppress_instrumentation():
        assert dispatched(llm) == ["on_chat_model_start", "on_llm_end"]
    assert MODEL_SPAN not in span_names(instrumented)


def test_another_callback_still_receives_each_chunk(
    registry: ModelForgeRegistry, instrument: Instrument, dispatched: Dispatched
) -> None:
    def hear() -> list[tuple[Any, set[str]]]:
        hearing = Hearing()
        heard = dispatched(get_llm(registry, callbacks=[hearing]))
        assert heard.count("on_llm_new_token") + heard.count("on_llm_end") == len(hearing.heard)
        return hearing.heard

    before = hear()
    telemetry = instrument()
    assert hear() == before
    assert chunk_count(telemetry) == len(before) - 1


def test_the_only_callback_of_a_run_still_receives_each_chunk_if_it_is_not_ours(
    registry: ModelForgeRegistry, instrument: Instrument, dispatched: Dispatched
) -> None:
    hearing = Hearing()
    llm = get_llm(registry, callbacks=[hearing])
    dispatched(llm)
    before, hearing.heard = hearing.heard, []
    telemetry = instrument()
    dispatched(llm)
    assert hearing.heard == before != []
    assert MODEL_SPAN not in span_names(telemetry)


def test_a_subclass_receives_each_chunk_itself(
    registry: ModelForgeRegistry, telemetry: Telemetry, instrument: Instrument, dispatched: Dispatched
) -> None:
    class Counting(OpenTelemetryCallback):
        heard = 0

        def on_llm_new_token(self, *args: Any, **kwargs: Any) -> None:
            self.heard += 1
            super().on_llm_new_token(*args, **kwargs)

    counting = Counting("openai", "gpt-4o-mini")
    llm = get_llm(registry, callbacks=[counting])
    instrument()
    dispatched(llm)
    assert chunk_count(telemetry) == counting.heard > 1


@pytest.mark.parametrize("handlers", [None, (), []], ids=repr)
def test_a_run_manager_without_handlers_calls_no_callback(instrumented: Telemetry, handlers: Any) -> None:
    given: dict[str, Any] = {"run_id": uuid4(), "handlers": handlers, "inheritable_handlers": []}
    manager.CallbackManagerForLLMRun(**given).on_llm_new_token("Hi")
    asyncio.run(manager.AsyncCallbackManagerForLLMRun(**given).on_llm_new_token(token="Hi"))
    assert instrumented.spans() == []


# --- Copies ---

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "model_copy": lambda llm: llm.model_copy(),
    "deep model_copy": lambda llm: llm.model_copy(deep=True),
    "model_copy with an update": lambda llm: llm.model_copy(update={"name": "copy"}),
    "pickle": lambda llm: pickle.loads(pickle.dumps(llm)),
}


@pytest.mark.parametrize("provider", ["ollama", "github_copilot"])
@pytest.mark.parametrize("how", COPIES)
def test_a_copied_model_still_traces_and_so_does_the_original(
    registry: ModelForgeRegistry, instrumented: Telemetry, provider: str, how: str
) -> None:
    llm = get_llm(registry, provider, MODELS[provider])
    created = instrumented.span("modelforge.get_llm")
    duplicate = COPIES[how](llm)
    assert type(duplicate) is type(llm)
    for model in (duplicate, llm):
        assert model.invoke("Hi").content == "Hello there friend"
    one, two = (span for span in instrumented.spans() if span.name == MODEL_SPAN)
    usage = {"gen_ai.response.id", "gen_ai.response.time_to_first_chunk"}
    assert {k: v for k, v in (one.attributes or {}).items() if k not in usage} == {
        k: v for k, v in (two.attributes or {}).items() if k not in usage
    }
    for span in (one, two):
        assert [link.context.span_id for link in span.links] == [created.context.span_id]


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("enhanced", [False, True], ids=["plain", "enhanced"])
def test_copying_an_instrumented_model_succeeds_or_fails_as_without_instrumentation(
    registry: ModelForgeRegistry, instrument: Instrument, provider: str, how: str, enhanced: bool
) -> None:
    def outcome() -> tuple[type, str]:
        llm = get_llm(registry, provider, MODELS[provider], enhanced=enhanced)
        try:
            return type(COPIES[how](llm)), ""
        except Exception as error:
            return type(error), str(error)

    before = outcome()
    instrument()
    assert outcome() == before


def test_a_callback_can_be_pickled_without_its_credentials(
    registry: ModelForgeRegistry, instrumented: Telemetry
) -> None:
    llm = get_llm(registry)
    (callback,) = llm.callbacks  # type: ignore[union-attr, misc]
    data = pickle.dumps(callback)
    assert OPENAI_KEY.encode() not in data
    again = pickle.loads(data)
    llm.callbacks = [again]
    llm.invoke("Hi")
    attributes = instrumented.span(MODEL_SPAN).attributes or {}
    assert attributes["modelforge.llm_type"] == "openai_compatible"
    assert attributes["server.address"] == "127.0.0.1"


def test_a_callback_passed_by_hand_can_be_pickled_despite_its_providers(callback: OpenTelemetryCallback) -> None:
    again = pickle.loads(pickle.dumps(callback))
    assert isinstance(again, OpenTelemetryCallback)
    # Nothing records where it is unpickled.
    assert not again.otel_enabled


def test_a_pickled_model_works_and_records_nothing_after_uninstrumenting(
    registry: ModelForgeRegistry, instrumented: Telemetry
) -> None:
    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    data = pickle.dumps(get_llm(registry, "ollama", "llama3"))
    ModelForgeInstrumentor().uninstrument()
    assert pickle.loads(data).invoke("Hi").content == "Hello there friend"
    assert "langchain.llm.invoke" not in span_names(instrumented)


def _spans_elsewhere(llm: Any) -> list[tuple[str, str, str, list[str]]]:
    """Run in a spawned process: call the model there without, and then with instrumentation."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    silent = llm.invoke("Hi").content
    assert not exporter.get_finished_spans()
    ModelForgeInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    spoken = llm.invoke("Hi").content
    return [
        (silent, spoken, span.name, [format(link.context.span_id, "x") for link in span.links])
        for span in exporter.get_finished_spans()
    ]


def test_a_model_sent_to_another_process_is_traced_there(registry: ModelForgeRegistry, instrumented: Telemetry) -> None:
    llm = get_llm(registry, "ollama", "llama3")
    created = format(instrumented.span("modelforge.get_llm").context.span_id, "x")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answer = "Hello there friend"
        assert pool.apply(_spans_elsewhere, (llm,)) == [(answer, answer, MODEL_SPAN, [created])]


# --- Hooks ---


def test_the_request_hook_receives_the_span_the_messages_and_the_parameters(
    registry: ModelForgeRegistry, instrument: Instrument
) -> None:
    calls: list[tuple[list[BaseMessage], dict[str, Any]]] = []

    def hook(span: Any, messages: list[BaseMessage], params: dict[str, Any]) -> None:
        span.set_attribute("hooked", True)
        calls.append((messages, params))

    telemetry = instrument(request_hook=hook)
    get_llm(registry).invoke("Hi", temperature=0.5)
    ((messages, params),) = calls
    assert messages == [HumanMessage("Hi")]
    assert params["model"] == "gpt-4o-mini"
    assert params["temperature"] == 0.5
    assert OPENAI_KEY not in str(params)
    assert (telemetry.span(MODEL_SPAN).attributes or {})["hooked"] is True


def test_changes_of_the_request_hook_to_its_arguments_do_not_affect_the_request(
    registry: ModelForgeRegistry, instrument: Instrument, provider_server: Any
) -> None:
    def hook(span: Any, messages: list[BaseMessage], params: dict[str, Any]) -> None:
        messages.clear()
        params.clear()

    instrument(request_hook=hook)
    get_llm(registry).invoke("Hi")
    assert provider_server.request.body["messages"] == [{"role": "user", "content": "Hi"}]
    assert provider_server.request.body["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("call", [lambda llm: llm.invoke("Hi"), lambda llm: list(llm.stream("Hi"))])
def test_the_response_hook_receives_the_span_and_the_result_before_the_span_ends(
    registry: ModelForgeRegistry, instrument: Instrument, call: Callable[[Any], Any]
) -> None:
    results: list[LLMResult] = []

    def hook(span: Any, result: LLMResult) -> None:
        assert span.is_recording()
        span.set_attribute("hooked", True)
        results.append(result)

    telemetry = instrument(response_hook=hook)
    call(get_llm(registry))
    (result,) = results
    assert isinstance(result, LLMResult)
    assert [[generation.text for generation in prompt] for prompt in result.generations] == [["Hello there friend"]]
    assert (telemetry.span(MODEL_SPAN).attributes or {})["hooked"] is True


def test_the_time_that_hooks_take_is_not_the_calls(registry: ModelForgeRegistry, instrument: Instrument) -> None:
    called: list[int] = []
    telemetry = instrument(response_hook=lambda span, result: called.append(time.time_ns()))
    get_llm(registry).invoke("Hi")
    (called_at,) = called
    assert (telemetry.span(MODEL_SPAN).end_time or 0) <= called_at


@pytest.mark.parametrize("mode", MODES)
def test_a_call_that_has_ended_is_released_without_a_garbage_collection(
    registry: ModelForgeRegistry, instrument: Instrument, mode: str
) -> None:
    instrument()
    llm = get_llm(registry)
    ask(llm, mode)
    gc.collect()
    gc.disable()
    try:
        before = sum(type(found) is Inference for found in gc.get_objects())
        ask(llm, mode)
        assert sum(type(found) is Inference for found in gc.get_objects()) <= before
    finally:
        gc.enable()


def test_the_response_hook_is_called_once_for_each_prompt(registry: ModelForgeRegistry, instrument: Instrument) -> None:
    results: list[LLMResult] = []
    instrument(response_hook=lambda span, result: results.append(result))
    get_llm(registry).generate([[HumanMessage("Hi")], [HumanMessage("Ho")]])
    assert [len(result.generations) for result in results] == [1, 1]


@pytest.mark.parametrize("name", ["request_hook", "response_hook"])
@pytest.mark.parametrize("call", [lambda llm: [llm.invoke("Hi")], lambda llm: list(llm.stream("Hi"))])
def test_a_hook_that_raises_changes_nothing(
    registry: ModelForgeRegistry,
    instrument: Instrument,
    caplog: pytest.LogCaptureFixture,
    name: str,
    call: Callable[[Any], list[Any]],
) -> None:
    def hook(*args: Any) -> None:
        raise RuntimeError("a bad hook")

    telemetry = instrument(**{name: hook})
    caplog.set_level("DEBUG", "opentelemetry_instrumentation_modelforge")
    assert "".join(chunk.content for chunk in call(get_llm(registry))) == "Hello there friend"
    assert (telemetry.span(MODEL_SPAN).attributes or {})["modelforge.outcome"] == "completed"
    (message,) = [text for text in caplog.messages if text.startswith("Telemetry fault")]
    assert message.startswith(f"Telemetry fault while calling the {name}; the application is not affected\nTraceback")
    assert message.endswith("\nRuntimeError")
    caplog.clear()


def test_an_interrupt_in_a_hook_reaches_the_application(registry: ModelForgeRegistry, instrument: Instrument) -> None:
    def hook(*args: Any) -> None:
        raise KeyboardInterrupt

    telemetry = instrument(request_hook=hook)
    llm = get_llm(registry)
    with pytest.raises(KeyboardInterrupt):
        llm.invoke("Hi")
    assert (telemetry.span(MODEL_SPAN).attributes or {})["error.type"] == "KeyboardInterrupt"
