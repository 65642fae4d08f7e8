# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Runs a Celery worker and prints the trace of a request, its tasks and their model calls."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kombu import Connection

from _shared.collector import Collector
from _shared.local import argument_parser, check_spans, loopback, print_trees, start
from _shared.server import ChatServer

HERE = Path(__file__).parent
EXPECTED_SPANS = ("answer request", "run/tasks.title", "modelforge.get_llm", "langchain.llm.invoke")
# A process for each task, so that every span depends on the flush in tasks.py. Workers do not communicate with each
# other, because SQLite as a broker does not support it.
WORKER = (
    *("worker", "--concurrency=2", "--max-tasks-per-child=1", "--loglevel=ERROR"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)
PATIENCE_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the producer's exit code, or 1 if telemetry is missing."""
    parser = argument_parser("celery", __doc__)
    parser.add_argument(
        "--redis", metavar="URL", help="use Redis for the queue and the results instead of SQLite files"
    )
    options = parser.parse_args(arguments)
    application, script = ("programmatic", "programmatic") if options.programmatic else ("tasks", "producer")
    instrument = () if options.programmatic else ("opentelemetry-instrument",)
    worker = (*instrument, "celery", "--quiet", f"--app={application}", *WORKER)
    producer = (*instrument, "python", f"{script}.py")
    collector = Collector()
    with loopback("celery", ChatServer(), collector) as variables:
        variables.update(_queue(variables["HOME"], options.redis))
        # Declared once here, because SQLite fails if two processes declare it at the same time.
        with Connection(variables["CELERY_BROKER_URL"]) as connection:
            connection.SimpleQueue("celery").close()
        with _running(worker, variables) as process:
            status = _produce(producer, variables, process)

    print_trees(collector.spans)
    return status or check_spans(collector.spans, EXPECTED_SPANS)


@contextmanager
def _running(command: Sequence[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker, and let it finish its tasks at the end."""
    print("$", *command, "&", flush=True)
    with start(command, HERE, variables) as worker:
        try:
            yield worker
        finally:
            worker.terminate()
            try:
                worker.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()


def _produce(command: Sequence[str], variables: Mapping[str, str], worker: subprocess.Popen[bytes]) -> int:
    """Run the producer, and return its exit code, or 1 if the worker that it waits for has ended."""
    print("$", *command, flush=True)
    with start(command, HERE, variables) as producer:
        while producer.poll() is None:
            if worker.poll() is not None:
                print(f"\nerror: the worker ended with exit code {worker.returncode}", file=sys.stderr)
                producer.kill()
                return 1
            time.sleep(0.05)
    return producer.returncode if producer.returncode >= 0 else 1


def _queue(home: str, redis: str | None) -> dict[str, str]:
    return {
        # Celery defines these two names.
        "CELERY_BROKER_URL": redis or f"sqla+sqlite:///{home}/broker.sqlite",
        "CELERY_RESULT_BACKEND": redis or f"db+sqlite:///{home}/results.sqlite",
        # For `--app`.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        # If installed, they create a span for each of Celery's own commands.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,sqlalchemy,sqlite3",
    }


if __name__ == "__main__":
    sys.exit(main())
