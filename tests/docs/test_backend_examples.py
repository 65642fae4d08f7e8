# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""`examples/jaeger` and `examples/backends`, run as their READMEs describe, and the settings of each backend."""

from __future__ import annotations

import base64
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.util.re import parse_env_headers

from support import DOCS, EXAMPLES
from support.documentation import backends_hook
from support.examples import TREE, missing, without_numbers
from support.models import get_llm
from support.providers import HOST, ProviderServer, Reply, unused_port
from support.telemetry import Telemetry

JAEGER_TREE = """\
plan a day
├─ modelforge.get_llm [N]: openai · gpt-4o-mini · openai_compatible
├─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N
│  └─ POST: N · http://N:N/v1/chat/completions
└─ langchain.llm.invoke → [N]: gpt-4o-mini · N → N tokens · $N · first chunk N ms
   └─ POST: N · http://N:N/v1/chat/completions
"""

MODULE: dict[str, Any] = runpy.run_path(str(EXAMPLES / "backends" / "settings.py"), run_name="settings")
BACKENDS: dict[str, Any] = MODULE["BACKENDS"]
MissingCredentialError: type[Exception] = MODULE["MissingCredentialError"]


def run(example: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    needed = {name for backend in BACKENDS.values() for name in backend.needs}
    kept = {name: value for name, value in os.environ.items() if name not in needed}
    return subprocess.run(
        [sys.executable, EXAMPLES, example, *arguments],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**kept, "COLUMNS": "200", **environment},
        timeout=60,
    )


@pytest.fixture(scope="module")
def runnable() -> None:
    if reason := missing():
        pytest.skip(reason)


