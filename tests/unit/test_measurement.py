# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Measurements that wait for a collection, and for nothing else, with a bounded use of memory."""

from __future__ import annotations

import gc
import math
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from weakref import ref

import pytest
from opentelemetry.context import Context
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from opentelemetry_instrumentation_modelforge import measurement
from opentelemetry_instrumentation_modelforge.measurement import (
    BLOCK,
    MOST_BLOCKS,
    MOST_WAITING,
    Attributes,
    Collections,
    Instrument,
    record_waiting,
)

ATTRIBUTES: Attributes = {"gen_ai.request.model": "gpt-4o-mini"}
MIB, KIB = 2**20, 2**10


class Recorder:
    """Keeps the values it receives, in order. It replaces the method of an OpenTelemetry instrument."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.attributes: list[Attributes] = []
        self.contexts: list[Context] = []

    def __call__(self, value: float, attributes: Attributes, context: Context) -> None:
        self.values.append(value)
        self.attributes.append(attributes)
        self.contexts.append(context)


class OtherProvider(MeterProvider):
    """Another implementation's provider, which may or may not call asynchronous instruments."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], Any]] = []

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        meter = NoOpMeterProvider().get_meter("other")
        meter.create_observable_gauge = lambda name, callbacks: self.callbacks.extend(callbacks)  # type: ignore[method-assign]
        return meter


class PlainProvider(OtherProvider):
    """A provider without a hash and without weak references, as a plain dataclass with slots is."""

    __slots__ = ("callbacks",)
    __hash__ = None  # type: ignore[assignment]


class FailingProvider(OtherProvider):
    """A provider whose meters have no gauge."""

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        meter = NoOpMeterProvider().get_meter("failing")
        meter.create_observable_gauge = None  # type: ignore[method-assign, assignment]
        return meter


def collections_of(provider: MeterProvider) -> Collections:
    return Collections(provider, provider.get_meter("test"))


@pytest.fixture(autouse=True)
def nothing_waits() -> Iterator[None]:
    """Record the measurements of other tests first, because all measurements of a process wait together."""
    record_waiting()
    yield
    record_waiting()


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    yield reader
    reader.shutdown()


@pytest.fixture
def meter_provider(reader: InMemoryMetricReader) -> sdk.MeterProvider:
    return sdk.MeterProvider([reader])


@pytest.fixture
def collections(meter_provider: sdk.MeterProvider) -> Collections:
    return collections_of(meter_provider)


@pytest.fixture
def record() -> Recorder:
    return Recorder()


@pytest.fixture
def instrument(record: Recorder, collections: Collections) -> Instrument:
    return Instrument(record, collections)


@pytest.fixture(scope="module")
def tracer() -> Tracer:
    return TracerProvider(shutdown_on_exit=False).get_tracer("test")


def span_context(tracer: Tracer) -> SpanContext:
    span = tracer.start_span("langchain.llm.invoke")
    span.end()
    return span.get_span_context()


def measure(instrument: Instrument, *values: float) -> None:
    for value in values:
        instrument.record(value, ATTRIBUTES, INVALID_SPAN_CONTEXT)


def measure_stream(instrument: Instrument, *values: float) -> None:
    series = instrument.series(ATTRIBUTES, INVALID_SPAN_CONTEXT)
    for value in values:
        series.record(value)
    series.close()


def exemplars_of(reader: InMemoryMetricReader) -> list[tuple[int | None, int | None, float]]:
    data = reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    return [(exemplar.trace_id, exemplar.span_id, exemplar.value) for exemplar in point.exemplars]


# --- Waiting ---


