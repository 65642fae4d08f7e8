# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A gateway that identifies the tenant of a request, and the chat service that it calls, in one process."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from opentelemetry import baggage, context, trace
from service import app

tracer = trace.get_tracer(__name__)


def ask(url: str, tenant: str, user: str, *questions: str) -> None:
    """Ask the service on behalf of a tenant. HTTPX's instrumentation sends the baggage header."""
    token = context.attach(baggage.set_baggage("tenant", tenant))
    try:
        with tracer.start_as_current_span("ask"):
            titles = httpx.post(f"{url}/titles", json=questions, headers={"x-user": user}, timeout=30).json()
    finally:
        context.detach(token)
    print(f"{tenant}, {user}: {', '.join(titles)}")


@contextmanager
def serving() -> Iterator[str]:
    """Run the service in a thread, and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise SystemExit("error: the service did not start")
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()


def main() -> None:
    """Start the service and send it requests."""
    # ModelForge writes its log to standard output.
    logging.getLogger("modelforge").setLevel(logging.WARNING)
    with serving() as url:
        ask(url, "acme", "ada", "What should I wear in Lisbon?", "Do I need an umbrella?")
        ask(url, "globex", "grace", "Is it cold in Lisbon?")


if __name__ == "__main__":
    main()
