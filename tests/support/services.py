# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Web services as separate processes, and the collector that receives their telemetry."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from examples._shared.collector import Collector, _attributes
from examples._shared.local import environment, serving, write_config
from support import EXAMPLES

FASTAPI = EXAMPLES / "fastapi"
HOST = "127.0.0.1"
BAGGAGE = "tenant=acme,user=7"
TIMEOUT = 120
"""Seconds to wait for something that happens soon, unless the test is about to fail."""


GET_LLM = "modelforge.get_llm"
MODEL = "langchain.llm.invoke"
SERVER, CLIENT = 2, 3
"""Span kinds in OTLP."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A received span."""

    name: str
    service: str
    pid: int
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: tuple[str, ...]


class Traces(Collector):
    """Keeps spans by trace."""

    def __init__(self) -> None:
        super().__init__()
        self._traces: defaultdict[str, list[Span]] = defaultdict(list)
        self._arrival = threading.Condition()

    def receive(self, path: str, body: bytes) -> bool:
        if path != "/v1/traces":
            return super().receive(path, body)
        request = ExportTraceServiceRequest.FromString(body)
        with self._arrival:
            for of_resource in request.resource_spans:
                resource = _attributes(of_resource.resource.attributes)
                for span in (span for scope in of_resource.scope_spans for span in scope.spans):
                    self._traces[span.trace_id.hex()].append(
                        Span(
                            name=span.name,
                            service=str(resource["service.name"]),
                            pid=int(str(resource.get("process.pid", 0))),
                            kind=span.kind,
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent_id=span.parent_span_id.hex(),
                            attributes=_attributes(span.attributes),
                            links=tuple(link.span_id.hex() for link in span.links),
                        )
                    )
            self._arrival.notify_all()
        return True

    @property
    def traces(self) -> dict[str, list[Span]]:
        with self._arrival:
            return {trace_id: list(spans) for trace_id, spans in self._traces.items()}

    def wait_for(self, trace_id: str, complete: Callable[[list[Span]], bool]) -> list[Span]:
        """Return the spans of a trace once they are complete."""
        with self._arrival:
            arrived = self._arrival.wait_for(lambda: complete(self._traces[trace_id]), TIMEOUT)
            spans = list(self._traces[trace_id])
        assert arrived, f"incomplete: {[(span.service, span.name) for span in spans]}"
        return spans


def named(spans: Sequence[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def without_parts(spans: Sequence[Span]) -> list[Span]:
    """Return the spans without those that the ASGI instrumentation creates for each part of a request and response."""
    return [span for span in spans if not span.name.endswith((" http send", " http receive"))]


@dataclass(frozen=True)
class Caller:
    """The span that sends a request."""

    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def headers(self) -> dict[str, str]:
        return {
            "traceparent": f"00-{self.trace_id}-{self.span_id}-01",
            "baggage": BAGGAGE,
            "Content-Type": "application/json",
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


class Service:
    """A process that listens on a port of the loopback interface."""

    def __init__(self, command: Sequence[str], port: int, env: dict[str, str], cwd: Path) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self.log = cwd / f"{port}.log"
        with self.log.open("wb") as log:
            # A separate process group includes the processes it forks.
            self.process = subprocess.Popen(
                command, cwd=cwd, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it listens."""
        self.wait_for(self.port)

    def wait_for(self, port: int) -> None:
        """Wait until it listens on a port."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{self.process.args} did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> str:
        """Ask it to end, and return its output."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                raise AssertionError(f"{self.process.args} did not end:\n{self.log.read_text()}") from None
        return self.log.read_text()

    def kill(self) -> None:
        """Kill it and all the processes it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def ask(service: Service, path: str, caller: Caller) -> str:
    with contextlib.closing(http.client.HTTPConnection(HOST, service.port, timeout=TIMEOUT)) as connection:
        connection.request("POST", path, json.dumps({"text": "Hi"}), caller.headers)
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
    return body


class Receiver(Protocol):
    """A receiver of OTLP over HTTP."""

    endpoint: str


class Services:
    """Starts services that use the models at a URL and send their traces to one receiver."""

    def __init__(self, home: Path, models_url: str, collector: Receiver) -> None:
        self._home = home
        self._collector = collector
        self._started: list[Service] = []
        write_config(home, models_url, "gpt-4o-mini")

    def start(
        self, service: str, *command: str, path: Sequence[Path] = (FASTAPI,), launcher: bool = True, **env: str
    ) -> Service:
        """Start `opentelemetry-instrument COMMAND`, with a free port for `{port}`, and return immediately.

        :param launcher: False starts the command itself.
        """
        port = free_port()
        scripts = Path(sys.executable).parent
        arguments = [argument.replace("{port}", str(port)) for argument in command]
        started = Service(
            [
                *([str(scripts / "opentelemetry-instrument")] if launcher else []),
                str(scripts / arguments[0]),
                *arguments[1:],
            ],
            port,
            environment(str(self._home), self._collector.endpoint, "sk-test-0123456789", service)
            | {
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                "OTEL_LOGS_EXPORTER": "none",
                "PYTHONPATH": os.pathsep.join(map(str, path)),
            }
            | env,
            self._home,
        )
        self._started.append(started)
        return started

    def start_uvicorn(self, service: str, app: str, **options: Any) -> Service:
        """Start an application under uvicorn."""
        return self.start(service, "uvicorn", app, "--port={port}", "--log-level=warning", **options)

    def stop(self) -> None:
        """Stop the services that are still running."""
        for service in self._started:
            service.stop()


@contextlib.contextmanager
def collecting() -> Iterator[Traces]:
    traces = Traces()
    with serving(traces):
        yield traces
