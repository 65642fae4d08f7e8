# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Fixtures: a real ModelForge registry in front of loopback servers, and in-memory OpenTelemetry providers."""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.environment import isolate
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY, OPENROUTER_KEY, get_llm, without_retries, write_config
from support.providers import ProviderServer
from support.sampling import sample
from support.telemetry import Telemetry

if TYPE_CHECKING:
    from modelforge import ModelForgeRegistry

isolate()


# --- Samples ---


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="run all cases of tests that are sampled by default")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a sample of the selected cases of each test that is marked `sampled`."""
    if config.getoption("exhaustive"):
        return
    cases: defaultdict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("sampled") is not None:
            cases[item.nodeid.partition("[")[0]].append(item)
    left_out = {item for of_test in cases.values() for item in set(of_test).difference(sample(of_test, _aspects))}
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def _aspects(item: pytest.Function) -> Iterable[Hashable]:
    marker = item.get_closest_marker("sampled")
    assert marker is not None
    return marker.kwargs["by"](**item.callspec.params)


# --- ModelForge ---


@pytest.fixture
def provider_server() -> Iterator[ProviderServer]:
    """All the providers, on separate ports for each test."""
    with ProviderServer() as server:
        yield server


@pytest.fixture
def model_config(provider_server: ProviderServer) -> dict[str, Any]:
    """The contents of ModelForge's config.json. Change it before asking for `registry`, or call `write_config`."""
    device_flow = {
        "client_id": "Iv1.0123456789abcdef",
        "device_code_url": f"{provider_server.url}/login/device/code",
        "token_url": f"{provider_server.url}/login/oauth/access_token",
        "scope": "read:user",
    }
    return {
        "providers": {
            "openai": {
                "llm_type": "openai_compatible",
                "base_url": f"{provider_server.url}/v1",
                "auth_strategy": "api_key",
                "auth_data": {"api_key": OPENAI_KEY},
                "models": {"gpt-4o-mini": {}, "fast": {"api_model_name": "gpt-4o-mini"}},
            },
            "openrouter": {
                "llm_type": "openai_compatible",
                "base_url": f"{provider_server.url}/api/v1",
                "auth_strategy": "api_key",
                "auth_data": {"api_key": OPENROUTER_KEY},
                "models": {"qwen": {"api_model_name": "qwen/qwen3-coder"}},
            },
            "ollama": {
                "llm_type": "ollama",
                "base_url": provider_server.url,
                "models": {"llama3": {}},
            },
            "google": {
                "llm_type": "google_genai",
                "auth_strategy": "api_key",
                "auth_data": {"api_key": GOOGLE_KEY},
                "models": {"gemini-2.5-flash": {}, "gemini": {"api_model_name": "gemini-2.5-flash"}},
            },
            "github_copilot": {
                "llm_type": "github_copilot",
                "base_url": "https://api.githubcopilot.com",
                "auth_strategy": "device_flow",
                "auth_details": device_flow,
                "auth_data": {
                    "access_token": COPILOT_TOKEN,
                    "refresh_token": "ghr_test0123456789abcdefghijklmnopqrstuv",
                    "expires_at": "2999-01-01T00:00:00+00:00",
                },
                "models": {"gpt-4o": {}, "claude": {"api_model_name": "claude-3.5-sonnet"}},
            },
        },
        "current_model": {"provider": "openai", "model": "gpt-4o-mini"},
    }


@pytest.fixture(autouse=True)
def configuration_removed() -> Iterator[None]:
    """Remove ModelForge's configuration after each test."""
    yield
    from modelforge.config import GLOBAL_CONFIG_FILE

    GLOBAL_CONFIG_FILE.unlink(missing_ok=True)


