# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The check whether OpenTelemetry records, and the guard that keeps telemetry faults out of the application."""

from logging import DEBUG, WARNING, getLogger
from os import environ
from types import TracebackType
from typing import Final

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import Tracer, TracerProvider, get_tracer_provider
from opentelemetry.trace import get_tracer as _get_tracer

from .errors import fault_text
from .interrupts import is_from_signal_handler
from .semconv import SCHEMA_URL
from .version import __version__

_logger = getLogger(__name__)

SCOPE_NAME: Final = "opentelemetry_instrumentation_modelforge"

_FAULT: Final = "Telemetry fault while %s; the application is not affected\n%s"

_API_PACKAGES: Final = ("opentelemetry.trace", "opentelemetry.metrics")


def is_otel_available(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> bool:
    """Return whether the telemetry of this package is recorded.

    False without an SDK, with the API's no-op or proxy providers alone, and with ``OTEL_SDK_DISABLED=true``
    (OpenTelemetry's environment variable specification). A provider that is not given defaults to the global one.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    return _records(tracer_provider or get_tracer_provider()) or _records(meter_provider or get_meter_provider())


def _records(provider: TracerProvider | MeterProvider) -> bool:
    # The API's own classes are all no-ops or stand-ins for a provider that has not been set yet.
    return not type(provider).__module__.startswith(_API_PACKAGES)


_tracers: Final[list[tuple[TracerProvider, Tracer]]] = []


def get_tracer(tracer_provider: TracerProvider | None = None) -> Tracer:
    """Return this package's tracer from ``tracer_provider``, or from the global one, even if that is set later."""
    tracer_provider = tracer_provider or get_tracer_provider()
    # A list, because a provider need not be hashable.
    for provider, tracer in _tracers:
        if provider is tracer_provider:
            return tracer
    tracer = _get_tracer(SCOPE_NAME, __version__, tracer_provider, SCHEMA_URL)
    _tracers.append((tracer_provider, tracer))
    del _tracers[:-8]
    return tracer


class Guard:
    """Context manager that swallows and logs an :class:`Exception` of the telemetry code inside it.

    Each instance belongs to one site. Its first fault is logged at WARNING, later ones at DEBUG, each with its stack.
    The fault's own text is left out, since the ``KeyError`` of a user's hook may quote the prompt. Anything that is not
    an ``Exception`` (``KeyboardInterrupt``, ``CancelledError``, ``GeneratorExit``) passes, and so does an exception
    from a signal handler (Celery's ``SoftTimeLimitExceeded``). The application's own calls do not belong inside.
    """

    __slots__ = ("_reported", "_site")

    def __init__(self, site: str) -> None:
        self._site = site
        self._reported = False

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if exc is None or not isinstance(exc, Exception) or is_from_signal_handler(traceback):
            return False
        level = DEBUG if self._reported else WARNING
        self._reported = True
        try:
            if _logger.isEnabledFor(level):
                _logger.log(level, _FAULT, self._site, fault_text(exc))
        except Exception as error:
            # A logging handler that raises leaves nowhere to report to.
            if is_from_signal_handler(error.__traceback__):
                raise
        return True
