# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Instruments whose measurements wait for a collection, so that no call waits for aggregation.

Aggregating one measurement in the SDK takes several times as long as everything else done for a chunk of a stream. A
call has four measurements and a stream one more for each chunk. The SDK's readers collect in a thread of their own, or
at a scrape, and call asynchronous instruments before they read the others. That is when this module records the waiting
measurements.

At most 1 MiB waits in a process, of which one open stream holds at most 64 KiB. When the queue is full, the caller
records the oldest measurement itself.
"""

import os
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Final

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, set_span_in_context
from opentelemetry.util.types import AttributeValue

from .otel_utils import Guard

Attributes = Mapping[str, AttributeValue]
Record = Callable[[float, Attributes, Context], None]
"""The ``record`` of a histogram, or the ``add`` of a counter."""

MOST_WAITING: Final = 2048
"""The maximum number of waiting measurements of calls: 350 bytes each if every one has a span context."""
MOST_BLOCKS: Final = 448
"""The maximum number of waiting blocks of streams' measurements."""
MOST_BLOCKS_OF_STREAM: Final = 96
"""The maximum number of waiting blocks of one stream."""
BLOCK: Final = 32
"""Measurements in a block, which takes 670 bytes with the span context."""

_RECORD_GUARD: Final = Guard("recording a measurement")
_HOOK_GUARD: Final = Guard("registering for collections")

_waiting: Final[deque[tuple["Instrument", float, Attributes, SpanContext]]] = deque()
_blocks: Final[deque[tuple["Instrument", "array[float]", Attributes, SpanContext]]] = deque()

_last_collection: object = object()
"""Identifies the time since the last collection."""

if hasattr(os, "register_at_fork"):
    # The parent process records them.
    os.register_at_fork(after_in_child=_waiting.clear)
    os.register_at_fork(after_in_child=_blocks.clear)


class Collections:
    """A record of whether the readers of one meter provider notify this module when they collect."""

    __slots__ = ("notified",)

    def __init__(self, meter_provider: MeterProvider, meter: Meter) -> None:
        # The SDK's readers collect, and do so once more at shutdown. Any other provider must have collected before
        # measurements wait for it.
        self.notified = type(meter_provider).__module__.startswith("opentelemetry.sdk.metrics")
        with _HOOK_GUARD:
            # OpenTelemetry has no other way to detect a collection. The gauge observes nothing, so no such metric
            # appears. The SDK keeps the first gauge of a name, which serves all.
            meter.create_observable_gauge("modelforge.client.measurements", [self._collect])

    def _collect(self, options: CallbackOptions) -> Iterable[Observation]:
        self.notified = True
        record_waiting()
        return ()


def record_waiting() -> None:
    """Record all waiting measurements, of all providers. Those added in the meantime wait for the next time."""
    global _last_collection  # noqa: PLW0603
    _last_collection = object()
    for _ in range(len(_blocks)):
        _record_oldest_block()
    _record_waiting_calls()


def _record_waiting_calls() -> None:
    exemplars = _last_of_each_bucket()
    sums: dict[tuple[Instrument, int], tuple[float, Attributes, SpanContext]] = {}
    try:
        for _ in range(len(_waiting)):
            # Another thread may have taken the last one.
            try:
                measurement = _waiting.popleft()
            except IndexError:
                break
            instrument, value, attributes, span = measurement
            if instrument.is_sum:
                key = (instrument, id(attributes))
                sums[key] = (value + (sums[key][0] if key in sums else 0), attributes, span)
                continue
            context = _exemplar_context(span) if id(measurement) in exemplars else _NO_SPAN
            instrument.record_now(value, attributes, context)
    finally:
        # Also after an interrupt, because a value missing from a sum is lost for good.
        for (instrument, _), (value, attributes, span) in sums.items():
            instrument.record_now(value, attributes, _exemplar_context(span))


def _last_of_each_bucket() -> set[int]:
    """Return the ids of the waiting measurements that become exemplars.

    A histogram keeps the last exemplar of each bucket, and the SDK spends a sixth of its time on the others.
    """
    try:
        waiting = tuple(_waiting)
    except RuntimeError:
        # Another thread has just added one. An exemplar is a sample anyway.
        return set()
    buckets = (
        (instrument, id(attributes), bisect_left(instrument.boundaries, value))
        for instrument, value, attributes, _ in waiting
    )
    return {id(waiting[index]) for index in _last_positions(buckets)}


