# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The effect of each option on a call's telemetry, and on nothing else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from modelforge import ModelForgeRegistry
from opentelemetry._logs import SeverityNumber
from pydantic import BaseModel

from support.calls import MODEL_SPAN, MODELS, MODES, STREAMS, ask, chain, model_spans
from support.models import get_llm, without_retries, write_price
from support.providers import ProviderServer, Reply
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")

Instrument = Callable[..., Telemetry]

IN = "gen_ai.usage.input_tokens"
AMOUNT = "gen_ai.usage.cost.amount"
TOKENS = "gen_ai.client.token.usage"
COST = "gen_ai.client.operation.cost"
DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
NEXT_CHUNK = "gen_ai.client.operation.time_per_output_chunk"
STREAM_COUNT = "modelforge.client.active_streams"

PRICES = {"input": 2, "output": 8, "cache_read": 0.5}
# 4 of 11 input tokens are cached.
PRICE = (7 * 2 + 4 * 0.5 + 7 * 8) / 1e6
ASKED = {"include_usage": True}


@pytest.fixture
def priced(registry: ModelForgeRegistry) -> ModelForgeRegistry:
    write_price("openai", "gpt-4o-mini", PRICES)
    return registry


def said(telemetry: Telemetry) -> dict[str, Any]:
    return dict(telemetry.span(MODEL_SPAN).attributes or {})


def model_requests(server: ProviderServer) -> list[dict[str, Any]]:
    """Return the bodies of the requests to models, without those to models.dev."""
    return [request.body for request in server.requests if request.body]


# --- stream_usage ---


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("enhanced", [False, True])
def test_a_streams_cost_is_recorded_if_usage_is_requested(
    instrument: Instrument, priced: ModelForgeRegistry, provider_server: ProviderServer, mode: str, enhanced: bool
) -> None:
    telemetry = instrument(stream_usage=True)
    ask(get_llm(priced, enhanced=enhanced), mode)
    (body,) = model_requests(provider_server)
    assert body["stream_options"] == ASKED
    attributes = said(telemetry)
    assert attributes[IN] == 11
    assert attributes["gen_ai.usage.output_tokens"] == 7
    assert "modelforge.usage.estimated" not in attributes
    assert attributes[AMOUNT] == pytest.approx(PRICE)
    assert attributes["gen_ai.usage.cost.source"] == "local"
    metrics = telemetry.metrics()
    assert sorted(point.sum for point in metrics[TOKENS]) == [7, 11]
    assert [point.sum for point in metrics[COST]] == [pytest.approx(PRICE)]


def test_usage_can_be_requested_by_environment_variable(
    instrument: Instrument,
    registry: ModelForgeRegistry,
    provider_server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_PYTHON_MODELFORGE_STREAM_USAGE", "true")
    instrument()
    list(get_llm(registry).stream("Hi"))
    assert provider_server.request.body["stream_options"] == ASKED


def stop_later(llm: Any) -> Any:
    llm.stream_usage = False
    return llm


def decide_by_model_kwargs(llm: Any) -> Any:
    llm.model_kwargs = {"stream_options": {"include_usage": False}}
    return llm


DECIDED: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "by the call": (lambda llm: llm, {"stream_usage": False}),
    "by the call's options": (lambda llm: llm, {"stream_options": {"include_usage": False}}),
    "by bind": (lambda llm: llm.bind(stream_usage=False), {}),
    "by model_kwargs": (decide_by_model_kwargs, {}),
    "later, on the model": (stop_later, {}),
    "on a copy": (lambda llm: llm.model_copy(update={"stream_usage": False}), {}),
}


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("how", DECIDED)
def test_an_application_that_declines_usage_is_not_overruled(
    instrument: Instrument, registry: ModelForgeRegistry, provider_server: ProviderServer, how: str, mode: str
) -> None:
    decide, kwargs = DECIDED[how]

    def bodies() -> list[dict[str, Any]]:
        before = len(model_requests(provider_server))
        ask(decide(get_llm(registry)), mode, **kwargs)
        return model_requests(provider_server)[before:]

    uninstrumented = bodies()
    telemetry = instrument(stream_usage=True)
    assert bodies() == uninstrumented
    assert "include_usage': True" not in str(uninstrumented)
    assert said(telemetry)["modelforge.usage.estimated"] is True
    assert TOKENS not in telemetry.metrics()


