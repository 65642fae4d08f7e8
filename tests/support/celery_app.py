# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The Celery application that the worker and the producer of test_celery.py import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.signals import worker_process_shutdown
from kombu.transport.sqlalchemy import Transport
from opentelemetry import baggage, context, metrics, trace

from celery import Celery, chord, group

TIMEOUT = 120
"""Seconds to wait for something that happens soon, unless the test is about to fail."""
RECYCLED = "recycled"
"""The queue of the worker whose children run one task each."""

# The default is one second, and no option changes it.
Transport.polling_interval = 0.05

app = Celery("celery_app")
# A worker imports these before it forks, so that neither its children nor the producer must.
app.conf.imports = ("modelforge.registry", "openai", "genai_prices")
app.conf.result_chord_retry_interval = 0.1

tracer = trace.get_tracer(__name__)


def _ask(text: str) -> str:
    from modelforge import ModelForgeRegistry

    # In an older SDK, the resource is that of the forking process.
    trace.get_current_span().set_attribute("pid", os.getpid())
    # The client's own retries would be in one model span.
    llm: Any = ModelForgeRegistry().get_llm("openai", "gpt-4o-mini")
    getattr(llm, "_wrapped_llm", llm).root_client.max_retries = 0
    return llm.invoke(text).content


@app.task
def ask(text: str) -> str:
    return _ask(text)


@app.task(autoretry_for=(Exception,), default_retry_delay=0, max_retries=2)
def persist(text: str) -> str:
    return _ask(text)


@app.task
def summarize(answers: list[str]) -> str:
    return _ask(" ".join(answers))


@worker_process_shutdown.connect
def flush(**_: object) -> None:
    providers: tuple[Any, ...] = (trace.get_tracer_provider(), metrics.get_meter_provider())
    for provider in providers:
        provider.force_flush(timeout_millis=5_000)


def produce() -> None:
    """Give the workers tasks, each kind under its own span and therefore in its own trace."""
    with _request("recycled"):
        # It is awaited last, because replacing a child takes time.
        recycled = group(ask.s(f"Hi {number}").set(queue=RECYCLED) for number in range(2))()
    with _request("single"):
        _get(ask.delay("Hi"))
    with _request("group"):
        _get(group(ask.s(f"Hi {number}") for number in range(3))())
    with _request("chord"):
        _get(chord([ask.s("Hi"), ask.s("Ho")], summarize.s())())
    with _request("retried"):
        _get(persist.delay("fail twice"))
    with _request("given up"):
        _get(persist.delay("fail always"), propagate=False)
    with _request("too slow"):
        _get(ask.apply_async(("hold",), soft_time_limit=0.5), propagate=False)
    _get(recycled)


@contextmanager
def _request(name: str) -> Iterator[None]:
    token = context.attach(baggage.set_baggage("tenant", name))
    try:
        with tracer.start_as_current_span(name):
            yield
    finally:
        context.detach(token)


def _get(result: Any, **options: Any) -> None:
    result.get(TIMEOUT, interval=0.05, **options)
