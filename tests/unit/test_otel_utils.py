# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Whether OpenTelemetry records, and how faults in telemetry are handled."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import wrapt
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NoOpTracerProvider

from opentelemetry_instrumentation_modelforge import is_otel_available, otel_utils
from opentelemetry_instrumentation_modelforge.otel_utils import Guard, get_tracer

Python = Callable[..., "subprocess.CompletedProcess[str]"]

PRINT = "from opentelemetry_instrumentation_modelforge import is_otel_available; print(is_otel_available())"
SET_TRACES = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_tracer_provider
set_tracer_provider(TracerProvider())
"""
SET_METRICS = """
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
set_meter_provider(MeterProvider())
"""
SET_NO_OPS = """
from opentelemetry.metrics import NoOpMeterProvider, set_meter_provider
from opentelemetry.trace import NoOpTracerProvider, set_tracer_provider
set_meter_provider(NoOpMeterProvider())
set_tracer_provider(NoOpTracerProvider())
"""
HIDE_SDK = """
import sys
class Hider:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("opentelemetry.sdk"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hider())
"""


# --- is_otel_available ---


@pytest.mark.parametrize(
    ("setup", "environment", "available"),
    [
        ("", {}, False),
        (SET_TRACES, {}, True),
        (SET_METRICS, {}, True),
        (SET_NO_OPS, {}, False),
        (SET_TRACES, {"OTEL_SDK_DISABLED": "true"}, False),
        (HIDE_SDK, {}, False),
    ],
    ids=["no provider", "traces", "metrics", "no-op providers", "SDK disabled", "SDK not installed"],
)
def test_the_global_providers_determine_whether_opentelemetry_records(
    python: Python, setup: str, environment: dict[str, str], available: bool
) -> None:
    done = python("-W", "error", "-c", setup + PRINT, **environment)
    assert (done.stdout, done.stderr) == (f"{available}\n", "")


def test_a_provider_that_is_set_later_is_used_from_then_on(python: Python) -> None:
    done = python("-c", f"{PRINT}{SET_TRACES}print(is_otel_available())")
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")


def test_the_given_providers_determine_whether_opentelemetry_records(
    tracer_provider: TracerProvider, meter_provider: MeterProvider
) -> None:
    assert is_otel_available(tracer_provider)
    assert is_otel_available(meter_provider=meter_provider)
    assert is_otel_available(tracer_provider, NoOpMeterProvider())
    assert is_otel_available(NoOpTracerProvider(), meter_provider)
    assert not is_otel_available(NoOpTracerProvider(), NoOpMeterProvider())


@pytest.mark.parametrize("value", ["true", "TRUE", " True "])
def test_a_disabled_sdk_records_nothing(
    value: str, tracer_provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    assert not is_otel_available(tracer_provider)


@pytest.mark.parametrize("value", ["", "false", "1", "yes"])
def test_only_the_value_true_disables_the_sdk(
    value: str, tracer_provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", value)
    assert is_otel_available(tracer_provider)


# --- get_tracer ---


def test_the_tracer_of_a_provider_is_created_once(tracer_provider: TracerProvider) -> None:
    assert get_tracer(tracer_provider) is get_tracer(tracer_provider)
    assert get_tracer() is get_tracer()
    assert get_tracer(tracer_provider) is not get_tracer()


class PlainProvider(TracerProvider):
    """A provider without a hash, like a plain dataclass."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlainProvider)


def test_a_provider_needs_no_hash_and_differs_from_one_that_equals_it() -> None:
    first, second = PlainProvider(shutdown_on_exit=False), PlainProvider(shutdown_on_exit=False)
    assert first == second
    assert get_tracer(first) is get_tracer(first)
    assert get_tracer(first) is not get_tracer(second)


def test_the_tracers_of_a_few_providers_are_kept() -> None:
    for _ in range(20):
        get_tracer(TracerProvider(shutdown_on_exit=False))
    assert len(otel_utils._tracers) == 8


def test_the_global_tracer_records_once_the_global_provider_is_set(python: Python) -> None:
    done = python(
        "-c",
        "from opentelemetry_instrumentation_modelforge.otel_utils import get_tracer\n"
        f"tracer = get_tracer(){SET_TRACES}span = tracer.start_span('name')\n"
        "print(span.is_recording(), span.instrumentation_scope.name)",
    )
    assert (done.stdout, done.stderr) == ("True opentelemetry_instrumentation_modelforge\n", "")


# --- Guard ---


PROMPT = "the purple heron"


def fault() -> None:
    raise LookupError(PROMPT)


def test_a_fault_is_logged_once_as_a_warning_and_then_at_debug_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "opentelemetry_instrumentation_modelforge")
    guard = Guard("testing")
    for _ in range(3):
        with guard:
            fault()
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    for record in caplog.records:
        first, *stack = record.getMessage().splitlines()
        assert first == "Telemetry fault while testing; the application is not affected"
        assert stack[0] == "Traceback (most recent call last):"
        assert stack[-3].endswith(", in fault")
        assert stack[-2:] == ["    raise LookupError(PROMPT)", "LookupError"]


