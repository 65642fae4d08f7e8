# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Celery: one trace from the producer through the queue to the model call in a child of a prefork worker."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from modelforge import ModelForgeRegistry
from opentelemetry.sdk.trace import SpanProcessor

from examples._shared.collector import read_metrics
from examples._shared.local import serving
from opentelemetry_instrumentation_modelforge import OpenTelemetryCallback
from support import DOCS, EXAMPLES, SUPPORT
from support.calls import EchoModel
from support.environment import lacking
from support.models import OPENAI_KEY, get_llm
from support.providers import ProviderServer, Reply
from support.services import CLIENT, GET_LLM, MODEL, TIMEOUT, Service, Services, Span, Traces, free_port, named

INTERNAL, PRODUCER, CONSUMER = 1, 4, 5
"""The other span kinds in OTLP."""


LACKING = lacking("celery", "redis", "sqlalchemy", instrumentors=("celery", "httpx", "modelforge"))

pytestmark = [
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
    pytest.mark.skipif(sys.platform == "win32", reason="Celery's prefork pool needs fork"),
]

WORKER = ("celery", "--app=celery_app", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat")
RECYCLING = ("--queues=recycled", "--concurrency=1", "--max-tasks-per-child=1")


# --- The queue ---


@contextmanager
def sqlite(directory: Path) -> Iterator[dict[str, str]]:
    from kombu import Connection

    broker = f"sqla+sqlite:///{directory}/broker.sqlite"
    # Otherwise the producer and the workers all create them, and all but one of the concurrent attempts fail.
    with Connection(broker) as connection:
        for name in ("celery", "recycled"):
            connection.SimpleQueue(name).close()
    yield {
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": f"db+sqlite:///{directory}/results.sqlite",
    }


@contextmanager
def redis(directory: Path) -> Iterator[dict[str, str]]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [program, f"--port {port}", "--bind 127.0.0.1", f"--dir {directory}", "--save ''"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            log = []
            for line in server.stdout:
                log.append(line)
                if "Ready to accept connections" in line:
                    break
            else:
                pytest.fail(f"redis-server did not start:\n{''.join(log)}")
            # Its output must be read, so that it never blocks on a full pipe.
            threading.Thread(target=server.stdout.read, daemon=True).start()
            url = f"redis://127.0.0.1:{port}/0"
            yield {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
        finally:
            server.terminate()


QUEUES: dict[str, Callable[[Path], Any]] = {"sqlite": sqlite, "redis": redis}


# --- The run that all tests inspect ---


class Script:
    """The model's answers."""

    def __init__(self) -> None:
        self._failed: Counter[str] = Counter()

    def __call__(self, body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        if text == "fail always" or (text == "fail twice" and self._failed[text] < 2):
            self._failed[text] += 1
            return Reply(status=500)
        return Reply(hold=text == "hold")


class Telemetry(Traces):
    """Also counts the calls in the metrics of all processes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def receive(self, path: str, body: bytes) -> bool:
        if path == "/v1/metrics":
            durations = [metric for metric in read_metrics(body) if metric.name == "gen_ai.client.operation.duration"]
            self.calls += sum(point.count or 0 for metric in durations for point in metric.points)
        return super().receive(path, body)


class Run:
    """The result: the traces by the names of their root spans, and the number of calls in the metrics."""

    def __init__(self, telemetry: Telemetry) -> None:
        traces = telemetry.traces.values()
        self.spans = [span for spans in traces for span in spans]
        self.traces = {span.name: spans for spans in traces for span in spans if not span.parent_id}
        self.calls = telemetry.calls


def keep_key(config: Path) -> None:
    """Put the key into the configuration file for ModelForge 2.0, which has no environment variable for it."""
    content = json.loads(config.read_text())
    content["providers"]["openai"]["auth_data"] = {"api_key": OPENAI_KEY}
    config.write_text(json.dumps(content))


@pytest.fixture(scope="module", params=list(QUEUES))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    home = tmp_path_factory.mktemp("celery")
    telemetry = Telemetry()
    with QUEUES[request.param](home) as queue, ProviderServer() as provider, serving(telemetry):
        provider.reply = Script()
        services = Services(home, f"{provider.url}/v1", telemetry)
        keep_key(home / ".config" / "model-forge" / "config.json")
        environment = queue | {
            # Nothing must be exported by schedule.
            "OTEL_BSP_SCHEDULE_DELAY": "3600000",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,sqlalchemy,sqlite3",
            "OTEL_PYTHON_MODELFORGE_BAGGAGE_KEYS": "tenant",
        }

        def start(service: str, *command: str) -> Service:
            return services.start(service, *command, path=(SUPPORT,), **environment)

        # The workers take longest to start, so they start before the producer, although the queue would wait.
        workers = [
            start("worker", *WORKER, "--concurrency=2", "--hostname=worker@%h"),
            start("recycled", *WORKER, *RECYCLING, "--hostname=recycled@%h"),
        ]
        producer = start("producer", "python", "-c", "import celery_app; celery_app.produce()")
        try:
            status = producer.process.wait(2 * TIMEOUT)
        finally:
            provider.release.set()
            for worker in workers:
                worker.process.terminate()
            for service in (producer, *workers):
                service.process.wait(TIMEOUT)
            log = "\n".join(service.stop() for service in (producer, *workers))
    assert status == 0, log
    assert "Telemetry fault" not in log
    assert "Failed to detach" not in log
    return Run(telemetry)


# --- The results ---

CALL = """\
  apply_async/celery_app.ask
    run/celery_app.ask
      langchain.llm.invoke
        POST
      modelforge.get_llm
"""
ATTEMPTS = """\
  apply_async/celery_app.persist
    run/celery_app.persist
      apply_async/celery_app.persist
        run/celery_app.persist
          apply_async/celery_app.persist
            run/celery_app.persist
              langchain.llm.invoke
                POST
              modelforge.get_llm
          langchain.llm.invoke
            POST
          modelforge.get_llm
      langchain.llm.invoke
        POST
      modelforge.get_llm
"""


def outline(spans: Sequence[Span], parent_id: str = "", indent: str = "") -> str:
    """Return the names of a trace's spans, each below its parent, in alphabetical order, as batches arrive in any."""
    children = sorted((span for span in spans if span.parent_id == parent_id), key=lambda span: span.name)
    return "".join(f"{indent}{span.name}\n{outline(spans, span.span_id, indent + '  ')}" for span in children)


def ancestors(span: Span, spans: Sequence[Span]) -> list[str]:
    """Return the names of a span's ancestors, the nearest first."""
    parents = {parent.span_id: parent for parent in spans}
    names: list[str] = []
    while (parent := parents.get(span.parent_id)) is not None:
        names.append(parent.name)
        span = parent
    return names


def test_every_span_arrives_once_and_in_the_trace_of_its_request(run: Run) -> None:
    assert sorted(run.traces) == ["chord", "given up", "group", "recycled", "retried", "single", "too slow"]
    for name, spans in run.traces.items():
        assert all(ancestors(span, spans)[-1:] == [name] for span in spans if span.parent_id)
    assert len({span.span_id for span in run.spans}) == len(run.spans) == sum(map(len, run.traces.values()))


def test_a_task_is_between_its_publisher_and_the_model(run: Run) -> None:
    spans = run.traces["single"]
    assert outline(spans) == "single\n" + CALL
    services = {span.name: (span.service, span.kind) for span in spans}
    assert services == {
        "single": ("producer", INTERNAL),
        "apply_async/celery_app.ask": ("producer", PRODUCER),
        "run/celery_app.ask": ("worker", CONSUMER),
        GET_LLM: ("worker", INTERNAL),
        MODEL: ("worker", CLIENT),
        "POST": ("worker", CLIENT),
    }


def test_a_group(run: Run) -> None:
    assert outline(run.traces["group"]) == "group\n" + 3 * CALL


def test_a_chord(run: Run) -> None:
    spans = run.traces["chord"]
    *header, body = sorted(ancestors(span, spans) for span in named(spans, MODEL))
    ask = ["run/celery_app.ask", "apply_async/celery_app.ask", "chord"]
    assert header == [ask, ask]
    assert body[:2] == ["run/celery_app.summarize", "apply_async/celery_app.summarize"]
    # The task that finds the header done publishes it: the header's last task, or Celery's own polling task.
    assert body[2:] == ask or body[2] == "run/celery.chord_unlock"


@pytest.mark.parametrize(("name", "successes"), [("retried", 1), ("given up", 0)])
def test_each_attempt_is_a_run_with_a_model_call(run: Run, name: str, successes: int) -> None:
    spans = run.traces[name]
    assert outline(spans) == f"{name}\n{ATTEMPTS}"
    errors = [span.attributes["error.type"] for span in named(spans, MODEL) if "error.type" in span.attributes]
    assert errors == (3 - successes) * ["openai.InternalServerError"]


def test_a_soft_time_limit_ends_the_call(run: Run) -> None:
    (span,) = named(run.traces["too slow"], MODEL)
    # OpenAI's client treats any interruption of a request as a failed connection.
    assert span.attributes["error.type"] == "openai.APIConnectionError"
    assert span.attributes["modelforge.outcome"] == "failed"
    assert outline(run.traces["too slow"]) == "too slow\n" + CALL


def test_a_child_recycled_after_each_task_loses_nothing(run: Run) -> None:
    spans = run.traces["recycled"]
    assert outline(spans) == "recycled\n" + 2 * CALL
    assert {span.service for span in named(spans, MODEL)} == {"recycled"}
    assert len({span.attributes["pid"] for span in named(spans, "run/celery_app.ask")}) == 2


def test_calls_are_linked_to_their_get_llm_and_carry_the_producers_baggage(run: Run) -> None:
    for name, spans in run.traces.items():
        get_llm = {span.parent_id: span.span_id for span in named(spans, GET_LLM)}
        for span in named(spans, MODEL):
            assert span.links == (get_llm[span.parent_id],)
            assert span.attributes["tenant"] == name


def test_the_metrics_of_all_children_arrive(run: Run) -> None:
    assert run.calls == len(named(run.spans, MODEL)) == 16


# --- The example and the guide ---

TREE = """\
answer request
├─ apply_async/tasks.title
│  └─ run/tasks.title
│     ├─ modelforge.get_llm [N]
│     └─ langchain.llm.invoke → [N]
│        └─ POST
└─ apply_async/tasks.title
   └─ run/tasks.title
      ├─ modelforge.get_llm [N]
      └─ langchain.llm.invoke → [N]
         └─ POST
"""


@pytest.mark.skipif(
    "enhanced" not in inspect.signature(ModelForgeRegistry.get_llm).parameters,
    reason="the example is written for ModelForge 2.1 and later",
)
@pytest.mark.parametrize("arguments", [(), ("--programmatic",)], ids=["zero-code", "programmatic"])
def test_example(arguments: Sequence[str]) -> None:
    result = subprocess.run(
        [sys.executable, EXAMPLES, "celery", *arguments],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "200"},
        # If something is broken, the example fails by itself earlier. This timeout allows for a slow machine.
        timeout=2 * TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    output, tree = result.stdout.rsplit("\n\n", 1)
    assert "\nDressing for Lisbon: What should I wear in Lisbon today?\n" in output
    labels = (line.split("  ·  ")[0] for line in tree.splitlines())
    assert "".join(re.sub(r"\[\d\]", "[N]", re.split(r"(?<=[^\s│])  +", label)[0]) + "\n" for label in labels) == TREE


def test_the_guide_shows_the_flush_of_the_example() -> None:
    source = (EXAMPLES / "celery" / "tasks.py").read_text()
    flush = source[source.index("@worker_process_shutdown.connect") :]
    assert flush in (DOCS / "celery.md").read_text()


# --- Processes and signals, without a queue ---

OPEN_WHILE_FORKING = """
import os, sys
from support.calls import EchoModel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor, OpenTelemetryCallback

provider = TracerProvider()
line = lambda span: f"{os.getpid()} {span.attributes['modelforge.outcome']}\\n"
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=line)))
ModelForgeInstrumentor().instrument(tracer_provider=provider)
import modelforge.registry

stream = EchoModel(callbacks=[OpenTelemetryCallback("openai", "gpt-4o-mini")]).stream("Hi")
next(stream)
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
list(stream)
print(os.getpid(), "parent")
"""


def test_a_forked_child_does_not_end_its_parents_calls(python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = python("-W", "ignore", "-c", OPEN_WHILE_FORKING)
    assert result.returncode == 0, result.stderr
    pid = result.stdout.split()[-2]
    assert result.stdout == f"{pid} completed\n{pid} parent\n"


UNPICKLE = """
import pathlib, pickle, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry_instrumentation_modelforge import ModelForgeInstrumentor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.name)))
trace.set_tracer_provider(provider)
ModelForgeInstrumentor().instrument()
pickle.loads(pathlib.Path(sys.argv[1]).read_bytes()).invoke("Hi")
"""


def test_an_unpickled_model_is_traced_even_if_nothing_else_imports_modelforge(
    instrumented: Any, registry: Any, python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    # It is the only one of the four model types that can be pickled.
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(get_llm(registry, "ollama", "llama3")))
    result = python("-W", "ignore", "-c", UNPICKLE, str(tmp_path / "model.pickle"))
    assert result.returncode == 0, result.stderr
    assert MODEL in result.stdout


class Interrupts(SpanProcessor):
    """Sends this process a signal when a model span starts or ends."""

    def __init__(self, event: str) -> None:
        self._event = event

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self._interrupt(span, "start")

    def on_end(self, span: Any) -> None:
        self._interrupt(span, "end")

    def _interrupt(self, span: Any, event: str) -> None:
        if event == self._event and span.name == MODEL:
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("event", ["start", "end"])
def test_a_soft_time_limit_propagates_through_the_instrumentation(
    instrument: Callable[..., Any], tracer_provider: Any, event: str
) -> None:
    from billiard.exceptions import SoftTimeLimitExceeded

    def soft_timeout_sighandler(signum: int, frame: Any) -> None:
        raise SoftTimeLimitExceeded

    tracer_provider.add_span_processor(Interrupts(event))
    instrument()
    llm = EchoModel(callbacks=[OpenTelemetryCallback("openai", "gpt-4o-mini")])
    before = signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            llm.invoke("Hi")
    finally:
        signal.signal(signal.SIGUSR1, before)
