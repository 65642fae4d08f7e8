# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""The diagnosis command, in processes that are set up correctly and in ones that are not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import opentelemetry_instrumentation_modelforge
from support import DOCS
from support.environment import lacking
from support.models import COPILOT_TOKEN, GOOGLE_KEY, OPENAI_KEY, OPENROUTER_KEY, write_config
from support.providers import ProviderServer, unused_port

COMMAND = ("-m", "opentelemetry_instrumentation_modelforge")
LAUNCHER = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
PACKAGE = Path(opentelemetry_instrumentation_modelforge.__file__).parent
SITE = Path(sysconfig.get_path("purelib"))
ON_CONSOLE = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
TO_RECEIVER = {**ON_CONSOLE, "OTEL_TRACES_EXPORTER": "otlp"}

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "spans_expected", "checks"],
    "properties": {
        "schema": {"const": 1},
        "spans_expected": {"type": "boolean"},
        "checks": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "title", "state", "detail", "remedy", "data"],
                "properties": {
                    "name": {"type": "string", "pattern": "^[a-z_]+$"},
                    "title": {"type": "string"},
                    "state": {"enum": ["ok", "warning", "problem"]},
                    "detail": {"type": "string", "minLength": 1},
                    "remedy": {"type": "string"},
                    "data": {"type": "object"},
                },
            },
        },
    },
}


@dataclass(frozen=True)
class Answer:
    """The output of the command."""

    exit_code: int
    checks: dict[str, dict[str, Any]]
    document: dict[str, Any]
    logged: str

    @property
    def problems(self) -> list[str]:
        return [name for name, check in self.checks.items() if check["state"] == "problem"]

    @property
    def warnings(self) -> list[str]:
        return [name for name, check in self.checks.items() if check["state"] == "warning"]


def answer_of(done: subprocess.CompletedProcess[str]) -> Answer:
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert done.returncode == (0 if document["spans_expected"] else 1)
    return Answer(done.returncode, {check["name"]: check for check in document["checks"]}, document, done.stderr)


Doctor = Callable[..., Answer]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def doctor(python: Python) -> Doctor:
    """Run the doctor in a process started by `opentelemetry-instrument`, with spans on the console."""
    if reason := lacking(instrumentors=("modelforge",)):
        pytest.skip(reason)

    def doctor(*command: str, **environment: str) -> Answer:
        command = command or (*COMMAND, "--json")
        return answer_of(python(LAUNCHER, sys.executable, *command, **{**ON_CONSOLE, **environment}))

    return doctor


@pytest.fixture
def program(python: Python) -> Callable[..., Answer]:
    """Run the doctor at the end of a program that nothing else has set up."""

    def program(text: str, *options: str, **environment: str) -> Answer:
        return answer_of(python(*options, "-c", text + ASK, **environment))

    return program


