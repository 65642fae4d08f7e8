# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Real backend programs that receive the quickstart's telemetry: what arrives, and how they interpret it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from examples._shared.collector import Collector, read_spans
from examples._shared.local import loopback
from examples._shared.server import ANSWER, ChatServer
from examples._shared.tree import Span
from support import EXAMPLES, SUPPORT
from support.documentation import backends_hook
from support.examples import missing
from support.models import get_llm
from support.programs import Program, fetch, until
from support.providers import ProviderServer, Reply
from support.services import GET_LLM, HOST, MODEL, TIMEOUT, free_port
from support.telemetry import Telemetry

if reason := missing():
    pytest.skip(reason, allow_module_level=True)

QUICKSTART = EXAMPLES / "quickstart"
SETTINGS: dict[str, Any] = runpy.run_path(str(EXAMPLES / "backends" / "settings.py"), run_name="settings")["BACKENDS"]
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

QUESTION = "What should I wear in Lisbon today?"
TREE = ["answer question", f" {GET_LLM}", *[f" {MODEL}", "  POST"] * 3]
ON_BOTH = {
    "modelforge.provider": "openai",
    "modelforge.model": "gpt-4o-mini",
    "modelforge.llm_type": "openai_compatible",
    "gen_ai.provider.name": "openai",
    "server.address": HOST,
}
ON_GET_LLM = {**ON_BOTH, "modelforge.api_model": "gpt-4o-mini", "gen_ai.request.model": None}
ON_CALL = {
    **ON_BOTH,
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.operation.name": "chat",
    "gen_ai.response.model": "gpt-4o-mini",
    "gen_ai.usage.cost.currency": "USD",
    "gen_ai.usage.cost.source": "local",
    "modelforge.outcome": "completed",
}
TOKENS = [(29, 5), (69, 27), (86, 24)]
COSTS = [7.35e-06, 2.655e-05, 2.73e-05]
CALLS = [
    {
        **ON_CALL,
        "gen_ai.usage.input_tokens": read,
        "gen_ai.usage.output_tokens": written,
        "gen_ai.usage.cost.amount": cost,
        "gen_ai.request.stream": stream,
    }
    for (read, written), cost, stream in zip(TOKENS, COSTS, [None, None, True], strict=True)
]


# --- The programs ---


def _datadog(program: str, directory: Path) -> Program:
    checks = (
        "meta_tracer_version_header",
        "trace_content_length",
        "trace_count_header",
        "meta_events_is_valid_json",
        "trace_peer_service",
        "trace_dd_service",
    )
    ports = [free_port() for _ in range(3)]
    names = ("--port", "--otlp-http-port", "--otlp-grpc-port")
    options = [f"{name}={port}" for name, port in zip(names, ports, strict=True)]
    return Program(
        [program, *options, "--pool-trace-check-failures=true"],
        ports,
        directory,
        # The agent does not accept them as an option.
        ENABLED_CHECKS=",".join(checks),
    )


def _phoenix(program: str, directory: Path) -> Program:
    ports = [free_port(), free_port()]
    return Program(
        [program, "serve"],
        ports,
        directory,
        PHOENIX_ALLOW_EXTERNAL_RESOURCES="false",
        PHOENIX_GRPC_PORT=str(ports[1]),
        PHOENIX_HOST=HOST,
        PHOENIX_PORT=str(ports[0]),
        PHOENIX_TELEMETRY_ENABLED="false",
        PHOENIX_WORKING_DIR=str(directory),
    )


def _mlflow(program: str, directory: Path) -> Program:
    port = free_port()
    return Program(
        [
            program,
            "server",
            f"--host={HOST}",
            f"--port={port}",
            "--backend-store-uri=sqlite:///mlflow.db",
            "--workers=1",
        ],
        [port],
        directory,
        DO_NOT_TRACK="true",
        MLFLOW_DISABLE_TELEMETRY="true",
        # The runner of evaluations and similar jobs.
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
    )


PROGRAMS = {"ddapm-test-agent": _datadog, "phoenix": _phoenix, "mlflow": _mlflow}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Program]]:
    """The installed programs, all started at the same time, because two of them need many seconds."""
    directory = tmp_path_factory.mktemp("backends")
    started: dict[str, Program] = {}
    try:
        for name, start in PROGRAMS.items():
            if program := shutil.which(name):
                started[name] = start(program, directory / name)
        yield started
    finally:
        for program in started.values():
            program.stop()