def test_a_faults_quotations_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def hook() -> None:
        try:
            fault()
        except LookupError as error:
            error.add_note(PROMPT)
            raise KeyError(PROMPT) from error

    try:
        int(PROMPT)
    except ValueError:
        with Guard("testing"):
            hook()
    (record,) = caplog.records
    assert PROMPT not in logging.Formatter().format(record)
    assert record.exc_info is None
    kinds = [line for line in record.getMessage().splitlines() if line.endswith("Error")]
    assert kinds == ["LookupError", "KeyError"]


def test_a_fault_is_not_described_if_logging_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[BaseException] = []
    monkeypatch.setattr(otel_utils, "fault_text", described.append)
    monkeypatch.setattr(logging.getLogger("opentelemetry_instrumentation_modelforge.otel_utils"), "disabled", True)
    with Guard("testing"):
        fault()
    assert described == []


class TimeLimit(Exception):
    """An exception raised by a signal handler, like Celery's SoftTimeLimitExceeded."""


def function_handler(number: int, frame: object) -> None:
    raise TimeLimit


class HandlerWithMethod:
    def handle(self, number: int, frame: object) -> None:
        raise TimeLimit

    @classmethod
    def handle_for_class(cls, number: int, frame: object) -> None:
        raise TimeLimit

    @staticmethod
    def handle_alone(number: int, frame: object) -> None:
        raise TimeLimit


class CallableHandler:
    def __call__(self, number: int, frame: object) -> None:
        raise TimeLimit


class ReluctantHandler(CallableHandler):
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)


class HandlerThatIsAPartial:
    __call__ = functools.partial(function_handler)


@wrapt.decorator
def passing_on(wrapped: Callable[..., None], instance: object, args: tuple[object, ...], kwargs: object) -> None:
    return wrapped(*args)


@functools.wraps(function_handler)
def wrapper(number: int, frame: object) -> None:
    raise TimeLimit


HANDLERS: dict[str, Callable[[int, object], object]] = {
    "function": function_handler,
    "lambda": lambda number, frame: fault_of_the_application(),
    "bound method": HandlerWithMethod().handle,
    "class method": HandlerWithMethod.handle_for_class,
    "static method": HandlerWithMethod.handle_alone,
    "partial": functools.partial(function_handler),
    "partial of a partial's method": functools.partial(functools.partial(HandlerWithMethod().handle)),
    "object": CallableHandler(),
    "object whose attributes raise": ReluctantHandler(),
    "partial of an object": functools.partial(CallableHandler()),
    "object whose call is a partial": HandlerThatIsAPartial(),
    "wrapper": wrapper,
    "wrapt's decorator": passing_on(function_handler),
    "cached function": functools.lru_cache(function_handler),
}


def fault_of_the_application() -> None:
    raise TimeLimit


@pytest.fixture
def handle() -> Iterator[Callable[[Any], None]]:
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda handler: signal.signal(signal.SIGUSR1, handler)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("kind", HANDLERS)
def test_an_exception_of_a_signal_handler_propagates(
    kind: str, handle: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    handle(HANDLERS[kind])
    with pytest.raises(TimeLimit), Guard("testing"):
        signal.raise_signal(signal.SIGUSR1)
    assert caplog.records == []


@pytest.mark.parametrize("kind", HANDLERS)
def test_a_fault_is_suppressed_whatever_handles_signals(kind: str, handle: Callable[[Any], None]) -> None:
    handle(HANDLERS[kind])
    with Guard("testing"):
        fault()


def test_an_exception_of_a_signal_handler_while_a_fault_is_logged_propagates(handle: Callable[[Any], None]) -> None:
    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            signal.raise_signal(signal.SIGUSR1)

    handle(function_handler)
    logger, slow = logging.getLogger("opentelemetry_instrumentation_modelforge"), Slow()
    logger.addHandler(slow)
    try:
        with pytest.raises(TimeLimit), Guard("testing"):
            fault()
    finally:
        logger.removeHandler(slow)


def test_each_site_logs_its_own_warning(caplog: pytest.LogCaptureFixture) -> None:
    for site in ("one", "two"):
        with Guard(site):
            fault()
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.WARNING]


def test_nothing_is_logged_without_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Guard("testing"):
        pass
    assert caplog.records == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_a_base_exception_propagates(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    error = kind()
    with pytest.raises(kind) as raised, Guard("testing"):
        raise error
    assert raised.value is error
    assert caplog.records == []


def test_a_fault_whose_message_cannot_be_generated_is_suppressed_too(caplog: pytest.LogCaptureFixture) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    with Guard("testing"):
        raise Mute
    assert len(caplog.records) == 1


def test_a_guard_is_reentrant(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("testing")
    with guard, guard:
        fault()
    assert len(caplog.records) == 1


def test_a_logging_handler_that_raises_does_not_reach_the_application() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("broken handler")

    logger, handler = logging.getLogger("opentelemetry_instrumentation_modelforge"), Broken()
    logger.addHandler(handler)
    try:
        with Guard("testing"):
            fault()
    finally:
        logger.removeHandler(handler)