ASK = """
import sys
from opentelemetry_instrumentation_modelforge.__main__ import main
sys.exit(main(["--json"]))
"""


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[dict[str, int]]:
    """The ports of an OTLP receiver."""
    directory = tmp_path / "received"
    directory.mkdir()
    program = Path(__file__).parents[1] / "support" / "receiver.py"
    with subprocess.Popen(
        [sys.executable, str(program), str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.communicate()
    # Only requests without data arrived.
    assert {file.read_bytes() for file in directory.glob("*.pb")} <= {b""}


# --- Spans are expected ---


def test_a_process_that_is_set_up_correctly_has_no_problem(doctor: Doctor) -> None:
    answer = doctor()
    assert answer.exit_code == 0
    assert answer.problems == []
    assert answer.checks["instrumentation"]["data"] == {"by": "opentelemetry-instrument"}
    assert answer.checks["patches"]["data"] == {"active": True, "warnings": []}
    assert answer.checks["exporters"]["data"]["exporters"] == [
        {
            "signal": "traces",
            "exporter": "ConsoleSpanExporter",
            "endpoint": None,
            "protocol": None,
            "state": "ok",
            "answer": "",
        }
    ]


@pytest.mark.parametrize(("protocol", "port"), [("grpc", "grpc"), ("http/protobuf", "http")])
def test_an_endpoint_that_accepts_spans_is_no_problem(
    doctor: Doctor, receiver: dict[str, int], protocol: str, port: str
) -> None:
    answer = doctor(
        **{**TO_RECEIVER, "OTEL_METRICS_EXPORTER": "otlp"},
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver[port]}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert answer.problems == []
    rows = answer.checks["exporters"]["data"]["exporters"]
    assert [(row["signal"], row["state"], row["answer"]) for row in rows] == [
        ("traces", "ok", "accepts OTLP"),
        ("metrics", "ok", "accepts OTLP"),
    ]


def test_an_application_that_instruments_itself_is_no_problem(program: Callable[..., Answer]) -> None:
    answer = program(
        """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
ModelForgeInstrumentor().instrument(span_names="semconv")
"""
    )
    assert answer.problems == []
    assert answer.checks["instrumentation"]["data"] == {"by": "ModelForgeInstrumentor().instrument() in code"}
    assert answer.checks["options"]["data"]["options"]["span_names"] == {"value": "'semconv'", "source": "instrument()"}


def test_an_application_with_its_own_provider_is_no_problem(program: Callable[..., Answer]) -> None:
    answer = program(
        """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
ModelForgeInstrumentor().instrument(tracer_provider=provider)
"""
    )
    assert answer.problems == []
    assert answer.checks["recording"]["data"]["providers"]["traces"] == "the SDK"


def test_the_screen_begins_with_the_verdict(python: Python) -> None:
    if reason := lacking(instrumentors=("modelforge",)):
        pytest.skip(reason)
    done = python(LAUNCHER, sys.executable, *COMMAND, **ON_CONSOLE, COLUMNS="80")
    assert done.stdout.startswith("Spans will come.")
    assert done.returncode == 0
    assert max(len(line) for line in done.stdout.splitlines() if "/" not in line) <= 80
    assert re.search(r"^ok +Instrumentation +ModelForge is instrumented by", done.stdout, re.MULTILINE)
    assert "\033" not in done.stdout


# --- No spans: each cause is named ---


@pytest.mark.parametrize(
    ("environment", "check", "detail", "remedy"),
    [
        (
            {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis, modelforge"},
            "instrumentation",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS has redis, modelforge",
            "Take modelforge, or *, out of OTEL_PYTHON_DISABLED_INSTRUMENTATIONS.",
        ),
        (
            {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
            "instrumentation",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS has *",
            "Take modelforge, or *, out of OTEL_PYTHON_DISABLED_INSTRUMENTATIONS.",
        ),
        (
            {"OTEL_PYTHON_MODELFORGE_ENABLED": "false"},
            "patches",
            "OTEL_PYTHON_MODELFORGE_ENABLED is not true",
            "unset OTEL_PYTHON_MODELFORGE_ENABLED",
        ),
        (
            {"OTEL_SDK_DISABLED": "true"},
            "recording",
            "nobody records: OTEL_SDK_DISABLED=true switches recording off",
            "unset OTEL_SDK_DISABLED",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "none"},
            "exporters",
            "spans are recorded, but no exporter takes them: OTEL_TRACES_EXPORTER is none",
            "export OTEL_TRACES_EXPORTER=otlp",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "always_off"},
            "sampler",
            "AlwaysOffSampler keeps no trace that begins in this process",
            "export OTEL_TRACES_SAMPLER=parentbased_always_on",
        ),
        (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
            "sampler",
            "TraceIdRatioBased{0.0} keeps no trace that begins in this process",
            "export OTEL_TRACES_SAMPLER=parentbased_always_on",
        ),
    ],
    ids=["left out", "all left out", "not enabled", "SDK disabled", "no exporter", "sampler off", "ratio 0"],
)
def test_a_variable_that_stops_spans_is_named(
    doctor: Doctor, environment: dict[str, str], check: str, detail: str, remedy: str
) -> None:
    answer = doctor(**environment)
    assert answer.exit_code == 1
    # OTEL_SDK_DISABLED also leaves the process without an exporter.
    assert check in answer.problems
    assert set(answer.problems) <= {check, "exporters"}
    assert answer.checks[check]["detail"] == detail
    assert answer.checks[check]["remedy"] == remedy


@pytest.mark.parametrize(
    ("environment", "detail", "remedy"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "no_such"},
            "the exporter 'no_such' of OTEL_TRACES_EXPORTER is not installed",
            "export OTEL_TRACES_EXPORTER=console",
        ),
        (
            {"OTEL_LOGS_EXPORTER": "no_such"},
            "the exporter 'no_such' of OTEL_LOGS_EXPORTER is not installed",
            "export OTEL_LOGS_EXPORTER=console",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "the OTLP exporter has no protocol 'http/json'",
            "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        ),
    ],
    ids=["no traces exporter", "no logs exporter", "no protocol"],
)
def test_a_setting_that_stops_the_launcher_is_named(
    doctor: Doctor, environment: dict[str, str], detail: str, remedy: str
) -> None:
    answer = doctor(**environment)
    assert answer.problems[:2] == ["instrumentation", "recording"]
    for check in ("instrumentation", "recording"):
        assert detail in answer.checks[check]["detail"]
        assert answer.checks[check]["remedy"] == remedy


def test_a_missing_configurator_is_named(doctor: Doctor) -> None:
    answer = doctor(OTEL_PYTHON_CONFIGURATOR="none")
    assert answer.problems[0] == "recording"
    assert answer.checks["recording"]["detail"].startswith("nobody records: OTEL_PYTHON_CONFIGURATOR='none' names")
    assert answer.checks["recording"]["remedy"] == "unset OTEL_PYTHON_CONFIGURATOR"


def test_a_configuration_file_without_a_tracer_provider_is_named(doctor: Doctor, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.configuration", reason="opentelemetry-configuration is not installed")
    file = tmp_path / "otel.yaml"
    file.write_text('file_format: "1.0"\n')
    answer = doctor(OTEL_CONFIG_FILE=str(file))
    assert answer.problems[0] == "recording"
    assert answer.checks["recording"]["detail"] == (
        f"nobody records: {file}, which OTEL_CONFIG_FILE names, has no tracer_provider"
    )


def test_the_launcher_is_proposed_for_a_process_without_it(python: Python) -> None:
    answer = answer_of(python(*COMMAND, "--json", **ON_CONSOLE))
    assert answer.problems == ["instrumentation", "recording"]
    check = answer.checks["instrumentation"]
    assert check["detail"] == "not instrumented: this process was started without opentelemetry-instrument"
    assert check["remedy"].splitlines()[0] == (
        "opentelemetry-instrument python -m opentelemetry_instrumentation_modelforge"
    )


@pytest.mark.parametrize("option", ["-I", "-E"])
def test_an_isolated_python_is_named(doctor: Doctor, option: str) -> None:
    paths = [os.path.abspath(entry) for entry in sys.path if entry]
    answer = doctor(option, "-c", f"import sys; sys.path[:0] = {paths!r}" + ASK)
    assert answer.problems == ["instrumentation", "recording"]
    assert answer.checks["instrumentation"]["detail"] == (
        "opentelemetry-instrument did nothing: python -E and -I ignore PYTHONPATH, by which it works"
    )


def test_a_sitecustomize_in_front_of_the_launchers_is_named(doctor: Doctor, tmp_path: Path) -> None:
    # The launcher's PYTHONPATH, with another directory put in front of it later.
    (tmp_path / "sitecustomize.py").write_text("")
    inner = (
        "import os, subprocess, sys; os.environ['PYTHONPATH'] = sys.argv[1] + os.pathsep + os.environ['PYTHONPATH']; "
    )
    inner += f"sys.exit(subprocess.run([sys.executable, *{[*COMMAND, '--json']!r}]).returncode)"
    answer = doctor("-c", inner, str(tmp_path))
    check = answer.checks["instrumentation"]
    assert check["state"] == "problem"
    assert check["detail"] == f"opentelemetry-instrument did nothing: {tmp_path / 'sitecustomize.py'} runs instead"


@pytest.mark.parametrize(("vendor", "launcher"), [("ddtrace", "ddtrace-run"), ("newrelic", "newrelic-admin")])
def test_a_vendors_launcher_is_named(python: Python, tmp_path: Path, vendor: str, launcher: str) -> None:
    bootstrap = tmp_path / vendor / "bootstrap"
    bootstrap.mkdir(parents=True)
    (bootstrap / "sitecustomize.py").write_text("")
    path = os.pathsep.join([str(bootstrap), *(os.path.abspath(entry) for entry in sys.path if entry)])
    answer = answer_of(python(*COMMAND, "--json", PYTHONPATH=path))
    check = answer.checks["instrumentation"]
    assert check["state"] == "problem"
    assert check["detail"] == f"{launcher} has started this process; it loads no OpenTelemetry instrumentation"
    assert ("opentelemetry-instrument" if vendor == "newrelic" else "instrument()") in check["remedy"]


def test_a_missing_sdk_is_reported_for_an_instrumented_application(program: Callable[..., Answer]) -> None:
    answer = program(
        "from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor\n"
        "ModelForgeInstrumentor().instrument()\n",
        **ON_CONSOLE,
    )
    assert answer.problems == ["recording"]
    assert answer.checks["recording"]["detail"] == "nobody records: no SDK is set up in this process"


# --- What is installed ---


@pytest.fixture
def environment_without(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Make an environment without the packages that match the patterns, and return its Python and its path."""

    def make(*patterns: str) -> tuple[str, str]:
        environment, packages = tmp_path / "environment", tmp_path / "packages"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(environment)], check=True, timeout=120
        )
        packages.mkdir()
        left_out = {path.name for pattern in patterns for path in SITE.glob(pattern)}
        assert left_out
        # The package itself is in the site directory, or elsewhere if it is an editable install.
        for entry in {entry.name: entry for entry in (*SITE.iterdir(), PACKAGE)}.values():
            if entry.name not in left_out and entry.suffix != ".pth":
                (packages / entry.name).symlink_to(entry)
        scripts = "Scripts" if os.name == "nt" else "bin"
        return str(environment / scripts / "python"), str(packages)

    return make


@pytest.mark.parametrize(
    ("left_out", "check", "detail", "remedy"),
    [
        (
            "model_forge_llm-*.dist-info",
            "modelforge",
            "modelforge is on the path without the metadata of model-forge-llm",
            "pip install model-forge-llm",
        ),
        (
            "model?forge*",
            "modelforge",
            "ModelForge is not installed in this environment",
            "pip install model-forge-llm",
        ),
        (
            "opentelemetry_distro-*.dist-info",
            "recording",
            "nobody records: no distribution of OpenTelemetry is installed",
            "pip install 'opentelemetry-instrumentation-modelforge[otel]'",
        ),
        (
            "opentelemetry_instrumentation_modelforge-*.dist-info",
            "packages",
            "this package is on the path without its metadata",
            "pip install opentelemetry-instrumentation-modelforge",
        ),
    ],
    ids=["ModelForge without metadata", "no ModelForge", "no distribution", "this package without metadata"],
)
def test_a_missing_package_is_named(
    python: Python,
    environment_without: Callable[..., tuple[str, str]],
    left_out: str,
    check: str,
    detail: str,
    remedy: str,
) -> None:
    patterns = [left_out, "modelforge"] if left_out == "model?forge*" else [left_out]
    interpreter, path = environment_without(*patterns)
    answer = answer_of(python(LAUNCHER, interpreter, *COMMAND, "--json", **ON_CONSOLE, PYTHONPATH=path))
    assert check in answer.problems
    assert detail in answer.checks[check]["detail"]
    assert answer.checks[check]["remedy"].startswith(remedy)


def test_an_unsupported_version_of_modelforge_is_named(doctor: Doctor, tmp_path: Path) -> None:
    answer = doctor(PYTHONPATH=with_distribution(tmp_path, "model-forge-llm", "3.0.0"))
    assert answer.problems == ["modelforge", "instrumentation"]
    assert answer.checks["modelforge"]["detail"] == (
        "model-forge-llm 3.0.0 is not a version that this package knows (<3,>=2.0.0)"
    )
    assert answer.checks["modelforge"]["data"] == {"version": "3.0.0", "supported": "<3,>=2.0.0"}


def test_incompatible_versions_are_named(doctor: Doctor, tmp_path: Path) -> None:
    answer = doctor(
        PYTHONPATH=with_distribution(
            tmp_path, "opentelemetry-exporter-old", "1.0", requires="opentelemetry-sdk ~= 1.2.0"
        )
    )
    assert answer.warnings == ["requirements"]
    (conflict,) = answer.checks["requirements"]["data"]["conflicts"]
    assert conflict["distribution"] == "opentelemetry-sdk"
    assert conflict["needs"] == "~=1.2.0"
    assert conflict["needed_by"] == ["opentelemetry-exporter-old"]
    assert answer.checks["requirements"]["remedy"] == "pip install --upgrade opentelemetry-exporter-old"


def with_distribution(directory: Path, name: str, version: str, *, requires: str = "", entry_points: str = "") -> str:
    """Return a path whose first entry contains a distribution with this metadata."""
    metadata = directory / "site" / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    required = f"Requires-Dist: {requires}\n" if requires else ""
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
    (metadata / "entry_points.txt").write_text(entry_points)
    return os.pathsep.join([str(metadata.parent), *(os.path.abspath(entry) for entry in sys.path if entry)])


# --- Endpoints ---


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_endpoint_without_a_listener_is_named(doctor: Doctor, protocol: str) -> None:
    port = unused_port()
    answer = doctor(
        **TO_RECEIVER,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert answer.problems == ["exporters"]
    name = {"grpc": "OTLP/gRPC", "http/protobuf": "OTLP/HTTP"}[protocol]
    assert answer.checks["exporters"]["detail"] == (f"traces: {name} to http://127.0.0.1:{port}: nothing listens there")


@pytest.mark.parametrize(
    ("protocol", "port", "detail", "remedy"),
    [
        ("grpc", "http", "speaks HTTP, but the exporter speaks gRPC", "Set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf,"),
        ("http/protobuf", "grpc", "speaks gRPC, but the exporter speaks HTTP", "Set OTEL_EXPORTER_OTLP_PROTOCOL=grpc,"),
    ],
)
def test_a_port_of_the_other_protocol_is_named(
    doctor: Doctor, receiver: dict[str, int], protocol: str, port: str, detail: str, remedy: str
) -> None:
    answer = doctor(
        **TO_RECEIVER,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver[port]}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert answer.problems == ["exporters"]
    assert answer.checks["exporters"]["detail"].endswith(detail)
    assert answer.checks["exporters"]["remedy"].startswith(remedy)


def test_an_unreachable_metrics_endpoint_is_only_a_warning(doctor: Doctor) -> None:
    answer = doctor(
        OTEL_METRICS_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"http://127.0.0.1:{unused_port()}",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    assert answer.exit_code == 0
    assert "exporters" in answer.warnings


def test_two_exporters_to_the_same_destination_are_named(doctor: Doctor) -> None:
    program = """
from opentelemetry import trace
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
"""
    answer = doctor("-c", program + ASK)
    assert answer.warnings[0] == "exporters"
    assert "two exporters send the same spans to ConsoleSpanExporter" in answer.checks["exporters"]["detail"]


# --- Options, and what the models will report ---


def test_the_options_are_shown_with_their_sources(doctor: Doctor, model_config: dict[str, Any]) -> None:
    write_config(model_config | {"settings": {"opentelemetry": {"span_names": "semconv", "chunk_events": "rarely"}}})
    answer = doctor(OTEL_PYTHON_MODELFORGE_STREAM_USAGE="true", OTEL_PYTHON_MODELFORGE_STREAM_USEAGE="true")
    check = answer.checks["options"]
    assert check["state"] == "warning"
    options = check["data"]["options"]
    assert options["span_names"]["value"] == "'semconv'"
    assert options["span_names"]["source"].endswith("config.json")
    assert options["stream_usage"] == {"value": "True", "source": "environment"}
    assert options["chunk_events"] == {"value": "'first'", "source": "default"}
    first, second = check["data"]["warnings"]
    assert "chunk_events='rarely' is ignored: expected `first`, `all` or `off`" in first
    assert "did you mean OTEL_PYTHON_MODELFORGE_STREAM_USAGE?" in second
    # It is only reported as a row, and not also logged.
    assert "is ignored" not in answer.logged.replace(first, "", 1).replace(second, "", 1)


def test_models_without_a_price_and_streams_without_usage_are_named(
    doctor: Doctor, model_config: dict[str, Any]
) -> None:
    pytest.importorskip("genai_prices", reason="genai-prices is not installed")
    model_config["providers"]["openai"]["base_url"] = "https://api.openai.com/v1"
    model_config["providers"]["openai"]["models"]["our-best"] = {}
    write_config(model_config)
    answer = doctor()
    assert answer.exit_code == 0
    models = answer.checks["prices"]["data"]["models"]
    assert models["openai/gpt-4o-mini"] == models["openai/fast"] == "0.15/0.6"
    assert models["openai/our-best"] == "unknown"
    assert models["ollama/llama3"] == "not paid by the token"
    assert "openai/our-best" in answer.checks["prices"]["detail"]
    assert answer.checks["streams"]["data"] == {
        "stream_usage": False,
        "estimated": ["openai", "openrouter", "github_copilot"],
    }
    assert answer.checks["streams"]["remedy"] == "export OTEL_PYTHON_MODELFORGE_STREAM_USAGE=true"


def test_transports_that_are_not_instrumented_are_named(
    python: Python, environment_without: Callable[..., tuple[str, str]], model_config: dict[str, Any]
) -> None:
    if reason := lacking(instrumentors=("httpx", "requests", "grpc_client")):
        pytest.skip(reason)
    write_config(model_config)
    interpreter, path = environment_without("opentelemetry_instrumentation_httpx-*.dist-info")
    answer = answer_of(python(LAUNCHER, interpreter, *COMMAND, "--json", **ON_CONSOLE, PYTHONPATH=path))
    missing = answer.checks["transports"]["data"]["missing"]
    assert missing["opentelemetry-instrumentation-httpx"] == ["openai", "openrouter"]
    assert "opentelemetry-instrumentation-grpc" not in missing
    assert "opentelemetry-instrumentation-httpx" in answer.checks["transports"]["remedy"]


@pytest.mark.parametrize(
    ("value", "state", "detail"),
    [
        ("SPAN_ONLY", "ok", "prompts and answers are captured on spans"),
        ("true", "warning", "is not one of SPAN_ONLY, EVENT_ONLY and SPAN_AND_EVENT"),
    ],
)
def test_capture_of_content_is_reported(doctor: Doctor, value: str, state: str, detail: str) -> None:
    answer = doctor(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=value)
    assert answer.checks["content"]["state"] == state
    assert detail in answer.checks["content"]["detail"]


# --- Patches ---


def test_a_function_missing_from_langchain_is_named(program: Callable[..., Answer]) -> None:
    answer = program(
        """
from langchain_core.callbacks import CallbackManagerForLLMRun
del CallbackManagerForLLMRun.on_llm_new_token
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor
ModelForgeInstrumentor().instrument()
"""
    )
    check = answer.checks["patches"]
    assert check["state"] == "warning"
    assert (
        check["detail"] == "CallbackManagerForLLMRun has no on_llm_new_token: telemetry that depends on it is missing"
    )


def test_a_fault_while_instrumenting_is_named(program: Callable[..., Answer]) -> None:
    answer = program(
        """
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, telemetry
def fail(*_, **__): raise RuntimeError("a fault")
telemetry.Telemetry.__init__ = fail
ModelForgeInstrumentor().instrument()
"""
    )
    check = answer.checks["patches"]
    assert check["state"] == "problem"
    assert "Telemetry fault while instrumenting ModelForge" in check["detail"]


# --- Second spans ---


def test_instrumentations_that_create_second_spans_are_named(doctor: Doctor, tmp_path: Path) -> None:
    others = [
        ("OpenLLMetry", "opentelemetry-instrumentation-langchain", "langchain", "ChatOpenAI.chat"),
        ("OpenInference", "openinference-instrumentation-langchain", "langchain", "ChatOpenAI"),
        ("OpenInference", "openinference-instrumentation-openai", "openai", "ChatCompletion"),
    ]
    for _, distribution, name, _ in others:
        points = f"[opentelemetry_instrumentor]\n{name} = not_there:Instrumentor"
        path = with_distribution(tmp_path, distribution, "9.9", entry_points=points)
    check = doctor(PYTHONPATH=path).checks["second_spans"]
    assert check["state"] == "warning"
    for project, distribution, _, span in others:
        assert f"{project}'s {distribution} makes a second span ({span}) for each call" in check["detail"]
    variable, _, names = check["remedy"].removeprefix("export ").partition("=")
    assert (variable, names) == ("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "langchain,openai")
    assert doctor(PYTHONPATH=path, **{variable: names}).checks["second_spans"]["state"] == "ok"


def test_langsmith_with_spans_of_its_own_is_named(doctor: Doctor) -> None:
    answer = doctor(LANGSMITH_TRACING="true", LANGSMITH_TRACING_MODE="otel")
    assert "LangSmith makes a second span for each call" in answer.checks["second_spans"]["detail"]
    assert "export LANGSMITH_TRACING_MODE=langsmith" in answer.checks["second_spans"]["remedy"]


def test_function_calls_that_would_create_second_spans_are_reported(doctor: Doctor, tmp_path: Path) -> None:
    for distribution in ("openlit", "traceloop-sdk", "logfire", "mlflow", "langfuse", "arize-phoenix-otel"):
        path = with_distribution(tmp_path, distribution, "9.9")
    check = doctor(PYTHONPATH=path).checks["second_spans"]
    notes = check["data"]["possible"]
    for call in (
        "openlit.init()",
        "Traceloop.init()",
        "logfire.instrument_openai()",
        "mlflow.autolog()",
        "Langfuse's CallbackHandler",
        "phoenix.otel.register(auto_instrument=True)",
    ):
        assert [note for note in notes if note.startswith(f"with {call}: ")], call
    assert all(note in check["detail"] for note in notes)


# --- What the doctor must not do ---


def test_no_credential_is_shown(python: Python, model_config: dict[str, Any], receiver: dict[str, int]) -> None:
    password, header = "hunter2hunter2", "Bearer 0123456789abcdefghijklmnop"
    model_config["providers"]["openai"]["base_url"] = f"https://user:{password}@api.example.com/v1"
    model_config["settings"] = {"opentelemetry": {"attributes": {"api_key": OPENAI_KEY}, "cost": OPENROUTER_KEY}}
    write_config(model_config)
    environment = {
        **TO_RECEIVER,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:{password}@127.0.0.1:{receiver['http']}?token={GOOGLE_KEY}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={header.replace(' ', '%20')}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_PYTHON_MODELFORGE_COST": OPENAI_KEY,
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": COPILOT_TOKEN,
        "HTTPS_PROXY": f"http://user:{password}@proxy.example.com",
    }
    for options in ((), ("--json",)):
        for command in ((sys.executable,), (LAUNCHER, sys.executable)):
            if command[0] == sys.executable:
                done = python(*COMMAND, *options, **environment)
            else:
                done = python(*command, *COMMAND, *options, **environment)
            assert "Content" in done.stdout
            for secret in (OPENAI_KEY, OPENROUTER_KEY, GOOGLE_KEY, COPILOT_TOKEN, password, header, header[7:]):
                assert secret not in done.stdout


def test_nothing_is_sent_to_a_provider(
    doctor: Doctor, model_config: dict[str, Any], provider_server: ProviderServer
) -> None:
    write_config(model_config)
    assert doctor().exit_code == 0
    assert provider_server.requests == []


def test_an_application_never_imports_it(python: Python) -> None:
    if reason := lacking(instrumentors=("modelforge",)):
        pytest.skip(reason)
    program = "import modelforge.registry, sys; print([name for name in sys.modules if 'modelforge.doctor' in name])"
    done = python(LAUNCHER, sys.executable, "-c", program, **ON_CONSOLE)
    assert done.stdout == "[]\n"


# --- Its page ---


def test_the_page_describes_each_check(doctor: Doctor) -> None:
    page = (DOCS / "doctor.md").read_text()
    described = re.findall(r"^\| `([a-z_]+)` \| ([A-Z][^|]+) \|", page, re.MULTILINE)
    assert described == [(check["name"], check["title"]) for check in doctor().document["checks"]]
