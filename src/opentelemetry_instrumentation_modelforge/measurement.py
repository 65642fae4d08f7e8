"""Measurements on their way into OpenTelemetry: kept until a reader collects, so that no call waits for aggregation."""

import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, TypeVarTuple
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from .otel_utils import Guard

Measured = TypeVarTuple("Measured")

_Kept = deque[tuple[Callable[..., None], tuple[object, ...]]]

MOST_CALLS: Final = 1536
MOST_SERIES: Final = 96
MOST_IN_SERIES: Final = 32
"""Some 700 kilobytes in all, of which one open stream fills no more than 60. Beyond that, whoever brings a measurement
records the oldest."""

_RECORD: Final = Guard("recording measurements")
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
        self._calls: _Kept = deque()
        self._series: _Kept = deque()
        self._collected = collected

    def listen(self, meter: Meter) -> None:
        """Have the collections of the meter's provider told."""
        with _HOOK:
            # OpenTelemetry tells of a collection in no other way. It observes nothing, so no such metric appears.
            meter.create_observable_gauge("modelforge.client.measurements", [self._collect])

    def take(self, record: Callable[[*Measured], None], *measured: *Measured) -> None:
        """Have ``record(*measured)`` called at the next collection, or now if there may be none.

        :param measured: what a call measured, and lives as long: a span's context, not the span.
        """
        self._keep(self._calls, MOST_CALLS, record, measured)

    def take_series(self, record: Callable[[*Measured], None], *measured: *Measured) -> None:
        """Take what :meth:`take` does, with up to ``MOST_IN_SERIES`` values of one instrument in it."""
        self._keep(self._series, MOST_SERIES, record, measured)

    def _keep(self, kept: _Kept, most: int, record: Callable[..., None], measured: tuple[object, ...]) -> None:
        kept.append((record, measured))
        if not self._collected or len(kept) > most:
            _record_oldest(kept)

    def clear(self) -> None:
        """Forget what is kept."""
        self._calls.clear()
        self._series.clear()

    def _collect(self, options: CallbackOptions) -> Iterable[Observation]:
        self._collected = True
        for kept in (self._series, self._calls):
            # What comes meanwhile is for the next time.
            for _ in range(len(kept)):
                _record_oldest(kept)
        return ()


def _record_oldest(kept: _Kept) -> None:
    # Another thread may have taken it.
    with suppress(IndexError):
        record, measured = kept.popleft()
        with _RECORD:
            record(*measured)


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


def exemplar_context(span: SpanContext) -> Context:
    """Return a context for the measurements of a span, by which an exemplar finds it."""
    return set_span_in_context(NonRecordingSpan(span), _NOTHING)