def _ready(programs: Mapping[str, Program], name: str) -> Program:
    if name not in programs:
        pytest.skip(f"{name} is not installed")
    programs[name].wait()
    return programs[name]


@pytest.fixture(scope="module")
def agent(programs: Mapping[str, Program]) -> Program:
    """Datadog's agent, whose second port is for OTLP."""
    return _ready(programs, "ddapm-test-agent")


@pytest.fixture(scope="module")
def phoenix(programs: Mapping[str, Program]) -> Program:
    """Arize Phoenix."""
    return _ready(programs, "phoenix")


@pytest.fixture(scope="module")
def mlflow(programs: Mapping[str, Program]) -> Program:
    """MLflow's tracking server."""
    return _ready(programs, "mlflow")


# --- What is sent, and what arrived ---


def run(command: Sequence[str | Path], **variables: str) -> None:
    """Run a command in an environment in which ModelForge finds its model."""
    with loopback("quickstart", ChatServer(), Collector()) as environment:
        result = subprocess.run(
            command,
            capture_output=True,
            check=False,
            cwd=environment["HOME"],
            encoding="utf-8",
            env=environment | variables,
            timeout=TIMEOUT,
        )
    assert result.returncode == 0, result.stderr
    # Failures of exporters and of the telemetry are logged here.
    assert result.stderr == ""
    assert ANSWER in result.stdout


def run_example(backend: str, **variables: str) -> None:
    """Send to a backend as described in the README of `examples/backends`."""
    run([sys.executable, EXAMPLES, "backends", backend, "--content"], **variables)


