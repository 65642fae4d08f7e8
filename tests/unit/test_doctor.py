# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The doctor's parts: findings, their rendering, and the detection of exporters and endpoints."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import ProxyTracerProvider

from opentelemetry_instrumentation_modelforge.doctor import as_json, as_text, distributions, examine, setup
from opentelemetry_instrumentation_modelforge.doctor.endpoint import Endpoint, Probe, Protocol
from opentelemetry_instrumentation_modelforge.doctor.exporters import Exporter, exporters_of
from opentelemetry_instrumentation_modelforge.doctor.finding import (
    Check,
    Diagnosis,
    Finding,
    State,
    listed,
    ok,
    problem,
    warning,
)
from support.providers import unused_port

HOST = "127.0.0.1"


def diagnosis(*findings: Finding) -> Diagnosis:
    names = [f"check_{number}" for number, _ in enumerate(findings)]
    return Diagnosis(dict(zip(names, findings, strict=True)), {name: name.title() for name in names})


# --- Findings ---


def test_a_check_that_fails_is_a_warning() -> None:
    def fail(subject: str) -> Finding:
        raise KeyError(subject)

    finding = Check("name", "Title", fail).run("sk-test-0123456789abcdefghijklmnop")
    assert finding.state is State.WARNING
    assert finding.detail == "this check failed: KeyError"
    assert finding.data["error"] == "KeyError"
    assert "sk-test" not in str(finding)


def test_credentials_are_removed_from_a_finding() -> None:
    finding = ok(
        "to https://user:hunter2@host/otlp/9f8e7d6c5b4a39281706f5e4d3c2b1a0/v1/traces",
        "export KEY=sk-test-0123456789abcdefghijklmnop",
        {"rows": [{"a": "own-secret"}, 1], "models": {"acme/sk-test-0123456789abcdefghijklmnop": "unknown"}},
    ).without(["own-secret"])
    assert finding == ok(
        "to https://[REDACTED]@host/otlp/[REDACTED]/v1/traces",
        "export KEY=[REDACTED]",
        {"rows": [{"a": "[REDACTED]"}, 1], "models": {"acme/[REDACTED]": "unknown"}},
    )


def test_spans_are_expected_if_there_is_no_problem() -> None:
    assert diagnosis(ok("well"), warning("less")).spans_expected
    assert not diagnosis(ok("well"), problem("none")).spans_expected


def test_many_names_are_counted() -> None:
    assert listed(["a", "b", "a"]) == "a, b"
    assert listed("abcdefgh") == "a, b, c, d, e and 3 more"


# --- Rendering ---


def test_the_text_has_a_verdict_and_a_row_for_each_check() -> None:
    text = as_text(diagnosis(ok("well"), problem("first\nsecond", "do this"), warning("less")))
    assert text == (
        "No spans will come. Problems: Check_1.\n"
        "\n"
        "ok       Check_0           well\n"
        "PROBLEM  Check_1           first\n"
        "                           second\n"
        "                           -> do this\n"
        "warning  Check_2           less\n"
    )


def test_the_verdict_names_warnings() -> None:
    assert as_text(diagnosis(ok("well"))).startswith("Spans will come.\n")
    assert as_text(diagnosis(warning("less"))).startswith("Spans will come. Warnings: Check_0.\n")


def test_lines_are_wrapped_and_commands_are_not_cut() -> None:
    text = as_text(diagnosis(ok("word " * 30 + "x" * 80)), width=60)
    lines = text.splitlines()[2:]
    assert max(map(len, lines[:-1])) <= 60
    assert lines[-1].strip() == "x" * 80


def test_colors_are_only_used_in_a_terminal() -> None:
    assert "\033[31mPROBLEM \033[0m" in as_text(diagnosis(problem("none")), color=True)