@pytest.fixture
def redirected(provider_server: ProviderServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Redirect to `provider_server` the requests that ModelForge's configuration cannot redirect."""
    from langchain_github_copilot import chat_models as copilot
    from langchain_google_genai import _genai_extension as google
    from modelforge.modelsdev import ModelsDevClient

    monkeypatch.setattr(copilot, "API_ENDPOINT", provider_server.url)
    monkeypatch.setattr(google.get_config(), "api_endpoint", provider_server.google_address)
    monkeypatch.setattr(ModelsDevClient, "BASE_URL", provider_server.url)
    monkeypatch.setattr(ModelsDevClient, "CACHE_DIR", tmp_path / "modelsdev")


@pytest.fixture
def registry(redirected: None, model_config: dict[str, Any]) -> ModelForgeRegistry:
    """A registry that uses `provider_server` for its providers and for models.dev."""
    from modelforge import ModelForgeRegistry

    write_config(model_config)
    return ModelForgeRegistry()


# --- OpenTelemetry ---


@pytest.fixture
def span_exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer_provider(span_exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(span_exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def metric_reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def meter_provider(metric_reader: InMemoryMetricReader) -> Iterator[MeterProvider]:
    provider = MeterProvider([metric_reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


@pytest.fixture
def log_exporter() -> InMemoryLogRecordExporter:
    return InMemoryLogRecordExporter()


@pytest.fixture
def logger_provider(log_exporter: InMemoryLogRecordExporter) -> Iterator[LoggerProvider]:
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(log_exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def instrument(
    tracer_provider: TracerProvider,
    meter_provider: MeterProvider,
    logger_provider: LoggerProvider,
    span_exporter: InMemorySpanExporter,
    metric_reader: InMemoryMetricReader,
    log_exporter: InMemoryLogRecordExporter,
) -> Iterator[Callable[..., Telemetry]]:
    """Call it with options for `ModelForgeInstrumentor` to instrument ModelForge and the HTTP clients it uses."""
    with contextlib.ExitStack() as stack:

        def instrument(**options: Any) -> Telemetry:
            from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

            for instrumentor in _http_instrumentors():
                # Only their spans are checked.
                instrumentor.instrument(tracer_provider=tracer_provider, skip_dep_check=True)
                stack.callback(instrumentor.uninstrument)
            modelforge = ModelForgeInstrumentor()
            modelforge.instrument(
                tracer_provider=tracer_provider,
                meter_provider=meter_provider,
                logger_provider=logger_provider,
                skip_dep_check=True,
                **options,
            )
            stack.callback(modelforge.uninstrument)
            return Telemetry(tracer_provider.get_tracer("tests"), span_exporter, metric_reader, log_exporter)

        yield instrument


@pytest.fixture
def instrumented(instrument: Callable[..., Telemetry]) -> Telemetry:
    """ModelForge and the HTTP clients it uses, instrumented with default options."""
    return instrument()


@pytest.fixture
def model(instrumented: Telemetry, registry: ModelForgeRegistry) -> Callable[..., Any]:
    """Return instrumented models that fail at the first error."""
    from support.calls import MODELS

    def model(provider: str = "openai", **options: Any) -> Any:
        return without_retries(get_llm(registry, provider, MODELS[provider], **options))

    return model


@pytest.fixture
def llm(model: Callable[..., Any]) -> Any:
    return model()


def _http_instrumentors() -> Iterator[Any]:
    """The installed ones. OpenAI uses httpx, GitHub Copilot requests, Ollama requests and aiohttp, Google gRPC."""
    for library, name in (
        ("httpx", "HTTPXClientInstrumentor"),
        ("requests", "RequestsInstrumentor"),
        ("aiohttp_client", "AioHttpClientInstrumentor"),
        ("grpc", "GrpcAioInstrumentorClient"),
    ):
        with contextlib.suppress(ModuleNotFoundError):
            yield getattr(importlib.import_module(f"opentelemetry.instrumentation.{library}"), name)()


# --- Other interpreters ---


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call it with arguments and environment variables to start a fresh Python interpreter."""

    def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return python


@pytest.fixture
def nothing_left(
    meter_provider: MeterProvider, metric_reader: InMemoryMetricReader, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Check at the end that no call or stream is open, the context is restored, and nothing went wrong."""
    from opentelemetry.context import get_current

    from opentelemetry_instrumentation_modelforge.call import open_calls
    from support.calls import await_dropped

    before = get_current()
    yield
    await_dropped()
    left, _ = dict(open_calls), open_calls.clear()
    assert left == {}
    assert get_current() is before
    data = metric_reader.get_metrics_data()
    streams = [
        point.value
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "modelforge.client.active_streams"
        for point in metric.data.data_points
    ]
    assert sum(streams) == 0
    messages = [record.getMessage() for record in caplog.get_records("call")]
    assert [text for text in messages if "detach" in text or "Telemetry fault" in text] == []
