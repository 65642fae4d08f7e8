"""What one ``instrument()`` set up: where telemetry goes, and with which options."""

from functools import lru_cache
from typing import Final

from opentelemetry._logs import Logger, LoggerProvider, get_logger
from opentelemetry.metrics import Histogram, Meter, MeterProvider, UpDownCounter, get_meter
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import Tracer, TracerProvider
from opentelemetry.util.genai.completion_hook import CompletionHook

from .capture import ContentCapture
from .config import Configuration, check_keywords, resolve
from .measurement import Measurements, measurements_of
from .otel_utils import SCOPE_NAME, get_tracer, is_otel_available
from .semconv import GEN_AI_CLIENT_OPERATION_COST, MODELFORGE_CLIENT_ACTIVE_STREAMS, SCHEMA_URL
from .version import __version__

# The bucket boundaries of the GenAI metric conventions.
_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
# The draft names none for money: a thousandth of a cent to about a hundred dollars, each four times the one before.
_DOLLARS: Final = tuple(0.00001 * 4**step for step in range(12))


class Telemetry:
    """A tracer, the instruments and the configuration; shared by all models handed out under one ``instrument()``."""

    __slots__ = (
        "_available",
        "_meter_provider",
        "_tracer_provider",
        "active_streams",
        "configuration",
        "content",
        "cost",
        "duration",
        "logger",
        "measurements",
        "time_per_output_chunk",
        "time_to_first_chunk",
        "token_usage",
        "tracer",
    )

    def __init__(
        self,
        configuration: Configuration,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        completion_hook: CompletionHook | None = None,
    ) -> None:
        self.configuration: Configuration = configuration
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._available = False
        content = ContentCapture.from_environment(
            completion_hook=completion_hook,
            max_content_length=configuration.max_content_length,
            redact=configuration.redact,
        )
        self.content: ContentCapture | None = content if content.emit_event or content.wanted(recording=True) else None
        """Who receives content or events, or None where nobody does."""
        self.logger: Logger = get_logger(SCOPE_NAME, __version__, logger_provider, SCHEMA_URL)
        self.tracer: Tracer = get_tracer(tracer_provider)
        meter: Meter = get_meter(SCOPE_NAME, __version__, meter_provider, SCHEMA_URL)
        self.duration: Histogram = meter.create_histogram(
            gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION,
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.token_usage: Histogram = meter.create_histogram(
            gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE,
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self.time_to_first_chunk: Histogram = meter.create_histogram(
            gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK,
            unit="s",
            description="Time from the request to the first chunk of a streamed response.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.time_per_output_chunk: Histogram = meter.create_histogram(
            gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_PER_OUTPUT_CHUNK,
            unit="s",
            description="Time from one chunk of a streamed response to the next.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.cost: Histogram = meter.create_histogram(
            GEN_AI_CLIENT_OPERATION_COST,
            unit="USD",
            description="Cost of a GenAI operation.",
            explicit_bucket_boundaries_advisory=_DOLLARS,
        )
        self.active_streams: UpDownCounter = meter.create_up_down_counter(
            MODELFORGE_CLIENT_ACTIVE_STREAMS,
            unit="{stream}",
            description="Streamed responses that have begun and not yet ended.",
        )
        self.measurements: Measurements = measurements_of(meter_provider, meter)
        """Takes what is measured for these instruments."""

    def is_available(self) -> bool:
        """Return whether someone records; once true it stays so, since a provider is set once in a process."""
        if not self._available:
            self._available = is_otel_available(self._tracer_provider, self._meter_provider)
        return self._available


_active: Telemetry | None = None


def active_telemetry() -> Telemetry | None:
    """Return what the instrumentor set up, or None while nothing is instrumented."""
    return _active


def set_active_telemetry(telemetry: Telemetry | None) -> None:
    """Make ``telemetry`` what every model handed out by an instrumented registry reports to from its next call on."""
    global _active  # noqa: PLW0603
    _active = telemetry


@lru_cache(maxsize=8)
def standalone_telemetry(tracer_provider: TracerProvider, meter_provider: MeterProvider) -> Telemetry:
    """Return what callbacks report to that somebody made by hand, without an instrumentor to configure them."""
    return Telemetry(resolve(check_keywords({})), tracer_provider=tracer_provider, meter_provider=meter_provider)
