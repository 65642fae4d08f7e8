# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The parent of a stream whose first chunk is read while another span, or no span, is current."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry.context import attach, detach, get_current, set_value

from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback, streaming
from support.calls import MODEL_SPAN, AsyncEchoModel, EchoModel, parent_of
from support.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("nothing_left")


def start(entry: str) -> Any:
    model = (AsyncEchoModel if entry == "astream" else EchoModel)(callbacks=[OpenTelemetryCallback("echo", "echo")])
    return getattr(model, entry)("Hi")


def read(stream: Any) -> None:
    if not hasattr(stream, "__anext__"):
        list(stream)
        return

    async def read() -> None:
        async for _ in stream:
            pass

    asyncio.run(read())


@pytest.fixture(params=["stream", "astream"])
def entry(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_stream_read_while_no_span_is_current_belongs_to_the_span_that_created_it(
    instrumented: Telemetry, entry: str
) -> None:
    with instrumented.tracer.start_as_current_span("creator") as creator:
        stream = start(entry)
    read(stream)
    assert parent_of(instrumented.span(MODEL_SPAN)) == creator.get_span_context().span_id


def test_a_stream_read_under_another_span_belongs_to_that_span(instrumented: Telemetry, entry: str) -> None:
    with instrumented.tracer.start_as_current_span("creator"):
        stream = start(entry)
    with instrumented.tracer.start_as_current_span("reader") as reader:
        read(stream)
    assert parent_of(instrumented.span(MODEL_SPAN)) == reader.get_span_context().span_id


def test_a_stream_created_and_read_under_no_span_is_a_root(instrumented: Telemetry, entry: str) -> None:
    read(start(entry))
    assert instrumented.span(MODEL_SPAN).parent is None


def test_reading_does_not_change_the_readers_context(instrumented: Telemetry) -> None:
    with instrumented.tracer.start_as_current_span("creator"):
        stream = start("stream")
    before = get_current()
    for _ in stream:
        assert get_current() is before
    assert get_current() is before


class Kept:
    """A value in a context."""


def test_the_first_chunk_under_another_span_releases_the_context_of_the_creator(instrumented: Telemetry) -> None:
    stream, reference = created_in_a_context()
    assert reference() is not None
    with instrumented.tracer.start_as_current_span("reader"):
        next(stream)
    gc.collect()
    assert reference() is None
    stream.close()


def test_the_end_of_a_stream_releases_the_context_of_the_creator(instrumented: Telemetry) -> None:
    stream, reference = created_in_a_context()
    list(stream)
    gc.collect()
    assert reference() is None


def created_in_a_context() -> tuple[Any, weakref.ref[Kept]]:
    kept = Kept()
    token = attach(set_value("kept", kept))
    stream = start("stream")
    detach(token)
    return stream, weakref.ref(kept)


def test_a_context_whose_tokens_restore_nothing_does_not_break_a_call(
    instrumented: Telemetry, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """Datadog's context, which replaces OpenTelemetry's, is an example: its ``attach`` returns a plain object."""

    def attach_for_good(context: Any) -> object:
        attach(context)
        return object()

    monkeypatch.setattr(streaming, "attach", attach_for_good)
    copy_context().run(read, start(entry))
    assert instrumented.span(MODEL_SPAN).attributes["modelforge.outcome"] == "completed"