class Intake(ThreadingHTTPServer):
    """A stand-in for a backend, which keeps the path, headers and body of each request."""

    def __init__(self) -> None:
        super().__init__((HOST, 0), _Handler)
        self.url = f"http://{HOST}:{self.server_port}"
        self.requests: list[tuple[str, Mapping[str, str], bytes]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Intake

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def intake() -> Iterator[Intake]:
    with Intake() as intake:
        threading.Thread(target=intake.serve_forever, args=(0.01,), daemon=True).start()
        yield intake
        intake.shutdown()


# --- As processes ---


# Each example runs once in each of its two modes, because a process takes seconds.


@pytest.mark.usefixtures("runnable")
@pytest.mark.parametrize(
    ("example", "arguments", "tree"),
    [("jaeger", (), JAEGER_TREE), ("backends", ("--programmatic",), TREE)],
    ids=["jaeger", "backends"],
)
def test_prints_the_trace_without_a_backend(example: str, arguments: tuple[str, ...], tree: str) -> None:
    result = run(example, *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    _, printed = result.stdout.split("\n\n")
    assert without_numbers(printed) == tree


@pytest.mark.usefixtures("runnable")
def test_sends_to_jaeger(intake: Intake) -> None:
    result = run("jaeger", "--jaeger", intake.url, "--programmatic")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert {path for path, _, _ in intake.requests} == {"/v1/traces"}
    assert any(b"langchain.llm.invoke" in body for _, _, body in intake.requests)
    assert result.stdout.endswith(f"\nhttp://{HOST}:16686/search?service=jaeger-example\n")


@pytest.mark.usefixtures("runnable")
def test_sends_to_a_backend_with_its_credentials_and_prints_none_of_them(intake: Intake) -> None:
    keys = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-2"}
    result = run("backends", "langfuse", "--content", LANGFUSE_BASE_URL=intake.url, **keys)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert {path for path, _, _ in intake.requests} == {"/api/public/otel/v1/traces"}
    for _, headers, _ in intake.requests:
        assert headers["Authorization"] == f"Basic {base64.b64encode(b'pk-lf-1:sk-lf-2').decode()}"
        assert headers["x-langfuse-ingestion-version"] == "4"
    assert any(b"What should I wear in Lisbon today?" in body for _, _, body in intake.requests)
    said = "$ export OTEL_EXPORTER_OTLP_TRACES_HEADERS=Authorization=Basic%20$BASIC,x-langfuse-ingestion-version=4\n"
    assert said in result.stdout
    assert "lf-2" not in result.stdout


@pytest.mark.parametrize(
    ("example", "arguments", "error"),
    [
        ("backends", ("newrelic",), "newrelic needs NEW_RELIC_LICENSE_KEY, the license key of your account"),
        ("backends", ("phoenix",), "nothing listens at {url}/v1/traces"),
        ("jaeger", ("--jaeger", "{url}"), "nothing listens at {url}: start Jaeger"),
    ],
    ids=["credential", "backend", "jaeger"],
)
def test_reports_what_is_missing(example: str, arguments: tuple[str, ...], error: str) -> None:
    url = f"http://{HOST}:{unused_port()}"
    result = run(example, *(argument.format(url=url) for argument in arguments), PHOENIX_URL=url)
    assert result.returncode == 2
    assert result.stdout == ""
    assert error.format(url=url) in result.stderr.splitlines()[-1]


# --- The table ---

HEADERS = {
    "datadog": {"dd-api-key": "a b=c,d", "dd-otlp-source": "llmobs"},
    "newrelic": {"api-key": "a b=c,d"},
    "phoenix-cloud": {"authorization": "Bearer a b=c,d"},
    "langfuse": {
        "authorization": f"Basic {base64.b64encode(b'a b=c,d:a b=c,d').decode()}",
        "x-langfuse-ingestion-version": "4",
    },
    "grafana-cloud": {"authorization": f"Basic {base64.b64encode(b'a b=c,d:a b=c,d').decode()}"},
    "mlflow": {"x-mlflow-experiment-id": "0"},
}


@pytest.mark.parametrize("name", BACKENDS)
def test_headers_are_in_the_form_that_the_exporter_reads(name: str) -> None:
    backend = BACKENDS[name]
    settings = backend.environment(dict.fromkeys(backend.needs, "a b=c,d"))
    headers = [value for variable, value in settings.items() if variable.endswith("_HEADERS")]
    assert [parse_env_headers(value, liberal=True) for value in headers] == ([HEADERS[name]] if name in HEADERS else [])
    assert all("$" not in value for value in settings.values())


@pytest.mark.parametrize(
    ("name", "variable"), [(name, variable) for name, backend in BACKENDS.items() for variable in backend.needs]
)
def test_a_credential_that_is_missing_is_named(name: str, variable: str) -> None:
    given = {needed: "x" for needed in BACKENDS[name].needs if needed != variable}
    # An empty variable counts as unset.
    for environment in (given, {**given, variable: ""}):
        with pytest.raises(MissingCredentialError, match=f"^{variable}, "):
            BACKENDS[name].environment(environment)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_documentation_has_the_same_settings(name: str) -> None:
    page = (DOCS / "backends.md").read_text()
    sections = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    backend = BACKENDS[name]
    lines = {
        f"$ export {variable}={value}"
        for variable, setting in backend.settings.items()
        for value in [re.sub(r"\$(\w+)", lambda match: backend.defaults.get(match[1], match[0]), setting)]
    }
    assert [section for section in sections if lines <= set(section.splitlines())] != []


def test_the_hook_for_langfuse_sets_tokens_and_cost(
    instrument: Callable[..., Telemetry], registry: Any, provider_server: ProviderServer
) -> None:
    telemetry = instrument(response_hook=backends_hook("for_langfuse"))
    get_llm(registry, "openai", "gpt-4o-mini").invoke("Hi")
    provider_server.reply = Reply(usage=False)
    get_llm(registry, "openai", "gpt-4o-mini").invoke("Hi")
    first, second = (span.attributes for span in telemetry.spans() if span.name == "langchain.llm.invoke")
    assert json.loads(first["langfuse.observation.usage_details"]) == {"input": 11, "output": 7}
    cost = first["gen_ai.usage.cost.amount"]
    assert json.loads(first["langfuse.observation.cost_details"]) == {"total": cost}
    assert "langfuse.observation.cost_details" not in second


def test_the_hook_for_other_names_repeats_cost_and_cache(
    instrument: Callable[..., Telemetry], registry: Any, provider_server: ProviderServer
) -> None:
    telemetry = instrument(response_hook=backends_hook("add_other_names"))
    provider_server.reply = Reply(cost=0.25, cache_write_tokens=3)
    get_llm(registry, "openrouter", "qwen").invoke("Hi")
    provider_server.reply = Reply(usage=False)
    get_llm(registry, "openrouter", "qwen").invoke("Hi")
    first, second = (span.attributes for span in telemetry.spans() if span.name == "langchain.llm.invoke")
    assert (first["gen_ai.usage.cost"], first["gen_ai.usage.cache_creation.input_tokens"]) == (0.25, 3)
    assert second.keys().isdisjoint({"gen_ai.usage.cost", "gen_ai.usage.cache_creation.input_tokens"})


def test_the_readme_names_every_backend_and_variable() -> None:
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in (EXAMPLES / "backends" / "README.md").read_text().splitlines()
        if row.startswith("| `") and "./run" not in row
    ]
    named = {name.strip("`"): [set(re.findall(r"`(\w+)`", cell)) for cell in cells] for name, *cells in rows}
    assert named == {name: [set(backend.needs), set(backend.defaults)] for name, backend in BACKENDS.items()}
