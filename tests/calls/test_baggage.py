# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Requested baggage entries are on the spans and metrics of the request that carried them, and on no others."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import baggage, context
from opentelemetry.baggage.propagation import W3CBaggagePropagator

from support.models import get_llm
from support.telemetry import Telemetry

SPANS = ("modelforge.get_llm", "langchain.llm.invoke")


@contextmanager
def entries(**values: str) -> Iterator[None]:
    current = context.get_current()
    for key, value in values.items():
        current = baggage.set_baggage(key.replace("_", "."), value, current)
    token = context.attach(current)
    try:
        yield
    finally:
        context.detach(token)


def test_nothing_is_copied_by_default(instrumented: Telemetry, registry: Any) -> None:
    with entries(user_id="ada"):
        get_llm(registry, "openai", "gpt-4o-mini").invoke("Hi")
    assert not any("user.id" in span.attributes for span in instrumented.spans() if span.name in SPANS)


def test_requested_entries_are_on_both_spans_and_on_no_metric(
    instrument: Callable[..., Telemetry], registry: Any
) -> None:
    telemetry = instrument(baggage_keys=["user.id", "tenant", "absent"])
    with entries(user_id="ada", tenant="acme", other="x"):
        get_llm(registry, "openai", "gpt-4o-mini").invoke("Hi")
    for name in SPANS:
        attributes = telemetry.span(name).attributes
        assert (attributes["user.id"], attributes["tenant"]) == ("ada", "acme")
        assert not {"absent", "other"} & set(attributes)
    for points in telemetry.metrics().values():
        assert not any({"user.id", "tenant"} & set(point.attributes) for point in points)


def test_metrics_carry_the_entries_requested_for_them(instrument: Callable[..., Telemetry], registry: Any) -> None:
    telemetry = instrument(metric_baggage_keys=["tenant"])
    with entries(user_id="ada", tenant="acme"):
        list(get_llm(registry, "openai", "gpt-4o-mini").stream("Hi"))
    metrics = {name: points for name, points in telemetry.metrics().items() if not name.startswith("http")}
    assert len(metrics) == 4
    for points in metrics.values():
        assert {point.attributes["tenant"] for point in points} == {"acme"}
    assert "tenant" not in telemetry.span("langchain.llm.invoke").attributes


@pytest.mark.parametrize("way", ["ainvoke", "astream", "batch", "abatch", "thread"])
def test_an_entry_of_a_w3c_header_is_recorded_for_its_request(
    way: str, instrument: Callable[..., Telemetry], registry: Any
) -> None:
    telemetry = instrument(baggage_keys=["user.id"])
    llm = get_llm(registry, "openai", "gpt-4o-mini")

    async def serve() -> None:
        if way == "ainvoke":
            await asyncio.create_task(llm.ainvoke("Hi"))
        elif way == "astream":
            async for _ in llm.astream("Hi"):
                pass
        elif way == "abatch":
            await llm.abatch(["Hi", "Ho"])
        elif way == "batch":
            await asyncio.to_thread(llm.batch, ["Hi", "Ho"])
        else:
            with ThreadPoolExecutor() as pool:
                pool.submit(copy_context().run, llm.invoke, "Hi").result()

    token = context.attach(W3CBaggagePropagator().extract({"baggage": "user.id=ada%20l,tenant=acme"}))
    try:
        asyncio.run(serve())
    finally:
        context.detach(token)
    calls = [span for span in telemetry.spans() if span.name == "langchain.llm.invoke"]
    assert len(calls) == (2 if "batch" in way else 1)
    assert {span.attributes["user.id"] for span in calls} == {"ada l"}


def test_entries_of_concurrent_requests_never_mix(instrument: Callable[..., Telemetry], registry: Any) -> None:
    telemetry = instrument(baggage_keys=["user.id"], metric_baggage_keys=["user.id"])
    llm = get_llm(registry, "openai", "gpt-4o-mini")

    async def request(user: str) -> None:
        with entries(user_id=user), telemetry.tracer.start_as_current_span(user):
            await asyncio.gather(llm.ainvoke("Hi"), consume(user))

    async def consume(user: str) -> None:
        async for _ in llm.astream("Ho"):
            await asyncio.sleep(0)

    async def serve() -> None:
        await asyncio.gather(*(request(f"user-{number}") for number in range(64)))

    asyncio.run(serve())
    users = {span.context.span_id: span.name for span in telemetry.spans() if span.name.startswith("user-")}
    calls = [span for span in telemetry.spans() if span.name == "langchain.llm.invoke"]
    assert len(calls) == 128
    for span in calls:
        assert span.attributes["user.id"] == users[span.parent.span_id]
    counts = {
        point.attributes["user.id"]: point.count for point in telemetry.metrics()["gen_ai.client.operation.duration"]
    }
    assert counts == {f"user-{number}": 2 for number in range(64)}
