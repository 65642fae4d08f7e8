# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""Services whose workers are forked from a process that may have imported the application and created its models."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.request import urlopen

import pytest

from support import SUPPORT
from support.calls import TIMEOUT
from support.providers import ProviderServer, Reply

for package in ("fastapi", "gunicorn", "uvicorn_worker"):
    pytest.importorskip(package)

from support.services import FASTAPI, MODEL, Caller, Services, ask, collecting, named, without_parts  # noqa: E402  # noqa: E402

WORKERS = 4
REQUESTS = 48
ROUTES = {
    "/chat": 4,
    "/sync/chat": 4,
    "/chat/stream": 4,
    "/sync/chat/stream": 4,
    # There is no get_llm in the request.
    "/imported/chat": 3,
    "/imported/sync/chat": 3,
}
"""The number of spans of a request."""


def await_workers(service: Any) -> None:
    """Wait until a second worker answers, because the first would answer all requests until then."""
    pids: set[bytes] = set()
    deadline = monotonic() + TIMEOUT
    while len(pids) < 2 and monotonic() < deadline:
        with urlopen(f"{service.url}/pid", timeout=TIMEOUT) as answer:
            pids.add(answer.read())


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["each imports", "preload"])
def test_spans_of_all_workers_arrive(tmp_path: Path, options: tuple[str, ...]) -> None:
    with ProviderServer() as provider, collecting() as collector:
        # The delay is long enough that one worker cannot answer all requests.
        provider.reply = Reply(delay=0.02)
        service = Services(tmp_path, f"{provider.url}/v1", collector).start(
            "chat",
            "gunicorn",
            "service_app:app",
            "--bind=127.0.0.1:{port}",
            f"--workers={WORKERS}",
            "--worker-class=uvicorn_worker.UvicornWorker",
            *options,
            path=(FASTAPI, SUPPORT),
            # Spans are only exported when a worker ends.
            OTEL_BSP_SCHEDULE_DELAY="600000",
            OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="otel,process",
        )
        service.wait()
        await_workers(service)
        callers = {Caller(): path for path in [*ROUTES] * (REQUESTS // len(ROUTES))}
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda item: ask(service, item[1], item[0]), callers.items()))
        log = service.stop(signal.SIGTERM)
    for caller, path in callers.items():
        spans = without_parts(collector.traces.get(caller.trace_id, []))
        assert len(spans) == ROUTES[path], (path, [span.name for span in spans], log)
        assert len({span.pid for span in spans}) == 1
    calls = [span for spans in collector.traces.values() for span in named(spans, MODEL)]
    assert len(calls) == REQUESTS
    pids = {span.pid for span in calls}
    # The resource must be that of the worker, not of the process it was forked from.
    assert len(pids) > 1
    assert service.process.pid not in pids
