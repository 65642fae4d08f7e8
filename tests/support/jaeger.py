# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Jaeger 2, with its storage in memory: it receives OTLP, and its query API returns the traces.

The program is an OpenTelemetry Collector that has Jaeger's storage and query service among its components.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.programs import Program, fetch, until
from support.services import HOST, free_port

PROGRAM = shutil.which("jaeger")
LACKING = None if PROGRAM else "jaeger is not installed"

STORAGE = "memory"


class CollectorProgram(Program):
    """An OpenTelemetry Collector with configurations: files or values. Each is merged into the previous ones."""

    def __init__(
        self, program: str, ports: Sequence[int], directory: Path, *configurations: Path | Mapping[str, Any]
    ) -> None:
        command = [program]
        given = directory.with_name(f"{directory.name}-configuration")
        given.mkdir()
        for number, configuration in enumerate(configurations):
            if isinstance(configuration, Mapping):
                # JSON is valid YAML.
                (given / f"{number}.yaml").write_text(json.dumps(configuration))
                configuration = given / f"{number}.yaml"
            command.append(f"--config={configuration}")
        # Jaeger would send its own spans to port 4317.
        super().__init__(command, ports, directory, OTEL_TRACES_SAMPLER="always_off")

    def wait(self) -> None:
        """Wait until it listens on all its ports."""
        for port in self.ports:
            self.wait_for(port)


class Jaeger(CollectorProgram):
    """Jaeger itself. `endpoint` accepts OTLP over HTTP, `grpc_endpoint` over gRPC."""

    def __init__(self, directory: Path) -> None:
        query, query_grpc, http, grpc = (free_port() for _ in range(4))
        assert PROGRAM is not None
        super().__init__(
            PROGRAM,
            [query, http, grpc],
            directory,
            {
                "extensions": {
                    "jaeger_storage": {"backends": {STORAGE: {"memory": {"max_traces": 1000}}}},
                    "jaeger_query": {
                        "storage": {"traces": STORAGE},
                        "http": {"endpoint": f"{HOST}:{query}"},
                        "grpc": {"endpoint": f"{HOST}:{query_grpc}"},
                    },
                },
                "receivers": {
                    "otlp": {
                        "protocols": {
                            "http": {"endpoint": f"{HOST}:{http}"},
                            "grpc": {"endpoint": f"{HOST}:{grpc}"},
                        }
                    }
                },
                "exporters": {"jaeger_storage_exporter": {"trace_storage": STORAGE}},
                "service": {
                    "extensions": ["jaeger_storage", "jaeger_query"],
                    "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
                    "telemetry": {"metrics": {"level": "none"}},
                },
            },
        )
        self.endpoint = f"http://{HOST}:{http}"
        self.grpc_endpoint = f"http://{HOST}:{grpc}"

    def traces(self, service: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the traces of a service, as Jaeger's pages receive them, once there are this many."""
        query = urllib.parse.urlencode({"service": service, "limit": 100})

        def find() -> list[dict[str, Any]] | None:
            found = fetch(f"{self.url}/api/traces?{query}")["data"]
            return found if len(found) >= count else None

        return until(find)

    def trace(self, trace_id: str, spans: int) -> dict[str, Any]:
        """Return one trace, as Jaeger's pages receive it, once it has this many spans."""

        def find() -> dict[str, Any] | None:
            try:
                (found,) = fetch(f"{self.url}/api/traces/{trace_id}")["data"]
            except urllib.error.HTTPError as error:
                assert error.code == 404  # noqa: PT017
                return None
            return found if len(found["spans"]) >= spans else None

        return until(find)

    def resource_spans(self, trace_id: str) -> list[dict[str, Any]]:
        """Return one trace as OTLP JSON, which keeps the type of every value."""
        return fetch(f"{self.url}/api/v3/traces/{trace_id}")["result"]["resourceSpans"]


def tags(pairs: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Return tags as Jaeger shows them, by name: type and value."""
    return {pair["key"]: (pair["type"], pair["value"]) for pair in pairs}


def reference(span: Mapping[str, Any], kind: str) -> str | None:
    """Return the id of the only span that a span references with this kind: CHILD_OF a parent, FOLLOWS_FROM a link."""
    ids = [found["spanID"] for found in span["references"] if found["refType"] == kind]
    assert len(ids) <= 1
    return ids[0] if ids else None


def outline(trace: Mapping[str, Any], parent_id: str | None = None, indent: str = "") -> str:
    """Return the names of a trace's spans, each below its parent, in the order in which they started."""
    below = [span for span in trace["spans"] if reference(span, "CHILD_OF") == parent_id]
    return "".join(
        f"{indent}{span['operationName']}\n{outline(trace, span['spanID'], indent + '  ')}"
        for span in sorted(below, key=lambda span: span["startTime"])
    )


def named(trace: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the spans with a name, in start order."""
    found = [span for span in trace["spans"] if span["operationName"] == name]
    return sorted(found, key=lambda span: span["startTime"])
