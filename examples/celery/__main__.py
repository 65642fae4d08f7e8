"""Runs the producer and a prefork worker under OpenTelemetry and prints the trace they sent."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "quickstart"))

from collector import Collector  # noqa: E402
from local import environment, serving, write_config  # noqa: E402
from server import ChatServer  # noqa: E402
from tree import WIDTH, format_trees  # noqa: E402

EXPECTED_SPANS = ("answer request", "run/tasks.title", "modelforge.get_llm", "langchain.llm.invoke")
# A process for each task, so that every span depends on the flush in tasks.py. And no talk among workers: the broker in
# SQLite can't carry it, and there is one worker.
WORKER = (
    *("worker", "--concurrency=2", "--max-tasks-per-child=1", "--loglevel=ERROR"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)
PATIENCE_SECONDS = 30


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the producer's exit code, or 1 where telemetry is missing."""
    options = _parse(arguments)
    chat, collector = ChatServer(), Collector()
    with serving(chat), serving(collector), tempfile.TemporaryDirectory(prefix="celery-") as home:
        write_config(Path(home), chat.base_url, "gpt-4o-mini")
        application, script = ("programmatic", "programmatic") if options.programmatic else ("tasks", "producer")
        worker = _command(options.programmatic, "celery", "--quiet", f"--app={application}", *WORKER)
        producer = _command(options.programmatic, "python", f"{script}.py")
        variables = environment(home, collector.endpoint, "no-key-needed", "celery") | _queue(home, options.redis)
        # In a directory without a .model-forge/config.json, which ModelForge would prefer.
        with _running(worker, home, variables):
            print(f"$ {' '.join(producer)}", flush=True)
            status = subprocess.run(_located(producer), check=False, cwd=home, env=variables).returncode

    print("", *format_trees(collector.spans, shutil.get_terminal_size((WIDTH, 0)).columns), sep="\n")
    missing = [name for name in EXPECTED_SPANS if name not in {span.name for span in collector.spans}]
    if status == 0 and missing:
        print(f"\nerror: no span named {' or '.join(missing)} arrived at {collector.endpoint}", file=sys.stderr)
        return 1
    return status if status >= 0 else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python examples/celery", description=__doc__)
    parser.add_argument("--programmatic", action="store_true", help="set OpenTelemetry up in code: programmatic.py")
    parser.add_argument("--redis", metavar="URL", help="for the queue and the results, instead of SQLite files")
    return parser.parse_args(arguments)


@contextmanager
def _running(command: Sequence[str], home: str, variables: Mapping[str, str]) -> Iterator[None]:
    """Run a worker, and in the end let it finish what it is doing."""
    print(f"$ {' '.join(command)} &", flush=True)
    with subprocess.Popen(_located(command), cwd=home, env=variables) as worker:
        try:
            yield
        finally:
            worker.terminate()
            try:
                worker.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.kill()


def _command(programmatic: bool, *command: str) -> list[str]:
    """Return what a user would type."""
    return list(command) if programmatic else ["opentelemetry-instrument", *command]


def _located(command: Sequence[str]) -> list[str]:
    """Return a command with the paths of this environment's programs and of this directory's scripts."""
    programs = {"python": sys.executable}
    for name in ("celery", "opentelemetry-instrument"):
        programs[name] = shutil.which(name, path=Path(sys.executable).parent) or name
    return [str(HERE / word) if word.endswith(".py") else programs.get(word, word) for word in command]


def _queue(home: str, redis: str | None) -> dict[str, str]:
    return {
        # Celery's own names.
        "CELERY_BROKER_URL": redis or f"sqla+sqlite:///{home}/broker.sqlite",
        "CELERY_RESULT_BACKEND": redis or f"db+sqlite:///{home}/results.sqlite",
        # For `--app`.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        # Where they are installed, they have a span for each of Celery's own commands.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,sqlalchemy,sqlite3",
    }


if __name__ == "__main__":
    sys.exit(main())
