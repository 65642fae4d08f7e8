# Copyright The opentelemetry-instrumentation-modelforge Authors
# SPDX-License-Identifier: Apache-2.0

"""A load test of the FastAPI example: many concurrent clients, some of which stream and some of which leave early.

`PYTHONPATH=.:tests python -m support.load --requests 5000 --clients 64` prints the result, and fails if a request does
not have exactly one correct trace.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from support.providers import ProviderServer, Reply, Request
from support.services import (
    CLIENT,
    GET_LLM,
    MODEL,
    SERVER,
    Service,
    Services,
    Span,
    Traces,
    collecting,
    named,
    without_parts,
)

ROUTES = ("/chat", "/sync/chat")


@dataclass(frozen=True)
class Ask:
    """One request: a third are streamed, half of each kind go to a synchronous route, and a tenth are cancelled."""

    number: int
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def streamed(self) -> bool:
        return self.number % 3 == 0

    @property
    def cancelled(self) -> bool:
        # This selects some streamed requests, and some requests to each kind of route.
        return self.number % 10 == 7

    @property
    def path(self) -> str:
        return ROUTES[self.number // 10 % 2] + ("/stream" if self.streamed else "")

    @property
    def text(self) -> str:
        return f"request {self.number}"

    @property
    def headers(self) -> dict[str, str]:
        return {
            "traceparent": f"00-{self.trace_id}-{self.span_id}-01",
            "baggage": f"request={self.number}",
        }

    @property
    def outcomes(self) -> set[str]:
        """The possible outcomes. Starlette runs a plain endpoint to completion, even if the client does not wait."""
        return {"cancelled", "closed"} if self.streamed and self.cancelled else {"completed"}


class Model:
    """Echoes the prompt. To clients that will leave early, it streams until they have disconnected."""

    def __init__(self) -> None:
        self.asked: dict[str, asyncio.Event] = {}
        """The events that are set once a request that will be cancelled has called the model."""
        self.loop: asyncio.AbstractEventLoop | None = None

    def __call__(self, body: Mapping[str, Any]) -> Reply:
        text = str(body["messages"][-1]["content"])
        if (asked := self.asked.get(text)) is None:
            return Reply(text=text)
        assert self.loop is not None
        self.loop.call_soon_threadsafe(asked.set)
        return Reply(chunks=["more "] * 1500, delay=0.01) if body.get("stream") else Reply(text=text)


async def _send(client: httpx.AsyncClient, ask: Ask, model: Model) -> None:
    body = {"text": ask.text}
    if ask.cancelled:
        model.asked[ask.text] = asyncio.Event()
    if ask.streamed:
        async with client.stream("POST", ask.path, json=body, headers=ask.headers) as response:
            assert response.status_code == httpx.codes.OK
            said = ""
            async for line in response.aiter_lines():
                said += line
                if ask.cancelled and "more" in said:
                    return
        assert all(f'"{word}"' in said for word in (ask.text.split()[0], f" {ask.number}")), said
        return
    if not ask.cancelled:
        response = await client.post(ask.path, json=body, headers=ask.headers)
        assert response.json() == {"text": ask.text}
        return
    sending = asyncio.ensure_future(client.post(ask.path, json=body, headers=ask.headers))
    await model.asked[ask.text].wait()
    sending.cancel()
    await asyncio.wait([sending])


async def _send_all(url: str, asks: Sequence[Ask], clients: int, model: Model) -> None:
    model.loop = asyncio.get_running_loop()
    remaining = iter(asks)
    # Each request has its own connection, so that none is sent on one that the service is about to close.
    limits = httpx.Limits(max_keepalive_connections=0)

    async def work() -> None:
        async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
            for ask in remaining:
                await _send(client, ask, model)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(work())


def mistakes(ask: Ask, spans: Sequence[Span], received: Sequence[Request]) -> list[str]:
    """Return the mistakes in the trace of a request."""
    spans = without_parts(spans)
    found = [f"{len(spans)} spans: {sorted(span.name for span in spans)}"] if len(spans) != 4 else []
    server = [span for span in spans if span.kind == SERVER]
    get_llm = named(spans, GET_LLM)
    model = named(spans, MODEL)
    post = [span for span in spans if span.kind == CLIENT and span.name != MODEL]
    for name, those, parent in (
        ("server", server, [ask.span_id]),
        ("get_llm", get_llm, [span.span_id for span in server]),
        ("model", model, [span.span_id for span in server]),
        ("POST", post, [span.span_id for span in model]),
    ):
        if [span.parent_id for span in those] != parent:
            found.append(f"the parent of {name} is {[span.parent_id for span in those]}, not {parent}")
    for span in (*get_llm, *model):
        if span.attributes.get("request") != str(ask.number):
            found.append(f"baggage {span.attributes.get('request')!r} on {span.name}")
    for span in model:
        if span.attributes.get("modelforge.outcome") not in ask.outcomes:
            found.append(f"outcome {span.attributes.get('modelforge.outcome')!r}")
        if span.links != tuple(other.span_id for other in get_llm):
            found.append(f"links {span.links}")
    sent = [request.headers.get("traceparent") for request in received]
    if sent != [f"00-{ask.trace_id}-{span.span_id}-01" for span in post]:
        found.append(f"the provider received {sent}")
    return found


@dataclass
class Result:
    """The result of a load test."""

    seconds: float
    asks: Sequence[Ask]
    mistakes: Mapping[int, Sequence[str]]
    strangers: int
    """The number of traces that belong to no request."""
    outcomes: Counter[str]
    log: str


def run(home: Path, requests: int, clients: int) -> Result:
    """Start the service, send the requests, stop it and check every trace."""
    with ProviderServer() as provider, collecting() as collector:
        provider.reply = model = Model()
        services = Services(home, f"{provider.url}/v1", collector)
        service: Service = services.start_uvicorn(
            "chat", "app:app", OTEL_PYTHON_MODELFORGE_BAGGAGE_KEYS="request", OTEL_BSP_SCHEDULE_DELAY="1000"
        )
        service.wait()
        asks = [Ask(number) for number in range(requests)]
        started = time.monotonic()
        try:
            asyncio.run(_send_all(service.url, asks, clients, model))
        except BaseException as error:
            error.add_note(f"{service.process.poll()=}\n{service.stop()}")
            raise
        seconds = time.monotonic() - started
        # It ends once the last answer has been sent and its spans have been exported.
        log = service.stop()
        return _result(seconds, asks, collector, provider, log)


def _result(seconds: float, asks: Sequence[Ask], collector: Traces, provider: ProviderServer, log: str) -> Result:
    traces = collector.traces
    received: dict[str, list[Request]] = {}
    for request in provider.requests:
        if request.body:
            received.setdefault(str(request.body["messages"][-1]["content"]), []).append(request)
    found: dict[int, list[str]] = {}
    for ask in asks:
        if wrong := mistakes(ask, traces.get(ask.trace_id, []), received.get(ask.text, [])):
            found[ask.number] = wrong
    return Result(
        seconds=seconds,
        asks=asks,
        mistakes=found,
        strangers=len(traces.keys() - {ask.trace_id for ask in asks}),
        outcomes=Counter(
            str(span.attributes.get("modelforge.outcome")) for spans in traces.values() for span in named(spans, MODEL)
        ),
        log=log,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-") as home:
        result = run(Path(home), options.requests, options.clients)
    streamed = sum(ask.streamed for ask in result.asks)
    cancelled = sum(ask.cancelled for ask in result.asks)
    print(
        f"{options.requests:,} requests by {options.clients} clients in {result.seconds:.1f} s"
        f" ({options.requests / result.seconds:.0f} a second); {streamed:,} streamed, {cancelled:,} cancelled",
        f"model spans by outcome: {dict(result.outcomes)}",
        f"requests with a wrong trace: {len(result.mistakes)}; traces of no request: {result.strangers}",
        *(f"  {number}: {'; '.join(wrong)}" for number, wrong in list(result.mistakes.items())[:20]),
        f"log: {result.log[-4000:] or 'empty'}",
        sep="\n",
    )
    return 1 if result.mistakes or result.strangers else 0


if __name__ == "__main__":
    sys.exit(main())