@pytest.mark.parametrize(
    ("option", "provider", "mode"),
    [
        *(({}, "openai", mode) for mode in MODES),
        *(({"stream_usage": False}, "openai", mode) for mode in MODES),
        *(({"stream_usage": True}, "openai", mode) for mode in ("invoke", "ainvoke")),
        *(({"stream_usage": True}, provider, mode) for provider in MODELS if provider != "openai" for mode in STREAMS),
    ],
)
def test_by_default_the_request_is_as_without_instrumentation(
    instrument: Instrument,
    registry: ModelForgeRegistry,
    provider_server: ProviderServer,
    option: dict[str, Any],
    provider: str,
    mode: str,
) -> None:
    def bodies() -> list[dict[str, Any]]:
        before = len(model_requests(provider_server))
        ask(get_llm(registry, provider, MODELS[provider]), mode)
        return model_requests(provider_server)[before:]

    uninstrumented = bodies()
    assert len(uninstrumented) == 1
    instrument(**option)
    assert bodies() == uninstrumented


def test_the_error_of_a_server_that_rejects_stream_options_reaches_the_application(
    instrument: Instrument, registry: ModelForgeRegistry, provider_server: ProviderServer
) -> None:
    def reply(body: dict[str, Any]) -> Reply:
        return Reply(status=400 if "stream_options" in body else 200)

    provider_server.reply = reply
    telemetry = instrument(stream_usage=True)
    llm: Any = without_retries(get_llm(registry))
    with pytest.raises(Exception, match="Bad Request"):
        list(llm.stream("Hi"))
    assert said(telemetry)["error.type"] == "openai.BadRequestError"
    assert llm.invoke("Hi").content == "Hello there friend"


class City(BaseModel):
    """A city."""

    name: str


COPIES: dict[str, Callable[[Any], Any]] = {
    "model_copy": lambda llm: llm.model_copy(),
    "model_copy with an update": lambda llm: llm.model_copy(update={"temperature": 0.5}),
    "copy": copy.copy,
    "bind": lambda llm: llm.bind(temperature=0.5),
    "with_config": lambda llm: llm.with_config({"tags": ["one"]}),
    "bind_tools": lambda llm: llm.bind_tools([City]),
    "with_structured_output": lambda llm: llm.with_structured_output(City, method="json_schema"),
    "with_retry": lambda llm: llm.with_retry(),
    "a chain": chain,
}


@pytest.mark.parametrize("mode", STREAMS)
@pytest.mark.parametrize("how", COPIES)
def test_runnables_built_from_a_model_request_usage_too(
    instrument: Instrument, priced: ModelForgeRegistry, provider_server: ProviderServer, how: str, mode: str
) -> None:
    telemetry = instrument(stream_usage=True)
    ask(COPIES[how](get_llm(priced)), mode, {"topic": "bears"} if how == "a chain" else "Hi")
    (body,) = model_requests(provider_server)
    assert body["stream_options"] == ASKED
    assert said(telemetry)[IN] == 11
    assert said(telemetry)[AMOUNT] == pytest.approx(PRICE)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda llm: pickle.loads(pickle.dumps(llm))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("mode", MODES)
def test_a_deep_copy_of_a_model_records_its_own_answers(
    instrument: Instrument, registry: ModelForgeRegistry, how: Callable[[Any], Any], mode: str
) -> None:
    telemetry = instrument(stream_usage=True, metadata_keys=["tenant"])
    ask(how(get_llm(registry, "ollama", "llama3")), mode, config={"metadata": {"tenant": "acme"}})
    attributes = said(telemetry)
    assert attributes[IN] == 11
    assert attributes["tenant"] == "acme"
    assert attributes["modelforge.outcome"] == "completed"


