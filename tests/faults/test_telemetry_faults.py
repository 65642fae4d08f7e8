# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Faults of OpenTelemetry, its processors, exporters and providers, none of which affects the application."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
from langchain_core.messages import HumanMessage
from modelforge import ModelForgeRegistry
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
from opentelemetry_instrumentation_modelforge.call import open_calls
from support.models import get_llm, without_retries
from support.providers import ProviderServer, Reply


class Broken(Exception):
    """The exception raised by the broken parts of OpenTelemetry."""


def broken(*args: Any, **kwargs: Any) -> Any:
    raise Broken


class BrokenStart(SpanProcessor):
    on_start = broken


class BrokenEnd(SpanProcessor):
    on_end = broken


class BrokenExporter(SpanExporter):
    export = broken


class BrokenSampler(Sampler):
    should_sample = broken

    def get_description(self) -> str:
        return "broken"


def with_processor(processor: SpanProcessor) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


class Answers(trace.TracerProvider):
    """A provider whose tracer is `tracer`."""

    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._tracer, Exception):
            raise self._tracer
        return self._tracer


class Rubbish:
    """Has every attribute that is accessed, as a function that raises."""

    def __getattr__(self, name: str) -> Any:
        return broken


def span_whose(method: str) -> Any:
    """A tracer whose spans have one method that raises."""

    class Tracer:
        def start_span(self, *args: Any, **kwargs: Any) -> Any:
            span = with_processor(SimpleSpanProcessor(mock.Mock())).get_tracer("tests").start_span("name")
            setattr(span, method, broken)
            return span

    return Tracer()


class UnhashableProvider(TracerProvider):
    __hash__ = None  # type: ignore[assignment]


TRACER_PROVIDERS: dict[str, Callable[[], Any]] = {
    "a processor that raises at the start": lambda: with_processor(BrokenStart()),
    "a processor that raises at the end": lambda: with_processor(BrokenEnd()),
    "an exporter that raises": lambda: with_processor(SimpleSpanProcessor(BrokenExporter())),
    "a sampler that raises": lambda: TracerProvider(sampler=BrokenSampler(), shutdown_on_exit=False),
    "a provider that raises": lambda: Answers(Broken()),
    "a provider that cannot be hashed": UnhashableProvider,
    "no tracer": lambda: Answers(None),
    "a tracer that raises": lambda: Answers(Rubbish()),
    "no span": lambda: Answers(mock.Mock(start_span=lambda *args, **kwargs: None)),
    "a span that raises": lambda: Answers(mock.Mock(start_span=lambda *args, **kwargs: Rubbish())),
    "no provider at all": object,
    **{
        f"a span whose {method} raises": lambda method=method: Answers(span_whose(method))
        for method in (
            "set_attribute",
            "set_attributes",
            "set_status",
            "add_event",
            "is_recording",
            "get_span_context",
            "end",
        )
    },
}


def meter_provider_whose(method: str) -> Any:
    provider = MeterProvider(shutdown_on_exit=False)
    meter = provider.get_meter("broken")
    instrument = mock.Mock(record=broken, add=broken)
    return mock.Mock(
        get_meter=lambda *args, **kwargs: mock.Mock(
            wraps=meter,
            create_histogram=broken if method == "create" else lambda *a, **k: instrument,
            create_up_down_counter=broken if method == "create" else lambda *a, **k: instrument,
        )
    )


METER_PROVIDERS: dict[str, Callable[[], Any]] = {
    "instruments that raise": lambda: meter_provider_whose("record"),
    "a meter that raises": lambda: meter_provider_whose("create"),
    "a provider that raises": Rubbish,
    "no provider at all": object,
}


async def _collect(stream: Any) -> str:
    return "".join([chunk.content async for chunk in stream])


CALLS: dict[str, Callable[[Any], Any]] = {
    "invoke": lambda llm: llm.invoke("Hi").content,
    "stream": lambda llm: "".join(chunk.content for chunk in llm.stream("Hi")),
    "generate": lambda llm: [prompt[0].text for prompt in llm.generate([[HumanMessage("Hi")]] * 2).generations],
    "ainvoke": lambda llm: asyncio.run(llm.ainvoke("Hi")).content,
    "astream": lambda llm: asyncio.run(_collect(llm.astream("Hi"))),
}


