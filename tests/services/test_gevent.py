# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""gunicorn's gevent workers, with the configuration from the documentation."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import DOCS, SUPPORT
from support.documentation import python_examples
from support.environment import lacking
from support.examples import missing
from support.providers import ProviderServer, Reply

if reason := missing() or lacking("gevent", "flask", "gunicorn", instrumentors=("flask",)):
    pytest.skip(reason, allow_module_level=True)

from support.services import MODEL, SERVER, Caller, Services, ask, collecting, named

REQUESTS = 20


def configuration() -> str:
    (example,) = (found for found in python_examples(DOCS / "web.md") if "patch_all()" in found.source)
    return example.source


@pytest.mark.parametrize("workers", [1, 2])
def test_first_requests_that_arrive_together_are_answered_and_traced(tmp_path: Path, workers: int) -> None:
    config = tmp_path / "gunicorn.conf.py"
    config.write_text(configuration())
    with ProviderServer() as provider, collecting() as collector:
        # The delay is long enough that all requests are in flight at the same time.
        provider.reply = Reply(delay=0.2)
        service = Services(tmp_path, f"{provider.url}/v1", collector).start(
            "chat",
            "gunicorn",
            "flask_app:app",
            "--bind=127.0.0.1:{port}",
            "--worker-class=gevent",
            f"--workers={workers}",
            f"--config={config}",
            path=(SUPPORT / "web",),
            launcher=False,
            # Spans are only exported when a worker ends.
            OTEL_BSP_SCHEDULE_DELAY="600000",
        )
        try:
            service.wait()
            callers = [Caller() for _ in range(REQUESTS)]
            with ThreadPoolExecutor(REQUESTS) as pool:
                answers = list(pool.map(lambda caller: ask(service, "/view", caller), callers))
            log = service.stop(signal.SIGTERM)
        finally:
            # If it hangs, forked workers are left that terminating the master does not end.
            service.kill()
    assert all("there" in answer for answer in answers)
    for caller in callers:
        spans = collector.traces.get(caller.trace_id, [])
        assert len(spans) == 3, (spans, log)
        (request,) = (span for span in spans if span.kind == SERVER)
        (model,) = named(spans, MODEL)
        (http,) = named(spans, "POST")
        assert (request.parent_id, model.parent_id, http.parent_id) == (caller.span_id, request.span_id, model.span_id)
    assert "Error" not in log
    assert "Warning" not in log