def test_the_json_has_the_documented_keys() -> None:
    assert json.loads(as_json(diagnosis(problem("none", "do", {"key": [1]})))) == {
        "schema": 1,
        "spans_expected": False,
        "checks": [
            {
                "name": "check_0",
                "title": "Check_0",
                "state": "problem",
                "detail": "none",
                "remedy": "do",
                "data": {"key": [1]},
            }
        ],
    }


# --- Exporters ---


def endpoints(exporters: list[Exporter]) -> set[tuple[str, str | None]]:
    return {(exporter.name, exporter.endpoint.url if exporter.endpoint else None) for exporter in exporters}


def test_exporters_are_found_inside_processors() -> None:
    class Wrapper(SpanExporter):
        def __init__(self, exporter: SpanExporter) -> None:
            self.wrapped = exporter

        def export(self, spans: Any) -> SpanExportResult:
            return self.wrapped.export(spans)

    provider = TracerProvider(ConcurrentMultiSpanProcessor(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(GrpcSpanExporter(endpoint="https://collector.example:4317")))
    provider.add_span_processor(SimpleSpanProcessor(Wrapper(HttpSpanExporter(endpoint="http://localhost:1/v1/traces"))))
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    assert endpoints(exporters_of("traces", provider)) == {
        ("OTLPSpanExporter", "https://collector.example:4317"),
        ("OTLPSpanExporter", "http://localhost:1/v1/traces"),
        ("ConsoleSpanExporter", None),
    }
    provider.shutdown()


def test_exporters_of_metrics_and_events_are_found() -> None:
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint="http://localhost:1/v1/metrics"), 10**9)
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    assert endpoints(exporters_of("metrics", meter_provider)) == {
        ("OTLPMetricExporter", "http://localhost:1/v1/metrics")
    }
    logger_provider = LoggerProvider(shutdown_on_exit=False)
    logger_provider.add_log_record_processor(
        BatchLogRecordProcessor(OTLPLogExporter(endpoint="http://localhost:1/v1/logs"))
    )
    assert endpoints(exporters_of("logs", logger_provider)) == {("OTLPLogExporter", "http://localhost:1/v1/logs")}


def test_an_exporters_headers_are_kept_and_not_shown() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(HttpSpanExporter(headers={"x-key": "secret"})))
    (exporter,) = exporters_of("traces", provider)
    assert exporter.endpoint is not None
    assert exporter.endpoint.headers["x-key"] == "secret"
    assert "secret" not in repr(exporter)