ENHANCED = "enhanced" in inspect.signature(ModelForgeRegistry.get_llm).parameters


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the type and the message of its exception."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def everything(registry: ModelForgeRegistry, server: ProviderServer) -> dict[str, Any]:
    """Return what an application sees: answers, errors, requests sent, and the span that is current afterwards."""
    seen: dict[str, Any] = {}
    before = len(server.requests)
    for enhanced in (False, True) if ENHANCED else (False,):
        llm = without_retries(get_llm(registry, enhanced=enhanced))
        for name, call in CALLS.items():
            for reply in (Reply(), Reply(status=500), Reply(cut_after=1)):
                server.reply = reply
                seen[f"{name} {reply.status} {reply.cut_after} {enhanced}"] = outcome(partial(call, llm))
        stream = llm.stream("Hi")
        next(stream)
        stream.close()
    seen["unknown"] = outcome(lambda: get_llm(registry, "openai", "gpt-9"))
    seen["requests"] = len(server.requests) - before
    seen["current"] = trace.get_current_span()
    return seen


@pytest.mark.parametrize("fault", [*TRACER_PROVIDERS, *(f"metrics: {name}" for name in METER_PROVIDERS)])
def test_the_application_sees_the_same_as_uninstrumented(
    registry: ModelForgeRegistry, provider_server: ProviderServer, fault: str
) -> None:
    get_llm(registry, enhanced=ENHANCED)  # This fills ModelForge's cache of models.dev.
    before = everything(registry, provider_server)
    if fault in TRACER_PROVIDERS:
        providers = {"tracer_provider": TRACER_PROVIDERS[fault]()}
    else:
        providers = {"meter_provider": METER_PROVIDERS[fault.removeprefix("metrics: ")]()}
    ModelForgeInstrumentor().instrument(skip_dep_check=True, **providers)
    try:
        after = everything(registry, provider_server)
        left, _ = list(open_calls), open_calls.clear()
    finally:
        ModelForgeInstrumentor().uninstrument()
    assert after == before
    assert left == []


def test_a_fault_is_logged_with_its_traceback(registry: ModelForgeRegistry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "opentelemetry_instrumentation_modelforge")
    ModelForgeInstrumentor().instrument(tracer_provider=with_processor(BrokenStart()), skip_dep_check=True)
    try:
        get_llm(registry)
    finally:
        ModelForgeInstrumentor().uninstrument()
    (record,) = (record for record in caplog.records if "get_llm span" in record.getMessage())
    # The stack and the type are logged, without the fault's own message, which may quote the application's data.
    assert record.exc_info is None
    lines = record.getMessage().splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1].endswith("Broken")


def test_a_broken_processor_does_not_prevent_the_others_from_receiving_spans(
    registry: ModelForgeRegistry, tracer_provider: TracerProvider, span_exporter: Any
) -> None:
    tracer_provider.add_span_processor(BrokenEnd())
    ModelForgeInstrumentor().instrument(tracer_provider=tracer_provider, skip_dep_check=True)
    try:
        get_llm(registry).invoke("Hi")
    finally:
        ModelForgeInstrumentor().uninstrument()
    spans: tuple[ReadableSpan, ...] = span_exporter.get_finished_spans()
    assert [span.name for span in spans] == ["modelforge.get_llm", "langchain.llm.invoke"]


def test_broken_metrics_do_not_affect_the_span(
    registry: ModelForgeRegistry, tracer_provider: TracerProvider, span_exporter: Any
) -> None:
    ModelForgeInstrumentor().instrument(
        tracer_provider=tracer_provider, meter_provider=meter_provider_whose("record"), skip_dep_check=True
    )
    try:
        get_llm(registry).invoke("Hi")
    finally:
        ModelForgeInstrumentor().uninstrument()
    assert "langchain.llm.invoke" in [span.name for span in span_exporter.get_finished_spans()]
