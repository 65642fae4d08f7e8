# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that tests send telemetry to, and the requests that read it back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from support.services import TIMEOUT, Service

T = TypeVar("T")


class Program(Service):
    """A program that keeps its files in its own directory."""

    def __init__(self, command: Sequence[str], ports: Sequence[int], directory: Path, **variables: str) -> None:
        directory.mkdir()
        path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
        super().__init__(command, ports[0], {**os.environ, "PATH": path, **variables}, directory)
        self.ports = ports

    def stop(self, number: signal.Signals = signal.SIGKILL) -> str:
        """End it and the processes it has started. The default signal is for a program whose data is not needed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(TIMEOUT)
        return self.log.read_text()


def fetch(url: str, body: Any = None) -> Any:
    """Send a GET request, or POST a JSON body, and return the JSON answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return json.load(response)


def until(find: Callable[[], T | None]) -> T:
    """Return the result of `find` once it is not None."""
    deadline = time.monotonic() + TIMEOUT
    while (found := find()) is None:
        assert time.monotonic() < deadline, f"still nothing from {find}"
        time.sleep(0.1)
    return found
