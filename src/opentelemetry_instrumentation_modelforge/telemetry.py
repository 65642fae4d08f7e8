# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The telemetry that one ``instrument()`` set up: its destinations and its options."""

from typing import Final

from opentelemetry._logs import Logger, LoggerProvider, get_logger
from opentelemetry.metrics import Meter, MeterProvider, get_meter, get_meter_provider
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import Tracer, TracerProvider
from opentelemetry.util.genai.completion_hook import CompletionHook

from .capture import ContentCapture
from .config import Configuration, check_keywords, resolve
from .measurement import Collections, Instrument
from .otel_utils import SCOPE_NAME, get_tracer, is_otel_available
from .semconv import GEN_AI_CLIENT_OPERATION_COST, MODELFORGE_CLIENT_ACTIVE_STREAMS, SCHEMA_URL
from .version import __version__

# The bucket boundaries of the GenAI metric conventions.
_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
# The draft defines none for cost: from a thousandth of a cent to about 42 dollars, each four times the one before.
_DOLLARS: Final = tuple(0.00001 * 4**step for step in range(12))


class Telemetry:
    """A tracer, the instruments and the configuration, shared by all models created under one ``instrument()``.

    :param configuration: the options in effect.
    :param tracer_provider: instead of the global one.
    :param meter_provider: instead of the global one.
    :param logger_provider: instead of the global one.
    :param completion_hook: opentelemetry-util-genai's, instead of the one that the environment names.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        completion_hook: CompletionHook | None = None,
    ) -> None:
        self.configuration = configuration
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._available = False
        content = ContentCapture.from_environment(
            completion_hook=completion_hook,
            max_content_length=configuration.max_content_length,
            redact=configuration.redact,
        )
        self.content: ContentCapture | None = content if content.emit_event or content.wanted(recording=True) else None
        """The capture of content and events, or None if nothing receives either."""
        self.full_errors: bool = (configuration.error_messages or ("full" if content.on_span else "safe")) == "full"
        """Whether the text of an error may be recorded."""
        self.logger: Logger = get_logger(SCOPE_NAME, __version__, logger_provider, SCHEMA_URL)
        self.tracer: Tracer = get_tracer(tracer_provider)
        meter: Meter = get_meter(SCOPE_NAME, __version__, meter_provider, SCHEMA_URL)
        collections = Collections(meter_provider or get_meter_provider(), meter)

        def histogram(name: str, unit: str, boundaries: tuple[float, ...], description: str) -> Instrument:
            created = meter.create_histogram(
                name, unit=unit, description=description, explicit_bucket_boundaries_advisory=boundaries
            )
            return Instrument(created.record, collections, boundaries=boundaries)

        self.duration = histogram(
            gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION, "s", _SECONDS, "GenAI operation duration."
        )
        self.token_usage = histogram(
            gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE, "{token}", _TOKENS, "Number of input and output tokens used."
        )
        self.time_to_first_chunk = histogram(
            gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
            "s",
            _SECONDS,
            "Time from the request to the first chunk of a streamed response.",
        )
        self.time_per_output_chunk = histogram(
            gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_PER_OUTPUT_CHUNK,
            "s",
            _SECONDS,
            "Time from one chunk of a streamed response to the next.",
        )
        self.cost = histogram(GEN_AI_CLIENT_OPERATION_COST, "USD", _DOLLARS, "Cost of a GenAI operation.")
        self.active_streams = Instrument(
            meter.create_up_down_counter(
                MODELFORGE_CLIENT_ACTIVE_STREAMS,
                unit="{stream}",
                description="Streamed responses that have begun and not yet ended.",
            ).add,
            collections,
            is_sum=True,
        )

    def is_available(self) -> bool:
        """Return whether telemetry is recorded. Once true, it stays true, since a provider is set once in a process."""
        if not self._available:
            self._available = is_otel_available(self._tracer_provider, self._meter_provider)
        return self._available

    def sends_to(self, tracer_provider: TracerProvider, meter_provider: MeterProvider) -> bool:
        """Return whether this telemetry was set up for these very providers."""
        return self._tracer_provider is tracer_provider and self._meter_provider is meter_provider


_active: Telemetry | None = None


def active_telemetry() -> Telemetry | None:
    """Return the telemetry that the instrumentor set up, or None while ModelForge is not instrumented."""
    return _active


def set_active_telemetry(telemetry: Telemetry | None) -> None:
    """Set the telemetry that every model from an instrumented registry reports to, from its next call on."""
    global _active  # noqa: PLW0603
    _active = telemetry


_standalone: Final[list[Telemetry]] = []


def standalone_telemetry(tracer_provider: TracerProvider, meter_provider: MeterProvider) -> Telemetry:
    """Return the telemetry of callbacks that the application created itself, with no instrumentor to configure them.

    Callbacks with the same pair of providers share it, for the last eight pairs.
    """
    # A list, because a provider need not be hashable.
    for telemetry in _standalone:
        if telemetry.sends_to(tracer_provider, meter_provider):
            return telemetry
    telemetry = Telemetry(resolve(check_keywords({})), tracer_provider=tracer_provider, meter_provider=meter_provider)
    _standalone.append(telemetry)
    del _standalone[:-8]
    return telemetry
