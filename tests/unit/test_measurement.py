"""Measurements wait for a collection, and for nothing else."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import pytest
from opentelemetry.metrics import Meter, MeterProvider, NoOpMeterProvider
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_current_span

from opentelemetry_instrumentation_modelforge.measurement import (
    MOST_CALLS,
    MOST_SERIES,
    Measurements,
    exemplar_context,
    measurements_of,
)


class Recorder:
    """Keeps what reaches it, in order."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def __call__(self, *measured: float) -> None:
        self.values += measured


class OtherProvider(MeterProvider):
    """Somebody else's provider, which may ask asynchronous instruments, or never does."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], Any]] = []

    def get_meter(self, *args: Any, **kwargs: Any) -> Meter:
        meter = NoOpMeterProvider().get_meter("other")
        meter.create_observable_gauge = lambda name, callbacks: self.callbacks.extend(callbacks)  # type: ignore[method-assign]
        return meter


def meter_of(provider: MeterProvider) -> Meter:
    return provider.get_meter("test")


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    yield reader
    reader.shutdown()


@pytest.fixture
def measurements(reader: InMemoryMetricReader) -> Measurements:
    provider = sdk.MeterProvider([reader])
    return measurements_of(provider, meter_of(provider))


def take(measurements: Measurements, record: Recorder, *values: float) -> None:
    for value in values:
        measurements.take(record, value)


def test_a_measurement_is_recorded_by_the_next_collection(
    measurements: Measurements, reader: InMemoryMetricReader
) -> None:
    record = Recorder()
    take(measurements, record, 1, 2)
    measurements.take_series(record, 3, 4)
    assert record.values == []
    reader.collect()
    # What comes in the middle of a call before what comes at its end.
    assert record.values == [3, 4, 1, 2]
    reader.collect()
    assert record.values == [3, 4, 1, 2]


@pytest.mark.parametrize("end", ["force_flush", "shutdown"])
def test_a_flush_and_a_shutdown_collect(end: str) -> None:
    provider = sdk.MeterProvider([reader := InMemoryMetricReader()])
    record = Recorder()
    take(measurements_of(provider, meter_of(provider)), record, 1)
    getattr(provider, end)()
    if end == "shutdown":
        # An in-memory reader has nowhere to send a last collection; what exports collects.
        assert record.values == []
        reader.get_metrics_data()
    else:
        assert record.values == [1]


def test_what_is_measured_during_a_collection_is_for_the_next_one(
    measurements: Measurements, reader: InMemoryMetricReader
) -> None:
    record = Recorder()

    def and_again(value: float) -> None:
        record(value)
        measurements.take(and_again, value + 1)

    measurements.take(and_again, 1)
    reader.collect()
    assert record.values == [1]
    reader.collect()
    assert record.values == [1, 2]


def test_beyond_what_is_kept_the_oldest_is_recorded(measurements: Measurements, reader: InMemoryMetricReader) -> None:
    record = Recorder()
    take(measurements, record, *range(MOST_CALLS))
    assert record.values == []
    take(measurements, record, -1, -2)
    assert record.values == [0, 1]
    reader.collect()
    assert record.values == [*range(MOST_CALLS), -1, -2]


def test_beyond_the_series_that_are_kept_the_oldest_is_recorded(measurements: Measurements) -> None:
    record = Recorder()
    for index in range(MOST_SERIES + 1):
        measurements.take_series(record, index, index)
    assert record.values == [0, 0]


class UnhashableProvider(OtherProvider):
    """One that nothing can be kept for."""

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    "provider", [NoOpMeterProvider(), OtherProvider(), UnhashableProvider()], ids=["no-op", "other", "unhashable"]
)
def test_a_provider_that_never_asks_gets_each_at_once(provider: MeterProvider) -> None:
    record = Recorder()
    measurements = measurements_of(provider, meter_of(provider))
    take(measurements, record, 1)
    measurements.take_series(record, 2, 3)
    assert record.values == [1, 2, 3]


def test_from_any_provider_that_has_asked_the_next_question_is_awaited() -> None:
    provider, record = OtherProvider(), Recorder()
    measurements = measurements_of(provider, meter_of(provider))
    (collect,) = provider.callbacks
    assert list(collect(None)) == []
    take(measurements, record, 1)
    assert record.values == []
    assert list(collect(None)) == []
    assert record.values == [1]


def test_a_provider_has_one_however_often_it_is_asked_for_and_keeps_it_no_longer_than_itself() -> None:
    provider = sdk.MeterProvider([InMemoryMetricReader()])
    first = measurements_of(provider, meter_of(provider))
    assert measurements_of(provider, meter_of(provider)) is first
    other = sdk.MeterProvider([InMemoryMetricReader()])
    assert measurements_of(other, meter_of(other)) is not first
    alive = ref(first)
    provider.shutdown()
    del provider, first
    gc.collect()
    assert alive() is None


def test_nothing_of_it_is_a_metric(measurements: Measurements, reader: InMemoryMetricReader) -> None:
    reader.collect()
    assert reader.get_metrics_data() is None


def test_a_fault_takes_no_other_measurement_with_it(
    measurements: Measurements, reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> None:
    record = Recorder()

    def fail(value: float) -> None:
        raise OSError("no more metrics")

    take(measurements, record, 1)
    measurements.take(fail, 2)
    take(measurements, record, 3)
    reader.collect()
    assert record.values == [1, 3]
    assert "recording measurements" in caplog.text
    caplog.clear()


def test_threads_that_measure_while_others_collect_lose_nothing(
    measurements: Measurements, reader: InMemoryMetricReader
) -> None:
    record, each = Recorder(), 2 * MOST_CALLS
    threads = [threading.Thread(target=take, args=(measurements, record, *range(each))) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        reader.collect()
    reader.collect()
    assert len(record.values) == 8 * each
    assert math.fsum(record.values) == 8 * math.fsum(range(each))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_leaves_its_parents_measurements_to_it(
    measurements: Measurements, reader: InMemoryMetricReader
) -> None:
    record = Recorder()
    take(measurements, record, 1)
    child = os.fork()
    if child == 0:
        reader.collect()
        os._exit(len(record.values))
    assert os.waitpid(child, 0)[1] == 0
    reader.collect()
    assert record.values == [1]


def test_an_exemplar_finds_the_span() -> None:
    span = TracerProvider().get_tracer("test").start_span("a").get_span_context()
    assert get_current_span(exemplar_context(span)).get_span_context() == span
