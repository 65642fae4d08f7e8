"""Measurements on their way into OpenTelemetry: kept until a reader collects, so that no call waits for aggregation."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import NonRecordingSpan, Span, set_span_in_context
from opentelemetry.util.types import AttributeValue

from .otel_utils import Guard

Record = Callable[[float, Mapping[str, AttributeValue], Context], None]
"""``Histogram.record`` or ``UpDownCounter.add``."""

Series = Sequence[float]
"""What one instrument measured with one set of attributes in one context."""

_Kept = deque[tuple[Record, Series, Mapping[str, AttributeValue], Context]]

MOST_SINGLE: Final = 2048
MOST_SERIES: Final = 96
MOST_IN_SERIES: Final = 32
"""Some 700 kilobytes in all, of which one open stream fills no more than 50. Beyond that, whoever brings a measurement
records the oldest."""

_RECORD: Final = Guard("recording a measurement")
_HOOK: Final = Guard("asking to be told of collections")


class Measurements:
    """The measurements for one meter provider.

    To aggregate one takes the SDK several times as long as all else that a chunk of a stream costs, and a call has four
    and a stream one more for each chunk. An SDK's readers collect in a thread of their own, or at a scrape, and ask
    asynchronous instruments for their values before they look at the others: that is the time to record what the calls
    left here.

    A provider that never asks gets each measurement at once.
    """

    def __init__(self, *, collected: bool) -> None:
        self._single: _Kept = deque()
        self._series: _Kept = deque()
        self._collected = collected

    def listen(self, meter: Meter) -> None:
        """Have the collections of the meter's provider told."""
        with _HOOK:
            # OpenTelemetry tells of a collection in no other way. It observes nothing, so no such metric appears.
            meter.create_observable_gauge("modelforge.client.measurements", [self._collect])

    def take(self, record: Record, value: float, attributes: Mapping[str, AttributeValue], context: Context) -> None:
        """Have ``record(value, attributes, context)`` called at the next collection, or now if there may be none.

        :param context: lives as long; see :func:`exemplar_context`.
        """
        self._keep(self._single, MOST_SINGLE, record, (value,), attributes, context)

    def take_series(
        self, record: Record, values: Series, attributes: Mapping[str, AttributeValue], context: Context
    ) -> None:
        """Take up to ``MOST_IN_SERIES`` values, as :meth:`take` does one."""
        self._keep(self._series, MOST_SERIES, record, values, attributes, context)

    def _keep(
        self,
        kept: _Kept,
        most: int,
        record: Record,
        values: Series,
        attributes: Mapping[str, AttributeValue],
        context: Context,
    ) -> None:
        kept.append((record, values, attributes, context))
        if not self._collected or len(kept) > most:
            _record_oldest(kept)

    def clear(self) -> None:
        """Forget what is kept."""
        self._single.clear()
        self._series.clear()

    def _collect(self, options: CallbackOptions) -> Iterable[Observation]:
        self._collected = True
        for kept in (self._single, self._series):
            # What comes meanwhile is for the next time.
            for _ in range(len(kept)):
                _record_oldest(kept)
        return ()


def _record_oldest(kept: _Kept) -> None:
    # Another thread may have taken it.
    with suppress(IndexError):
        record, values, attributes, context = kept.popleft()
        for value in values:
            with _RECORD:
                record(value, attributes, context)


_measurements: Final[WeakKeyDictionary[MeterProvider, Measurements]] = WeakKeyDictionary()


def _clear() -> None:
    for measurements in list(_measurements.values()):
        measurements.clear()


if hasattr(os, "register_at_fork"):
    # They are the parent's, who will record them.
    os.register_at_fork(after_in_child=_clear)


def measurements_of(meter_provider: MeterProvider | None, meter: Meter) -> Measurements:
    """Return the measurements of a provider, or of the global one: the same as long as it lives, as its hook is."""
    provider = meter_provider or get_meter_provider()
    # The SDK's readers collect, and shut down with a last collection. Of another's it must be seen first.
    created = Measurements(collected=type(provider).__module__.startswith("opentelemetry.sdk.metrics"))
    try:
        measurements = _measurements.setdefault(provider, created)
    except TypeError:
        # Nothing can refer to this provider weakly.
        measurements = created
    if measurements is created:
        created.listen(meter)
    return measurements


_NOTHING: Final = Context()


def exemplar_context(span: Span) -> Context:
    """Return a context for the measurements of a span: an exemplar finds the span by it, and it keeps no more alive."""
    return set_span_in_context(NonRecordingSpan(span.get_span_context()), _NOTHING)