def test_a_measurement_is_recorded_by_the_next_collection(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    measure(instrument, 1, 2)
    measure_stream(instrument, 3, 4)
    assert record.values == []
    reader.collect()
    # Measurements made during a call come before those made at its end.
    assert record.values == [3, 4, 1, 2]
    reader.collect()
    assert record.values == [3, 4, 1, 2]


def test_a_measurement_keeps_its_attributes_and_its_span(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader, tracer: Tracer
) -> None:
    span, other = span_context(tracer), span_context(tracer)
    instrument.record(1, ATTRIBUTES, span)
    series = instrument.series({"a": "b"}, other)
    series.record(2)
    series.close()
    reader.collect()
    assert record.attributes == [{"a": "b"}, ATTRIBUTES]
    assert [get_current_span(context).get_span_context() for context in record.contexts] == [other, span]


def test_an_exemplar_has_the_trace_of_its_call(
    meter_provider: sdk.MeterProvider, reader: InMemoryMetricReader, tracer: Tracer
) -> None:
    span = span_context(tracer)
    histogram = meter_provider.get_meter("test").create_histogram("duration")
    Instrument(histogram.record, collections_of(meter_provider)).record(1.5, ATTRIBUTES, span)
    assert exemplars_of(reader) == [(span.trace_id, span.span_id, 1.5)]


@pytest.mark.parametrize("exemplar_filter", [TraceBasedExemplarFilter, AlwaysOnExemplarFilter])
@pytest.mark.parametrize("of_streams", [True, False], ids=["streams", "calls"])
def test_exemplars_are_the_same_as_without_waiting(
    tracer: Tracer, of_streams: bool, exemplar_filter: Callable[[], Any]
) -> None:
    boundaries = (1.0, 2.0, 3.0)
    measured = [(span_context(tracer), values) for values in ([0.5, 1.5, 9.0, 0.1], [1.0, 2.5], [8.0, 1.7], [0.3] * 3)]
    found: list[Any] = []
    for waits in (True, False):
        reader = InMemoryMetricReader()
        provider = sdk.MeterProvider([reader], exemplar_filter=exemplar_filter())
        histogram = provider.get_meter("test").create_histogram(
            "duration", explicit_bucket_boundaries_advisory=boundaries
        )
        instrument = Instrument(histogram.record, collections_of(provider), boundaries=boundaries)
        for span, values in measured:
            series = instrument.series(ATTRIBUTES, span)
            for value in values:
                if not waits:
                    histogram.record(value, ATTRIBUTES, set_span_in_context(NonRecordingSpan(span)))
                elif of_streams:
                    series.record(value)
                else:
                    instrument.record(value, ATTRIBUTES, span)
            series.close()
        found.append(exemplars_of(reader))
    assert found[0] == found[1]
    assert [value for *_, value in found[0]] == [0.3, 1.7, 2.5, 8.0]


@pytest.mark.parametrize("asked", [True, False], ids=["waiting", "at once"])
def test_each_value_that_the_instrument_accepts_is_recorded(
    collections: Collections, record: Recorder, asked: bool
) -> None:
    collections.notified = asked
    values = iter((1, 2, 3))
    instrument = Instrument(record, collections)
    instrument.record_each(islice(values, 1), ATTRIBUTES, INVALID_SPAN_CONTEXT)
    assert record.values == ([] if asked else [1])
    record_waiting()
    assert record.values == [1]
    for _ in range(2):
        instrument.record_each(values, ATTRIBUTES, INVALID_SPAN_CONTEXT)
    record_waiting()
    assert record.values == [1, 2, 3]


@pytest.mark.parametrize("end", ["force_flush", "shutdown"])
def test_a_flush_and_a_shutdown_collect(end: str, record: Recorder) -> None:
    provider = sdk.MeterProvider([reader := InMemoryMetricReader()])
    measure(Instrument(record, collections_of(provider)), 1)
    getattr(provider, end)()
    if end == "shutdown":
        # An in-memory reader has no destination for a last collection. A reader that exports collects.
        assert record.values == []
        reader.get_metrics_data()
    else:
        assert record.values == [1]


def test_measurements_during_a_collection_are_recorded_by_the_next_one(
    collections: Collections, record: Recorder, reader: InMemoryMetricReader
) -> None:
    def and_again(value: float, attributes: Attributes, context: Context) -> None:
        record(value, attributes, context)
        if value < 2:
            measure(Instrument(and_again, collections), value + 1)

    measure(Instrument(and_again, collections), 1)
    reader.collect()
    assert record.values == [1]
    reader.collect()
    assert record.values == [1, 2]


def test_waiting_measurements_of_a_counter_are_added_up(
    collections: Collections, record: Recorder, reader: InMemoryMetricReader, tracer: Tracer
) -> None:
    instrument = Instrument(record, collections, is_sum=True)
    last, other = span_context(tracer), {"gen_ai.request.model": "gpt-4o"}
    instrument.record(1, ATTRIBUTES, span_context(tracer))
    instrument.record(1, other, last)
    instrument.record(-1, ATTRIBUTES, span_context(tracer))
    instrument.record(1, ATTRIBUTES, last)
    reader.collect()
    assert record.values == [1, 1]
    assert record.attributes == [ATTRIBUTES, other]
    assert [get_current_span(context).get_span_context() for context in record.contexts] == [last, last]


def test_counters_with_the_same_attributes_are_not_added_to_one_another(
    collections: Collections, record: Recorder, reader: InMemoryMetricReader
) -> None:
    measure(Instrument(record, collections, is_sum=True), 1)
    measure(Instrument(record, collections, is_sum=True), 2, 4)
    reader.collect()
    assert record.values == [1, 6]


def test_an_interrupted_collection_loses_no_part_of_a_sum(collections: Collections, record: Recorder) -> None:
    def interrupt(value: float, attributes: Attributes, context: Context) -> None:
        raise KeyboardInterrupt

    measure(Instrument(record, collections, is_sum=True), 1, 1)
    measure(Instrument(interrupt, collections), 1)
    with pytest.raises(KeyboardInterrupt):
        record_waiting()
    assert record.values == [2]


# --- Streams ---


def test_a_full_block_of_an_open_stream_is_recorded_by_the_next_collection(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    series = instrument.series(ATTRIBUTES, INVALID_SPAN_CONTEXT)
    for value in range(BLOCK + 1):
        series.record(value)
    assert record.values == []
    reader.collect()
    assert record.values == [*range(BLOCK)]
    series.close()
    reader.collect()
    assert record.values == [*range(BLOCK + 1)]


def test_a_stream_without_a_second_chunk_has_nothing_to_record(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    measure_stream(instrument)
    reader.collect()
    assert record.values == []
    assert not measurement._blocks


def test_closing_a_stream_twice_records_it_once(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    series = instrument.series(ATTRIBUTES, INVALID_SPAN_CONTEXT)
    series.record(1)
    series.close()
    series.close()
    reader.collect()
    assert record.values == [1]


# --- Bounds ---


def test_beyond_the_limit_of_waiting_measurements_the_oldest_is_recorded(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    measure(instrument, *range(MOST_WAITING))
    assert record.values == []
    measure(instrument, -1, -2)
    assert record.values == [0, 1]
    reader.collect()
    assert record.values == [*range(MOST_WAITING), -1, -2]


def test_beyond_the_limit_of_waiting_blocks_the_oldest_is_recorded(instrument: Instrument, record: Recorder) -> None:
    for index in range(MOST_BLOCKS + 1):
        measure_stream(instrument, index, index)
    assert record.values == [0, 0]


def test_beyond_the_limit_of_one_stream_its_own_measurements_are_recorded(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    measure_stream(instrument, -1)
    series = instrument.series(ATTRIBUTES, INVALID_SPAN_CONTEXT)
    values = list(range(MOST_BLOCKS * BLOCK))
    for value in values:
        series.record(value)
    assert record.values != []
    assert -1 not in record.values
    reader.collect()
    assert sorted(record.values) == [-1, *values]


def test_a_long_stream_waits_again_after_each_collection(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    series = instrument.series(ATTRIBUTES, INVALID_SPAN_CONTEXT)
    for value in range(MOST_BLOCKS * BLOCK):
        series.record(value)
    reader.collect()
    before = len(record.values)
    for value in range(BLOCK):
        series.record(value)
    assert len(record.values) == before


def waiting_bytes(measure: Callable[[], object]) -> int:
    """Return the additional memory that is held after ``measure``."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = measure()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return after - before


@pytest.mark.parametrize("measurements", [1, 4], ids=["calls that fail", "calls with tokens and a cost"])
def test_waiting_measurements_of_a_process_use_less_than_1_mib(
    collections: Collections, tracer: Tracer, measurements: int
) -> None:
    instrument = Instrument(lambda *_: None, collections)

    def measure() -> None:
        for number in range(2 * MOST_WAITING):
            span = span_context(tracer)
            for _ in range(measurements):
                instrument.record(number / 7, ATTRIBUTES, span)
        for number in range(2 * MOST_BLOCKS):
            series = instrument.series(ATTRIBUTES, span_context(tracer))
            for chunk in range(BLOCK):
                series.record(number / 7 + chunk)

    held = waiting_bytes(measure)
    assert (len(measurement._waiting), len(measurement._blocks)) == (MOST_WAITING, MOST_BLOCKS)
    assert MIB / 3 < held <= MIB


def test_waiting_measurements_of_an_open_stream_use_less_than_64_kib(collections: Collections, tracer: Tracer) -> None:
    instrument = Instrument(lambda *_: None, collections)

    def measure() -> object:
        series = instrument.series(ATTRIBUTES, span_context(tracer))
        for number in range(100_000):
            series.record(number / 7)
        return series

    assert 16 * KIB < waiting_bytes(measure) <= 64 * KIB


def test_waiting_measurements_keep_no_span(collections: Collections, tracer: Tracer) -> None:
    span = tracer.start_span("langchain.llm.invoke")
    instrument = Instrument(lambda *_: None, collections)
    instrument.record(1, ATTRIBUTES, span.get_span_context())
    series = instrument.series(ATTRIBUTES, span.get_span_context())
    span.end()
    alive = ref(span)
    del span
    gc.collect()
    assert alive() is None
    series.close()


# --- Providers ---


@pytest.mark.parametrize(
    "provider",
    [NoOpMeterProvider(), OtherProvider(), PlainProvider(), FailingProvider()],
    ids=["no-op", "other", "without hash and weak reference", "without gauges"],
)
def test_measurements_do_not_wait_for_a_provider_that_never_reports_a_collection(
    provider: MeterProvider, record: Recorder
) -> None:
    instrument = Instrument(record, collections_of(provider))
    measure(instrument, 1)
    measure_stream(instrument, 2, 3)
    assert record.values == [1, 2, 3]


def test_measurements_wait_for_the_next_collection_of_any_provider_that_has_collected(record: Recorder) -> None:
    provider = OtherProvider()
    instrument = Instrument(record, collections_of(provider))
    (collect,) = provider.callbacks
    assert list(collect(None)) == []
    measure(instrument, 1)
    assert record.values == []
    assert list(collect(None)) == []
    assert record.values == [1]


def test_a_collection_of_one_provider_has_no_effect_on_another(record: Recorder) -> None:
    provider = OtherProvider()
    collections_of(provider)
    provider.callbacks[0](None)
    measure(Instrument(record, collections_of(OtherProvider())), 1)
    assert record.values == [1]


def test_instruments_created_later_on_a_provider_wait_for_its_collections_too(
    meter_provider: sdk.MeterProvider, reader: InMemoryMetricReader, record: Recorder
) -> None:
    first, second = (Instrument(record, collections_of(meter_provider)) for _ in range(2))
    measure(first, 1)
    measure(second, 2)
    assert record.values == []
    reader.collect()
    assert record.values == [1, 2]


def test_a_provider_is_not_kept_alive(record: Recorder) -> None:
    provider = OtherProvider()
    instrument = Instrument(record, collections_of(provider))
    alive = ref(provider)
    del provider
    gc.collect()
    assert alive() is None
    measure(instrument, 1)
    assert record.values == [1]


def test_waiting_for_collections_creates_no_metric(collections: Collections, reader: InMemoryMetricReader) -> None:
    reader.collect()
    assert reader.get_metrics_data() is None


# --- Faults, threads, forks ---


def test_a_fault_does_not_affect_other_measurements(
    collections: Collections,
    record: Recorder,
    reader: InMemoryMetricReader,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measurement._RECORD_GUARD, "_reported", False)

    def fail(value: float, attributes: Attributes, context: Context) -> None:
        if value == 2:
            raise OSError("no more metrics")
        record(value, attributes, context)

    instrument = Instrument(fail, collections)
    measure_stream(instrument, 1, 2, 3)
    measure(instrument, 1, 2, 3)
    reader.collect()
    assert record.values == [1, 3, 1, 3]
    assert "recording a measurement" in caplog.text
    caplog.clear()


def test_measurements_in_threads_during_collections_are_not_lost(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    each = 2 * MOST_WAITING
    threads = [
        threading.Thread(target=target, args=(instrument, *range(each)))
        for target in (measure, measure_stream)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        reader.collect()
    reader.collect()
    assert len(record.values) == 8 * each
    assert math.fsum(record.values) == 8 * math.fsum(range(each))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_does_not_record_its_parents_measurements(
    instrument: Instrument, record: Recorder, reader: InMemoryMetricReader
) -> None:
    measure(instrument, 1)
    measure_stream(instrument, 2)
    child = os.fork()
    if child == 0:
        reader.collect()
        os._exit(len(record.values))
    assert os.waitpid(child, 0)[1] == 0
    reader.collect()
    assert record.values == [2, 1]