def from_json(resource_spans: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Read OTLP in JSON, with ids in base 64."""
    request = ParseDict({"resource_spans": resource_spans}, ExportTraceServiceRequest())
    return read_spans(request.SerializeToString())


def tree(spans: Sequence[Span], parent_id: str | None = None, indent: str = "") -> list[str]:
    """Return the names of spans in start order, each below its parent's name and indented."""
    below = sorted((span for span in spans if span.parent_id == parent_id), key=lambda span: span.start_ns)
    return [line for span in below for line in (indent + span.name, *tree(spans, span.span_id, indent + " "))]


def named(spans: Sequence[Span], name: str) -> list[Span]:
    """Return the spans with a name, in start order."""
    return sorted((span for span in spans if span.name == name), key=lambda span: span.start_ns)


def of_all(attributes: Mapping[str, object], expected: Mapping[str, object]) -> dict[str, object]:
    """Return only the expected attributes, so that a comparison shows those that differ."""
    return {name: attributes.get(name) for name in expected}


def check(spans: Sequence[Span]) -> None:
    """Check what every backend must contain of the quickstart's trace."""
    assert tree(spans) == TREE
    (get_llm,) = named(spans, GET_LLM)
    assert of_all(get_llm.attributes, ON_GET_LLM) == ON_GET_LLM
    assert [of_all(span.attributes, CALLS[0]) for span in named(spans, MODEL)] == CALLS


# --- Datadog ---


def test_datadogs_agent_accepts_otlp(agent: Program) -> None:
    otlp = f"http://{HOST}:{agent.ports[1]}"
    settings = SETTINGS["datadog-agent"].environment({}) | {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp}
    script = Path(sys.executable).with_name("opentelemetry-instrument")
    run([script, sys.executable, QUICKSTART / "app.py"], **settings)

    (traces,) = fetch(f"{otlp}/test/session/traces")
    spans = from_json(traces["resource_spans"])
    check(spans)
    (get_llm,) = named(spans, GET_LLM)
    assert [span.links for span in named(spans, MODEL)] == [(get_llm.span_id,)] * 3
    (resource,) = traces["resource_spans"]
    assert {"key": "service.name", "value": {"string_value": "quickstart"}} in resource["resource"]["attributes"]

    metrics = [
        (metric["name"], metric.get("histogram", metric.get("sum", {}))["aggregation_temporality"])
        for request in fetch(f"{otlp}/test/session/metrics")
        for of_resource in request["resource_metrics"]
        for scope in of_resource["scope_metrics"]
        for metric in scope["metrics"]
    ]
    assert ("gen_ai.client.operation.cost", "AGGREGATION_TEMPORALITY_DELTA") in metrics
    assert ("modelforge.client.active_streams", "AGGREGATION_TEMPORALITY_CUMULATIVE") in metrics


def test_datadogs_tracer_creates_the_spans(agent: Program) -> None:
    if importlib.util.find_spec("ddtrace") is None:
        pytest.skip("ddtrace is not installed")
    run(
        [sys.executable, SUPPORT / "backend_app.py"],
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
        DD_SERVICE="quickstart",
        DD_TRACE_AGENT_URL=agent.url,
        DD_TRACE_OTEL_ENABLED="true",
        PYTHONPATH=os.pathsep.join([str(QUICKSTART), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )

    answer, (get_llm,), (failed,) = sorted(fetch(f"{agent.url}/test/session/traces"), key=len, reverse=True)
    # Datadog's term for OpenTelemetry's span name is "resource".
    check(
        [
            Span(
                name=span["resource"],
                span_id=str(span["span_id"]),
                parent_id=str(span["parent_id"]) if span.get("parent_id") else None,
                start_ns=span["start"],
                end_ns=span["start"] + span["duration"],
                attributes=span["meta"] | span["metrics"],
            )
            for span in answer
        ]
    )
    assert get_llm["resource"] == GET_LLM
    assert (failed["resource"], failed["error"]) == (MODEL, 1)
    assert of_all(failed["meta"], {**ON_BOTH, "modelforge.outcome": "", "error.type": "", "span.kind": ""}) == {
        **ON_BOTH,
        "modelforge.outcome": "failed",
        "error.type": "TypeError",
        "span.kind": "client",
    }
    assert [event["name"] for event in json.loads(failed["meta"]["events"])] == ["exception"]

    # The agent only checks that OTLP can be decoded.
    with urllib.request.urlopen(f"{agent.url}/test/trace_check/failures?return_all=true") as response:
        assert response.read() == b"200: OK"
    summary = fetch(f"{agent.url}/test/trace_check/summary?return_all=true")
    assert sorted(name for name, results in summary.items() if results["Passed_Checks"]) == [
        "meta_events_is_valid_json",
        "meta_tracer_version_header",
        "trace_content_length",
        "trace_count_header",
    ]


# --- Arize Phoenix ---


def phoenix_has(phoenix: Program, project: str, what: str, count: int) -> list[dict[str, Any]]:
    """Wait until a project has that many spans or sessions, and return them."""

    def find() -> list[dict[str, Any]] | None:
        # Phoenix creates a project for its first span, some time after receiving it.
        with contextlib.suppress(urllib.error.HTTPError):
            found = fetch(f"{phoenix.url}/v1/projects/{project}/{what}")["data"]
            if len(found) == count:
                return found
        return None

    return until(find)


@pytest.fixture(scope="module")
def stored(phoenix: Program) -> list[dict[str, Any]]:
    """Return Phoenix's spans once all have been stored."""
    run_example("phoenix", PHOENIX_URL=phoenix.url)
    return sorted(phoenix_has(phoenix, "default", "spans", len(TREE)), key=lambda span: span["start_time"])


def test_phoenix_has_the_trace(stored: list[dict[str, Any]]) -> None:
    check(
        [
            Span(
                name=span["name"],
                span_id=span["context"]["span_id"],
                parent_id=span["parent_id"],
                start_ns=order,
                end_ns=order,
                attributes=span["attributes"],
            )
            for order, span in enumerate(stored)
        ]
    )


def test_phoenix_recognizes_a_model_span_as_a_model_call(stored: list[dict[str, Any]]) -> None:
    kinds = [(span["name"], span["span_kind"]) for span in stored if span["span_kind"] == "LLM"]
    assert kinds == [(MODEL, "LLM")] * 3
    calls = [span for span in stored if span["name"] == MODEL]
    in_its_words = [
        {
            "llm.model_name": "gpt-4o-mini",
            "llm.provider": "openai",
            "llm.token_count.prompt": read,
            "llm.token_count.completion": written,
            "llm.token_count.total": read + written,
        }
        for read, written in TOKENS
    ]
    assert [of_all(span["attributes"], in_its_words[0]) for span in calls] == in_its_words
    said = {
        "llm.input_messages.0.message.content": QUESTION,
        "llm.input_messages.1.message.tool_calls.0.tool_call.function.name": "weather",
        "llm.input_messages.2.message.role": "tool",
        "llm.output_messages.0.message.content": ANSWER,
    }
    assert of_all(calls[2]["attributes"], said) == said


def test_phoenix_computes_the_cost_on_the_span(phoenix: Program, stored: list[dict[str, Any]]) -> None:
    trace_id = stored[0]["context"]["trace_id"]
    query = f'{{getTraceByOtelId(traceId: "{trace_id}") {{costSummary {{total {{cost tokens}}}}}}}}'

    def find() -> dict[str, float] | None:
        total = fetch(f"{phoenix.url}/graphql", {"query": query})["data"]["getTraceByOtelId"]["costSummary"]["total"]
        return None if total["cost"] is None else total

    # Costs are computed some time after the spans are stored.
    total = until(find)
    assert total["cost"] == pytest.approx(sum(COSTS))
    assert total["tokens"] == sum(map(sum, TOKENS))


def test_phoenix_reads_users_sessions_and_cache_writes_with_the_recipes(
    phoenix: Program,
    instrument: Callable[..., Telemetry],
    tracer_provider: TracerProvider,
    registry: Any,
    provider_server: ProviderServer,
) -> None:
    exporter = OTLPSpanExporter(f"{phoenix.url}/v1/traces", headers={"x-project-name": "recipes"})
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument(metadata_keys=["user.id", "session.id"], response_hook=backends_hook("add_other_names"))
    provider_server.reply = Reply(cache_write_tokens=3)
    llm = get_llm(registry, "openrouter", "qwen")
    llm.invoke("Hello", {"metadata": {"user.id": "u-7", "session.id": "s-42"}})

    spans = {span["name"]: span for span in phoenix_has(phoenix, "recipes", "spans", 3)}
    with_recipes = {
        "user.id": "u-7",
        "session.id": "s-42",
        "llm.token_count.prompt_details.cache_write": 3,
    }
    assert of_all(spans[MODEL]["attributes"], with_recipes) == with_recipes
    (session,) = phoenix_has(phoenix, "recipes", "sessions", 1)
    assert session["session_id"] == "s-42"


@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
def test_phoenixs_page_shows_the_trace(phoenix: Program, stored: list[dict[str, Any]], tmp_path: Path) -> None:
    project = fetch(f"{phoenix.url}/v1/projects/default")["data"]
    last = [span for span in stored if span["name"] == MODEL][-1]
    page = (
        f"{phoenix.url}/projects/{project['id']}/traces/{last['context']['trace_id']}?selectedSpanNodeId={last['id']}"
    )
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-gpu",
        "--disable-quic",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path}",
        # Milliseconds of the page's own time, which stops while it waits for an answer.
        "--virtual-time-budget=15000",
        "--dump-dom",
        page,
    ]

    def find() -> str | None:
        dom = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", timeout=TIMEOUT).stdout
        return dom if ANSWER in dom else None

    dom = until(find)
    assert dom.count(MODEL) >= 3
    for shown in ("answer question", GET_LLM, "POST", "gpt-4o-mini", QUESTION, ">110<"):
        assert shown in dom


# --- MLflow ---


def test_mlflow_has_the_trace(mlflow: Program) -> None:
    run_example("mlflow", MLFLOW_TRACKING_URI=mlflow.url)
    api = f"{mlflow.url}/api/3.0/mlflow/traces"
    experiment = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    (info,) = fetch(f"{api}/search", {"locations": [experiment]})["traces"]
    assert info["state"] == "OK"
    assert info["tags"]["service.name"] == "backends"
    read, written = map(sum, zip(*TOKENS, strict=True))
    assert json.loads(info["trace_metadata"]["mlflow.trace.tokenUsage"]) == {
        "input_tokens": read,
        "output_tokens": written,
        "total_tokens": read + written,
    }
    assert json.loads(info["trace_metadata"]["mlflow.trace.cost"])["total_cost"] == pytest.approx(sum(COSTS))

    stored = fetch(f"{api}/get?trace_id={info['trace_id']}")["trace"]["spans"]
    spans = from_json([{"scope_spans": [{"spans": stored}]}])
    check(spans)
    (get_llm,) = named(spans, GET_LLM)
    calls = named(spans, MODEL)
    assert [span.links for span in calls] == [(get_llm.span_id,)] * 3
    in_its_words = {
        "mlflow.spanType": "CHAT_MODEL",
        "mlflow.llm.model": "gpt-4o-mini",
        "mlflow.llm.provider": "openai",
    }
    assert [of_all(span.attributes, in_its_words) for span in calls] == [in_its_words] * 3