# --- Metadata, tags and run names ---

CONFIG = {
    "metadata": {
        "user_id": "u-17",
        "step": 3,
        "share": 0.5,
        "beta": True,
        "regions": ["eu", "us"],
        "request": UUID(int=5),
        "unwanted": "no",
        "nested": {"a": 1},
        "mixed": ["a", 1],
        "empty": None,
    },
    "tags": ["first", "second"],
    "run_name": "greeting",
}
NAMED = ["user_id", "step", "share", "beta", "regions", "request", "nested", "mixed", "empty", "absent"]
COPIED = {
    "user_id": "u-17",
    "step": 3,
    "share": 0.5,
    "beta": True,
    "regions": ("eu", "us"),
    "request": "00000000-0000-0000-0000-000000000005",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("provider", MODELS)
def test_requested_metadata_tags_and_run_names_are_on_the_model_span(
    instrument: Instrument, registry: ModelForgeRegistry, provider: str, mode: str
) -> None:
    telemetry = instrument(metadata_keys=[*NAMED, "tags", "run_name"])
    ask(get_llm(registry, provider, MODELS[provider]), mode, config=CONFIG)
    attributes = said(telemetry)
    found = {name: value for name, value in attributes.items() if name in (*NAMED, "unwanted", "tags", "run_name")}
    assert found == COPIED
    assert {name: type(value) for name, value in found.items()} == {name: type(v) for name, v in COPIED.items()}
    assert attributes["modelforge.tags"] == ("first", "second")
    assert attributes["modelforge.run_name"] == "greeting"
    # Neither on the get_llm span, which has no run, nor on a metric, to which each value would add a series.
    assert not set(COPIED) & set(telemetry.span("modelforge.get_llm").attributes or {})
    for points in telemetry.metrics().values():
        for point in points:
            assert not (set(COPIED) | {"modelforge.tags", "modelforge.run_name"}) & set(point.attributes)


@pytest.mark.parametrize("mode", MODES)
def test_by_default_a_runs_metadata_tags_and_name_are_not_recorded(
    instrumented: Telemetry, registry: ModelForgeRegistry, mode: str
) -> None:
    ask(get_llm(registry), mode, config=CONFIG)
    everything = instrumented.span(MODEL_SPAN).to_json() + str(instrumented.metrics())
    for text in ("u-17", "second", "greeting", "regions"):
        assert text not in everything


@pytest.mark.parametrize("mode", MODES)
def test_requested_metadata_is_on_every_metric_of_a_call(
    instrument: Instrument, registry: ModelForgeRegistry, mode: str
) -> None:
    telemetry = instrument(metric_metadata_keys=["user_id", "tags", "run_name", "absent"], stream_usage=True)
    ask(get_llm(registry), mode, config=CONFIG)
    get_llm(registry).invoke("Hi", config={"metadata": {"user_id": "u-18"}})
    metrics = telemetry.metrics()
    streaming = {FIRST_CHUNK, NEXT_CHUNK, STREAM_COUNT} if mode in STREAMS else set()
    assert set(metrics) == {DURATION, TOKENS, COST} | streaming
    for name, points in metrics.items():
        of_first = [point for point in points if point.attributes.get("user_id") == "u-17"]
        assert of_first, name
        for point in of_first:
            assert point.attributes["modelforge.tags"] == ("first", "second")
            assert point.attributes["modelforge.run_name"] == "greeting"
        assert {point.attributes["user_id"] for point in points} <= {"u-17", "u-18"}
    assert "user_id" not in (model_spans(telemetry.spans())[0].attributes or {})


def test_metadata_of_a_model_and_of_a_chain_is_recorded_too(
    instrument: Instrument, registry: ModelForgeRegistry
) -> None:
    telemetry = instrument(metadata_keys=["tenant", "user_id", "tags"])
    llm: Any = get_llm(registry)
    llm.metadata = {"tenant": "acme"}
    llm.tags = ["of the model"]
    chain(llm).invoke({"topic": "bears"}, config={"metadata": {"user_id": "u-17"}, "tags": ["of the chain"]})
    attributes = said(telemetry)
    assert (attributes["tenant"], attributes["user_id"]) == ("acme", "u-17")
    assert {"of the model", "of the chain"} <= set(attributes["modelforge.tags"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("enhanced", [False, True])
def test_the_request_hook_receives_metadata_tags_and_the_runs_name(
    instrument: Instrument, registry: ModelForgeRegistry, mode: str, enhanced: bool
) -> None:
    seen: list[dict[str, Any]] = []
    instrument(request_hook=lambda span, messages, parameters: seen.append(parameters))
    llm = get_llm(registry, enhanced=enhanced)
    ask(llm, mode, config={"metadata": {"user_id": "u-17"}, "tags": ["first"], "run_name": "greeting"})
    (parameters,) = seen
    assert parameters["metadata"]["user_id"] == "u-17"
    assert parameters["tags"] == ["first"]
    assert parameters["run_name"] == "greeting"


# --- Less and more telemetry ---


@pytest.mark.parametrize("mode", STREAMS)
def test_the_time_between_chunks_can_be_left_out(
    instrument: Instrument, registry: ModelForgeRegistry, mode: str
) -> None:
    telemetry = instrument(chunk_metrics=False, stream_usage=True)
    chunks = ask(get_llm(registry), mode)
    metrics = telemetry.metrics()
    assert set(metrics) == {DURATION, TOKENS, COST, FIRST_CHUNK, STREAM_COUNT}
    assert [point.count for point in metrics[FIRST_CHUNK]] == [1]
    attributes = said(telemetry)
    assert attributes["modelforge.response.chunk_count"] == len(chunks)
    assert attributes["gen_ai.response.time_to_first_chunk"] > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("status", [200, 500])
def test_the_details_event_is_for_debugging(
    instrument: Instrument,
    registry: ModelForgeRegistry,
    provider_server: ProviderServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    mode: str,
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "true")
    telemetry = instrument()
    provider_server.reply = Reply(status=status)
    llm = without_retries(get_llm(registry))
    if status == 200:
        ask(llm, mode)
    else:
        with pytest.raises(Exception, match="Internal Server Error"):
            ask(llm, mode)
    (record,) = telemetry.logs()
    event = record.log_record
    assert event.event_name == "gen_ai.client.inference.operation.details"
    assert event.severity_number is SeverityNumber.DEBUG
    attributes = dict(event.attributes or {})
    assert None not in attributes.values()
    assert attributes["gen_ai.response.finish_reasons"] == (("stop",) if status == 200 else ("error",))
    assert attributes.items() >= {"gen_ai.request.model": "gpt-4o-mini", "modelforge.provider": "openai"}.items()


# --- EnhancedLLM ---


@pytest.mark.parametrize("mode", MODES)
def test_an_enhanced_models_call_is_recorded_like_any_other(
    instrument: Instrument, registry: ModelForgeRegistry, provider_server: ProviderServer, mode: str
) -> None:
    provider_server.reply = Reply(cost=0.0042)
    telemetry = instrument(stream_usage=True)
    for enhanced in (False, True):
        ask(get_llm(registry, enhanced=enhanced), mode)
    plain, enhanced_too = (dict(span.attributes or {}) for span in model_spans(telemetry.spans()))
    changing = {"gen_ai.response.time_to_first_chunk"}
    assert {k: v for k, v in plain.items() if k not in changing} == {
        k: v for k, v in enhanced_too.items() if k not in changing
    }
    assert plain[AMOUNT] == 0.0042
    assert plain["gen_ai.usage.cost.source"] == "provider"
    assert plain["gen_ai.response.id"] == "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWx"
    assert plain["openai.response.system_fingerprint"] == "fp_0123456789"
    assert plain["openai.api.type"] == "chat_completions"