def test_a_malformed_header_is_not_logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "a=b,x-key: secret")
    (exporter,) = exporters_of("traces", ProxyTracerProvider())
    assert exporter.endpoint is not None
    assert exporter.endpoint.headers == {"a": "b"}
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {("otlp", "http://localhost:4317")}),
        ({"OTEL_TRACES_EXPORTER": "none"}, set()),
        ({"OTEL_TRACES_EXPORTER": "console"}, {("console", None)}),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, {("otlp", "http://localhost:4318/v1/traces")}),
        (
            {"OTEL_TRACES_EXPORTER": "otlp_proto_http,console", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://h/base/"},
            {("otlp_proto_http", "https://h:443/base/v1/traces"), ("console", None)},
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://user:password@h:1/own?key=1",
            },
            {("otlp", "http://h:1/own")},
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "h:4317"}, {("otlp", "https://h:4317")}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "h:4317", "OTEL_EXPORTER_OTLP_INSECURE": "true"}, {("otlp", "http://h:4317")}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:4317"}, {("otlp", "http://[::1]:4317")}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:port"}, {("otlp", None)}),
    ],
)
def test_without_an_sdk_the_variables_name_the_exporters(
    environment: dict[str, str], expected: set[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert endpoints(exporters_of("traces", ProxyTracerProvider())) == expected


def test_a_malformed_endpoint_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://")
    (exporter,) = exporters_of("traces", ProxyTracerProvider())
    assert exporter.fault == "its endpoint is not a URL with a host"


# --- Endpoints ---


@contextmanager
def serving(*replies: bytes) -> Iterator[int]:
    """Serve one reply per connection, and the last one to all further connections. An empty reply is never sent."""
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            held = []
            for number in range(20):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                if reply := replies[min(number, len(replies) - 1)]:
                    connection.recv(65536)
                    connection.sendall(reply)
                    connection.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def ask(protocol: Protocol, url: str) -> tuple[State, str]:
    answer = Probe(Endpoint.parse("traces", protocol, url, {})).answer()
    return answer.state, answer.detail


@pytest.mark.parametrize(
    ("status", "state", "text"),
    [
        ("200 OK", State.OK, "accepts OTLP"),
        ("400 Bad Request", State.OK, "answers HTTP 400 to a request without data"),
        ("401 Unauthorized", State.PROBLEM, "refuses the exporter's credentials (HTTP 401)"),
        ("404 Not Found", State.PROBLEM, "answers HTTP 404, so it does not take traces at /v1/traces"),
        ("302 Found", State.PROBLEM, "redirects with HTTP 302"),
        ("503 Service Unavailable", State.WARNING, "answers HTTP 503"),
    ],
)
def test_http_statuses_are_distinguished(status: str, state: State, text: str) -> None:
    # The first connection only checks whether something listens.
    reply = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    with serving(b"", reply) as port:
        assert ask("http/protobuf", f"http://{HOST}:{port}/v1/traces") == (state, text)


def test_the_credentials_of_a_url_are_sent_and_not_shown() -> None:
    endpoint = Endpoint.parse("traces", "http/protobuf", "http://user:p%40ss@host:1/v1/traces?key=secret", {})
    assert endpoint.headers == {"authorization": "Basic dXNlcjpwQHNz"}
    assert endpoint.query == "key=secret"
    assert endpoint.url == "http://host:1/v1/traces"
    assert not {"p%40ss", "p@ss", "dXNlcjpwQHNz", "secret"} & set(repr(endpoint).replace("'", " ").split())


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_port_without_a_listener_is_reported(protocol: Protocol) -> None:
    assert ask(protocol, f"http://{HOST}:{unused_port()}") == (State.PROBLEM, "nothing listens there")


def test_an_unknown_host_is_reported() -> None:
    state, text = ask("grpc", "http://no-such-host.invalid:4317")
    assert state is State.PROBLEM
    assert "no-such-host.invalid" in text or "no answer" in text


def test_a_server_that_requires_tls_is_reported() -> None:
    alert = bytes((0x15, 3, 1, 0, 2, 2, 70))
    with serving(b"", alert) as port:
        assert ask("http/protobuf", f"http://{HOST}:{port}/v1/traces") == (State.PROBLEM, "speaks only TLS")


def test_a_server_that_does_not_answer_is_given_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(b"") as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{HOST}:{port}")
        before = monotonic()
        # ModelForge is already imported.
        found = examine()
        assert monotonic() - before < 6
    assert "no spans" in as_text(found).lower()
    assert "does not speak OTLP (grpc)" in found.findings["exporters"].detail


def test_endpoints_behind_a_proxy_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:password@proxy.example:3128")
    state, text = ask("http/protobuf", "https://collector.example/v1/traces")
    assert state is State.OK
    assert text == "not asked, because requests go through the proxy in https_proxy"


# --- Installation ---


def test_without_an_sdk_the_extra_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "version_of", lambda name: None)
    fault = setup.setup_fault()
    assert fault is not None
    assert fault.detail == "the OpenTelemetry SDK is not installed"
    assert fault.remedy == "pip install 'opentelemetry-instrumentation-modelforge[otel]'"


def test_valid_settings_have_no_fault() -> None:
    assert setup.setup_fault() is None


def test_the_versions_are_those_that_are_installed() -> None:
    versions = distributions.relevant_versions()
    assert versions["opentelemetry-api"] == distributions.version_of("opentelemetry-api")
    assert next(iter(versions)) == "opentelemetry-instrumentation-modelforge"


def test_a_consistent_environment_has_no_conflicts() -> None:
    assert distributions.conflicts() == {}