def _last_positions(buckets: Iterable[Hashable]) -> set[int]:
    """Return the position of the last measurement of each bucket, given the buckets of all."""
    return set({bucket: index for index, bucket in enumerate(buckets)}.values())


class Instrument:
    """An instrument whose measurements wait for a collection.

    :param record: the method of OpenTelemetry's instrument that records a measurement.
    :param boundaries: the upper bounds of a histogram's buckets.
    :param is_sum: whether the instrument adds its measurements up, so that one can replace all waiting measurements
        with the same attributes object.
    """

    __slots__ = ("_record", "boundaries", "collections", "is_sum")

    def __init__(
        self, record: Record, collections: Collections, *, boundaries: Sequence[float] = (), is_sum: bool = False
    ) -> None:
        self._record = record
        self.boundaries = boundaries
        self.is_sum = is_sum
        self.collections = collections

    def record(self, value: float, attributes: Attributes, span: SpanContext) -> None:
        """Record ``value`` at the next collection, or now if there may be none.

        :param attributes: kept, so they must not change.
        :param span: the context of the span that an exemplar refers to; the span itself is not kept.
        """
        if not self.collections.notified:
            self.record_now(value, attributes, _exemplar_context(span))
            return
        if len(_waiting) >= MOST_WAITING:
            _record_oldest()
        _waiting.append((self, value, attributes, span))

    def record_each(self, values: Iterator[float], attributes: Attributes, span: SpanContext) -> None:
        """Consume ``values`` and record each, as :meth:`record` does.

        An interrupt that comes while measurements wait leaves each value either in ``values`` or recorded.
        """
        if not self.collections.notified:
            for value in values:
                self.record_now(value, attributes, _exemplar_context(span))
            return
        if len(_waiting) >= MOST_WAITING:
            _record_oldest()
        # One call of a C function, during which no interrupt comes.
        _waiting.extend(zip(repeat(self), values, repeat(attributes), repeat(span), strict=False))

    def series(self, attributes: Attributes, span: SpanContext) -> "Series":
        """Return a recorder of many values that share ``attributes`` and ``span``."""
        return Series(self, attributes, span)

    def record_now(self, value: float, attributes: Attributes, context: Context) -> None:
        """Record ``value`` immediately. The context contains an exemplar's span."""
        try:
            self._record(value, attributes, context)
        except Exception:
            # Entered only here, because entering the guard would slow down every record.
            with _RECORD_GUARD:
                raise


class Series:
    """The measurements of one open stream, which differ only in their values."""

    __slots__ = ("_attributes", "_instrument", "_last_collection", "_span", "_values", "_waiting")

    def __init__(self, instrument: Instrument, attributes: Attributes, span: SpanContext) -> None:
        self._instrument = instrument
        self._attributes = attributes
        self._span = span
        self._values = array("d")
        self._waiting = 0
        self._last_collection = _last_collection

    def record(self, value: float) -> None:
        """Record ``value`` at the collection after the series is closed, or after its block is full."""
        self._values.append(value)
        if len(self._values) >= BLOCK:
            self.close()

    def close(self) -> None:
        """Queue the remaining values for the next collection, unless too many blocks of this series wait."""
        if not self._values:
            return
        block = (self._instrument, self._values, self._attributes, self._span)
        self._values = array("d")
        if self._last_collection is not _last_collection:
            self._last_collection = _last_collection
            self._waiting = 0
        if not self._instrument.collections.notified or self._waiting >= MOST_BLOCKS_OF_STREAM:
            _record_block(*block)
            return
        self._waiting += 1
        _blocks.append(block)
        if len(_blocks) > MOST_BLOCKS:
            _record_oldest_block()


def _record_oldest() -> None:
    with suppress(IndexError):
        instrument, value, attributes, span = _waiting.popleft()
        instrument.record_now(value, attributes, _exemplar_context(span))


def _record_oldest_block() -> None:
    with suppress(IndexError):
        _record_block(*_blocks.popleft())


def _record_block(instrument: Instrument, values: "array[float]", attributes: Attributes, span: SpanContext) -> None:
    exemplars = _last_positions(bisect_left(instrument.boundaries, value) for value in values)
    context = _exemplar_context(span)
    for index, value in enumerate(values):
        instrument.record_now(value, attributes, context if index in exemplars else _NO_SPAN)


_NO_VALUES: Final = Context()
# An empty context would mean the current one.
_NO_SPAN: Final = set_span_in_context(INVALID_SPAN, _NO_VALUES)


def _exemplar_context(span: SpanContext) -> Context:
    return set_span_in_context(NonRecordingSpan(span), _NO_VALUES)
