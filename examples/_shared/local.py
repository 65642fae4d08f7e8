# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Shared code of the examples: their options, an environment on loopback, and the printing of their telemetry."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseServer
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from opentelemetry_instrumentation_modelforge.console import columns, has_color

from .collector import Collector
from .tree import Span, format_trees, span_details

PROGRAMS = ("celery", "opentelemetry-instrument", "uvicorn")


def argument_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option that every example with both variants has."""
    parser = argparse.ArgumentParser(prog=f"./run {name}", description=description)
    parser.add_argument("--programmatic", action="store_true", help="set up OpenTelemetry in code (programmatic.py)")
    return parser


# --- Where they run ---


@contextmanager
def loopback(name: str, models: Any, collector: Collector) -> Iterator[dict[str, str]]:
    """Run both servers, and yield an environment in which ModelForge and OpenTelemetry find them.

    :param models: a server with a `base_url`.
    """
    with serving(models), serving(collector), TemporaryDirectory(prefix=f"{name}-") as home:
        write_config(Path(home), models.base_url, "gpt-4o-mini")
        yield environment(home, collector.endpoint, "no-key-needed", name)


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Run a server in a thread of its own."""
    # The poll interval is how long shutdown() takes.
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def write_config(home: Path, base_url: str, model: str, **models: Mapping[str, str]) -> None:
    """Write the configuration that `modelforge config add` and `modelforge config use` would.

    :param models: the settings of the models that have any.
    """
    provider = {
        "llm_type": "openai_compatible",
        "base_url": base_url,
        "auth_strategy": "api_key",
        "models": {model: {}, **models},
    }
    config = {"providers": {"openai": provider}, "current_model": {"provider": "openai", "model": model}}
    path = home / ".config" / "model-forge" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config), encoding="utf-8")


def environment(home: str, endpoint: str, key: str, service: str) -> dict[str, str]:
    """Return this process's environment, with the example's telemetry and models in place of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODELFORGE_", "OTEL_"))}
    # A proxy that the network requires does not lead back to this machine.
    no_proxy = ",".join(filter(None, (os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "127.0.0.1")))
    return kept | {
        "HOME": home,
        "MODELFORGE_OPENAI_API_KEY": key,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_SERVICE_NAME": service,
    }


def listens(url: str) -> bool:
    """Return whether something listens at the host and the port of a URL."""
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), timeout=5).close()
    except OSError:
        return False
    return True


# --- What they run ---


def command(programmatic: bool) -> list[str]:
    """Return what a user would type to run an application."""
    return ["python", "programmatic.py"] if programmatic else ["opentelemetry-instrument", "python", "app.py"]


def run(command: Sequence[str], directory: Path, variables: Mapping[str, str]) -> int:
    """Run a command with the scripts of `directory`, and return its exit code."""
    with start(command, directory, variables) as process:
        status = process.wait()
    if status != 0:
        print(f"\nerror: {' '.join(command)} failed with exit code {status}", file=sys.stderr)
    return status if status >= 0 else 1


@contextmanager
def start(command: Sequence[str], directory: Path, variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the block runs, and wait for it at the end; kill it if the block raises.

    Programs are taken from this environment, and scripts from `directory`. The command has a process group of its own,
    so that an interrupt from the terminal reaches only this program. It writes through this program, so that only this
    program encounters a closed pipe.
    """
    with subprocess.Popen(
        [_located(word, directory) for word in command],
        # A directory without a .model-forge/config.json, which ModelForge would prefer.
        cwd=variables["HOME"],
        env={**variables, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        output = _Output(process)
        output.start()
        try:
            yield process
        except BaseException:
            _kill(process)
            # Popen closes the pipe next, which the thread still reads. A process that left the group may keep it open.
            output.join(5)
            raise
        output.join()
    if output.closed:
        raise BrokenPipeError


class _Output(threading.Thread):
    """A thread that copies a command's output to the standard output, and kills the command when nobody reads it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self.closed = False

    def run(self) -> None:
        assert self._process.stdout is not None
        try:
            for chunk in iter(self._process.stdout.read1, b""):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
        except BrokenPipeError:
            self.closed = True
            _kill(self._process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and the processes that it started."""
    if os.name == "posix":
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _located(word: str, directory: Path) -> str:
    if word == "python":
        return sys.executable
    if word in PROGRAMS:
        path = shutil.which(word, path=Path(sys.executable).parent)
        if path is None:
            raise SystemExit(f"error: there is no {word} beside {sys.executable}; `./run` installs it")
        return path
    return str(directory / word) if word.endswith(".py") else word


# --- The results ---


def print_trees(spans: Sequence[Span], details: Callable[[Span], Iterable[str]] = span_details) -> None:
    """Print the trees of spans, as wide as the terminal."""
    width, color, encoding = columns(sys.stdout), has_color(sys.stdout), sys.stdout.encoding
    print("", *format_trees(spans, details, width=width, color=color, encoding=encoding), sep="\n")


def check_spans(spans: Sequence[Span], expected: Iterable[str]) -> int:
    """Return 0, or 1 if fewer spans than expected have one of these names, and print the missing ones."""
    missing = Counter(expected) - Counter(span.name for span in spans)
    if not missing:
        return 0
    print(
        f"\nerror: {len(spans)} spans arrived, without {', '.join(missing.elements())}.\n"
        f"Is this package installed for {sys.executable}? `./run` installs it.",
        file=sys.stderr,
    )
    return 1


def without_parts(spans: Iterable[Span]) -> list[Span]:
    """Leave out the spans that the ASGI instrumentation creates in zero code for parts of requests and responses."""
    return [span for span in spans if not span.name.endswith((" http send", " http receive"))]
